//! Checks of the source tree itself: format, lints, licences, the crate graph, the effect funnels. Each counts as a
//! test of the run.

mod effects;
mod graph;
mod tools;

use std::path::Path;

/// One check: its name in the summary, and what it does.
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Path) -> anyhow::Result<()>,
}

/// All checks, cheapest first.
pub(crate) const ALL: &[Check] = &[
    Check {
        name: "format",
        run: tools::format,
    },
    Check {
        name: "crate graph",
        run: graph::layers,
    },
    Check {
        name: "dependencies of longshore-oci",
        run: graph::oci_dependencies,
    },
    Check {
        name: "effects pass their funnel",
        run: effects::funnels,
    },
    Check {
        name: "licences, bans, sources",
        run: tools::deny,
    },
    Check {
        name: "lints",
        run: tools::lints,
    },
];
