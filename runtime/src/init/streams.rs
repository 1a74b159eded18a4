//! The program's standard streams: pipes to the keeper, the null device, or a terminal.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::pty::OpenptFlags;

use super::resolve::{self, Kind};
use super::{Init, Trouble};
use crate::failure::About as _;
use crate::sys::{file, mount};

/// The init's ends of the pipes; none = the null device.
pub(crate) struct Streams {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

impl Streams {
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [&self.stdin, &self.stdout, &self.stderr]
            .into_iter()
            .flatten()
            .map(|stream| stream.as_fd())
    }
}

/// Opens a terminal in the container's own devpts and shows it as /dev/console.
pub(super) fn make_terminal(init: &mut Init<'_>) -> Result<(), Trouble> {
    if !init.plan.process.terminal {
        return Ok(());
    }
    const PATH: &str = "/dev/pts/ptmx";
    let ours = resolve::device(init.root()?, PATH).about(PATH)?;
    if rustix::fs::fstatfs(&ours).about(PATH)?.f_type != libc::DEVPTS_SUPER_MAGIC {
        return Err(Trouble::rule(PATH, "is not in a devpts file system"));
    }
    rustix::pty::unlockpt(&ours).about(PATH)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags).about(PATH)?;
    let console = resolve::destination(init.root()?, "/dev/console", Kind::File)?;
    let cover = mount::copy_opened(&theirs, false).about("/dev/console")?;
    mount::attach(&cover, console.as_fd()).about("/dev/console")?;
    init.terminal = Some(ours);
    let copy = || {
        theirs
            .try_clone()
            .map_err(|error| Trouble::rule("terminal", error.to_string()))
    };
    init.streams = Streams {
        stdin: Some(copy()?),
        stdout: Some(copy()?),
        stderr: Some(copy()?),
    };
    Ok(())
}

/// Makes the streams descriptors 0 to 2, owned by the program's user so that it can open /dev/stdout again.
pub(super) fn connect(init: &mut Init<'_>) -> Result<(), Trouble> {
    let (uid, gid) = (init.account()?.uid, init.account()?.gid);
    let terminal = init.plan.process.terminal;
    for stream in init.streams.descriptors() {
        let group = if terminal {
            rustix::fs::fstat(stream).about("terminal")?.st_gid
        } else {
            gid
        };
        file::set_owner(stream, uid, group).about("standard stream")?;
    }
    let null = init
        .null
        .as_ref()
        .ok_or_else(|| Trouble::rule("/dev/null", "it is not open"))?;
    let Streams {
        stdin,
        stdout,
        stderr,
    } = &init.streams;
    rustix::stdio::dup2_stdin(stdin.as_ref().unwrap_or(null)).about("standard input")?;
    rustix::stdio::dup2_stdout(stdout.as_ref().unwrap_or(null)).about("standard output")?;
    rustix::stdio::dup2_stderr(stderr.as_ref().unwrap_or(null)).about("standard error")?;
    if terminal {
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin()).about("terminal")?;
    }
    init.streams = Streams {
        stdin: None,
        stdout: None,
        stderr: None,
    };
    Ok(())
}
