//! Set-up: from a fresh machine to one that can run the lab. Safe to repeat.

pub mod debian_packages;
mod go_tools;
pub(crate) mod peer_tools;
mod preflight;
mod privilege;
mod product;
mod progress;

pub use privilege::{as_user, become_root, give_back};
pub(crate) use privilege::{give_back_tree, make_dir};
pub use product::{Profile, TARGET};
pub use progress::{heading, run_step};

pub use crate::paths::cache_dir;
use crate::paths::{target_dir, workspace};
use anyhow::{Context as _, Result};
use std::path::PathBuf;

/// What is to be made ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Also the upstream node: kubelet, containerd, runc, CNI plugins.
    pub peers: bool,
    /// Also the product with fault points.
    pub fault_points: bool,
    /// Which build of the product.
    pub profile: Profile,
}

/// Where everything is, once set up.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Directory of the testbed's programs.
    pub tools: PathBuf,
    /// Program that becomes a node's init.
    pub init_program: PathBuf,
    /// Directory of the product's programs.
    pub product: PathBuf,
    fault_points: Option<PathBuf>,
}

impl Prepared {
    /// Directory of the product's programs, with fault points or without.
    pub fn programs(&self, fault_points: bool) -> Result<PathBuf> {
        if fault_points {
            return self
                .fault_points
                .clone()
                .context("the build with fault points was not asked for");
        }
        Ok(self.product.clone())
    }
}

/// Checks the machine, installs and builds what is missing. Must run as root (see [`become_root`]).
pub fn prepare(request: &Request) -> Result<Prepared> {
    preflight::check()?;
    debian_packages::install_missing()?;
    product::add_target()?;
    let tools = go_tools::build(request.peers)?;
    if request.peers {
        peer_tools::build(&tools)?;
    }
    let product = product::build(request.profile, false)?;
    let fault_points = request
        .fault_points
        .then(|| product::build(request.profile, true))
        .transpose()?;
    Ok(Prepared {
        tools,
        init_program: init_program()?,
        product,
        fault_points,
    })
}

/// What [`prepare`] made in an earlier run, without looking whether it is current.
pub fn prepared(profile: Profile) -> Result<Prepared> {
    let product = product::directory(profile, false);
    let fault_points = Some(product::directory(profile, true)).filter(|dir| dir.exists());
    Ok(Prepared {
        tools: go_tools::directory()?,
        init_program: init_program()?,
        product,
        fault_points,
    })
}

/// `xtask` itself; a test program that brings a lab up finds it by `$LONGSHORE_XTASK` or where cargo puts it.
fn init_program() -> Result<PathBuf> {
    if let Some(program) = std::env::var_os("LONGSHORE_XTASK") {
        return Ok(PathBuf::from(program));
    }
    let own = std::env::current_exe().context("find this program")?;
    if own.file_name().is_some_and(|name| name == "xtask") {
        return Ok(own);
    }
    let built = [target_dir(), workspace().join("target")].map(|dir| dir.join("debug/xtask"));
    built
        .into_iter()
        .find(|program| program.exists())
        .context("build it first: cargo build -p xtask")
}
