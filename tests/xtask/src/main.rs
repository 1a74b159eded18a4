//! Set-up, tests, lab and benches.

fn main() {}
