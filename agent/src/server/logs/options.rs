//! The query of a log request: `v1.PodLogOptions`, decoded and checked as upstream does.

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

/// What of a log is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Go on with what is written later, until the container has ended.
    pub(crate) follow: bool,
    /// The container before this one.
    pub(crate) previous: bool,
    /// A timestamp before each line.
    pub(crate) timestamps: bool,
    /// Nothing older.
    pub(crate) since: Option<Timestamp>,
    /// That many lines from the end.
    pub(crate) tail_lines: Option<u64>,
    /// That many bytes at most.
    pub(crate) limit_bytes: Option<u64>,
}

/// Why a query is refused. The texts are upstream's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QueryError {
    /// A value that is no number or time: 400.
    #[error(r#"{{"message": "Unable to decode query."}}"#)]
    Undecodable,
    /// Values that make no sense: 422.
    #[error(r#"{{"message": "Invalid request."}}"#)]
    Invalid,
    /// Streams apart are behind a feature gate that is off: 400.
    #[error(
        "unable to return the given log stream: {stream:?}. Please enable PodLogsQuerySplitStreams feature gate in kubelet"
    )]
    Stream { stream: String },
}

impl Options {
    /// Reads a query string.
    ///
    /// # Errors
    /// Any [`QueryError`].
    pub(crate) fn parse(query: &str, now: Timestamp) -> Result<Self, QueryError> {
        let mut values: HashMap<String, String> = HashMap::new();
        for (name, value) in super::super::query::pairs(query) {
            // The first of a name counts.
            values.entry(name).or_insert(value);
        }
        // The old name of tailLines, where "all" means no limit.
        match values.remove("tail").filter(|tail| !tail.is_empty()) {
            Some(all) if all == "all" => values.remove("tailLines"),
            Some(tail) => values.insert("tailLines".to_owned(), tail),
            None => None,
        };
        let tail_lines = number(&values, "tailLines")?;
        let limit_bytes = number(&values, "limitBytes")?;
        let since_seconds = number(&values, "sinceSeconds")?;
        let since_time = time(&values)?;
        let stream = values.get("stream").filter(|stream| *stream != "All");
        if tail_lines.is_some_and(|lines| lines < 0)
            || limit_bytes.is_some_and(|bytes| bytes < 1)
            || since_seconds.is_some_and(|seconds| seconds < 1)
            || (since_seconds.is_some() && values.get("sinceTime").is_some_and(|time| !time.is_empty()))
        {
            return Err(QueryError::Invalid);
        }
        if let Some(stream) = stream {
            return Err(QueryError::Stream {
                stream: stream.clone(),
            });
        }
        let before = |seconds| {
            now.checked_sub(SignedDuration::from_secs(seconds))
                .unwrap_or(Timestamp::MIN)
        };
        Ok(Self {
            follow: flag(&values, "follow"),
            previous: flag(&values, "previous"),
            timestamps: flag(&values, "timestamps"),
            since: since_seconds.map(before).or(since_time),
            tail_lines: tail_lines.map(i64::unsigned_abs),
            limit_bytes: limit_bytes.map(i64::unsigned_abs),
        })
    }
}

/// Anything but "false" and "0" is true, also nothing.
fn flag(values: &HashMap<String, String>, name: &str) -> bool {
    values
        .get(name)
        .is_some_and(|value| !value.eq_ignore_ascii_case("false") && value != "0")
}

fn number(values: &HashMap<String, String>, name: &str) -> Result<Option<i64>, QueryError> {
    let parse = |value: &String| value.parse().map_err(|_| QueryError::Undecodable);
    values.get(name).map(parse).transpose()
}

fn time(values: &HashMap<String, String>) -> Result<Option<Timestamp>, QueryError> {
    match values.get("sinceTime").map(String::as_str) {
        None | Some("" | "null") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| QueryError::Undecodable),
    }
}
