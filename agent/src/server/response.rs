//! Answers.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{HeaderName, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use tokio::sync::mpsc;

use super::logs::ReadError;

/// Whole or streamed. An error breaks the connection off, so that a cut log does not look like a whole one.
pub(super) type Body = UnsyncBoxBody<Bytes, StreamError>;

/// Why a stream ends early.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error(transparent)]
    Log(#[from] ReadError),
    #[error("the response took longer than {0:?}")]
    TooLong(Duration),
}

/// Longest time for one response, also for one that follows.
const WRITE_LIMIT: Duration = Duration::from_secs(4 * 3600);

pub(super) fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    whole(status, "text/plain; charset=utf-8", text.into())
}

pub(super) fn json(text: impl Into<Bytes>) -> Response<Body> {
    whole(StatusCode::OK, "application/json", text.into())
}

pub(super) fn not_found() -> Response<Body> {
    text(StatusCode::NOT_FOUND, "404: Page Not Found")
}

pub(super) fn method_not_allowed(allow: &'static str) -> Response<Body> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(allow));
    response
}

fn whole(status: StatusCode, kind: &'static str, bytes: Bytes) -> Response<Body> {
    let body = Full::new(bytes)
        .map_err(|never: Infallible| match never {})
        .boxed_unsync();
    with_headers(status, kind, body)
}

/// A response whose chunks come as they are read.
pub(super) fn streamed(chunks: mpsc::Receiver<Result<Bytes, ReadError>>) -> Response<Body> {
    let deadline = tokio::time::Instant::now() + WRITE_LIMIT;
    let frames = stream::unfold(Some(chunks), move |chunks| async move {
        let mut chunks = chunks?;
        tokio::select! {
            chunk = chunks.recv() => {
                let chunk = chunk?;
                let rest = chunk.is_ok().then_some(chunks);
                Some((chunk.map(Frame::data).map_err(StreamError::from), rest))
            }
            () = tokio::time::sleep_until(deadline) => Some((Err(StreamError::TooLong(WRITE_LIMIT)), None)),
        }
    });
    with_headers(
        StatusCode::OK,
        "text/plain; charset=utf-8",
        StreamBody::new(frames).boxed_unsync(),
    )
}

fn with_headers(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    let nosniff = HeaderName::from_static("x-content-type-options");
    headers.insert(nosniff, HeaderValue::from_static("nosniff"));
    response
}
