//! The pods' own effects on files: log links, log directories, records of endings. All of them are here.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fault;

/// An effect that failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {path}: {cause}")]
pub(crate) struct Error {
    pub(crate) operation: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) cause: io::Error,
}

/// What is remembered of a pod that has to end: its deadline outlives the agent, grace is not begun anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EndingRecord {
    pub(crate) deadline: Timestamp,
    /// The grace period it came from, seconds.
    pub(crate) grace: i64,
}

/// Longest name of a file, bytes.
const MAX_NAME: usize = 255;

/// The places of the pods' files.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    /// `/var/log/pods`.
    pub(crate) pod_logs: PathBuf,
    /// `/var/log/containers`: links for log collectors.
    pub(crate) links: PathBuf,
    /// `/run/longshore/pods`: records of endings.
    pub(crate) records: PathBuf,
}

impl Files {
    /// `pod_logs` is `podLogsDir`; the links lie beside it, as upstream has them for the default.
    pub(crate) fn new(pod_logs: &Path, run_dir: &Path) -> Self {
        Self {
            pod_logs: pod_logs.to_owned(),
            links: pod_logs
                .parent()
                .unwrap_or(Path::new("/var/log"))
                .join("containers"),
            records: run_dir.join("pods"),
        }
    }

    /// Name of the link of one container: `POD_NAMESPACE_CONTAINER-ID.log`, cut to what a file name may hold.
    pub(crate) fn link(&self, pod: &str, namespace: &str, container: &str, id: &str) -> PathBuf {
        let tail = format!("-{id}.log");
        let mut head = format!("{pod}_{namespace}_{container}");
        head.truncate(MAX_NAME.saturating_sub(tail.len()));
        self.links.join(head + &tail)
    }

    /// Makes the link of a container to its log. Repeatable.
    pub(crate) fn link_log(&self, link: &Path, log: &Path) -> Result<(), Error> {
        fault::point("pods.link_log");
        let made = std::fs::create_dir_all(&self.links).and_then(|()| match symlink(log, link) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        });
        made.map_err(failed("link log at", link))
    }

    /// Removes one log file with its rotated ones, and the link to it. Repeatable.
    pub(crate) fn remove_log(&self, log: &Path, link: &Path) -> Result<(), Error> {
        fault::point("pods.remove_log");
        unlink(link)?;
        let (Some(directory), Some(name)) = (log.parent(), log.file_name()) else {
            return Ok(());
        };
        let name = name.to_string_lossy();
        for path in entries(directory)? {
            let file = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let rotated = file
                .strip_prefix(&*name)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
            if rotated {
                unlink(&path)?;
            }
        }
        Ok(())
    }

    /// Removes all logs of a pod and the links to them. Repeatable.
    pub(crate) fn remove_logs(&self, directory: &Path) -> Result<(), Error> {
        fault::point("pods.remove_logs");
        match std::fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove logs in", directory)(error));
            }
            _ => {}
        }
        for link in entries(&self.links)? {
            if std::fs::read_link(&link).is_ok_and(|target| target.starts_with(directory)) {
                unlink(&link)?;
            }
        }
        Ok(())
    }

    /// Removes links whose log is gone; how many.
    pub(crate) fn remove_dead_links(&self) -> Result<usize, Error> {
        let mut removed = 0;
        for link in entries(&self.links)? {
            let dead = link.is_symlink() && !link.exists();
            if dead {
                fault::point("pods.remove_dead_link");
                unlink(&link)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Remembers the end of a pod before anything of it is stopped.
    pub(crate) fn write_ending(&self, uid: &str, record: EndingRecord) -> Result<(), Error> {
        fault::point("pods.write_ending");
        let path = self.record(uid);
        let write = || {
            use std::io::Write as _;
            std::fs::create_dir_all(&self.records)?;
            let temporary = path.with_extension("tmp");
            let mut file = std::fs::File::create(&temporary)?;
            file.write_all(&serde_json::to_vec(&record)?)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            std::fs::File::open(&self.records)?.sync_all()
        };
        write().map_err(failed("write record", &path))
    }

    /// The ending remembered of a pod; one that cannot be read is as none.
    pub(crate) fn read_ending(&self, uid: &str) -> Option<EndingRecord> {
        serde_json::from_slice(&std::fs::read(self.record(uid)).ok()?).ok()
    }

    /// Forgets the end of a pod. Repeatable.
    pub(crate) fn remove_ending(&self, uid: &str) -> Result<(), Error> {
        fault::point("pods.remove_ending");
        // A crash in the middle of a write may have left the temporary file.
        unlink(&self.record(uid).with_extension("tmp"))?;
        unlink(&self.record(uid))
    }

    fn record(&self, uid: &str) -> PathBuf {
        self.records.join(format!("{uid}.json"))
    }
}

/// What lies in a directory; nothing if it is not there.
pub(crate) fn entries(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let read = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(failed("list", directory))?,
    };
    let paths = read
        .map(|entry| entry.map(|e| e.path()))
        .collect::<io::Result<_>>();
    paths.map_err(failed("list", directory))
}

fn unlink(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

fn failed(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    move |cause| Error {
        operation,
        path: path.to_owned(),
        cause,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> (tempfile::TempDir, Files) {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(&dir.path().join("log/pods"), &dir.path().join("run"));
        (dir, files)
    }

    #[test]
    fn a_link_leads_to_its_log_and_goes_with_it() {
        let (_dir, files) = files();
        let pod = files.pod_logs.join("ns_pod_uid");
        let log = pod.join("c/0.log");
        std::fs::create_dir_all(log.parent().unwrap()).unwrap();
        std::fs::write(&log, "line").unwrap();
        std::fs::write(pod.join("c/0.log.20260101-000000.gz"), "old").unwrap();
        std::fs::write(pod.join("c/1.log"), "other").unwrap();
        let link = files.link("pod", "ns", "c", "id");
        assert_eq!(link.file_name().unwrap(), "pod_ns_c-id.log");
        files.link_log(&link, &log).unwrap();
        files.link_log(&link, &log).unwrap();
        assert_eq!(std::fs::read_to_string(&link).unwrap(), "line");

        files.remove_log(&log, &link).unwrap();
        files.remove_log(&log, &link).unwrap();
        assert!(!link.is_symlink());
        assert_eq!(entries(&pod.join("c")).unwrap(), [pod.join("c/1.log")]);
    }

    #[test]
    fn logs_of_one_pod_are_removed_and_no_others() {
        let (_dir, files) = files();
        for uid in ["a", "b"] {
            let log = files.pod_logs.join(format!("ns_pod_{uid}/c/0.log"));
            std::fs::create_dir_all(log.parent().unwrap()).unwrap();
            std::fs::write(&log, uid).unwrap();
            files.link_log(&files.link("pod", "ns", "c", uid), &log).unwrap();
        }
        files.remove_logs(&files.pod_logs.join("ns_pod_a")).unwrap();
        assert_eq!(
            entries(&files.pod_logs).unwrap(),
            [files.pod_logs.join("ns_pod_b")]
        );
        assert_eq!(
            entries(&files.links).unwrap(),
            [files.link("pod", "ns", "c", "b")]
        );
        std::fs::remove_dir_all(files.pod_logs.join("ns_pod_b")).unwrap();
        assert_eq!(files.remove_dead_links().unwrap(), 1);
    }

    #[test]
    fn a_long_name_is_cut_and_keeps_the_id() {
        let (_dir, files) = files();
        let link = files.link(&"p".repeat(253), "namespace", "container", &"a".repeat(64));
        let name = link.file_name().unwrap().to_str().unwrap();
        assert_eq!(name.len(), MAX_NAME);
        assert!(name.ends_with(&format!("-{}.log", "a".repeat(64))));
    }

    #[test]
    fn a_deadline_is_remembered_and_damage_is_as_none() {
        let (_dir, files) = files();
        let record = EndingRecord {
            deadline: Timestamp::from_second(1_800_000_000).unwrap(),
            grace: 30,
        };
        assert_eq!(files.read_ending("uid"), None);
        files.write_ending("uid", record).unwrap();
        assert_eq!(files.read_ending("uid"), Some(record));
        std::fs::write(files.record("uid"), "{\"dead").unwrap();
        assert_eq!(files.read_ending("uid"), None);
        files.remove_ending("uid").unwrap();
        files.remove_ending("uid").unwrap();
    }
}
