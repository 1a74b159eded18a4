//! The server over real TLS connections on loopback: certificates made here, the API server's answers given by a fake.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Mutex;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::Method;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::host::ContainerLog;
use super::reviews::User;
use super::tls::Error as TlsError;
use super::*;
use crate::config::KubeletConfiguration;

/// A CA, its file and its certificates.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

type Credential = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Ca {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    fn issue(&self, user: &str, group: &str, usage: ExtendedKeyUsagePurpose) -> Credential {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, user);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
    }

    fn client(&self, user: &str) -> Option<Credential> {
        Some(self.issue(user, "group-of-certificate", ExtendedKeyUsagePurpose::ClientAuth))
    }
}

/// The API server: tokens with their users, and who may do what. Counts what it is asked.
#[derive(Default)]
struct FakeReviews {
    tokens: BTreeMap<String, User>,
    /// User, verb, subresource.
    allowed: Vec<(&'static str, &'static str, &'static str)>,
    down: bool,
    asked: Mutex<Vec<String>>,
}

impl Reviews for FakeReviews {
    fn token<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<User>, String>> {
        self.asked.lock().unwrap().push(format!("token {token}"));
        let answer = if self.down {
            Err("down".to_owned())
        } else {
            Ok(self.tokens.get(token).cloned())
        };
        async move { answer }.boxed()
    }

    fn access<'a>(
        &'a self,
        user: &'a User,
        verb: &'a str,
        subresource: &'a str,
    ) -> BoxFuture<'a, Result<bool, String>> {
        self.asked.lock().unwrap().push(format!(
            "{} {verb} {subresource} {}",
            user.name,
            user.groups.join(",")
        ));
        let asked = (user.name.as_str(), verb, subresource);
        let allowed = self.allowed.contains(&asked);
        let answer = if self.down {
            Err("down".to_owned())
        } else {
            Ok(allowed)
        };
        async move { answer }.boxed()
    }
}

#[derive(Default)]
struct FakeHost {
    pods: Vec<Arc<Pod>>,
    logs: BTreeMap<String, ContainerLog>,
    hangs: bool,
}

impl Host for FakeHost {
    fn pods(&self) -> Vec<Arc<Pod>> {
        self.pods.clone()
    }

    fn container_log<'a>(&'a self, container_id: &'a str) -> BoxFuture<'a, Option<ContainerLog>> {
        async move { self.logs.get(container_id).cloned() }.boxed()
    }

    fn sync_loop(&self) -> Result<(), String> {
        if self.hangs {
            Err("no progress for 5 m".to_owned())
        } else {
            Ok(())
        }
    }
}

/// A running server and its surroundings.
struct Lab {
    directory: tempfile::TempDir,
    server_ca: Ca,
    client_ca: Ca,
    config: KubeletConfiguration,
    identity: Arc<Identity>,
    reviews: Arc<FakeReviews>,
    host: FakeHost,
}

struct Running {
    address: SocketAddr,
    server_ca: CertificateDer<'static>,
    stop: CancellationToken,
    done: tokio::task::JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl Lab {
    fn new(reviews: FakeReviews) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (server_ca, client_ca) = (Ca::new("servers"), Ca::new("clients"));
        let file = directory.path().join("ca.crt");
        std::fs::write(&file, client_ca.certificate.pem()).unwrap();
        let mut config = KubeletConfiguration {
            pod_logs_dir: path_text(directory.path()),
            ..Default::default()
        };
        config.authentication.x509.client_ca_file = path_text(&file);
        let identity = Identity::new("", &[]).unwrap();
        let (chain, key) = server_ca.issue(
            "system:node:n",
            "system:nodes",
            ExtendedKeyUsagePurpose::ServerAuth,
        );
        identity.set(chain, key).unwrap();
        Self {
            directory,
            server_ca,
            client_ca,
            config,
            identity,
            reviews: reviews.into(),
            host: FakeHost::default(),
        }
    }

    async fn start(self) -> Running {
        let listener = bind("127.0.0.1", 0).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::new(&self.config, self.identity, self.reviews, Arc::new(self.host)).unwrap();
        let stop = CancellationToken::new();
        let done = tokio::spawn(server.serve(listener, stop.clone()));
        let server_ca = self.server_ca.certificate.der().clone();
        Running {
            address,
            server_ca,
            stop,
            done,
            _directory: self.directory,
        }
    }
}

fn path_text(path: &std::path::Path) -> String {
    path.to_str().unwrap().to_owned()
}

struct Answer {
    status: u16,
    body: String,
}

impl Running {
    async fn connect(
        &self,
        client: Option<Credential>,
    ) -> hyper::client::conn::http1::SendRequest<Empty<bytes::Bytes>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.server_ca.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match client {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        sender
    }

    async fn ask(
        &self,
        client: Option<Credential>,
        token: Option<&str>,
        method: Method,
        path: &str,
    ) -> Answer {
        let mut sender = self.connect(client).await;
        let mut request = Request::builder().method(method).uri(path).header("host", "node");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let response = sender
            .send_request(request.body(Empty::new()).unwrap())
            .await
            .unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Answer {
            status,
            body: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(None, Some("good"), Method::GET, path).await
    }
}

fn user(name: &str) -> User {
    User {
        name: name.to_owned(),
        ..User::default()
    }
}

/// A token `good` of a user who may do all that is served.
fn reviews() -> FakeReviews {
    let allowed = vec![
        ("reader", "get", "proxy"),
        ("reader", "get", "pods"),
        ("reader", "get", "healthz"),
    ];
    FakeReviews {
        tokens: BTreeMap::from([("good".to_owned(), user("reader"))]),
        allowed,
        ..FakeReviews::default()
    }
}

/// Every kind of credential, with and without anonymous callers.
#[tokio::test(flavor = "multi_thread")]
async fn authentication_matrix() {
    for anonymous in [false, true] {
        let mut lab = Lab::new(FakeReviews {
            allowed: vec![
                ("reader", "get", "pods"),
                ("by-certificate", "get", "pods"),
                ("system:anonymous", "get", "pods"),
            ],
            ..reviews()
        });
        lab.config.authentication.anonymous.enabled = anonymous;
        let good = || lab.client_ca.client("by-certificate");
        let nameless = lab.client_ca.client("");
        let not_for_clients = Some(lab.client_ca.issue(
            "by-certificate",
            "g",
            ExtendedKeyUsagePurpose::ServerAuth,
        ));
        let foreign = Ca::new("clients").client("by-certificate");
        let cases = [
            ("certificate", good(), None, 200),
            ("certificate and bad token", good(), Some("bad"), 200),
            ("token", None, Some("good"), 200),
            ("foreign certificate and token", foreign, Some("good"), 200),
            ("bad token", None, Some("bad"), 401),
            (
                "foreign certificate",
                Ca::new("clients").client("by-certificate"),
                None,
                401,
            ),
            ("certificate not for clients", not_for_clients, None, 401),
            ("certificate without name", nameless, None, 401),
            ("nothing", None, None, if anonymous { 200 } else { 401 }),
        ];
        let reviews = Arc::clone(&lab.reviews);
        let running = lab.start().await;
        for (case, client, token, status) in cases {
            let answer = running.ask(client, token, Method::GET, "/pods").await;
            assert_eq!(
                answer.status, status,
                "{case}, anonymous {anonymous}: {}",
                answer.body
            );
            if status == 401 {
                assert_eq!(answer.body, "Unauthorized");
            }
        }
        let asked = reviews.asked.lock().unwrap();
        assert!(
            asked.contains(&"by-certificate get pods group-of-certificate,system:authenticated".to_owned()),
            "{asked:?}"
        );
        // Tokens are asked for once, good or bad, although both came twice or more.
        assert_eq!(
            asked.iter().filter(|line| line.starts_with("token good")).count(),
            1
        );
        assert_eq!(
            asked.iter().filter(|line| line.starts_with("token bad")).count(),
            1
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_in_while_the_api_server_is_down() {
    let lab = Lab::new(FakeReviews {
        down: true,
        ..reviews()
    });
    let client = lab.client_ca.client("somebody");
    let running = lab.start().await;
    assert_eq!(running.get("/pods").await.status, 401);
    let answer = running.ask(client, None, Method::GET, "/pods").await;
    assert_eq!(answer.status, 500);
    assert_eq!(
        answer.body,
        "Authorization error (user=somebody, verb=get, resource=nodes, subresource=pods)"
    );
}

/// Routes by verbs: each subresource allowed alone opens its own paths and no other.
#[tokio::test(flavor = "multi_thread")]
async fn authorization_matrix() {
    let paths = [
        ("/pods", "pods", 200),
        ("/healthz", "healthz", 200),
        ("/healthz/ping", "healthz", 200),
        ("/healthz/nothing", "healthz", 404),
        ("/metrics", "metrics", 404),
        ("/stats/summary", "stats", 404),
        ("/logs/x", "log", 404),
        ("/nothing", "proxy", 404),
        ("/containerLogs/ns/none/c", "proxy", 404),
        ("/exec/ns/pod/c", "proxy", 404),
    ];
    for granted in ["pods", "healthz", "metrics", "stats", "log", "proxy", "none"] {
        let lab = Lab::new(FakeReviews {
            allowed: vec![("reader", "get", granted)],
            ..reviews()
        });
        let running = lab.start().await;
        for (path, own, served) in paths {
            let proxied = granted == "proxy" && ["pods", "healthz"].contains(&own);
            let expected = if own == granted || proxied { served } else { 403 };
            let answer = running.get(path).await;
            assert_eq!(answer.status, expected, "{path} with {granted}: {}", answer.body);
        }
        // A right to get is none to create.
        let answer = running.ask(None, Some("good"), Method::POST, "/pods").await;
        assert_eq!(answer.status, 403);
        assert_eq!(
            answer.body,
            "Forbidden (user=reader, verb=create, resource=nodes, subresource(s)=[pods proxy])\n"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_kept_and_always_allow_asks_nobody() {
    let lab = Lab::new(reviews());
    let asked = Arc::clone(&lab.reviews);
    let running = lab.start().await;
    for _ in 0..3 {
        assert_eq!(running.get("/pods").await.status, 200);
        assert_eq!(running.get("/metrics").await.status, 403);
    }
    let count = |text: &str| {
        asked
            .asked
            .lock()
            .unwrap()
            .iter()
            .filter(|line| line.starts_with(text))
            .count()
    };
    assert_eq!((count("reader get pods"), count("reader get metrics")), (1, 1));

    let mut lab = Lab::new(FakeReviews {
        down: true,
        ..FakeReviews::default()
    });
    lab.config.authorization.mode = "AlwaysAllow".to_owned();
    lab.config.authentication.anonymous.enabled = true;
    let running = lab.start().await;
    assert_eq!(running.ask(None, None, Method::GET, "/pods").await.status, 200);
    assert_eq!(running.ask(None, None, Method::POST, "/pods").await.status, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn client_ca_is_read_again_when_it_changes() {
    let lab = Lab::new(FakeReviews {
        allowed: vec![("by-certificate", "get", "pods")],
        ..reviews()
    });
    let file = lab.directory.path().join("ca.crt");
    let old = lab
        .client_ca
        .client("by-certificate")
        .map(|(chain, key)| (chain, key.secret_der().to_vec()));
    let old = || {
        old.clone()
            .map(|(chain, key)| (chain, PrivateKeyDer::Pkcs8(key.into())))
    };
    let running = lab.start().await;
    assert_eq!(running.ask(old(), None, Method::GET, "/pods").await.status, 200);
    // Damaged: the last good content stays.
    std::fs::write(&file, "no PEM").unwrap();
    assert_eq!(running.ask(old(), None, Method::GET, "/pods").await.status, 200);
    let next = Ca::new("next");
    std::fs::write(&file, next.certificate.pem()).unwrap();
    assert_eq!(running.ask(old(), None, Method::GET, "/pods").await.status, 401);
    assert_eq!(
        running
            .ask(next.client("by-certificate"), None, Method::GET, "/pods")
            .await
            .status,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_certificate_every_answer_names_the_pending_request() {
    let mut lab = Lab::new(reviews());
    let identity = Identity::new(
        "VersionTLS13",
        &["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305".to_owned()],
    )
    .unwrap();
    identity.set_pending("csr-x7k2p");
    lab.identity = Arc::clone(&identity);
    let (chain, key) = lab
        .server_ca
        .issue("n", "system:nodes", ExtendedKeyUsagePurpose::ServerAuth);
    let asked = Arc::clone(&lab.reviews);
    let running = lab.start().await;
    // The certificate of the moment is vouched for by nobody, so this client does not look.
    let answer = blind_get(running.address).await;
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    assert!(
        answer.contains("kubectl certificate approve csr-x7k2p"),
        "{answer}"
    );
    assert!(asked.asked.lock().unwrap().is_empty());
    identity.set(chain, key).unwrap();
    assert_eq!(running.get("/pods").await.status, 200);
    // A renewal that waits takes nothing away.
    identity.set_pending("csr-later");
    assert_eq!(running.get("/pods").await.status, 200);
}

/// One request by a client that trusts any certificate, as the API server does without --kubelet-certificate-authority.
async fn blind_get(address: SocketAddr) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Blind(provider)))
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap();
    stream
        .write_all(b"GET /pods HTTP/1.1\r\nhost: n\r\nauthorization: Bearer good\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    // The server closes; whether with a TLS goodbye does not matter.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

#[derive(Debug)]
struct Blind(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Blind {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn pod(name: &str, statuses: &serde_json::Value) -> Arc<Pod> {
    let pod = serde_json::json!({
        "metadata": { "name": name, "namespace": "ns", "uid": "u" },
        "spec": {
            "containers": [{ "name": "c" }, { "name": "no-status" }],
            "initContainers": [{ "name": "init" }],
        },
        "status": { "containerStatuses": statuses },
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn status(name: &str, state: &serde_json::Value, last: &serde_json::Value, id: &str) -> serde_json::Value {
    let common =
        serde_json::json!({ "name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0 });
    let mut status = common;
    status["state"] = state.clone();
    status["lastState"] = last.clone();
    status["containerID"] = id.into();
    status
}

#[tokio::test(flavor = "multi_thread")]
async fn container_logs_are_served() {
    let mut lab = Lab::new(reviews());
    let path = lab.directory.path().join("0.log");
    let record = |text: &str| format!("2026-01-02T03:04:05.5Z stdout F {text}\n");
    std::fs::write(&path, record("one") + &record("two") + &record("three")).unwrap();
    let ended = CancellationToken::new();
    lab.host.logs.insert(
        "abc".to_owned(),
        ContainerLog {
            path: path.clone(),
            ended: ended.clone(),
        },
    );
    let running_state = serde_json::json!({ "running": {} });
    let last = serde_json::json!({ "terminated": { "exitCode": 1, "containerID": "longshore://gone" } });
    lab.host.pods = vec![pod(
        "p",
        &[status("c", &running_state, &last, "longshore://abc")]
            .into_iter()
            .collect(),
    )];
    let server = lab.start().await;
    for (query, expected) in [
        ("", "one\ntwo\nthree\n"),
        (
            "?tailLines=1&timestamps=true",
            "2026-01-02T03:04:05.500000000Z three\n",
        ),
        ("?tail=2&limitBytes=5", "two\nt"),
        ("?sinceTime=2027-01-01T00:00:00Z", ""),
    ] {
        let answer = server.get(&format!("/containerLogs/ns/p/c{query}")).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, expected), "{query}");
    }
    for (path, code, expected) in [
        ("/containerLogs/ns/none/c", 404, r#"pod "none" does not exist"#),
        ("/containerLogs/other/p/c", 404, r#"pod "p" does not exist"#),
        (
            "/containerLogs/ns/p/x",
            404,
            r#"container "x" not found in pod "p""#,
        ),
        (
            "/containerLogs/ns/p/init",
            400,
            r#"container "init" in pod "p" is not available"#,
        ),
        (
            "/containerLogs/ns/p/",
            400,
            r#"{"message": "Missing container name."}"#,
        ),
        ("/containerLogs/ns//c", 400, r#"{"message": "Missing podID."}"#),
        (
            "/containerLogs//p/c",
            400,
            r#"{"message": "Missing podNamespace."}"#,
        ),
        (
            "/containerLogs/ns/p/c?tailLines=x",
            400,
            r#"{"message": "Unable to decode query."}"#,
        ),
        (
            "/containerLogs/ns/p/c?tailLines=-1",
            422,
            r#"{"message": "Invalid request."}"#,
        ),
        (
            "/containerLogs/ns/p/c?previous=true",
            400,
            "unable to retrieve container logs for longshore://gone",
        ),
    ] {
        let answer = server.get(path).await;
        assert_eq!((answer.status, answer.body.as_str()), (code, expected), "{path}");
    }
    follow(&server, &path, &ended, &record("four")).await;
    server.stop.cancel();
    server.done.await.unwrap();
}

async fn follow(server: &Running, path: &std::path::Path, ended: &CancellationToken, record: &str) {
    let mut sender = server.connect(None).await;
    let request = Request::builder()
        .uri("/containerLogs/ns/p/c?follow=true&tailLines=1")
        .header("host", "node")
        .header("authorization", "Bearer good");
    let response = sender
        .send_request(request.body(Empty::new()).unwrap())
        .await
        .unwrap();
    let mut body = response.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(&first[..], b"three\n");
    std::fs::OpenOptions::new()
        .append(true)
        .open(path)
        .unwrap()
        .write_all(record.as_bytes())
        .unwrap();
    let second = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(&second[..], b"four\n");
    ended.cancel();
    assert!(body.frame().await.is_none());
}

/// Which run's log is meant, or why there is none: the texts are upstream's.
#[test]
fn the_right_run_is_chosen() {
    use serde_json::json;
    let none = json!({});
    let ended = |id: &str| json!({ "terminated": { "exitCode": 1, "containerID": id } });
    let waiting = |reason: &str| json!({ "waiting": { "reason": reason } });
    let c = r#"container "c" in pod "p""#;
    for (state, last, previous, expected) in [
        (
            json!({ "running": {} }),
            none.clone(),
            false,
            Ok("x://now".to_owned()),
        ),
        (
            json!({ "running": {} }),
            ended("x://last"),
            true,
            Ok("x://last".to_owned()),
        ),
        (
            json!({ "running": {} }),
            none.clone(),
            true,
            Err(format!("previous terminated {c} not found")),
        ),
        (
            ended("x://ended"),
            ended("x://last"),
            false,
            Ok("x://ended".to_owned()),
        ),
        (ended(""), ended("x://last"), false, Ok("x://last".to_owned())),
        (ended(""), none.clone(), false, Err(format!("{c} is terminated"))),
        (
            waiting("CrashLoopBackOff"),
            ended("x://last"),
            false,
            Ok("x://last".to_owned()),
        ),
        (
            waiting("CrashLoopBackOff"),
            ended(""),
            false,
            Err(format!("{c} is terminated")),
        ),
        (
            waiting("ContainerCreating"),
            none.clone(),
            false,
            Err(format!("{c} is waiting to start: ContainerCreating")),
        ),
        (
            waiting("ErrImagePull"),
            none.clone(),
            false,
            Err(format!("{c} is waiting to start: image can't be pulled")),
        ),
        (
            waiting("ImagePullBackOff"),
            none.clone(),
            false,
            Err(format!(
                "{c} is waiting to start: trying and failing to pull image"
            )),
        ),
        (
            none.clone(),
            none,
            false,
            Err(format!("{c} is waiting to start - no logs yet")),
        ),
    ] {
        let one: ContainerStatus = serde_json::from_value(status("c", &state, &last, "x://now")).unwrap();
        let pod_status = PodStatus {
            container_statuses: Some(vec![one]),
            ..PodStatus::default()
        };
        let target = Target {
            namespace: "ns",
            pod: "p",
            container: "c",
        };
        assert_eq!(
            container_logs::container_id(&target, &pod_status, previous),
            expected,
            "{state} {last}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_pods() {
    let mut lab = Lab::new(reviews());
    lab.host.hangs = true;
    lab.host.pods = vec![pod("p", &serde_json::json!([]))];
    let server = lab.start().await;
    let answer = server.get("/healthz").await;
    let report = "[+]ping ok\n[+]log ok\n[-]syncloop failed: reason withheld\nhealthz check failed\n";
    assert_eq!((answer.status, answer.body.as_str()), (500, report));
    assert_eq!(server.get("/healthz/log").await.body, "ok");
    assert_eq!(
        server.get("/healthz/syncloop").await.body,
        "internal server error: no progress for 5 m\n"
    );
    let answer = server.get("/healthz?exclude=syncloop&exclude=x&verbose").await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.contains(
        "[+]syncloop excluded: ok\nwarn: some health checks cannot be excluded: no matches for \"x\"\n"
    ));
    let list: serde_json::Value = serde_json::from_str(&server.get("/pods").await.body).unwrap();
    assert_eq!(
        (&list["kind"], &list["items"][0]["metadata"]["name"]),
        (&"PodList".into(), &"p".into())
    );
    assert_eq!(list["items"][0].get("kind"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_health_port_knows_health_only() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = bind("127.0.0.1", 0).await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let done = tokio::spawn(connection::accept_plain(listener, stop.clone()));
    for (path, status) in [
        ("/healthz", "200"),
        ("/healthz/ping", "200"),
        ("/healthz/syncloop", "404"),
        ("/pods", "404"),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{path}: {answer}"
        );
    }
    stop.cancel();
    done.await.unwrap();
}

#[test]
fn bad_settings_are_refused() {
    assert!(matches!(
        Identity::new("VersionTLS14", &[]),
        Err(TlsError::Version { .. })
    ));
    let old = ["TLS_RSA_WITH_AES_128_CBC_SHA".to_owned()];
    assert!(matches!(
        Identity::new("", &old),
        Err(TlsError::CipherSuites { .. })
    ));
    let mut lab = Lab::new(reviews());
    lab.config.authorization.mode = "RBAC".to_owned();
    let host: Arc<dyn Host> = Arc::new(FakeHost::default());
    let refused = Server::new(
        &lab.config,
        Arc::clone(&lab.identity),
        lab.reviews.clone(),
        Arc::clone(&host),
    );
    assert!(matches!(refused.err(), Some(Error::Mode { .. })));
    lab.config.authentication.x509.client_ca_file = "/nonexistent".to_owned();
    let refused = Server::new(&lab.config, lab.identity, lab.reviews, host);
    assert!(matches!(refused.err(), Some(Error::ClientCa(_))));
}
