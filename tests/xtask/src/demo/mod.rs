//! `cargo xtask demo`: from a fresh machine to a sample that works, each step shown with what it proves.

mod objects;
mod steps;

use anyhow::{Context as _, Result, bail};
use lab::{Lab, Node, Options, setup};
use std::fs;
use std::time::{Duration, Instant};

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Tear everything down afterwards and exit.
    #[arg(long)]
    pub(crate) once: bool,
    /// Show the same on upstream's node, which proves the steps themselves.
    #[arg(long, hide = true)]
    pub(crate) oracle: bool,
}

/// What a step works on.
pub(crate) struct Demo {
    lab: Lab,
    node: Node,
}

type Step = fn(&Demo) -> Result<String>;

/// What is shown, in this order: the claim, and the step that proves it or fails.
const STEPS: [(&str, Step); 8] = [
    (
        "The node joined with a bootstrap token and is Ready",
        steps::node_is_ready,
    ),
    (
        "The real scheduler placed a Deployment of 2, and both pods run",
        steps::deployment_runs,
    ),
    (
        "Each pod has an address of its own that answers HTTP",
        steps::pods_answer,
    ),
    (
        "A pod's mounted token opens the API only as far as RBAC says",
        steps::token_lists_pods,
    ),
    ("kubectl logs shows what a container wrote", steps::logs_are_shown),
    (
        "A killed container is restarted",
        steps::killed_container_restarts,
    ),
    (
        "The agent can be killed: pods go on untouched and are adopted",
        steps::agent_is_killed,
    ),
    ("What is deleted leaves nothing behind", steps::everything_goes),
];

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::become_root()?;
    setup::heading("Set-up");
    let prepared = setup::prepare(&setup::Request {
        peers: args.oracle,
        ..setup::Request::default()
    })?;
    let result = show(&prepared, args.oracle);
    if let Err(error) = &result {
        keep_logs(error);
    }
    if !args.once {
        return result.and_then(|demo| stay(&demo));
    }
    let torn_down = tear_down();
    result?;
    torn_down?;
    println!("The demo worked.");
    Ok(())
}

fn tear_down() -> Result<()> {
    setup::heading("Tear-down");
    Lab::down()?;
    let leftovers = Lab::leftovers()?;
    if !leftovers.is_empty() {
        bail!("left on this machine: {}", leftovers.join(", "));
    }
    println!("   no process, namespace, mount, link, cgroup or file of the lab is left");
    Ok(())
}

fn show(prepared: &setup::Prepared, oracle: bool) -> Result<Demo> {
    setup::heading("Lab: etcd, API server, controller manager, scheduler, registry, one node");
    let started = Instant::now();
    let options = Options {
        nodes: usize::from(!oracle),
        oracle,
        join_command: true,
        ..Options::default()
    };
    // What an earlier command left up may have other nodes and older programs.
    Lab::down()?;
    let lab = Lab::up(prepared, &options)?;
    println!("   up in {:.1} s", started.elapsed().as_secs_f32());
    let node = if oracle {
        lab.oracle()?
    } else {
        lab.node("node-1")?
    };
    let demo = Demo { lab, node };
    demo.lab
        .kubectl()
        .delete(&format!("namespace/{}", objects::NAMESPACE), None)?;
    for (number, (claim, step)) in STEPS.iter().enumerate() {
        setup::heading(&format!("{}. {claim}", number + 1));
        let started = Instant::now();
        let proof = step(&demo).with_context(|| format!("step {}: {claim}", number + 1))?;
        for line in proof.lines() {
            println!("   {line}");
        }
        println!("   ({:.1} s)", started.elapsed().as_secs_f32());
    }
    Ok(demo)
}

/// Leaves the sample running and says what to try.
fn stay(demo: &Demo) -> Result<()> {
    let kubectl = demo.lab.kubectl();
    steps::deploy(demo)?;
    let program = kubectl
        .program()
        .parent()
        .context("kubectl lies in a directory")?;
    let namespace = objects::NAMESPACE;
    setup::heading("It stays up, with the sample deployed again. Try:");
    println!(
        "   export KUBECONFIG={} PATH={}:$PATH",
        kubectl.kubeconfig().display(),
        program.display()
    );
    println!("   kubectl get nodes,pods -A -o wide");
    println!("   kubectl -n {namespace} logs -f deployment/web");
    println!("   kubectl -n {namespace} scale deployment/web --replicas=5");
    println!("   kubectl -n {namespace} get events --sort-by=.lastTimestamp");
    println!(
        "   sudo ip netns exec {} curl -s http://POD-IP:8080/hostname",
        lab::NAME
    );
    println!("   cargo xtask lab up --nodes 2     # one more node");
    println!("   cargo xtask lab down             # removes all of it");
    Ok(())
}

/// Saves what explains a failure, since tear-down removes it.
fn keep_logs(error: &anyhow::Error) {
    let dir = lab::workspace().join("target/demo-failure");
    let kept =
        fs::create_dir_all(&dir).and_then(|()| fs::write(dir.join("error.txt"), format!("{error:#}\n")));
    if kept.is_ok() && lab::save_logs(&dir).is_ok() && setup::give_back(&dir).is_ok() {
        eprintln!("logs of the failed demo: {}", dir.display());
    }
}

/// How long a step of the cluster may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
