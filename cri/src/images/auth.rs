//! Proving to a registry who pulls: challenges, credentials, tokens (distribution specification, token
//! authentication).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;
use url::Url;
use url::form_urlencoded::Serializer;

use proto::cri::AuthConfig;

use super::hosts::is_local;

#[cfg(test)]
mod tests;

const MAX_CHALLENGE: usize = 8 << 10;

/// What the pod's pull secret gives.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    Basic {
        username: String,
        password: String,
    },
    /// Traded for a registry token.
    Identity(String),
    /// Sent as it is.
    Token(String),
}

impl Credentials {
    /// Credentials for `registry`; none where they are empty or made for another server.
    pub(crate) fn for_registry(auth: &AuthConfig, registry: &str) -> Result<Option<Self>, String> {
        if !auth.server_address.is_empty() && !is_server(&auth.server_address, registry) {
            return Ok(None);
        }
        if !auth.registry_token.is_empty() {
            return Ok(Some(Self::Token(auth.registry_token.clone())));
        }
        if !auth.identity_token.is_empty() {
            return Ok(Some(Self::Identity(auth.identity_token.clone())));
        }
        if !auth.username.is_empty() {
            return Ok(Some(Self::Basic {
                username: auth.username.clone(),
                password: auth.password.clone(),
            }));
        }
        if auth.auth.is_empty() {
            return Ok(None);
        }
        let pair = STANDARD
            .decode(&auth.auth)
            .map_err(|_| "auth of the credentials is not base64".to_owned())?;
        let pair = String::from_utf8(pair).map_err(|_| "auth of the credentials is not text".to_owned())?;
        let (username, password) = pair
            .split_once(':')
            .ok_or("auth of the credentials has no colon")?;
        // Docker's own tool pads passwords with NUL.
        let password = password.trim_end_matches('\0');
        Ok(Some(Self::Basic {
            username: username.to_owned(),
            password: password.to_owned(),
        }))
    }

    pub(crate) fn basic(&self) -> Option<HeaderValue> {
        match self {
            Self::Basic { username, password } => {
                let pair = STANDARD.encode(format!("{username}:{password}"));
                secret(&format!("Basic {pair}"))
            }
            Self::Identity(_) | Self::Token(_) => None,
        }
    }
}

/// `https://index.docker.io/v1/` and `docker.io` are one registry.
fn is_server(address: &str, registry: &str) -> bool {
    let host = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or_default();
    let hub = |name: &str| matches!(name, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    host == registry || (hub(host) && hub(registry))
}

/// A header value that logs do not show.
pub(crate) fn secret(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// What a 401 asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

impl Challenge {
    /// The first challenge we can answer, Bearer before Basic.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let all: Vec<_> = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .filter(|value| value.len() <= MAX_CHALLENGE)
            .filter_map(parse_challenge)
            .collect();
        all.iter()
            .find(|challenge| matches!(challenge, Self::Bearer { .. }))
            .or(all.first())
            .cloned()
    }
}

/// `Scheme key="value", key=value`.
fn parse_challenge(text: &str) -> Option<Challenge> {
    let (scheme, parameters) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service, mut scope) = (None, None, None);
    for (key, value) in parameters_of(parameters)? {
        match key.to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value),
            "service" => service = Some(value),
            "scope" => scope = Some(value),
            _ => {}
        }
    }
    Some(Challenge::Bearer {
        realm: realm?,
        service,
        scope,
    })
}

fn parameters_of(mut rest: &str) -> Option<Vec<(String, String)>> {
    let mut found = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return Some(found);
        }
        let (key, after) = rest.split_once('=')?;
        let (value, after) = match after.trim_start().strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = after.find([',', ' ']).unwrap_or(after.len());
                (after[..end].to_owned(), &after[end..])
            }
        };
        found.push((key.trim().to_owned(), value));
        rest = after;
    }
}

/// The text up to the closing quote, and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

/// Where `realm` may be asked for a token of the registry at `base`: a TLS registry does not send us to plain HTTP,
/// and nothing but a registry on this machine sends us to this machine.
pub(crate) fn check_target(base: &Url, target: &Url) -> Result<(), String> {
    if !matches!(target.scheme(), "http" | "https") {
        return Err(format!("{} does not lead to http or https", origin(target)));
    }
    if base.scheme() == "https" && target.scheme() != "https" {
        return Err(format!("{} leads from https to {}", origin(base), origin(target)));
    }
    if is_local(target) && !is_local(base) {
        return Err(format!(
            "{} leads to this machine itself: {}",
            origin(base),
            origin(target)
        ));
    }
    if !target.username().is_empty() || target.password().is_some() {
        return Err(format!(
            "{} leads to an address with credentials in it",
            origin(base)
        ));
    }
    Ok(())
}

/// `scheme://host[:port]`, all that an error or log may show of a URL.
pub(crate) fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// The request for a token: where, and as a form where credentials are traded for it.
pub(crate) struct TokenRequest {
    pub(crate) url: Url,
    pub(crate) form: Option<String>,
    pub(crate) authorization: Option<HeaderValue>,
}

impl TokenRequest {
    pub(crate) fn new(
        realm: &str,
        service: Option<&str>,
        scope: &str,
        credentials: Option<&Credentials>,
    ) -> Result<Self, String> {
        let mut url: Url = realm
            .parse()
            .map_err(|error| format!("realm of the challenge: {error}"))?;
        let service = service.map(|service| ("service", service));
        if let Some(Credentials::Identity(token)) = credentials {
            let form = Serializer::new(String::new())
                .extend_pairs([
                    ("grant_type", "refresh_token"),
                    ("refresh_token", token),
                    ("client_id", "longshore"),
                ])
                .extend_pairs(service)
                .append_pair("scope", scope)
                .finish();
            return Ok(Self {
                url,
                form: Some(form),
                authorization: None,
            });
        }
        url.query_pairs_mut()
            .extend_pairs(service)
            .append_pair("scope", scope);
        Ok(Self {
            url,
            form: None,
            authorization: credentials.and_then(Credentials::basic),
        })
    }
}

/// The answer to it.
#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

pub(crate) fn bearer_from(answer: &[u8]) -> Option<HeaderValue> {
    let answer: TokenAnswer = serde_json::from_slice(answer).ok()?;
    let token = answer
        .token
        .filter(|token| !token.is_empty())
        .or(answer.access_token)?;
    secret(&format!("Bearer {token}"))
}
