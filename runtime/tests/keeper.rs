//! A keeper and its containers, for real: needs root and a cgroup2 mount. Each test has its own keeper, cgroup and
//! directory, and leaves nothing behind.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod bench;

use bench::{Bench, shell};
use runtime::wire::Request;

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
    assert_eq!(bench.log("c1"), ["stdout F out", "stderr F err", "stdout P rest"]);
}

#[test]
fn a_name_is_looked_up_in_the_path_of_the_container() {
    let bench = Bench::new();
    let (exit, log) = bench.run(bench.container("c1", &["cat", "/etc/group"].map(str::to_owned)));
    assert_eq!((exit.code, log.len()), (0, 3));
}
