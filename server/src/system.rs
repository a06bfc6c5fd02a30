//! What the operating system has and safe wrappers lack: signals as a descriptor, going to the background, users,
//! resource use. An island of unsafe code; each function is one call, or a few that belong together.

#![allow(unsafe_code)]

use rustix::io;
use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

fn last_error() -> io::Errno {
    io::Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(io::Errno::IO)
}

/// What the signals that this server listens to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Interrupt,
    Terminate,
    /// SIGUSR1: end well and keep the cache, where it can be kept.
    Graceful,
    HangUp,
}

const SIGNALS: [(i32, Signal); 4] = [
    (libc::SIGINT, Signal::Interrupt),
    (libc::SIGTERM, Signal::Terminate),
    (libc::SIGUSR1, Signal::Graceful),
    (libc::SIGHUP, Signal::HangUp),
];

/// Signals as something to wait for: they interrupt no thread.
#[derive(Debug)]
pub(crate) struct Signals {
    pub(crate) descriptor: OwnedFd,
}

impl Signals {
    /// Blocks the signals for this thread and all that it starts: call it before any thread is started.
    pub(crate) fn listen() -> io::Result<Signals> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set; the other calls get an initialised set and constants.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for (number, _) in SIGNALS {
                libc::sigaddset(set.as_mut_ptr(), number);
            }
            if libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) != 0 {
                return Err(last_error());
            }
            let descriptor = libc::signalfd(-1, set.as_ptr(), libc::SFD_NONBLOCK | libc::SFD_CLOEXEC);
            if descriptor < 0 {
                return Err(last_error());
            }
            Ok(Signals { descriptor: OwnedFd::from_raw_fd(descriptor) })
        }
    }

    /// The next signal that has come, if one has.
    pub(crate) fn next(&self) -> Option<Signal> {
        let mut information = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
        let bytes = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer is `bytes` long; a zeroed signalfd_siginfo is valid, and the kernel writes whole ones.
        let number = unsafe {
            let got = libc::read(self.descriptor.as_raw_fd(), information.as_mut_ptr().cast(), bytes);
            if got != bytes as isize {
                return None;
            }
            information.assume_init().ssi_signo
        };
        SIGNALS.iter().find(|(known, _)| *known as u32 == number).map(|(_, signal)| *signal)
    }
}

/// Leaves the parent behind and the terminal with it: the parent ends at once. Call it before any thread is started.
pub(crate) fn daemonize(keep_directory: bool, keep_streams: bool) -> io::Result<()> {
    // SAFETY: one thread runs, so the child may go on with everything that it inherited. _exit ends the parent without
    // running what the child still has to run.
    unsafe {
        match libc::fork() {
            -1 => return Err(last_error()),
            0 => {}
            _ => libc::_exit(0),
        }
        if libc::setsid() == -1 {
            return Err(last_error());
        }
    }
    if !keep_directory {
        rustix::process::chdir("/")?;
    }
    if !keep_streams {
        let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty())?;
        for stream in 0..3 {
            // SAFETY: descriptors 0, 1 and 2 are the standard streams, replaced as a daemon should.
            if unsafe { libc::dup2(null.as_raw_fd(), stream) } == -1 {
                return Err(last_error());
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// `None`: there is no such user.
pub(crate) fn user_by_name(name: &str) -> Option<User> {
    let name = CString::new(name).ok()?;
    let mut entry = MaybeUninit::<libc::passwd>::uninit();
    let mut strings = vec![0 as libc::c_char; 16 << 10];
    let mut found = std::ptr::null_mut();
    // SAFETY: all pointers are to live memory of the stated lengths; `entry` is read only when the call says that it
    // was filled in.
    unsafe {
        let result = libc::getpwnam_r(
            name.as_ptr(),
            entry.as_mut_ptr(),
            strings.as_mut_ptr(),
            strings.len(),
            &raw mut found,
        );
        if result != 0 || found.is_null() {
            return None;
        }
        let entry = entry.assume_init();
        Some(User { uid: entry.pw_uid, gid: entry.pw_gid })
    }
}

/// Becomes `user` for good, with no supplementary groups. For the whole process.
pub(crate) fn become_user(user: User) -> io::Result<()> {
    // SAFETY: these calls take plain numbers; setgroups with a count of 0 reads no list.
    unsafe {
        if libc::setgroups(0, std::ptr::null()) != 0 {
            let error = last_error();
            // Refused where privileges are minimal already: then there is nothing to drop.
            if error != io::Errno::PERM {
                return Err(error);
            }
        }
        if libc::setgid(user.gid) != 0 || libc::setuid(user.uid) != 0 {
            return Err(last_error());
        }
    }
    Ok(())
}

/// Processor time that the process has used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) user: Duration,
    pub(crate) system: Duration,
}

pub(crate) fn usage() -> Usage {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to memory for one rusage, which is valid when zeroed.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    let duration = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.max(0) as u64) + Duration::from_micros(time.tv_usec.max(0) as u64)
    };
    Usage { user: duration(usage.ru_utime), system: duration(usage.ru_stime) }
}
