//! Why a pod's or container's runtime configuration cannot be made.

use crate::{api, volumes};

/// A configuration error. Its text is the message of `CreateContainerConfigError` (or of a failed sandbox), in
/// upstream's words.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A ConfigMap or Secret that is not there.
    #[error("{kind} {name:?} not found")]
    NotFound { kind: &'static str, name: String },
    /// A key that the ConfigMap or Secret lacks.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    MissingKey {
        kind: &'static str,
        key: String,
        namespace: String,
        name: String,
    },
    /// A field path that cannot be used there.
    #[error("{0}")]
    Field(#[from] super::fields::FieldError),
    /// The API server did not say.
    #[error("{}", .cause.message())]
    Api { cause: api::Error },
    /// Services are not known yet.
    #[error("services have not yet been read at least once, cannot construct envvars")]
    ServicesNotSynced,
    /// A mount of a volume the pod does not have, or has not mounted.
    #[error("cannot find volume {volume:?} to mount into container {container:?}")]
    MissingVolume { volume: String, container: String },
    /// A subPath that cannot be used.
    #[error("{0}")]
    SubPath(#[from] volumes::SubPathError),
    /// subPathExpr with a variable that is not set.
    #[error("missing value for {variable:?}")]
    SubPathExpression { variable: String },
    /// recursiveReadOnly that contradicts the rest of the mount.
    #[error("failed to resolve recursive read-only mode: {cause}")]
    RecursiveReadOnly { cause: &'static str },
    /// A value outside its set; the API server refuses those already.
    #[error("{what}: {value:?}")]
    Invalid { what: &'static str, value: String },
    /// The host name rules.
    #[error("{0}")]
    Hostname(String),
    /// runAsNonRoot does not hold.
    #[error("{0}")]
    NonRoot(String),
    /// seccomp or AppArmor fields that are not complete.
    #[error("{0}")]
    Profile(&'static str),
    /// resourceFieldRef to a container the pod does not have, or a file of an env source that cannot be read.
    #[error("{0}")]
    Reference(String),
    /// A file of the pod's directory.
    #[error("{0}")]
    File(#[from] volumes::Error),
    /// The node's resolv.conf or hosts file.
    #[error("{operation} {path}: {cause}")]
    HostFile {
        operation: &'static str,
        path: String,
        cause: std::io::Error,
    },
}
