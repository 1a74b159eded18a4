//! What the engine must still know after it was killed: one record a sandbox, one a container, on tmpfs.
//!
//! A record is two lines of JSON: a header with the format, its version and the SHA-256 of the second line, and the body.
//! Environments are left out: they may hold secrets, and a container that never ran is made anew after a crash.

use std::net::IpAddr;
use std::path::Path;

use proto::cri::{ContainerConfig, PodSandboxConfig};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::images::Digest;
use crate::state;

/// Shape of the bodies in this module.
const VERSION: u32 = 1;

/// Longest record that is read, bytes: annotations of a pod are at most 256 KiB, a request at most 16 MiB.
const MAX_BYTES: u64 = 16 << 20;

/// How far a sandbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    /// Being made; what there is of it is undone if the engine dies.
    Creating,
    /// Made, network and all.
    Ready,
    /// Its keeper died; what it held is not released yet.
    Lost,
    /// Stopped and released.
    Stopped,
}

/// A sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) id: String,
    /// Boot of the machine in which it was made; a sandbox of an earlier one is gone.
    pub(crate) boot_id: String,
    /// Nanoseconds since the epoch.
    pub(crate) created_at: i64,
    pub(crate) phase: Phase,
    pub(crate) runtime_handler: String,
    /// The pod's addresses, first the one of the primary family.
    pub(crate) ips: Vec<IpAddr>,
    #[serde(with = "message")]
    pub(crate) config: PodSandboxConfig,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) id: String,
    pub(crate) sandbox: String,
    /// Nanoseconds since the epoch.
    pub(crate) created_at: i64,
    /// Id of the image: digest of its configuration.
    pub(crate) image_id: String,
    /// Chain ids of the layers it stands on, lowest first.
    pub(crate) layers: Vec<Digest>,
    /// What the interface calls `image_ref`.
    pub(crate) image_ref: String,
    /// Its cgroup below the root of cgroups.
    pub(crate) cgroup: String,
    /// Absolute path of its log; empty if its output is thrown away.
    pub(crate) log_path: String,
    /// Asks it to end.
    pub(crate) stop_signal: i32,
    /// Who it runs as, where numbers say it: uid, gid, further groups.
    pub(crate) user: Option<(u32, u32, Vec<u32>)>,
    /// The keeper has been, or is about to be, told to start it.
    pub(crate) started: bool,
    /// How it ended, where no exit record of the keeper says it.
    pub(crate) outcome: Option<Outcome>,
    /// Without the environment.
    #[serde(with = "message")]
    pub(crate) config: ContainerConfig,
}

/// How a container ended, in the interface's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerStatusUnknown`.
    pub(crate) reason: String,
    pub(crate) message: String,
    /// Nanoseconds since the epoch; 0 if it never ran.
    pub(crate) started_at: i64,
    /// Nanoseconds since the epoch.
    pub(crate) finished_at: i64,
}

/// A record that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The file system refused.
    #[error(transparent)]
    State(#[from] state::Error),
    /// Its text is not what was written.
    #[error("damaged: {0}")]
    Damaged(&'static str),
    /// Written by a version of ours that this one does not know.
    #[error("{format} version {version} is not known")]
    Version {
        /// As in its header.
        format: String,
        /// As in its header.
        version: u32,
    },
}

/// What is kept as a record.
pub(crate) trait Record: Serialize + DeserializeOwned {
    /// Name in the header.
    const FORMAT: &'static str;
}

impl Record for SandboxRecord {
    const FORMAT: &'static str = "longshore.sandbox";
}

impl Record for ContainerRecord {
    const FORMAT: &'static str = "longshore.container";
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    sha256: String,
}

/// The record as text.
pub(crate) fn encode<T: Record>(record: &T) -> Vec<u8> {
    let body = serde_json::to_string(record).expect("strings, numbers and lists are always JSON");
    let header = Header {
        format: T::FORMAT.to_owned(),
        version: VERSION,
        sha256: digest(body.as_bytes()),
    };
    let header = serde_json::to_string(&header).expect("strings, numbers and lists are always JSON");
    format!("{header}\n{body}\n").into_bytes()
}

/// The record of a text.
pub(crate) fn decode<T: Record>(text: &[u8]) -> Result<T, Error> {
    let text = std::str::from_utf8(text).map_err(|_| Error::Damaged("not text"))?;
    let (header, rest) = text.split_once('\n').ok_or(Error::Damaged("one line only"))?;
    let body = rest.strip_suffix('\n').ok_or(Error::Damaged("cut short"))?;
    let header: Header = serde_json::from_str(header).map_err(|_| Error::Damaged("no header"))?;
    if header.format != T::FORMAT || header.version != VERSION {
        return Err(Error::Version {
            format: header.format,
            version: header.version,
        });
    }
    if header.sha256 != digest(body.as_bytes()) {
        return Err(Error::Damaged("checksum does not match"));
    }
    serde_json::from_str(body).map_err(|_| Error::Damaged("body is not the record it should be"))
}

/// Writes a record to `path`, whole or not at all.
pub(crate) fn store<T: Record>(point: &str, path: &Path, record: &T) -> Result<(), state::Error> {
    state::write_record(point, path, &encode(record))
}

/// Reads the record at `path`; none if there is no such file.
pub(crate) fn load<T: Record>(path: &Path) -> Result<Option<T>, Error> {
    state::read_record(path, MAX_BYTES)?
        .map(|text| decode(&text))
        .transpose()
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::with_capacity(64), |mut text, byte| {
            use std::fmt::Write as _;
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Messages of the interface inside a record: protobuf in base64, so that no field is lost.
mod message {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use prost::Message;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<M: Message, S: Serializer>(
        message: &M,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(message.encode_to_vec()))
    }

    pub(super) fn deserialize<'de, M: Message + Default, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<M, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(D::Error::custom)?;
        M::decode(bytes.as_slice()).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests;
