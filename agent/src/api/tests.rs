//! Failure injection: a server that answers what a test has written down. The real API server is used end to end.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use futures::StreamExt as _;
use http::StatusCode;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node, ObjectReference};
use serde_json::{Value, json};

use super::*;

/// One answer: to requests whose method and path with query begin with this.
struct Answer {
    to: &'static str,
    code: u16,
    body: Value,
    /// Keeps the body open after `body`, as a watch does.
    open: bool,
}

fn answer(to: &'static str, code: u16, body: Value) -> Answer {
    Answer {
        to,
        code,
        body,
        open: false,
    }
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message})
}

#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<Answer>>,
    asked: Mutex<Vec<(String, Value)>>,
}

impl Script {
    fn asked(&self) -> Vec<(String, Value)> {
        self.asked.lock().unwrap().clone()
    }

    async fn serve(self: Arc<Self>, request: http::Request<Body>) -> Response {
        let line = format!("{} {}", request.method(), request.uri());
        let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        self.asked.lock().unwrap().push((line.clone(), body));
        let mut answers = self.answers.lock().unwrap();
        let Some(index) = answers.iter().position(|answer| line.starts_with(answer.to)) else {
            return respond(404, status(404, "NotFound", "not in the script"), false);
        };
        let answer = answers.remove(index).unwrap();
        respond(answer.code, answer.body, answer.open)
    }
}

fn respond(code: u16, body: Value, open: bool) -> Response {
    let text = format!("{body}\n");
    let body = if open {
        let first = futures::stream::iter([Ok::<_, std::io::Error>(text)]);
        Body::from_stream(first.chain(futures::stream::pending()))
    } else {
        Body::from(text)
    };
    Response::builder()
        .status(StatusCode::from_u16(code).unwrap())
        .header("content-type", "application/json")
        .body(body)
        .unwrap()
}

/// A server with these answers, and the funnel to it.
async fn scripted(answers: Vec<Answer>) -> (Arc<Script>, Arc<Api>) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let script = Arc::new(Script {
        answers: Mutex::new(answers.into()),
        ..Script::default()
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = Arc::clone(&script);
    let app = axum::Router::new().fallback(move |request| Arc::clone(&serving).serve(request));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let mut config = kube::Config::new(format!("http://{address}").parse().unwrap());
    // Never used over plain HTTP; saves a look for the machine's roots.
    config.root_cert = Some(Vec::new());
    (script, Api::new(Session::new(config).unwrap()))
}

fn config_map(value: &str) -> Value {
    json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "c", "namespace": "n", "uid": "u",
        "resourceVersion": "1"}, "data": {"key": value}})
}

fn list(items: &[Value]) -> Value {
    json!({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items})
}

const C: &str = "GET /api/v1/namespaces/n/configmaps/c";
const LIST: &str = "GET /api/v1/namespaces/n/configmaps?&fieldSelector";
const WATCH: &str = "GET /api/v1/namespaces/n/configmaps?&watch=true";

#[tokio::test]
async fn answers_become_typed_errors() {
    let (_, api) = scripted(vec![
        answer(C, 200, config_map("v")),
        answer(C, 404, status(404, "NotFound", "configmaps \"c\" not found")),
        answer(C, 403, status(403, "Forbidden", "configmaps \"c\" is forbidden")),
        answer(C, 500, status(500, "InternalError", "etcd is away")),
        answer(C, 401, status(401, "Unauthorized", "Unauthorized")),
        answer(C, 200, json!("no object")),
    ])
    .await;
    let get = || api.get::<ConfigMap>(Some("n"), "c");
    assert_eq!(get().await.unwrap().unwrap().data.unwrap()["key"], "v");
    assert!(get().await.unwrap().is_none());
    let error = get().await.unwrap_err();
    assert!(error.is_forbidden() && !error.is_transient());
    assert_eq!(
        error.to_string(),
        "get ConfigMap n/c: configmaps \"c\" is forbidden (403 Forbidden)"
    );
    assert_eq!(error.message(), "configmaps \"c\" is forbidden");
    assert!(get().await.unwrap_err().is_transient());
    assert!(get().await.unwrap_err().is_unauthorized());
    assert!(matches!(get().await.unwrap_err(), Error::Malformed { .. }));
}

#[tokio::test]
async fn an_api_server_that_is_away_is_unreachable_and_a_node_without_one_standalone() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let mut config = kube::Config::new(format!("http://{free}").parse().unwrap());
    config.root_cert = Some(Vec::new());
    let api = Api::new(Session::new(config).unwrap());
    let error = api.get::<Node>(None, "n1").await.unwrap_err();
    assert!(error.is_transient());
    assert!(
        error
            .to_string()
            .starts_with("get Node n1: the API server cannot be reached: "),
        "{error}"
    );
    assert!(error.to_string().contains("refused"), "{error}");

    let error = Api::standalone().get::<Node>(None, "n1").await.unwrap_err();
    assert!(matches!(error, Error::Standalone { .. }) && !error.is_transient());
}

#[tokio::test]
async fn writes_go_to_the_right_place() {
    let (script, api) = scripted(vec![
        answer("POST /api/v1/namespaces/n/configmaps", 201, config_map("new")),
        answer(
            "PATCH /api/v1/nodes/n1/status",
            409,
            status(409, "Conflict", "changed"),
        ),
        answer(
            "POST /api/v1/namespaces/n/serviceaccounts/sa/token",
            201,
            json!({"kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "spec": {"audiences": []},
            "status": {"token": "t", "expirationTimestamp": "2030-01-01T00:00:00Z"}}),
        ),
    ])
    .await;
    let made: ConfigMap = serde_json::from_value(config_map("new")).unwrap();
    assert_eq!(
        api.create("api.x", Some("n"), &made)
            .await
            .unwrap()
            .metadata
            .uid
            .as_deref(),
        Some("u")
    );
    let change = Patch::Strategic(json!({"status": {}}));
    let error = api
        .patch_status::<Node, _>("api.x", None, "n1", &change)
        .await
        .unwrap_err();
    assert!(error.is_conflict() && !error.is_already_exists());
    let token = api.token("n", "sa", &TokenRequest::default()).await.unwrap();
    assert_eq!(token.status.unwrap().token.as_deref(), Some("t"));
    assert_eq!(script.asked()[0].1["data"]["key"], "new");
}

#[tokio::test]
async fn an_object_refused_at_first_is_asked_for_again() {
    let watched = |value: &str| Answer {
        to: WATCH,
        code: 200,
        body: json!({"type": "MODIFIED", "object": config_map(value)}),
        open: true,
    };
    let (script, api) = scripted(vec![
        answer(LIST, 403, status(403, "Forbidden", "no relationship found")),
        answer(LIST, 200, list(&[config_map("old")])),
        watched("new"),
    ])
    .await;
    let objects = Objects::start(api, "n1");
    let mut changes = objects.changes();
    let key = Key::ConfigMap("n".into(), "c".into());
    objects.use_by("pod-1", [key.clone()]);
    let seen = objects.config_map("n", "c").await.unwrap().unwrap();
    assert!(["old", "new"].contains(&seen.data.as_ref().unwrap()["key"].as_str()));
    assert_eq!(changes.recv().await.unwrap(), key);
    let seen = objects.config_map("n", "c").await.unwrap().unwrap();
    assert_eq!(seen.data.as_ref().unwrap()["key"], "new");
    assert_eq!(objects.users_of(&key), ["pod-1"]);
    let asked = script.asked().len();
    // Another user shares the watch; the last one to go ends it.
    objects.use_by("pod-2", [key.clone()]);
    objects.release("pod-1");
    assert!(objects.config_map("n", "c").await.unwrap().is_some());
    assert_eq!(
        script
            .asked()
            .iter()
            .filter(|(line, _)| line.starts_with(LIST))
            .count(),
        2
    );
    assert!(script.asked().len() >= asked);
    objects.release("pod-2");
    assert!(objects.users_of(&key).is_empty());
}

#[tokio::test]
async fn an_object_that_is_not_there_is_known_not_to_be() {
    let (_, api) = scripted(vec![answer(LIST, 200, list(&[]))]).await;
    let objects = Objects::start(api, "n1");
    objects.use_by("pod-1", [Key::ConfigMap("n".into(), "c".into())]);
    assert!(objects.config_map("n", "c").await.unwrap().is_none());
}

#[tokio::test]
async fn a_standalone_nodes_caches_are_empty_and_synced() {
    let objects = Objects::start(Api::standalone(), "n1");
    objects.wait_for_services().await;
    assert!(objects.services().is_empty() && objects.node().is_none());
    objects.use_by("pod-1", [Key::ConfigMap("n".into(), "c".into())]);
    assert!(matches!(
        objects.config_map("n", "c").await,
        Err(Error::Standalone { .. })
    ));
}

#[tokio::test]
async fn events_are_posted_then_counted_then_posted_anew() {
    let posted = "POST /api/v1/namespaces/n/events";
    let counted = "PATCH /api/v1/namespaces/n/events/";
    let event = json!({"kind": "Event", "apiVersion": "v1", "metadata": {"name": "e"}, "involvedObject": {}});
    let (script, api) = scripted(vec![
        answer(posted, 201, event.clone()),
        answer(counted, 200, event.clone()),
        answer(counted, 404, status(404, "NotFound", "expired")),
        answer(posted, 201, event),
    ])
    .await;
    let events = Events::start_limited(api, "n1", 0, 0);
    let object = ObjectReference {
        name: Some("p".into()),
        namespace: Some("n".into()),
        ..ObjectReference::default()
    };
    for _ in 0..3 {
        events.record(&object, EventKind::Warning, "BackOff", "again");
    }
    let asked = async {
        while script.asked().len() < 4 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), asked)
        .await
        .unwrap();
    let asked = script.asked();
    let first: Event = serde_json::from_value(asked[0].1.clone()).unwrap();
    assert_eq!((first.count, first.type_.as_deref()), (Some(1), Some("Warning")));
    assert_eq!(first.source.unwrap().component.as_deref(), Some("kubelet"));
    assert_eq!(first.reporting_instance.as_deref(), Some("n1"));
    assert!(first.metadata.name.unwrap().starts_with("p."));
    assert_eq!(asked[1].1["count"], 2);
    assert!(asked[2].0.starts_with("PATCH"));
    assert_eq!(
        (asked[3].0.starts_with("POST"), asked[3].1["count"].clone()),
        (true, json!(3))
    );
}

#[tokio::test]
async fn a_new_identity_ends_connections_and_watches() {
    let watch = || Answer {
        to: WATCH,
        code: 200,
        body: json!({"type": "MODIFIED", "object": config_map("v")}),
        open: true,
    };
    let (_, api) = scripted(vec![watch(), answer(C, 200, config_map("v"))]).await;
    let client = api.client().unwrap();
    let maps = kube::Api::<ConfigMap>::namespaced(client, "n");
    let mut stream = maps
        .watch(&kube::api::WatchParams::default(), "1")
        .await
        .unwrap()
        .boxed();
    assert!(stream.next().await.unwrap().is_ok());
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    let provider = rustls::crypto::ring::default_provider();
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let certified =
        rustls::sign::CertifiedKey::from_der(vec![certificate.der().clone()], private, &provider).unwrap();
    api.set_identity(certified);
    let ended = tokio::time::timeout(Duration::from_secs(20), stream.next())
        .await
        .unwrap();
    assert!(ended.is_none_or(|event| event.is_err()), "the watch goes on");
    assert!(api.get::<ConfigMap>(Some("n"), "c").await.unwrap().is_some());
}
