//! What hosts answer, and what it means.

use bytes::Bytes;
use reqwest::header::LOCATION;
use reqwest::{Response, StatusCode};
use url::Url;

use crate::images::auth;

/// What one host said instead of giving the content.
#[derive(Debug)]
pub(super) enum Failure {
    Unreachable(String),
    NotFound,
    Denied(String),
    Refused(String),
}

impl Failure {
    /// Of several hosts' failures the one with the highest rank tells most.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Unreachable(_) => 0,
            Self::NotFound => 1,
            Self::Denied(_) => 2,
            Self::Refused(_) => 3,
        }
    }
}

/// Success, or the failure the status stands for.
pub(super) fn judge(response: Response) -> std::result::Result<Response, Failure> {
    let status = response.status();
    let what = || {
        format!(
            "unexpected status from GET request to {}: {status}",
            shown(response.url())
        )
    };
    match status {
        StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
        StatusCode::NOT_FOUND => Err(Failure::NotFound),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Failure::Denied(what())),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => Err(Failure::Unreachable(what())),
        _ if status.is_server_error() => Err(Failure::Unreachable(what())),
        _ => Err(Failure::Refused(what())),
    }
}

/// The next address of a redirect; none if the response is none.
pub(super) fn redirect(response: &Response) -> std::result::Result<Option<Url>, String> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = response
        .headers()
        .get(LOCATION)
        .and_then(|value| value.to_str().ok());
    let location = location.ok_or_else(|| format!("{}: redirect without a place", shown(response.url())))?;
    let next = response
        .url()
        .join(location)
        .map_err(|error| format!("{}: {error}", shown(response.url())))?;
    Ok(Some(next))
}

/// A URL without its query, in which redirects carry signatures.
pub(super) fn shown(url: &Url) -> String {
    format!("{}{}", auth::origin(url), url.path())
}

pub(super) fn unreachable(url: &Url, error: reqwest::Error) -> Failure {
    Failure::Unreachable(format!(
        "failed to do request: Get \"{}\": {}",
        shown(url),
        chain(&error.without_url())
    ))
}

/// The error with all its causes; the outer ones alone say little.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

pub(super) enum Problem {
    TooLarge,
    Broken(String),
}

/// Reads a body of at most `limit` bytes.
pub(super) async fn bounded(mut response: Response, limit: u64) -> std::result::Result<Bytes, Problem> {
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(Problem::TooLarge);
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| Problem::Broken(chain(&error.without_url())))?
    {
        if bytes.len() as u64 + chunk.len() as u64 > limit {
            return Err(Problem::TooLarge);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.into())
}
