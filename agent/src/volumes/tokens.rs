//! Service account tokens, asked for once and again before they end. Contract §7.4.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccountTokenProjection};

use super::error::Cause;
use crate::api::Objects;

const DEFAULT_SECONDS: i64 = 3600;
const MAX_AGE: SignedDuration = SignedDuration::from_hours(24);
/// Refreshes of many pods must not fall together.
const MAX_JITTER_MILLIS: i64 = 10_000;
/// Wait after a refresh that failed.
const RETRY: SignedDuration = SignedDuration::from_secs(30);

/// What a token is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TokenKey {
    pub(super) pod_uid: String,
    pod_name: String,
    namespace: String,
    account: String,
    audience: Option<String>,
    seconds: i64,
}

impl TokenKey {
    pub(super) fn of(pod: &Pod, projection: &ServiceAccountTokenProjection) -> Self {
        let metadata = &pod.metadata;
        let account = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.service_account_name.clone());
        Self {
            pod_uid: metadata.uid.clone().unwrap_or_default(),
            pod_name: metadata.name.clone().unwrap_or_default(),
            namespace: metadata.namespace.clone().unwrap_or_default(),
            account: account
                .filter(|name| !name.is_empty())
                .unwrap_or_else(|| "default".to_owned()),
            audience: projection
                .audience
                .clone()
                .filter(|audience| !audience.is_empty()),
            seconds: projection.expiration_seconds.unwrap_or(DEFAULT_SECONDS),
        }
    }

    fn request(&self) -> TokenRequest {
        TokenRequest {
            spec: Some(TokenRequestSpec {
                // No audience: the API server's own.
                audiences: Some(self.audience.iter().cloned().collect()),
                expiration_seconds: Some(self.seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(self.pod_name.clone()),
                    uid: Some(self.pod_uid.clone()),
                }),
            }),
            ..TokenRequest::default()
        }
    }
}

/// A token and its times.
#[derive(Clone)]
pub(super) struct Held {
    token: String,
    expires: Timestamp,
    /// When to ask for the next one.
    pub(super) refresh: Timestamp,
}

/// When a token with that life time must be replaced: at 80 % of it, and each day.
pub(super) fn refresh_time(expires: Timestamp, seconds: i64, jitter: SignedDuration) -> Timestamp {
    let before = |span: SignedDuration| expires.checked_sub(span).unwrap_or(Timestamp::MIN);
    let late = before(SignedDuration::from_secs(seconds.saturating_mul(20) / 100));
    let issued = before(SignedDuration::from_secs(seconds));
    let daily = issued.checked_add(MAX_AGE).unwrap_or(Timestamp::MAX);
    late.min(daily).checked_sub(jitter).unwrap_or(Timestamp::MIN)
}

/// The tokens of all pods of the node. They live in memory and in the volumes only.
#[derive(Default)]
pub(super) struct Tokens {
    held: Mutex<BTreeMap<TokenKey, Held>>,
}

impl Tokens {
    /// The token for `key` and when it must be asked for again: the one held while it is fresh, else a new one. A
    /// refresh that fails leaves the old one in force until it expires.
    pub(super) async fn get(
        &self,
        objects: &Objects,
        key: &TokenKey,
        now: Timestamp,
    ) -> Result<(String, Timestamp), Cause> {
        let held = self.lock().get(key).cloned();
        if let Some(held) = held.as_ref().filter(|held| now < held.refresh) {
            return Ok((held.token.clone(), held.refresh));
        }
        match self.ask(objects, key, now).await {
            Ok(fresh) => {
                let answer = (fresh.token.clone(), fresh.refresh);
                self.lock().insert(key.clone(), fresh);
                Ok(answer)
            }
            Err(error) => match held.filter(|held| now < held.expires) {
                Some(held) => {
                    tracing::warn!(
                        account = key.account,
                        namespace = key.namespace,
                        pod = key.pod_name,
                        %error,
                        "service account token not renewed, the old one stays in force"
                    );
                    Ok((held.token, now.checked_add(RETRY).unwrap_or(Timestamp::MAX)))
                }
                None => Err(error),
            },
        }
    }

    /// Drops the tokens of a pod that is over.
    pub(super) fn forget(&self, pod_uid: &str) {
        self.lock().retain(|key, _| key.pod_uid != pod_uid);
    }

    async fn ask(&self, objects: &Objects, key: &TokenKey, now: Timestamp) -> Result<Held, Cause> {
        let answer = objects
            .token(&key.namespace, &key.account, &key.request())
            .await
            .map_err(Cause::Api)?;
        let seconds = answer
            .spec
            .and_then(|spec| spec.expiration_seconds)
            .unwrap_or(key.seconds);
        let missing = || Cause::NoToken {
            account: key.account.clone(),
        };
        let status = answer.status.ok_or_else(missing)?;
        let token = status
            .token
            .filter(|token| !token.is_empty())
            .ok_or_else(missing)?;
        let expires = match status.expiration_timestamp {
            Some(time) => time.0,
            None => now
                .checked_add(SignedDuration::from_secs(seconds))
                .unwrap_or(Timestamp::MAX),
        };
        let jitter = SignedDuration::from_millis(rand::random_range(0..MAX_JITTER_MILLIS));
        Ok(Held {
            token,
            expires,
            refresh: refresh_time(expires, seconds, jitter),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<TokenKey, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
