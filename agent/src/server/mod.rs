//! The node's HTTPS API (port 10250) and its plain health port (10248).
//!
//! Every request on the HTTPS port is authenticated and authorized before anything else is looked at, also one for a
//! path that does not exist. `routes` is the one table of paths; what is not in it is refused.

mod authn;
mod authz;
mod cache;
mod client_ca;
mod connection;
mod container_logs;
mod health;
mod host;
mod logs;
mod node_host;
mod query;
mod response;
mod reviews;
mod routes;
#[cfg(test)]
mod tests;
mod tls;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use k8s_openapi::api::core::v1::Pod;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub(crate) use host::Host;
pub(crate) use node_host::NodeHost;
pub(crate) use reviews::{ApiReviews, Reviews};
pub(crate) use tls::Identity;

use crate::config::KubeletConfiguration;
use authn::Authenticator;
use authz::{Authorizer, Verdict};
use container_logs::Target;
use response::Body;
use routes::{Path, Route};

/// Why the server cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The client CA file.
    #[error("authentication.x509.clientCAFile: {0}")]
    ClientCa(String),
    /// An authorization mode that does not exist.
    #[error("authorization.mode {mode:?} is not one of AlwaysAllow, Webhook")]
    Mode { mode: String },
    /// An address that is none.
    #[error("address {address:?} is not an IP address")]
    Address { address: String },
    /// The port is taken, or the address is not this host's.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        address: SocketAddr,
        source: std::io::Error,
    },
}

/// The HTTPS API.
pub(crate) struct Server {
    authenticator: Authenticator,
    authorizer: Authorizer,
    identity: Arc<Identity>,
    host: Arc<dyn Host>,
    pod_logs_dir: PathBuf,
    debugging: bool,
}

impl Server {
    /// Sets the server up from the kubelet's configuration.
    ///
    /// # Errors
    /// Settings that cannot work.
    pub(crate) fn new(
        config: &KubeletConfiguration,
        identity: Arc<Identity>,
        reviews: Arc<dyn Reviews>,
        host: Arc<dyn Host>,
    ) -> Result<Arc<Self>, Error> {
        let authenticator =
            Authenticator::new(&config.authentication, Arc::clone(&reviews)).map_err(Error::ClientCa)?;
        let authorizer = Authorizer::new(&config.authorization, reviews).ok_or_else(|| Error::Mode {
            mode: config.authorization.mode.clone(),
        })?;
        let pod_logs_dir = PathBuf::from(&config.pod_logs_dir);
        let debugging = config.enable_debugging_handlers;
        Ok(Arc::new(Self {
            authenticator,
            authorizer,
            identity,
            host,
            pod_logs_dir,
            debugging,
        }))
    }

    /// Serves connections of `listener` until `stop`; then lets running responses end, which following logs do not.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        connection::accept_tls(self, listener, stop).await;
    }

    async fn answer<B>(
        &self,
        certificates: &[CertificateDer<'static>],
        request: &Request<B>,
    ) -> Response<Body> {
        let user = match self.authenticator.user(certificates, request.headers()).await {
            Ok(user) => user,
            Err(error) => {
                tracing::debug!(path = request.uri().path(), error, "request not authenticated");
                return response::text(StatusCode::UNAUTHORIZED, "Unauthorized");
            }
        };
        let Some(path) = Path::new(request.uri().path()) else {
            return response::text(StatusCode::BAD_REQUEST, "400: Bad Request");
        };
        let access = routes::access(request.method(), &path);
        match self.authorizer.decide(&user, &access).await {
            Verdict::Allowed => {}
            Verdict::Forbidden(text) => return response::text(StatusCode::FORBIDDEN, text),
            Verdict::Failed(text) => return response::text(StatusCode::INTERNAL_SERVER_ERROR, text),
        }
        let route = routes::route(request.method(), &path, self.debugging);
        self.serve_route(route, request.uri().query().unwrap_or_default())
            .await
    }

    async fn serve_route(&self, route: Route, query: &str) -> Response<Body> {
        match route {
            Route::Health => health::all(self.checks(), query),
            Route::HealthCheck(name) => health::one(self.checks(), &name).unwrap_or_else(response::not_found),
            Route::Pods => response::json(pod_list(&self.host.pods())),
            Route::ContainerLogs {
                namespace,
                pod,
                container,
            } => {
                let target = Target {
                    namespace: &namespace,
                    pod: &pod,
                    container: &container,
                };
                container_logs::answer(self.host.as_ref(), &self.pod_logs_dir, &target, query).await
            }
            Route::MethodNotAllowed { allow } => response::method_not_allowed(allow),
            Route::DebuggingDisabled => {
                response::text(StatusCode::METHOD_NOT_ALLOWED, "Debug endpoints are disabled.\n")
            }
            Route::NotFound => response::not_found(),
        }
    }

    fn checks(&self) -> health::Checks {
        vec![
            ("ping", Ok(())),
            ("log", Ok(())),
            ("syncloop", self.host.sync_loop()),
        ]
    }
}

/// A `v1.PodList`. Its items carry no kind of their own, as in every list.
fn pod_list(pods: &[Arc<Pod>]) -> String {
    let items: Vec<serde_json::Value> = pods
        .iter()
        .map(|pod| {
            let mut item = serde_json::to_value(pod.as_ref()).expect("API types always serialise");
            if let Some(fields) = item.as_object_mut() {
                fields.remove("kind");
                fields.remove("apiVersion");
            }
            item
        })
        .collect();
    serde_json::json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items }).to_string()
}

/// Listens for the HTTPS API where the configuration says.
///
/// # Errors
/// The address is none, or cannot be listened on.
pub(crate) async fn listen(config: &KubeletConfiguration) -> Result<TcpListener, Error> {
    bind(&config.address, config.port).await
}

async fn bind(address: &str, port: u16) -> Result<TcpListener, Error> {
    let ip: IpAddr = address.parse().map_err(|_| Error::Address {
        address: address.to_owned(),
    })?;
    let address = SocketAddr::new(ip, port);
    TcpListener::bind(address)
        .await
        .map_err(|source| Error::Listen { address, source })
}

/// Between attempts to listen on the health port.
const LISTEN_RETRY: Duration = Duration::from_secs(5);

/// Serves the plain health port until `stop`, trying again where it cannot listen. Port 0 switches it off.
pub(crate) async fn serve_health(config: &KubeletConfiguration, stop: CancellationToken) {
    if config.healthz_port == 0 {
        return;
    }
    loop {
        match bind(&config.healthz_bind_address, config.healthz_port).await {
            Ok(listener) => return connection::accept_plain(listener, stop).await,
            Err(error) => tracing::error!(%error, "health port"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LISTEN_RETRY) => {}
        }
    }
}
