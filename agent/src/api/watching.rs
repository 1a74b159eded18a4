//! Watches that break: what to say, and how long to wait before the next try.

use std::time::Duration;

use kube::runtime::watcher;

const FIRST: Duration = Duration::from_millis(50);
const LAST: Duration = Duration::from_secs(30);

/// The pauses of one watch. The first is short: a node is often refused an object for the moment that the authorizer
/// needs to learn that one of its pods uses it.
pub(crate) struct Patience {
    next: Duration,
}

impl Patience {
    pub(crate) fn new() -> Self {
        Self { next: FIRST }
    }

    /// Something has come: the next trouble is new.
    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// Waits before the next try, each time longer.
    pub(crate) async fn wait(&mut self) {
        let pause = self.next;
        self.next = (pause * 2).min(LAST);
        // Jitter keeps many watches that broke together apart.
        tokio::time::sleep(pause.mul_f64(0.75 + 0.5 * rand::random::<f64>())).await;
    }

    /// Logs the trouble with the watch of `what`. A watch that ends and goes on at once is no news.
    pub(crate) fn tell(&self, what: &str, error: &watcher::Error) {
        let error = words(error);
        if self.is_long() {
            tracing::warn!(error, "watch of {what} broke, it is tried again");
        } else {
            tracing::debug!(error, "watch of {what} broke, it is tried again");
        }
    }

    /// Whether it has waited so long that the trouble is worth a word.
    pub(crate) fn is_long(&self) -> bool {
        self.next >= Duration::from_secs(1)
    }
}

/// The API server's own words where it has spoken, else all causes.
pub(crate) fn words(error: &watcher::Error) -> String {
    use watcher::Error::{InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed};
    match error {
        WatchError(status) => status.message.clone(),
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status)) => status.message.clone(),
        InitialListFailed(cause) | WatchStartFailed(cause) | WatchFailed(cause) => super::chain(cause),
        NoResourceVersion => error.to_string(),
    }
}
