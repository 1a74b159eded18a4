//! The end of a CRI log, which may stand in for a termination message.

use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

/// Bytes and lines.
const LOG_TAIL: (u64, usize) = (2048, 80);

/// The last lines of a CRI log without its framing; empty if there is none.
pub(super) async fn tail_of_log(path: &Path) -> String {
    let read = async {
        let mut file = tokio::fs::File::open(path).await?;
        let length = file.metadata().await?.len();
        // Framing takes up to 60 bytes a line.
        let window = LOG_TAIL.0 * 4;
        file.seek(std::io::SeekFrom::Start(length.saturating_sub(window)))
            .await?;
        let mut text = Vec::new();
        file.take(window).read_to_end(&mut text).await?;
        std::io::Result::Ok(text)
    };
    let Ok(bytes) = read.await else {
        return String::new();
    };
    let text = String::from_utf8_lossy(&bytes);
    let content = |line: &str| {
        let mut parts = line.splitn(4, ' ');
        let (_, _, tag, text) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        Some(if tag.starts_with('P') {
            text.to_owned()
        } else {
            format!("{text}\n")
        })
    };
    let lines: Vec<String> = text.lines().filter_map(content).collect();
    let first = lines.len().saturating_sub(LOG_TAIL.1);
    let tail = lines[first..].concat();
    let mut start = tail
        .len()
        .saturating_sub(usize::try_from(LOG_TAIL.0).unwrap_or(usize::MAX));
    while !tail.is_char_boundary(start) {
        start += 1;
    }
    tail[start..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
