use std::os::unix::fs::MetadataExt as _;

use proptest::prelude::*;
use tar::EntryType;

use super::super::tests::{Archive, gzip, scratch};
use super::*;

const CANARY: &str = "decoy/canary";

/// A place with a decoy tree beside the layer, whose state must not change.
struct Place {
    dir: tempfile::TempDir,
    before: Vec<(PathBuf, u32, u32, i64, u64)>,
}

impl Place {
    fn new() -> Self {
        let dir = scratch();
        std::fs::create_dir_all(dir.path().join("decoy/deep")).expect("decoy");
        std::fs::write(dir.path().join(CANARY), "alive").expect("canary");
        std::fs::create_dir(dir.path().join("layers")).expect("layers");
        let before = Self::state(dir.path());
        Self { dir, before }
    }

    fn state(root: &Path) -> Vec<(PathBuf, u32, u32, i64, u64)> {
        let mut found = Vec::new();
        for path in ["decoy", CANARY, "decoy/deep"] {
            let metadata = root
                .join(path)
                .symlink_metadata()
                .unwrap_or_else(|e| panic!("{path}: {e}"));
            found.push((
                path.into(),
                metadata.mode(),
                metadata.uid(),
                metadata.mtime_nsec(),
                metadata.nlink(),
            ));
        }
        let names = std::fs::read_dir(root.join("decoy")).expect("decoy").count();
        found.push((PathBuf::new(), 0, 0, 0, names as u64));
        found
    }

    fn layer(&self) -> PathBuf {
        self.dir.path().join("layers/layer")
    }

    fn unpack(&self, archive: &[u8]) -> Result<PathBuf> {
        self.unpack_as(archive, archive, Limits::default())
    }

    /// Unpacks `blob`, whose content is `archive`.
    fn unpack_as(&self, archive: &[u8], blob: &[u8], limits: Limits) -> Result<PathBuf> {
        let path = self.dir.path().join("blob");
        std::fs::write(&path, blob).expect("blob");
        let result = unpack(&path, &Digest::of(archive), &self.layer(), limits).map(|()| self.layer());
        assert_eq!(
            Self::state(self.dir.path()),
            self.before,
            "the decoy is as it was"
        );
        assert_eq!(
            std::fs::read_to_string(self.dir.path().join(CANARY)).expect("canary"),
            "alive"
        );
        let rest: Vec<_> = std::fs::read_dir(self.dir.path().join("layers"))
            .expect("list")
            .flatten()
            .collect();
        assert_eq!(
            rest.len(),
            usize::from(result.is_ok()),
            "no temporary stays: {rest:?}"
        );
        result
    }
}

fn is_whiteout(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    path.symlink_metadata()
        .is_ok_and(|metadata| metadata.file_type().is_char_device() && metadata.rdev() == 0)
}

fn is_opaque(path: &Path) -> bool {
    let mut value = [0; 8];
    rustix::fs::lgetxattr(path, "trusted.overlay.opaque", &mut value)
        .is_ok_and(|length| &value[..length] == b"y")
}

#[test]
fn members_keep_owner_mode_time_and_attributes() {
    let place = Place::new();
    let archive = Archive::default()
        .with(EntryType::Directory, "./", b"", |header| header.set_mode(0o711))
        .with(EntryType::Directory, "d", b"", |header| {
            header.set_mode(0o1777);
            header.set_mtime(123);
        })
        .with(EntryType::Regular, "d/setuid", b"x", |header| {
            header.set_mode(0o4755);
            header.set_uid(12);
            header.set_gid(34);
            header.set_mtime(456);
        })
        .hardlink("d/second", "d/setuid")
        .symlink("d/link", "/etc/passwd")
        .add(EntryType::Fifo, "d/fifo", "", b"")
        .add(EntryType::Char, "d/null", "", b"")
        .pax(&[("path", "made/on/the/way/file"), ("SCHILY.xattr.user.mark", "m")])
        .file("f", b"y");
    let layer = place.unpack(&archive.finish()).expect("unpacks");
    let of = |path: &str| layer.join(path).symlink_metadata().expect(path);
    assert_eq!(of("").mode() & 0o7777, 0o711);
    assert_eq!((of("d").mode() & 0o7777, of("d").mtime()), (0o1777, 123));
    let file = of("d/setuid");
    assert_eq!(
        (
            file.mode() & 0o7777,
            file.uid(),
            file.gid(),
            file.mtime(),
            file.nlink()
        ),
        (0o4755, 12, 34, 456, 2)
    );
    assert_eq!(
        std::fs::read_link(layer.join("d/link")).expect("link"),
        Path::new("/etc/passwd")
    );
    assert!(!layer.join("d/null").exists(), "devices are left out");
    assert_eq!(of("made/on/the").mode() & 0o7777, 0o755);
    let mut value = [0; 8];
    let length = rustix::fs::getxattr(layer.join("made/on/the/way/file"), "user.mark", &mut value);
    // tmpfs took user attributes late; where it has none they are left out.
    assert!(length.is_err() || length == Ok(1));
}

#[test]
fn all_compressions_are_told_by_their_first_bytes() {
    let archive = Archive::default().file("a", &[9; 5000]).finish();
    let zstd = zstd::encode_all(archive.as_slice(), 3).expect("zstd");
    let (first, second) = archive.split_at(2048);
    let members = [gzip(first), gzip(second)].concat();
    for blob in [archive.clone(), gzip(&archive), zstd, members] {
        let layer = Place::new();
        let layer = layer
            .unpack_as(&archive, &blob, Limits::default())
            .map(|path| path.join("a").metadata());
        assert_eq!(layer.expect("unpacks").expect("file").len(), 5000);
    }
}

#[test]
fn another_diff_id_leaves_nothing() {
    let place = Place::new();
    let archive = Archive::default().file("a", b"").finish();
    let mut trailing = archive.clone();
    trailing.push(1);
    let error = place
        .unpack_as(&archive, &trailing, Limits::default())
        .expect_err("bytes after the end count");
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
}

#[test]
fn whiteouts_hide_lower_names_in_their_own_directory_only() {
    let place = Place::new();
    let archive = Archive::default()
        .directory("d")
        .file("d/.wh.gone", b"")
        .file("o/.wh..wh..opq", b"")
        .file("o/new", b"")
        .file(".wh..wh.plnk", b"")
        .file("kept", b"k")
        .file(".wh.kept", b"")
        .directory("both")
        .file(".wh.both", b"")
        .file(".wh.again", b"")
        .directory("again");
    let layer = place.unpack(&archive.finish()).expect("unpacks");
    assert!(is_whiteout(&layer.join("d/gone")));
    assert!(is_opaque(&layer.join("o")) && layer.join("o/new").exists());
    assert!(!layer.join(".wh..wh.plnk").exists());
    assert_eq!(
        std::fs::read(layer.join("kept")).expect("this layer's own file stays"),
        b"k"
    );
    assert!(
        is_opaque(&layer.join("both")),
        "this layer's directory hides the lower one"
    );
    assert!(is_opaque(&layer.join("again")));
    for name in [".wh.", ".wh...", ".wh...."] {
        let place = Place::new();
        let unpacked = place.unpack(
            &Archive::default()
                .directory("d")
                .file(&format!("d/{name}"), b"")
                .finish(),
        );
        assert_eq!(unpacked.is_ok(), name == ".wh....", "{name}: {unpacked:?}");
    }
}

#[test]
fn links_never_lead_out_of_the_layer() {
    let place = Place::new();
    let decoy = place.dir.path().join("decoy");
    let decoy = decoy.to_str().expect("text");
    for target in [decoy, "../../decoy", "/", "..", "../../../../../../../.."] {
        let canary = if target == decoy || target.ends_with("decoy") {
            "l/canary"
        } else {
            "l/decoy/canary"
        };
        let attacks = [
            Archive::default()
                .symlink("l", target)
                .with(EntryType::Regular, canary, b"dead", |h| h.set_mode(0o777)),
            Archive::default()
                .symlink("l", target)
                .with(EntryType::Directory, "l", b"", |h| h.set_mode(0o777)),
            Archive::default()
                .symlink("l", target)
                .with(EntryType::Directory, "l/deep", b"", |h| h.set_mode(0o777)),
            Archive::default().symlink("l", target).hardlink("stolen", canary),
            Archive::default().symlink("l", target).hardlink(canary, "l"),
            Archive::default().symlink("l", target).file("l/.wh.canary", b""),
            Archive::default()
                .symlink("l", target)
                .file("l/.wh..wh..opq", b""),
            Archive::default().symlink("l", target).symlink("l/deep", "x"),
        ];
        for attack in attacks {
            let _ = place.unpack(&attack.finish());
            let _ = std::fs::remove_dir_all(place.layer());
        }
    }
}

#[test]
fn hardlinks_join_files_of_the_layer_only() {
    let place = Place::new();
    let itself = Archive::default()
        .file("a", b"1")
        .hardlink("a", "a")
        .hardlink("b", "./a");
    let layer = place
        .unpack(&itself.finish())
        .expect("a link to itself changes nothing");
    assert_eq!(std::fs::read(layer.join("b")).expect("read"), b"1");
    for attack in [
        Archive::default().hardlink("x", "nowhere"),
        Archive::default().directory("d").hardlink("x", "d"),
        Archive::default().symlink("s", "s/s").file("s/x", b""),
    ] {
        let place = Place::new();
        assert!(matches!(place.unpack(&attack.finish()), Err(Error::Layer { .. })));
    }
}

#[test]
fn bombs_stop_at_their_bounds() {
    let place = Place::new();
    let limits = Limits {
        bytes: 1 << 30,
        entries: 3,
        ratio: 10,
        free_bytes: 1 << 16,
    };
    let zeros = Archive::default().file("zeros", &vec![0; 1 << 22]).finish();
    for blob in [gzip(&zeros), zstd::encode_all(zeros.as_slice(), 1).expect("zstd")] {
        let error = place.unpack_as(&zeros, &blob, limits).expect_err("ratio");
        assert!(matches!(error, Error::Bounds { .. }), "{error}");
    }
    let many = (0..4)
        .fold(Archive::default(), |archive, n| archive.file(&n.to_string(), b""))
        .finish();
    let error = place.unpack_as(&many, &many, limits).expect_err("entries");
    assert!(error.to_string().contains("3 entries"), "{error}");

    let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("encoder");
    encoder.window_log(27).expect("window");
    std::io::Write::write_all(&mut encoder, &many).expect("to memory");
    let window = encoder.finish().expect("to memory");
    assert!(
        place.unpack_as(&many, &window, Limits::default()).is_err(),
        "a window of 128 MiB"
    );
}

fn name() -> impl Strategy<Value = String> {
    let part = proptest::sample::select(vec![
        "a",
        "b",
        "l",
        "decoy",
        "canary",
        "deep",
        ".",
        "..",
        ".wh.a",
        ".wh.canary",
        ".wh..wh..opq",
        ".wh.",
        ".wh...",
        "",
    ]);
    let composed = (any::<bool>(), proptest::collection::vec(part, 1..4))
        .prop_map(|(rooted, parts)| format!("{}{}", if rooted { "/" } else { "" }, parts.join("/")));
    // What an attacker would write once `l` is a link.
    let aimed = proptest::sample::select(vec![
        "l",
        "l/canary",
        "l/deep",
        "l/new",
        "l/.wh.canary",
        "l/.wh..wh..opq",
        "l/../canary",
        "a",
        "a/canary",
    ]);
    prop_oneof![2 => composed, 3 => aimed.prop_map(str::to_owned)]
}

/// Where a link of an attacker leads.
fn target() -> impl Strategy<Value = String> {
    proptest::sample::select(vec!["DECOY", "DECOY/canary", "../../decoy", "../..", "a", "/"])
        .prop_map(str::to_owned)
}

fn kind() -> impl Strategy<Value = EntryType> {
    proptest::sample::select(vec![
        EntryType::Regular,
        EntryType::Directory,
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Fifo,
        EntryType::Char,
        EntryType::Block,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_archive_touches_what_lies_outside(
        first in target(),
        entries in proptest::collection::vec((kind(), name(), prop_oneof![name(), target()]), 1..8),
    ) {
        let place = Place::new();
        let decoy = place.dir.path().join("decoy");
        let start = Archive::default().symlink("l", &first.replace("DECOY", decoy.to_str().expect("text")));
        let archive = entries.into_iter().fold(start, |archive, (kind, name, link)| {
            let link = link.replace("DECOY", decoy.to_str().expect("text"));
            let link = if matches!(kind, EntryType::Symlink | EntryType::Link) { link } else { String::new() };
            archive.add(kind, &name, &link, b"")
        });
        let _ = place.unpack(&archive.finish());
    }
}
