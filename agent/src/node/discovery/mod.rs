//! Finding the right cluster by a bootstrap token, as kubeadm does it: the ConfigMap `cluster-info` in `kube-public` holds
//! a kubeconfig with the cluster's CA; a signature made with the token vouches for it, and pins of the CA's public key
//! vouch for the CA even if the token has leaked.

mod fetch;
#[cfg(test)]
mod tests;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};

pub(super) use fetch::discover;

/// A bootstrap token `ID.SECRET`.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) id: String,
    secret: String,
}

impl Token {
    /// Reads `abcdef.0123456789abcdef`.
    ///
    /// # Errors
    /// A sentence that does not repeat the secret.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let is_word = |word: &str, length| {
            word.len() == length && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        match text.split_once('.') {
            Some((id, secret)) if is_word(id, 6) && is_word(secret, 16) => Ok(Self {
                id: id.to_owned(),
                secret: secret.to_owned(),
            }),
            _ => Err("a token is 6 and 16 lower-case letters or digits with a dot between".to_owned()),
        }
    }

    /// As it is sent.
    pub(super) fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }

    /// Checks the detached JWS (RFC 7515 appendix F, HS256) of `content`.
    ///
    /// # Errors
    /// What does not fit.
    pub(super) fn verify(&self, detached: &str, content: &str) -> Result<(), String> {
        let parts: Vec<&str> = detached.split('.').collect();
        let [header, "", signature] = parts.as_slice() else {
            return Err("its signature is no detached JWS".to_owned());
        };
        let decode = |text: &str| {
            URL_SAFE_NO_PAD
                .decode(text)
                .map_err(|_| "its signature is no detached JWS".to_owned())
        };
        let fields: serde_json::Value = serde_json::from_slice(&decode(header)?)
            .map_err(|_| "the header of its signature is no JSON".to_owned())?;
        if fields["alg"] != "HS256" || fields["kid"] != self.id.as_str() {
            return Err("its signature was not made by this token".to_owned());
        }
        let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, self.secret.as_bytes());
        ring::hmac::verify(&key, signed.as_bytes(), &decode(signature)?)
            .map_err(|_| "its signature does not fit the token: the token's secret is wrong".to_owned())
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.…", self.id)
    }
}

/// Pins of CA public keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pins(Vec<[u8; 32]>);

impl Pins {
    /// Reads `sha256:HEX` each.
    ///
    /// # Errors
    /// A sentence that names the bad one.
    pub(super) fn parse(texts: &[String]) -> Result<Self, String> {
        let one = |text: &String| {
            let refused =
                || format!("{text:?} is no hash of a CA key: write sha256: and 64 hexadecimal digits");
            let (kind, hex) = text.split_once(':').ok_or_else(refused)?;
            if !kind.eq_ignore_ascii_case("sha256") || hex.len() != 64 || !hex.is_ascii() {
                return Err(refused());
            }
            let mut hash = [0; 32];
            for (byte, digits) in hash.iter_mut().zip(hex.as_bytes().chunks(2)) {
                let digits = std::str::from_utf8(digits).map_err(|_| refused())?;
                *byte = u8::from_str_radix(digits, 16).map_err(|_| refused())?;
            }
            Ok(hash)
        };
        texts.iter().map(one).collect::<Result<_, _>>().map(Self)
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks that one of the certificates in `pem` has a pinned key.
    ///
    /// # Errors
    /// The hashes that were found instead.
    pub(super) fn check(&self, pem: &[u8]) -> Result<(), String> {
        let mut found = Vec::new();
        for der in CertificateDer::pem_slice_iter(pem) {
            let der = der.map_err(|cause| format!("its CA is no PEM: {cause}"))?;
            let (_, certificate) =
                x509_parser::parse_x509_certificate(&der).map_err(|cause| format!("its CA: {cause}"))?;
            let hash: [u8; 32] = Sha256::digest(certificate.public_key().raw).into();
            if self.0.contains(&hash) {
                return Ok(());
            }
            let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
            found.push(format!("sha256:{hex}"));
        }
        Err(format!(
            "its CA key has the hash {}, none of those given: this is another cluster than was meant, or the hash is \
             mistyped (\"kubeadm token create --print-join-command\" prints it)",
            if found.is_empty() {
                "of no certificate".to_owned()
            } else {
                found.join(", ")
            }
        ))
    }
}
