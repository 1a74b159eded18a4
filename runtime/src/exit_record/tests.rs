use proptest::prelude::*;

use super::*;

#[test]
fn checksum_is_the_ieee_one() {
    assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
}

#[test]
fn absent_record_is_none() {
    let directory = tempfile::tempdir().unwrap();
    assert!(read(&directory.path().join("none")).unwrap().is_none());
}

#[test]
fn damaged_record_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c1");
    let exit = Exit {
        code: 1,
        signal: None,
        oom_killed: false,
        started_at: 5,
        finished_at: 6,
    };
    std::fs::write(&path, format("c1", &exit).replace("c1 1", "c1 0")).unwrap();
    let error = read(&path).unwrap_err().to_string();
    assert!(
        error.contains("checksum does not match") && error.contains("c1"),
        "{error}"
    );
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        id in "[a-z0-9]{1,64}", code: i32, signal: Option<i32>, oom_killed: bool, started_at: i64, finished_at: i64,
    ) {
        let exit = Exit { code, signal, oom_killed, started_at, finished_at };
        let line = format(&id, &exit);
        prop_assert!(line.len() as u64 <= MAX_BYTES);
        prop_assert_eq!(parse(line.as_bytes()), Ok((id, exit)));
    }

    #[test]
    fn any_bytes_are_refused_or_read(bytes: Vec<u8>) {
        let _ = parse(&bytes);
    }
}
