use proptest::prelude::*;

use super::super::tests::Archive;
use super::*;

fn read(archive: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>> {
    let mut reader = Reader::new(archive);
    let mut all = Vec::new();
    while let Some(entry) = reader.next()? {
        let mut content = Vec::new();
        reader.copy(&mut content)?;
        all.push((entry, content));
    }
    reader.finish()?;
    Ok(all)
}

fn refused(archive: Archive, words: &str) {
    let error = read(&archive.finish()).expect_err(words).to_string();
    assert!(error.contains(words), "{error:?} has not {words:?}");
}

#[test]
fn extended_headers_tell_of_the_next_member() {
    let archive = Archive::default()
        .pax(&[
            ("path", "long/name"),
            ("size", "3"),
            ("uid", "70000"),
            ("mtime", "-1.25"),
            ("SCHILY.xattr.user.a", "v"),
            ("SCHILY.xattr.trusted.overlay.redirect", "/etc"),
            ("SCHILY.xattr.user.overlay.opaque", "y"),
            ("comment", "x"),
        ])
        .with(EntryType::Regular, "short", b"abc", |header| {
            header.set_mode(0o104755);
        })
        .file("next", b"");
    let all = read(&archive.finish()).expect("fine");
    let (entry, content) = &all[0];
    assert_eq!(
        (entry.path.as_path(), content.as_slice()),
        (Path::new("long/name"), b"abc".as_slice())
    );
    assert_eq!((entry.metadata.uid, entry.metadata.mode), (70000, 0o4755));
    assert_eq!(entry.metadata.mtime, (-2, 750_000_000));
    assert_eq!(
        entry.metadata.xattrs,
        [(OsString::from("user.a"), b"v".to_vec())],
        "overlay's own are dropped"
    );
    assert_eq!(all[1].0.path, Path::new("next"));
    assert!(all[1].0.metadata.xattrs.is_empty());
}

#[test]
fn headers_that_contradict_each_other_are_refused() {
    let one = || Archive::default();
    refused(one().pax(&[("size", "2")]).file("a", b"abc"), "two sizes");
    refused(one().pax(&[("path", "a"), ("path", "b")]).file("a", b""), "twice");
    refused(
        one().pax(&[("path", "a")]).pax(&[("path", "b")]).file("a", b""),
        "twice",
    );
    refused(
        one()
            .add(EntryType::GNULongName, "x", "", b"a\0")
            .pax(&[("path", "b")])
            .file("a", b""),
        "twice",
    );
    refused(
        one()
            .extended(EntryType::XGlobalHeader, &[("size", "0")])
            .file("a", b""),
        "global size",
    );
    refused(one().pax(&[("size", "+3")]).file("a", b"abc"), "number");
    refused(one().pax(&[("uid", "4294967296")]).file("a", b""), "32 bits");
    refused(one().pax(&[("GNU.sparse.major", "1")]).file("a", b""), "sparse");
    refused(one().add(EntryType::GNUSparse, "a", "", b""), "type");
    refused(
        one().add(EntryType::Directory, "a", "", b"x"),
        "content where none",
    );
    refused(one().add(EntryType::Link, "a", "b", b"x"), "content where none");
    refused(
        one().add(EntryType::XHeader, "x", "", b"99 a=b\n").file("a", b""),
        "cannot be read",
    );
    refused(
        one().add(EntryType::XHeader, "x", "", b"3 =\n").file("a", b""),
        "cannot be read",
    );
    refused(one().pax(&[("path", "a")]), "ends after");
    assert!(
        read(
            &one()
                .extended(EntryType::XGlobalHeader, &[("comment", "c")])
                .file("a", b"")
                .finish()
        )
        .is_ok()
    );
}

#[test]
fn names_that_lead_out_or_are_none_are_refused() {
    for name in ["../a", "a/../b", "/..", "a/.."] {
        refused(Archive::default().file(name, b""), "upwards");
        refused(Archive::default().hardlink("x", name), "upwards");
    }
    for name in [".", "./", "/", "", "//"] {
        for kind in [
            EntryType::Regular,
            EntryType::Symlink,
            EntryType::Link,
            EntryType::Fifo,
        ] {
            let archive = Archive::default().add(kind, name, "t", b"");
            refused(archive, "root can only be a directory");
        }
        assert!(
            read(&Archive::default().directory(name).finish()).is_ok(),
            "{name:?} as a directory"
        );
    }
    refused(Archive::default().symlink("a", ""), "target");
    refused(Archive::default().pax(&[("path", "a\0b")]).file("a", b""), "NUL");
}

#[test]
fn bounds_hold() {
    refused(
        Archive::default()
            .pax(&[("path", &"a/".repeat(256))])
            .file("a", b""),
        "directories deep",
    );
    refused(
        Archive::default()
            .pax(&[("path", &"a".repeat(256))])
            .file("a", b""),
        "part of a name",
    );
    refused(
        Archive::default()
            .pax(&[("path", &"a/".repeat(2100))])
            .file("a", b""),
        "bytes in a name",
    );
    let huge = Archive::default().with(EntryType::XHeader, "x", b"", |header| header.set_size(1 << 30));
    refused(huge, "extended header");
    let attribute = "v".repeat(MAX_XATTR + 1);
    refused(
        Archive::default()
            .pax(&[("SCHILY.xattr.user.a", &attribute)])
            .file("a", b""),
        "extended attribute",
    );
}

#[test]
fn broken_archives_end_with_an_error() {
    let whole = Archive::default().file("a", &[7; 700]).finish();
    for cut in [1, 511, 513, 1000] {
        assert!(read(&whole[..cut]).is_err(), "cut at {cut}");
    }
    let mut flipped = whole;
    flipped[0] ^= 1;
    assert!(
        read(&flipped)
            .expect_err("checksum")
            .to_string()
            .contains("checksum")
    );
}

#[derive(Debug, Clone)]
struct Member {
    name: String,
    content: Option<Vec<u8>>,
    uid: u64,
}

fn members() -> impl Strategy<Value = Vec<Member>> {
    let name = prop_oneof![
        "[a-z]{1,6}(/[a-z]{1,6}){0,2}",
        "[a-z]{90,110}(/[a-z]{60,120}){1,2}"
    ];
    let member = (
        name,
        proptest::option::of(proptest::collection::vec(any::<u8>(), 0..1500)),
        0u64..100_000,
    )
        .prop_map(|(name, content, uid)| Member { name, content, uid });
    proptest::collection::vec(member, 0..8)
}

proptest! {
    #[test]
    fn reads_what_the_tar_crate_writes_and_reads(members in members()) {
        let mut builder = tar::Builder::new(Vec::new());
        for member in &members {
            let mut header = Header::new_gnu();
            let content = member.content.as_deref().unwrap_or_default();
            header.set_entry_type(if member.content.is_some() { EntryType::Regular } else { EntryType::Directory });
            header.set_size(content.len() as u64);
            header.set_mode(0o750);
            header.set_uid(member.uid);
            header.set_gid(7);
            header.set_mtime(5);
            builder.append_data(&mut header, &member.name, content).expect("append");
        }
        let archive = builder.into_inner().expect("archive");
        let ours = read(&archive).expect("well formed");
        let mut other = tar::Archive::new(archive.as_slice());
        let theirs: Vec<_> = other
            .entries()
            .expect("entries")
            .map(|entry| {
                let mut entry = entry.expect("entry");
                let mut content = Vec::new();
                entry.read_to_end(&mut content).expect("content");
                (entry.path().expect("path").into_owned(), entry.header().uid().expect("uid"), content)
            })
            .collect();
        let seen: Vec<_> = ours.into_iter().map(|(e, content)| (e.path, u64::from(e.metadata.uid), content)).collect();
        prop_assert_eq!(seen, theirs);
    }

    #[test]
    fn damaged_archives_never_panic(members in members(), flips in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..40)) {
        let mut archive = members.iter().fold(Archive::default(), |archive, member| {
            archive.pax(&[("path", &member.name), ("mtime", "1.5")]).file("a", member.content.as_deref().unwrap_or_default())
        }).finish();
        for (at, byte) in flips {
            let at = at % archive.len();
            archive[at] = byte;
        }
        let _ = read(&archive);
    }
}
