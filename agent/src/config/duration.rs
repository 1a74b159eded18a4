//! Durations as Go writes them (`1m0s`, `100ms`, `1.5h`), for serde's `with`.
//! Negative durations have no use in a kubelet's configuration and are refused, so is a bare number other than 0.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer, de};

const UNITS: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Longest duration Go can hold: 2^63 - 1 ns, about 292 years.
const MAX_NANOS: u128 = i64::MAX as u128;

/// Reads a Go duration.
///
/// # Errors
/// A sentence without the value's place: the caller knows the key.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let refused = |why: &str| {
        Err(format!(
            "invalid duration {text:?}: {why}, write it like \"1m30s\""
        ))
    };
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return refused("it is empty");
    }
    if rest.starts_with('-') {
        return refused("it is negative");
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let Some((nanos, tail)) = one_part(rest) else {
            return refused("a number and a unit (ns, us, ms, s, m, h) are wanted");
        };
        total = total.saturating_add(nanos);
        if total > MAX_NANOS {
            return refused("it is too long");
        }
        rest = tail;
    }
    let nanos = u64::try_from(total).expect("bounded by MAX_NANOS");
    Ok(Duration::from_nanos(nanos))
}

/// One `12.5ms` at the head of `text`: its nanoseconds, rounded down, and what follows.
fn one_part(text: &str) -> Option<(u128, &str)> {
    let digits = |s: &str| s.len() - s.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (whole, mut rest) = text.split_at(digits(text));
    let mut fraction = "";
    if let Some(tail) = rest.strip_prefix('.') {
        (fraction, rest) = tail.split_at(digits(tail));
    }
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let unit_end = rest
        .find(|c: char| c.is_ascii_digit() || c == '.')
        .unwrap_or(rest.len());
    let (unit, tail) = rest.split_at(unit_end);
    let scale = UNITS.iter().find(|(name, _)| *name == unit)?.1;
    let whole: u128 = if whole.is_empty() {
        0
    } else {
        whole.parse().unwrap_or(MAX_NANOS)
    };
    // More than 15 digits of a fraction are below a nanosecond of any unit.
    let kept = &fraction[..fraction.len().min(15)];
    let part = if kept.is_empty() {
        0
    } else {
        let power = 10u128.pow(u32::try_from(kept.len()).expect("at most 15"));
        kept.parse::<u128>().ok()? * scale / power
    };
    Some((whole.saturating_mul(scale).saturating_add(part), tail))
}

/// Writes a duration as Go's `Duration.String` does: `1m0s`, `1.5s`, `100ms`, `0s`.
pub(crate) fn format(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    if nanos < 1_000_000_000 {
        let (unit, scale) = match nanos {
            0..1_000 => ("ns", 1),
            1_000..1_000_000 => ("µs", 1_000),
            _ => ("ms", 1_000_000),
        };
        return format!("{}{unit}", decimal(nanos, scale));
    }
    let minutes = nanos / 60_000_000_000;
    let seconds = decimal(nanos % 60_000_000_000, 1_000_000_000);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, m) => format!("{m}m{seconds}s"),
        (h, m) => format!("{h}h{m}m{seconds}s"),
    }
}

/// `value / scale` with no more digits than needed.
fn decimal(value: u128, scale: u128) -> String {
    let rest = value % scale;
    if rest == 0 {
        return (value / scale).to_string();
    }
    let width = scale.ilog10() as usize;
    let fraction = format!("{rest:0width$}");
    format!("{}.{}", value / scale, fraction.trim_end_matches('0'))
}

pub(super) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&format(*value))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    parse(&text).map_err(de::Error::custom)
}
