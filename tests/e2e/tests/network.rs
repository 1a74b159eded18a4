//! The pod network: every pod reaches every other by its own address, on its node and across nodes, in both families.

use anyhow::{Context as _, ensure};
use longshore_e2e::{Namespace, shell_pod};
use serde_json::{Value, json};

/// A pod that answers HTTP on 8080 with its own host name.
fn server(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 1, "containers": [{
            "name": "main", "image": "registry.k8s.io/e2e-test-images/agnhost:2.63.0", "args": ["netexec", "--http-port=8080"],
        }]},
    })
}

fn addresses(pod: &Value) -> Vec<String> {
    let ips = pod["status"]["podIPs"].as_array().cloned().unwrap_or_default();
    ips.iter()
        .filter_map(|ip| ip["ip"].as_str().map(str::to_owned))
        .collect()
}

#[test]
fn pods_reach_each_other_across_nodes_in_both_families() -> anyhow::Result<()> {
    let pods = Namespace::new("network")?;
    let nodes = longshore_e2e::lab()?.nodes()?;
    ensure!(
        nodes.len() >= 2,
        "the lab has {} nodes, this test needs two",
        nodes.len()
    );
    for (i, node) in nodes.iter().take(2).enumerate() {
        pods.apply(&server(&format!("server-{i}"), node.name()))?;
    }
    let mut urls = Vec::new();
    for i in 0..2 {
        let pod = format!("pod/server-{i}");
        pods.wait(&pod, ".status.phase", "Running")?;
        let ips = addresses(&pods.get(&pod)?);
        ensure!(
            ips.len() == 2,
            "pod {i} has addresses {ips:?}, wanted one of each family"
        );
        for ip in ips {
            let host = if ip.contains(':') { format!("[{ip}]") } else { ip };
            urls.push((format!("server-{i}"), format!("http://{host}:8080")));
        }
    }
    for (i, node) in nodes.iter().take(2).enumerate() {
        let name = format!("client-{i}");
        // A server may need a moment after its process runs: each URL is tried for a while. kubectl is the HTTP
        // client at hand: Debian's static busybox cannot look up a host.
        let script: String = urls
            .iter()
            .map(|(_, server)| {
                let get = format!("kubectl --server={server} get --raw /hostname");
                format!("n=0; until {get}; do n=$((n+1)); [ $n -lt 30 ] || exit 1; sleep 0.2; done; echo;")
            })
            .collect();
        let more = json!({
            "nodeName": node.name(), "restartPolicy": "Never", "containers": [{"image": "kubectl:v1.36.3"}],
        });
        pods.apply(&shell_pod(&name, &script, more))?;
    }
    let wanted: Vec<_> = urls.iter().map(|(name, _)| name.as_str()).collect();
    for i in 0..2 {
        let name = format!("client-{i}");
        pods.wait(&format!("pod/{name}"), ".status.phase", "Succeeded")?;
        let log = pods.text(&["logs", &name])?;
        let answers: Vec<_> = log.lines().filter(|line| line.starts_with("server-")).collect();
        ensure!(answers == wanted, "{name} got {answers:?}, wanted {wanted:?}");
    }
    Ok(())
}

#[test]
fn a_freed_address_is_not_at_once_given_to_the_next_pod() -> anyhow::Result<()> {
    let pods = Namespace::new("addresses")?;
    let node = longshore_e2e::lab()?
        .nodes()?
        .first()
        .context("the lab has a node")?
        .name()
        .to_owned();
    let mut seen = Vec::new();
    for i in 0..3 {
        let name = format!("one-after-other-{i}");
        pods.apply(&shell_pod(
            &name,
            "trap 'exit 0' TERM; sleep 1000 & wait",
            json!({"nodeName": node}),
        ))?;
        pods.wait(&format!("pod/{name}"), ".status.phase", "Running")?;
        seen.extend(addresses(&pods.get(&format!("pod/{name}"))?));
        pods.text(&["delete", "pod", &name])?;
    }
    let different: std::collections::BTreeSet<_> = seen.iter().collect();
    ensure!(
        different.len() == seen.len(),
        "addresses were given twice: {seen:?}"
    );
    Ok(())
}
