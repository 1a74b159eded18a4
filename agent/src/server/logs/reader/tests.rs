use std::io::Write as _;
use std::path::Path;

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("0.log")
    }

    fn append(&self, text: &str) {
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path())
            .unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn log(&self) -> LogFile {
        LogFile::locate(self.directory.path(), &self.path()).unwrap()
    }
}

fn record(text: &str) -> String {
    format!("2026-01-02T03:04:05.000000001Z stdout F {text}\n")
}

/// All of a log that is not followed.
async fn read(log: LogFile, options: Options) -> String {
    let (sender, receiver) = mpsc::channel(2);
    copy(log, options, CancellationToken::new(), sender)
        .await
        .unwrap();
    collect(receiver).await
}

async fn collect(mut receiver: mpsc::Receiver<Result<Bytes, ReadError>>) -> String {
    let mut all = Vec::new();
    while let Some(chunk) = receiver.recv().await {
        all.extend_from_slice(&chunk.unwrap());
    }
    String::from_utf8(all).unwrap()
}

/// The next `length` bytes of a followed log.
async fn next(receiver: &mut mpsc::Receiver<Result<Bytes, ReadError>>, length: usize) -> String {
    let mut all = Vec::new();
    while all.len() < length {
        all.extend_from_slice(&receiver.recv().await.unwrap().unwrap());
    }
    String::from_utf8(all).unwrap()
}

#[derive(Clone, Debug)]
struct Written {
    second: i64,
    partial: bool,
    text: String,
}

fn written() -> impl Strategy<Value = Written> {
    (0i64..20, proptest::bool::weighted(0.2), "[a-z ]{0,8}").prop_map(|(second, partial, text)| Written {
        second,
        partial,
        text,
    })
}

/// The simplest thing that could be right: all lines in memory, one option after the other.
fn model(lines: &[Written], options: &Options) -> String {
    let start = options
        .tail_lines
        .map_or(0, |tail| lines.len().saturating_sub(tail as usize));
    let mut output = String::new();
    let mut begins = true;
    for line in &lines[start..] {
        let timestamp = Timestamp::from_second(line.second).unwrap();
        if options.since.is_none_or(|since| timestamp >= since) {
            if options.timestamps && begins {
                output += &format!("1970-01-01T00:00:{:02}.000000000Z ", line.second);
            }
            output += &line.text;
            output += if line.partial { "" } else { "\n" };
        }
        begins = !line.partial || line.text.is_empty();
    }
    output.truncate(options.limit_bytes.map_or(usize::MAX, |limit| limit as usize));
    output
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn options_equal_the_model(
        lines in proptest::collection::vec(written(), 0..40),
        tail_lines in proptest::option::of(0u64..45),
        since in proptest::option::of(0i64..20),
        limit_bytes in proptest::option::of(1u64..200),
        timestamps: bool,
        follow: bool,
    ) {
        let since = since.map(|second| Timestamp::from_second(second).unwrap());
        let options = Options { follow, timestamps, since, tail_lines, limit_bytes, ..Options::default() };
        let place = Place::new();
        place.append("");
        for line in &lines {
            let tag = if line.partial { "P" } else { "F" };
            place.append(&format!("1970-01-01T00:00:{:02}Z stderr {tag} {}\n", line.second, line.text));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let output = runtime.block_on(async {
            let ended = CancellationToken::new();
            // The container has ended, so following ends as well.
            ended.cancel();
            let (sender, receiver) = mpsc::channel(2);
            copy(place.log(), options.clone(), ended, sender).await.unwrap();
            collect(receiver).await
        });
        prop_assert_eq!(output, model(&lines, &options));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn follow_goes_over_rotation_and_ends_with_the_container() {
    let place = Place::new();
    place.append(&record("one"));
    let ended = CancellationToken::new();
    let (sender, mut receiver) = mpsc::channel(2);
    copy(
        place.log(),
        Options {
            follow: true,
            ..Options::default()
        },
        ended.clone(),
        sender,
    )
    .await
    .unwrap();
    assert_eq!(next(&mut receiver, 4).await, "one\n");

    // A line in two writes comes whole.
    place.append("2026-01-02T03:04:05Z stdout F t");
    place.append("wo\n");
    assert_eq!(next(&mut receiver, 4).await, "two\n");

    // Rotation: renamed, then made anew. What the writer still put into the old file is not lost.
    let old = std::fs::OpenOptions::new()
        .append(true)
        .open(place.path())
        .unwrap();
    std::fs::rename(place.path(), place.directory.path().join("0.log.20260102-030405")).unwrap();
    place.append("");
    (&old).write_all(record("late").as_bytes()).unwrap();
    place.append(&record("three"));
    assert_eq!(next(&mut receiver, 11).await, "late\nthree\n");

    place.append(&record("four"));
    place.append("2026-01-02T03:04:05Z stdout F torn");
    ended.cancel();
    assert_eq!(collect(receiver).await, "four\ntorn");
}

#[tokio::test(flavor = "multi_thread")]
async fn follow_ends_when_the_reader_is_gone() {
    let place = Place::new();
    place.append(&record("one"));
    let (sender, mut receiver) = mpsc::channel(2);
    let watcher = sender.clone();
    copy(
        place.log(),
        Options {
            follow: true,
            ..Options::default()
        },
        CancellationToken::new(),
        sender,
    )
    .await
    .unwrap();
    assert_eq!(next(&mut receiver, 4).await, "one\n");
    assert_eq!(watcher.strong_count(), 2);
    drop(receiver);
    while watcher.strong_count() > 1 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_without_end_and_garbage_are_left_out() {
    let place = Place::new();
    place.append(&record("one"));
    place.append(&"x".repeat(LINE_LIMIT + 3 * CHUNK));
    place.append("\nno log line\n");
    place.append(&record("two"));
    assert_eq!(read(place.log(), Options::default()).await, "one\ntwo\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_does_not_count_what_is_written_meanwhile() {
    let place = Place::new();
    let many: String = (0..5000).map(|n| record(&format!("line {n}"))).collect();
    place.append(&many);
    let (sender, receiver) = mpsc::channel(1);
    let options = Options {
        tail_lines: Some(4000),
        ..Options::default()
    };
    copy(place.log(), options, CancellationToken::new(), sender)
        .await
        .unwrap();
    place.append(&record("late"));
    let output = collect(receiver).await;
    assert_eq!(
        (output.lines().count(), output.lines().last()),
        (4000, Some("line 4999"))
    );
    assert!(output.starts_with("line 1000\n"));
}

#[test]
fn only_regular_files_below_the_root() {
    let place = Place::new();
    let root = place.directory.path().join("root");
    let decoy = place.directory.path().join("decoy.log");
    std::fs::create_dir_all(root.join("pod/c")).unwrap();
    std::fs::write(&decoy, record("secret")).unwrap();
    let open = |path: &Path| LogFile::locate(&root, path).and_then(|log| log.open());
    std::os::unix::fs::symlink(&decoy, root.join("pod/c/0.log")).unwrap();
    std::os::unix::fs::symlink(place.directory.path(), root.join("pod/link")).unwrap();
    std::fs::create_dir(root.join("pod/c/directory")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("pod/c/fifo"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    assert!(matches!(
        open(&root.join("pod/c/0.log")),
        Err(OpenError::Open { .. })
    ));
    assert!(matches!(
        open(&root.join("pod/link/decoy.log")),
        Err(OpenError::Open { .. })
    ));
    assert!(matches!(
        open(&root.join("pod/../../decoy.log")),
        Err(OpenError::Open { .. })
    ));
    assert!(matches!(open(&decoy), Err(OpenError::Elsewhere { .. })));
    assert!(matches!(open(&root), Err(OpenError::Elsewhere { .. })));
    assert!(matches!(
        open(&root.join("pod/c/directory")),
        Err(OpenError::NotRegular { .. })
    ));
    assert!(matches!(
        open(&root.join("pod/c/fifo")),
        Err(OpenError::NotRegular { .. })
    ));
    std::fs::write(root.join("pod/c/1.log"), "").unwrap();
    assert!(open(&root.join("pod/c/1.log")).is_ok());
    // Nor another pod's log by a link that stays below the root.
    std::os::unix::fs::symlink("1.log", root.join("pod/c/2.log")).unwrap();
    assert!(matches!(
        open(&root.join("pod/c/2.log")),
        Err(OpenError::Open { .. })
    ));
}
