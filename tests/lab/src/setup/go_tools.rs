//! The testbed's programs, built from their Go modules and kept in the cache.

use super::privilege::{as_user, make_dir};
use super::progress::run_step;
use crate::paths::{cache_dir, workspace};
use crate::pki::hex;
use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Without these the API server reports a version that kubectl cannot parse.
const LINKER_FLAGS: &str = "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3 \
     -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36";

struct Tool {
    name: &'static str,
    package: &'static str,
    /// Seconds of a cold build on two cores, after those before it.
    seconds: u64,
    for_peers: bool,
}

const fn tool(name: &'static str, package: &'static str, seconds: u64, for_peers: bool) -> Tool {
    Tool {
        name,
        package,
        seconds,
        for_peers,
    }
}

const TOOLS: [Tool; 9] = [
    tool(
        "kube-apiserver",
        "k8s.io/kubernetes/cmd/kube-apiserver",
        200,
        false,
    ),
    tool(
        "kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
        180,
        false,
    ),
    tool(
        "kube-scheduler",
        "k8s.io/kubernetes/cmd/kube-scheduler",
        15,
        false,
    ),
    tool("kubectl", "k8s.io/kubernetes/cmd/kubectl", 20, false),
    tool("etcd", "go.etcd.io/etcd/server/v3", 15, false),
    tool("agnhost", "k8s.io/kubernetes/test/images/agnhost", 20, false),
    tool("kubelet", "k8s.io/kubernetes/cmd/kubelet", 60, true),
    tool("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy", 15, true),
    tool("kubeadm", "k8s.io/kubernetes/cmd/kubeadm", 20, true),
];

/// Directory of the built programs, named after what determines them.
pub(crate) fn directory() -> Result<PathBuf> {
    let mut hash = Sha256::new();
    for file in ["go.mod", "go.sum"] {
        let path = workspace().join("tests/testbed").join(file);
        hash.update(fs::read(&path).with_context(|| format!("read {}", path.display()))?);
    }
    hash.update(LINKER_FLAGS);
    Ok(cache_dir().join("testbed").join(&hex(&hash.finalize())[..16]))
}

/// Builds what is not there yet.
pub(crate) fn build(peers: bool) -> Result<PathBuf> {
    let dir = directory()?;
    make_dir(&dir)?;
    for tool in TOOLS.iter().filter(|tool| peers || !tool.for_peers) {
        if !dir.join(tool.name).exists() {
            build_one(tool, &dir)?;
        }
    }
    Ok(dir)
}

fn build_one(tool: &Tool, dir: &Path) -> Result<()> {
    let target = dir.join(tool.name);
    let temporary = dir.join(format!(".{}", tool.name));
    let mut command = Command::new("go");
    command.args([
        "build",
        "-trimpath",
        "-buildvcs=false",
        "-ldflags",
        LINKER_FLAGS,
        "-o",
    ]);
    command.arg(&temporary).arg(tool.package);
    command
        .current_dir(workspace().join("tests/testbed"))
        .env("CGO_ENABLED", "0");
    as_user(&mut command);
    run_step(
        &format!("build {}", tool.name),
        Duration::from_secs(tool.seconds),
        &mut command,
    )?;
    fs::rename(&temporary, &target).with_context(|| format!("put {} in place", target.display()))
}
