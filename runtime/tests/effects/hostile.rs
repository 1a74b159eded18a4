//! Images and plans that mean harm (rows 3, 4, 6, 11, 13, 20 of the threats): refused, or kept inside the root.

use std::os::unix::fs::symlink;
use std::path::Path;

use runtime::plan::{Mount, MountKind, Propagation};

use crate::bench::{Bench, shell, text, words};

/// A directory of the host that nothing may touch; its listing is compared.
fn decoy(bench: &Bench) -> String {
    std::fs::create_dir_all(bench.path("decoy/sub")).unwrap();
    std::fs::write(bench.path("decoy/core_pattern"), "core").unwrap();
    bench.text("decoy")
}

fn listing(path: &Path) -> Vec<String> {
    let mut found = vec![path.display().to_string()];
    for entry in std::fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(listing(&entry.path()));
        } else {
            found.push(format!(
                "{} {}",
                entry.path().display(),
                std::fs::read_to_string(entry.path()).unwrap()
            ));
        }
    }
    found.sort();
    found
}

/// Runs or refuses a container whose image has `link` at `name`; the decoy stays as it was.
fn with_link(name: &str, link: &str) -> Result<Vec<String>, String> {
    let bench = Bench::new();
    let target = link.replace("DECOY", &decoy(&bench));
    let before = listing(&bench.path("decoy"));
    symlink(target, bench.path("lower").join(name)).unwrap();
    let plan = bench.container("c1", &shell("ls -d /proc/self/status"));
    let mut client = bench.connect();
    let created = client.create(plan.clone()).map_err(|error| error.to_string());
    let result = created.map(|_| {
        client
            .done(runtime::wire::Request::Remove { id: "c1".into() })
            .unwrap();
        text(&bench.run(bench.moved(plan, "c2")).1)
    });
    assert_eq!(listing(&bench.path("decoy")), before);
    result
}

#[test]
fn proc_that_is_a_link_is_refused() {
    for link in ["DECOY", "/x/proc", ".", "tmp", "../../../../DECOY", "/proc"] {
        let refusal = with_link("proc", link).unwrap_err();
        assert!(
            refusal.contains("must be mounted on ordinary directory"),
            "{link}: {refusal}"
        );
    }
}

#[test]
fn sys_that_is_a_link_is_refused() {
    for link in ["DECOY", "proc", "."] {
        let refusal = with_link("sys", link).unwrap_err();
        assert!(
            refusal.contains("must be mounted on ordinary directory"),
            "{link}: {refusal}"
        );
    }
}

#[test]
fn dev_that_is_a_link_is_refused() {
    for link in ["DECOY", "tmp", "../../DECOY"] {
        let refusal = with_link("dev", link).unwrap_err();
        assert!(
            refusal.contains("must be mounted on ordinary directory"),
            "{link}: {refusal}"
        );
    }
}

fn bind(destination: &str, source: String) -> Mount {
    Mount {
        destination: destination.into(),
        kind: MountKind::Bind {
            source,
            recursive: true,
            recursive_readonly: false,
        },
        flags: 0,
        cleared: 0,
        propagation: Propagation::Private,
    }
}

#[test]
fn mount_points_behind_links_stay_inside_the_root() {
    for link in ["DECOY", "../../../../../../DECOY", "/DECOY/../DECOY"] {
        let bench = Bench::new();
        let target = link.replace("DECOY", &decoy(&bench));
        let before = listing(&bench.path("decoy"));
        std::fs::create_dir(bench.path("volume")).unwrap();
        symlink(target, bench.path("lower/data")).unwrap();
        let mut plan = bench.container("c1", &words("true"));
        plan.mounts.push(bind("/data/made/here", bench.text("volume")));
        assert_eq!(bench.run(plan).0.code, 0);
        assert_eq!(listing(&bench.path("decoy")), before);
        assert_eq!(listing(&bench.path("volume")).len(), 1);
    }
}

#[test]
fn link_chains_and_loops_end() {
    let bench = Bench::new();
    symlink("b", bench.path("lower/a")).unwrap();
    symlink("a", bench.path("lower/b")).unwrap();
    let mut plan = bench.container("c1", &words("true"));
    plan.mounts.push(bind("/a/x", bench.text("logs")));
    let error = bench.connect().create(plan).unwrap_err().to_string();
    assert!(error.to_lowercase().contains("symbolic link"), "{error}");
}

#[test]
fn a_volume_over_proc_that_is_no_procfs_is_refused() {
    let bench = Bench::new();
    let mut plan = bench.container("c1", &words("true"));
    plan.mounts.insert(0, bind("/proc", decoy(&bench)));
    let error = bench.connect().create(plan).unwrap_err().to_string();
    assert!(
        error.contains("only a proc file system can be mounted here"),
        "{error}"
    );
}

#[test]
fn links_into_procfs_are_not_followed_to_a_mount_point() {
    let bench = Bench::new();
    for destination in ["/proc/self/cwd/x", "/proc/1/root/x", "/proc/self/fd/3/x"] {
        let mut plan = bench.container("c1", &words("true"));
        plan.mounts.push(bind(destination, bench.text("logs")));
        assert!(bench.connect().create(plan).is_err(), "{destination}");
    }
}

#[test]
fn a_working_directory_outside_the_root_is_refused() {
    let bench = Bench::new();
    let directories = (3..64).map(|number| format!("/proc/self/fd/{number}"));
    let directories = directories.chain([
        "/proc/self/cwd/..".into(),
        "/proc/1/cwd".into(),
        "/proc/self/root".into(),
    ]);
    let mut client = bench.connect();
    for cwd in directories {
        let mut plan = bench.container("c1", &words("true"));
        plan.process.cwd = cwd.clone();
        assert!(client.create(plan).is_err(), "{cwd}");
    }
    symlink("/proc/self/fd/7", bench.path("lower/way")).unwrap();
    let mut plan = bench.container("c1", &words("true"));
    plan.process.cwd = "/way".into();
    assert!(client.create(plan).is_err());
}

#[test]
fn a_passwd_file_that_is_none_is_not_read() {
    let bench = Bench::new();
    let mut plan = bench.container("c1", &words("true"));
    plan.process.user.uid = runtime::plan::Id::Name("web".into());
    std::fs::remove_file(bench.path("lower/etc/passwd")).unwrap();
    symlink("/etc/group", bench.path("lower/etc/passwd")).unwrap();
    let error = bench.connect().create(plan.clone()).unwrap_err().to_string();
    assert!(error.contains("unable to find user web"), "{error}");
    std::fs::remove_file(bench.path("lower/etc/passwd")).unwrap();
    std::fs::File::create(bench.path("lower/etc/passwd"))
        .unwrap()
        .set_len(2 << 20)
        .unwrap();
    let error = bench
        .connect()
        .create(bench.moved(plan, "c2"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("resolve user"), "{error}");
}

/// Row 1: what a container's process was before it became its program.
#[test]
fn the_runtime_executable_takes_no_writes_from_inside() {
    let bench = Bench::new();
    std::fs::write(bench.path("lower/bin/evil"), "#!/proc/self/exe\n").unwrap();
    std::fs::set_permissions(
        bench.path("lower/bin/evil"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let (exit, log) = bench.run(bench.container("c1", &words("/bin/evil")));
    // It did run our executable, which found no command in its arguments.
    assert_eq!((exit.code, log.len()), (2, 1), "{log:?}");
    for pid in [
        bench.keeper.pid,
        bench
            .connect()
            .create(bench.container("c2", &words("true")))
            .unwrap(),
    ] {
        let executable = std::fs::File::open(format!("/proc/{pid}/exe")).unwrap();
        let flags = rustix::fs::fstatvfs(&executable).unwrap().f_flag;
        assert!(flags.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    }
}
