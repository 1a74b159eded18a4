//! What can be wrong with settings: always names the place, the cause and the cure.

use std::path::PathBuf;

/// Settings that no agent can start with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file that cannot be read.
    #[error("read {path}: {cause}")]
    Read { path: PathBuf, cause: std::io::Error },
    /// A file that is no YAML or too large.
    #[error("parse {path}: {cause}")]
    Syntax { path: PathBuf, cause: String },
    /// A file of another kind.
    #[error(
        "{path} holds {found}, it must hold apiVersion: kubelet.config.k8s.io/v1beta1, kind: KubeletConfiguration"
    )]
    Kind { path: PathBuf, found: String },
    /// A value of a file or flag that its key cannot take.
    #[error("{place}: {key}: {cause}")]
    Value {
        place: String,
        key: String,
        cause: String,
    },
    /// A flag with a bad value.
    #[error("--{flag}: {cause}")]
    Flag { flag: String, cause: String },
    /// Values that are each well formed and cannot work.
    #[error("invalid configuration: {}", .0.join("; "))]
    Invalid(Vec<String>),
    /// Something of the machine that is needed and missing.
    #[error("{operation}: {cause}")]
    Machine { operation: &'static str, cause: String },
}
