//! From what the interface asks to a record and a plan for the keeper. Pure.

use std::path::{Component, Path, PathBuf};

use oci_spec::image::Config as ImageConfig;
use proto::cri::{ContainerConfig, PodSandboxConfig};
use runtime::compile::{self, Extras};
use runtime::plan::{ContainerPlan, Id, Rootfs, Stdio, User};

use crate::paths::Paths;
use crate::spec::{self, Device, Generated};
use crate::{Error, sandbox};

/// A container that can be made.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Planned {
    /// For the keeper.
    pub(crate) plan: ContainerPlan,
    /// Cgroup below the root of cgroups.
    pub(crate) cgroup: String,
    /// Asks it to end.
    pub(crate) stop_signal: i32,
    /// Absolute path of the log; empty if there is none.
    pub(crate) log_path: String,
    /// Host paths that are mounted into it.
    pub(crate) bind_sources: Vec<PathBuf>,
    /// Who it runs as, where numbers say it.
    pub(crate) user: Option<(u32, u32, Vec<u32>)>,
}

/// All that a container's plan depends on.
pub(crate) struct Input<'a> {
    pub(crate) id: &'a str,
    pub(crate) config: &'a ContainerConfig,
    pub(crate) sandbox_id: &'a str,
    pub(crate) sandbox: &'a PodSandboxConfig,
    pub(crate) image: Option<&'a ImageConfig>,
    /// Unpacked layers, topmost first.
    pub(crate) layers: &'a [PathBuf],
    pub(crate) devices: &'a [Device],
    /// First process of the container whose pid namespace is joined.
    pub(crate) target: Option<u32>,
    pub(crate) host: &'a spec::Host,
    pub(crate) host_name: &'a str,
    pub(crate) paths: &'a Paths,
}

/// Plans a container.
pub(crate) fn plan(input: &Input<'_>) -> Result<Planned, Error> {
    let facts = sandbox::plan::facts(input.sandbox_id, input.sandbox, input.paths, input.host_name);
    let Generated {
        spec,
        user,
        stop_signal,
    } = spec::generate(
        input.id,
        input.config,
        input.image,
        &facts,
        input.host,
        input.devices,
        input.target,
    )?;
    let cgroup = format!("{}/{}", facts.cgroup_parent, input.id);
    let log_path = log_path(&input.sandbox.log_directory, &input.config.log_path)?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let writable = input.paths.writable_layer(input.id);
    let rootfs = Rootfs::Overlay {
        lower: input.layers.iter().map(|layer| text(layer)).collect(),
        upper: text(&writable.join("upper")),
        work: text(&writable.join("work")),
        readonly: false,
    };
    let known_user = numbers(&user);
    let extras = Extras {
        id: input.id.to_owned(),
        rootfs,
        stdio: Stdio {
            log_path: Some(log_path.clone()).filter(|path| !path.is_empty()),
            stdin: input.config.stdin,
            stdin_once: input.config.stdin_once,
        },
        cgroup_path: text(&input.paths.cgroup(&cgroup)),
        user: Some(user),
    };
    let plan =
        compile::container(&spec, extras).map_err(|error| Error::invalid("config", error.to_string()))?;
    let bind_sources = input
        .config
        .mounts
        .iter()
        .map(|mount| PathBuf::from(&mount.host_path))
        .collect();
    Ok(Planned {
        plan,
        cgroup,
        stop_signal,
        log_path,
        bind_sources,
        user: known_user,
    })
}

/// Where the log goes: a path below the sandbox's directory.
fn log_path(directory: &str, path: &str) -> Result<String, Error> {
    if directory.is_empty() || path.is_empty() {
        return Ok(String::new());
    }
    let plain = |path: &Path| {
        path.components()
            .all(|c| matches!(c, Component::Normal(_) | Component::RootDir))
    };
    if !directory.starts_with('/')
        || path.starts_with('/')
        || !plain(Path::new(directory))
        || !plain(Path::new(path))
    {
        return Err(Error::invalid(
            "config.log_path",
            format!("{path:?} is not a path below {directory:?}"),
        ));
    }
    Ok(Path::new(directory).join(path).to_string_lossy().into_owned())
}

/// The user, if no file of the container is needed to know it.
fn numbers(user: &User) -> Option<(u32, u32, Vec<u32>)> {
    match (&user.uid, &user.gid) {
        (Id::Number(uid), Some(Id::Number(gid))) => {
            let mut groups = user.additional_gids.clone();
            if !groups.contains(gid) {
                groups.insert(0, *gid);
            }
            Some((*uid, *gid, groups))
        }
        _ => None,
    }
}
