//! Client certificates: whether the configured CA vouches for one, and whom it names. The CA file is read again when
//! it changes.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::reviews::User;

/// The subject attribute that carries a user's UID.
const UID_OID: &str = "1.3.6.1.4.1.57683.2";
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// What tells one content of the file from another.
type Stamp = (u64, u64, Option<SystemTime>);

struct Loaded {
    stamp: Option<Stamp>,
    verifier: Result<Arc<dyn ClientCertVerifier>, String>,
}

pub(super) struct ClientCa {
    path: PathBuf,
    loaded: Mutex<Loaded>,
}

impl ClientCa {
    /// Reads the file.
    pub(super) fn load(path: &Path) -> Result<Self, String> {
        let stamp = stamp(path);
        let verifier = read(path)?;
        let loaded = Mutex::new(Loaded {
            stamp,
            verifier: Ok(verifier),
        });
        Ok(Self {
            path: path.to_owned(),
            loaded,
        })
    }

    /// The user a chain names. The file counts as it is now; one that cannot be read any more leaves the last good
    /// content in force.
    pub(super) fn user(&self, chain: &[CertificateDer<'static>]) -> Result<User, String> {
        let [end_entity, intermediates @ ..] = chain else {
            return Err("no certificate".to_owned());
        };
        let verifier = self.verifier()?;
        verifier
            .verify_client_cert(end_entity, intermediates, UnixTime::now())
            .map_err(|error| format!("verifying certificate: {error}"))?;
        named_user(end_entity)
    }

    fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, String> {
        let stamp = stamp(&self.path);
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if stamp != loaded.stamp {
            loaded.stamp = stamp;
            match read(&self.path) {
                Ok(verifier) => loaded.verifier = Ok(verifier),
                Err(error) => tracing::warn!(
                    error,
                    "client CA file changed and cannot be used; the last one stays"
                ),
            }
        }
        loaded.verifier.clone()
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.len(), metadata.modified().ok()))
}

fn read(path: &Path) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let failed = |error: String| format!("client CA file {}: {error}", path.display());
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates {
        let certificate = certificate.map_err(|error| failed(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| failed(error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    builder.build().map_err(|error| failed(error.to_string()))
}

/// The common name is the user, organizations are the groups.
fn named_user(certificate: &CertificateDer<'_>) -> Result<User, String> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().map(str::to_owned);
    let subject = parsed.subject();
    // Of several common names the last counts, as in Go.
    let name = subject
        .iter_common_name()
        .last()
        .map(text)
        .transpose()
        .map_err(|error| error.to_string())?;
    let name = name
        .filter(|name| !name.is_empty())
        .ok_or("the certificate names no user")?;
    let groups = subject
        .iter_organization()
        .map(text)
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    let uid = subject
        .iter_attributes()
        .find(|attribute| attribute.attr_type().to_id_string() == UID_OID);
    let uid = uid
        .map(text)
        .transpose()
        .map_err(|error| error.to_string())?
        .unwrap_or_default();
    let hash: String = Sha256::digest(certificate)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let extra = BTreeMap::from([(CREDENTIAL_ID.to_owned(), vec![format!("X509SHA256={hash}")])]);
    Ok(User {
        name,
        uid,
        groups,
        extra,
    })
}
