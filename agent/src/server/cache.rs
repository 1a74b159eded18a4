//! Answers of the API server that are kept for a while.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// More callers than any cluster has. Beyond it the cache starts anew.
const LIMIT: usize = 4096;

/// A map whose entries end.
#[derive(Debug)]
pub(super) struct Cache<K, V> {
    entries: Mutex<HashMap<K, (Instant, V)>>,
}

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    pub(super) fn new() -> Self {
        Self {
            entries: Mutex::new(HashMap::new()),
        }
    }

    /// The value, if it has not ended at `now`.
    pub(super) fn get(&self, key: &K, now: Instant) -> Option<V> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries
            .get(key)
            .filter(|(end, _)| now < *end)
            .map(|(_, value)| value.clone())
    }

    /// Keeps a value for `ttl`; not at all for zero.
    pub(super) fn put(&self, key: K, value: V, now: Instant, ttl: Duration) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= LIMIT {
            entries.retain(|_, (end, _)| now < *end);
        }
        if entries.len() >= LIMIT {
            entries.clear();
        }
        entries.insert(key, (now + ttl, value));
    }
}
