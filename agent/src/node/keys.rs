//! Keys, certificate requests and certificates: pure but for randomness.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::Error;

fn failed(operation: &'static str) -> impl FnOnce(rcgen::Error) -> Error {
    move |cause| Error::Crypto {
        operation,
        cause: cause.to_string(),
    }
}

/// A new ECDSA P-256 key, in PEM (PKCS#8).
///
/// # Errors
/// [`Error::Crypto`].
pub(super) fn generate() -> Result<String, Error> {
    Ok(KeyPair::generate()
        .map_err(failed("generate a key"))?
        .serialize_pem())
}

fn identity(node_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "system:nodes");
    params
        .distinguished_name
        .push(DnType::CommonName, format!("system:node:{node_name}"));
    params
}

fn sans(names: &[String], addresses: &[IpAddr]) -> Result<Vec<SanType>, Error> {
    let mut sans = Vec::new();
    for name in names {
        let name = name
            .as_str()
            .try_into()
            .map_err(failed("put a name into a certificate"))?;
        sans.push(SanType::DnsName(name));
    }
    sans.extend(addresses.iter().copied().map(SanType::IpAddress));
    Ok(sans)
}

/// A request for a node's client certificate, in PEM.
///
/// # Errors
/// [`Error::Crypto`].
pub(super) fn client_request(node_name: &str, key_pem: &str) -> Result<String, Error> {
    let key = KeyPair::from_pem(key_pem).map_err(failed("read the client key"))?;
    let request = identity(node_name)
        .serialize_request(&key)
        .map_err(failed("make a certificate request"))?;
    request.pem().map_err(failed("write a certificate request"))
}

/// A request for a node's serving certificate, in PEM.
///
/// # Errors
/// [`Error::Crypto`].
pub(super) fn serving_request(
    node_name: &str,
    key_pem: &str,
    names: &[String],
    addresses: &[IpAddr],
) -> Result<String, Error> {
    let key = KeyPair::from_pem(key_pem).map_err(failed("read the serving key"))?;
    let mut params = identity(node_name);
    params.subject_alt_names = sans(names, addresses)?;
    let request = params
        .serialize_request(&key)
        .map_err(failed("make a certificate request"))?;
    request.pem().map_err(failed("write a certificate request"))
}

/// A self-signed serving certificate for a year and its key, in PEM, as the kubelet makes one: the host name, and the
/// node's addresses.
///
/// # Errors
/// [`Error::Crypto`].
pub(super) fn self_signed(
    host: &str,
    addresses: &[IpAddr],
    now: Timestamp,
) -> Result<(String, String), Error> {
    const HOUR: Duration = Duration::from_secs(3600);
    let key = KeyPair::generate().map_err(failed("generate a key"))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("{host}@{}", now.as_second()));
    params.subject_alt_names = sans(&[host.to_owned()], addresses)?;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let now = Duration::from_secs(u64::try_from(now.as_second()).unwrap_or(0));
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    // An hour of grace for clocks behind ours.
    params.not_before = epoch + now.saturating_sub(HOUR);
    params.not_after = epoch + now + HOUR * 24 * 365;
    let certificate = params.self_signed(&key).map_err(failed("sign a certificate"))?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// A certificate chain and its key from their PEM texts.
///
/// # Errors
/// [`Error::Crypto`].
pub(super) fn parsed(
    chain_pem: &[u8],
    key_pem: &[u8],
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    let refused = |cause: String| Error::Crypto {
        operation: "use a certificate with its key",
        cause,
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain_pem)
        .collect::<Result<_, _>>()
        .map_err(|cause| refused(cause.to_string()))?;
    if chain.is_empty() {
        return Err(refused("there is no certificate".to_owned()));
    }
    let key =
        PrivateKeyDer::from_pem_slice(key_pem).map_err(|cause| refused(format!("private key: {cause}")))?;
    Ok((chain, key))
}

/// A certificate chain with its key, ready for TLS.
///
/// # Errors
/// [`Error::Crypto`], also when the key is not the certificate's.
pub(super) fn certified(chain_pem: &[u8], key_pem: &[u8]) -> Result<CertifiedKey, Error> {
    let (chain, key) = parsed(chain_pem, key_pem)?;
    let provider = rustls::crypto::ring::default_provider();
    CertifiedKey::from_der(chain, key, &provider).map_err(|cause| Error::Crypto {
        operation: "use a certificate with its key",
        cause: cause.to_string(),
    })
}

/// When the first certificate of a PEM text begins and ceases to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) from: Timestamp,
    pub(crate) until: Timestamp,
}

impl Validity {
    /// Reads it.
    ///
    /// # Errors
    /// [`Error::Crypto`].
    pub(super) fn of(chain_pem: &[u8]) -> Result<Self, Error> {
        let refused = |cause: String| Error::Crypto {
            operation: "read a certificate's validity",
            cause,
        };
        let first = CertificateDer::pem_slice_iter(chain_pem).next();
        let der = first
            .ok_or_else(|| refused("there is no certificate".to_owned()))?
            .map_err(|cause| refused(cause.to_string()))?;
        let (_, certificate) =
            x509_parser::parse_x509_certificate(&der).map_err(|cause| refused(cause.to_string()))?;
        let time = |at: x509_parser::time::ASN1Time| {
            Timestamp::from_second(at.timestamp()).map_err(|cause| refused(cause.to_string()))
        };
        let validity = certificate.validity();
        Ok(Self {
            from: time(validity.not_before)?,
            until: time(validity.not_after)?,
        })
    }

    /// Whether it holds at `now`.
    pub(crate) fn holds(&self, now: Timestamp) -> bool {
        self.from <= now && now < self.until
    }

    /// When to renew: after 70 to 90 % of the life; `share` in 0..1 says where between.
    pub(super) fn renewal(&self, share: f64) -> Timestamp {
        let life = self.until.as_second() - self.from.as_second();
        let part = 0.7 + 0.2 * share.clamp(0.0, 1.0);
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            reason = "a second more or less"
        )]
        let after = (life as f64 * part).round() as i64;
        Timestamp::from_second(self.from.as_second() + after).unwrap_or(self.until)
    }
}

/// The name of a certificate request that stays the same for one key and node: a restart finds its own again.
pub(super) fn request_name(node_name: &str, key_pem: &str) -> Result<String, Error> {
    use base64::Engine as _;
    let key = KeyPair::from_pem(key_pem).map_err(failed("read the client key"))?;
    let mut digest = ring::digest::Context::new(&ring::digest::SHA512_256);
    for part in [
        key.public_key_raw(),
        node_name.as_bytes(),
        b"system:nodes",
        b"client auth",
    ] {
        digest.update(&(part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    let text = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest.finish());
    Ok(format!("node-csr-{text}"))
}
