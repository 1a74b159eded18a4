//! What can go wrong with the volumes of a pod.

use std::io;
use std::path::PathBuf;

use crate::api;
use crate::pods::runtime_config::FieldError;

/// A failed operation on a pod's volumes. The text of [`Error::SetUp`] is the message of the event FailedMount.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// One volume cannot be made.
    #[error("MountVolume.SetUp failed for volume {volume:?} : {cause}")]
    SetUp { volume: String, cause: Cause },
    /// A UID or volume name that must not become part of a path.
    #[error("{what} {name:?} is not usable as a directory name")]
    Name { what: &'static str, name: String },
    /// A file or directory below the agent's own.
    #[error(transparent)]
    File(#[from] FileError),
    /// Mounts of the pod that stay although they were unmounted.
    #[error("{count} mounts stay below {path}, the first is {first:?}")]
    StillMounted {
        path: PathBuf,
        count: usize,
        first: String,
    },
    /// The worker thread is gone: the agent is stopping.
    #[error("volume work was cut off")]
    Stopped,
}

/// Why one volume cannot be made, in upstream's words where it has some.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cause {
    #[error("{kind} {name:?} not found")]
    NotFound { kind: &'static str, name: String },
    #[error("configmap references non-existent config key: {key}")]
    ConfigKey { key: String },
    #[error("references non-existent secret key: {key}")]
    SecretKey { key: String },
    #[error("{}", .0.message())]
    Api(api::Error),
    #[error("{0}")]
    Field(#[from] FieldError),
    #[error("{0}")]
    Path(#[from] super::payload::PathError),
    #[error("hostPath type check failed: {path} is not a {wanted}")]
    HostPathType { path: String, wanted: &'static str },
    #[error("{kind} is an invalid volume type")]
    HostPathKind { kind: String },
    #[error("invalid HostPath `{path}`: must not contain '..'")]
    HostPathBackstep { path: String },
    #[error("unknown storage medium {medium:?}")]
    Medium { medium: String },
    /// A source that this node has no plugin for.
    #[error("no volume plugin matched: {kind}")]
    Unsupported { kind: &'static str },
    /// Claims need persistent volumes, which this node does not mount.
    #[error("persistentvolumeclaim {claim:?}: this node has no plugin for persistent volumes")]
    Claim { claim: String },
    #[error("the answer to the TokenRequest of service account {account} holds no token")]
    NoToken { account: String },
    #[error(transparent)]
    File(#[from] FileError),
    /// Several sources of one projected volume.
    #[error("[{}]", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Several(Vec<Cause>),
}

/// A failed effect on a file, directory or mount.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {path}: {cause}")]
pub(crate) struct FileError {
    pub(crate) operation: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) cause: io::Error,
}

impl FileError {
    pub(super) fn is_not_found(&self) -> bool {
        self.cause.kind() == io::ErrorKind::NotFound
    }
}

/// A subPath that cannot be used. Details of the node's file system are left out: the text reaches the pod's author.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SubPathError {
    #[error("error SubPath `{path}` must not be an absolute path")]
    Absolute { path: String },
    #[error("unable to provision SubPath `{path}`: must not contain '..'")]
    Backstep { path: String },
    #[error("failed to prepare subPath for volumeMount {volume:?} of container {container:?}")]
    Prepare { volume: String, container: String },
}
