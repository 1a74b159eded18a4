use super::*;

#[test]
fn record_is_replaced_whole_and_leaves_no_temporary() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("record.json");
    write_record("test", &path, b"one").expect("write");
    write_record("test", &path, b"two").expect("replace");
    assert_eq!(
        read_record(&path, 16).expect("read").as_deref(),
        Some(b"two".as_slice())
    );
    assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 1);
}

#[test]
fn record_beyond_its_limit_is_an_error_and_a_missing_one_is_none() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("record");
    assert!(read_record(&path, 4).expect("read").is_none());
    write_record("test", &path, b"12345").expect("write");
    assert_eq!(
        read_record(&path, 5).expect("read").map(|bytes| bytes.len()),
        Some(5)
    );
    assert!(
        read_record(&path, 4)
            .expect_err("too large")
            .to_string()
            .contains("larger than 4")
    );
}

#[test]
fn dropped_stage_is_removed_and_swept_leftovers_are_gone() {
    let dir = tempfile::tempdir().expect("tempdir");
    let target = dir.path().join("blob");
    let mut staged = Staged::create("test", &beside(&target)).expect("create");
    staged.write(b"half").expect("write");
    drop(staged);
    assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 0);

    mkdir("test", &beside(&target).join("deep"), 0o700).expect("mkdir");
    std::fs::write(beside(&target), "half").expect("leftover");
    write_record("test", &target, b"kept").expect("write");
    sweep("test", dir.path()).expect("sweep");
    let names: Vec<_> = std::fs::read_dir(dir.path())
        .expect("list")
        .map(|e| e.expect("entry").file_name())
        .collect();
    assert_eq!(names, ["blob"]);
}

#[test]
fn removing_what_is_not_there_is_success() {
    let dir = tempfile::tempdir().expect("tempdir");
    remove("test", &dir.path().join("no")).expect("file");
    remove_tree("test", &dir.path().join("no")).expect("tree");
}
