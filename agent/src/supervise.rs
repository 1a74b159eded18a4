//! Tasks with names, the end of the process, and the talk with the service manager.

use std::future::Future;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Tasks that run as long as the agent. One that panics or ends before its time stops the agent in good order: pods live on
/// without it, and the service manager starts it anew from what is on disk.
#[derive(Clone)]
pub(crate) struct Tasks {
    stop: CancellationToken,
    failed: Arc<Mutex<Option<String>>>,
}

impl Tasks {
    pub(crate) fn new() -> Self {
        Self {
            stop: CancellationToken::new(),
            failed: Arc::default(),
        }
    }

    /// Cancelled when the agent is to end.
    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Starts a task that is not meant to end before the agent does.
    pub(crate) fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let this = self.clone();
        let running = tokio::spawn(task);
        let abort = running.abort_handle();
        tokio::spawn(async move {
            tokio::select! {
                () = this.stop.cancelled() => abort.abort(),
                ended = running => {
                    let why = match ended {
                        Ok(()) => format!("the task \"{name}\" has ended before its time"),
                        Err(error) => format!("the task \"{name}\" has panicked: {error}"),
                    };
                    this.fail(why);
                }
            }
        });
    }

    /// Ends the agent because of `why`; the first reason counts.
    pub(crate) fn fail(&self, why: String) {
        if self.stop.is_cancelled() {
            return;
        }
        tracing::error!(why, "the agent stops");
        self.failed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(why);
        self.stop.cancel();
    }

    /// Waits for SIGTERM, SIGINT or a failure.
    ///
    /// # Errors
    /// The failure, in words.
    pub(crate) async fn run_to_end(&self) -> Result<(), String> {
        let handler = |kind| signal(kind).map_err(|cause| format!("handle signals: {cause}"));
        let (mut terminate, mut interrupt) = (
            handler(SignalKind::terminate())?,
            handler(SignalKind::interrupt())?,
        );
        let word = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            () = self.stop.cancelled() => "failure",
        };
        tracing::info!(word, "the agent stops; pods stay");
        notify("STOPPING=1");
        self.stop.cancel();
        match self.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(why) => Err(why),
            None => Ok(()),
        }
    }
}

/// Shows the service manager that the agent lives, as often as it wants to see it; for ever, if it does not.
pub(crate) async fn keep_watchdog() {
    let wanted = std::env::var("WATCHDOG_USEC")
        .ok()
        .and_then(|text| text.parse().ok());
    // An interval of a second or less is no watchdog but a mistake, as upstream has it.
    let Some(interval) = wanted
        .map(Duration::from_micros)
        .filter(|each| *each > Duration::from_secs(1))
    else {
        return std::future::pending().await;
    };
    let mut ticks = tokio::time::interval(interval / 2);
    loop {
        ticks.tick().await;
        notify("WATCHDOG=1");
    }
}

/// Tells the service manager (sd_notify(3)); nothing happens without one.
pub(crate) fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let sent = address.and_then(|address| {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.send_to_addr(state.as_bytes(), &address)
    });
    if let Err(error) = sent {
        tracing::warn!(%error, state, "the service manager was not told");
    }
}
