//! From a kubeconfig file to clients: HTTP/2 over connections that end when the identity changes.
//!
//! The API server allows 100 streams a connection by default, and a watch holds one for as long as it lasts. Watches of
//! single objects, of which there may be hundreds, therefore spread over connections of their own.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ConfigExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use tower::{BoxError, ServiceBuilder};

use super::Error;
use super::connection::{Severable, Severer};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection without a sign of life for both together is dropped.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Watches a connection carries: well below the API server's 100 streams.
const WATCHES_A_CLIENT: usize = 60;

/// Reads the kubeconfig at `path` into a client configuration.
///
/// # Errors
/// [`Error::Kubeconfig`] naming the file.
pub(crate) async fn load(path: &Path) -> Result<Config, Error> {
    let file = Kubeconfig::read_from(path).map_err(|cause| refused(path, &cause))?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(|cause| refused(path, &cause))
}

fn refused(path: &Path, cause: &(dyn std::error::Error + 'static)) -> Error {
    Error::Kubeconfig {
        path: path.display().to_string(),
        cause: super::chain(cause),
    }
}

/// Clients of one API server under one identity, which may change while they live.
pub(crate) struct Session {
    config: Config,
    tls: rustls::ClientConfig,
    identity: Arc<Identity>,
    severer: Severer,
    main: Client,
    watchers: Mutex<Vec<Watcher>>,
}

struct Watcher {
    client: Client,
    /// One clone a watch, and ours.
    count: Arc<()>,
}

impl Session {
    /// Opens a session by the kubeconfig at `path`; nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Kubeconfig`] naming the file.
    pub(crate) async fn open(path: &Path) -> Result<Self, Error> {
        let config = load(path).await?;
        Self::new(config).map_err(|cause| refused(path, &cause))
    }

    /// Opens a session by a configuration.
    ///
    /// # Errors
    /// kube's, for unusable certificates and keys.
    pub(crate) fn new(config: Config) -> Result<Self, kube::Error> {
        let mut tls = config.rustls_client_config()?;
        let identity = Arc::new(Identity {
            first: Arc::clone(&tls.client_auth_cert_resolver),
            current: arc_swap::ArcSwapOption::empty(),
        });
        tls.client_auth_cert_resolver = Arc::clone(&identity) as Arc<dyn ResolvesClientCert>;
        // A resumed session would carry the certificate it began with.
        tls.resumption = rustls::client::Resumption::disabled();
        let severer = Severer::default();
        let main = client(&config, &tls, &severer)?;
        Ok(Self {
            config,
            tls,
            identity,
            severer,
            main,
            watchers: Mutex::default(),
        })
    }

    /// The client for requests and for the few watches of collections.
    pub(crate) fn client(&self) -> Client {
        self.main.clone()
    }

    /// A client for one watch of an object; the second part is held as long as the watch.
    pub(super) fn watcher(&self) -> (Client, Arc<()>) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|watcher| Arc::strong_count(&watcher.count) > 1);
        if let Some(free) = watchers
            .iter()
            .find(|w| Arc::strong_count(&w.count) <= WATCHES_A_CLIENT)
        {
            return (free.client.clone(), Arc::clone(&free.count));
        }
        // It could be built when the session began: nothing in it has changed since.
        let client = client(&self.config, &self.tls, &self.severer).unwrap_or_else(|_| self.main.clone());
        let count = Arc::new(());
        watchers.push(Watcher {
            client: client.clone(),
            count: Arc::clone(&count),
        });
        (client, count)
    }

    /// From now on the session is `key`'s: all connections made before are ended.
    pub(crate) fn set_identity(&self, key: CertifiedKey) {
        self.identity.current.store(Some(Arc::new(key)));
        self.severer.sever();
    }
}

/// The client certificate: the kubeconfig's until another is set.
#[derive(Debug)]
struct Identity {
    first: Arc<dyn ResolvesClientCert>,
    current: arc_swap::ArcSwapOption<CertifiedKey>,
}

impl ResolvesClientCert for Identity {
    fn resolve(
        &self,
        root_hint_subjects: &[&[u8]],
        sigschemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.current
            .load_full()
            .or_else(|| self.first.resolve(root_hint_subjects, sigschemes))
    }

    fn has_certs(&self) -> bool {
        self.current.load().is_some() || self.first.has_certs()
    }
}

/// One client with a connection pool of its own.
fn client(config: &Config, tls: &rustls::ClientConfig, severer: &Severer) -> Result<Client, kube::Error> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let builder = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls.clone())
        .https_or_http();
    let builder = match &config.tls_server_name {
        Some(name) => builder.with_server_name_resolver(ServerName(name.clone())),
        None => builder,
    };
    let https = builder
        .enable_all_versions()
        .wrap_connector(Severable::new(tcp, severer.clone()));
    let http: hyper_util::client::legacy::Client<_, Body> =
        hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .http2_keep_alive_interval(KEEP_ALIVE)
            .http2_keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .build(https);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace.clone()))
}

/// Checks the server's certificate against the kubeconfig's `tls-server-name`.
#[derive(Debug)]
struct ServerName(String);

impl hyper_rustls::ResolveServerName for ServerName {
    fn resolve(&self, _uri: &Uri) -> Result<rustls::pki_types::ServerName<'static>, BoxError> {
        rustls::pki_types::ServerName::try_from(self.0.clone()).map_err(BoxError::from)
    }
}
