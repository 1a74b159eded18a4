//! The keeper's listening socket and the private socket between keeper and container init.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use super::{file, point};

/// Drivers that may wait to be accepted.
const BACKLOG: i32 = 16;

/// A listening UNIX socket `directory/child`, non-blocking; a socket left there by a dead keeper is replaced.
///
/// For its owner only. Changes the working directory to `/`: a socket address holds 108 bytes,
/// which a long directory would not leave room for.
pub(crate) fn listen_in(directory: &Path, child: &str) -> Result<OwnedFd, Errno> {
    file::remove("runtime.unlink_socket", &directory.join(child))?;
    point("runtime.bind_socket");
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Before it is bound, so that the name never shows with another mode.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::process::chdir(directory)?;
    let bound = SocketAddrUnix::new(child).and_then(|address| rustix::net::bind(&socket, &address));
    rustix::process::chdir("/")?;
    bound?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Both ends of a packet socket, close-on-exec: (blocking end, non-blocking end).
pub(crate) fn control_pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (child, keeper) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::io::ioctl_fionbio(&keeper, true)?;
    Ok((child, keeper))
}

/// Gives a waiting init the word to start.
pub(crate) fn send_start(control: &OwnedFd, word: &[u8]) -> Result<(), Errno> {
    point("runtime.start");
    rustix::net::send(control, word, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map(drop)
}
