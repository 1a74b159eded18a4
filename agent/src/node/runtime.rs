//! What the node needs to know of the container engine.

use futures::future::BoxFuture;

/// A condition the engine reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) kind: String,
    pub(crate) holds: bool,
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}={} reason:{} message:{}",
            self.kind, self.holds, self.reason, self.message
        )
    }
}

/// A runtime handler and what it can do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Handler {
    /// `""` is the default.
    pub(crate) name: String,
    pub(crate) recursive_read_only_mounts: bool,
    pub(crate) user_namespaces: bool,
}

/// The engine's state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Health {
    pub(crate) conditions: Vec<Condition>,
    pub(crate) handlers: Vec<Handler>,
    pub(crate) supplemental_groups_policy: bool,
}

/// An image on the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) digests: Vec<String>,
    pub(crate) tags: Vec<String>,
    /// Bytes.
    pub(crate) size: i64,
}

/// The engine, as far as a Node object tells of it.
pub(crate) trait Runtime: Send + Sync + 'static {
    /// How it is.
    fn health(&self) -> BoxFuture<'_, Result<Health, String>>;
    /// What it holds.
    fn images(&self) -> BoxFuture<'_, Result<Vec<Image>, String>>;
    /// The node's pod ranges, comma-separated, as the API has them.
    fn set_pod_cidrs(&self, cidrs: String) -> BoxFuture<'_, Result<(), String>>;
}
