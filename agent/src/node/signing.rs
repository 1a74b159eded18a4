//! Certificate signing requests: ask, wait, read the verdict.

use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestSpec, CertificateSigningRequestStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Error;
use crate::api::Api;

/// Signs client certificates of nodes.
pub(super) const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signs serving certificates of nodes.
pub(super) const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";

/// Longest wait for a signature.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Pauses between looks: a watch would need a right that bootstrap tokens do not always have.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// What is asked for.
pub(super) struct Ask<'a> {
    /// A fixed name, or `None` for one that the server makes up (`csr-…`).
    pub(super) name: Option<String>,
    pub(super) signer: &'static str,
    /// `client auth` or `server auth`
    pub(super) usage: &'static str,
    pub(super) request_pem: &'a str,
    pub(super) point: &'static str,
}

/// The object to post.
pub(super) fn request(ask: &Ask<'_>) -> CertificateSigningRequest {
    CertificateSigningRequest {
        metadata: ObjectMeta {
            name: ask.name.clone(),
            generate_name: ask.name.is_none().then(|| "csr-".to_owned()),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(ask.request_pem.as_bytes().to_vec()),
            signer_name: ask.signer.to_owned(),
            usages: Some(vec!["digital signature".to_owned(), ask.usage.to_owned()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    }
}

/// Posts the request, or finds it posted before; answers its name.
///
/// # Errors
/// [`Error::Api`].
pub(super) async fn post(api: &Api, ask: &Ask<'_>) -> Result<String, Error> {
    match api.create(ask.point, None, &request(ask)).await {
        Ok(made) => Ok(made.metadata.name.unwrap_or_default()),
        Err(error) => match &ask.name {
            // The name is a digest of the key: whoever posted it had ours.
            Some(name) if error.is_already_exists() => Ok(name.clone()),
            _ => Err(Error::api("ask for a certificate")(error)),
        },
    }
}

/// Waits for the signed certificate (PEM).
///
/// # Errors
/// [`Error::NotSigned`], [`Error::Unsigned`], or [`Error::Api`] when the request is gone or refused to us.
pub(super) async fn wait(api: &Api, name: &str) -> Result<Vec<u8>, Error> {
    let waited = tokio::time::timeout(PATIENCE, async {
        let mut pause = FIRST_PAUSE;
        loop {
            match api.get::<CertificateSigningRequest>(None, name).await {
                Ok(Some(request)) => {
                    if let Some(verdict) = verdict(name, request.status.as_ref()) {
                        return verdict;
                    }
                }
                Ok(None) => {
                    let message = "it was deleted before it was signed".to_owned();
                    return Err(Error::NotSigned {
                        name: name.to_owned(),
                        verdict: "deleted",
                        message,
                    });
                }
                Err(error) if error.is_transient() => {
                    tracing::warn!(%error, "still waiting for a certificate");
                }
                Err(error) => return Err(Error::api("wait for a certificate")(error)),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    });
    waited.await.unwrap_or_else(|_| {
        Err(Error::Unsigned {
            name: name.to_owned(),
            minutes: PATIENCE.as_secs() / 60,
        })
    })
}

/// What a status says: nothing yet, the certificate, or a refusal.
pub(super) fn verdict(
    name: &str,
    status: Option<&CertificateSigningRequestStatus>,
) -> Option<Result<Vec<u8>, Error>> {
    let status = status?;
    let conditions = status.conditions.as_deref().unwrap_or_default();
    for (kind, word) in [("Denied", "denied"), ("Failed", "marked as failed")] {
        if let Some(condition) = conditions.iter().find(|condition| condition.type_ == kind) {
            let message = condition
                .message
                .clone()
                .or_else(|| condition.reason.clone())
                .unwrap_or_default();
            return Some(Err(Error::NotSigned {
                name: name.to_owned(),
                verdict: word,
                message,
            }));
        }
    }
    let approved = conditions.iter().any(|condition| condition.type_ == "Approved");
    let certificate = status
        .certificate
        .as_ref()
        .filter(|certificate| !certificate.0.is_empty())?;
    approved.then(|| Ok(certificate.0.clone()))
}
