use std::path::Path;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::super::error::Kind;
use super::super::tests::Sample;
use super::super::tests::server::{Reply, Server, regular};
use super::*;

/// An acceptor for 127.0.0.1 and the certificate it shows, which is its own authority.
fn tls() -> (TlsAcceptor, String) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("certificate");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("key");
    let provider = std::sync::Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("certificate and key fit");
    (TlsAcceptor::from(std::sync::Arc::new(config)), made.cert.pem())
}

fn settings(dir: &Path, text: &str) -> Arc<Registries> {
    std::fs::create_dir_all(dir.join("_default")).expect("settings");
    std::fs::write(dir.join("_default/hosts.toml"), text).expect("settings");
    Arc::new(Registries::new(Some(dir.to_owned())))
}

async fn resolve(registries: &Arc<Registries>) -> Result<Fetched> {
    registries
        .session(&"x".parse().expect("reference"), None)?
        .resolve()
        .await
}

#[tokio::test]
async fn a_tls_registry_is_believed_only_with_an_authority_or_unverified() {
    let (acceptor, certificate) = tls();
    let sample = Sample::simple("one");
    let inner = sample.clone();
    let server = Server::start_with(Some(acceptor), move |request| regular(&inner, request)).await;
    let dir = tempfile::tempdir().expect("tempdir");
    std::fs::create_dir(dir.path().join("_default")).expect("settings");
    std::fs::write(dir.path().join("_default/ca.pem"), &certificate).expect("authority");
    let url = format!("https://{}", server.address);

    for (extra, believed) in [
        ("", false),
        ("ca = \"ca.pem\"", true),
        ("skip_verify = true", true),
    ] {
        let registries = settings(dir.path(), &format!("server = \"{url}\"\n{extra}\n"));
        let result = resolve(&registries).await;
        assert_eq!(
            result
                .as_ref()
                .is_ok_and(|fetched| fetched.digest == sample.digest()),
            believed,
            "{extra}"
        );
    }
    let registries = settings(dir.path(), &format!("server = \"{url}\"\nca = \"absent.pem\"\n"));
    let error = resolve(&registries)
        .await
        .err()
        .expect("no such file")
        .to_string();
    assert!(error.contains("absent.pem"), "{error}");
}

#[tokio::test]
async fn a_tls_registry_does_not_lead_to_plain_http() {
    let sample = Sample::simple("one");
    let plain = Server::with(&sample, |_| None).await;
    let (acceptor, _) = tls();
    let target = plain.address.clone();
    let secure = Server::start_with(Some(acceptor), move |request| {
        Reply::status(302).header("Location", format!("http://{target}{}", request.path))
    })
    .await;
    let dir = tempfile::tempdir().expect("tempdir");
    let registries = settings(
        dir.path(),
        &format!("server = \"https://{}\"\nskip_verify = true\n", secure.address),
    );
    let error = resolve(&registries).await.err().expect("refused");
    assert!(error.to_string().contains("from https to http://"), "{error}");
    assert_eq!((error.kind(), plain.seen().len()), (Kind::Content, 0));
}

#[tokio::test]
async fn headers_of_a_host_go_to_that_host_only() {
    let sample = Sample::simple("one");
    let elsewhere = Server::with(&sample, |_| None).await;
    let target = elsewhere.address.clone();
    let server = Server::start(move |request| {
        Reply::status(307).header("Location", format!("http://{target}{}", request.path))
    })
    .await;
    let dir = tempfile::tempdir().expect("tempdir");
    let text = format!(
        "server = \"http://{}\"\n[header]\nx-secret = \"s\"\n",
        server.address
    );
    let registries = settings(dir.path(), &text);
    resolve(&registries).await.expect("followed");
    assert_eq!(server.seen()[0].header("x-secret"), "s");
    assert_eq!(elsewhere.seen()[0].header("x-secret"), "");
}

#[tokio::test]
async fn an_unverified_host_does_not_make_others_believed() {
    let sample = Sample::simple("one");
    let inner = sample.clone();
    let other = Server::start_with(Some(tls().0), move |request| regular(&inner, request)).await;
    let target = other.address.clone();
    let server = Server::start_with(Some(tls().0), move |request| {
        Reply::status(307).header("Location", format!("https://{target}{}", request.path))
    })
    .await;
    let dir = tempfile::tempdir().expect("tempdir");
    let text = format!("server = \"https://{}\"\nskip_verify = true\n", server.address);
    let error = resolve(&settings(dir.path(), &text))
        .await
        .err()
        .expect("not believed");
    assert!(server.seen().len() == 1 && other.seen().is_empty(), "{error}");
}
