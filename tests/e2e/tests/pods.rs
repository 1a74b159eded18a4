//! What a pod's user sees: states, reasons, events, files and logs, in upstream's words.

use anyhow::{Context as _, ensure};
use longshore_e2e::{Namespace, shell_pod};
use serde_json::{Value, json};

fn waiting() -> &'static str {
    ".status.containerStatuses[0].state.waiting.reason"
}

fn image_pod(name: &str, image: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [{"name": "main", "image": image}]}})
}

#[test]
fn a_missing_image_is_retried_with_back_off() -> anyhow::Result<()> {
    let pods = Namespace::new("pods")?;
    pods.apply(&image_pod("missing-image", "busybox:no-such-tag"))?;
    pods.wait("pod/missing-image", waiting(), "ImagePullBackOff")?;
    pods.wait_event(
        "missing-image",
        "Failed",
        "Failed to pull image \"busybox:no-such-tag\"",
    )?;
    pods.wait_event("missing-image", "Failed", "Error: ErrImagePull")?;
    pods.wait_event(
        "missing-image",
        "BackOff",
        "Back-off pulling image \"busybox:no-such-tag\"",
    )
}

#[test]
fn an_image_name_that_cannot_be_one_is_invalid() -> anyhow::Result<()> {
    let pods = Namespace::new("pods")?;
    pods.apply(&image_pod("bad-reference", "UPPER/Case:tag"))?;
    pods.wait("pod/bad-reference", waiting(), "InvalidImageName")?;
    pods.wait_event(
        "bad-reference",
        "InspectFailed",
        "Failed to apply default image tag",
    )
}

#[test]
fn an_image_that_may_not_be_pulled_is_refused_by_name() -> anyhow::Result<()> {
    let pods = Namespace::new("pods")?;
    let mut pod = image_pod("never-pull", "busybox:not-here");
    pod["spec"]["containers"][0]["imagePullPolicy"] = json!("Never");
    pods.apply(&pod)?;
    pods.wait("pod/never-pull", waiting(), "ErrImageNeverPull")?;
    pods.wait_event(
        "never-pull",
        "ErrImageNeverPull",
        "is not present with pull policy of Never",
    )
}

/// What a command that cannot start leaves in the container's last state.
fn start_error(name: &str, pod: &Value, part: &str) -> anyhow::Result<()> {
    let pods = Namespace::new("pods")?;
    pods.apply(pod)?;
    pods.wait(
        &format!("pod/{name}"),
        ".status.containerStatuses[0].lastState.terminated.reason",
        "StartError",
    )?;
    let status = pods.get(&format!("pod/{name}"))?["status"]["containerStatuses"][0].clone();
    let ended = &status["lastState"]["terminated"];
    ensure!(
        ended["exitCode"] == 128,
        "exit code of a container that could not start: {ended}"
    );
    let message = ended["message"].as_str().unwrap_or_default();
    ensure!(message.contains(part), "message {message:?} should hold {part:?}");
    pods.wait_event(name, "Failed", part)
}

#[test]
fn a_command_that_is_not_there_is_a_start_error() -> anyhow::Result<()> {
    let pod = shell_pod(
        "no-command",
        "",
        json!({"containers": [{"command": ["no-such-program", "x", "y"]}]}),
    );
    start_error(
        "no-command",
        &pod,
        "exec: \"no-such-program\": executable file not found in $PATH",
    )
}

#[test]
fn a_file_that_is_not_executable_is_a_start_error() -> anyhow::Result<()> {
    let pod = shell_pod(
        "not-executable",
        "",
        json!({"containers": [{"command": ["/etc/passwd", "x", "y"]}]}),
    );
    start_error("not-executable", &pod, "permission denied")
}

#[test]
fn a_missing_config_map_holds_the_container_back() -> anyhow::Result<()> {
    let pods = Namespace::new("pods")?;
    let env = json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "absent", "key": "k"}}}]);
    pods.apply(&shell_pod(
        "no-config-map",
        "true",
        json!({"containers": [{"env": env}]}),
    ))?;
    pods.wait("pod/no-config-map", waiting(), "CreateContainerConfigError")?;
    pods.wait_event("no-config-map", "Failed", "Error: configmap \"absent\" not found")
}

#[test]
fn a_missing_secret_holds_the_container_back() -> anyhow::Result<()> {
    let pods = Namespace::new("pods")?;
    let env = json!([{"secretRef": {"name": "absent"}}]);
    pods.apply(&shell_pod(
        "no-secret",
        "true",
        json!({"containers": [{"envFrom": env}]}),
    ))?;
    pods.wait("pod/no-secret", waiting(), "CreateContainerConfigError")?;
    pods.wait_event("no-secret", "Failed", "Error: secret \"absent\" not found")
}

#[test]
fn a_missing_key_holds_the_container_back_until_it_comes() -> anyhow::Result<()> {
    let pods = Namespace::new("pods")?;
    let map = |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "keys"}, "data": data});
    pods.apply(&map(json!({"other": "1"})))?;
    let env = json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "keys", "key": "wanted"}}}]);
    pods.apply(&shell_pod(
        "no-key",
        "echo $A; sleep 1000",
        json!({"containers": [{"env": env}]}),
    ))?;
    pods.wait("pod/no-key", waiting(), "CreateContainerConfigError")?;
    pods.wait_event("no-key", "Failed", "couldn't find key wanted in ConfigMap")?;
    pods.apply(&map(json!({"wanted": "here"})))?;
    pods.wait("pod/no-key", ".status.phase", "Running")
}

#[test]
fn a_missing_volume_source_is_a_failed_mount() -> anyhow::Result<()> {
    let pods = Namespace::new("pods")?;
    let volumes = json!([{"name": "v", "secret": {"secretName": "absent"}}]);
    let mounts = json!([{"name": "v", "mountPath": "/v"}]);
    let more = json!({"volumes": volumes, "containers": [{"volumeMounts": mounts}]});
    pods.apply(&shell_pod("no-volume", "true", more))?;
    pods.wait("pod/no-volume", waiting(), "ContainerCreating")?;
    pods.wait_event("no-volume", "FailedMount", "secret \"absent\" not found")
}

#[test]
fn a_pod_that_does_not_fit_the_node_is_rejected() -> anyhow::Result<()> {
    let pods = Namespace::new("pods")?;
    let node = longshore_e2e::lab()?
        .nodes()?
        .first()
        .context("the lab has a node")?
        .name()
        .to_owned();
    let requests = json!({"requests": {"cpu": "1000"}});
    pods.apply(&shell_pod(
        "too-big",
        "true",
        json!({"nodeName": node, "containers": [{"resources": requests}]}),
    ))?;
    pods.wait("pod/too-big", ".status.reason", "OutOfcpu")?;
    pods.wait("pod/too-big", ".status.phase", "Failed")?;
    pods.wait_event(
        "too-big",
        "OutOfcpu",
        "Node didn't have enough resource: cpu, requested: 1000000",
    )
}

#[test]
fn a_pod_that_ends_well_succeeds_and_one_that_does_not_fails() -> anyhow::Result<()> {
    let pods = Namespace::new("pods")?;
    pods.apply(&shell_pod(
        "ends-well",
        "exit 0",
        json!({"restartPolicy": "Never"}),
    ))?;
    pods.apply(&shell_pod(
        "ends-badly",
        "exit 3",
        json!({"restartPolicy": "Never"}),
    ))?;
    pods.wait("pod/ends-well", ".status.phase", "Succeeded")?;
    pods.wait("pod/ends-badly", ".status.phase", "Failed")?;
    let ended = |name: &str| -> anyhow::Result<Value> {
        Ok(pods.get(name)?["status"]["containerStatuses"][0]["state"]["terminated"].clone())
    };
    let (well, badly) = (ended("pod/ends-well")?, ended("pod/ends-badly")?);
    ensure!(well["exitCode"] == 0 && well["reason"] == "Completed", "{well}");
    ensure!(badly["exitCode"] == 3 && badly["reason"] == "Error", "{badly}");
    Ok(())
}

#[test]
fn a_container_that_keeps_failing_is_held_back() -> anyhow::Result<()> {
    let pods = Namespace::new("pods")?;
    pods.apply(&shell_pod("crash-loop", "exit 1", json!({})))?;
    pods.wait("pod/crash-loop", waiting(), "CrashLoopBackOff")?;
    pods.wait_event(
        "crash-loop",
        "BackOff",
        "Back-off restarting failed container main in pod crash-loop",
    )
}

#[test]
fn files_environment_and_identity_are_as_asked() -> anyhow::Result<()> {
    let pods = Namespace::new("files")?;
    pods.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"colour": "blue"}}))?;
    pods.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hidden"}, "stringData": {"word": "sesame"}}))?;
    let script = r#"
set -e
echo "map=$(cat /map/colour) secret=$(cat /hidden/word) env=$COLOUR $WORD expanded=$BOTH"
echo "labels=$(cat /info/labels) ip=$MY_IP user=$(id -u):$(id -g) host=$(hostname)"
echo "dots of the token=$(tr -cd . < /var/run/secrets/kubernetes.io/serviceaccount/token | wc -c)"
touch /scratch/a /fast/b
touch /denied 2>/dev/null && echo "root is writable" || echo "root is read-only"
grep ' /hidden ' /proc/mounts | cut -d' ' -f3
grep ' /fast ' /proc/mounts | cut -d' ' -f3
sleep 1000
"#;
    let more = json!({
        "containers": [{
            "env": [
                {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "colour"}}},
                {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "hidden", "key": "word"}}},
                {"name": "BOTH", "value": "$(COLOUR)-$(WORD)-$(NOBODY)"},
                {"name": "MY_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            ],
            "securityContext": {"runAsUser": 1000, "runAsGroup": 2000, "readOnlyRootFilesystem": true},
            "volumeMounts": [
                {"name": "map", "mountPath": "/map"}, {"name": "hidden", "mountPath": "/hidden"},
                {"name": "info", "mountPath": "/info"}, {"name": "scratch", "mountPath": "/scratch"},
                {"name": "fast", "mountPath": "/fast"},
            ],
        }],
        "volumes": [
            {"name": "map", "configMap": {"name": "settings"}},
            {"name": "hidden", "secret": {"secretName": "hidden"}},
            {"name": "info", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            {"name": "scratch", "emptyDir": {}},
            {"name": "fast", "emptyDir": {"medium": "Memory"}},
        ],
    });
    let mut pod = shell_pod("sees", script, more);
    pod["metadata"]["labels"] = json!({"app": "sees"});
    pods.apply(&pod)?;
    pods.wait("pod/sees", ".status.phase", "Running")?;
    let ip = pods.get("pod/sees")?["status"]["podIP"]
        .as_str()
        .context("pod IP")?
        .to_owned();
    let wanted = format!(
        "map=blue secret=sesame env=blue sesame expanded=blue-sesame-$(NOBODY)\n\
         labels=app=\"sees\" ip={ip} user=1000:2000 host=sees\ndots of the token=2\nroot is read-only\ntmpfs\ntmpfs\n"
    );
    let seen = wait_for_log(&pods, "sees", "tmpfs\ntmpfs\n")?;
    ensure!(seen == wanted, "the pod saw\n{seen}\nwanted\n{wanted}");
    Ok(())
}

/// The log of the pod once it ends with `end`; `kubectl logs -f` gives it as it comes.
fn wait_for_log(pods: &Namespace, pod: &str, end: &str) -> anyhow::Result<String> {
    let mut last = String::new();
    for _ in 0..150 {
        last = pods.text(&["logs", pod])?;
        if last.ends_with(end) {
            return Ok(last);
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    anyhow::bail!("the log of {pod} does not end with {end:?} after 30 s: {last:?}")
}

#[test]
fn logs_by_tail_bytes_times_previous_and_follow() -> anyhow::Result<()> {
    let pods = Namespace::new("logs")?;
    let script = "for i in 1 2 3 4 5; do echo line $i; done; echo oops >&2; exit 4";
    pods.apply(&shell_pod("once", script, json!({"restartPolicy": "Never"})))?;
    pods.wait("pod/once", ".status.phase", "Failed")?;
    let whole = pods.text(&["logs", "once"])?;
    for line in ["line 1\n", "line 5\n", "oops\n"] {
        ensure!(whole.contains(line), "log {whole:?} should hold {line:?}");
    }
    ensure!(
        pods.text(&["logs", "once", "--tail=2"])?.lines().count() == 2,
        "--tail=2"
    );
    ensure!(
        pods.text(&["logs", "once", "--limit-bytes=5"])?.len() == 5,
        "--limit-bytes=5"
    );
    let stamped = pods.text(&["logs", "once", "--timestamps", "--tail=1"])?;
    ensure!(
        stamped.starts_with("20") && stamped.contains('T'),
        "--timestamps: {stamped:?}"
    );
    ensure!(
        pods.text(&["logs", "once", "--follow"])? == whole,
        "--follow of an ended container"
    );
    pods.apply(&shell_pod("twice", "echo life $(date +%s%N); exit 1", json!({})))?;
    pods.wait("pod/twice", ".status.containerStatuses[0].restartCount", "1")?;
    let previous = pods.text(&["logs", "twice", "--previous"])?;
    ensure!(previous.starts_with("life "), "--previous: {previous:?}");
    let absent = pods
        .text(&["logs", "once", "--previous"])
        .expect_err("there was no previous container");
    let text = format!("{absent:#}");
    ensure!(
        text.contains("previous terminated container \"main\" in pod \"once\" not found"),
        "{text}"
    );
    Ok(())
}

#[test]
fn a_deleted_pod_gets_its_grace_and_no_more() -> anyhow::Result<()> {
    let pods = Namespace::new("grace")?;
    pods.apply(&shell_pod(
        "stubborn",
        "trap '' TERM; while :; do sleep 1; done",
        json!({}),
    ))?;
    pods.apply(&shell_pod(
        "polite",
        "trap 'echo bye; exit 0' TERM; while :; do sleep 1 & wait; done",
        json!({}),
    ))?;
    for pod in ["pod/stubborn", "pod/polite"] {
        pods.wait(pod, ".status.phase", "Running")?;
    }
    pods.text(&["delete", "pod/stubborn", "pod/polite", "--timeout=60s"])?;
    pods.wait_event("polite", "Killing", "Stopping container main")
}
