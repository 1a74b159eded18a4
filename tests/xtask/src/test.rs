//! `cargo xtask test`: set-up, then every check and test family; the last line is `N passed, N failed`.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use lab::setup;

use crate::checks;

/// What to run.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Also the tier of hours: generated corpora, weak builds, thousands of cycles
    #[arg(long)]
    pub(crate) long: bool,
    /// The end-to-end tests on upstream's node (kubelet, containerd, runc) as well
    #[arg(long)]
    pub(crate) oracle: bool,
    /// Leave the lab of the end-to-end tests up, to look around and to run single tests in it
    #[arg(long)]
    pub(crate) keep: bool,
    /// Only tests whose name holds this
    pub(crate) filter: Option<String>,
}

/// What a family of tests came to.
struct Outcome {
    family: String,
    passed: usize,
    failed: Vec<String>,
    took: Duration,
}

impl Outcome {
    fn new(family: &str) -> Self {
        Self {
            family: family.to_owned(),
            passed: 0,
            failed: vec![],
            took: Duration::ZERO,
        }
    }
}

/// Runs the tests; an error after the summary if any failed.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    setup::become_root()?;
    let prepared = setup::prepare(&setup::Request {
        fault_points: true,
        peers: true,
        ..setup::Request::default()
    })?;
    let root = lab::workspace();
    let mut outcomes = Vec::new();
    if args.filter.is_none() {
        outcomes.push(run_checks(&root));
    }
    outcomes.push(cargo_test(
        &root,
        "unit and effect tests",
        &UNIT,
        args.filter.as_deref(),
        &[],
    ));
    outcomes.push(cargo_test(
        &root,
        "crash matrix of the engine",
        &ENGINE_CRASHES,
        args.filter.as_deref().or(Some("crash::")),
        &[],
    ));
    outcomes.extend(end_to_end(&root, &prepared, args));
    summarise(&outcomes)
}

/// Runs the checks of the tree alone.
pub(crate) fn check() -> anyhow::Result<()> {
    summarise(&[run_checks(&lab::workspace())])
}

fn run_checks(root: &Path) -> Outcome {
    let start = Instant::now();
    let mut outcome = Outcome::new("checks of the tree");
    for check in checks::ALL {
        println!("check: {}", check.name);
        match (check.run)(root) {
            Ok(()) => outcome.passed += 1,
            Err(error) => {
                println!("check failed: {}: {error:#}", check.name);
                outcome.failed.push(format!("check: {}", check.name));
            }
        }
    }
    outcome.took = start.elapsed();
    outcome
}

const UNIT: [&str; 5] = [
    "--workspace",
    "--exclude",
    "longshore-e2e",
    "--target",
    setup::TARGET,
];

/// The engine alone, killed at each of its fault points: seconds, where the matrix of a whole node takes minutes.
const ENGINE_CRASHES: [&str; 8] = [
    "--package",
    "longshore-cri",
    "--features",
    "fault-points",
    "--target",
    setup::TARGET,
    "--test",
    "engine",
];

/// Nodes of the lab that the end-to-end tests find: two, so that pods can reach each other across nodes.
const NODES: usize = 2;

/// The end-to-end families, each a test binary of `tests/e2e`, on one lab.
fn end_to_end(root: &Path, prepared: &setup::Prepared, args: &Args) -> Vec<Outcome> {
    let start = Instant::now();
    let mut bringing_up = Outcome::new("lab up");
    let options = lab::Options {
        nodes: NODES,
        fault_points: true,
        oracle: true,
        ..lab::Options::default()
    };
    let up = lab::Lab::down().and_then(|()| lab::Lab::up(prepared, &options));
    bringing_up.took = start.elapsed();
    if let Err(error) = up {
        println!("lab up: {error:#}");
        bringing_up.failed.push("lab up".into());
        return vec![bringing_up];
    }
    bringing_up.passed = 1;
    let mut environment = vec![];
    if args.oracle {
        environment.push(("LONGSHORE_ORACLE", "1"));
    }
    if args.long {
        environment.push(("LONGSHORE_LONG", "1"));
    }
    let mut outcomes = vec![bringing_up];
    for family in families(root) {
        let arguments = [
            "--package",
            "longshore-e2e",
            "--target",
            setup::TARGET,
            "--test",
            &family,
        ];
        outcomes.push(cargo_test(
            root,
            &format!("end to end: {family}"),
            &arguments,
            args.filter.as_deref(),
            &environment,
        ));
    }
    if !args.keep {
        outcomes.push(take_down());
    }
    outcomes
}

fn families(root: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(root.join("tests/e2e/tests"))
        .into_iter()
        .flatten()
        .flatten();
    let mut families: Vec<_> = entries
        .filter_map(|e| Some(e.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    families.sort();
    families
}

fn take_down() -> Outcome {
    let start = Instant::now();
    let mut outcome = Outcome::new("lab down");
    match lab::Lab::down() {
        Ok(()) => outcome.passed = 1,
        Err(error) => {
            println!("lab down: {error:#}");
            outcome.failed.push("lab down".into());
        }
    }
    outcome.took = start.elapsed();
    outcome
}

/// Runs one `cargo test`, passing its output through and counting the results of all its binaries.
fn cargo_test(
    root: &Path,
    family: &str,
    arguments: &[&str],
    filter: Option<&str>,
    env: &[(&str, &str)],
) -> Outcome {
    let start = Instant::now();
    println!("test family: {family}");
    let mut outcome = Outcome::new(family);
    if let Err(error) = count_cargo_test(root, arguments, filter, env, &mut outcome) {
        println!("{family}: {error:#}");
        if outcome.failed.is_empty() {
            outcome.failed.push(format!("{family}: {error}"));
        }
    }
    outcome.took = start.elapsed();
    outcome
}

fn count_cargo_test(
    root: &Path,
    arguments: &[&str],
    filter: Option<&str>,
    env: &[(&str, &str)],
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let mut child = Command::new("cargo")
        .args(["test", "--locked", "--no-fail-fast"])
        .args(arguments)
        .args(filter)
        .envs(env.iter().copied())
        .env(
            "LONGSHORE_XTASK",
            std::env::current_exe().context("find this program")?,
        )
        .current_dir(root)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("run cargo test")?;
    let output = child.stdout.take().context("output of cargo test")?;
    for line in BufReader::new(output).lines() {
        let line = line.context("read cargo test")?;
        // libtest's own count lines stay inside: one summary at the end is ours.
        match line.strip_prefix("test result: ") {
            Some(result) => outcome.passed += count(result, " passed"),
            None => println!("{line}"),
        }
        if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|l| l.strip_suffix(" ... FAILED"))
        {
            outcome.failed.push(name.to_owned());
        }
    }
    let status = child.wait().context("wait for cargo test")?;
    if !status.success() {
        bail!("cargo test ended with {status}");
    }
    Ok(())
}

/// The number before ` passed` in `ok. 12 passed; 0 failed; …`.
fn count(result: &str, word: &str) -> usize {
    let Some((before, _)) = result.split_once(word) else {
        return 0;
    };
    before
        .rsplit(' ')
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

fn summarise(outcomes: &[Outcome]) -> anyhow::Result<()> {
    let mut slowest: Vec<_> = outcomes.iter().collect();
    slowest.sort_by_key(|outcome| std::cmp::Reverse(outcome.took));
    println!("\n{:>9}  {:>7}  {:>7}  family", "seconds", "passed", "failed");
    for outcome in slowest {
        let seconds = outcome.took.as_secs_f64();
        println!(
            "{seconds:>9.1}  {:>7}  {:>7}  {}",
            outcome.passed,
            outcome.failed.len(),
            outcome.family
        );
    }
    let failed: Vec<_> = outcomes.iter().flat_map(|outcome| &outcome.failed).collect();
    for name in &failed {
        println!("failed: {name}");
    }
    let passed: usize = outcomes.iter().map(|outcome| outcome.passed).sum();
    println!("{passed} passed, {} failed", failed.len());
    if !failed.is_empty() {
        bail!("{} tests failed", failed.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn counts_libtest_results() {
        assert_eq!(count("ok. 12 passed; 0 failed; 1 ignored", " passed"), 12);
        assert_eq!(count("FAILED. 3 passed; 2 failed", " passed"), 3);
        assert_eq!(count("nonsense", " passed"), 0);
    }
}
