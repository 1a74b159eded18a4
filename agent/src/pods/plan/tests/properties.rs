//! What holds for every pod in every state.

use jiff::SignedDuration;
use proptest::prelude::*;

use super::super::observed::{Container, Sandbox, State, Volumes};
use super::super::spec::containers;
use super::super::{Stage, is_terminal};
use super::model::{Luck, World, at, pod};

/// A pod of up to three regular containers and three init containers or sidecars.
fn any_world() -> impl Strategy<Value = World> {
    let policy = prop::sample::select(vec!["Always", "OnFailure", "Never"]);
    let regular = 1..=3_usize;
    let init = prop::collection::vec(any::<bool>(), 0..=3);
    (
        policy,
        regular,
        init,
        any_sandboxes(),
        prop::collection::vec(any_state(), 0..10),
    )
        .prop_map(|(policy, regular, init, sandboxes, states)| {
            let regular: Vec<String> = (0..regular).map(|i| format!("c{i}")).collect();
            let init: Vec<String> = init
                .iter()
                .enumerate()
                .map(|(i, side)| {
                    if *side {
                        format!("side{i}")
                    } else {
                        format!("init{i}")
                    }
                })
                .collect();
            let mut world = World::new(pod(policy, &names(&regular), &names(&init)));
            populate(&mut world, sandboxes, &states);
            world
        })
}

fn names(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

fn any_sandboxes() -> impl Strategy<Value = Vec<(bool, bool)>> {
    prop::collection::vec((any::<bool>(), any::<bool>()), 0..3)
}

fn any_state() -> impl Strategy<Value = State> {
    let exited = (0..3_i32, 0..100_i64).prop_map(|(code, ago)| State::Exited {
        code,
        reason: "Error".to_owned(),
        message: String::new(),
        finished_at: Some(at(-ago)),
    });
    prop_oneof![
        Just(State::Created),
        Just(State::Running),
        Just(State::Unknown),
        exited
    ]
}

/// Fills the world with sandboxes (ready, addressed) and containers, newest first.
fn populate(world: &mut World, sandboxes: Vec<(bool, bool)>, states: &[State]) {
    let count = u32::try_from(sandboxes.len()).unwrap();
    for (i, (ready, addressed)) in sandboxes.into_iter().enumerate() {
        let i = u32::try_from(i).unwrap();
        world.seen.sandboxes.push(Sandbox {
            id: format!("s{i}"),
            attempt: count - 1 - i,
            ready,
            stopped: false,
            host_network: false,
            ips: if addressed {
                vec!["10.0.0.9".parse().unwrap()]
            } else {
                Vec::new()
            },
        });
    }
    let specs: Vec<_> = containers(&world.pod)
        .iter()
        .map(|s| (s.name.to_owned(), s.hash(), s.image.to_owned()))
        .collect();
    let mut left: std::collections::BTreeMap<String, u32> = std::collections::BTreeMap::new();
    for (i, state) in states.iter().enumerate() {
        let (name, hash, image) = &specs[i % specs.len()];
        // A runtime never has two living containers of one name; those behind the newest have exited.
        let older = left.contains_key(name);
        let state = match state {
            State::Exited { .. } => state.clone(),
            _ if older => continue,
            other => other.clone(),
        };
        let attempt = 9 - *left.entry(name.clone()).and_modify(|n| *n += 1).or_insert(0);
        world.seen.containers.push(Container {
            id: format!("c{i}"),
            name: name.clone(),
            sandbox: format!("s{}", i % usize::try_from(count.max(1)).unwrap()),
            attempt,
            state,
            hash: hash.clone(),
            image: image.clone(),
            image_ref: String::new(),
            started_at: Some(at(-200)),
            user: None,
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// What is under way is not planned again.
    #[test]
    fn planning_is_idempotent(mut world in any_world(), ending in any::<bool>()) {
        if ending {
            world.end(30);
        }
        let plan = world.plan();
        world.seen.under_way = plan.actions;
        let again = world.plan();
        prop_assert_eq!(again.actions, vec![]);
    }

    /// From any state, a pod that should run comes to run or to its end, and then rests.
    #[test]
    fn running_converges(mut world in any_world()) {
        let plan = world.converge();
        let phase = plan.status.phase.unwrap_or_default();
        if is_terminal(&phase) {
            prop_assert_eq!(plan.stage, Stage::Stopped);
            prop_assert!(world.seen.containers.iter().all(|c| !c.may_live()));
            return Ok(());
        }
        prop_assert_eq!(plan.stage, Stage::Running);
        let ready = world.seen.sandboxes.iter().filter(|s| s.ready).count();
        prop_assert_eq!(ready, 1);
    }

    /// From any state, a pod that must go is gone in the end, with nothing left.
    #[test]
    fn ending_converges(mut world in any_world(), grace in 1..60_i64) {
        world.end(grace);
        let plan = world.converge();
        prop_assert_eq!(plan.stage, Stage::Stopped);
        prop_assert!(is_terminal(&plan.status.phase.unwrap_or_default()));
        world.wish.listed = false;
        let plan = world.converge();
        prop_assert_eq!(plan.stage, Stage::Gone);
        prop_assert!(world.seen.containers.is_empty() && world.seen.sandboxes.is_empty());
        prop_assert_eq!(&world.seen.volumes, &Volumes::Unmounted);
        prop_assert!(world.seen.released);
    }

    /// Through exits, failures and lost sandboxes: no attempt is launched twice, restart counts never fall, a
    /// terminal phase is never left. That no living container gets a twin is asserted by the model.
    #[test]
    fn history_is_honest(mut world in any_world(), fates in prop::collection::vec(0..12_u8, 1..60)) {
        let mut counts = std::collections::BTreeMap::new();
        let mut ended: Option<String> = None;
        for fate in fates {
            let plan = world.plan();
            world.previous = plan.status.clone();
            let statuses = plan.status.container_statuses.iter().chain(&plan.status.init_container_statuses);
            for status in statuses.flatten() {
                let last = counts.insert(status.name.clone(), status.restart_count).unwrap_or(0);
                prop_assert!(status.restart_count >= last, "{} fell from {last}", status.name);
            }
            let phase = plan.status.phase.clone().unwrap_or_default();
            if let Some(ended) = &ended {
                prop_assert_eq!(ended, &phase);
            }
            ended = is_terminal(&phase).then_some(phase);
            if let Some(wake) = plan.wake.filter(|_| plan.actions.is_empty()) {
                world.now = wake;
            }
            for action in &plan.actions {
                world.apply(action, if fate == 0 { Luck::Fails } else { Luck::Good });
            }
            suffer(&mut world, fate);
            world.now += SignedDuration::from_secs(1);
        }
        let mut launched = world.launched.clone();
        launched.sort();
        launched.dedup();
        prop_assert_eq!(launched.len(), world.launched.len());
    }
}

/// Something happens to the pod.
fn suffer(world: &mut World, fate: u8) {
    let running: Vec<String> = world
        .seen
        .containers
        .iter()
        .filter(|c| c.is_running())
        .map(|c| c.name.clone())
        .collect();
    match fate {
        1..=4 if !running.is_empty() => {
            world.exit(&running[usize::from(fate) % running.len()], i32::from(fate % 2));
        }
        5 => {
            // The keeper dies and takes its containers with it.
            for name in running {
                world.exit(&name, 137);
            }
            if let Some(sandbox) = world.seen.sandboxes.first_mut() {
                sandbox.ready = false;
            }
        }
        _ => {}
    }
}
