//! Removing a layer: all of it, and nothing else.

use super::*;

#[test]
fn a_layer_goes_whole_and_nothing_outside_of_it() {
    let root = tempfile::tempdir().unwrap();
    let layer = root.path().join("layer");
    let canary = root.path().join("canary");
    std::fs::create_dir(&canary).unwrap();
    std::fs::write(canary.join("file"), "whole").unwrap();
    // Deeper than PATH_MAX and than the descriptors of a process.
    std::fs::create_dir_all(layer.join("upper")).unwrap();
    let mut at = open_directory(rustix::fs::CWD, layer.join("upper")).unwrap();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&at, "deep", Mode::from_raw_mode(0o700)).unwrap();
        rustix::fs::symlinkat("/nowhere", &at, "link").unwrap();
        at = open_directory(&at, "deep").unwrap();
    }
    drop(at);
    std::os::unix::fs::symlink(&canary, layer.join("upper/out")).unwrap();
    std::os::unix::fs::symlink("..", layer.join("upper/up")).unwrap();
    std::fs::create_dir_all(layer.join("work/work")).unwrap();
    std::fs::set_permissions(layer.join("work/work"), std::fs::Permissions::from_mode(0o000)).unwrap();
    std::fs::create_dir_all(layer.join(".removed-0/x")).unwrap();

    remove_layer("test", &layer).unwrap();
    assert!(!layer.exists());
    assert_eq!(std::fs::read_to_string(canary.join("file")).unwrap(), "whole");
    remove_layer("test", &layer).unwrap();
}

#[test]
fn what_is_not_there_is_gone() {
    let root = tempfile::tempdir().unwrap();
    let nothing = root.path().join("nothing");
    kill_cgroup("test", &nothing).unwrap();
    remove_cgroup("test", &nothing).unwrap();
    unmount("test", &nothing).unwrap();
    remove_layer("test", &nothing).unwrap();
}
