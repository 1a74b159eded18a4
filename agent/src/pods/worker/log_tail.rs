//! The end of a CRI log, which may stand in for a termination message.

use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

/// Bytes and lines.
pub(super) const LOG_TAIL: (u64, usize) = (2048, 80);

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
