//! The manifest directory: a look at every change the kernel tells of, and every `fileCheckFrequency`.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use notify::{RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use super::manifest::{MAX_BYTES, read_manifest};
use super::{Event, Sender, Source, uid};

/// Most manifests read from one directory.
const MAX_FILES: usize = 1000;

/// Watches for ever; ends when nobody listens any more.
pub(crate) async fn watch_files(path: PathBuf, node: String, period: Duration, events: Sender) {
    let mut directory = Directory {
        path,
        node,
        files: BTreeMap::new(),
    };
    let changed = Arc::new(Notify::new());
    let mut watcher = None;
    let mut told: Option<Vec<String>> = None;
    loop {
        if watcher.is_none() {
            watcher = watch(&directory.path, &changed);
        }
        let scan = tokio::task::spawn_blocking(move || {
            let pods = directory.scan();
            (directory, pods)
        });
        let Ok((back, pods)) = scan.await else { return };
        directory = back;
        let uids: Vec<String> = pods.iter().map(|p| uid(p).to_owned()).collect();
        if told.as_ref() != Some(&uids) {
            told = Some(uids);
            if events.send((Source::File, Event::Listed(pods))).await.is_err() {
                return;
            }
        }
        // Whichever comes first; a change during the scan has left its permit.
        let _ = tokio::time::timeout(period, changed.notified()).await;
        if !directory.path.exists() {
            watcher = None;
        }
    }
}

/// A kernel watch on the directory, or `None` while it does not exist.
fn watch(path: &Path, changed: &Arc<Notify>) -> Option<notify::RecommendedWatcher> {
    let changed = Arc::clone(changed);
    // Opening and reading are events too: our own scan must not call for the next one.
    let handler = move |event: notify::Result<notify::Event>| {
        if !event.is_ok_and(|event| event.kind.is_access()) {
            changed.notify_one();
        }
    };
    let mut watcher = notify::recommended_watcher(handler)
        .inspect_err(
            |error| tracing::warn!(%error, "no kernel watch for manifests, will only look from time to time"),
        )
        .ok()?;
    // Absent is normal: the directory may be made later.
    watcher.watch(path, RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}

/// What tells whether a file has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Print {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

struct Known {
    print: Print,
    /// The last content that made a pod; kept while a newer one does not.
    pod: Option<Arc<Pod>>,
}

struct Directory {
    path: PathBuf,
    node: String,
    files: BTreeMap<PathBuf, Known>,
}

impl Directory {
    /// All pods now in the directory, in order of their file names.
    fn scan(&mut self) -> Vec<Arc<Pod>> {
        let paths = match manifests(&self.path) {
            Ok(paths) => paths,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "cannot read the manifest directory");
                return self.pods();
            }
        };
        self.files.retain(|path, _| paths.contains(path));
        for path in paths {
            self.look(&path);
        }
        self.pods()
    }

    fn pods(&self) -> Vec<Arc<Pod>> {
        self.files
            .values()
            .filter_map(|known| known.pod.clone())
            .collect()
    }

    fn look(&mut self, path: &Path) {
        let (print, text) = match read(path, self.files.get(path).map(|k| k.print)) {
            Ok(Some(read)) => read,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot read manifest");
                return;
            }
        };
        let seen = jiff::Timestamp::now().to_string();
        let before = self.files.remove(path).and_then(|known| known.pod);
        let pod = match read_manifest(&text, path, &self.node, &seen) {
            // The same pod read again keeps the time it was first seen.
            Ok(pod) => Some(
                before
                    .filter(|b| uid(b) == uid(&pod))
                    .unwrap_or_else(|| Arc::new(pod)),
            ),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "manifest ignored");
                before
            }
        };
        self.files.insert(path.to_owned(), Known { print, pod });
    }
}

/// Files to read: the path itself, or what lies directly in it and does not begin with a dot.
fn manifests(path: &Path) -> io::Result<Vec<PathBuf>> {
    if std::fs::metadata(path)?.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !hidden && std::fs::metadata(entry.path()).is_ok_and(|m| m.is_file()) {
            found.push(entry.path());
        }
    }
    found.sort();
    if found.len() > MAX_FILES {
        tracing::warn!(path = %path.display(), files = found.len(), "too many manifests, only {MAX_FILES} are read");
        found.truncate(MAX_FILES);
    }
    Ok(found)
}

/// The content, unless it is the one `known`.
fn read(path: &Path, known: Option<Print>) -> io::Result<Option<(Print, Vec<u8>)>> {
    let file = std::fs::File::open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let print = Print {
        inode: meta.ino(),
        bytes: meta.len(),
        modified: (meta.mtime(), meta.mtime_nsec()),
    };
    if Some(print) == known {
        return Ok(None);
    }
    Ok(Some((print, read_all(file)?)))
}

/// The content of a manifest, bounded.
pub(crate) fn read_limited(path: &Path) -> io::Result<Vec<u8>> {
    read_all(std::fs::File::open(path)?)
}

fn read_all(file: std::fs::File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 10 MiB"));
    }
    Ok(text)
}
