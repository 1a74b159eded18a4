//! Connections that can be ended from outside, all at once: a client certificate is checked when a connection begins, so
//! after a rotation the old ones must go.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tower::Service;

/// Ends connections.
#[derive(Clone, Default)]
pub(super) struct Severer(Arc<Mutex<CancellationToken>>);

impl Severer {
    /// Ends all connections made so far.
    pub(super) fn sever(&self) {
        let mut token = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *token).cancel();
    }

    fn token(&self) -> CancellationToken {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A connector whose connections a [`Severer`] can end.
#[derive(Clone)]
pub(super) struct Severable<C> {
    inner: C,
    severer: Severer,
}

impl<C> Severable<C> {
    pub(super) fn new(inner: C, severer: Severer) -> Self {
        Self { inner, severer }
    }
}

impl<C> Service<Uri> for Severable<C>
where
    C: Service<Uri>,
    C::Response: Send + 'static,
    C::Future: Send + 'static,
    C::Error: 'static,
{
    type Response = Severed<C::Response>;
    type Error = C::Error;
    type Future = BoxFuture<'static, Result<Self::Response, C::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), C::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        // Taken before connecting: a certificate chosen before a change must not outlive it.
        let end = self.severer.token().cancelled_owned();
        let connecting = self.inner.call(uri);
        Box::pin(async move {
            Ok(Severed {
                io: connecting.await?,
                end: Box::pin(end),
            })
        })
    }
}

/// A connection that fails once it is severed.
pub(super) struct Severed<T> {
    io: T,
    end: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<T> Severed<T> {
    /// Ready with the error once severed; otherwise the task is woken by it.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Option<io::Error> {
        match self.end.as_mut().poll(cx) {
            Poll::Ready(()) => Some(io::Error::new(
                io::ErrorKind::ConnectionReset,
                "ended: the client certificate was renewed",
            )),
            Poll::Pending => None,
        }
    }
}

impl<T: Read + Unpin> Read for Severed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(end) = self.poll_end(cx) {
            return Poll::Ready(Err(end));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: Write + Unpin> Write for Severed<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}

impl<T: Connection> Connection for Severed<T> {
    fn connected(&self) -> Connected {
        self.io.connected()
    }
}
