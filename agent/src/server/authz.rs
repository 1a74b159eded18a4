//! May this caller do that: by SubjectAccessReview, or always.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cache::Cache;
use super::reviews::{Reviews, User};
use super::routes::Access;
use crate::config::Authorization;

/// The answer for one request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Allowed,
    /// 403 with this text.
    Forbidden(String),
    /// 500 with this text; the cause is logged.
    Failed(String),
}

/// Cached by user, verb and subresource.
type Key = (User, &'static str, &'static str);

pub(super) struct Authorizer {
    /// `None`: mode `AlwaysAllow`.
    reviews: Option<Arc<dyn Reviews>>,
    allowed_ttl: Duration,
    denied_ttl: Duration,
    cache: Cache<Key, bool>,
}

impl Authorizer {
    /// `None` for a mode that does not exist.
    pub(super) fn new(config: &Authorization, reviews: Arc<dyn Reviews>) -> Option<Self> {
        let reviews = match config.mode.as_str() {
            "AlwaysAllow" => None,
            "Webhook" => Some(reviews),
            _ => return None,
        };
        Some(Self {
            reviews,
            allowed_ttl: config.webhook.cache_authorized_ttl,
            denied_ttl: config.webhook.cache_unauthorized_ttl,
            cache: Cache::new(),
        })
    }

    /// Any one of the subresources will do; they are asked for in order.
    pub(super) async fn decide(&self, user: &User, access: &Access) -> Verdict {
        let Some(reviews) = &self.reviews else {
            return Verdict::Allowed;
        };
        let (name, verb) = (&user.name, access.verb);
        for subresource in access.subresources {
            match self.ask(reviews.as_ref(), user, verb, subresource).await {
                Ok(true) => return Verdict::Allowed,
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(user = name, verb, subresource, error, "authorization failed");
                    return Verdict::Failed(format!(
                        "Authorization error (user={name}, verb={verb}, resource=nodes, subresource={subresource})"
                    ));
                }
            }
        }
        let subresources = access.subresources.join(" ");
        Verdict::Forbidden(format!(
            "Forbidden (user={name}, verb={verb}, resource=nodes, subresource(s)=[{subresources}])\n"
        ))
    }

    async fn ask(
        &self,
        reviews: &dyn Reviews,
        user: &User,
        verb: &'static str,
        subresource: &'static str,
    ) -> Result<bool, String> {
        let key = (user.clone(), verb, subresource);
        if let Some(allowed) = self.cache.get(&key, Instant::now()) {
            return Ok(allowed);
        }
        let allowed = reviews.access(user, verb, subresource).await?;
        let ttl = if allowed {
            self.allowed_ttl
        } else {
            self.denied_ttl
        };
        self.cache.put(key, allowed, Instant::now(), ttl);
        Ok(allowed)
    }
}
