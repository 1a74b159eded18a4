//! From root with all capabilities to what the plan grants.

use rustix::fs::{Gid, Uid};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::{Init, Trouble, adjust_oom_score};
use crate::failure::About as _;
use crate::sys::{mount, point, process};

/// Resource limits and the OOM score, while raising them is still allowed.
pub(super) fn set_limits(init: &mut Init<'_>) -> Result<(), Trouble> {
    if let Some(score) = init.plan.process.oom_score_adj {
        let procfs = mount::new_file_system("proc", &[], 0).about("proc")?;
        adjust_oom_score(&procfs, score)?;
    }
    for &(resource, soft, hard) in &init.plan.process.rlimits {
        process::set_limit(resource, soft, hard).about(format!("rlimit {resource} = {soft}:{hard}"))?;
    }
    Ok(())
}

fn each_bit() -> impl Iterator<Item = CapabilitySet> {
    (0..64).map(|number| CapabilitySet::from_bits_retain(1 << number))
}

/// Groups, bounding set, user, capability sets, in the order in which each is still allowed.
pub(super) fn reduce(init: &mut Init<'_>) -> Result<(), Trouble> {
    point("runtime.take_privileges");
    let account = init.account()?;
    let wanted = init.plan.process.capabilities;
    rustix::thread::set_keep_capabilities(true).about("keep capabilities")?;
    let groups: Vec<Gid> = account.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    rustix::thread::set_thread_groups(&groups).about("groups")?;
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid).about(format!("gid {}", account.gid))?;
    for bit in each_bit().filter(|bit| wanted.bounding & bit.bits() == 0) {
        match rustix::thread::capability_is_in_bounding_set(bit) {
            Ok(true) => rustix::thread::remove_capability_from_bounding_set(bit).about("bounding set")?,
            Ok(false) => {}
            // The kernel knows no capability from here on.
            Err(_) => break,
        }
    }
    rustix::thread::set_thread_res_uid(uid, uid, uid).about(format!("uid {}", account.uid))?;
    rustix::thread::set_keep_capabilities(false).about("keep capabilities")?;
    set_capabilities(wanted)?;
    if init.plan.process.no_new_privileges {
        rustix::thread::set_no_new_privs(true).about("no_new_privs")?;
    }
    // The change of user cleared it.
    set_parent_process_death_signal(Some(Signal::KILL)).about("parent death signal")
}

fn set_capabilities(wanted: crate::plan::Capabilities) -> Result<(), Trouble> {
    let held = rustix::thread::capabilities(None)
        .about("capabilities")?
        .permitted
        .bits();
    let (permitted, effective) = (wanted.permitted & held, wanted.effective & held);
    let inheritable = wanted.inheritable & held;
    let sets = CapabilitySets {
        effective: CapabilitySet::from_bits_retain(effective & permitted),
        permitted: CapabilitySet::from_bits_retain(permitted),
        inheritable: CapabilitySet::from_bits_retain(inheritable),
    };
    rustix::thread::set_capabilities(None, sets).about("capabilities")?;
    rustix::thread::clear_ambient_capability_set().about("ambient set")?;
    let ambient = wanted.ambient & permitted & inheritable;
    for bit in each_bit().filter(|bit| ambient & bit.bits() != 0) {
        rustix::thread::configure_capability_in_ambient_set(bit, true).about("ambient set")?;
    }
    Ok(())
}
