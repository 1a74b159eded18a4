//! What can go wrong on the way to a node and while it is one.

use std::path::PathBuf;

use crate::api;

/// A failed step: operation, object, cause, and the cure where there is one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A call to the API server failed.
    #[error("{operation}: {source}")]
    Api {
        operation: &'static str,
        source: api::Error,
    },
    /// A file could not be read or written.
    #[error("{operation} {path}: {source}")]
    File {
        operation: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path}: {cause}")]
    Content { path: PathBuf, cause: String },
    /// Keys or certificates could not be made or used.
    #[error("{operation}: {cause}")]
    Crypto { operation: &'static str, cause: String },
    /// The bootstrap token does not open the door.
    #[error(
        "the API server refuses the bootstrap credentials of {place}: the token is wrong or has expired; \
         make a new one with \"kubeadm token create --print-join-command\" on the control plane"
    )]
    Unauthorized { place: String },
    /// Nobody signs.
    #[error("certificate signing request {name} was {verdict}: {message}")]
    NotSigned {
        name: String,
        verdict: &'static str,
        message: String,
    },
    /// Nobody signs in time.
    #[error(
        "certificate signing request {name} was not signed within {minutes} min; \
         approve it with \"kubectl certificate approve {name}\""
    )]
    Unsigned { name: String, minutes: u64 },
    /// The cluster is not the one that was meant, or cannot be told to be.
    #[error("discover the cluster at {endpoint}: {cause}")]
    Discovery { endpoint: String, cause: String },
    /// A bad argument.
    #[error("{argument}: {cause}")]
    Argument { argument: &'static str, cause: String },
    /// The machine lacks something.
    #[error("{0}")]
    Machine(String),
}

impl Error {
    /// Wraps a failed call.
    pub(super) fn api(operation: &'static str) -> impl FnOnce(api::Error) -> Self {
        move |source| Self::Api { operation, source }
    }
}
