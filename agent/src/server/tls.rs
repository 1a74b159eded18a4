//! The TLS side: which certificate is shown, and that client certificates are asked for.
//!
//! With `serverTLSBootstrap` there is no serving certificate until somebody approves its request. Upstream then fails
//! every handshake with an internal error that says nothing. Here the handshake succeeds with a certificate made for
//! the moment, and every request on such a connection is answered, before any credential is looked at, with a text that
//! names the request and the command that approves it. The status is 500 because the API server hands the text of a 500
//! (or 400) through to the user and drops that of any other, 503 included.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme, SupportedProtocolVersion,
};

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// `tlsMinVersion` names no version that exists here.
    #[error("tlsMinVersion {name:?} is not one of VersionTLS10, VersionTLS11, VersionTLS12, VersionTLS13")]
    Version { name: String },
    /// `tlsCipherSuites` names suites that do not exist here.
    #[error("tlsCipherSuites: {names:?} are not supported; supported are {supported:?}")]
    CipherSuites {
        names: Vec<String>,
        supported: Vec<String>,
    },
    /// A certificate or key that does not work.
    #[error("serving certificate: {0}")]
    Certificate(String),
}

/// What new connections get.
pub(super) struct Shown {
    pub(super) config: Arc<ServerConfig>,
    /// All that such a connection may hear; `None` once there is a certificate.
    pub(super) pending: Option<String>,
}

/// The node's identity towards callers. Set and changed at any time; connections keep what they began with.
pub(crate) struct Identity {
    provider: Arc<CryptoProvider>,
    versions: Vec<&'static SupportedProtocolVersion>,
    shown: ArcSwap<Shown>,
}

impl Identity {
    /// An identity without certificate yet.
    ///
    /// # Errors
    /// Settings that name unknown versions or cipher suites.
    pub(crate) fn new(min_version: &str, cipher_suites: &[String]) -> Result<Arc<Self>, Error> {
        let provider = Arc::new(provider(cipher_suites)?);
        let versions = versions(min_version)?;
        let text = "the node has no serving certificate yet".to_owned();
        let config = temporary(&provider, &versions)?;
        let shown = ArcSwap::from_pointee(Shown {
            config,
            pending: Some(text),
        });
        Ok(Arc::new(Self {
            provider,
            versions,
            shown,
        }))
    }

    /// Shows this certificate (its chain first to last) from now on.
    ///
    /// # Errors
    /// A key that does not fit or is of an unknown kind. What was shown before stays.
    pub(crate) fn set(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<(), Error> {
        let config = server_config(&self.provider, &self.versions, chain, key)?;
        self.shown.store(Arc::new(Shown {
            config,
            pending: None,
        }));
        Ok(())
    }

    /// Says which certificate signing request waits for approval. Does nothing if there is a certificate: a renewal
    /// that waits takes nothing away.
    pub(crate) fn set_pending(&self, request: &str) {
        let text = format!(
            "the node's serving certificate is not approved yet: its certificate signing request {request} is \
             pending; approve it with: kubectl certificate approve {request}"
        );
        self.shown.rcu(|shown| match shown.pending {
            Some(_) => Arc::new(Shown {
                config: Arc::clone(&shown.config),
                pending: Some(text.clone()),
            }),
            None => Arc::clone(shown),
        });
    }

    /// What a new connection gets.
    pub(super) fn shown(&self) -> Arc<Shown> {
        self.shown.load_full()
    }
}

fn provider(cipher_suites: &[String]) -> Result<CryptoProvider, Error> {
    let mut provider = rustls::crypto::ring::default_provider();
    if cipher_suites.is_empty() {
        return Ok(provider);
    }
    // Upstream's names of TLS 1.2 suites are the standard ones; those of TLS 1.3 cannot be chosen.
    let name = |suite: &rustls::SupportedCipherSuite| format!("{:?}", suite.suite());
    let supported: Vec<String> = provider.cipher_suites.iter().map(name).collect();
    // Go has a second name for each ChaCha20 suite.
    let plain = |wanted: &String| {
        wanted
            .replace("POLY1305_SHA256", "POLY1305")
            .replace("POLY1305", "POLY1305_SHA256")
    };
    let wanted: Vec<String> = cipher_suites.iter().map(plain).collect();
    let unknown: Vec<String> = wanted
        .iter()
        .filter(|wanted| !supported.contains(*wanted))
        .cloned()
        .collect();
    if !unknown.is_empty() {
        return Err(Error::CipherSuites {
            names: unknown,
            supported,
        });
    }
    provider
        .cipher_suites
        .retain(|suite| suite.tls13().is_some() || wanted.contains(&name(suite)));
    Ok(provider)
}

fn versions(min_version: &str) -> Result<Vec<&'static SupportedProtocolVersion>, Error> {
    match min_version {
        "" | "VersionTLS10" | "VersionTLS11" | "VersionTLS12" => {
            Ok(vec![&rustls::version::TLS13, &rustls::version::TLS12])
        }
        "VersionTLS13" => Ok(vec![&rustls::version::TLS13]),
        name => Err(Error::Version {
            name: name.to_owned(),
        }),
    }
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    versions: &[&'static SupportedProtocolVersion],
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, Error> {
    let failed = |error: rustls::Error| Error::Certificate(error.to_string());
    let verifier = AnyClient {
        algorithms: provider.signature_verification_algorithms,
    };
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions)
        .map_err(failed)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(chain, key)
        .map_err(failed)?;
    // Upgraded streams need HTTP/1.1, and one protocol is half the surface.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Each connection proves its certificate anew, so that none outlives a change of the CA or of ours.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// A certificate for nobody, made on the spot.
fn temporary(
    provider: &Arc<CryptoProvider>,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<Arc<ServerConfig>, Error> {
    let made = rcgen::generate_simple_self_signed(["certificate-pending.invalid".to_owned()])
        .map_err(|error| Error::Certificate(error.to_string()))?;
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    server_config(provider, versions, vec![made.cert.der().clone()], key)
}

/// Takes any client certificate whose key the client has. Whether anybody vouches for it is asked for each request: a
/// bad one is to be answered with 401, as upstream does, not with a broken handshake.
struct AnyClient {
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for AnyClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("AnyClient")
    }
}

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
