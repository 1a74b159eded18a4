//! The engine with real parts: our runtime and keeper, our network, a local image of static busybox, in mount, network,
//! pid, ipc and uts namespaces and a cgroup of their own. Nothing of it is left behind.
//!
//! This program has four roles: `keeper` (started by the engine in place of `longshore-oci`), `node` (an engine that is
//! killed), the outer one that makes the namespaces, and the inner one that runs the tests.

#![allow(clippy::unwrap_used, reason = "a test ends where it does not hold")]

mod adoption;
mod bench;
#[cfg(feature = "fault-points")]
mod crash;
mod image;
mod lifecycle;
mod sandboxes;

use std::panic::AssertUnwindSafe;
use std::process::{Command, ExitCode};

use futures::FutureExt as _;

const INNER: &str = "LONGSHORE_CRI_TEST_INNER";

type Test = (&'static str, fn() -> futures::future::BoxFuture<'static, ()>);

macro_rules! tests {
    ($($(#[$meta:meta])* $room:ident :: $name:ident),* $(,)?) => {
        &[$($(#[$meta])* (concat!(stringify!($room), "::", stringify!($name)), || $room::$name().boxed())),*]
    };
}

const TESTS: &[Test] = tests![
    lifecycle::a_container_runs_logs_and_ends_with_its_code,
    lifecycle::a_program_that_cannot_be_found_is_a_start_error,
    lifecycle::a_user_that_cannot_be_found_is_a_start_error,
    lifecycle::stop_asks_first_and_kills_after_the_grace_period,
    lifecycle::environment_secrets_are_in_no_record,
    lifecycle::removing_a_running_container_ends_it,
    lifecycle::a_log_is_reopened_after_rotation,
    lifecycle::devices_and_privileges_come_on_request,
    lifecycle::a_container_may_join_anothers_process_ids,
    lifecycle::a_limit_that_cannot_be_kept_is_an_error,
    sandboxes::a_pod_shares_network_name_and_memory,
    sandboxes::the_hosts_network_is_shared_on_request,
    sandboxes::stopping_and_removing_twice_and_the_unknown_is_success,
    sandboxes::the_same_attempt_is_made_once,
    sandboxes::a_sandbox_that_cannot_be_made_leaves_nothing,
    sandboxes::status_says_when_the_network_is_ready,
    adoption::a_new_engine_adopts_what_runs,
    adoption::an_exit_without_an_engine_is_known_to_the_next,
    adoption::a_container_that_never_ran_is_taken_back,
    adoption::a_killed_keeper_takes_its_pod_with_it,
    adoption::a_keeper_killed_without_an_engine_is_found_lost,
    adoption::a_damaged_record_is_put_aside_and_its_pod_ended,
    adoption::an_unfinished_sandbox_is_undone,
    adoption::leftovers_without_a_record_go,
    adoption::two_engines_do_not_work_in_one_place,
    #[cfg(feature = "fault-points")]
    crash::an_engine_killed_anywhere_comes_to_the_same_end,
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["keeper", ref rest @ ..] = words[..] {
        return runtime::keeper::run(rest);
    }
    #[cfg(feature = "fault-points")]
    if let Some(("node", rest)) = arguments
        .split_first()
        .map(|(first, rest)| (first.as_str(), rest))
    {
        return crash::node(rest);
    }
    if arguments.iter().any(|argument| argument == "--list") {
        TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if std::env::var_os(INNER).is_none() {
        return outer(&arguments);
    }
    inner(&arguments)
}

/// Runs this program again in namespaces and a cgroup of its own.
fn outer(arguments: &[String]) -> ExitCode {
    let cgroup = bench::cgroup_mount().join(format!("longshore-cri-test-{}", std::process::id()));
    std::fs::create_dir(&cgroup).expect("root, and a cgroup2 mount");
    let status = Command::new("unshare")
        .args([
            "--mount",
            "--net",
            "--pid",
            "--ipc",
            "--uts",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ])
        .arg(std::env::current_exe().expect("/proc"))
        .args(arguments)
        .env(INNER, &cgroup)
        .status()
        .expect("util-linux");
    bench::remove_cgroups(&cgroup);
    assert!(!cgroup.exists(), "processes are left in {}", cgroup.display());
    if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs the tests one after the other: they share the network namespace.
fn inner(arguments: &[String]) -> ExitCode {
    let filters: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    bench::set_up();
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, test) in TESTS {
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        let runtime = runtime.expect("a runtime");
        let limited = async { tokio::time::timeout(std::time::Duration::from_secs(900), test()).await };
        let result = runtime.block_on(AssertUnwindSafe(limited).catch_unwind());
        let fine = matches!(result, Ok(Ok(())));
        println!("test {name} ... {}", if fine { "ok" } else { "FAILED" });
        if fine {
            passed += 1;
        } else {
            failed.push(*name);
        }
    }
    println!(
        "\ntest result: {}. {passed} passed; {} failed",
        if failed.is_empty() { "ok" } else { "FAILED" },
        failed.len()
    );
    failed.iter().for_each(|name| println!("    {name}"));
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
