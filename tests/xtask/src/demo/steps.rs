//! The steps of the demo: each proves one claim against the real control plane and returns what it saw.

use super::objects::{self, NAMESPACE};
use super::{Demo, PATIENCE};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use std::time::{Duration, Instant};

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn node_is_ready(demo: &Demo) -> Result<String> {
    demo.node.wait_ready(PATIENCE)?;
    let node = demo
        .lab
        .kubectl()
        .get(&format!("node/{}", demo.node.name()), None)?
        .context("the Node object is gone")?;
    let info = |field: &str| text(&node, &format!("/status/nodeInfo/{field}")).to_owned();
    let ranges = demo.node.pod_ranges()?.join(" and ");
    Ok(format!(
        "{}: {}, {}, pods from {ranges}",
        demo.node.name(),
        info("kubeletVersion"),
        info("containerRuntimeVersion")
    ))
}

/// Applies the sample and waits until it runs.
pub(super) fn deploy(demo: &Demo) -> Result<()> {
    let kubectl = demo.lab.kubectl();
    kubectl.apply(&objects::sample())?;
    let timeout = format!("--timeout={}s", PATIENCE.as_secs());
    let rollout = kubectl.run(&["rollout", "status", "deployment/web", "-n", NAMESPACE, &timeout]);
    rollout.map(drop).map_err(|error| error.context(events(demo)))
}

/// The namespace's events, for error messages.
fn events(demo: &Demo) -> String {
    let list = ["get", "events", "-n", NAMESPACE, "--sort-by=.lastTimestamp"];
    let events = demo.lab.kubectl().run(&list).unwrap_or_default();
    format!(
        "events:\n{events}end of the agent's log:\n{}\n",
        demo.node.agent().log_tail(20)
    )
}

pub(super) fn deployment_runs(demo: &Demo) -> Result<String> {
    deploy(demo)?;
    let pods = web_pods(demo)?;
    ensure!(pods.len() == 2, "{} pods instead of 2", pods.len());
    let mut lines = Vec::new();
    for pod in &pods {
        ensure!(
            text(pod, "/status/phase") == "Running",
            "pod {} is {}",
            name(pod),
            text(pod, "/status/phase")
        );
        ensure!(
            text(pod, "/spec/schedulerName") == "default-scheduler",
            "another scheduler placed {}",
            name(pod)
        );
        lines.push(format!(
            "{} on {}: {}",
            name(pod),
            text(pod, "/spec/nodeName"),
            addresses(pod).join(", ")
        ));
    }
    Ok(lines.join("\n"))
}

fn web_pods(demo: &Demo) -> Result<Vec<Value>> {
    demo.lab
        .kubectl()
        .list(&["pods", "-n", NAMESPACE, "-l", "app=web"])
}

fn name(pod: &Value) -> &str {
    text(pod, "/metadata/name")
}

fn addresses(pod: &Value) -> Vec<&str> {
    pod["status"]["podIPs"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|address| text(address, "/ip"))
        .collect()
}

pub(super) fn pods_answer(demo: &Demo) -> Result<String> {
    let mut lines = Vec::new();
    for pod in web_pods(demo)? {
        let addresses = addresses(&pod);
        ensure!(
            addresses.len() == 2,
            "pod {} has addresses {addresses:?}, not one of each family",
            name(&pod)
        );
        for address in addresses {
            let host = if address.contains(':') {
                format!("[{address}]")
            } else {
                address.to_owned()
            };
            let url = format!("http://{host}:8080/hostname");
            let answer = demo.lab.http_get(&url)?;
            ensure!(answer == name(&pod), "{url} answered {answer:?}");
            lines.push(format!("{url} -> {answer}"));
        }
    }
    Ok(lines.join("\n"))
}

pub(super) fn token_lists_pods(demo: &Demo) -> Result<String> {
    let kubectl = demo.lab.kubectl();
    let server = demo.lab.addresses().api_server();
    let (host, port) = server
        .rsplit_once(':')
        .context("the API server's address has a port")?;
    kubectl.apply(&objects::lister("refused", host, port))?;
    let refusal = finished(demo, "refused", "Failed")?;
    let user = format!("system:serviceaccount:{NAMESPACE}:lister");
    ensure!(
        refusal.contains("is forbidden") && refusal.contains(&user),
        "the refused pod wrote: {refusal}"
    );
    kubectl.apply(&objects::permission())?;
    kubectl.apply(&objects::lister("allowed", host, port))?;
    let list = finished(demo, "allowed", "Succeeded")?;
    ensure!(
        list.lines().filter(|line| line.starts_with("pod/web-")).count() == 2,
        "the allowed pod wrote: {list}"
    );
    let listed = list.lines().collect::<Vec<_>>().join(", ");
    Ok(format!(
        "without a RoleBinding: {}\nwith one: {listed}",
        refusal.lines().next().unwrap_or_default()
    ))
}

/// Waits for the end of a pod that runs once; returns its log.
fn finished(demo: &Demo, pod: &str, phase: &str) -> Result<String> {
    let kubectl = demo.lab.kubectl();
    let ended = |found: Option<&Value>| {
        found.is_some_and(|found| matches!(text(found, "/status/phase"), "Succeeded" | "Failed"))
    };
    let found = kubectl
        .wait_until(&format!("pod/{pod}"), Some(NAMESPACE), PATIENCE, ended)
        .map_err(|error| error.context(events(demo)))?;
    let seen = found
        .as_ref()
        .map(|found| text(found, "/status/phase"))
        .unwrap_or_default();
    let log = kubectl.run(&["logs", pod, "-n", NAMESPACE])?;
    ensure!(
        seen == phase,
        "pod {pod} ended as {seen} instead of {phase} and wrote: {log}"
    );
    Ok(log)
}

pub(super) fn logs_are_shown(demo: &Demo) -> Result<String> {
    let log = demo
        .lab
        .kubectl()
        .run(&["logs", "deployment/web", "-n", NAMESPACE, "--tail=-1"])?;
    let line = log.lines().find(|line| line.contains("Started HTTP server"));
    line.map(str::to_owned)
        .with_context(|| format!("the log says: {log}"))
}

/// As [`logs_are_shown`], for an agent that has just started: it answers before it has heard of its pods.
fn logs_are_shown_again(demo: &Demo) -> Result<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match logs_are_shown(demo) {
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(200)),
            result => return result,
        }
    }
}

/// Container id without its scheme, and restart count, of a pod's only container.
fn container(pod: &Value) -> Result<(String, u64)> {
    let id = text(pod, "/status/containerStatuses/0/containerID");
    let id = id
        .split_once("://")
        .with_context(|| format!("pod {} has no container id", name(pod)))?
        .1;
    let restarts = pod
        .pointer("/status/containerStatuses/0/restartCount")
        .and_then(Value::as_u64);
    Ok((id.to_owned(), restarts.unwrap_or_default()))
}

pub(super) fn killed_container_restarts(demo: &Demo) -> Result<String> {
    let pod = web_pods(demo)?
        .into_iter()
        .next()
        .context("no pod of the sample runs")?;
    let (id, before) = container(&pod)?;
    demo.node.kill_container(&id)?;
    let started = Instant::now();
    let restarted = |found: Option<&Value>| {
        let Some(found) = found else { return false };
        let is_ready = found.pointer("/status/containerStatuses/0/ready") == Some(&Value::Bool(true));
        is_ready && container(found).is_ok_and(|(new, count)| new != id && count == before + 1)
    };
    let object = format!("pod/{}", name(&pod));
    let kubectl = demo.lab.kubectl();
    let after = kubectl
        .wait_until(&object, Some(NAMESPACE), PATIENCE, restarted)
        .map_err(|error| error.context(events(demo)))?
        .context("the pod is gone")?;
    ensure!(
        text(&after, "/metadata/uid") == text(&pod, "/metadata/uid"),
        "it is another pod"
    );
    let reason = text(&after, "/status/containerStatuses/0/lastState/terminated/reason");
    let code = after
        .pointer("/status/containerStatuses/0/lastState/terminated/exitCode")
        .cloned()
        .unwrap_or_default();
    Ok(format!(
        "{}: restartCount {}, last state {reason} with exit code {code}, running again after {:.1} s",
        name(&pod),
        before + 1,
        started.elapsed().as_secs_f32()
    ))
}

/// What must not change when the agent dies: pod, container id, restart count, and the very processes.
type Identity = (String, String, u64, Vec<(u32, u64)>);

fn identities(demo: &Demo) -> Result<Vec<Identity>> {
    let mut identities = Vec::new();
    for pod in web_pods(demo)? {
        let (id, restarts) = container(&pod)?;
        let processes = demo.node.container_processes(&id)?;
        ensure!(!processes.is_empty(), "no process of container {id} was found");
        identities.push((name(&pod).to_owned(), id, restarts, processes));
    }
    identities.sort();
    Ok(identities)
}

pub(super) fn agent_is_killed(demo: &Demo) -> Result<String> {
    let before = identities(demo)?;
    let lease = format!("lease/{}", demo.node.name());
    let kubectl = demo.lab.kubectl();
    let renewed_at = |lease: Option<&Value>| {
        lease
            .map(|lease| text(lease, "/spec/renewTime").to_owned())
            .unwrap_or_default()
    };
    demo.node.agent().kill()?;
    let old = renewed_at(kubectl.get(&lease, Some("kube-node-lease"))?.as_ref());
    kubectl.wait_until(&lease, Some("kube-node-lease"), PATIENCE, |found| {
        renewed_at(found) > old
    })?;
    demo.node.wait_ready(PATIENCE)?;
    pods_answer(demo)?;
    logs_are_shown_again(demo)?;
    let after = identities(demo)?;
    if before != after {
        bail!("pods changed over the agent's death:\nbefore: {before:?}\nafter: {after:?}");
    }
    let starts = demo.node.agent().status()?.starts;
    Ok(format!(
        "agent start number {starts}; same processes, same container ids, no restart; pods answer, logs work"
    ))
}

pub(super) fn everything_goes(demo: &Demo) -> Result<String> {
    let kubectl = demo.lab.kubectl();
    kubectl.delete(&format!("namespace/{NAMESPACE}"), None)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let leftovers = demo.node.pod_leftovers()?;
        if leftovers.is_empty() {
            return Ok(
                "no process, cgroup, mount, link, namespace, directory or log of a pod is left on the node"
                    .to_owned(),
            );
        }
        if Instant::now() > deadline {
            bail!("left on the node: {}", leftovers.join(", "));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
