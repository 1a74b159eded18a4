//! What can go wrong with a call to the API server.

/// A failed call: which operation, on which object, why.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The API server answered with a Status.
    #[error("{operation} {object}: {message} ({code} {reason})")]
    Refused {
        operation: &'static str,
        object: String,
        code: u16,
        reason: String,
        message: String,
    },
    /// No answer: connection, TLS or protocol trouble.
    #[error("{operation} {object}: the API server cannot be reached: {cause}")]
    Unreachable {
        operation: &'static str,
        object: String,
        cause: String,
    },
    /// No answer in time.
    #[error("{operation} {object}: no answer within {seconds} s")]
    Timeout {
        operation: &'static str,
        object: String,
        seconds: u64,
    },
    /// An answer that cannot be understood, or a request that cannot be written.
    #[error("{operation} {object}: {cause}")]
    Malformed {
        operation: &'static str,
        object: String,
        cause: String,
    },
    /// A kubeconfig that gives no client.
    #[error("kubeconfig {path}: {cause}")]
    Kubeconfig { path: String, cause: String },
    /// The node runs without an API server.
    #[error("{operation} {object}: this node has no API server (no kubeconfig was given)")]
    Standalone { operation: &'static str, object: String },
}

impl Error {
    /// Sorts kube's errors into ours.
    pub(super) fn from_kube(operation: &'static str, object: &str, error: kube::Error) -> Self {
        let object = object.to_owned();
        match error {
            kube::Error::Api(status) => Self::Refused {
                operation,
                object,
                code: status.code,
                reason: status.reason.clone(),
                message: status.message.clone(),
            },
            kube::Error::SerdeError(cause) => Self::Malformed {
                operation,
                object,
                cause: cause.to_string(),
            },
            kube::Error::BuildRequest(cause) => Self::Malformed {
                operation,
                object,
                cause: cause.to_string(),
            },
            other => Self::Unreachable {
                operation,
                object,
                cause: chain(&other),
            },
        }
    }

    fn code(&self) -> u16 {
        match self {
            Self::Refused { code, .. } => *code,
            _ => 0,
        }
    }

    /// 404.
    pub(crate) fn is_not_found(&self) -> bool {
        self.code() == 404
    }

    /// 409 with reason Conflict: the object changed since it was read.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { code: 409, reason, .. } if reason == "Conflict")
    }

    /// 409 with reason AlreadyExists.
    pub(crate) fn is_already_exists(&self) -> bool {
        matches!(self, Self::Refused { code: 409, reason, .. } if reason == "AlreadyExists")
    }

    /// 403.
    pub(crate) fn is_forbidden(&self) -> bool {
        self.code() == 403
    }

    /// 401.
    pub(crate) fn is_unauthorized(&self) -> bool {
        self.code() == 401
    }

    /// Worth another try as it stands: no answer, overload, or a fault of the server.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Refused { code, .. } => *code == 429 || *code >= 500,
            Self::Unreachable { .. } | Self::Timeout { .. } => true,
            Self::Malformed { .. } | Self::Kubeconfig { .. } | Self::Standalone { .. } => false,
        }
    }

    /// The API server's own words, as upstream puts them into events.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Refused { message, .. } => message.clone(),
            other => other.to_string(),
        }
    }
}

/// An error with all its causes, in one line, each cause once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !line.contains(&words) {
            line.push_str(": ");
            line.push_str(&words);
        }
        next = cause.source();
    }
    line
}
