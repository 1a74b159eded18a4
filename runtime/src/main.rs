//! `longshore-oci`: the keeper of a pod, and a look at the plans of a bundle.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use oci_spec::runtime::Spec;
use runtime::compile::{self, Extras, SandboxExtras};
use runtime::plan::{Rootfs, Stdio};

const USAGE: &str = "usage: longshore-oci keeper | plan BUNDLE | --version";

/// Id in the plans of a bundle that was not given one.
const BUNDLE_ID: &str = "bundle";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["keeper", ref rest @ ..] => runtime::keeper::run(rest),
        ["plan", bundle] => match print_plans(Path::new(bundle)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("longshore-oci: plan {bundle}: {error}");
                ExitCode::FAILURE
            }
        },
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

/// Prints what a keeper would be told to run a bundle.
fn print_plans(bundle: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let spec = Spec::load(bundle.join("config.json"))?;
    let root = spec
        .root()
        .as_ref()
        .map_or_else(|| PathBuf::from("rootfs"), |root| root.path().clone());
    let bundle = std::fs::canonicalize(bundle)?;
    let cgroup = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.cgroups_path().clone());
    let cgroup = cgroup.unwrap_or_else(|| PathBuf::from(BUNDLE_ID));
    let cgroup = Path::new("/sys/fs/cgroup").join(cgroup.strip_prefix("/").unwrap_or(&cgroup));
    let sandbox = SandboxExtras {
        id: BUNDLE_ID.to_owned(),
        keeper_cgroup: format!("{}-keeper", cgroup.display()),
        directory: format!("/run/longshore/sandboxes/{BUNDLE_ID}"),
        oom_score_adj: 0,
    };
    let container = Extras {
        id: BUNDLE_ID.to_owned(),
        rootfs: Rootfs::Directory {
            path: bundle.join(root).display().to_string(),
            readonly: false,
        },
        stdio: Stdio {
            log_path: None,
            stdin: false,
            stdin_once: false,
        },
        cgroup_path: cgroup.display().to_string(),
        user: None,
    };
    println!(
        "{:#?}\n{:#?}",
        compile::sandbox(&spec, sandbox)?,
        compile::container(&spec, container)?
    );
    Ok(())
}
