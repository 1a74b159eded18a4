//! What pods hold on a node, looked at from outside the agent.

use super::{Node, collect_pids};
use crate::process::{ProcessRecord, start_time};
use anyhow::{Context as _, Result};
use rustix::process::Signal;
use std::fs;
use std::path::{Path, PathBuf};

/// Directories that hold one entry a pod, sandbox or container, and nothing else.
const PER_POD_DIRS: [&str; 6] = [
    "/var/lib/kubelet/pods",
    "/var/log/pods",
    "/var/log/containers",
    "/run/longshore/sandboxes",
    "/run/longshore/netns",
    "/var/lib/longshore/containers",
];

/// Mount targets below these are pods'.
const PER_POD_MOUNTS: [&str; 3] = ["/var/lib/kubelet/pods/", "/run/longshore/", "/var/lib/longshore/"];

impl Node {
    /// Pid and start time of each process of a container, which is known by its cgroup's name.
    pub fn container_processes(&self, container_id: &str) -> Result<Vec<(u32, u64)>> {
        let mut pids = Vec::new();
        for cgroup in cgroups_named(&self.cgroup, container_id) {
            collect_pids(&cgroup, &mut pids)?;
        }
        Ok(pids
            .into_iter()
            .filter_map(|pid| Some((pid, start_time(pid)?)))
            .collect())
    }

    /// Kills the first process of a container with SIGKILL.
    pub fn kill_container(&self, container_id: &str) -> Result<()> {
        let processes = self.container_processes(container_id)?;
        let first = processes.iter().min_by_key(|&&(pid, started)| (started, pid));
        let &(pid, start_time) = first.with_context(|| format!("container {container_id} has no process"))?;
        ProcessRecord {
            name: container_id.to_owned(),
            pid,
            start_time,
        }
        .signal(Signal::KILL)
    }

    /// What pods have left on the node, one line each; empty on a node without pods.
    pub fn pod_leftovers(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for dir in PER_POD_DIRS {
            let entries = fs::read_dir(self.path(dir)).into_iter().flatten().flatten();
            found.extend(entries.map(|entry| format!("{dir}/{}", entry.file_name().to_string_lossy())));
        }
        found.extend(self.pod_mounts()?);
        found.extend(self.pod_links()?);
        found.extend(self.pod_cgroups());
        for pid in self.pids()? {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
            if arguments.contains("longshore-oci") {
                found.push(format!("process {pid} ({})", arguments.trim()));
            }
        }
        Ok(found)
    }

    fn pod_mounts(&self) -> Result<Vec<String>> {
        let path = format!("/proc/{}/mountinfo", self.init_pid());
        let mounts = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let targets = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        let of_pods = targets.filter(|target| PER_POD_MOUNTS.iter().any(|below| target.starts_with(below)));
        Ok(of_pods.map(|target| format!("mount {target}")).collect())
    }

    /// Pods' links are the veths beside `eth0`.
    fn pod_links(&self) -> Result<Vec<String>> {
        let links: Vec<serde_json::Value> = serde_json::from_str(&self.sh("ip -j link show type veth")?)?;
        let names = links
            .iter()
            .filter_map(|link| link["ifname"].as_str())
            .filter(|&name| name != "eth0");
        Ok(names.map(|name| format!("link {name}")).collect())
    }

    fn pod_cgroups(&self) -> Vec<String> {
        let mut found = Vec::new();
        for parent in ["kubepods", "longshore.slice/keepers"] {
            each_cgroup(&self.cgroup.join(parent), &mut |path| {
                let name = path
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned())
                    .unwrap_or_default();
                if !matches!(name.as_str(), "burstable" | "besteffort") {
                    found.push(format!("cgroup {parent}/…/{name}"));
                }
            });
        }
        found
    }
}

fn cgroups_named(root: &Path, part: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    each_cgroup(root, &mut |path| {
        if path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().contains(part))
        {
            found.push(path.to_path_buf());
        }
    });
    found
}

fn each_cgroup(cgroup: &Path, visit: &mut dyn FnMut(&Path)) {
    let entries = fs::read_dir(cgroup).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        visit(&entry.path());
        each_cgroup(&entry.path(), visit);
    }
}
