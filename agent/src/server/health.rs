//! Health checks: `ping` and `log` answer by answering, `syncloop` asks the pod machinery.

use http::{Response, StatusCode};

use super::query;
use super::response::{Body, text};

/// The checks of one server in order: name and outcome.
pub(super) type Checks = Vec<(&'static str, Result<(), String>)>;

/// All checks: `ok`, a list with `?verbose`, or 500 with the list. `?exclude=NAME` leaves one out.
pub(super) fn all(checks: Checks, query_string: &str) -> Response<Body> {
    let mut verbose = false;
    let mut excluded = Vec::new();
    for (name, value) in query::pairs(query_string) {
        match name.as_str() {
            "verbose" => verbose = true,
            "exclude" => excluded.push(value),
            _ => {}
        }
    }
    let mut report = String::new();
    let mut failed = Vec::new();
    for (name, outcome) in &checks {
        let (sign, words) = match outcome {
            _ if excluded.iter().any(|excluded| excluded == name) => ('+', "excluded: ok"),
            Ok(()) => ('+', "ok"),
            Err(_) => ('-', "failed: reason withheld"),
        };
        report += &format!("[{sign}]{name} {words}\n");
        if let (Err(error), '-') = (outcome, sign) {
            failed.push(*name);
            tracing::warn!(check = name, error, "health check failed");
        }
    }
    excluded.retain(|excluded| !checks.iter().any(|(name, _)| name == excluded));
    if !excluded.is_empty() {
        let names: Vec<String> = excluded.iter().map(|name| format!("{name:?}")).collect();
        let names = names.join(",");
        report += &format!("warn: some health checks cannot be excluded: no matches for {names}\n");
    }
    match (failed.is_empty(), verbose) {
        (false, _) => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("{report}healthz check failed\n"),
        ),
        (true, false) => text(StatusCode::OK, "ok"),
        (true, true) => text(StatusCode::OK, format!("{report}healthz check passed\n")),
    }
}

/// One check by name; `None` if there is none of that name.
pub(super) fn one(checks: Checks, wanted: &str) -> Option<Response<Body>> {
    let (_, outcome) = checks.into_iter().find(|(name, _)| *name == wanted)?;
    Some(match outcome {
        Ok(()) => text(StatusCode::OK, "ok"),
        Err(error) => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("internal server error: {error}\n"),
        ),
    })
}
