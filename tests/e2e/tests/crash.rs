//! The crash matrix: for every fault point that a pod passes on its way in and out, kill -9 there; the pod must still
//! come up once and go without a trace. Needs a lab whose nodes run the `fault-points` build.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use lab::Node;
use longshore_e2e::{Namespace, shell_pod};
use serde_json::json;

/// Fewest points that a pod's life must pass: a funnel that lost its points would make the matrix pass empty.
const FEWEST_POINTS: usize = 40;

/// Inside the node: the control files of the fault points, and the file that each start of a container adds to.
const FAULTS: &str = "/run/lab-faults";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Create,
    Delete,
}

struct Matrix<'a> {
    node: &'a Node,
    pods: Namespace,
}

impl Matrix<'_> {
    fn file(&self, name: &str) -> PathBuf {
        self.node.path(&format!("{FAULTS}/{name}"))
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap_or_default()
    }

    /// A pod that writes down each start of its container and has volumes that need undoing.
    fn create(&self, name: &str) -> anyhow::Result<()> {
        let script = "echo start >> /faults/starts; trap 'exit 0' TERM; while :; do sleep 3600 & wait; done";
        let mounts = json!([
            {"name": "faults", "mountPath": "/faults"}, {"name": "scratch", "mountPath": "/scratch"},
            {"name": "fast", "mountPath": "/fast"}, {"name": "map", "mountPath": "/map"},
        ]);
        let volumes = json!([
            {"name": "faults", "hostPath": {"path": FAULTS}}, {"name": "scratch", "emptyDir": {}},
            {"name": "fast", "emptyDir": {"medium": "Memory"}},
            {"name": "map", "configMap": {"name": "kube-root-ca.crt"}},
        ]);
        let more = json!({
            "nodeName": self.node.name(), "containers": [{"volumeMounts": mounts}], "volumes": volumes,
        });
        self.pods.apply(&shell_pod(name, script, more))
    }

    fn wait_ready(&self, name: &str) -> anyhow::Result<()> {
        let pod = format!("pod/{name}");
        let waited = self
            .pods
            .text(&["wait", "--for=condition=Ready", &pod, "--timeout=60s"]);
        waited.map(drop).with_context(|| {
            let status = self
                .pods
                .get(&pod)
                .map(|pod| pod["status"].to_string())
                .unwrap_or_default();
            format!(
                "status: {status}\nagent's log:\n{}",
                self.node.agent().log_tail(30)
            )
        })
    }

    fn delete(&self, name: &str) -> anyhow::Result<()> {
        let deleted = self
            .pods
            .text(&["delete", &format!("pod/{name}"), "--timeout=60s"]);
        deleted
            .map(drop)
            .with_context(|| format!("agent's log:\n{}", self.node.agent().log_tail(30)))
    }

    /// The points of both phases of an undisturbed life, with how often each was passed.
    fn record(&self, name: &str) -> anyhow::Result<BTreeMap<(Phase, String), u32>> {
        let mut points = BTreeMap::new();
        for phase in [Phase::Create, Phase::Delete] {
            fs::write(self.file("trace"), "").context("start the trace")?;
            match phase {
                Phase::Create => self.create(name).and_then(|()| self.wait_ready(name))?,
                Phase::Delete => {
                    self.delete(name)?;
                    self.settle(None)?;
                }
            }
            for point in self.read("trace").lines() {
                *points.entry((phase, point.to_owned())).or_default() += 1;
            }
        }
        fs::remove_file(self.file("trace")).context("end the trace")?;
        Ok(points)
    }

    /// Waits until what is left on the node is as at `rest`; without it, until it no longer changes.
    fn settle(&self, rest: Option<&BTreeSet<String>>) -> anyhow::Result<BTreeSet<String>> {
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut before = BTreeSet::new();
        loop {
            let now = left_on(self.node)?;
            if rest.map_or(now == before, |rest| now == *rest) {
                return Ok(now);
            }
            if Instant::now() > deadline {
                let rest = rest.unwrap_or(&before);
                let more: Vec<_> = now.difference(rest).collect();
                let less: Vec<_> = rest.difference(&now).collect();
                bail!("the node is not as before after 30 s; more: {more:#?}; missing: {less:#?}");
            }
            before = now;
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// One life of a pod with a kill at the point.
    fn crash_at(
        &self,
        index: usize,
        phase: Phase,
        point: &str,
        rest: &BTreeSet<String>,
    ) -> anyhow::Result<()> {
        let name = format!("crash-{index}");
        fs::write(self.file("starts"), "").context("clear the starts")?;
        let arm = || fs::write(self.file("armed"), format!("{point} 1\n")).context("arm the point");
        if phase == Phase::Create {
            arm()?;
        }
        self.create(&name)?;
        self.wait_ready(&name)?;
        if phase == Phase::Delete {
            arm()?;
        }
        let restarts =
            self.pods.get(&format!("pod/{name}"))?["status"]["containerStatuses"][0]["restartCount"].clone();
        let starts = self.read("starts").lines().count();
        self.delete(&name)?;
        self.settle(Some(rest))?;
        ensure!(!self.file("armed").exists(), "nothing passed the point");
        // A keeper takes its pod with it, so a kill inside one may cost a second start.
        let allowed = if point.starts_with("runtime.") { 2 } else { 1 };
        ensure!(
            starts <= allowed,
            "the container was started {starts} times, restartCount {restarts}"
        );
        Ok(())
    }
}

/// Everything on a node that a pod could leave: files, mounts, links, cgroups, processes.
fn left_on(node: &Node) -> anyhow::Result<BTreeSet<String>> {
    let script = r#"
for dir in /run/longshore /var/lib/kubelet/pods /var/lib/longshore /var/log/pods /var/log/containers /run/netns; do
  find $dir -path '*/images/*' -prune -o -path '*/layers/*' -prune -o -print 2>/dev/null
done
awk '{print "mount " $5}' /proc/self/mountinfo
ip -o link | awk '{print "link " $2}'
find /sys/fs/cgroup -type d | sed 's/^/cgroup /'
for p in /proc/[0-9]*; do echo "process $(cat $p/comm 2>/dev/null)"; done | grep -vE ' (sh|awk|find|cat|ip|sed|grep|nsenter|)$'
"#;
    Ok(node.sh(script)?.lines().map(str::to_owned).collect())
}

/// Waits until no pod of an earlier test is bound to the node: what it leaves behind would look like ours.
fn wait_until_empty(node: &Node) -> anyhow::Result<()> {
    let kubectl = longshore_e2e::lab()?.kubectl();
    let selector = format!("--field-selector=spec.nodeName={}", node.name());
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        let pods = kubectl.list(&["pods", "--all-namespaces", &selector])?;
        if pods.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = pods
            .iter()
            .map(|pod| pod["metadata"]["name"].to_string())
            .collect();
        ensure!(
            Instant::now() < deadline,
            "pods of earlier tests are still on {}: {names:?}",
            node.name()
        );
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[test]
fn killed_at_every_point_a_pod_still_comes_once_and_goes_without_a_trace() -> anyhow::Result<()> {
    let lab = longshore_e2e::lab()?;
    let nodes = lab.nodes()?;
    let node = nodes.first().context("the lab has a node")?;
    let matrix = Matrix {
        node,
        pods: Namespace::new("crash")?,
    };
    fs::create_dir_all(matrix.file("")).context("make the directory of the fault points")?;
    wait_until_empty(node)?;
    node.agent().set_environment("LONGSHORE_FAULTS", Some(FAULTS))?;
    node.agent().kill()?;

    matrix.record("warm")?;
    let points = matrix.record("points")?;
    let rest = matrix.settle(None)?;
    ensure!(
        points.len() >= FEWEST_POINTS,
        "a pod's life passes {} points: {points:#?}",
        points.len()
    );
    let mut failures = Vec::new();
    for (index, ((phase, point), count)) in points.iter().enumerate() {
        match matrix.crash_at(index, *phase, point, &rest) {
            Ok(()) => println!("crash matrix: {phase:?} {point} (passed {count} times): ok"),
            Err(error) => {
                println!("crash matrix: {phase:?} {point}: FAILED: {error:#}");
                failures.push(format!("{phase:?} {point}: {error}"));
                // The next point starts from a clean node again; what could not be cleaned shows there.
                let _ = fs::remove_file(matrix.file("armed"));
                let _ = matrix.delete(&format!("crash-{index}"));
            }
        }
    }
    println!("crash matrix: {} points, {} failed", points.len(), failures.len());
    node.agent().set_environment("LONGSHORE_FAULTS", None)?;
    node.agent().kill()?;
    ensure!(
        failures.is_empty(),
        "{} of {} points failed:\n{}",
        failures.len(),
        points.len(),
        failures.join("\n")
    );
    Ok(())
}
