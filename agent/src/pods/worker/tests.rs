//! Parts of the worker that stand alone.

use super::log_tail::{LOG_TAIL, tail_of_log};

#[tokio::test]
async fn the_last_lines_without_their_framing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let stamp = "2026-01-01T00:00:00.000000000Z";
    let lines: Vec<String> = (0..200).map(|i| format!("{stamp} stderr F line {i}\n")).collect();
    std::fs::write(&path, lines.concat() + &format!("{stamp} stdout P half ") + "\n").unwrap();
    let tail = tail_of_log(&path).await;
    assert!(tail.ends_with("line 198\nline 199\nhalf "), "{tail}");
    assert!(tail.lines().count() <= LOG_TAIL.1 && tail.len() <= 2048);
    assert_eq!(tail_of_log(&dir.path().join("none")).await, "");
}
