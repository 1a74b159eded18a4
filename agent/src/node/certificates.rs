//! The node's certificates while it runs: the client's renewed in place, the serving one made, asked for, renewed.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::bootstrap::ClientStore;
use super::keys::{self, Validity};
use super::signing::{self, Ask, CLIENT_SIGNER, SERVING_SIGNER};
use super::{Error, files};
use crate::api::Api;
use crate::config::Settings;
use crate::server;

/// Pause after a renewal that failed.
const RETRY: Duration = Duration::from_secs(60);
/// Least time between two renewals.
const SETTLE: Duration = Duration::from_secs(10);
/// Longest sleep between looks at a certificate's age: clocks jump.
const LOOK: Duration = Duration::from_secs(3600);

/// A certificate chain and its key, PEM.
struct Pair {
    chain: Vec<u8>,
    key: Vec<u8>,
}

/// Gives the node's API its certificate: the configured files, or one signed by itself. With `serverTLSBootstrap` only one
/// that the cluster has signed before; [`renew_serving`] asks for it otherwise.
///
/// # Errors
/// [`Error`] when configured files cannot be used or none can be written.
pub(crate) fn open_serving(
    settings: &Settings,
    addresses: &[IpAddr],
    identity: &server::Identity,
) -> Result<(), Error> {
    let kubelet = &settings.kubelet;
    let pair = if !kubelet.tls_cert_file.is_empty() {
        from_files(
            Path::new(&kubelet.tls_cert_file),
            Path::new(&kubelet.tls_private_key_file),
        )?
    } else if kubelet.server_tls_bootstrap && settings.kubeconfig.is_some() {
        match from_store(&server_link(settings)) {
            Some(pair) => pair,
            None => return Ok(()),
        }
    } else {
        self_signed_files(settings, addresses)?
    };
    show(identity, &pair)
}

fn show(identity: &server::Identity, pair: &Pair) -> Result<(), Error> {
    let (chain, key) = keys::parsed(&pair.chain, &pair.key)?;
    identity.set(chain, key).map_err(|cause| Error::Crypto {
        operation: "serve with a certificate",
        cause: cause.to_string(),
    })
}

fn from_files(cert: &Path, key: &Path) -> Result<Pair, Error> {
    let read = |path: &Path| {
        files::read(path)?.ok_or_else(|| Error::Content {
            path: path.to_owned(),
            cause: "there is no such file".to_owned(),
        })
    };
    let pair = Pair {
        chain: read(cert)?,
        key: read(key)?,
    };
    keys::certified(&pair.chain, &pair.key).map_err(|error| Error::Content {
        path: cert.to_owned(),
        cause: error.to_string(),
    })?;
    Ok(pair)
}

fn server_link(settings: &Settings) -> PathBuf {
    settings.cert_dir.join("kubelet-server-current.pem")
}

/// A certificate with its key in one file, if it still holds.
fn from_store(link: &Path) -> Option<Pair> {
    let pem = files::read(link).ok()??;
    let good = Validity::of(&pem).ok()?.holds(Timestamp::now()) && keys::certified(&pem, &pem).is_ok();
    good.then(|| Pair {
        chain: pem.clone(),
        key: pem,
    })
}

/// `kubelet.crt` and `kubelet.key`, made when missing or expired.
fn self_signed_files(settings: &Settings, addresses: &[IpAddr]) -> Result<Pair, Error> {
    let (cert_path, key_path) = (
        settings.cert_dir.join("kubelet.crt"),
        settings.cert_dir.join("kubelet.key"),
    );
    if let (Some(chain), Some(key)) = (files::read(&cert_path)?, files::read(&key_path)?)
        && Validity::of(&chain).is_ok_and(|validity| validity.holds(Timestamp::now()))
        && keys::certified(&chain, &key).is_ok()
    {
        return Ok(Pair { chain, key });
    }
    let (chain, key) = keys::self_signed(&settings.node_name, addresses, Timestamp::now())?;
    files::write("node.write_serving_key", &key_path, key.as_bytes(), 0o600)?;
    files::write(
        "node.write_serving_certificate",
        &cert_path,
        chain.as_bytes(),
        0o644,
    )?;
    Ok(Pair {
        chain: chain.into_bytes(),
        key: key.into_bytes(),
    })
}

/// Renews the client certificate for ever, if it is ours to renew.
///
/// Returns when the certificate has expired for 5 minutes with no other in sight: the process should then end, so that it
/// begins anew with bootstrap credentials.
pub(crate) async fn renew_client(settings: Arc<Settings>, api: Arc<Api>) {
    let store = ClientStore::new(&settings.cert_dir);
    let share = rand::random::<f64>();
    if !settings.kubelet.rotate_certificates || api.is_standalone() {
        return std::future::pending().await;
    }
    loop {
        let validity = files::read(&store.current())
            .ok()
            .flatten()
            .map(|pem| Validity::of(&pem));
        // The kubeconfig holds some other credentials, or the link is gone: not ours to renew.
        let Some(Ok(validity)) = validity else {
            tokio::time::sleep(LOOK).await;
            continue;
        };
        let now = Timestamp::now();
        if now.duration_since(validity.until).as_secs() > 300 {
            tracing::error!(expired = %validity.until, "the client certificate has expired and none came instead");
            return;
        }
        if let Some(wait) = until(validity.renewal(share), now) {
            tokio::time::sleep(wait.min(LOOK)).await;
            continue;
        }
        match client_once(&settings, &api, &store).await {
            Ok(()) => {
                tracing::info!("the client certificate was renewed");
                // A signer that gives certificates past their renewal must not be asked in a circle.
                tokio::time::sleep(SETTLE).await;
            }
            Err(error) => {
                tracing::error!(%error, "the client certificate could not be renewed, trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

fn until(then: Timestamp, now: Timestamp) -> Option<Duration> {
    let seconds = u64::try_from(then.as_second() - now.as_second())
        .ok()
        .filter(|seconds| *seconds > 0)?;
    Some(Duration::from_secs(seconds))
}

/// One renewal: ask, wait, store, go on under the new one.
async fn client_once(settings: &Settings, api: &Api, store: &ClientStore) -> Result<(), Error> {
    let key = keys::generate()?;
    let request_pem = keys::client_request(&settings.node_name, &key)?;
    let ask = Ask {
        name: None,
        signer: CLIENT_SIGNER,
        usage: "client auth",
        request_pem: &request_pem,
        point: "api.create_renewal_csr",
    };
    let name = signing::post(api, &ask).await?;
    let certificate = signing::wait(api, &name).await?;
    store.store(&certificate, &key, Timestamp::now())?;
    api.set_identity(keys::certified(&certificate, key.as_bytes())?);
    Ok(())
}

/// Asks for serving certificates and renews them for ever, where the configuration says so.
pub(crate) async fn renew_serving(
    settings: Arc<Settings>,
    api: Arc<Api>,
    identity: Arc<server::Identity>,
    addresses: impl Fn() -> Vec<IpAddr> + Send + Sync + 'static,
) {
    if !settings.kubelet.tls_cert_file.is_empty() {
        return follow_files(&settings, &identity).await;
    }
    if !settings.kubelet.server_tls_bootstrap || api.is_standalone() {
        return std::future::pending().await;
    }
    let link = server_link(&settings);
    let share = rand::random::<f64>();
    loop {
        let pem = files::read(&link).ok().flatten().unwrap_or_default();
        if let Ok(validity) = Validity::of(&pem)
            && let Some(wait) = until(validity.renewal(share), Timestamp::now())
        {
            tokio::time::sleep(wait.min(LOOK)).await;
            continue;
        }
        let addresses = addresses();
        if addresses.is_empty() {
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        }
        if let Err(error) = serving_once(&settings, &api, &identity, &link, &addresses).await {
            tracing::error!(%error, "no serving certificate yet, trying again");
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Takes configured files up again when they have changed.
async fn follow_files(settings: &Settings, identity: &server::Identity) {
    let (cert, key) = (
        Path::new(&settings.kubelet.tls_cert_file),
        Path::new(&settings.kubelet.tls_private_key_file),
    );
    let changed = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let mut seen = (changed(cert), changed(key));
    loop {
        tokio::time::sleep(RETRY).await;
        let now = (changed(cert), changed(key));
        if now == seen {
            continue;
        }
        match from_files(cert, key).and_then(|pair| show(identity, &pair)) {
            Ok(()) => {
                tracing::info!(cert = %cert.display(), "the serving certificate was read again");
                seen = now;
            }
            // One of the two may be written later than the other.
            Err(error) => tracing::warn!(%error, "the changed serving certificate is not used"),
        }
    }
}

async fn serving_once(
    settings: &Settings,
    api: &Api,
    identity: &server::Identity,
    link: &Path,
    addresses: &[IpAddr],
) -> Result<(), Error> {
    let key = keys::generate()?;
    let names = [settings.node_name.clone()];
    let request_pem = keys::serving_request(&settings.node_name, &key, &names, addresses)?;
    let ask = Ask {
        name: None,
        signer: SERVING_SIGNER,
        usage: "server auth",
        request_pem: &request_pem,
        point: "api.create_serving_csr",
    };
    let name = signing::post(api, &ask).await?;
    identity.set_pending(&name);
    tracing::info!(
        name,
        "serving certificate: approve with \"kubectl certificate approve {name}\""
    );
    let certificate = signing::wait(api, &name).await?;
    keys::certified(&certificate, key.as_bytes())?;
    let stamp = Timestamp::now()
        .strftime("kubelet-server-%Y-%m-%d-%H-%M-%S.pem")
        .to_string();
    let path = settings.cert_dir.join(stamp);
    let mut both = certificate;
    both.push(b'\n');
    both.extend_from_slice(key.as_bytes());
    files::write("node.write_serving_certificate", &path, &both, 0o600)?;
    files::link("node.link_serving_certificate", link, &path)?;
    show(
        identity,
        &Pair {
            chain: both.clone(),
            key: both,
        },
    )
}
