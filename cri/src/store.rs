//! What the engine knows: sandboxes and containers, changed here only. Operations on one object take its `turn`;
//! readers never wait, they see the state as of now.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, RwLock};

use runtime::plan::ContainerPlan;
use tokio::sync::watch;

use crate::keeper::Keeper;
use crate::records::{ContainerRecord, Outcome, Phase, SandboxRecord};

/// A sandbox.
#[derive(Debug)]
pub(crate) struct Sandbox {
    /// What never changes; `phase` and `ips` are those of the beginning.
    pub(crate) record: SandboxRecord,
    /// Taken for writing by what changes the sandbox, for reading by what changes its containers.
    pub(crate) turn: tokio::sync::RwLock<()>,
    state: watch::Sender<SandboxState>,
}

/// What changes in the life of a sandbox.
#[derive(Debug, Clone)]
pub(crate) struct SandboxState {
    pub(crate) phase: Phase,
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) keeper: Option<Arc<Keeper>>,
}

impl Sandbox {
    pub(crate) fn new(record: SandboxRecord) -> Arc<Self> {
        let state = SandboxState {
            phase: record.phase,
            ips: record.ips.clone(),
            keeper: None,
        };
        Arc::new(Self {
            record,
            turn: tokio::sync::RwLock::default(),
            state: watch::Sender::new(state),
        })
    }

    pub(crate) fn id(&self) -> &str {
        &self.record.id
    }

    pub(crate) fn state(&self) -> SandboxState {
        self.state.borrow().clone()
    }

    /// The record as it is now.
    pub(crate) fn current_record(&self) -> SandboxRecord {
        let state = self.state();
        SandboxRecord {
            phase: state.phase,
            ips: state.ips,
            ..self.record.clone()
        }
    }

    pub(crate) fn ready(&self, ips: Vec<IpAddr>, keeper: Arc<Keeper>) {
        self.state.send_replace(SandboxState {
            phase: Phase::Ready,
            ips,
            keeper: Some(keeper),
        });
    }

    /// Its keeper is gone; `phase` says what else is.
    pub(crate) fn ended(&self, phase: Phase) {
        self.state.send_modify(|state| {
            state.phase = phase;
            state.keeper = None;
        });
    }
}

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    /// What never changes; `started` and `outcome` are those of the beginning.
    pub(crate) record: ContainerRecord,
    /// Taken by what starts or removes it.
    pub(crate) turn: tokio::sync::Mutex<()>,
    state: watch::Sender<ContainerState>,
}

/// The life of a container.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ContainerState {
    /// Not started yet.
    Created(Arc<ContainerPlan>),
    /// The keeper is making it.
    Starting,
    /// Its program runs.
    Running {
        /// Nanoseconds since the epoch.
        started_at: i64,
    },
    /// It has ended.
    Exited(Arc<Outcome>),
}

impl Container {
    pub(crate) fn new(record: ContainerRecord, state: ContainerState) -> Arc<Self> {
        Arc::new(Self {
            record,
            turn: tokio::sync::Mutex::default(),
            state: watch::Sender::new(state),
        })
    }

    pub(crate) fn id(&self) -> &str {
        &self.record.id
    }

    pub(crate) fn state(&self) -> ContainerState {
        self.state.borrow().clone()
    }

    /// From created to starting: gives the plan, once.
    pub(crate) fn starting(&self) -> Option<Arc<ContainerPlan>> {
        let mut plan = None;
        self.state
            .send_if_modified(|state| match std::mem::replace(state, ContainerState::Starting) {
                ContainerState::Created(made) => {
                    plan = Some(made);
                    true
                }
                other => {
                    *state = other;
                    false
                }
            });
        plan
    }

    /// Its program runs; says whether that is news. What has ended stays so.
    pub(crate) fn running(&self, started_at: i64) -> bool {
        self.state.send_if_modified(|state| {
            let news = matches!(state, ContainerState::Created(_) | ContainerState::Starting);
            if news {
                *state = ContainerState::Running { started_at };
            }
            news
        })
    }

    /// It has ended; says whether that is news: the first word counts.
    pub(crate) fn exited(&self, outcome: Outcome) -> bool {
        self.state.send_if_modified(|state| {
            let news = !matches!(state, ContainerState::Exited(_));
            if news {
                *state = ContainerState::Exited(Arc::new(outcome));
            }
            news
        })
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(&self) {
        // The sender lives in `self`, so there is no error.
        let _ = self
            .state
            .subscribe()
            .wait_for(|state| matches!(state, ContainerState::Exited(_)))
            .await;
    }
}

/// All sandboxes and containers.
#[derive(Debug, Default)]
pub(crate) struct Store {
    tables: RwLock<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    sandboxes: HashMap<String, Arc<Sandbox>>,
    containers: HashMap<String, Arc<Container>>,
}

const POISONED: &str = "no code panics while it holds the tables";

impl Store {
    pub(crate) fn sandbox(&self, id: &str) -> Option<Arc<Sandbox>> {
        self.tables.read().expect(POISONED).sandboxes.get(id).cloned()
    }

    pub(crate) fn container(&self, id: &str) -> Option<Arc<Container>> {
        self.tables.read().expect(POISONED).containers.get(id).cloned()
    }

    pub(crate) fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        self.tables
            .read()
            .expect(POISONED)
            .sandboxes
            .values()
            .cloned()
            .collect()
    }

    pub(crate) fn containers(&self) -> Vec<Arc<Container>> {
        self.tables
            .read()
            .expect(POISONED)
            .containers
            .values()
            .cloned()
            .collect()
    }

    pub(crate) fn containers_of(&self, sandbox: &str) -> Vec<Arc<Container>> {
        let tables = self.tables.read().expect(POISONED);
        tables
            .containers
            .values()
            .filter(|container| container.record.sandbox == sandbox)
            .cloned()
            .collect()
    }

    pub(crate) fn add_sandbox(&self, sandbox: Arc<Sandbox>) {
        self.tables
            .write()
            .expect(POISONED)
            .sandboxes
            .insert(sandbox.id().to_owned(), sandbox);
    }

    pub(crate) fn add_container(&self, container: Arc<Container>) {
        self.tables
            .write()
            .expect(POISONED)
            .containers
            .insert(container.id().to_owned(), container);
    }

    pub(crate) fn remove_sandbox(&self, id: &str) {
        self.tables.write().expect(POISONED).sandboxes.remove(id);
    }

    pub(crate) fn remove_container(&self, id: &str) {
        self.tables.write().expect(POISONED).containers.remove(id);
    }
}
