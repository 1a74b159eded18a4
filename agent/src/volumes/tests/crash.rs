//! The volumes' own crash matrix: killed at each effect of making and unmaking, the next run reaches the same end.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::{in_own_mounts, pod_with, standalone};

const STEP: &str = "LONGSHORE_TEST_VOLUMES_STEP";
const ROOT: &str = "LONGSHORE_TEST_VOLUMES_ROOT";

fn pod() -> Arc<Pod> {
    pod_with(
        &json!([
            { "name": "disk", "emptyDir": {} },
            { "name": "memory", "emptyDir": { "medium": "Memory", "sizeLimit": "64Ki" } },
            { "name": "fields", "downwardAPI": { "items": [
                { "path": "deep/labels", "fieldRef": { "fieldPath": "metadata.labels" } },
                { "path": "name", "mode": 256, "fieldRef": { "fieldPath": "metadata.name" } }
            ] } },
        ]),
        &json!({ "securityContext": { "fsGroup": 1234 } }),
    )
}

/// Not a test of its own: one process of the matrix, which may be killed.
#[tokio::test]
async fn step() {
    let (Ok(step), Some(root)) = (std::env::var(STEP), std::env::var_os(ROOT)) else {
        return;
    };
    let volumes = standalone(Path::new(&root));
    match step.as_str() {
        "mount" => drop(volumes.mount(&pod()).await.expect("mounted")),
        _ => volumes.remove("u-1").await.expect("removed"),
    }
}

/// Runs one step, under the fault points' control directory where one is given; true if it ended well.
fn run(step: &str, root: &Path, faults: Option<&Path>) -> bool {
    let mut command = Command::new(std::env::current_exe().expect("own path"));
    command
        .args(["--exact", "volumes::tests::crash::step"])
        .env(STEP, step)
        .env(ROOT, root);
    if let Some(faults) = faults {
        command.env("LONGSHORE_FAULTS", faults);
    }
    command.output().expect("own binary").status.success()
}

/// Kind, mode, group and content by path; what is random in names left out.
fn snapshot(root: &Path) -> BTreeMap<PathBuf, String> {
    fn walk(top: &Path, dir: &Path, found: &mut BTreeMap<PathBuf, String>) {
        for entry in fs::read_dir(dir).expect("list") {
            let path = entry.expect("entry").path();
            let status = path.symlink_metadata().expect("status");
            let place = path.strip_prefix(top).expect("below").display().to_string();
            let place = match place.split_once("/..2") {
                Some((before, after)) => format!(
                    "{before}/..2/{}",
                    after.split_once('/').map_or("", |(_, rest)| rest)
                ),
                None => place,
            };
            let content = if status.is_dir() {
                walk(top, &path, found);
                String::new()
            } else if status.is_symlink() {
                let target = fs::read_link(&path).expect("link").display().to_string();
                if target.starts_with("..2") {
                    "..2".to_owned()
                } else {
                    target
                }
            } else {
                fs::read_to_string(&path).expect("file")
            };
            found.insert(
                place.into(),
                format!("{:o} {} {content}", status.mode(), status.gid()),
            );
        }
    }
    let mut found = BTreeMap::new();
    walk(root, root, &mut found);
    found
}

fn mounts_below(root: &Path) -> usize {
    let info = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    info.matches(&format!("{}/", root.display())).count()
}

/// One place to die at: the Nth passing of a point.
type Kill = (String, usize);

/// The matrix' directories: the fault points' control, and roots of volumes.
struct Matrix {
    dir: tempfile::TempDir,
}

impl Matrix {
    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Every passing of every point of an uncrashed step.
    fn traced(&self, step: &str) -> Vec<Kill> {
        let trace = self.at("faults").join("trace");
        fs::write(&trace, "").expect("trace");
        assert!(run(step, &self.at("whole"), Some(&self.at("faults"))));
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let passed = fs::read_to_string(&trace).expect("trace");
        let kills = passed.lines().map(|point| {
            let count = seen.entry(point.to_owned()).or_default();
            *count += 1;
            (point.to_owned(), *count)
        });
        kills.collect()
    }

    fn killed(&self, step: &str, root: &Path, (name, n): &Kill) {
        let armed = self.at("faults").join("armed");
        fs::write(&armed, format!("{name} {n}")).expect("armed");
        assert!(!run(step, root, Some(&self.at("faults"))), "{name} {n}");
        assert!(!armed.exists(), "{name} {n} was not passed");
    }
}

#[test]
fn a_crash_at_any_effect_changes_nothing_in_the_end() {
    in_own_mounts(
        "volumes::tests::crash::a_crash_at_any_effect_changes_nothing_in_the_end",
        async || {
            let matrix = Matrix {
                dir: tempfile::tempdir().expect("temp dir"),
            };
            fs::create_dir(matrix.at("faults")).expect("faults");
            let making = matrix.traced("mount");
            let wanted = snapshot(&matrix.at("whole"));
            let removal = matrix.traced("remove");
            assert_eq!(fs::read_dir(matrix.at("whole/pods")).expect("pods").count(), 0);
            assert!(making.len() > 30 && removal.len() > 10, "{making:?} {removal:?}");
            let root = matrix.at("cut");
            for kill in &making {
                matrix.killed("mount", &root, kill);
                assert!(run("mount", &root, None), "{kill:?}");
                assert_eq!(snapshot(&root), wanted, "{kill:?}");
                assert_eq!(mounts_below(&root), 2, "{kill:?}");
                assert!(run("remove", &root, None), "{kill:?}");
                fs::remove_dir_all(&root).expect("next one starts fresh");
            }
            for kill in &removal {
                assert!(run("mount", &root, None), "{kill:?}");
                matrix.killed("remove", &root, kill);
                assert!(run("remove", &root, None), "{kill:?}");
                assert_eq!(
                    fs::read_dir(root.join("pods")).expect("pods").count(),
                    0,
                    "{kill:?}"
                );
                assert_eq!(mounts_below(&root), 0, "{kill:?}");
            }
        },
    );
}
