//! The one place where this crate meets fault injection.

/// Passes the fault point `name`. Does nothing unless the crate was built with `fault-points`.
pub(crate) fn point(name: &str) {
    #[cfg(feature = "fault-points")]
    fault_point::hit(name);
    #[cfg(not(feature = "fault-points"))]
    let _ = name;
}
