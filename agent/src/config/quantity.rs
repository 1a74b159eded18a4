//! Kubernetes quantities (`100m`, `1.5Gi`, `2e3`): exact to a billionth, in 128 bits.
//! Source: the Quantity type of apimachinery's API documentation.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

const NANOS: i128 = 1_000_000_000;
/// Quantities end at 2^63 - 1 either way, as upstream's do.
const LIMIT: i128 = (i64::MAX as i128) * NANOS;

/// An amount of a resource in billionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Amount(i128);

impl Amount {
    /// `count` whole units.
    pub(crate) fn units(count: i64) -> Self {
        Self(i128::from(count) * NANOS)
    }

    /// Reads a quantity; digits below a billionth round away from zero, as upstream's do.
    ///
    /// # Errors
    /// A sentence without the value's place.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        parse(text).map(Self).ok_or_else(|| {
            format!("invalid quantity {text:?}: write a number with an optional suffix, like \"500m\" or \"1.5Gi\"")
        })
    }

    /// Reads an API object's quantity.
    ///
    /// # Errors
    /// As [`Amount::parse`].
    pub(crate) fn of(quantity: &Quantity) -> Result<Self, String> {
        Self::parse(&quantity.0)
    }

    /// Whole units, rounded away from zero.
    pub(crate) fn value(self) -> i64 {
        ceil(self.0, NANOS)
    }

    /// Thousandths, rounded away from zero.
    pub(crate) fn milli_value(self) -> i64 {
        ceil(self.0, NANOS / 1000)
    }

    /// Difference, never below zero.
    pub(crate) fn saturating_sub(self, other: Self) -> Self {
        Self((self.0 - other.0).max(0))
    }

    /// Sum, bounded as quantities are.
    pub(crate) fn saturating_add(self, other: Self) -> Self {
        Self((self.0 + other.0).min(LIMIT))
    }

    /// The canonical form with binary suffixes: bytes.
    pub(crate) fn binary(self) -> Quantity {
        const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        let mut value = self.value();
        let mut step = 0;
        while value != 0 && value % 1024 == 0 && step + 1 < SUFFIXES.len() {
            value /= 1024;
            step += 1;
        }
        Quantity(format!("{value}{}", SUFFIXES[step]))
    }

    /// The canonical form with decimal suffixes: counts and cpu.
    pub(crate) fn decimal(self) -> Quantity {
        const SUFFIXES: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        let mut value = self.0;
        let mut step = 0;
        while value != 0 && value % 1000 == 0 && step + 1 < SUFFIXES.len() {
            value /= 1000;
            step += 1;
        }
        if value == 0 {
            return Quantity("0".to_owned());
        }
        Quantity(format!("{value}{}", SUFFIXES[step]))
    }
}

/// Division that rounds away from zero.
fn ceil(value: i128, by: i128) -> i64 {
    let rounded = if value < 0 {
        (value - by + 1) / by
    } else {
        (value + by - 1) / by
    };
    // Thousandths of a huge amount may pass 64 bits: they saturate.
    i64::try_from(rounded).unwrap_or(if rounded < 0 { i64::MIN } else { i64::MAX })
}

fn parse(text: &str) -> Option<i128> {
    let (negative, body) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let number_end = body
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(body.len());
    let (number, suffix) = body.split_at(number_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let scale = scale_of(suffix)?;
    let magnitude = scaled(whole, fraction, scale);
    Some(if negative { -magnitude } else { magnitude })
}

/// What a suffix multiplies by.
enum Scale {
    /// A power of 1024.
    Binary(u32),
    /// A power of ten.
    Decimal(i32),
}

fn scale_of(suffix: &str) -> Option<Scale> {
    Some(match suffix {
        "n" => Scale::Decimal(-9),
        "u" => Scale::Decimal(-6),
        "m" => Scale::Decimal(-3),
        "" => Scale::Decimal(0),
        "k" => Scale::Decimal(3),
        "M" => Scale::Decimal(6),
        "G" => Scale::Decimal(9),
        "T" => Scale::Decimal(12),
        "P" => Scale::Decimal(15),
        "E" => Scale::Decimal(18),
        "Ki" => Scale::Binary(1),
        "Mi" => Scale::Binary(2),
        "Gi" => Scale::Binary(3),
        "Ti" => Scale::Binary(4),
        "Pi" => Scale::Binary(5),
        "Ei" => Scale::Binary(6),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            Scale::Decimal(exponent.clamp(-60, 60))
        }
    })
}

/// `whole.fraction` times `scale` in billionths, rounded up, bounded by [`LIMIT`].
fn scaled(whole: &str, fraction: &str, scale: Scale) -> i128 {
    let whole = whole.trim_start_matches('0');
    // Digits that cannot matter: more whole digits than the limit has, and fractions far below a billionth of Ei.
    if whole.len() > 20 && !matches!(scale, Scale::Decimal(e) if e < 0) {
        return LIMIT;
    }
    let whole = &whole[..whole.len().min(28)];
    let mut value: u128 = if whole.is_empty() {
        0
    } else {
        whole.parse().unwrap_or(u128::MAX)
    };
    let (mut numerator, mut power) = (1u128, 9i32);
    match scale {
        Scale::Binary(step) => numerator = 1u128 << (10 * step),
        Scale::Decimal(exponent) => power += exponent,
    }
    let mut lost = false;
    for digit in fraction.bytes().map(|b| u128::from(b - b'0')) {
        match value.checked_mul(10).and_then(|v| v.checked_add(digit)) {
            Some(next) if next.checked_mul(numerator).is_some() => {
                value = next;
                power -= 1;
            }
            _ => lost |= digit != 0,
        }
    }
    let Some(mut value) = value.checked_mul(numerator) else {
        return LIMIT;
    };
    for _ in 0..power.max(0) {
        value = value.saturating_mul(10);
    }
    for _ in 0..(-power).max(0) {
        lost |= value % 10 != 0;
        value /= 10;
    }
    let value = value.saturating_add(u128::from(lost));
    i128::try_from(value).unwrap_or(LIMIT).min(LIMIT)
}
