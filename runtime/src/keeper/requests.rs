//! What drivers ask of a keeper, and the answers.

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;

use super::container::{Asker, Container, Stage};
use super::creation;
use super::event_loop::{Keeper, Source};
use crate::failure::{About as _, Trouble};
use crate::plan::{ContainerPlan, PLAN_VERSION};
use crate::sys::process;
use crate::wire::{Envelope, Event, Failure, Message, PROTOCOL_VERSION, Reply, Request};

/// Containers of one sandbox; a pod has a few.
const MAX_CONTAINERS: usize = 1024;

impl Keeper {
    /// Acts on one request. Answers that need a container to do something first come later.
    pub(super) fn handle(&mut self, connection: u32, request: Envelope<Request>) {
        let asker = Asker {
            connection,
            sequence: request.sequence,
        };
        let greeted = self
            .connections
            .get(&connection)
            .is_some_and(|driver| driver.greeted);
        if !greeted && !matches!(request.body, Request::Hello { .. }) {
            self.answer(asker, Err(refusal("greet", &self.sandbox, "hello comes first")));
            return self.drop_driver(connection, "no hello");
        }
        match request.body {
            Request::Hello { protocol, plan } => self.greet(asker, protocol, plan),
            Request::Subscribe => self.subscribe(asker),
            Request::Create(plan) => self.create(asker, &plan),
            Request::Start { id } => self.start(asker, &id),
            Request::Kill { id, signal } => {
                let done = self.kill(&id, signal).map(|()| Reply::Done);
                self.answer(asker, done);
            }
            Request::Remove { id } => self.remove(asker, &id),
            Request::ReopenLog { id } => {
                let done = self.reopen_log(&id).map(|()| Reply::Done);
                self.answer(asker, done);
            }
            Request::List => {
                let states = self.containers.values().map(Container::state).collect();
                self.answer(asker, Ok(Reply::Containers(states)));
            }
            Request::Shutdown => self.begin_shutdown(Some(asker)),
        }
    }

    fn greet(&mut self, asker: Asker, protocol: u16, plan: u16) {
        if (protocol, plan) != (PROTOCOL_VERSION, PLAN_VERSION) {
            let text = format!(
                "driver speaks protocol {protocol}, plan {plan}; the keeper {PROTOCOL_VERSION} and {PLAN_VERSION}"
            );
            self.answer(asker, Err(refusal("greet", &self.sandbox, text)));
            return self.drop_driver(asker.connection, "version");
        }
        if let Some(driver) = self.connections.get_mut(&asker.connection) {
            driver.greeted = true;
        }
        let reply = Reply::Hello {
            protocol: PROTOCOL_VERSION,
            plan: PLAN_VERSION,
            sandbox: self.sandbox.clone(),
            pid: std::process::id(),
        };
        self.answer(asker, Ok(reply));
    }

    fn subscribe(&mut self, asker: Asker) {
        if let Some(driver) = self.connections.get_mut(&asker.connection) {
            driver.subscribed = true;
        }
        self.answer(asker, Ok(Reply::Done));
        let ended = self
            .containers
            .values()
            .filter_map(|container| match &container.stage {
                Stage::Exited(exit) => Some(Event::Exited {
                    id: container.id.clone(),
                    exit: exit.clone(),
                }),
                _ => None,
            });
        for event in ended.collect::<Vec<_>>() {
            self.send(asker.connection, &Message::Event(event));
        }
    }

    /// The key of a container by its id.
    pub(super) fn find(&self, id: &str) -> Option<u32> {
        self.containers
            .iter()
            .find(|(_, container)| container.id == id)
            .map(|(key, _)| *key)
    }

    fn known(&mut self, id: &str) -> Result<(u32, &mut Container), Failure> {
        let key = self.find(id);
        key.and_then(|key| self.containers.get_mut(&key).map(|container| (key, container)))
            .ok_or_else(|| Trouble::worded(id, Errno::NOENT, "no such container").in_step("find container"))
    }

    fn create(&mut self, asker: Asker, plan: &ContainerPlan) {
        if let Ok((_, container)) = self.known(&plan.id) {
            let pid = container.pid;
            if let Stage::Creating { askers } = &mut container.stage {
                return askers.push(asker);
            }
            return self.answer(asker, Ok(Reply::Created { pid }));
        }
        if self.stopping.is_some() || self.containers.len() >= MAX_CONTAINERS {
            let text = "the sandbox is shutting down or full";
            return self.answer(asker, Err(refusal("create", &plan.id, text)));
        }
        match creation::create(plan, asker) {
            Ok(container) => self.adopt(container),
            Err(failure) => self.answer(asker, Err(failure)),
        }
    }

    fn adopt(&mut self, container: Container) {
        let key = self.new_key();
        let files = [
            (container.control.as_ref(), Source::Control(key)),
            (
                container.stdout.as_ref().map(|output| &output.source),
                Source::Stdout(key),
            ),
            (
                container.stderr.as_ref().map(|output| &output.source),
                Source::Stderr(key),
            ),
        ];
        for (file, source) in files {
            if let Some(file) = file
                && let Err(errno) = self.watch(file, source, EventFlags::IN)
            {
                // Its end shows by SIGCHLD all the same; the streams are drained then.
                say!("watch container {}: {errno}", container.id);
            }
        }
        self.containers.insert(key, container);
    }

    fn start(&mut self, asker: Asker, id: &str) {
        let (key, container) = match self.known(id) {
            Ok(known) => known,
            Err(failure) => return self.answer(asker, Err(failure)),
        };
        match &mut container.stage {
            Stage::Creating { .. } => {
                self.answer(
                    asker,
                    Err(refusal("start", id, "the container is still being created")),
                );
            }
            Stage::Starting { askers } => askers.push(asker),
            Stage::Running { .. } => self.answer(asker, Ok(Reply::Done)),
            Stage::Exited(exit) if exit.started_at != 0 => self.answer(asker, Ok(Reply::Done)),
            Stage::Exited(_) => {
                let failure = container.failure.clone();
                let failure =
                    failure.unwrap_or_else(|| refusal("start", id, "the container ended before it started"));
                self.answer(asker, Err(failure));
            }
            Stage::Created => self.give_word(asker, key),
        }
    }

    /// Sends a signal, as [`Request::Kill`] says. A container whose program does not run yet has nobody to handle a
    /// signal: any signal ends it.
    fn kill(&mut self, id: &str, signal: i32) -> Result<(), Failure> {
        if !(1..=64).contains(&signal) {
            return Err(refusal("kill", id, format!("{signal} is no signal")));
        }
        let (_, container) = self.known(id)?;
        match container.stage {
            Stage::Exited(_) => Ok(()),
            Stage::Running { .. } if signal != libc::SIGKILL => {
                match process::send_signal(&container.pidfd, signal) {
                    Ok(()) | Err(Errno::SRCH) => Ok(()),
                    Err(errno) => Err(Trouble::kernel(id, errno).in_step("kill")),
                }
            }
            _ => {
                container.kill_all();
                Ok(())
            }
        }
    }

    fn remove(&mut self, asker: Asker, id: &str) {
        // Nothing to forget is what forgetting comes to.
        let Ok((key, container)) = self.known(id) else {
            return self.answer(asker, Ok(Reply::Done));
        };
        container.removers.push(asker);
        if matches!(container.stage, Stage::Exited(_)) {
            self.finish_removal(key);
        } else {
            container.kill_all();
        }
    }

    fn reopen_log(&mut self, id: &str) -> Result<(), Failure> {
        let (_, container) = self.known(id)?;
        let Some(log) = container.log.as_mut() else {
            return Ok(());
        };
        log.reopen()
            .about(id)
            .map_err(|trouble| trouble.in_step("reopen log"))
    }
}

/// A refusal of the keeper's own.
pub(super) fn refusal(step: &str, object: &str, message: impl Into<String>) -> Failure {
    Trouble::rule(object, message).in_step(step)
}
