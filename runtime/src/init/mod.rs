//! Container init: from a child just cloned to the container's program, as a list of named steps.
//!
//! It runs in the child, single-threaded, and never returns. Everything inside the container's root is reached by
//! descriptor: `resolve` walks destinations, `mounts`, `devices` and `masks` work on what it opened.

mod account;
mod devices;
mod masks;
mod mounts;
mod privileges;
mod program;
mod report;
mod resolve;
mod root;
mod streams;

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::Mode;
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::UnshareFlags;

pub(crate) use self::report::{Heard, START, hear};
pub(crate) use self::streams::Streams;

use self::account::Account;
use self::program::Program;
use crate::failure::{About as _, Trouble};
use crate::plan::ContainerPlan;
use crate::sys::{file, mount, process, signal};

/// Exit code of an init that gave up; the reason went to the keeper before.
const GAVE_UP: i32 = 128;

/// What the steps hand to one another.
struct Init<'a> {
    plan: &'a ContainerPlan,
    control: OwnedFd,
    streams: Streams,
    /// `/dev/null` as opened in our own mount namespace.
    null: Option<OwnedFd>,
    /// Detached copies of what bind mounts show, in the order of the plan's mounts.
    sources: Vec<Option<OwnedFd>>,
    /// The container's root.
    root: Option<OwnedFd>,
    /// The other side of the container's terminal.
    terminal: Option<OwnedFd>,
    account: Option<Account>,
    program: Option<Program>,
}

impl Init<'_> {
    fn root(&self) -> Result<BorrowedFd<'_>, Trouble> {
        self.root
            .as_ref()
            .map(|root| root.as_fd())
            .ok_or_else(|| Trouble::rule("/", "no root is mounted yet"))
    }

    fn account(&self) -> Result<&Account, Trouble> {
        self.account
            .as_ref()
            .ok_or_else(|| Trouble::rule("user", "the user is not resolved yet"))
    }
}

type Deed = fn(&mut Init<'_>) -> Result<(), Trouble>;

/// The way from clone to exec. The order matters: what needs privilege or the host's tree comes before they are gone.
const STEPS: &[(&str, Deed)] = &[
    ("isolate", isolate),
    ("enter cgroup namespace", enter_cgroup_namespace),
    ("open mount source", mounts::open_sources),
    ("make mounts private", make_private),
    ("mount root", root::mount),
    ("mount", mounts::attach_all),
    ("make device", devices::make),
    ("make terminal", streams::make_terminal),
    ("mask path", masks::mask),
    ("make path read-only", masks::make_readonly),
    ("make root read-only", root::make_readonly),
    ("pivot root", root::pivot),
    ("resolve user", account::resolve),
    ("set limits", privileges::set_limits),
    ("change directory", root::change_directory),
    ("connect streams", streams::connect),
    ("take privileges", privileges::reduce),
    ("find program", program::find),
    ("close descriptors", close_descriptors),
    ("report ready", report::ready),
    ("wait for start", report::wait_for_start),
    ("exec", program::execute),
];

/// Carries out the plan in the child. Ends in the container's program, or in the end of the process.
pub(crate) fn run(plan: &ContainerPlan, control: OwnedFd, streams: Streams) -> ! {
    let mut init = Init {
        plan,
        control,
        streams,
        null: None,
        sources: Vec::new(),
        root: None,
        terminal: None,
        account: None,
        program: None,
    };
    for (name, deed) in STEPS {
        if let Err(trouble) = deed(&mut init) {
            report::failed(&init, trouble.in_step(name));
            break;
        }
    }
    process::exit_now(GAVE_UP)
}

/// Lets go of all that is the keeper's: descriptors, signals, session. Dies with the keeper from here on.
fn isolate(init: &mut Init<'_>) -> Result<(), Trouble> {
    set_parent_process_death_signal(Some(Signal::KILL)).about("parent death signal")?;
    let mut kept = vec![init.control.as_fd()];
    kept.extend(init.streams.descriptors());
    process::close_all_but(&kept).about("descriptors")?;
    signal::reset_signals().about("signals")?;
    rustix::process::setsid().about("session")?;
    // Modes of what is made below are exact; the container's own mask is set at the end.
    rustix::process::umask(Mode::empty());
    init.null = Some(file::open_null().about("/dev/null")?);
    Ok(())
}

/// After birth in the container's cgroup, so that this is the root that the container sees, on every kernel.
fn enter_cgroup_namespace(_: &mut Init<'_>) -> Result<(), Trouble> {
    process::unshare(UnshareFlags::NEWCGROUP).about("cgroup")
}

fn make_private(_: &mut Init<'_>) -> Result<(), Trouble> {
    mount::make_all_private().about("/")
}

fn close_descriptors(init: &mut Init<'_>) -> Result<(), Trouble> {
    (init.sources, init.root) = (Vec::new(), None);
    rustix::process::umask(Mode::from_raw_mode(init.plan.process.umask & 0o777));
    process::close_rest_on_exec().about("descriptors")
}

/// Writes `oom_score_adj` of this process; where the kernel refuses to go so low, the inherited value stays.
pub(crate) fn adjust_oom_score(procfs: &OwnedFd, score: i32) -> Result<(), Trouble> {
    let text = score.clamp(-1000, 1000).to_string();
    match file::write_at(
        "runtime.write_oom_score",
        procfs,
        "self/oom_score_adj",
        text.as_bytes(),
    ) {
        Ok(()) | Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => Ok(()),
        Err(errno) => Err(Trouble::kernel(format!("oom_score_adj = {text}"), errno)),
    }
}
