//! Loading a device filter into the kernel.
#![expect(unsafe_code, reason = "bpf(2) has no safe binding")]

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use super::point;

/// One eBPF instruction, `struct bpf_insn`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Instruction {
    pub(crate) operation: u8,
    /// Target in the low half, source in the high half.
    pub(crate) registers: u8,
    pub(crate) skip: i16,
    pub(crate) value: u32,
}

const BPF_PROG_LOAD: u32 = 5;
const BPF_PROG_ATTACH: u32 = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// The first fields of `union bpf_attr` for a load; the rest is zero by being absent.
#[repr(C)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
}

/// The first fields of `union bpf_attr` for an attachment.
#[repr(C)]
struct Attach {
    target: RawFd,
    program: RawFd,
    kind: u32,
    flags: u32,
}

fn bpf<T>(command: u32, attributes: &T) -> Result<i64, Errno> {
    // SAFETY: the attributes and what they point to are borrowed over the call, the kernel reads `size_of::<T>()` bytes
    // of them and writes none for these two commands.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            std::mem::size_of::<T>(),
        )
    };
    if result >= 0 {
        return Ok(result);
    }
    Err(Errno::from_raw_os_error(
        std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO),
    ))
}

/// Loads the program and has it judge every device access of `cgroup`, in addition to those of the groups above. It
/// goes with the cgroup.
pub(crate) fn attach(cgroup: impl AsFd, program: &[Instruction]) -> Result<(), Errno> {
    point("runtime.attach_device_filter");
    let load = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(program.len()).map_err(|_| Errno::TOOBIG)?,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
    };
    let loaded = RawFd::try_from(bpf(BPF_PROG_LOAD, &load)?).map_err(|_| Errno::BADF)?;
    // SAFETY: a successful load returns a new descriptor that nothing else owns.
    let loaded = unsafe { OwnedFd::from_raw_fd(loaded) };
    let attach = Attach {
        target: cgroup.as_fd().as_raw_fd(),
        program: loaded.as_raw_fd(),
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    bpf(BPF_PROG_ATTACH, &attach).map(drop)
}
