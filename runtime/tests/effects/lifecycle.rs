//! Containers from birth to removal, and keepers and drivers that go away.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;

use runtime::client::{Client, Error};
use runtime::wire::{Event, Failure, Reply, Request, Status};

use crate::bench::{Bench, binary, shell, words};

fn refused(error: Error) -> Failure {
    match error {
        Error::Refused(failure) => failure,
        other => panic!("not a refusal: {other}"),
    }
}

#[test]
fn a_program_runs_and_its_exit_is_recorded_and_told() {
    let bench = Bench::new();
    let mut client = bench.connect();
    client.subscribe().unwrap();
    let plan = bench.container("c1", &shell("echo out; echo err >&2; printf rest; exit 3"));
    client.create(plan).unwrap();
    client.done(Request::Start { id: "c1".into() }).unwrap();
    let exit = bench.wait_exit(&mut client, "c1");
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (3, None, false));
    assert!(exit.started_at > 0 && exit.finished_at >= exit.started_at);
    assert_eq!(bench.record("c1").unwrap(), exit);
    // The streams are two pipes: order holds within each.
    let mut log = bench.log("c1");
    log.sort();
    assert_eq!(log, ["stderr F err", "stdout F out", "stdout P rest"]);
}

#[test]
fn exit_codes_and_signals_are_told_apart() {
    let bench = Bench::new();
    assert_eq!(bench.run(bench.container("c1", &words("true"))).0.code, 0);
    assert_eq!(bench.run(bench.container("c2", &words("false"))).0.code, 1);
    let (exit, _) = bench.run(bench.container("c3", &shell("sh -c 'kill -SEGV $$'; exit $?")));
    assert_eq!((exit.code, exit.signal), (139, None));
}

#[test]
fn long_lines_are_cut_and_both_streams_kept() {
    let bench = Bench::new();
    let script = "i=0; while [ $i -lt 2000 ]; do printf 0123456789; i=$((i+1)); done; echo; echo e >&2";
    let (_, log) = bench.run(bench.container("c1", &shell(script)));
    let stdout: Vec<&String> = log.iter().filter(|line| line.starts_with("stdout")).collect();
    assert_eq!(stdout.len(), 2);
    assert!(stdout[0].starts_with("stdout P 0123") && stdout[1].starts_with("stdout F "));
    assert_eq!(stdout[0].len() + stdout[1].len(), 20_000 + 2 * "stdout P ".len());
    assert!(log.contains(&"stderr F e".to_owned()));
}

#[test]
fn log_lines_have_times_and_the_file_its_mode() {
    let bench = Bench::new();
    bench.run(bench.container("c1", &words("true /")));
    let (_, log) = bench.run(bench.container("c2", &shell("echo x")));
    assert_eq!(log, ["stdout F x"]);
    let text = std::fs::read_to_string(bench.path("logs/c2")).unwrap();
    let time = text.split(' ').next().unwrap();
    assert!(
        time.len() == 30 && time.ends_with('Z') && &time[10..11] == "T",
        "{time}"
    );
    assert_eq!(
        std::fs::metadata(bench.path("logs/c2"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o640
    );
}

#[test]
fn a_rotated_log_is_opened_again() {
    let bench = Bench::new();
    let mut client = bench.connect();
    client.subscribe().unwrap();
    let mut plan = bench.container("c1", &shell("read line; echo first; exec cat > /dev/null"));
    plan.stdio.stdin = true;
    client.create(plan).unwrap();
    std::fs::rename(bench.path("logs/c1"), bench.path("logs/c1.old")).unwrap();
    client.done(Request::ReopenLog { id: "c1".into() }).unwrap();
    assert_eq!(bench.log("c1"), [""; 0]);
    client
        .done(Request::Kill {
            id: "c1".into(),
            signal: 9,
        })
        .unwrap();
    bench.wait_exit(&mut client, "c1");
}

#[test]
fn kill_ends_the_whole_container() {
    let bench = Bench::new();
    let mut client = bench.connect();
    client.subscribe().unwrap();
    client
        .create(bench.container("c1", &shell("sleep 1000 & sleep 1000")))
        .unwrap();
    client.done(Request::Start { id: "c1".into() }).unwrap();
    client
        .done(Request::Kill {
            id: "c1".into(),
            signal: 9,
        })
        .unwrap();
    let exit = bench.wait_exit(&mut client, "c1");
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    assert_eq!(bench.record("c1"), Some(exit));
    client.done(Request::Remove { id: "c1".into() }).unwrap();
    assert!(!bench.cgroup.join("c1").exists());
    assert_eq!(bench.record("c1"), None);
    assert_eq!(client.list().unwrap(), []);
    // Nothing to forget is no error.
    client.done(Request::Remove { id: "c1".into() }).unwrap();
}

#[test]
fn other_signals_go_to_the_program() {
    let bench = Bench::new();
    let mut client = bench.connect();
    client.subscribe().unwrap();
    let script = "trap 'echo got it; exit 7' TERM; echo ready; while :; do sleep 1000 & wait; done";
    client.create(bench.container("c1", &shell(script))).unwrap();
    client.done(Request::Start { id: "c1".into() }).unwrap();
    bench.wait_log("c1", "stdout F ready");
    client
        .done(Request::Kill {
            id: "c1".into(),
            signal: 15,
        })
        .unwrap();
    assert_eq!(bench.wait_exit(&mut client, "c1").code, 7);
    assert_eq!(bench.log("c1").last().unwrap(), "stdout F got it");
}

#[test]
fn a_container_not_started_ends_by_any_signal() {
    let bench = Bench::new();
    let mut client = bench.connect();
    client.subscribe().unwrap();
    client.create(bench.container("c1", &words("true"))).unwrap();
    client
        .done(Request::Kill {
            id: "c1".into(),
            signal: 15,
        })
        .unwrap();
    let exit = bench.wait_exit(&mut client, "c1");
    assert_eq!((exit.code, exit.started_at), (137, 0));
    let failure = refused(client.done(Request::Start { id: "c1".into() }).unwrap_err());
    assert_eq!(failure.message, "the container ended before it started");
}

#[test]
fn requests_may_be_repeated() {
    let bench = Bench::new();
    let mut client = bench.connect();
    client.subscribe().unwrap();
    let plan = bench.container("c1", &shell("exec sleep 1000"));
    let pid = client.create(plan.clone()).unwrap();
    assert_eq!(client.create(plan).unwrap(), pid);
    for _ in 0..2 {
        client.done(Request::Start { id: "c1".into() }).unwrap();
    }
    let states = client.list().unwrap();
    assert!(
        matches!(&states[..], [state] if state.pid == pid && matches!(state.status, Status::Running { .. }))
    );
    for _ in 0..2 {
        client
            .done(Request::Kill {
                id: "c1".into(),
                signal: 9,
            })
            .unwrap();
    }
    bench.wait_exit(&mut client, "c1");
    client
        .done(Request::Kill {
            id: "c1".into(),
            signal: 9,
        })
        .unwrap();
    client.done(Request::Start { id: "c1".into() }).unwrap();
}

#[test]
fn unknown_containers_and_signals_are_refused() {
    let bench = Bench::new();
    let mut client = bench.connect();
    let failure = refused(client.done(Request::Start { id: "none".into() }).unwrap_err());
    assert_eq!(
        (failure.errno, failure.message.as_str()),
        (2, "no such container")
    );
    client.create(bench.container("c1", &words("true"))).unwrap();
    assert!(
        client
            .done(Request::Kill {
                id: "c1".into(),
                signal: 65
            })
            .is_err()
    );
    for id in ["../x", "", "a/b", "A", &"a".repeat(65)] {
        let mut plan = bench.container("c2", &words("true"));
        plan.id = id.into();
        assert_eq!(
            refused(client.create(plan).unwrap_err()).step,
            "check plan",
            "{id}"
        );
    }
}

#[test]
fn a_failed_creation_leaves_nothing_and_can_be_tried_again() {
    let bench = Bench::new();
    let mut client = bench.connect();
    let plan = bench.container("c1", &words("nowhere"));
    for _ in 0..2 {
        let failure = refused(client.create(plan.clone()).unwrap_err());
        assert_eq!(
            failure.message,
            "exec: \"nowhere\": executable file not found in $PATH"
        );
        assert_eq!(
            (failure.step.as_str(), failure.object.as_str(), failure.errno),
            ("find program", "nowhere", 2)
        );
    }
    assert_eq!(client.list().unwrap(), []);
    assert!(!bench.cgroup.join("c1").exists());
    client.create(bench.container("c1", &words("true"))).unwrap();
}

#[test]
fn programs_that_cannot_run_have_the_words_of_upstream() {
    let bench = Bench::new();
    let cases = [
        ("/none", "exec: \"/none\": stat /none: no such file or directory"),
        ("/etc/passwd", "exec: \"/etc/passwd\": permission denied"),
        ("/etc", "exec: \"/etc\": is a directory"),
        (
            "./none",
            "exec: \"./none\": stat ./none: no such file or directory",
        ),
    ];
    let mut client = bench.connect();
    for (program, expected) in cases {
        assert_eq!(
            refused(client.create(bench.container("c1", &words(program))).unwrap_err()).message,
            expected
        );
    }
}

#[test]
fn a_file_of_no_known_format_fails_at_start() {
    let bench = Bench::new();
    std::fs::write(bench.path("lower/bin/odd"), "\0\0").unwrap();
    std::fs::set_permissions(
        bench.path("lower/bin/odd"),
        std::fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    let mut client = bench.connect();
    client.subscribe().unwrap();
    client.create(bench.container("c1", &words("/bin/odd"))).unwrap();
    let failure = refused(client.done(Request::Start { id: "c1".into() }).unwrap_err());
    assert_eq!(failure.message, "exec /bin/odd: exec format error");
    let exit = bench.wait_exit(&mut client, "c1");
    assert_eq!((exit.code, exit.started_at), (128, 0));
}

#[test]
fn a_driver_may_vanish_and_another_finds_everything() {
    let bench = Bench::new();
    let mut first = bench.connect();
    first.create(bench.container("c1", &shell("exit 5"))).unwrap();
    first
        .create(bench.container("c2", &shell("exec sleep 1000")))
        .unwrap();
    for id in ["c1", "c2"] {
        first.done(Request::Start { id: id.into() }).unwrap();
    }
    drop(first);
    let mut second = bench.connect();
    second.subscribe().unwrap();
    assert_eq!(bench.wait_exit(&mut second, "c1").code, 5);
    let states = second.list().unwrap();
    assert!(matches!(states[1].status, Status::Running { .. }));
    // What ended before is told again to whoever comes.
    let mut third = bench.connect();
    third.subscribe().unwrap();
    assert!(
        matches!(third.next_event().unwrap(), Event::Exited { id, exit } if id == "c1" && exit.code == 5)
    );
}

#[test]
fn nonsense_on_one_connection_harms_no_other() {
    let bench = Bench::new();
    let mut good = bench.connect();
    for bytes in [&[0xFF; 8][..], &[3, 0, 0, 0, 9, 9, 9], &[1, 0, 0, 0, 0]] {
        let mut bad = UnixStream::connect(bench.path("run/keeper.sock")).unwrap();
        bad.write_all(bytes).unwrap();
        let mut rest = Vec::new();
        // Closed, after a reply or not.
        let _ = bad.read_to_end(&mut rest);
    }
    assert_eq!(good.list().unwrap(), []);
}

#[test]
fn a_driver_that_does_not_read_is_dropped_without_harm() {
    let bench = Bench::new();
    let mut good = bench.connect();
    let mut plan = bench.container("c1", &words("true"));
    // Each reply repeats the id in a long message; nobody reads them.
    plan.id = "x".repeat(1 << 20);
    let frame = runtime::wire::encode(&runtime::wire::Envelope {
        sequence: 1,
        body: Request::Create(Box::new(plan)),
    });
    let frame = frame.unwrap();
    let hello = Request::Hello {
        protocol: 1,
        plan: runtime::plan::PLAN_VERSION,
    };
    let hello = runtime::wire::encode(&runtime::wire::Envelope {
        sequence: 0,
        body: hello,
    })
    .unwrap();
    let mut bad = UnixStream::connect(bench.path("run/keeper.sock")).unwrap();
    bad.write_all(&hello).unwrap();
    while bad.write_all(&frame).is_ok() {}
    assert_eq!(good.list().unwrap(), []);
}

#[test]
fn another_version_is_refused() {
    let bench = Bench::new();
    let mut client = bench.connect();
    let failure = refused(
        client
            .request(Request::Hello {
                protocol: 99,
                plan: 1,
            })
            .unwrap_err(),
    );
    assert!(failure.message.contains("protocol 99"), "{failure}");
}

#[test]
fn the_socket_is_for_its_owner_only() {
    let bench = Bench::new();
    for (path, mode) in [("run/keeper.sock", 0o600), ("run/exits", 0o700)] {
        assert_eq!(
            std::fs::metadata(bench.path(path)).unwrap().permissions().mode() & 0o777,
            mode,
            "{path}"
        );
    }
}

#[test]
fn shutdown_kills_records_and_ends() {
    let mut bench = Bench::new();
    let mut client = bench.connect();
    client
        .create(bench.container("c1", &shell("exec sleep 1000")))
        .unwrap();
    client.done(Request::Start { id: "c1".into() }).unwrap();
    assert_eq!(client.request(Request::Shutdown).unwrap(), Reply::Done);
    assert!(bench.keeper.child.wait().unwrap().success());
    assert_eq!(bench.record("c1").unwrap().signal, Some(9));
    assert!(!bench.cgroup.join("c1").exists() && !bench.path("run/keeper.sock").exists());
}

#[test]
fn a_killed_keeper_takes_its_containers_with_it() {
    let mut bench = Bench::new();
    let mut client = bench.connect();
    let running = client
        .create(bench.container("c1", &shell("sleep 1000 & exec sleep 1000")))
        .unwrap();
    client.done(Request::Start { id: "c1".into() }).unwrap();
    let created = client.create(bench.container("c2", &words("true"))).unwrap();
    let mut web = bench.container("c3", &shell("exec sleep 1000"));
    web.process.user.uid = runtime::plan::Id::Number(33);
    let unprivileged = client.create(web).unwrap();
    client.done(Request::Start { id: "c3".into() }).unwrap();
    bench.keeper.child.kill().unwrap();
    bench.keeper.child.wait().unwrap();
    for pid in [running, created, unprivileged] {
        bench.wait_gone(pid);
    }
    for id in ["c1", "c2", "c3"] {
        bench.wait_empty(id);
    }
}

#[test]
fn who_holds_the_output_open_does_not_hold_back_the_exit() {
    let bench = Bench::new();
    let mut client = bench.connect();
    client.subscribe().unwrap();
    // The test itself holds the pipe, as a process that was handed it would.
    let mut plan = bench.container("c1", &shell("printf 'before\\nrest'; exec sleep 1000"));
    plan.stdio.stdin = true;
    let pid = client.create(plan).unwrap();
    client.done(Request::Start { id: "c1".into() }).unwrap();
    bench.wait_log("c1", "stdout F before");
    let mut held = std::fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/{pid}/fd/1"))
        .unwrap();
    client
        .done(Request::Kill {
            id: "c1".into(),
            signal: 9,
        })
        .unwrap();
    assert_eq!(bench.wait_exit(&mut client, "c1").code, 137);
    assert_eq!(bench.log("c1"), ["stdout F before", "stdout P rest"]);
    held.write_all(b"after\n").unwrap();
    bench.wait_log("c1", "stdout F after");
}

#[test]
fn orphans_in_a_shared_pid_namespace_end_with_their_container() {
    let bench = Bench::new();
    let mut plan = bench.container("c1", &shell("sleep 1000 & echo $!"));
    plan.pid_namespace = runtime::plan::PidNamespace::Host;
    let (exit, log) = bench.run(plan);
    assert_eq!(exit.code, 0);
    let pid: u32 = log[0].rsplit(' ').next().unwrap().parse().unwrap();
    bench.wait_gone(pid);
}

#[test]
fn a_container_joins_the_pid_namespace_it_is_given() {
    let bench = Bench::new();
    let mut client = bench.connect();
    let pid = client
        .create(bench.container("c1", &shell("exec sleep 1000")))
        .unwrap();
    client.done(Request::Start { id: "c1".into() }).unwrap();
    let mut plan = bench.container("c2", &shell("cat /proc/1/cmdline"));
    plan.pid_namespace = runtime::plan::PidNamespace::Path(format!("/proc/{pid}/ns/pid"));
    let (_, log) = bench.run(plan);
    assert!(log[0].contains("sleep"), "{log:?}");
    // Later ones are born at home again.
    let (_, log) = bench.run(bench.container("c3", &shell("echo $$")));
    assert_eq!(log, ["stdout F 1"]);
}

#[test]
fn a_missing_controller_is_named() {
    let bench = Bench::new();
    let mut client = bench.connect();
    let mut plan = bench.container("c1", &words("true"));
    plan.cgroup.settings = vec![("nothing.max".into(), "1".into())];
    let failure = refused(client.create(plan).unwrap_err());
    assert!(
        failure
            .message
            .contains("cgroup controller nothing is not available"),
        "{failure}"
    );
    assert!(!bench.cgroup.join("c1").exists());
}

#[test]
fn a_keeper_that_cannot_be_says_why() {
    let plan = runtime::plan::SandboxPlan {
        id: "s1".into(),
        hostname: None,
        own_network: false,
        own_ipc: false,
        sysctls: Vec::new(),
        keeper_cgroup: "/nowhere/in/particular".into(),
        directory: "/nowhere".into(),
        oom_score_adj: 0,
    };
    let binary = binary();
    let bad_id = runtime::plan::SandboxPlan {
        id: "../x".into(),
        ..plan.clone()
    };
    assert_eq!(
        refused(runtime::client::spawn_keeper(binary, &bad_id).unwrap_err()).step,
        "check plan"
    );
    let host_sysctl = runtime::plan::SandboxPlan {
        sysctls: vec![("kernel.x".into(), "1".into())],
        ..plan
    };
    let bench = Bench::new();
    let host_sysctl = runtime::plan::SandboxPlan {
        keeper_cgroup: bench.cgroup.join("other").display().to_string(),
        directory: bench.text("run2"),
        ..host_sysctl
    };
    let failure = refused(runtime::client::spawn_keeper(binary, &host_sysctl).unwrap_err());
    assert_eq!(
        failure.message,
        "sysctl is not in a namespace of the sandbox's own"
    );
    assert!(matches!(
        Client::connect(&bench.path("logs")),
        Err(Error::Io { .. })
    ));
}

#[test]
fn a_keeper_whose_log_nobody_reads_lives_on() {
    let bench = Bench::new();
    let plan = runtime::plan::SandboxPlan {
        id: "s2".into(),
        hostname: None,
        own_network: false,
        own_ipc: false,
        sysctls: Vec::new(),
        keeper_cgroup: bench.cgroup.join("other").display().to_string(),
        directory: bench.text("logs"),
        oom_score_adj: 0,
    };
    let mut command = std::process::Command::new(binary());
    let pipe = std::process::Stdio::piped;
    let mut keeper = command
        .arg("keeper")
        .stdin(pipe())
        .stdout(pipe())
        .stderr(pipe())
        .spawn()
        .unwrap();
    keeper
        .stdin
        .take()
        .unwrap()
        .write_all(&runtime::wire::encode(&plan).unwrap())
        .unwrap();
    let mut answer = Vec::new();
    keeper.stdout.take().unwrap().read_to_end(&mut answer).unwrap();
    drop(keeper.stderr.take());
    for _ in 0..3 {
        let mut bad = UnixStream::connect(bench.path("logs/keeper.sock")).unwrap();
        bad.write_all(&[0xFF; 8]).unwrap();
        let _ = bad.read_to_end(&mut Vec::new());
    }
    let mut client = Client::connect(&bench.path("logs")).unwrap();
    assert_eq!(client.keeper, ("s2".to_owned(), keeper.id()));
    client.done(Request::Shutdown).unwrap();
    assert!(keeper.wait().unwrap().success());
}
