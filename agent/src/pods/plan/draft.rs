//! A plan in the making.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodStatus;

use super::{Action, Input, Plan, Stage};

/// Why a container waits, as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) reason: String,
    pub(super) message: String,
}

/// A condition that deserves an event when it begins. The worker records it once for as long as it holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Notice {
    /// The container it is about.
    pub(crate) container: String,
    pub(crate) warning: bool,
    /// Event reason.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

pub(super) struct Draft<'a> {
    input: &'a Input<'a>,
    actions: Vec<Action>,
    wake: Option<Timestamp>,
    notices: Vec<Notice>,
    pub(super) waiting: BTreeMap<String, Waiting>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(input: &'a Input<'a>) -> Self {
        Self {
            input,
            actions: Vec::new(),
            wake: None,
            notices: Vec::new(),
            waiting: BTreeMap::new(),
        }
    }

    /// Plans the action, unless one begun covers it or its kind has just failed.
    pub(super) fn act(&mut self, action: Action) {
        if let Some(failure) = &self.input.observed.stop_failure
            && action.takes_down()
            && self.wait_until(failure.retry_at)
        {
            return;
        }
        let mut begun = self.input.observed.under_way.iter().chain(&self.actions);
        if !begun.any(|a| a.covers(&action)) {
            self.actions.push(action);
        }
    }

    /// Plans again at `at`. Whether that is still ahead.
    pub(super) fn wait_until(&mut self, at: Timestamp) -> bool {
        let ahead = at > self.input.now;
        if ahead {
            self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
        }
        ahead
    }

    pub(super) fn waits(&mut self, container: &str, reason: impl Into<String>, message: impl Into<String>) {
        let waiting = Waiting {
            reason: reason.into(),
            message: message.into(),
        };
        self.waiting.insert(container.to_owned(), waiting);
    }

    pub(super) fn notice(&mut self, notice: Notice) {
        self.notices.push(notice);
    }

    pub(super) fn finish(self, status: PodStatus, stage: Stage) -> Plan {
        Plan {
            actions: self.actions,
            wake: self.wake,
            status,
            notices: self.notices,
            stage,
        }
    }
}
