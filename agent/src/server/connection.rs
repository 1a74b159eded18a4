//! Connections: accepted within bounds, served by HTTP/1.1, ended on stop.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::response::{self, Body};
use super::routes::{self, Path, Route};
use super::{Server, health};

/// Connections at once; more wait to be accepted.
const CONNECTIONS: usize = 2048;
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// From the last response, or the begin of a request, to the end of its headers.
const IDLE_LIMIT: Duration = Duration::from_secs(90);
const HEADER_BYTES: usize = 1024 * 1024;
/// After an error that is not the peer's, such as too many open files.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves the HTTPS API.
pub(super) async fn accept_tls(server: Arc<Server>, listener: TcpListener, stop: CancellationToken) {
    accept(listener, stop, move |stream, stop| {
        let server = Arc::clone(&server);
        async move { tls(&server, stream, stop).await }
    })
    .await;
}

/// Serves the plain health port: `ping` is all it checks.
pub(super) async fn accept_plain(listener: TcpListener, stop: CancellationToken) {
    accept(listener, stop, |stream, stop| {
        http(stream, stop, |request| async move { plain(&request) })
    })
    .await;
}

async fn accept<F, S>(listener: TcpListener, stop: CancellationToken, serve: F)
where
    F: Fn(TcpStream, CancellationToken) -> S,
    S: Future<Output = ()> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = next(&listener, &slots) => accepted,
        };
        match accepted {
            Ok((stream, slot)) => {
                let connection = serve(stream, stop.clone());
                tokio::spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn next(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, Option<OwnedSemaphorePermit>)> {
    // Closed never; without a slot there would be no bound, so the error cannot pass for one.
    let slot = Arc::clone(slots).acquire_owned().await.ok();
    let (stream, _) = listener.accept().await?;
    Ok((stream, slot))
}

async fn tls(server: &Arc<Server>, stream: TcpStream, stop: CancellationToken) {
    // One look decides both the certificate and whether a request is served.
    let shown = server.identity.shown();
    let acceptor = TlsAcceptor::from(Arc::clone(&shown.config));
    let stream = match tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake took too long"),
    };
    let certificates: Arc<[_]> = stream.get_ref().1.peer_certificates().unwrap_or_default().into();
    let server = Arc::clone(server);
    http(stream, stop, move |request| {
        let (server, certificates, shown) =
            (Arc::clone(&server), Arc::clone(&certificates), Arc::clone(&shown));
        async move {
            match &shown.pending {
                Some(text) => closing(response::text(StatusCode::INTERNAL_SERVER_ERROR, text.clone())),
                None => server.answer(&certificates, &request).await,
            }
        }
    })
    .await;
}

/// The next request is to come on a new connection, which may have another certificate.
fn closing(mut response: Response<Body>) -> Response<Body> {
    let close = http::header::HeaderValue::from_static("close");
    response.headers_mut().insert(http::header::CONNECTION, close);
    response
}

fn plain(request: &Request<Incoming>) -> Response<Body> {
    let checks = || vec![("ping", Ok(()))];
    let route = Path::new(request.uri().path()).map(|path| routes::route(&Method::GET, &path, true));
    match route {
        Some(Route::Health) => health::all(checks(), request.uri().query().unwrap_or_default()),
        Some(Route::HealthCheck(name)) => health::one(checks(), &name).unwrap_or_else(response::not_found),
        _ => response::not_found(),
    }
}

async fn http<I, F, S>(stream: I, stop: CancellationToken, answer: F)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> S,
    S: Future<Output = Response<Body>> + Send,
{
    let service = service_fn(|request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_LIMIT)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}
