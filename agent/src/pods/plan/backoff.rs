//! Back-off that outlives a single failure: crash loops and image pulls.
//!
//! Both start at 10 s, double to a limit, and are forgotten once nothing happened for twice the limit.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

/// First delay of both back-offs.
const INITIAL: SignedDuration = SignedDuration::from_secs(10);
/// Limit of both back-offs unless the settings say less.
pub(crate) const LIMIT: SignedDuration = SignedDuration::from_secs(300);

/// What must be remembered between plans of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Memory {
    limit: SignedDuration,
    /// By container name.
    crashes: BTreeMap<String, Entry>,
    /// By image name.
    pulls: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// Of what may change and then starts afresh: the container's image and resources.
    key: u64,
    delay: SignedDuration,
    updated: Timestamp,
}

impl Memory {
    /// `limit` is `crashLoopBackOff.maxContainerRestartPeriod`, 1 s to 300 s.
    pub(crate) fn new(limit: SignedDuration) -> Self {
        Self {
            limit: limit.min(LIMIT),
            crashes: BTreeMap::new(),
            pulls: BTreeMap::new(),
        }
    }

    /// The delay between an exit at `finished` and the next start; `None` if there is none to keep.
    pub(crate) fn crash_delay(
        &self,
        container: &str,
        key: u64,
        finished: Timestamp,
    ) -> Option<SignedDuration> {
        let entry = self.crashes.get(container).filter(|e| e.key == key)?;
        (!is_forgotten(entry, finished, self.limit)).then_some(entry.delay)
    }

    /// A container that exited at `finished` is started again.
    pub(crate) fn restarted(&mut self, container: &str, key: u64, finished: Timestamp, now: Timestamp) {
        let last = self.crash_delay(container, key, finished);
        self.crashes.insert(
            container.to_owned(),
            Entry {
                key,
                delay: next(last, self.limit),
                updated: now,
            },
        );
    }

    /// A pull of `image` has failed; the delay to keep before the next.
    pub(crate) fn pull_failed(&mut self, image: &str, now: Timestamp) -> SignedDuration {
        let last = self
            .pulls
            .get(image)
            .filter(|e| !is_forgotten(e, now, LIMIT))
            .map(|e| e.delay);
        let delay = next(last, LIMIT);
        self.pulls.insert(
            image.to_owned(),
            Entry {
                key: 0,
                delay,
                updated: now,
            },
        );
        delay
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new(LIMIT)
    }
}

fn next(last: Option<SignedDuration>, limit: SignedDuration) -> SignedDuration {
    last.map_or(INITIAL, |delay| delay + delay).min(limit)
}

fn is_forgotten(entry: &Entry, event: Timestamp, limit: SignedDuration) -> bool {
    event.duration_since(entry.updated) > limit + limit
}
