//! The funnel: every effect outside this process passes here, and passes a fault point named by its caller first.

mod rtnl;

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub(crate) use rtnl::Rtnl;

use crate::fault;

/// The network namespace of the calling thread.
pub(crate) fn own_network_namespace() -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(
        "/proc/thread-self/ns/net",
        flags,
        Mode::empty(),
    )?)
}

/// Moves the calling thread into the network namespace behind `fd`.
pub(crate) fn enter_network_namespace(point: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
    fault::point(point);
    Ok(move_into_link_name_space(fd, Some(LinkNameSpaceType::Network))?)
}

/// Writes a kernel setting. `path` is relative to /proc/sys and belongs to the calling thread's network namespace.
pub(crate) fn write_sysctl(point: &str, path: &str, value: &str) -> io::Result<()> {
    fault::point(point);
    std::fs::write(Path::new("/proc/sys").join(path), value)
}

/// Reads a kernel setting, without the final newline.
pub(crate) fn read_sysctl(path: &str) -> io::Result<String> {
    Ok(std::fs::read_to_string(Path::new("/proc/sys").join(path))?
        .trim_end()
        .to_owned())
}

/// Replaces the file `name` of `directory`: readers and crashes see the old or the new content, never a part.
pub(crate) fn write_record(point: &str, directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    fault::point(point);
    let temporary = directory.join(format!(".{name}.new"));
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    drop(file);
    std::fs::rename(&temporary, directory.join(name))?;
    File::open(directory)?.sync_all()
}

/// Removes a file; one that is not there counts as removed.
pub(crate) fn remove_record(point: &str, path: &Path) -> io::Result<()> {
    fault::point(point);
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(source),
        _ => Ok(()),
    }
}

/// Renames a damaged record beside its old place.
pub(crate) fn set_aside(point: &str, path: &Path) -> io::Result<()> {
    fault::point(point);
    let mut aside = path.as_os_str().to_owned();
    aside.push(".damaged");
    std::fs::rename(path, PathBuf::from(aside))
}

/// Makes a directory and its parents, closed to other users.
pub(crate) fn make_directory(point: &str, path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fault::point(point);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

/// How long `nft` may take. A table of a few rules takes milliseconds.
const COMMAND_LIMIT: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};
const OUTPUT_LIMIT: u64 = 4096;

/// Runs `program` with `input` on its standard input; an error is the end of its error output.
pub(crate) fn run(point: &str, program: &Path, arguments: &[&str], input: &str) -> Result<(), String> {
    fault::point(point);
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| format!("{}: {source}", program.display()))?;
    let fed = child
        .stdin
        .take()
        .map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let status = match wait(&mut child) {
        Ok(status) => status,
        Err(source) => {
            // Both fail only if the child is gone already.
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("{}: {source}", program.display()));
        }
    };
    let mut output = String::new();
    if let Some(stderr) = child.stderr.take() {
        // What cannot be read is missing from the message, no more.
        let _ = stderr.take(OUTPUT_LIMIT).read_to_string(&mut output);
    }
    match (status.success(), fed) {
        (true, Ok(())) => Ok(()),
        (true, Err(source)) => Err(format!("{}: cannot write its input: {source}", program.display())),
        (false, _) => Err(format!("{}: {status}: {}", program.display(), output.trim())),
    }
}

fn wait(child: &mut Child) -> io::Result<std::process::ExitStatus> {
    let pid = Pid::from_child(child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    loop {
        match poll(&mut fds, Some(&COMMAND_LIMIT)) {
            Ok(0) => {
                let limit = Duration::from_secs(COMMAND_LIMIT.tv_sec.unsigned_abs());
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no end after {limit:?}"),
                ));
            }
            Ok(_) => return child.wait(),
            Err(rustix::io::Errno::INTR) => {}
            Err(source) => return Err(source.into()),
        }
    }
}
