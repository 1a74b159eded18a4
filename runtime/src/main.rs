//! `longshore-oci`: the keeper of a pod, and a look at the plan of a bundle.

use std::process::ExitCode;

const USAGE: &str = "usage: longshore-oci keeper | plan BUNDLE | --version";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["keeper"] => runtime::keeper::run(),
        ["--version"] => {
            println!("longshore-oci {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}
