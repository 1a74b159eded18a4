//! Where everything of a sandbox and a container lies. Names are made from ids of ours only.

use std::path::{Path, PathBuf};

use crate::Config;

/// Whether `id` may be part of a path: `[a-z0-9]{1,64}`, as all ids that we make.
pub(crate) fn is_id(id: &str) -> bool {
    (1..=64).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// The places of the engine's files.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    run: PathBuf,
    state: PathBuf,
    cgroups: PathBuf,
    keepers: PathBuf,
}

impl Paths {
    pub(crate) fn new(config: &Config) -> Self {
        Self::at(
            &config.run_dir,
            &config.state_dir,
            &config.cgroup_root,
            &config.keepers_cgroup,
        )
    }

    pub(crate) fn at(
        run: impl AsRef<Path>,
        state: impl AsRef<Path>,
        cgroups: impl AsRef<Path>,
        keepers: &str,
    ) -> Self {
        Self {
            run: run.as_ref().to_owned(),
            state: state.as_ref().to_owned(),
            cgroups: cgroups.as_ref().to_owned(),
            keepers: cgroups.as_ref().join(keepers.trim_matches('/')),
        }
    }

    /// Held by the one engine that works here.
    pub(crate) fn lock(&self) -> PathBuf {
        self.run.join("engine.lock")
    }

    /// Records that could not be read, kept for who wants to know why.
    pub(crate) fn quarantine(&self) -> PathBuf {
        self.run.join("quarantine")
    }

    pub(crate) fn sandboxes(&self) -> PathBuf {
        self.run.join("sandboxes")
    }

    pub(crate) fn sandbox(&self, id: &str) -> PathBuf {
        self.sandboxes().join(id)
    }

    pub(crate) fn sandbox_record(&self, id: &str) -> PathBuf {
        self.sandbox(id).join("record.json")
    }

    pub(crate) fn keeper_socket(&self, id: &str) -> PathBuf {
        self.sandbox(id).join("keeper.sock")
    }

    pub(crate) fn hostname(&self, id: &str) -> PathBuf {
        self.sandbox(id).join("hostname")
    }

    pub(crate) fn resolv_conf(&self, id: &str) -> PathBuf {
        self.sandbox(id).join("resolv.conf")
    }

    pub(crate) fn shm(&self, id: &str) -> PathBuf {
        self.sandbox(id).join("shm")
    }

    pub(crate) fn container_records(&self, sandbox: &str) -> PathBuf {
        self.sandbox(sandbox).join("containers")
    }

    pub(crate) fn container_record(&self, sandbox: &str, id: &str) -> PathBuf {
        self.container_records(sandbox).join(format!("{id}.json"))
    }

    /// Written by the keeper.
    pub(crate) fn exit_record(&self, sandbox: &str, id: &str) -> PathBuf {
        self.sandbox(sandbox).join("exits").join(id)
    }

    pub(crate) fn network_namespaces(&self) -> PathBuf {
        self.run.join("netns")
    }

    pub(crate) fn network_namespace(&self, sandbox: &str) -> PathBuf {
        self.network_namespaces().join(sandbox)
    }

    pub(crate) fn writable_layers(&self) -> PathBuf {
        self.state.join("containers")
    }

    pub(crate) fn writable_layer(&self, container: &str) -> PathBuf {
        self.writable_layers().join(container)
    }

    /// Cgroups of keepers, one a sandbox.
    pub(crate) fn keepers(&self) -> &Path {
        &self.keepers
    }

    pub(crate) fn keeper_cgroup(&self, sandbox: &str) -> PathBuf {
        self.keepers.join(sandbox)
    }

    /// The directory of the cgroup that the interface calls `path`.
    pub(crate) fn cgroup(&self, path: &str) -> PathBuf {
        self.cgroups.join(path.trim_start_matches('/'))
    }
}
