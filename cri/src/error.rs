//! What the engine answers when it cannot do as asked, and the one place that maps it to a gRPC code.

/// A request that failed, in the words of the Container Runtime Interface.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The object is not known here.
    #[error("{kind} \"{id}\": not found")]
    NotFound {
        /// `sandbox`, `container` or `image`.
        kind: &'static str,
        /// What was asked for.
        id: String,
    },
    /// The request cannot be carried out whatever the state.
    #[error("{field}: {reason}")]
    InvalidArgument {
        /// The field of the request, in the interface's spelling.
        field: &'static str,
        /// What is wrong with it, with what mends it.
        reason: String,
    },
    /// The request does not fit the state of the object.
    #[error("{kind} \"{id}\" {reason}")]
    FailedPrecondition {
        /// `sandbox` or `container`.
        kind: &'static str,
        /// Which one.
        id: String,
        /// What about it.
        reason: String,
    },
    /// Something the engine needs is not ready yet; the same request may succeed later.
    #[error("{reason}")]
    Unavailable {
        /// What is missing.
        reason: String,
    },
    /// The container's program did not start.
    #[error("failed to start container \"{id}\": {reason}")]
    Start {
        /// Container id.
        id: String,
        /// Why, `exec: "foo": executable file not found in $PATH`.
        reason: String,
    },
    /// Something did not end in its time.
    #[error("{operation} {object}: no end within {seconds} s")]
    Timeout {
        /// What was waited for.
        operation: &'static str,
        /// Of what.
        object: String,
        /// How long, seconds.
        seconds: u64,
    },
    /// The operating system refused an effect.
    #[error("{operation} {object}: {source}")]
    Io {
        /// What was done.
        operation: &'static str,
        /// To what.
        object: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The network of a pod.
    #[error("failed to {operation} network of sandbox \"{sandbox}\": {source}")]
    Network {
        /// `set up` or `tear down`.
        operation: &'static str,
        /// Sandbox id.
        sandbox: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The keeper of a sandbox.
    #[error("keeper of sandbox \"{sandbox}\": {source}")]
    Keeper {
        /// Sandbox id.
        sandbox: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The image service.
    #[error("{source}")]
    Image {
        /// gRPC code that fits.
        code: Code,
        /// The cause; its text begins with the interface's own words where it has some (`RegistryUnavailable: …`).
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A task of the engine died.
    #[error("{operation} ended without an answer: {reason}")]
    Internal {
        /// Which.
        operation: &'static str,
        /// What is known of it.
        reason: String,
    },
}

/// gRPC status codes that the engine uses, with their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    /// An error without a better code.
    Unknown = 2,
    /// The request is wrong in itself.
    InvalidArgument = 3,
    /// No end in time.
    DeadlineExceeded = 4,
    /// No such object.
    NotFound = 5,
    /// Not in this state.
    FailedPrecondition = 9,
    /// A bug or damage here.
    Internal = 13,
    /// Try again later.
    Unavailable = 14,
}

impl Error {
    /// The gRPC code of this error.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NotFound { .. } => Code::NotFound,
            Self::InvalidArgument { .. } => Code::InvalidArgument,
            Self::FailedPrecondition { .. } => Code::FailedPrecondition,
            Self::Unavailable { .. } => Code::Unavailable,
            Self::Timeout { .. } => Code::DeadlineExceeded,
            Self::Image { code, .. } => *code,
            Self::Internal { .. } => Code::Internal,
            Self::Start { .. } | Self::Io { .. } | Self::Network { .. } | Self::Keeper { .. } => {
                Code::Unknown
            }
        }
    }

    pub(crate) fn invalid(field: &'static str, reason: impl Into<String>) -> Self {
        Self::InvalidArgument {
            field,
            reason: reason.into(),
        }
    }

    pub(crate) fn no_sandbox(id: &str) -> Self {
        Self::NotFound {
            kind: "sandbox",
            id: id.to_owned(),
        }
    }

    pub(crate) fn no_container(id: &str) -> Self {
        Self::NotFound {
            kind: "container",
            id: id.to_owned(),
        }
    }

    /// For `map_err` at an effect: what was done to what.
    pub(crate) fn io<E: Into<std::io::Error>>(
        operation: &'static str,
        object: impl std::fmt::Display,
    ) -> impl FnOnce(E) -> Self {
        let object = object.to_string();
        move |source| Self::Io {
            operation,
            object,
            source: source.into(),
        }
    }
}
