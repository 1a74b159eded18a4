//! What containers do on their own: report, run, write, end, go.

use std::os::fd::AsFd as _;

use rustix::event::epoll::EventFlags;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{WaitOptions, WaitStatus};

use super::container::{Asker, Container, Output, Read, Stage};
use super::event_loop::{Keeper, Source};
use super::log::Stream;
use super::requests::refusal;
use super::{EXITS_NAME, SOCKET_NAME, timestamp};
use crate::exit_record;
use crate::init::{self, Heard};
use crate::sys::{cgroup, file, socket};
use crate::wire::{Event, Exit, Failure, Message, Reply};

impl Keeper {
    /// Takes what a container's init says.
    pub(super) fn hear_init(&mut self, key: u32) {
        loop {
            let Some(container) = self.containers.get_mut(&key) else {
                return;
            };
            let Some(control) = container.control.as_ref() else {
                return;
            };
            match init::hear(control) {
                Heard::Nothing => return,
                Heard::Ready { terminal } => {
                    if let Some(terminal) = terminal {
                        self.take_terminal(key, terminal);
                    }
                    self.created(key);
                }
                Heard::Failed(failure) => container.failure = Some(failure),
                Heard::Closed => {
                    if let Some(control) = container.control.take() {
                        self.unwatch(control);
                    }
                    return self.executed(key);
                }
            }
        }
    }

    fn take_terminal(&mut self, key: u32, terminal: std::os::fd::OwnedFd) {
        let watched = rustix::io::ioctl_fionbio(&terminal, true)
            .and_then(|()| self.watch(&terminal, Source::Stdout(key), EventFlags::IN));
        let Some(container) = self.containers.get_mut(&key) else {
            return;
        };
        match watched {
            Ok(()) => container.stdout = Some(Output::new(terminal, Stream::Stdout)),
            Err(errno) => say!("terminal of {}: {errno}", container.id),
        }
    }

    fn created(&mut self, key: u32) {
        let Some(container) = self.containers.get_mut(&key) else {
            return;
        };
        let pid = container.pid;
        if let Stage::Creating { askers } = &mut container.stage {
            let askers = std::mem::take(askers);
            container.stage = Stage::Created;
            for asker in askers {
                self.answer(asker, Ok(Reply::Created { pid }));
            }
        }
    }

    /// Tells a waiting init to run its program.
    pub(super) fn give_word(&mut self, asker: Asker, key: u32) {
        let Some(container) = self.containers.get_mut(&key) else {
            return;
        };
        container.stage = Stage::Starting { askers: vec![asker] };
        let sent = container
            .control
            .as_ref()
            .map(|control| socket::send_start(control, init::START));
        if let Some(Err(errno)) = sent {
            // It is dead or dying; its end answers the asker.
            say!("start {}: {errno}", container.id);
        }
    }

    /// The init's end of the control socket is closed: its program runs, or it died on the way.
    fn executed(&mut self, key: u32) {
        let Some(container) = self.containers.get_mut(&key) else {
            return;
        };
        if container.failure.is_some() {
            return; // The end of the process follows.
        }
        if let Stage::Starting { askers } = &mut container.stage {
            let askers = std::mem::take(askers);
            container.stage = Stage::Running {
                started_at: timestamp::now(),
            };
            for asker in askers {
                self.answer(asker, Ok(Reply::Done));
            }
        }
    }

    /// Logs what a container wrote.
    pub(super) fn take_output(&mut self, source: Source) {
        let (Source::Stdout(key) | Source::Stderr(key)) = source else {
            return;
        };
        let Some(container) = self.containers.get_mut(&key) else {
            return;
        };
        let Container {
            stdout, stderr, log, ..
        } = container;
        let slot = if source == Source::Stdout(key) {
            stdout
        } else {
            stderr
        };
        let Some(output) = slot.as_mut() else { return };
        if output.read(log.as_mut(), &mut self.buffer) == Read::End
            && let Some(output) = slot.take()
        {
            self.unwatch(output.source);
        }
    }

    /// Collects every child that ended: inits, and orphans of pods that share a pid namespace with us.
    pub(super) fn reap(&mut self) {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let pid = pid.as_raw_nonzero().get().unsigned_abs();
                    let key = self
                        .containers
                        .iter()
                        .find(|(_, container)| container.pid == pid)
                        .map(|(key, _)| *key);
                    if let Some(key) = key {
                        self.ended(key, status);
                    }
                }
                Ok(None) | Err(Errno::CHILD) => return,
                Err(Errno::INTR) => {}
                Err(errno) => return say!("wait: {errno}"),
            }
        }
    }

    /// The first process of a container ended.
    fn ended(&mut self, key: u32, status: WaitStatus) {
        self.hear_init(key);
        let Some(container) = self.containers.get_mut(&key) else {
            return;
        };
        container.pid = 0;
        container.stdin = None;
        if !container.own_pids {
            container.kill_all();
        }
        self.drain(key);
        let Some(container) = self.containers.get_mut(&key) else {
            return;
        };
        match std::mem::replace(&mut container.stage, Stage::Created) {
            Stage::Creating { askers } => self.creation_failed(key, askers, status),
            Stage::Starting { askers } => {
                let failure = container.failure.clone();
                self.exited(key, status, 0);
                let failure =
                    failure.unwrap_or_else(|| refusal("start", "init", "ended before its program ran"));
                for asker in askers {
                    self.answer(asker, Err(failure.clone()));
                }
            }
            Stage::Running { started_at } => self.exited(key, status, started_at),
            Stage::Created | Stage::Exited(_) => self.exited(key, status, 0),
        }
        self.release_if_wanted(key);
    }

    fn release_if_wanted(&mut self, key: u32) {
        if self
            .containers
            .get(&key)
            .is_some_and(|container| !container.removers.is_empty())
        {
            self.finish_removal(key);
        }
    }

    /// Logs all that a container wrote until now.
    fn drain(&mut self, key: u32) {
        let Some(container) = self.containers.get_mut(&key) else {
            return;
        };
        let Container {
            stdout, stderr, log, ..
        } = container;
        let mut ended = Vec::new();
        for slot in [stdout, stderr] {
            if let Some(output) = slot.as_mut()
                && output.drain(log.as_mut(), &mut self.buffer) == Read::End
            {
                ended.extend(slot.take());
            }
        }
        for output in ended {
            self.unwatch(output.source);
        }
    }

    fn creation_failed(&mut self, key: u32, mut askers: Vec<Asker>, status: WaitStatus) {
        let Some(container) = self.containers.get_mut(&key) else {
            return;
        };
        let failure = container.failure.take().unwrap_or_else(|| {
            let (code, _) = code_of(status);
            refusal(
                "create",
                &container.id,
                format!("init ended with code {code} before it was ready"),
            )
        });
        askers.append(&mut container.removers);
        container.stage = Stage::Exited(Exit {
            code: 128,
            signal: None,
            oom_killed: false,
            started_at: 0,
            finished_at: timestamp::now(),
        });
        // Forgotten like a removed one: its cgroup may still be emptying.
        self.finish_removal(key);
        for asker in askers {
            self.answer(asker, Err(failure.clone()));
        }
    }

    /// Records an exit, then tells.
    fn exited(&mut self, key: u32, status: WaitStatus, started_at: i64) {
        let Some(container) = self.containers.get_mut(&key) else {
            return;
        };
        let (code, signal) = code_of(status);
        let exit = Exit {
            code,
            signal,
            oom_killed: container.was_oom_killed(),
            started_at,
            finished_at: timestamp::now(),
        };
        let id = container.id.clone();
        container.stage = Stage::Exited(exit.clone());
        let record = exit_record::format(&id, &exit);
        if let Err(errno) = file::replace(&self.directory.join(EXITS_NAME), &id, record.as_bytes()) {
            say!("write exit record of {id}: {errno}");
        }
        let event = Message::Event(Event::Exited { id, exit });
        let drivers: Vec<u32> = self
            .connections
            .iter()
            .filter(|(_, driver)| driver.subscribed)
            .map(|(key, _)| *key)
            .collect();
        for driver in drivers {
            self.send(driver, &event);
        }
    }

    /// Removes the cgroup and record of an ended container, now or when its last process is gone.
    pub(super) fn finish_removal(&mut self, key: u32) {
        let Some(container) = self.containers.get_mut(&key) else {
            return;
        };
        if let Some(events) = &container.cgroup_events {
            // Reading takes the event back.
            let _ = rustix::io::pread(events, &mut [0u8; 256], 0);
        }
        match cgroup::remove(&container.cgroup_path) {
            Ok(()) => self.forget(key, Ok(Reply::Done)),
            Err(Errno::BUSY) => self.await_empty_cgroup(key),
            Err(errno) => {
                let path = container.cgroup_path.display().to_string();
                let failure: Failure = crate::failure::Trouble::kernel(path, errno).in_step("remove cgroup");
                self.forget(key, Err(failure));
            }
        }
    }

    fn await_empty_cgroup(&mut self, key: u32) {
        let Some(container) = self.containers.get_mut(&key) else {
            return;
        };
        container.kill_all();
        if container.cgroup_events.is_some() {
            return;
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(container.cgroup.as_fd(), "cgroup.events", flags, Mode::empty());
        let watched = opened.and_then(|events| {
            self.watch(&events, Source::CgroupEvents(key), EventFlags::PRI)?;
            Ok(events)
        });
        let Some(container) = self.containers.get_mut(&key) else {
            return;
        };
        match watched {
            Ok(events) => {
                container.cgroup_events = Some(events);
                // It may have emptied before it was watched.
                self.finish_removal(key);
            }
            Err(errno) => {
                let failure = refusal("remove cgroup", &container.id, format!("watch it empty: {errno}"));
                self.forget(key, Err(failure));
            }
        }
    }

    fn forget(&mut self, key: u32, answer: Result<Reply, Failure>) {
        let Some(container) = self.containers.remove(&key) else {
            return;
        };
        let outputs = [container.stdout, container.stderr]
            .into_iter()
            .flatten()
            .map(|output| output.source);
        for watched in outputs.chain(container.cgroup_events).chain(container.control) {
            self.unwatch(watched);
        }
        // After a shutdown the records are what is left to tell.
        if self.stopping.is_none() {
            let record = self.directory.join(EXITS_NAME).join(&container.id);
            if let Err(errno) = file::remove("runtime.remove_exit_record", &record) {
                say!("remove exit record of {}: {errno}", container.id);
            }
        }
        for asker in container.removers {
            self.answer(asker, answer.clone());
        }
    }

    /// Kills everything; the loop ends when it is over.
    pub(super) fn begin_shutdown(&mut self, asker: Option<Asker>) {
        self.stopping.get_or_insert_default().extend(asker);
        let keys: Vec<u32> = self.containers.keys().copied().collect();
        for key in keys {
            match self.containers.get(&key) {
                Some(container) if matches!(container.stage, Stage::Exited(_)) => self.finish_removal(key),
                Some(container) => container.kill_all(),
                None => {}
            }
        }
    }

    /// A shutdown was asked for and nothing is left; says so to who asked.
    pub(super) fn is_over(&mut self) -> bool {
        if self.stopping.is_none() {
            return false;
        }
        let ended = |(key, container): (&u32, &Container)| {
            matches!(container.stage, Stage::Exited(_)).then_some(*key)
        };
        let keys: Vec<u32> = self.containers.iter().filter_map(ended).collect();
        for key in keys {
            if self
                .containers
                .get(&key)
                .is_some_and(|container| container.cgroup_events.is_none())
            {
                self.finish_removal(key);
            }
        }
        if !self.containers.is_empty() {
            return false;
        }
        for asker in self.stopping.take().unwrap_or_default() {
            self.answer(asker, Ok(Reply::Done));
        }
        if let Err(errno) = file::remove("runtime.unlink_socket", &self.directory.join(SOCKET_NAME)) {
            say!("remove socket: {errno}");
        }
        true
    }
}

/// Exit code as shells give it, and the signal if one ended the process.
fn code_of(status: WaitStatus) -> (i32, Option<i32>) {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => (code, None),
        (None, Some(signal)) => (128 + signal, Some(signal)),
        (None, None) => (255, None),
    }
}
