//! How containers end, in the interface's words. Pure.

use runtime::wire::{Exit, Failure};

use crate::records::Outcome;

/// Exit code of a container that nobody saw end.
const UNKNOWN: i32 = 137;
/// Exit code of a container whose program did not start.
const NOT_STARTED: i32 = 128;

/// From what the keeper saw.
pub(crate) fn of(exit: &Exit) -> Outcome {
    if exit.started_at == 0 {
        return not_started(
            String::from("the container ended before its program ran"),
            exit.finished_at,
        );
    }
    let reason = match exit {
        Exit { oom_killed: true, .. } => "OOMKilled",
        Exit { code: 0, .. } => "Completed",
        Exit { .. } => "Error",
    };
    Outcome {
        exit_code: exit.code,
        reason: reason.to_owned(),
        message: String::new(),
        started_at: exit.started_at,
        finished_at: exit.finished_at,
    }
}

/// Of a container whose program did not start.
pub(crate) fn not_started(message: String, now: i64) -> Outcome {
    Outcome {
        exit_code: NOT_STARTED,
        reason: "StartError".to_owned(),
        message,
        started_at: 0,
        finished_at: now,
    }
}

/// Of a container whose keeper died before it could say.
pub(crate) fn lost(started_at: i64, now: i64) -> Outcome {
    Outcome {
        exit_code: UNKNOWN,
        reason: "ContainerStatusUnknown".to_owned(),
        message: "the pod's keeper died before the container's exit was recorded".to_owned(),
        started_at,
        finished_at: now,
    }
}

/// Why a program does not run. The runtime's text names the object where users know it so from other runtimes:
/// `exec: "foo": executable file not found in $PATH`.
pub(crate) fn reason(failure: &Failure) -> String {
    if !failure.object.is_empty() && failure.message.contains(&failure.object) {
        return failure.message.clone();
    }
    failure.to_string()
}
