//! Which events are posted, which only raise a count, which are dropped. Pure: the time is an argument.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use jiff::Timestamp;

use super::Record;

/// Records of one object: a burst of 25, then one in 5 minutes.
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);
/// The eleventh distinct message of one reason within 10 minutes is merged with those after it.
const SIMILAR: usize = 10;
const WINDOW: Duration = Duration::from_secs(600);
/// Entries each table keeps; the oldest go first.
const TABLE: usize = 4096;
/// Longest message the API takes.
const MAX_MESSAGE: usize = 1024;

/// The object an event is about, as far as limits are concerned.
type About = (String, String, String, String, String);
/// What makes events similar.
type Alike = (About, String, &'static str, String);
/// What makes events the same.
type Same = (Alike, String);

/// An event with its history.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Counted {
    pub(super) key: Same,
    pub(super) message: String,
    pub(super) count: i32,
    pub(super) first: Timestamp,
    /// Name of the Event object that holds the count so far.
    pub(super) existing: Option<String>,
}

#[derive(Default)]
pub(super) struct Correlator {
    buckets: Table<About, Bucket>,
    similar: Table<Alike, Similar>,
    posted: Table<Same, Posted>,
}

#[derive(Clone)]
struct Bucket {
    tokens: f64,
    at: Timestamp,
}

#[derive(Clone, Default)]
struct Similar {
    messages: Vec<String>,
    last: Option<Timestamp>,
}

#[derive(Clone)]
struct Posted {
    count: i32,
    first: Timestamp,
    name: Option<String>,
}

impl Correlator {
    /// What to post for `record` at the time `now`; `None`: nothing, its object has had too many.
    pub(super) fn observe(&mut self, record: &Record, now: Timestamp) -> Option<Counted> {
        let about = about(record);
        if !self.take_token(&about, now) {
            return None;
        }
        let object = (about, record.object.field_path.clone().unwrap_or_default());
        let alike = (object.0, record.reason.clone(), record.kind.word(), object.1);
        let mut message = truncated(&record.message);
        let merged = self.is_flood(&alike, &message, now);
        if merged {
            message = truncated(&format!("(combined from similar events): {message}"));
        }
        // Merged events are one, whatever they say.
        let key = (alike, if merged { String::new() } else { message.clone() });
        let posted = self.posted.entry(&key, || Posted {
            count: 0,
            first: now,
            name: None,
        });
        posted.count = posted.count.saturating_add(1);
        Some(Counted {
            message,
            count: posted.count,
            first: posted.first,
            existing: posted.name.clone(),
            key,
        })
    }

    /// The event of `key` is now held by the Event object `name`; `None`: by none.
    pub(super) fn posted(&mut self, key: &Same, name: Option<String>) {
        if let Some(posted) = self.posted.get(key) {
            posted.name = name;
        }
    }

    fn take_token(&mut self, about: &About, now: Timestamp) -> bool {
        let bucket = self.buckets.entry(about, || Bucket {
            tokens: BURST,
            at: now,
        });
        let passed = now.duration_since(bucket.at).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + passed / REFILL.as_secs_f64()).min(BURST);
        bucket.at = now;
        let has = bucket.tokens >= 1.0;
        if has {
            bucket.tokens -= 1.0;
        }
        has
    }

    fn is_flood(&mut self, alike: &Alike, message: &String, now: Timestamp) -> bool {
        let similar = self.similar.entry(alike, Similar::default);
        let last = similar.last.replace(now);
        if last.is_some_and(|last| now.duration_since(last).as_secs_f64() > WINDOW.as_secs_f64()) {
            similar.messages.clear();
        }
        if !similar.messages.contains(message) && similar.messages.len() < SIMILAR {
            similar.messages.push(message.clone());
        }
        similar.messages.len() >= SIMILAR
    }
}

fn about(record: &Record) -> About {
    let object = &record.object;
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    (
        text(&object.api_version),
        text(&object.kind),
        text(&object.namespace),
        text(&object.name),
        text(&object.uid),
    )
}

fn truncated(message: &str) -> String {
    if message.len() <= MAX_MESSAGE {
        return message.to_owned();
    }
    let end = message.floor_char_boundary(MAX_MESSAGE - 3);
    format!("{}...", &message[..end])
}

/// A map of bounded size that forgets what was made first.
struct Table<K, V> {
    map: HashMap<K, V>,
    order: VecDeque<K>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self {
            map: HashMap::new(),
            order: VecDeque::new(),
        }
    }
}

impl<K: Clone + Eq + Hash, V> Table<K, V> {
    fn entry(&mut self, key: &K, make: impl FnOnce() -> V) -> &mut V {
        if !self.map.contains_key(key) {
            if self.order.len() >= TABLE
                && let Some(oldest) = self.order.pop_front()
            {
                self.map.remove(&oldest);
            }
            self.order.push_back(key.clone());
        }
        self.map.entry(key.clone()).or_insert_with(make)
    }

    fn get(&mut self, key: &K) -> Option<&mut V> {
        self.map.get_mut(key)
    }
}
