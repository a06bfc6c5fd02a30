//! The calls that give up rights for good: an island of unsafe code. What is given up is said in `mod.rs`.

#![allow(unsafe_code)]

use rustix::io::{self, Errno};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Whom a filter binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// All threads that there are, and those that they start.
    Process,
    /// This thread, and those that it starts.
    #[cfg(test)]
    Thread,
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Has the kernel run `program` before every system call from now on.
pub(super) fn install_filter(program: &mut [libc::sock_filter], reach: Reach) -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    let length = u16::try_from(program.len()).map_err(|_| Errno::TOOBIG)?;
    let program = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    // SPEC_ALLOW: kernels before 5.16 else make every memory access of the process slower, as a defence against code that
    // this process does not run.
    let flags = match reach {
        Reach::Process => libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        #[cfg(test)]
        Reach::Thread => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    };
    // SAFETY: the call reads a program of the stated length and keeps nothing of ours.
    match unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    } {
        0 => Ok(()),
        -1 => Err(last_error()),
        // The thread that another filter keeps from having this one.
        _ => Err(Errno::BUSY),
    }
}

/// `struct landlock_ruleset_attr`. An older kernel takes the longer structure if what it does not know is 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Handled {
    pub(super) files: u64,
    pub(super) network: u64,
    pub(super) scopes: u64,
}

/// `struct landlock_path_beneath_attr`
#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: i32,
}

const CREATE_RULESET_VERSION: u32 = 1;
const RULE_PATH_BENEATH: u32 = 1;

/// The version of Landlock that the kernel has.
pub(super) fn landlock_version() -> io::Result<u32> {
    let nothing = std::ptr::null::<Handled>();
    // SAFETY: with this flag the call reads no structure.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0usize, CREATE_RULESET_VERSION) };
    u32::try_from(version).map_err(|_| last_error())
}

/// Rules that forbid everything that they handle, until exceptions are added.
#[derive(Debug)]
pub(super) struct Ruleset(OwnedFd);

impl Ruleset {
    pub(super) fn new(handled: Handled) -> io::Result<Ruleset> {
        let bytes = size_of::<Handled>();
        // SAFETY: the call reads a structure of the stated size.
        let descriptor =
            unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const handled, bytes, 0u32) };
        match i32::try_from(descriptor) {
            // SAFETY: a new descriptor that nobody else knows.
            Ok(descriptor @ 0..) => Ok(Ruleset(unsafe { OwnedFd::from_raw_fd(descriptor) })),
            _ => Err(last_error()),
        }
    }

    /// Allows `rights` for a file, or for everything beneath a folder.
    pub(super) fn allow(&self, path: impl AsFd, rights: u64) -> io::Result<()> {
        let rule = PathBeneath { allowed: rights, parent: path.as_fd().as_raw_fd() };
        let ruleset = self.0.as_raw_fd();
        // SAFETY: the call reads the structure that belongs to this kind of rule.
        match unsafe {
            libc::syscall(libc::SYS_landlock_add_rule, ruleset, RULE_PATH_BENEATH, &raw const rule, 0u32)
        } {
            0 => Ok(()),
            _ => Err(last_error()),
        }
    }

    /// From now on these rules bind this thread and those that it starts.
    pub(super) fn enforce(self) -> io::Result<()> {
        rustix::thread::set_no_new_privs(true)?;
        // SAFETY: the call takes plain numbers.
        match unsafe { libc::syscall(libc::SYS_landlock_restrict_self, self.0.as_raw_fd(), 0u32) } {
            0 => Ok(()),
            _ => Err(last_error()),
        }
    }
}
