//! What goes wrong with images, by object and cause.

use super::digest::Digest;
use super::reference::ReferenceError;
use crate::state;

/// An image operation that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The words containerd uses, around the cause.
    #[error("failed to pull and unpack image \"{reference}\": {source}")]
    Pull { reference: String, source: Box<Error> },
    #[error(transparent)]
    InvalidReference(#[from] ReferenceError),
    /// No registry of the name has it.
    #[error("failed to resolve reference \"{reference}\": {reference}: not found")]
    NotFound { reference: String },
    #[error(
        "failed to resolve reference \"{reference}\": pull access denied, repository does not exist or may require \
         authorization: {reason}"
    )]
    Denied { reference: String, reason: String },
    /// No connection, no answer in time, or the registry's own failure; the same pull may succeed later.
    #[error("failed to resolve reference \"{reference}\": {reason}")]
    RegistryUnavailable { reference: String, reason: String },
    /// A blob that broke off too often.
    #[error("failed to copy {blob}: {reason}")]
    Transfer { blob: Digest, reason: String },
    /// An answer the distribution specification does not allow, or one we must not act upon.
    #[error("failed to resolve reference \"{reference}\": {reason}")]
    Protocol { reference: String, reason: String },
    #[error("no match for platform {platform} in manifest {digest}: not found")]
    NoPlatform { platform: String, digest: Digest },
    #[error("{object}: unexpected digest {actual}, expected {expected}")]
    DigestMismatch {
        object: String,
        expected: Digest,
        actual: Digest,
    },
    #[error("{object}: unexpected size {actual}, expected {expected}")]
    SizeMismatch {
        object: String,
        expected: u64,
        actual: u64,
    },
    #[error("{object}: more than {limit}")]
    Bounds { object: String, limit: String },
    /// A manifest, index or configuration that is not what it says.
    #[error("{object}: {reason}")]
    Malformed { object: String, reason: String },
    /// An entry of a layer that cannot be unpacked.
    #[error("failed to extract layer {layer}: entry {entry:?}: {reason}")]
    Layer {
        layer: Digest,
        entry: String,
        reason: String,
    },
    /// The settings of a registry host.
    #[error("registry settings {path}: {reason}")]
    Hosts { path: String, reason: String },
    #[error(transparent)]
    State(#[from] state::Error),
    /// A task of ours died.
    #[error("{operation} ended without an answer: {reason}")]
    Task { operation: &'static str, reason: String },
}

/// What a caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    InvalidReference,
    NotFound,
    Denied,
    RegistryUnavailable,
    /// The content is wrong: digests, sizes, bounds, documents, layers.
    Content,
    /// This node: disk, settings, our own bugs.
    Node,
}

impl Error {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Pull { source, .. } => source.kind(),
            Self::InvalidReference(_) => Kind::InvalidReference,
            Self::NotFound { .. } | Self::NoPlatform { .. } => Kind::NotFound,
            Self::Denied { .. } => Kind::Denied,
            Self::RegistryUnavailable { .. } | Self::Transfer { .. } => Kind::RegistryUnavailable,
            Self::Protocol { .. }
            | Self::DigestMismatch { .. }
            | Self::SizeMismatch { .. }
            | Self::Bounds { .. }
            | Self::Malformed { .. }
            | Self::Layer { .. } => Kind::Content,
            Self::Hosts { .. } | Self::State(_) | Self::Task { .. } => Kind::Node,
        }
    }

    pub(crate) fn malformed(object: impl ToString, reason: impl ToString) -> Self {
        Self::Malformed {
            object: object.to_string(),
            reason: reason.to_string(),
        }
    }
}

pub(crate) type Result<T> = std::result::Result<T, Error>;
