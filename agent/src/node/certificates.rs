//! The node's certificates while it runs: the client's renewed in place, the serving one made, asked for, renewed.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use jiff::Timestamp;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::bootstrap::ClientStore;
use super::keys::{self, Validity};
use super::signing::{self, Ask, CLIENT_SIGNER, SERVING_SIGNER};
use super::{Error, files};
use crate::api::Api;
use crate::config::Settings;

/// Pause after a renewal that failed.
const RETRY: Duration = Duration::from_secs(60);
/// Longest sleep between looks at a certificate's age: clocks jump.
const LOOK: Duration = Duration::from_secs(3600);

/// The serving certificate as it is now; a TLS configuration asks it at each handshake.
#[derive(Debug)]
pub(crate) struct Serving {
    key: ArcSwap<CertifiedKey>,
    pending: ArcSwapOption<String>,
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.key.load_full())
    }
}

impl Serving {
    /// The certificate of this node's API: the configured files, or one signed by itself. With `serverTLSBootstrap` the
    /// latter stands in until the cluster has signed one: see [`Serving::pending`].
    ///
    /// # Errors
    /// [`Error`] when configured files cannot be used or none can be written.
    pub(crate) fn open(settings: &Settings, addresses: &[IpAddr]) -> Result<Arc<Self>, Error> {
        let kubelet = &settings.kubelet;
        let (key, pending) = if !kubelet.tls_cert_file.is_empty() {
            let (cert, key) = (Path::new(&kubelet.tls_cert_file), Path::new(&kubelet.tls_private_key_file));
            (from_files(cert, key)?, None)
        } else if kubelet.server_tls_bootstrap && settings.kubeconfig.is_some() {
            match from_store(&server_link(settings)) {
                Some(key) => (key, None),
                None => {
                    let (cert, key) = keys::self_signed(&settings.node_name, addresses, Timestamp::now())?;
                    (keys::certified(cert.as_bytes(), key.as_bytes())?, Some(String::new()))
                }
            }
        } else {
            (self_signed_files(settings, addresses)?, None)
        };
        Ok(Arc::new(Self { key: ArcSwap::from_pointee(key), pending: ArcSwapOption::from_pointee(pending) }))
    }

    /// The name of the certificate signing request that nobody has approved yet (empty: it is about to be posted). While
    /// there is one, requests are to be refused with [`Serving::pending_text`].
    pub(crate) fn pending(&self) -> Option<Arc<String>> {
        self.pending.load_full()
    }

    /// The words for a client while the serving certificate is not signed.
    pub(crate) fn pending_text(&self) -> Option<String> {
        let name = self.pending()?;
        Some(if name.is_empty() {
            "this node has no serving certificate yet: it is about to ask the cluster for one (serverTLSBootstrap)".into()
        } else {
            format!(
                "this node has no serving certificate yet: certificate signing request {name} waits for approval, \
                 by: kubectl certificate approve {name}"
            )
        })
    }
}

fn from_files(cert: &Path, key: &Path) -> Result<CertifiedKey, Error> {
    let read = |path: &Path| {
        files::read(path)?
            .ok_or_else(|| Error::Content { path: path.to_owned(), cause: "there is no such file".to_owned() })
    };
    keys::certified(&read(cert)?, &read(key)?)
        .map_err(|error| Error::Content { path: cert.to_owned(), cause: error.to_string() })
}

fn server_link(settings: &Settings) -> PathBuf {
    settings.cert_dir.join("kubelet-server-current.pem")
}

/// A certificate with its key in one file, if it still holds.
fn from_store(link: &Path) -> Option<CertifiedKey> {
    let pem = files::read(link).ok()??;
    Validity::of(&pem).ok()?.holds(Timestamp::now()).then(|| keys::certified(&pem, &pem).ok())?
}

/// `kubelet.crt` and `kubelet.key`, made when missing or expired.
fn self_signed_files(settings: &Settings, addresses: &[IpAddr]) -> Result<CertifiedKey, Error> {
    let (cert_path, key_path) = (settings.cert_dir.join("kubelet.crt"), settings.cert_dir.join("kubelet.key"));
    if let (Some(cert), Some(key)) = (files::read(&cert_path)?, files::read(&key_path)?)
        && Validity::of(&cert).is_ok_and(|validity| validity.holds(Timestamp::now()))
        && let Ok(key) = keys::certified(&cert, &key)
    {
        return Ok(key);
    }
    let (cert, key) = keys::self_signed(&settings.node_name, addresses, Timestamp::now())?;
    files::write("node.write_serving_key", &key_path, key.as_bytes(), 0o600)?;
    files::write("node.write_serving_certificate", &cert_path, cert.as_bytes(), 0o644)?;
    keys::certified(cert.as_bytes(), key.as_bytes())
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
        let validity = files::read(&store.current()).ok().flatten().map(|pem| Validity::of(&pem));
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
            Ok(()) => tracing::info!("the client certificate was renewed"),
            Err(error) => {
                tracing::error!(%error, "the client certificate could not be renewed, trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

fn until(then: Timestamp, now: Timestamp) -> Option<Duration> {
    let seconds = u64::try_from(then.as_second() - now.as_second()).ok().filter(|seconds| *seconds > 0)?;
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
    serving: Arc<Serving>,
    addresses: impl Fn() -> Vec<IpAddr> + Send + Sync,
) {
    let by_files = !settings.kubelet.tls_cert_file.is_empty();
    if by_files || !settings.kubelet.server_tls_bootstrap || api.is_standalone() {
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
        if let Err(error) = serving_once(&settings, &api, &serving, &link, &addresses).await {
            tracing::error!(%error, "no serving certificate yet, trying again");
            tokio::time::sleep(RETRY).await;
        }
    }
}

async fn serving_once(
    settings: &Settings,
    api: &Api,
    serving: &Serving,
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
    if serving.pending().is_some() {
        serving.pending.store(Some(Arc::new(name.clone())));
    }
    tracing::info!(name, "serving certificate: approve with \"kubectl certificate approve {name}\"");
    let certificate = signing::wait(api, &name).await?;
    let certified = keys::certified(&certificate, key.as_bytes())?;
    let stamp = Timestamp::now().strftime("kubelet-server-%Y-%m-%d-%H-%M-%S.pem").to_string();
    let path = settings.cert_dir.join(stamp);
    let mut both = certificate;
    both.push(b'\n');
    both.extend_from_slice(key.as_bytes());
    files::write("node.write_serving_certificate", &path, &both, 0o600)?;
    files::link("node.link_serving_certificate", link, &path)?;
    serving.key.store(Arc::new(certified));
    serving.pending.store(None);
    Ok(())
}
