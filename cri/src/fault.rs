//! Fault points: every effect outside the process passes one, named by its caller, before it happens.

/// Passes the fault point `name`: nothing in a release, recorded (and perhaps deadly) in builds with `fault-points`.
#[inline]
pub(crate) fn point(name: &str) {
    #[cfg(feature = "fault-points")]
    fault_point::hit(name);
    #[cfg(not(feature = "fault-points"))]
    let _ = name;
}
