//! Makes and unmakes what belongs to a sandbox on the machine. Every step is idempotent; all of it blocks.

use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::process::Child;

use cni::{Attachment, Network};

use super::plan::Setup;
use crate::paths::Paths;
use crate::records::{self, Phase, SandboxRecord};
use crate::{Config, Error, fault, host, state};

/// Where the host's own resolv.conf is.
const HOST_RESOLV_CONF: &str = "/etc/resolv.conf";
/// More than any resolver reads.
const MAX_RESOLV_CONF: u64 = 10 << 20;

/// Makes all of a sandbox: intent, files, keeper, network, and the record that says so. What an error leaves is undone
/// by [`release`] and [`forget`]; `process` is the keeper's then, to be waited for.
pub(crate) fn make(
    setup: &Setup,
    record: &SandboxRecord,
    config: &Config,
    paths: &Paths,
    process: &mut Option<Child>,
) -> Result<Vec<IpAddr>, Error> {
    let id = &record.id;
    state::mkdir("cri.make_sandbox_directory", &paths.container_records(id), 0o700).map_err(state_error)?;
    write_record("cri.write_sandbox_intent", record, paths)?;
    files(setup, id, paths)?;
    fault::point("cri.spawn_keeper");
    let keeper =
        runtime::client::spawn_keeper(&config.oci_binary, &setup.keeper).map_err(|error| Error::Keeper {
            sandbox: id.clone(),
            source: Box::new(error),
        })?;
    fault::point("cri.keeper_spawned");
    *process = Some(keeper.child);
    let ips = if setup.own_network {
        network(id, keeper.pid, &config.network, paths)?
    } else {
        Vec::new()
    };
    let ready = SandboxRecord {
        phase: Phase::Ready,
        ips: ips.clone(),
        ..record.clone()
    };
    write_record("cri.write_sandbox_ready", &ready, paths)?;
    Ok(ips)
}

fn files(setup: &Setup, id: &str, paths: &Paths) -> Result<(), Error> {
    if let Some(hostname) = &setup.hostname {
        host::write_shared_file("cri.write_hostname", &paths.hostname(id), hostname)?;
    }
    let resolv_conf = match &setup.resolv_conf {
        Some(text) => text.clone(),
        None => state::read_record(HOST_RESOLV_CONF.as_ref(), MAX_RESOLV_CONF)
            .map_err(state_error)?
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default(),
    };
    host::write_shared_file("cri.write_resolv_conf", &paths.resolv_conf(id), &resolv_conf)?;
    if setup.own_shm {
        state::mkdir("cri.make_shm_directory", &paths.shm(id), 0o700).map_err(state_error)?;
        host::mount_shm("cri.mount_shm", &paths.shm(id))?;
    }
    Ok(())
}

fn network(id: &str, pid: u32, network: &Network, paths: &Paths) -> Result<Vec<IpAddr>, Error> {
    let namespace =
        host::bind_network_namespace("cri.bind_network_namespace", pid, &paths.network_namespace(id))?;
    fault::point("cri.attach_network");
    let attachment = Attachment {
        sandbox_id: id,
        netns: namespace.as_fd(),
    };
    network.attach(&attachment).map_err(|error| Error::Network {
        operation: "set up",
        sandbox: id.to_owned(),
        source: Box::new(error),
    })
}

/// Ends what is left of a sandbox whose keeper was told to end or is dead: processes, cgroups, network, mounts. The
/// records stay. Goes through all steps and gives the first error.
pub(crate) fn release(
    id: &str,
    container_cgroups: &[String],
    network: &Network,
    paths: &Paths,
) -> Result<(), Error> {
    let mut first = Ok(());
    let mut step = |result: Result<(), Error>| {
        if first.is_ok() {
            first = result;
        }
    };
    // The keeper first: it could make more.
    let keeper = paths.keeper_cgroup(id);
    step(host::kill_cgroup("cri.kill_keeper_cgroup", &keeper));
    for cgroup in container_cgroups {
        let cgroup = paths.cgroup(cgroup);
        step(host::kill_cgroup("cri.kill_container_cgroup", &cgroup));
        step(host::remove_cgroup("cri.remove_container_cgroup", &cgroup));
    }
    step(host::remove_cgroup("cri.remove_keeper_cgroup", &keeper));
    fault::point("cri.detach_network");
    step(network.detach(id).map_err(|error| Error::Network {
        operation: "tear down",
        sandbox: id.to_owned(),
        source: Box::new(error),
    }));
    let namespace = paths.network_namespace(id);
    step(host::unmount("cri.unmount_network_namespace", &namespace));
    step(state::remove("cri.remove_network_namespace", &namespace).map_err(state_error));
    step(host::unmount("cri.unmount_shm", &paths.shm(id)));
    first
}

/// Removes the records of a released sandbox: its own first, so that what a crash leaves is known for a leftover.
pub(crate) fn forget(id: &str, paths: &Paths) -> Result<(), Error> {
    state::remove("cri.remove_sandbox_record", &paths.sandbox_record(id)).map_err(state_error)?;
    state::remove_tree("cri.remove_sandbox_directory", &paths.sandbox(id)).map_err(state_error)
}

/// Writes the record of a sandbox.
pub(crate) fn write_record(point: &str, record: &SandboxRecord, paths: &Paths) -> Result<(), Error> {
    records::store(point, &paths.sandbox_record(&record.id), record).map_err(state_error)
}

/// The state writer's error as the engine's.
pub(crate) fn state_error(error: state::Error) -> Error {
    Error::Io {
        operation: error.operation,
        object: error.path.display().to_string(),
        source: error.source,
    }
}
