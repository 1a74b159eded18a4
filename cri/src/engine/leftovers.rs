//! What a crash left and no record names. Only what bears a name that this engine gives is touched.

use std::collections::BTreeSet;
use std::path::Path;

use super::Core;
use super::adopt::ids;
use crate::{Error, fault, host, sandbox, state};

/// Removes every leftover; one that does not go is logged and tried again at the next start. Blocks.
pub(super) fn collect(core: &Core, sandboxes: &BTreeSet<String>, containers: &BTreeSet<String>) {
    let paths = &core.paths;
    // Sandboxes first: a keeper without a record may still make things.
    each(&paths.sandboxes(), sandboxes, |id| {
        let cgroups = orphan_cgroups(core, id);
        sandbox::release(id, &cgroups, &core.config.network, paths).and_then(|()| sandbox::forget(id, paths))
    });
    each(paths.keepers(), sandboxes, |id| {
        host::kill_cgroup("cri.kill_leftover_keeper", &paths.keeper_cgroup(id))?;
        host::remove_cgroup("cri.remove_leftover_keeper", &paths.keeper_cgroup(id))
    });
    each(&paths.network_namespaces(), sandboxes, |id| {
        let namespace = paths.network_namespace(id);
        host::unmount("cri.unmount_leftover_namespace", &namespace)?;
        state::remove("cri.remove_leftover_namespace", &namespace).map_err(sandbox::state_error)
    });
    each(&paths.writable_layers(), containers, |id| {
        end_orphans(&core.config.cgroup_root, id)?;
        host::remove_layer("cri.remove_leftover_layer", &paths.writable_layer(id))
    });
    fault::point("cri.collect_network");
    if let Err(error) = core.config.network.collect(sandboxes) {
        tracing::error!(%error, "leftovers of the pod network stay");
    }
}

fn each(directory: &Path, known: &BTreeSet<String>, remove: impl Fn(&str) -> Result<(), Error>) {
    let found = match ids(directory, "") {
        Ok(found) => found,
        Err(error) => return tracing::error!(%error, "leftovers cannot be listed"),
    };
    for id in found.iter().filter(|id| !known.contains(*id)) {
        tracing::info!(leftover = %directory.join(id).display(), "removing");
        if let Err(error) = remove(id) {
            tracing::error!(leftover = %directory.join(id).display(), %error, "leftover stays");
        }
    }
}

/// Cgroups of the containers that a sandbox without a record still has records of.
fn orphan_cgroups(core: &Core, sandbox: &str) -> Vec<String> {
    let containers = ids(&core.paths.container_records(sandbox), ".json").unwrap_or_default();
    let records = containers.iter().filter_map(|id| {
        crate::records::load::<crate::records::ContainerRecord>(&core.paths.container_record(sandbox, id))
            .ok()
            .flatten()
    });
    records.map(|record| record.cgroup).collect()
}

/// Ends the processes of a container that has no record: its cgroup bears its id, somewhere below its pod's.
fn end_orphans(root: &Path, id: &str) -> Result<(), Error> {
    let mut pending = vec![(root.to_owned(), 0)];
    while let Some((directory, depth)) = pending.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if entry.file_name() == id {
                host::kill_cgroup("cri.kill_leftover_cgroup", &entry.path())?;
                host::remove_cgroup("cri.remove_leftover_cgroup", &entry.path())?;
            } else if depth < 6 {
                pending.push((entry.path(), depth + 1));
            }
        }
    }
    Ok(())
}
