//! The client of the distribution API: manifests and blobs, over the hosts of a registry in order.
//!
//! Redirects are followed here, at most five, and lose the `Authorization` of the origin they leave. Every answer that
//! is held in memory is bounded.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE,
};
use reqwest::{Client, Response, StatusCode};
use url::Url;

use super::auth::{self, Challenge, Credentials, TokenRequest};
use super::digest::Digest;
use super::document::{MAX_DOCUMENT, accepted};
use super::error::{Error, Result};
use super::hosts::{Host, Tls, hosts_for};
use super::reference::{Reference, Version};
use crate::state;

mod answer;
mod clients;
#[cfg(test)]
mod tests;

pub(crate) use answer::chain;
pub(crate) use clients::Registries;

use answer::{Failure, Problem, bounded, judge, redirect, unreachable};

const MAX_REDIRECTS: usize = 5;
const MAX_TOKEN: u64 = 1 << 20;

/// One pull's view of one registry.
pub(crate) struct Session {
    registries: Arc<Registries>,
    reference: Reference,
    hosts: Vec<Host>,
    credentials: Option<Credentials>,
    /// `Authorization` by origin.
    authorizations: Mutex<HashMap<String, HeaderValue>>,
}

/// A manifest or index as served, its digest checked against the reference and the header.
pub(crate) struct Fetched {
    pub(crate) bytes: Bytes,
    pub(crate) digest: Digest,
    pub(crate) content_type: Option<String>,
}

/// A blob's bytes from `offset` on.
pub(crate) struct Body {
    pub(crate) response: Response,
    pub(crate) offset: u64,
}

impl Registries {
    /// Opens the way to `reference`.
    pub(crate) fn session(
        self: &Arc<Self>,
        reference: &Reference,
        auth: Option<&proto::cri::AuthConfig>,
    ) -> Result<Session> {
        let denied = |reason| Error::Denied {
            reference: reference.to_string(),
            reason,
        };
        let credentials = auth
            .map(|auth| Credentials::for_registry(auth, reference.domain()).map_err(denied))
            .transpose()?
            .flatten();
        Ok(Session {
            registries: Arc::clone(self),
            reference: reference.clone(),
            hosts: hosts_for(self.directory.as_deref(), reference.domain())?,
            credentials,
            authorizations: Mutex::default(),
        })
    }
}

impl Session {
    /// Fetches what the reference stands for.
    pub(crate) async fn resolve(&self) -> Result<Fetched> {
        match self.reference.version() {
            Version::Tag(tag) => self.manifest(tag, None).await,
            Version::Digest(digest) => self.manifest(&digest.to_string(), Some(*digest)).await,
        }
    }

    /// Fetches the manifest or index `digest`.
    pub(crate) async fn document(&self, digest: Digest) -> Result<Fetched> {
        self.manifest(&digest.to_string(), Some(digest)).await
    }

    async fn manifest(&self, version: &str, expected: Option<Digest>) -> Result<Fetched> {
        let mut headers = HeaderMap::new();
        headers.insert(
            ACCEPT,
            HeaderValue::from_str(&accepted()).expect("media types are plain text"),
        );
        let path = format!("manifests/{version}");
        let usable = |host: &Host| host.pull && (expected.is_some() || host.resolve);
        let response = self.first(usable, &path, &headers).await?;
        let header = |name: &str| {
            response
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok().map(str::to_owned))
        };
        let content_type = header(CONTENT_TYPE.as_str())
            .map(|value| value.split(';').next().unwrap_or_default().trim().to_owned());
        let said = header("docker-content-digest");
        let object = format!("manifest {}", self.reference);
        let bytes = bounded(response, MAX_DOCUMENT)
            .await
            .map_err(|problem| self.transfer(problem, &object, MAX_DOCUMENT))?;
        let digest = Digest::of(&bytes);
        // Another algorithm in the header is not ours to check; the reference's digest is.
        let said = said.and_then(|said| said.parse().ok());
        for expected in [expected, said].into_iter().flatten() {
            if expected != digest {
                return Err(Error::DigestMismatch {
                    object,
                    expected,
                    actual: digest,
                });
            }
        }
        Ok(Fetched {
            bytes,
            digest,
            content_type,
        })
    }

    /// Opens the blob `digest` at `offset`; a host may answer from the beginning.
    pub(crate) async fn blob(&self, digest: Digest, offset: u64) -> Result<Body> {
        let mut headers = HeaderMap::new();
        if offset > 0 {
            let range = format!("bytes={offset}-");
            headers.insert(
                RANGE,
                HeaderValue::from_str(&range).expect("digits are plain text"),
            );
        }
        let response = self
            .first(|host| host.pull, &format!("blobs/{digest}"), &headers)
            .await?;
        let begins = response
            .headers()
            .get(CONTENT_RANGE)
            .and_then(|range| range.to_str().ok());
        let offset = match response.status() {
            StatusCode::PARTIAL_CONTENT => begins
                .and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok())
                .filter(|begins| *begins == offset)
                .ok_or_else(|| {
                    self.protocol(format!("blob {digest}: another range than the one asked for"))
                })?,
            _ => 0,
        };
        Ok(Body { response, offset })
    }

    /// The first usable host's answer; if none has it, the failure that tells most.
    async fn first(
        &self,
        usable: impl Fn(&Host) -> bool,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Response> {
        let mut worst: Option<Failure> = None;
        for host in self.hosts.iter().filter(|host| usable(host)) {
            match self.ask(host, path, headers).await {
                Ok(response) => return Ok(response),
                Err(failure) => {
                    tracing::debug!(host = %auth::origin(&host.base), ?failure, "trying next host");
                    if worst.as_ref().is_none_or(|worst| worst.rank() < failure.rank()) {
                        worst = Some(failure);
                    }
                }
            }
        }
        let reference = self.reference.to_string();
        Err(match worst {
            Some(Failure::Unreachable(reason)) => Error::RegistryUnavailable { reference, reason },
            Some(Failure::Denied(reason)) => Error::Denied { reference, reason },
            Some(Failure::Refused(reason)) => Error::Protocol { reference, reason },
            Some(Failure::NotFound) => Error::NotFound { reference },
            None => self.protocol("no host of the registry may be pulled from".to_owned()),
        })
    }

    /// Asks one host, with a token if it wants one.
    async fn ask(
        &self,
        host: &Host,
        path: &str,
        headers: &HeaderMap,
    ) -> std::result::Result<Response, Failure> {
        let mut url = host
            .base
            .join(&format!("{}/{path}", self.reference.path()))
            .map_err(|error| Failure::Refused(error.to_string()))?;
        if host.mirror {
            url.query_pairs_mut().append_pair("ns", self.reference.domain());
        }
        let response = self.follow(host, url.clone(), headers).await?;
        if response.status() != StatusCode::UNAUTHORIZED || response.url().origin() != host.base.origin() {
            return judge(response);
        }
        let challenge = Challenge::from_headers(response.headers());
        let authorization = self.authorize(host, challenge).await?;
        self.authorizations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(auth::origin(&host.base), authorization);
        judge(self.follow(host, url, headers).await?)
    }

    /// GET with redirects.
    async fn follow(
        &self,
        host: &Host,
        start: Url,
        headers: &HeaderMap,
    ) -> std::result::Result<Response, Failure> {
        let mut url = start;
        for _ in 0..=MAX_REDIRECTS {
            let own = url.origin() == host.base.origin();
            let tls = if own { host.tls.clone() } else { Tls::default() };
            let client = self.client(&url, &tls)?;
            let mut request = client.get(url.clone()).headers(headers.clone());
            if own {
                for (name, value) in &host.headers {
                    request = request.header(name, value);
                }
                let known = self.authorizations.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(authorization) = known.get(&auth::origin(&url)) {
                    request = request.header(AUTHORIZATION, authorization.clone());
                }
            }
            let response = request.send().await.map_err(|error| unreachable(&url, error))?;
            let Some(next) = redirect(&response).map_err(Failure::Refused)? else {
                return Ok(response);
            };
            auth::check_target(&host.base, &next).map_err(Failure::Refused)?;
            url = next;
        }
        Err(Failure::Refused(format!(
            "{}: more than {MAX_REDIRECTS} redirects",
            auth::origin(&host.base)
        )))
    }

    fn client(&self, url: &Url, tls: &Tls) -> std::result::Result<Client, Failure> {
        self.registries
            .client((url.scheme() == "https").then_some(tls))
            .map_err(|reason| Failure::Refused(format!("TLS settings for {}: {reason}", auth::origin(url))))
    }

    /// Answers a challenge.
    async fn authorize(
        &self,
        host: &Host,
        challenge: Option<Challenge>,
    ) -> std::result::Result<HeaderValue, Failure> {
        let refused = || Failure::Denied(format!("{}: authorization failed", auth::origin(&host.base)));
        if let Some(Credentials::Token(token)) = &self.credentials {
            return auth::secret(&format!("Bearer {token}")).ok_or_else(refused);
        }
        match challenge {
            Some(Challenge::Basic) => {
                self.credentials
                    .as_ref()
                    .and_then(Credentials::basic)
                    .ok_or_else(|| {
                        Failure::Denied(format!("{}: no basic auth credentials", auth::origin(&host.base)))
                    })
            }
            Some(Challenge::Bearer {
                realm,
                service,
                scope,
            }) => {
                let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.reference.path()));
                let request =
                    TokenRequest::new(&realm, service.as_deref(), &scope, self.credentials.as_ref())
                        .map_err(Failure::Refused)?;
                self.token(host, request).await
            }
            None => Err(refused()),
        }
    }

    async fn token(&self, host: &Host, wanted: TokenRequest) -> std::result::Result<HeaderValue, Failure> {
        auth::check_target(&host.base, &wanted.url).map_err(Failure::Refused)?;
        let tls = if wanted.url.origin() == host.base.origin() {
            host.tls.clone()
        } else {
            Tls::default()
        };
        let client = self.client(&wanted.url, &tls)?;
        let url = wanted.url.clone();
        let mut request = match wanted.form {
            None => client.get(wanted.url),
            Some(form) => client
                .post(wanted.url)
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form),
        };
        if let Some(authorization) = wanted.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let response = request.send().await.map_err(|error| unreachable(&url, error))?;
        let from = auth::origin(&url);
        match response.status() {
            status if status.is_success() => {}
            status if status.is_client_error() => {
                return Err(Failure::Denied(format!(
                    "failed to fetch token from {from}: {status}"
                )));
            }
            status => {
                return Err(Failure::Unreachable(format!(
                    "failed to fetch token from {from}: {status}"
                )));
            }
        }
        let answer = bounded(response, MAX_TOKEN).await.map_err(|_| {
            Failure::Unreachable(format!("failed to fetch token from {from}: answer broke off"))
        })?;
        auth::bearer_from(&answer).ok_or_else(|| Failure::Refused(format!("{from} gave no token")))
    }

    fn protocol(&self, reason: String) -> Error {
        Error::Protocol {
            reference: self.reference.to_string(),
            reason,
        }
    }

    fn transfer(&self, problem: Problem, object: &str, limit: u64) -> Error {
        match problem {
            Problem::TooLarge => Error::Bounds {
                object: object.to_owned(),
                limit: format!("{limit} bytes"),
            },
            Problem::Broken(reason) => Error::RegistryUnavailable {
                reference: self.reference.to_string(),
                reason,
            },
        }
    }
}
