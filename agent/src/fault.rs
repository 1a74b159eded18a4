//! Fault points of the agent: nothing in a release build, a recorder and killer under the `fault-points` feature.

/// Passes the fault point `name` (dotted, room first: `api.patch_pod_status`).
#[inline]
pub(crate) fn point(name: &'static str) {
    #[cfg(feature = "fault-points")]
    fault_point::hit(name);
    #[cfg(not(feature = "fault-points"))]
    let _ = name;
}
