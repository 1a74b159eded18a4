use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::super::tests::server::{Reply, Request, Server, regular};
use super::super::tests::{Archive, Sample, scratch};
use super::*;

/// A store with nothing in it and settings of its own.
struct Node {
    dir: tempfile::TempDir,
    puller: Puller,
}

impl Node {
    fn new() -> Self {
        let dir = scratch();
        let store = Arc::new(Store::open(&dir.path().join("state")).expect("store"));
        let puller = Puller::new(store, Registries::new(Some(dir.path().join("certs.d"))));
        Self { dir, puller }
    }

    /// Uses `servers` for every registry, in order, and nothing else.
    fn mirrored_by(self, servers: &[&Server]) -> Self {
        let (last, mirrors) = servers.split_last().expect("a server");
        let mut text = format!("server = \"http://{}\"\n", last.address);
        for mirror in mirrors {
            text.push_str(&format!("[host.\"http://{}\"]\n", mirror.address));
        }
        let folder = self.dir.path().join("certs.d/_default");
        std::fs::create_dir_all(&folder).expect("settings");
        std::fs::write(folder.join("hosts.toml"), text).expect("settings");
        self
    }

    async fn pull(&self, name: &str) -> Result<Image> {
        self.puller.pull(name, None).await
    }

    async fn fails(&self, name: &str) -> Error {
        let error = self.pull(name).await.expect_err("must fail");
        self.puller.settle().await;
        assert!(self.puller.store.list().is_empty(), "nothing is named");
        let state = self.dir.path().join("state");
        for folder in ["", "blobs/sha256", "layers"] {
            for entry in std::fs::read_dir(state.join(folder)).expect("list").flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                assert!(!name.ends_with(".tmp"), "{name} is left over");
            }
        }
        error
    }
}

fn basic(username: &str, password: &str) -> AuthConfig {
    AuthConfig {
        username: username.into(),
        password: password.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_pull_brings_the_image_and_a_second_one_only_asks() {
    let sample = Sample::simple("one");
    let server = Server::with(&sample, |_| None).await;
    let node = Node::new().mirrored_by(&[&server]);
    let image = node.pull("nginx").await.expect("pull");
    assert_eq!(image.id, sample.id());
    assert_eq!(image.repo_tags, ["docker.io/library/nginx:latest"]);
    let run = node.puller.store.rootfs(&image)[1].join("bin/run");
    assert_eq!(std::fs::read_to_string(run).expect("file of the layer"), "one");
    let request = &server.seen()[0];
    assert_eq!(
        (request.method.as_str(), request.path.as_str()),
        ("GET", "/v2/library/nginx/manifests/latest")
    );
    assert_eq!(
        request.query, "ns=docker.io",
        "a mirror learns whose content is wanted"
    );
    let blobs = server.count("/blobs/");
    assert_eq!(blobs, 3);
    node.pull("nginx").await.expect("again");
    assert_eq!((server.count("/blobs/"), server.count("/manifests/")), (blobs, 2));
}

#[tokio::test]
async fn the_platform_is_chosen_from_an_index() {
    let sample = Sample::simple("ours");
    let descriptor = |os: &str, digest: Digest| {
        json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": sample.manifest.len(),
               "platform": {"os": os, "architecture": document::own_architecture()}})
    };
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [descriptor("windows", Digest::of(b"x")), descriptor("linux", sample.digest())]})
    .to_string();
    let digest = Digest::of(index.as_bytes());
    let served = index.clone();
    let server = Server::with(&sample, move |request| {
        (request.path.ends_with("/multi") || request.path.ends_with(&digest.to_string()))
            .then(|| Reply::body(served.clone()))
    })
    .await;
    let node = Node::new().mirrored_by(&[&server]);
    let image = node.pull("quay.io/a:multi").await.expect("pull");
    assert_eq!(
        (image.id, image.repo_digests),
        (sample.id(), vec![format!("quay.io/a@{digest}")])
    );
    let image = node
        .pull(&format!("quay.io/b@{digest}"))
        .await
        .expect("pull by digest");
    assert!(image.repo_digests.contains(&format!("quay.io/b@{digest}")));
    let reopened = Store::open(&node.dir.path().join("state")).expect("open");
    assert_eq!(reopened.get("quay.io/a:multi").expect("stored").id, sample.id());
}

#[tokio::test]
async fn an_image_without_layers_is_pulled() {
    let sample = Sample::new("empty", &[]);
    let server = Server::with(&sample, |_| None).await;
    let node = Node::new().mirrored_by(&[&server]);
    let image = node.pull("empty").await.expect("pull");
    assert_eq!(node.puller.store.rootfs(&image).len(), 1);
}

#[tokio::test]
async fn many_pulls_at_once_fetch_each_blob_once() {
    let sample = Sample::simple("one");
    let server = Server::with(&sample, |_| None).await;
    let node = Node::new().mirrored_by(&[&server]);
    let names = ["a", "a", "b", "b:1", "a"];
    let images = futures::future::join_all(names.map(|name| node.pull(name))).await;
    assert!(
        images
            .iter()
            .all(|image| image.as_ref().is_ok_and(|image| image.id == sample.id()))
    );
    assert_eq!(
        (server.count("/blobs/"), server.count("/manifests/")),
        (3, 5),
        "each asks with its own credentials"
    );
    assert_eq!(node.puller.store.list()[0].repo_tags.len(), 3);
}

#[tokio::test]
async fn missing_images_and_bad_names_have_the_words_of_containerd() {
    let server = Server::start(|_| Reply::status(404)).await;
    let node = Node::new().mirrored_by(&[&server]);
    let error = node.fails("nope:1").await;
    assert_eq!(error.kind(), Kind::NotFound);
    assert_eq!(
        error.to_string(),
        "failed to pull and unpack image \"docker.io/library/nope:1\": failed to resolve reference \
         \"docker.io/library/nope:1\": docker.io/library/nope:1: not found"
    );
    let error = node.fails("Bad").await;
    assert_eq!(error.kind(), Kind::InvalidReference);
    assert!(
        error
            .to_string()
            .starts_with("couldn't parse image name \"Bad\": invalid reference format"),
        "{error}"
    );
}

#[tokio::test]
async fn a_registry_that_is_not_there_or_fails_is_unavailable() {
    let dead = Server::start(|_| Reply::status(200)).await;
    let address = dead.address.clone();
    dead.stop().await;
    let node = Node::new();
    let error = node.fails(&format!("{address}/x")).await;
    assert_eq!(error.kind(), Kind::RegistryUnavailable, "{error}");
    assert!(
        error.to_string().contains("failed to do request") && error.to_string().contains("refused"),
        "{error}"
    );
    for status in [500, 503, 429] {
        let server = Server::start(move |_| Reply::status(status)).await;
        let error = Node::new().mirrored_by(&[&server]).fails("x").await;
        assert_eq!(error.kind(), Kind::RegistryUnavailable, "{error}");
    }
}

#[tokio::test]
async fn mirrors_are_asked_in_order_until_one_has_it() {
    let sample = Sample::simple("one");
    let broken = Server::start(|_| Reply::status(500)).await;
    let empty = Server::start(|_| Reply::status(404)).await;
    let full = Server::with(&sample, |_| None).await;
    let node = Node::new().mirrored_by(&[&broken, &empty, &full]);
    node.pull("x").await.expect("the last has it");
    assert!(broken.count("/manifests/") == 1 && empty.count("/manifests/") == 1);
    let node = Node::new().mirrored_by(&[&broken, &empty]);
    assert_eq!(
        node.fails("x").await.kind(),
        Kind::NotFound,
        "a clear no says more than a failure"
    );
}

#[tokio::test]
async fn wrong_content_is_refused() {
    let sample = Sample::simple("one");
    let other = Sample::simple("two");
    let layer = Digest::of(&sample.layers[0]).to_string();
    let of_layer = move |request: &Request| request.path.ends_with(&layer);

    let (check, good) = (of_layer.clone(), sample.layers[0].clone());
    let flipped = Server::with(&sample, move |request| {
        let mut bytes = good.clone();
        *bytes.last_mut().expect("bytes") ^= 1;
        check(request).then(|| Reply::body(bytes))
    })
    .await;
    let error = Node::new().mirrored_by(&[&flipped]).fails("x").await;
    assert!(error.to_string().contains("unexpected digest"), "{error}");
    assert_eq!(error.kind(), Kind::Content);

    let (check, good) = (of_layer, sample.layers[0].clone());
    let longer = Server::with(&sample, move |request| {
        check(request).then(|| Reply::body([good.as_slice(), b"more"].concat()))
    })
    .await;
    let error = Node::new().mirrored_by(&[&longer]).fails("x").await;
    assert!(error.to_string().contains("unexpected size"), "{error}");

    let lying = Server::with(&sample, move |request| {
        request.path.contains("/manifests/").then(|| {
            Reply::body(other.manifest.clone()).header("Docker-Content-Digest", Digest::of(b"something else"))
        })
    })
    .await;
    for name in ["x".to_owned(), format!("x@{}", sample.digest())] {
        let error = Node::new().mirrored_by(&[&lying]).fails(&name).await;
        assert!(error.to_string().contains("unexpected digest"), "{error}");
    }
}

#[tokio::test]
async fn a_layer_with_another_diff_id_is_refused() {
    let mut sample = Sample::simple("one");
    let other = Archive::default().file("evil", b"").finish();
    let good = Sample::new("one", &[other]);
    // The manifest names another layer than the configuration counts.
    let manifest = String::from_utf8(sample.manifest.clone()).expect("text");
    let (old, new) = (&sample.layers[0], &good.layers[0]);
    let manifest = manifest
        .replace(&Digest::of(old).to_string(), &Digest::of(new).to_string())
        .replace(
            &format!("\"size\":{}", old.len()),
            &format!("\"size\":{}", new.len()),
        );
    sample.layers[0] = new.clone();
    sample.manifest = manifest.into_bytes();
    let server = Server::with(&sample, |_| None).await;
    let error = Node::new().mirrored_by(&[&server]).fails("x").await;
    assert!(
        error.to_string().contains("unpacked: unexpected digest"),
        "{error}"
    );
}

#[tokio::test]
async fn bounds_hold_for_what_a_registry_sends() {
    let big = Server::start(|_| Reply::body(vec![b' '; (document::MAX_DOCUMENT + 1) as usize])).await;
    let error = Node::new().mirrored_by(&[&big]).fails("x").await;
    assert!(
        matches!(error, Error::Pull { ref source, .. } if matches!(**source, Error::Bounds { .. })),
        "{error}"
    );
    let promised = Server::start(|_| Reply::body("x").header("Content-Length", u64::MAX / 2)).await;
    let error = Node::new().mirrored_by(&[&promised]).fails("x").await;
    assert!(error.to_string().contains("more than"), "{error}");
}

#[tokio::test]
async fn a_broken_transfer_is_taken_up_where_it_ended() {
    let content: Vec<u8> = (0..200_000u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let sample = Sample::new("big", &[Archive::default().file("big", &content).finish()]);
    let layer = Digest::of(&sample.layers[0]).to_string();
    let (inner, name) = (sample.clone(), layer.clone());
    let asked = AtomicUsize::new(0);
    let server = Server::with(&sample, move |request| {
        let cut = request.path.ends_with(&name) && asked.fetch_add(1, Ordering::SeqCst) < 3;
        cut.then(|| regular(&inner, request).cut(100_000))
    })
    .await;
    let node = Node::new().mirrored_by(&[&server]);
    let image = node.pull("x").await.expect("pull");
    assert_eq!(
        std::fs::read(node.puller.store.rootfs(&image)[0].join("big")).expect("file"),
        content
    );
    let seen = server.seen();
    let ranges: Vec<_> = seen
        .iter()
        .filter(|r| r.path.ends_with(&layer))
        .map(|r| r.header("range"))
        .collect();
    assert_eq!(ranges, ["", "bytes=100000-", "bytes=200000-", "bytes=300000-"]);
}

#[tokio::test]
async fn a_server_without_ranges_starts_again_and_one_that_lies_is_refused() {
    let sample = Sample::simple("one");
    let layer = Digest::of(&sample.layers[0]).to_string();
    let (bytes, name) = (sample.layers[0].clone(), layer.clone());
    let asked = AtomicUsize::new(0);
    let whole = Server::with(&sample, move |request| {
        let first = asked.fetch_add(usize::from(request.path.ends_with(&name)), Ordering::SeqCst) == 0;
        request.path.ends_with(&name).then(|| match first {
            true => Reply::body(bytes.clone()).cut(10),
            false => Reply::body(bytes.clone()),
        })
    })
    .await;
    Node::new().mirrored_by(&[&whole]).pull("x").await.expect("pull");

    let (bytes, name) = (sample.layers[0].clone(), layer);
    let lying = Server::with(&sample, move |request| {
        request
            .path
            .ends_with(&name)
            .then(|| match request.header("range") {
                "" => Reply::body(bytes.clone()).cut(10),
                _ => Reply {
                    status: 206,
                    ..Reply::body(bytes.clone())
                }
                .header("Content-Range", "bytes 0-9/10"),
            })
    })
    .await;
    let error = Node::new().mirrored_by(&[&lying]).fails("x").await;
    assert!(error.to_string().contains("another range"), "{error}");
}

/// Gives a token to `user:right`, and to nobody else.
async fn token_service() -> Server {
    Server::start(|request| {
        let right = request.header("authorization") == "Basic dXNlcjpyaWdodA=="
            || request.body.contains("refresh_token=identity");
        match right {
            true => Reply::body(r#"{"token":"t0k3n"}"#),
            false => Reply::status(401),
        }
    })
    .await
}

/// A registry that wants the token of `service`.
async fn guarded(sample: &Sample, service: &Server) -> Server {
    let realm = format!("http://{}/token", service.address);
    Server::with(sample, move |request| {
        (request.header("authorization") != "Bearer t0k3n").then(|| {
            let scope = "repository:library/x:pull";
            Reply::status(401).header(
                "WWW-Authenticate",
                format!("Bearer realm=\"{realm}\",service=\"reg\",scope=\"{scope}\""),
            )
        })
    })
    .await
}

#[tokio::test]
async fn tokens_are_fetched_with_the_credentials_of_the_pod() {
    let sample = Sample::simple("one");
    let service = token_service().await;
    let server = guarded(&sample, &service).await;
    let node = Node::new().mirrored_by(&[&server]);
    node.puller
        .pull("x", Some(&basic("user", "right")))
        .await
        .expect("pull");
    let asked = &service.seen()[0];
    assert_eq!(asked.query, "service=reg&scope=repository%3Alibrary%2Fx%3Apull");
    assert_eq!(service.seen().len(), 1, "one token serves the whole pull");
    assert!(
        server
            .seen()
            .iter()
            .all(|request| !request.header("authorization").starts_with("Basic"))
    );

    let identity = AuthConfig {
        identity_token: "identity".into(),
        ..Default::default()
    };
    let node = Node::new().mirrored_by(&[&server]);
    node.puller
        .pull("x", Some(&identity))
        .await
        .expect("traded token");
    assert_eq!(service.seen()[1].method, "POST");
    let token = AuthConfig {
        registry_token: "t0k3n".into(),
        ..Default::default()
    };
    Node::new()
        .mirrored_by(&[&server])
        .puller
        .pull("x", Some(&token))
        .await
        .expect("registry token");
}

#[tokio::test]
async fn those_who_may_not_are_denied_even_where_the_image_is() {
    let sample = Sample::simple("one");
    let service = token_service().await;
    let server = guarded(&sample, &service).await;
    let node = Node::new().mirrored_by(&[&server]);
    let error = node.fails("x").await;
    assert_eq!(error.kind(), Kind::Denied);
    assert!(
        error.to_string().starts_with(
            "failed to pull and unpack image \"docker.io/library/x:latest\": failed to resolve reference \
             \"docker.io/library/x:latest\": pull access denied, repository does not exist or may require authorization"
        ),
        "{error}"
    );
    let other_server = AuthConfig {
        server_address: "quay.io".into(),
        ..basic("user", "right")
    };
    for auth in [basic("user", "wrong"), other_server] {
        let error = node.puller.pull("x", Some(&auth)).await.expect_err("denied");
        assert!(
            error.kind() == Kind::Denied && !error.to_string().contains("wrong"),
            "{error}"
        );
    }
    node.puller
        .pull("x", Some(&basic("user", "right")))
        .await
        .expect("allowed");
    let error = node
        .pull("x")
        .await
        .expect_err("still denied without credentials");
    assert_eq!(error.kind(), Kind::Denied);
    for status in [401, 403] {
        let server = Server::start(move |_| Reply::status(status)).await;
        assert_eq!(
            Node::new().mirrored_by(&[&server]).fails("x").await.kind(),
            Kind::Denied
        );
    }
}

#[tokio::test]
async fn basic_credentials_are_sent_only_when_asked_for_and_only_there() {
    let sample = Sample::simple("one");
    let elsewhere = Server::with(&sample, |_| None).await;
    let target = elsewhere.address.clone();
    let server = Server::with(&sample, move |request| match request.header("authorization") {
        "" => Some(Reply::status(401).header("WWW-Authenticate", "Basic realm=\"r\"")),
        _ if request.path.contains("/blobs/") => {
            Some(Reply::status(307).header("Location", format!("http://{target}{}", request.path)))
        }
        _ => None,
    })
    .await;
    let node = Node::new().mirrored_by(&[&server]);
    node.puller
        .pull("x", Some(&basic("user", "right")))
        .await
        .expect("pull");
    assert_eq!(server.seen()[0].header("authorization"), "");
    assert_eq!(server.seen()[1].header("authorization"), "Basic dXNlcjpyaWdodA==");
    assert!(elsewhere.count("/blobs/") == 3);
    assert!(
        elsewhere
            .seen()
            .iter()
            .all(|request| request.header("authorization").is_empty()),
        "not across origins"
    );
}

#[tokio::test]
async fn redirects_end() {
    let server = Server::start(|request| Reply::status(302).header("Location", &request.path)).await;
    let error = Node::new().mirrored_by(&[&server]).fails("x").await;
    assert!(error.to_string().contains("more than 5 redirects"), "{error}");
    assert_eq!(server.seen().len(), 6);
}

#[tokio::test]
async fn a_pull_that_is_dropped_leaves_nothing_and_can_be_repeated() {
    let sample = Sample::simple("one");
    let stuck = Arc::new(tokio::sync::Semaphore::new(0));
    let reached = Arc::clone(&stuck);
    let server = Server::with(&sample, move |request| {
        if request.path.contains("/blobs/") && !reached.is_closed() {
            reached.add_permits(1);
            return Some(Reply::body("").header("Content-Length", 5000).cut(0));
        }
        None
    })
    .await;
    let node = Node::new().mirrored_by(&[&server]);
    tokio::select! {
        result = node.pull("x") => panic!("cannot end: {result:?}"),
        _ = stuck.acquire() => {}
    }
    stuck.close();
    node.pull("x").await.expect("again");
    assert!(Path::new(&node.puller.store.rootfs(&node.pull("x").await.expect("image"))[0]).is_dir());
}
