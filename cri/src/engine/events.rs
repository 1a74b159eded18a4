//! What the engine tells without being asked.

use proto::cri::{ContainerEventResponse, ContainerEventType};

use super::{Core, now};

impl Core {
    /// Tells of container `id` (or of the sandbox itself) in `sandbox`, with the state of all of it.
    pub(crate) fn publish(&self, kind: ContainerEventType, id: &str, sandbox: &str) {
        if self.events.receiver_count() == 0 {
            return;
        }
        let status = self.sandbox_status(sandbox).unwrap_or_default();
        let event = ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind.into(),
            created_at: now(),
            pod_sandbox_status: status.status,
            containers_statuses: status.containers_statuses,
        };
        // Nobody listens any more if this fails.
        let _ = self.events.send(event);
    }
}
