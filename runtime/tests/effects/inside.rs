//! What a container's program sees.

use runtime::plan::{DeviceRule, Id, Mount, MountKind, Propagation, Rootfs, User};

use crate::bench::{Bench, shell, text};

/// The log of a script, without stream and tag.
fn seen(bench: &Bench, id: &str, script: &str) -> Vec<String> {
    text(&bench.run(bench.container(id, &shell(script))).1)
}

#[test]
fn environment_and_directory_are_as_planned() {
    let bench = Bench::new();
    let mut plan = bench.container("c1", &shell("echo $GREETING $HOME; pwd; umask"));
    plan.process.cwd = "/made/for/it".into();
    assert_eq!(text(&bench.run(plan).1), ["hello /root", "/made/for/it", "0022"]);
}

#[test]
fn host_name_network_and_processes_are_its_own() {
    let bench = Bench::new();
    let script = "hostname; echo $$; ls /proc | grep -c '^[0-9]'; cat /proc/net/dev | grep -c :; cat /proc/self/cgroup | grep ^0";
    let lines = seen(&bench, "c1", script);
    assert_eq!(lines[..2], ["pod-host", "1"]);
    assert!(lines[2].parse::<u32>().unwrap() <= 4, "{lines:?}");
    assert!(
        lines[3].parse::<u32>().unwrap() <= 3,
        "only what a new network namespace has: {lines:?}"
    );
    assert_eq!(lines[4], "0::/");
}

#[test]
fn sysctls_of_the_sandbox_are_set() {
    let bench = Bench::with(|plan| {
        plan.sysctls = vec![
            ("net.ipv4.ip_unprivileged_port_start".into(), "77".into()),
            ("kernel.shm_rmid_forced".into(), "1".into()),
        ];
    });
    let script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced";
    assert_eq!(seen(&bench, "c1", script), ["77", "1"]);
}

#[test]
fn users_are_resolved_in_the_image() {
    let bench = Bench::new();
    let mut plan = bench.container("c1", &shell("id -u; id -g; id -G; echo $HOME"));
    plan.process.user = User {
        uid: Id::Name("web".into()),
        gid: None,
        additional_gids: vec![99],
        image_groups: true,
    };
    assert_eq!(text(&bench.run(plan.clone()).1), ["33", "34", "34 40 99", "/srv"]);
    plan.id = "c2".into();
    plan.process.user.uid = Id::Name("ghost".into());
    let error = bench
        .connect()
        .create(bench.moved(plan, "c2"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("unable to find user ghost: no matching entries in passwd file"),
        "{error}"
    );
}

#[test]
fn an_unprivileged_user_has_no_capabilities_but_may_use_its_streams() {
    let bench = Bench::new();
    let mut plan = bench.container(
        "c1",
        &shell("grep ^Cap /proc/self/status; echo again > /dev/stdout"),
    );
    plan.process.user.uid = Id::Number(33);
    let lines = text(&bench.run(plan).1);
    let sets: Vec<&str> = lines.iter().filter_map(|line| line.split('\t').nth(1)).collect();
    assert_eq!(
        sets,
        [
            "0000000000000000",
            "0000000000000000",
            "0000000000000000",
            "00000000a80425fb",
            "0000000000000000"
        ]
    );
    assert_eq!(lines.last().unwrap(), "again");
}

#[test]
fn root_has_the_planned_capabilities_and_no_more() {
    let bench = Bench::new();
    let script = "grep -E '^(Cap|NoNewPrivs)' /proc/self/status";
    let mut plan = bench.container("c1", &shell(script));
    plan.process.no_new_privileges = true;
    let lines = text(&bench.run(plan).1);
    let values: Vec<&str> = lines.iter().filter_map(|line| line.split('\t').nth(1)).collect();
    let mask = "00000000a80425fb";
    assert_eq!(
        values,
        ["0000000000000000", mask, mask, mask, "0000000000000000", "1"]
    );
}

#[test]
fn ambient_capabilities_reach_an_unprivileged_user() {
    let bench = Bench::new();
    let mut plan = bench.container("c1", &shell("grep -E '^Cap(Eff|Amb)' /proc/self/status"));
    plan.process.user.uid = Id::Number(33);
    plan.process.capabilities.inheritable = 1 << 10;
    plan.process.capabilities.ambient = 1 << 10;
    assert!(
        text(&bench.run(plan).1)
            .iter()
            .all(|line| line.ends_with("0000000000000400"))
    );
}

#[test]
fn limits_and_oom_score_are_set() {
    let bench = Bench::new();
    let mut plan = bench.container("c1", &shell("ulimit -n; cat /proc/self/oom_score_adj"));
    plan.process.rlimits = vec![(7, 77, 88)];
    assert_eq!(text(&bench.run(plan).1), ["77", "500"]);
}

#[test]
fn a_score_below_what_may_be_had_is_not_an_error() {
    let bench = Bench::new();
    let mut plan = bench.container("c1", &shell("cat /proc/self/oom_score_adj"));
    plan.process.oom_score_adj = Some(-997);
    let score: i32 = text(&bench.run(plan).1)[0].parse().unwrap();
    assert!((-997..=0).contains(&score));
}

#[test]
fn a_read_only_root_is() {
    let bench = Bench::new();
    let mut plan = bench.container("c1", &shell("touch /x 2>&1; touch /dev/shm/x && echo shm"));
    if let Rootfs::Overlay { readonly, .. } = &mut plan.rootfs {
        *readonly = true;
    }
    assert_eq!(
        text(&bench.run(plan).1),
        ["touch: /x: Read-only file system", "shm"]
    );
}

#[test]
fn a_directory_may_be_the_root() {
    let bench = Bench::new();
    let mut plan = bench.container("c1", &shell("touch /tmp/x; ls /tmp"));
    plan.rootfs = Rootfs::Directory {
        path: bench.text("lower"),
        readonly: false,
    };
    assert_eq!(text(&bench.run(plan).1), ["x"]);
    assert!(bench.path("lower/tmp/x").exists());
}

#[test]
fn layers_are_stacked_topmost_first() {
    let bench = Bench::new();
    for (layer, name) in [("top", "same"), ("middle", "same"), ("middle", "other")] {
        std::fs::create_dir_all(bench.path(layer)).unwrap();
        std::fs::write(bench.path(layer).join(name), layer).unwrap();
    }
    let mut plan = bench.container(
        "c1",
        &shell("cat /same; echo; cat /other; echo; echo w > /same; cat /same"),
    );
    if let Rootfs::Overlay { lower, .. } = &mut plan.rootfs {
        lower.splice(0..0, [bench.text("top"), bench.text("middle")]);
    }
    assert_eq!(text(&bench.run(plan).1), ["top", "middle", "w"]);
    assert_eq!(std::fs::read_to_string(bench.path("top/same")).unwrap(), "top");
}

#[test]
fn masked_and_read_only_paths_are() {
    let bench = Bench::new();
    let script = "wc -c < /proc/interrupts; ls /sys/firmware | wc -l; echo 1 2>&1 > /proc/sys/kernel/core_pattern; \
                  touch /sys/firmware/x 2>&1; mount -t tmpfs x /tmp 2>&1";
    let lines = seen(&bench, "c1", script);
    assert_eq!(lines[..2], ["0", "0"], "{lines:?}");
    assert!(
        lines[2].contains("Read-only file system") && lines[3].contains("Read-only file system"),
        "{lines:?}"
    );
    assert!(
        lines[4].contains("ermission denied") || lines[4].contains("not permitted"),
        "{lines:?}"
    );
}

#[test]
fn devices_and_their_links_are_there() {
    let bench = Bench::new();
    let script = "echo x > /dev/null; head -c 3 /dev/zero | wc -c; ls -l /dev/fd /dev/ptmx | sed 's/.*-> //'; \
                  echo y > /dev/stderr; ls /dev | sort | tr '\\n' ' '; mount | grep -c mqueue";
    let lines = seen(&bench, "c1", script);
    assert!(
        lines.contains(&"/proc/self/fd".to_owned()) && lines.contains(&"pts/ptmx".to_owned()),
        "{lines:?}"
    );
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("fd full mqueue null ptmx pts random shm stderr")),
        "{lines:?}"
    );
}

#[test]
fn nothing_of_the_keeper_is_open_in_the_program() {
    let bench = Bench::new();
    let mut client = bench.connect();
    client
        .create(bench.container("c0", &shell("exec sleep 1000")))
        .unwrap();
    // The directory that ls itself reads is the fourth.
    assert_eq!(seen(&bench, "c1", "exec ls /proc/self/fd"), ["0", "1", "2", "3"]);
}

#[test]
fn a_created_container_holds_nothing_of_its_neighbours() {
    let bench = Bench::new();
    let mut client = bench.connect();
    client
        .create(bench.container("c0", &shell("exec sleep 1000")))
        .unwrap();
    let pid = client
        .create(bench.container("c1", &shell("exec sleep 1000")))
        .unwrap();
    // Its control socket and whatever it holds itself; not the keeper's listener, epoll or other containers' pipes.
    let held: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|entry| {
            std::fs::read_link(entry.unwrap().path())
                .unwrap()
                .display()
                .to_string()
        })
        .collect();
    assert!(
        !held
            .iter()
            .any(|target| target.contains("anon_inode") || target.contains("logs")),
        "{held:?}"
    );
    assert_eq!(
        held.iter().filter(|target| target.starts_with("socket:")).count(),
        1,
        "{held:?}"
    );
}

fn bind(bench: &Bench, destination: &str, source: &str) -> Mount {
    Mount {
        destination: destination.into(),
        kind: MountKind::Bind {
            source: bench.text(source),
            recursive: true,
            recursive_readonly: false,
        },
        flags: 0,
        cleared: 0,
        propagation: Propagation::Private,
    }
}

#[test]
fn files_and_directories_of_the_host_are_bound() {
    let bench = Bench::new();
    std::fs::create_dir(bench.path("volume")).unwrap();
    std::fs::write(bench.path("hosts"), "the hosts file\n").unwrap();
    let script = "cat /etc/hosts; touch /data/here; touch /ro/x 2>&1; touch /ro/below/x 2>&1";
    let mut plan = bench.container("c1", &shell(script));
    std::fs::create_dir(bench.path("volume/below")).unwrap();
    let mut readonly = bind(&bench, "/ro", "volume");
    readonly.flags = 1;
    plan.mounts.extend([
        bind(&bench, "/etc/hosts", "hosts"),
        bind(&bench, "/data", "volume"),
        readonly,
    ]);
    let lines = text(&bench.run(plan).1);
    assert_eq!(lines[0], "the hosts file");
    assert!(
        lines[1..]
            .iter()
            .all(|line| line.contains("Read-only file system"))
            && lines.len() == 3,
        "{lines:?}"
    );
    assert!(bench.path("volume/here").exists());
}

#[test]
fn a_mount_point_that_is_a_dangling_link_is_made_inside() {
    let bench = Bench::new();
    std::fs::write(bench.path("resolv"), "nameserver\n").unwrap();
    let link = "../run/systemd/resolve/stub-resolv.conf";
    std::os::unix::fs::symlink(link, bench.path("lower/etc/resolv.conf")).unwrap();
    let mut plan = bench.container("c1", &shell("cat /etc/resolv.conf"));
    plan.mounts.push(bind(&bench, "/etc/resolv.conf", "resolv"));
    assert_eq!(text(&bench.run(plan).1), ["nameserver"]);
}

#[test]
fn a_missing_source_is_named() {
    let bench = Bench::new();
    let mut plan = bench.container("c1", &shell("true"));
    plan.mounts.push(bind(&bench, "/data", "absent"));
    let error = bench.connect().create(plan).unwrap_err().to_string();
    assert!(
        error.contains("open mount source") && error.contains("absent: no such file or directory"),
        "{error}"
    );
}

#[test]
fn a_terminal_is_one() {
    let bench = Bench::new();
    let mut plan = bench.container(
        "c1",
        &shell("tty; test -t 0 && test -t 1 && test -t 2 && echo yes; ls /dev/console"),
    );
    plan.process.terminal = true;
    assert_eq!(text(&bench.run(plan).1), ["/dev/pts/0", "yes", "/dev/console"]);
}

#[test]
fn standard_input_is_empty_unless_it_is_kept_open() {
    let bench = Bench::new();
    assert_eq!(seen(&bench, "c1", "cat | wc -c"), ["0"]);
    let mut plan = bench.container("c2", &shell("readlink /proc/self/fd/0 | cut -d: -f1"));
    plan.stdio.stdin = true;
    assert_eq!(text(&bench.run(plan).1), ["pipe"]);
}

#[test]
fn devices_that_no_rule_allows_can_be_made_but_not_used() {
    let bench = Bench::new();
    let script = "mknod /dev/vda b 254 0 && echo made; head -c 1 /dev/vda 2>&1; mknod /tmp/zero c 1 5; \
                  head -c 3 /tmp/zero | wc -c; (echo x > /dev/full) 2>&1; mknod /tmp/mem c 1 1; head -c 1 /tmp/mem 2>&1";
    let mut plan = bench.container("c1", &shell(script));
    let rule = |allow, block, major, minor, access| DeviceRule {
        allow,
        block,
        major,
        minor,
        access,
    };
    plan.device_rules = vec![
        rule(false, None, None, None, 7),
        rule(true, Some(false), None, None, 1),
        rule(true, Some(true), None, None, 1),
        rule(true, Some(false), Some(1), Some(3), 7),
        rule(true, Some(false), Some(1), Some(5), 2),
    ];
    let lines = text(&bench.run(plan).1);
    assert_eq!(lines[0], "made");
    assert!(
        lines[1].contains("/dev/vda: Operation not permitted"),
        "{lines:?}"
    );
    assert_eq!(lines[2], "3");
    assert!(
        lines[3].contains("/dev/full: Operation not permitted"),
        "{lines:?}"
    );
    assert!(
        lines[4].contains("/tmp/mem: Operation not permitted"),
        "{lines:?}"
    );
}
