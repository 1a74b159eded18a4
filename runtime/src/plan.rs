//! What a keeper is told to do: compiled, flat data without JSON, strings resolved, order fixed.
//!
//! A plan is computed once by the driver (from an OCI runtime spec) and carried out by the keeper as it stands.
//! It crosses the wire as one [`crate::wire`] record; [`PLAN_VERSION`] changes with its shape.

use serde::{Deserialize, Serialize};

/// Version of the shapes in this module. A keeper speaks its own version only; the agent speaks its own and the two
/// before.
pub const PLAN_VERSION: u16 = 1;

/// What a keeper makes when it starts: the namespaces that all containers of the sandbox share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxPlan {
    /// Sandbox id, `[a-z0-9]{1,64}`.
    pub id: String,
    /// Host name inside the UTS namespace; none where the host's is shared.
    pub hostname: Option<String>,
    /// A network namespace of its own (not for `hostNetwork`).
    pub own_network: bool,
    /// An IPC namespace of its own (not for `hostIPC`).
    pub own_ipc: bool,
    /// Namespaced sysctls, `net.ipv4.ip_forward` → `1`, in order.
    pub sysctls: Vec<(String, String)>,
    /// Absolute path of the cgroup directory that the keeper moves itself into; made if absent.
    pub keeper_cgroup: String,
    /// Directory (0700, on tmpfs) for the keeper's socket `keeper.sock` and the exit records `exits/CONTAINER-ID`.
    pub directory: String,
    /// `oom_score_adj` of the keeper; raised to the inherited value where the kernel refuses.
    pub oom_score_adj: i32,
}

/// One container, ready to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerPlan {
    /// Container id, `[a-z0-9]{1,64}`.
    pub id: String,
    /// Root file system; mounted in the container's own mount namespace only.
    pub rootfs: Rootfs,
    /// Mounts in order, after the root.
    pub mounts: Vec<Mount>,
    /// Device nodes to make, those every container has included. None are made where `/dev` is bound from the host.
    pub devices: Vec<Device>,
    /// Which devices the container's processes may use, last match wins; empty = no filter.
    pub device_rules: Vec<DeviceRule>,
    /// Paths hidden by an empty read-only file or directory.
    pub masked_paths: Vec<String>,
    /// Paths remounted read-only.
    pub readonly_paths: Vec<String>,
    /// The process.
    pub process: Process,
    /// Where process ids come from.
    pub pid_namespace: PidNamespace,
    /// Where the container's processes are accounted.
    pub cgroup: Cgroup,
    /// Standard streams.
    pub stdio: Stdio,
}

/// A container's root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rootfs {
    /// An overlay of read-only layers (topmost first) and a writable directory.
    Overlay {
        /// Absolute paths of unpacked layers, topmost first; at least one.
        lower: Vec<String>,
        /// Writable layer.
        upper: String,
        /// Overlay work directory, on the same file system as `upper`.
        work: String,
        /// `readOnlyRootFilesystem`.
        readonly: bool,
    },
    /// A directory, as an OCI bundle names it.
    Directory {
        /// Absolute path.
        path: String,
        /// Remount read-only.
        readonly: bool,
    },
}

/// One mount below the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path inside the container; resolved inside the root, without leaving it by any link.
    pub destination: String,
    /// What is mounted.
    pub kind: MountKind,
    /// `MOUNT_ATTR_*` bits to set: ro, nosuid, nodev, noexec, relatime… see mount_setattr(2).
    pub flags: u64,
    /// `MOUNT_ATTR_*` bits to clear on a bind, asked for by `rw`, `suid`, `dev`, `exec`.
    pub cleared: u64,
    /// How mounts travel between the host's tree and the container's.
    pub propagation: Propagation,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A file system instance: proc, sysfs, tmpfs, devpts, mqueue, cgroup2…
    FileSystem {
        /// Name as in /proc/filesystems.
        name: String,
        /// Mount data, `key=value` or `key`.
        options: Vec<String>,
    },
    /// A file or directory of the host.
    Bind {
        /// Absolute path on the host.
        source: String,
        /// With the mounts below it.
        recursive: bool,
        /// Apply read-only to the mounts below as well.
        recursive_readonly: bool,
    },
}

/// Mount propagation of one mount, see mount_namespaces(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Nothing travels.
    Private,
    /// From the host to the container.
    Slave,
    /// Both ways.
    Shared,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Absolute path inside the container.
    pub path: String,
    /// Block (`true`) or character device.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits, 0o666 and the like.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// One rule of a container's device filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    /// Allow or deny.
    pub allow: bool,
    /// `b`lock, `c`haracter, or both where none.
    pub block: Option<bool>,
    /// Major number, any if none.
    pub major: Option<u32>,
    /// Minor number, any if none.
    pub minor: Option<u32>,
    /// Bits: 1 mknod, 2 read, 4 write (`BPF_DEVCG_ACC_*`).
    pub access: u32,
}

/// The process of a container or of an exec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Program and arguments; at least one. A program without `/` is looked up in the container's `PATH`.
    pub args: Vec<String>,
    /// Environment, `KEY=value`, in order.
    pub env: Vec<String>,
    /// Absolute working directory inside the container; made if absent.
    pub cwd: String,
    /// Who it runs as.
    pub user: User,
    /// Capabilities as bit masks over `CAP_*` numbers, see capabilities(7). What the keeper itself lacks is left out.
    pub capabilities: Capabilities,
    /// See prctl(2) PR_SET_NO_NEW_PRIVS.
    pub no_new_privileges: bool,
    /// See proc(5); raised to the inherited value where the kernel refuses.
    pub oom_score_adj: Option<i32>,
    /// (`RLIMIT_*` number, soft, hard).
    pub rlimits: Vec<(u32, u64, u64)>,
    /// A pseudo terminal instead of pipes.
    pub terminal: bool,
    /// File mode creation mask.
    pub umask: u32,
}

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User by number, or by a name of the container's /etc/passwd.
    pub uid: Id,
    /// Group by number or by a name of /etc/group; none = the user's group of /etc/passwd, else 0.
    pub gid: Option<Id>,
    /// Further groups, in force as given.
    pub additional_gids: Vec<u32>,
    /// Add the groups that the container's /etc/group gives the user (`supplementalGroupsPolicy: Merge`).
    pub image_groups: bool,
}

/// A user or group, by number or by name. All digits is a number, never a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Id {
    /// Numeric id.
    Number(u32),
    /// Name, looked up inside the container's root by the keeper's child.
    Name(String),
}

/// A user or group that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("user {text:?}: {reason}")]
pub struct UserError {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Id {
    /// Reads a number or a name.
    ///
    /// # Errors
    /// [`UserError`] for the empty string, a number that is no id, and a name that no database line can hold.
    pub fn parse(text: &str) -> Result<Self, UserError> {
        let error = |reason| UserError {
            text: text.to_owned(),
            reason,
        };
        if text.is_empty() || text.contains(|c: char| c == ':' || c.is_control()) {
            return Err(error("is neither a number nor a name"));
        }
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            let number = text.parse().ok().filter(|number| *number != u32::MAX);
            return number
                .map(Self::Number)
                .ok_or_else(|| error("uids and gids must be in range 0-4294967294"));
        }
        Ok(Self::Name(text.to_owned()))
    }
}

impl User {
    /// Reads `USER[:GROUP]` as images and Dockerfiles write it; the empty string is root. No further groups.
    ///
    /// # Errors
    /// [`UserError`] as [`Id::parse`].
    pub fn parse(text: &str) -> Result<Self, UserError> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let uid = if user.is_empty() {
            Id::Number(0)
        } else {
            Id::parse(user)?
        };
        let gid = group
            .filter(|group| !group.is_empty())
            .map(Id::parse)
            .transpose()?;
        Ok(Self {
            uid,
            gid,
            additional_gids: Vec::new(),
            image_groups: false,
        })
    }
}

/// The five capability sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Capabilities {
    /// Upper bound over exec.
    pub bounding: u64,
    /// In force.
    pub effective: u64,
    /// May be taken.
    pub permitted: u64,
    /// Kept over exec of a file with inheritable capabilities; empty unless asked.
    pub inheritable: u64,
    /// Kept over exec by an unprivileged user; empty unless asked.
    pub ambient: u64,
}

/// Where process ids come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidNamespace {
    /// A namespace of the container's own.
    Own,
    /// The host's (`hostPID`).
    Host,
    /// A namespace that exists, by the path of its file.
    Path(String),
}

/// Where a container is accounted and limited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    /// Absolute path of the directory below /sys/fs/cgroup; made by the keeper, removed with the container.
    pub path: String,
    /// (file, value) to write in order before the process is born there, e.g. (`memory.max`, `33554432`).
    pub settings: Vec<(String, String)>,
}

/// Where the standard streams go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stdio {
    /// CRI log file, appended to; its directory exists. None discards the output.
    pub log_path: Option<String>,
    /// Keep standard input open for attach.
    pub stdin: bool,
    /// Close standard input after the first attach ends.
    pub stdin_once: bool,
}

/// Whether `id` may name a sandbox or a container: `[a-z0-9]{1,64}`, so that it is safe as a file name.
pub(crate) fn valid_id(id: &str) -> bool {
    (1..=64).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

#[cfg(test)]
mod tests;
