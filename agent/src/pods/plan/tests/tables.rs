//! Rules one by one, in upstream's words.

use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition, PodStatus};
use serde_json::json;

use super::super::phase::{Circumstances, phase};
use super::super::spec::containers;
use super::super::{Action, Stage};
use super::model::{Luck, World, at, pod};

fn running(name: &str) -> ContainerStatus {
    let status = json!({"name": name, "image": "", "imageID": "", "ready": true, "restartCount": 0, "started": true,
        "state": {"running": {}}});
    serde_json::from_value(status).unwrap()
}

fn exited(name: &str, code: i32) -> ContainerStatus {
    let mut status = running(name);
    status.state = serde_json::from_value(json!({"terminated": {"exitCode": code}})).unwrap();
    status
}

fn waiting(name: &str) -> ContainerStatus {
    let mut status = running(name);
    status.state = serde_json::from_value(json!({"waiting": {}})).unwrap();
    status
}

fn crashing(name: &str, code: i32) -> ContainerStatus {
    let mut status = waiting(name);
    status.last_state = serde_json::from_value(json!({"terminated": {"exitCode": code}})).unwrap();
    status
}

/// Name, restart policy, init containers, statuses, whether the pod is over, phase.
type PhaseRow = (
    &'static str,
    &'static str,
    &'static [&'static str],
    Vec<ContainerStatus>,
    bool,
    &'static str,
);

#[test]
fn phase_rules() {
    let none: &'static [&'static str] = &[];
    let rows: Vec<PhaseRow> = vec![
        ("nothing yet", "Always", none, vec![], false, "Pending"),
        (
            "waiting",
            "Always",
            none,
            vec![waiting("a"), running("b")],
            false,
            "Pending",
        ),
        ("unknown", "Always", none, vec![running("a")], false, "Pending"),
        (
            "running",
            "Always",
            none,
            vec![running("a"), running("b")],
            false,
            "Running",
        ),
        (
            "one done",
            "Never",
            none,
            vec![running("a"), exited("b", 1)],
            false,
            "Running",
        ),
        (
            "restarting",
            "Always",
            none,
            vec![exited("a", 0), exited("b", 1)],
            false,
            "Running",
        ),
        (
            "crash loop",
            "Always",
            none,
            vec![crashing("a", 1), crashing("b", 1)],
            false,
            "Running",
        ),
        (
            "over",
            "Always",
            none,
            vec![exited("a", 0), exited("b", 0)],
            true,
            "Succeeded",
        ),
        (
            "over, bad",
            "Always",
            none,
            vec![exited("a", 0), exited("b", 1)],
            true,
            "Failed",
        ),
        (
            "never, bad",
            "Never",
            none,
            vec![exited("a", 0), exited("b", 1)],
            false,
            "Failed",
        ),
        (
            "never, good",
            "Never",
            none,
            vec![exited("a", 0), exited("b", 0)],
            false,
            "Succeeded",
        ),
        (
            "on failure, good",
            "OnFailure",
            none,
            vec![exited("a", 0), exited("b", 0)],
            false,
            "Succeeded",
        ),
        (
            "on failure, bad",
            "OnFailure",
            none,
            vec![exited("a", 0), exited("b", 1)],
            false,
            "Running",
        ),
        (
            "init runs",
            "Always",
            &["i"],
            vec![running("i"), waiting("a"), waiting("b")],
            false,
            "Pending",
        ),
        (
            "init failed",
            "Never",
            &["i"],
            vec![exited("i", 1), waiting("a"), waiting("b")],
            false,
            "Failed",
        ),
        (
            "init retries",
            "Always",
            &["i"],
            vec![exited("i", 1), waiting("a"), waiting("b")],
            false,
            "Pending",
        ),
        (
            "init done",
            "Always",
            &["i"],
            vec![exited("i", 0), running("a"), running("b")],
            false,
            "Running",
        ),
        (
            "sidecar only",
            "Never",
            &["side"],
            vec![running("side"), exited("a", 0), exited("b", 0)],
            false,
            "Running",
        ),
        (
            "sidecar ended",
            "Never",
            &["side"],
            vec![exited("side", 1), exited("a", 0), exited("b", 0)],
            false,
            "Succeeded",
        ),
    ];
    for (name, policy, init, statuses, over, expected) in rows {
        let pod = pod(policy, &["a", "b"], init);
        let circumstances = Circumstances {
            over,
            initialized: false,
        };
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!(
            phase(spec, &containers(&pod), &statuses, circumstances),
            expected,
            "{name}"
        );
    }
}

fn condition<'a>(status: &'a PodStatus, type_: &str) -> &'a PodCondition {
    status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == type_)
        .expect("the condition is reported")
}

fn words(status: &PodStatus, type_: &str) -> (String, String, String) {
    let c = condition(status, type_);
    (
        c.status.clone(),
        c.reason.clone().unwrap_or_default(),
        c.message.clone().unwrap_or_default(),
    )
}

fn waiting_of(status: &PodStatus, name: &str) -> (String, String) {
    let all = status
        .container_statuses
        .iter()
        .chain(&status.init_container_statuses)
        .flatten();
    let state = all
        .into_iter()
        .find(|s| s.name == name)
        .unwrap()
        .state
        .clone()
        .unwrap();
    let waiting = state
        .waiting
        .unwrap_or_else(|| panic!("{name} does not wait: {state:?}", state = state.running));
    (
        waiting.reason.unwrap_or_default(),
        waiting.message.unwrap_or_default(),
    )
}

fn three(a: &str, b: &str, c: &str) -> (String, String, String) {
    (a.to_owned(), b.to_owned(), c.to_owned())
}

#[test]
fn first_status_of_a_new_pod() {
    let world = World::new(pod("Always", &["b", "a"], &[]));
    let plan = world.plan();
    let status = &plan.status;
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(waiting_of(status, "a").0, "ContainerCreating");
    assert_eq!(words(status, "PodReadyToStartContainers"), three("False", "", ""));
    assert_eq!(words(status, "Initialized"), three("True", "", ""));
    let unready = three(
        "False",
        "ContainersNotReady",
        "containers with unready status: [b a]",
    );
    assert_eq!(words(status, "Ready"), unready);
    assert_eq!(words(status, "ContainersReady"), unready);
    assert_eq!(words(status, "PodScheduled"), three("True", "", ""));
    assert_eq!(status.start_time.as_ref().unwrap().0, at(0));
    assert_eq!(status.observed_generation, Some(1));
    let names: Vec<_> = status
        .container_statuses
        .iter()
        .flatten()
        .map(|s| s.name.as_str())
        .collect();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn first_status_with_init_containers() {
    let status = World::new(pod("Always", &["a"], &["i", "j"])).plan().status;
    assert_eq!(waiting_of(&status, "a").0, "PodInitializing");
    assert_eq!(waiting_of(&status, "i").0, "PodInitializing");
    let incomplete = three(
        "False",
        "ContainersNotInitialized",
        "containers with incomplete status: [i j]",
    );
    assert_eq!(words(&status, "Initialized"), incomplete);
}

#[test]
fn volumes_sandbox_and_image_at_once_then_launch() {
    let mut world = World::new(pod("Always", &["a"], &[]));
    let first = world.step();
    assert!(matches!(
        first.actions.as_slice(),
        [
            Action::MountVolumes,
            Action::RunSandbox { attempt: 0 },
            Action::EnsureImage { .. }
        ]
    ));
    let second = world.step();
    assert!(matches!(
        second.actions.as_slice(),
        [Action::Launch { attempt: 0, .. }]
    ));
    let third = world.step();
    assert_eq!(third.actions, vec![]);
    assert_eq!(third.status.phase.as_deref(), Some("Running"));
    assert_eq!(words(&third.status, "Ready"), three("True", "", ""));
    assert_eq!(third.status.pod_ip.as_deref(), Some("10.0.0.2"));
    assert_eq!(third.status.host_ip.as_deref(), Some("192.0.2.1"));
    let container = &third.status.container_statuses.unwrap()[0];
    assert_eq!(container.container_id.as_deref(), Some("longshore://id2"));
    assert_eq!(
        (container.ready, container.started, container.restart_count),
        (true, Some(true), 0)
    );
}

#[test]
fn crash_loop_backs_off_and_says_so() {
    let mut world = World::new(pod("Always", &["a"], &[]));
    world.settle();
    world.exit("a", 1);
    let plan = world.settle();
    assert_eq!(world.launched.len(), 2, "the first restart is at once");
    assert_eq!(
        plan.status.container_statuses.as_ref().unwrap()[0].restart_count,
        1
    );
    for (delay, text) in [
        (10, "10s"),
        (20, "20s"),
        (40, "40s"),
        (80, "1m20s"),
        (160, "2m40s"),
        (300, "5m0s"),
    ] {
        world.exit("a", 1);
        let plan = world.settle();
        let message = format!("back-off {text} restarting failed container=a pod=p_n(u)");
        assert_eq!(
            waiting_of(&plan.status, "a"),
            ("CrashLoopBackOff".to_owned(), message)
        );
        assert_eq!(
            plan.notices[0].message,
            "Back-off restarting failed container a in pod p_n(u)"
        );
        assert_eq!(
            plan.wake,
            Some(world.now + jiff::SignedDuration::from_secs(delay))
        );
        assert_eq!(plan.status.phase.as_deref(), Some("Running"));
        let last = plan.status.container_statuses.unwrap()[0]
            .last_state
            .clone()
            .unwrap();
        assert_eq!(last.terminated.unwrap().reason.as_deref(), Some("Error"));
        world.now = plan.wake.unwrap();
        world.settle();
    }
    world.now += jiff::SignedDuration::from_secs(601);
    world.exit("a", 1);
    let plan = world.settle();
    assert_eq!(plan.wake, None, "ten quiet minutes forget the loop");
}

#[test]
fn a_restart_under_way_is_no_back_off() {
    let mut world = World::new(pod("Always", &["a"], &[]));
    world.settle();
    world.exit("a", 1);
    world.step();
    let launch = world.plan().actions;
    assert!(matches!(launch.as_slice(), [Action::Launch { .. }]));
    // The worker counts the restart when it begins it.
    let key = containers(&world.pod)[0].backoff_key();
    world.memory.restarted("a", key, world.now, world.now);
    world.seen.under_way = launch;
    let plan = world.plan();
    assert_eq!((plan.actions.len(), plan.notices.len()), (0, 0));
    let state = plan.status.container_statuses.unwrap()[0].state.clone().unwrap();
    assert!(
        state.terminated.is_some(),
        "it is shown as it is, not as waiting for a back-off"
    );
}

#[test]
fn failed_pull_becomes_back_off_and_is_tried_again() {
    let mut world = World::new(pod("Always", &["a"], &[]));
    let actions = world.plan().actions;
    for action in &actions {
        let fails = matches!(action, Action::EnsureImage { .. });
        world.apply(action, if fails { Luck::Fails } else { Luck::Good });
    }
    let plan = world.plan();
    assert_eq!(
        waiting_of(&plan.status, "a"),
        ("ErrImagePull".to_owned(), "no luck".to_owned())
    );
    world.now = plan.wake.unwrap();
    let plan = world.plan();
    let message = "Back-off pulling image \"img/a:1\": ErrImagePull: no luck".to_owned();
    assert_eq!(
        waiting_of(&plan.status, "a"),
        ("ImagePullBackOff".to_owned(), message)
    );
    assert_eq!(plan.notices[0].message, "Back-off pulling image \"img/a:1\"");
    assert!(plan.actions.is_empty());
    assert_eq!(plan.wake, Some(at(10)));
    world.now = at(10);
    assert!(matches!(
        world.plan().actions.as_slice(),
        [Action::EnsureImage { .. }]
    ));
}

#[test]
fn failures_to_create_show_their_reason_and_are_retried() {
    let mut world = World::new(pod("Always", &["a"], &[]));
    world.step();
    let launch = world.plan().actions;
    world.apply(&launch[0], Luck::Fails);
    let plan = world.plan();
    assert_eq!(
        waiting_of(&plan.status, "a"),
        ("CreateContainerConfigError".to_owned(), "no luck".to_owned())
    );
    assert!(plan.actions.is_empty());
    world.now = plan.wake.unwrap();
    assert!(matches!(
        world.plan().actions.as_slice(),
        [Action::Launch { attempt: 0, .. }]
    ));
}

#[test]
fn init_containers_run_one_after_another() {
    let mut world = World::new(pod("Always", &["a"], &["i", "side", "j"]));
    world.settle();
    assert_eq!(world.launched, [("i".to_owned(), 0)]);
    world.exit("i", 0);
    world.settle();
    assert_eq!(
        world.launched.len(),
        3,
        "the started sidecar lets the next one begin"
    );
    world.exit("j", 0);
    let plan = world.settle();
    assert_eq!(world.launched.last().unwrap().0, "a");
    assert_eq!(plan.status.phase.as_deref(), Some("Running"));
    assert_eq!(words(&plan.status, "Initialized"), three("True", "", ""));
}

#[test]
fn deletion_stops_regular_containers_before_sidecars() {
    let mut world = World::new(pod("Always", &["a", "b"], &["side1", "side2"]));
    world.settle();
    world.end(30);
    let stops = |world: &mut World| -> Vec<String> {
        let plan = world.step();
        plan.actions
            .iter()
            .filter_map(|a| match a {
                Action::Stop {
                    container,
                    deadline,
                    message,
                    ..
                } => {
                    assert_eq!(*deadline, at(30));
                    assert_eq!(message, &format!("Stopping container {container}"));
                    Some(container.clone())
                }
                _ => None,
            })
            .collect()
    };
    let mut first = stops(&mut world);
    first.sort();
    assert_eq!(first, ["a", "b"]);
    assert_eq!(stops(&mut world), ["side2"]);
    assert_eq!(stops(&mut world), ["side1"]);
    let plan = world.settle();
    assert_eq!(plan.stage, Stage::Stopped);
    assert_eq!(plan.status.phase.as_deref(), Some("Failed"), "143 is no success");
    assert_eq!(words(&plan.status, "Ready"), three("False", "PodFailed", ""));
}

#[test]
fn a_nearer_deadline_reaches_a_stop_under_way() {
    let mut world = World::new(pod("Always", &["a"], &[]));
    world.settle();
    world.end(30);
    world.seen.under_way = world.plan().actions;
    assert!(world.plan().actions.is_empty());
    world.end(5);
    assert!(matches!(world.plan().actions.as_slice(), [Action::Stop { .. }]));
    world.seen.under_way.extend(world.plan().actions);
    world.end(20);
    assert!(world.plan().actions.is_empty(), "grace only shrinks");
}

#[test]
fn a_pod_deleted_before_it_ran_fails() {
    let mut world = World::new(pod("Always", &["a"], &[]));
    world.previous = world.plan().status;
    world.end(30);
    let plan = world.settle();
    assert_eq!(
        (plan.stage, plan.status.phase.as_deref()),
        (Stage::Stopped, Some("Failed"))
    );
}

#[test]
fn a_finished_pod_keeps_its_phase_and_stops_its_sandbox() {
    let mut world = World::new(pod("Never", &["a"], &[]));
    world.settle();
    world.exit("a", 0);
    let plan = world.settle();
    assert_eq!(
        (plan.stage, plan.status.phase.as_deref()),
        (Stage::Stopped, Some("Succeeded"))
    );
    assert_eq!(words(&plan.status, "Ready"), three("False", "PodCompleted", ""));
    assert_eq!(
        words(&plan.status, "Initialized"),
        three("True", "PodCompleted", "")
    );
    assert_eq!(
        plan.status.pod_ip.as_deref(),
        Some("10.0.0.2"),
        "a finished pod keeps its last address"
    );
    assert_eq!(world.seen.containers.len(), 1, "its log can still be read");
}

#[test]
fn a_rejected_pod_fails_with_the_reason() {
    let mut world = World::new(pod("Always", &["a"], &[]));
    world.reject("OutOfcpu", "Pod was rejected: too much");
    let plan = world.settle();
    assert_eq!(plan.status.phase.as_deref(), Some("Failed"));
    assert_eq!(plan.status.reason.as_deref(), Some("OutOfcpu"));
    assert_eq!(plan.status.message.as_deref(), Some("Pod was rejected: too much"));
    assert_eq!(
        plan.status.container_statuses, None,
        "its reason is what a user shall see"
    );
    assert!(world.launched.is_empty());
}

#[test]
fn a_lost_sandbox_is_replaced_and_counts_as_restart() {
    let mut world = World::new(pod("Always", &["a"], &["i"]));
    world.settle();
    world.exit("i", 0);
    world.settle();
    world.exit("a", 137);
    world.seen.sandboxes[0].ready = false;
    let plan = world.step();
    assert!(
        plan.actions
            .iter()
            .any(|a| matches!(a, Action::StopSandbox { .. }))
    );
    world.settle();
    assert_eq!(world.seen.sandboxes[0].attempt, 1);
    world.exit("i", 0);
    let plan = world.settle();
    assert_eq!(
        world.launched,
        [("i", 0), ("a", 0), ("i", 1), ("a", 1)].map(|(n, a)| (n.to_owned(), a))
    );
    assert_eq!(plan.status.container_statuses.unwrap()[0].restart_count, 1);
}

#[test]
fn a_container_that_vanished_while_running_ended_unknown() {
    let mut world = World::new(pod("Never", &["a"], &[]));
    world.settle();
    world.seen.containers.clear();
    let plan = world.settle();
    assert_eq!(plan.status.phase.as_deref(), Some("Failed"));
    let status = &plan.status.container_statuses.unwrap()[0];
    let last = status.last_state.clone().unwrap().terminated.unwrap();
    assert_eq!(
        (last.reason.as_deref(), last.exit_code),
        (Some("ContainerStatusUnknown"), 137)
    );
    assert_eq!(world.launched.len(), 1, "a pod that runs once does not run twice");
}

#[test]
fn a_created_container_is_started_not_made_again() {
    let mut world = World::new(pod("Always", &["a"], &[]));
    world.settle();
    world.seen.containers[0].state = super::super::observed::State::Created;
    assert!(matches!(world.plan().actions.as_slice(), [Action::Start { .. }]));
}

#[test]
fn a_changed_image_restarts_the_container_even_if_policy_says_never() {
    let mut world = World::new(pod("Never", &["a"], &[]));
    world.settle();
    world.pod.spec.as_mut().unwrap().containers[0].image = Some("img/a:2".to_owned());
    let plan = world.plan();
    let [Action::Stop { message, .. }] = plan.actions.as_slice() else {
        panic!("{:?}", plan.actions)
    };
    assert_eq!(message, "Container a definition changed, will be restarted");
}

#[test]
fn readiness_gates_hold_back_ready() {
    let mut world = World::new(pod("Always", &["a"], &[]));
    world.pod.spec.as_mut().unwrap().readiness_gates =
        serde_json::from_value(json!([{"conditionType": "x/y"}])).unwrap();
    let status = world.settle().status;
    assert_eq!(words(&status, "ContainersReady").0, "True");
    let text = "corresponding condition of pod readiness gate \"x/y\" does not exist.";
    assert_eq!(
        words(&status, "Ready"),
        three("False", "ReadinessGatesNotReady", text)
    );
}

#[test]
fn transition_times_move_with_the_status_only() {
    let mut world = World::new(pod("Always", &["a"], &[]));
    world.settle();
    world.now = at(50);
    let status = world.plan().status;
    assert_eq!(
        condition(&status, "Ready")
            .last_transition_time
            .as_ref()
            .unwrap()
            .0,
        at(0)
    );
    world.exit("a", 1);
    world.now = at(60);
    let status = world.plan().status;
    assert_eq!(
        condition(&status, "Ready")
            .last_transition_time
            .as_ref()
            .unwrap()
            .0,
        at(60)
    );
}
