//! The talk with the API server that may not be trusted yet.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::super::Error;
use super::super::bootstrap::with_clocks;
use super::{Pins, Token};
use crate::api::{self, Api, Session};

/// How long an API server that is away is waited for, and the pauses between.
const PATIENCE: Duration = Duration::from_secs(300);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(10);
/// A new token's signature appears within about a second: tries before it counts as unknown.
const SIGNATURE_TRIES: usize = 10;

/// A cluster that is known to be the right one.
pub(in crate::node) struct Cluster {
    /// Address and CA, without credentials.
    pub(in crate::node) config: Config,
    /// The CA, PEM.
    pub(in crate::node) ca_pem: Vec<u8>,
}

/// Finds and checks the cluster at `endpoint`.
///
/// # Errors
/// [`Error::Discovery`] with cause and cure.
pub(in crate::node) async fn discover(endpoint: &str, token: &Token, pins: &Pins) -> Result<Cluster, Error> {
    let failed = |cause: String| Error::Discovery {
        endpoint: endpoint.to_owned(),
        cause,
    };
    let url: http::Uri = format!("https://{endpoint}")
        .parse()
        .map_err(|_| Error::Argument {
            argument: "HOST:PORT",
            cause: format!("{endpoint:?} is no address"),
        })?;
    let mut insecure = Config::new(url.clone());
    insecure.accept_invalid_certs = true;
    let text = signed_info(insecure, token, &failed).await?;
    let cluster = cluster(&text, token).await.map_err(&failed)?;
    if pins.is_empty() {
        return Ok(cluster);
    }
    pins.check(&cluster.ca_pem).map_err(&failed)?;
    // Once more by the pinned CA: what answered must hold its key, and say the same.
    let mut secure = Config::new(url);
    secure.root_cert = Some(ders(&cluster.ca_pem).map_err(&failed)?);
    let again = info(secure, &failed).await?;
    if again.data.unwrap_or_default().get("kubeconfig") != Some(&text) {
        return Err(failed(
            "cluster-info is another when asked for with the pinned CA".to_owned(),
        ));
    }
    Ok(cluster)
}

/// The kubeconfig of cluster-info, once its signature fits.
async fn signed_info(
    config: Config,
    token: &Token,
    failed: &impl Fn(String) -> Error,
) -> Result<String, Error> {
    for _ in 0..SIGNATURE_TRIES {
        let data = info(config.clone(), failed).await?.data.unwrap_or_default();
        let Some(text) = data.get("kubeconfig").filter(|text| !text.is_empty()) else {
            let cause = "there is no kubeconfig in the ConfigMap kube-public/cluster-info: this API server is not set \
                         up for bootstrap tokens";
            return Err(failed(cause.to_owned()));
        };
        if let Some(signature) = data.get(&format!("jws-kubeconfig-{}", token.id)) {
            let verified = token.verify(signature, text);
            return verified
                .map(|()| text.clone())
                .map_err(|cause| failed(format!("cluster-info: {cause}")));
        }
        tokio::time::sleep(FIRST_PAUSE).await;
    }
    Err(failed(format!(
        "token id {:?} is invalid for this cluster or it has expired. Use \"kubeadm token create\" on the \
         control-plane node to create a new valid token",
        token.id
    )))
}

/// The ConfigMap, waited for while the API server is away.
async fn info(config: Config, failed: &impl Fn(String) -> Error) -> Result<ConfigMap, Error> {
    let session = Session::new(config).map_err(|cause| failed(api::chain(&cause)))?;
    let api = Api::new(session);
    let began = tokio::time::Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match api.get::<ConfigMap>(Some("kube-public"), "cluster-info").await {
            Ok(Some(info)) => return Ok(info),
            Ok(None) => {
                return Err(failed(
                    "there is no ConfigMap kube-public/cluster-info".to_owned(),
                ));
            }
            Err(error) => error,
        };
        let words = with_clocks(&error.to_string(), jiff::Timestamp::now());
        let is_certificate = words.contains("invalid peer certificate");
        if !error.is_transient() || is_certificate || began.elapsed() + pause > PATIENCE {
            return Err(failed(words));
        }
        tracing::warn!(
            error = words,
            seconds = pause.as_secs(),
            "the API server does not answer, trying again"
        );
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// Address and CA of the signed kubeconfig.
async fn cluster(text: &str, token: &Token) -> Result<Cluster, String> {
    let refused = |cause: String| format!("the kubeconfig of cluster-info: {cause}");
    let mut file = Kubeconfig::from_yaml(text).map_err(|cause| refused(api::chain(&cause)))?;
    // It has neither users nor contexts: ours are added, so that one reader serves.
    let cluster = file
        .clusters
        .first()
        .ok_or_else(|| refused("it has no cluster".to_owned()))?
        .name
        .clone();
    let user = serde_json::json!({
        "users": [{"name": "tls-bootstrap-token-user", "user": {"token": token.bearer()}}],
        "contexts": [{"name": "bootstrap", "context": {"cluster": cluster, "user": "tls-bootstrap-token-user"}}],
    });
    let added: Kubeconfig = serde_json::from_value(user).expect("written above");
    file.auth_infos = added.auth_infos;
    file.contexts = added.contexts;
    file.current_context = Some("bootstrap".to_owned());
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(|cause| refused(api::chain(&cause)))?;
    let roots = config
        .root_cert
        .clone()
        .ok_or_else(|| refused("it has no CA".to_owned()))?;
    let ca_pem = roots
        .iter()
        .map(|der| super::super::bootstrap::pem_block("CERTIFICATE", der))
        .collect::<String>();
    Ok(Cluster {
        config,
        ca_pem: ca_pem.into_bytes(),
    })
}

fn ders(pem: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    CertificateDer::pem_slice_iter(pem)
        .map(|der| {
            der.map(|der| der.to_vec())
                .map_err(|cause| format!("its CA is no PEM: {cause}"))
        })
        .collect()
}
