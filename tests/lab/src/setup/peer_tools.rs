//! Upstream's node side beside the kubelet: containerd with its shim, runc and the reference CNI plugins, each from a
//! Go module of its own below `tests/testbed`.

use super::debian_packages;
use super::privilege::{as_user, make_dir};
use super::progress::run_step;
use crate::paths::workspace;
use crate::pki::hex;
use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

struct Peer {
    /// Folder of its module.
    module: &'static str,
    /// (file name, package).
    programs: &'static [(&'static str, &'static str)],
    tags: &'static str,
    /// runc enters namespaces in C before Go's runtime starts.
    cgo: &'static str,
    seconds: u64,
}

const PEERS: [Peer; 3] = [
    Peer {
        module: "containerd",
        programs: &[
            ("containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
            (
                "containerd-shim-runc-v2",
                "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
            ),
        ],
        tags: "no_btrfs no_devmapper no_zfs",
        cgo: "0",
        seconds: 60,
    },
    Peer {
        module: "runc",
        programs: &[("runc", "github.com/opencontainers/runc")],
        tags: "seccomp",
        cgo: "1",
        seconds: 15,
    },
    Peer {
        module: "plugins",
        programs: &[
            (
                "cni/bridge",
                "github.com/containernetworking/plugins/plugins/main/bridge",
            ),
            (
                "cni/loopback",
                "github.com/containernetworking/plugins/plugins/main/loopback",
            ),
            (
                "cni/host-local",
                "github.com/containernetworking/plugins/plugins/ipam/host-local",
            ),
            (
                "cni/portmap",
                "github.com/containernetworking/plugins/plugins/meta/portmap",
            ),
        ],
        tags: "",
        cgo: "0",
        seconds: 15,
    },
];

/// Directory of the built programs below the testbed's, named after what determines them.
pub(crate) fn directory(tools: &Path) -> Result<PathBuf> {
    let mut hash = Sha256::new();
    for peer in &PEERS {
        for file in ["go.mod", "go.sum"] {
            let path = workspace().join("tests/testbed").join(peer.module).join(file);
            hash.update(fs::read(&path).with_context(|| format!("read {}", path.display()))?);
        }
        hash.update(peer.tags);
    }
    Ok(tools.join(format!("peers-{}", &hex(&hash.finalize())[..16])))
}

/// Builds what is not there yet.
pub(crate) fn build(tools: &Path) -> Result<()> {
    debian_packages::install_for_runc()?;
    let dir = directory(tools)?;
    make_dir(&dir.join("cni"))?;
    for peer in &PEERS {
        for (name, package) in peer.programs {
            let target = dir.join(name);
            if target.exists() {
                continue;
            }
            let temporary = target.with_extension("new");
            let mut command = Command::new("go");
            command.args([
                "build",
                "-trimpath",
                "-buildvcs=false",
                "-ldflags",
                "-s -w",
                "-tags",
                peer.tags,
                "-o",
            ]);
            command.arg(&temporary).arg(package);
            command
                .current_dir(workspace().join("tests/testbed").join(peer.module))
                .env("CGO_ENABLED", peer.cgo);
            run_step(
                &format!("build {name}"),
                Duration::from_secs(peer.seconds),
                as_user(&mut command),
            )?;
            fs::rename(&temporary, &target).with_context(|| format!("put {} in place", target.display()))?;
        }
    }
    Ok(())
}
