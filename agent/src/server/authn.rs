//! Who is calling: client certificate, else bearer token, else (if allowed) anonymous.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use http::header::AUTHORIZATION;
use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};

use super::cache::Cache;
use super::client_ca::ClientCa;
use super::reviews::{Reviews, User};
use crate::config::Authentication;

const AUTHENTICATED: &str = "system:authenticated";
/// Longer than any token.
const TOKEN_LIMIT: usize = 16 * 1024;

pub(super) struct Authenticator {
    client_ca: Option<ClientCa>,
    tokens: Option<Tokens>,
    anonymous: bool,
}

struct Tokens {
    reviews: Arc<dyn Reviews>,
    /// By hash: the cache holds no secret. Refusals are kept as long as users.
    cache: Cache<[u8; 32], Option<User>>,
    ttl: Duration,
}

impl Authenticator {
    /// Reads the client CA file, if one is configured.
    pub(super) fn new(config: &Authentication, reviews: Arc<dyn Reviews>) -> Result<Self, String> {
        let file = Path::new(&config.x509.client_ca_file);
        let client_ca = (!file.as_os_str().is_empty())
            .then(|| ClientCa::load(file))
            .transpose()?;
        let tokens = config.webhook.enabled.then(|| Tokens {
            reviews,
            cache: Cache::new(),
            ttl: config.webhook.cache_ttl,
        });
        Ok(Self {
            client_ca,
            tokens,
            anonymous: config.anonymous.enabled,
        })
    }

    /// The caller of one request. The error is for the log. A bad credential is refused even where anonymous callers
    /// are let in.
    pub(super) async fn user(
        &self,
        certificates: &[CertificateDer<'static>],
        headers: &HeaderMap,
    ) -> Result<User, String> {
        let mut errors = Vec::new();
        if let (Some(client_ca), false) = (&self.client_ca, certificates.is_empty()) {
            match client_ca.user(certificates) {
                Ok(user) => return Ok(with_group(user)),
                Err(error) => errors.push(error),
            }
        }
        if let (Some(tokens), Some(token)) = (&self.tokens, bearer(headers)) {
            match tokens.user(token).await {
                Ok(Some(user)) => return Ok(with_group(user)),
                Ok(None) => errors.push("the API server does not know the bearer token".to_owned()),
                Err(error) => errors.push(error),
            }
        }
        if !errors.is_empty() {
            return Err(errors.join("; "));
        }
        if !self.anonymous {
            return Err("no credential".to_owned());
        }
        let groups = vec!["system:unauthenticated".to_owned()];
        Ok(User {
            name: "system:anonymous".to_owned(),
            groups,
            ..User::default()
        })
    }
}

impl Tokens {
    async fn user(&self, token: &str) -> Result<Option<User>, String> {
        if token.len() > TOKEN_LIMIT {
            return Ok(None);
        }
        let key = Sha256::digest(token).into();
        if let Some(known) = self.cache.get(&key, Instant::now()) {
            return Ok(known);
        }
        let user = self.reviews.token(token).await?;
        self.cache.put(key, user.clone(), Instant::now(), self.ttl);
        Ok(user)
    }
}

fn with_group(mut user: User) -> User {
    if !user.groups.iter().any(|group| group == AUTHENTICATED) {
        user.groups.push(AUTHENTICATED.to_owned());
    }
    user
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers
        .get(AUTHORIZATION)?
        .to_str()
        .ok()?
        .trim()
        .split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
