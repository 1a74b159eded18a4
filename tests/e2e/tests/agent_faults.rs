//! What an agent's death and its user's mistakes must not break.

use anyhow::{Context as _, ensure};
use longshore_e2e::{Namespace, shell_pod};
use serde_json::json;

#[test]
fn a_container_that_ends_while_no_agent_runs_is_reported_with_its_exit_code() -> anyhow::Result<()> {
    let pods = Namespace::new("absent")?;
    let nodes = longshore_e2e::lab()?.nodes()?;
    let node = nodes.last().context("the lab has a node")?;
    let script = "until [ -e /shared/go ]; do sleep 0.1; done; exit 7";
    let dir = format!("/run/{}", pods.name());
    let more = json!({
        "nodeName": node.name(), "restartPolicy": "Never",
        "containers": [{"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}],
        "volumes": [{"name": "shared", "hostPath": {"path": dir, "type": "DirectoryOrCreate"}}],
    });
    pods.apply(&shell_pod("ends-alone", script, more))?;
    pods.wait("pod/ends-alone", ".status.phase", "Running")?;
    let container = pods.get("pod/ends-alone")?["status"]["containerStatuses"][0]["containerID"].clone();
    node.agent().stop()?;
    node.sh(&format!("touch {dir}/go"))?;
    node.agent().start()?;
    pods.wait("pod/ends-alone", ".status.phase", "Failed")?;
    let status = pods.get("pod/ends-alone")?["status"]["containerStatuses"][0].clone();
    ensure!(status["state"]["terminated"]["exitCode"] == 7, "{status}");
    ensure!(
        status["containerID"] == container && status["restartCount"] == 0,
        "{status}"
    );
    node.sh(&format!("rm -r {dir}")).map(drop)
}

#[test]
fn a_second_agent_is_refused_with_a_clear_error() -> anyhow::Result<()> {
    let nodes = longshore_e2e::lab()?.nodes()?;
    let node = nodes.last().context("the lab has a node")?;
    let before = node.agent().pid()?;
    let mut second = node.agent().argv()?;
    second[0] = "/run/lab/bin/longshore".to_owned();
    let output = node.exec(&second)?;
    ensure!(output.code != Some(0), "a second agent ended well: {output:?}");
    ensure!(
        output.stderr.contains("another agent"),
        "its error: {}",
        output.stderr
    );
    ensure!(node.agent().pid()? == before, "the first agent was disturbed");
    Ok(())
}
