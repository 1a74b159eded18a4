//! From amounts to the kernel's figures. Contract §8.2.

/// Smallest and largest cpu.shares.
pub(crate) const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;
/// Smallest CPU quota in µs that the kernel takes.
const MIN_QUOTA: i64 = 1000;

/// CPU shares of `milli` thousandths of a CPU.
pub(crate) fn shares(milli: i64) -> u64 {
    let milli = u64::try_from(milli).unwrap_or(0);
    (milli.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// CPU quota in µs a `period` of µs; 0 for no limit.
pub(crate) fn quota(milli: i64, period: i64) -> i64 {
    if milli <= 0 {
        return 0;
    }
    (milli.saturating_mul(period) / 1000).max(MIN_QUOTA)
}

/// `cpu.weight` for `shares`, as runtimes convert them since 2025: 1024 → 100, ends to ends.
pub(crate) fn weight(shares: u64) -> u64 {
    if shares <= MIN_SHARES {
        return 1;
    }
    if shares >= MAX_SHARES {
        return 10_000;
    }
    // Exact: shares are below 2^18 here.
    #[expect(clippy::cast_precision_loss, reason = "shares are below 2^18 here")]
    let l = (shares as f64).log2();
    let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and 10000 over the whole range"
    )]
    let weight = 10f64.powf(exponent).ceil() as u64;
    weight.clamp(1, 10_000)
}

/// The text of `cpu.max`.
pub(crate) fn cpu_max(quota: i64, period: i64) -> String {
    if quota <= 0 {
        format!("max {period}")
    } else {
        format!("{quota} {period}")
    }
}

/// A huge page size as the kernel and CRI write it (`2MB`, `1GB`) from a resource name (`hugepages-2Mi`).
pub(crate) fn page_size_name(bytes: i64) -> String {
    const UNITS: [&str; 4] = ["B", "KB", "MB", "GB"];
    let (mut value, mut step) = (bytes, 0);
    while value >= 1024 && value % 1024 == 0 && step + 1 < UNITS.len() {
        value /= 1024;
        step += 1;
    }
    format!("{value}{}", UNITS[step])
}
