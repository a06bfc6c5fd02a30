//! The system calls that a server makes while it serves. Every other one is refused (seccomp).
//!
//! Serving, telling, reloading and ending are here; starting is not: programs that are run, files that are written, sockets
//! that are opened. The most frequent come first, for kernels that run through the list (before 5.11). What is missing
//! shows in the tests, whose servers end at the first call that is not here.

use super::filter::Condition::{Is, Lacks};
use super::filter::Rule::{self, Always, When};

/// What depends on the command line.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Needs {
    /// Addresses and MTUs of interfaces are looked up each second, from the kernel by netlink.
    pub(super) addresses: bool,
    /// Files are removed at the end.
    pub(super) removes: bool,
}

pub(super) fn rules(needs: Needs) -> Vec<Rule> {
    let mut rules = SERVING.to_vec();
    #[cfg(target_arch = "x86_64")]
    rules.extend(SERVING_X86);
    rules.extend(MEMORY);
    rules.extend(LIFE);
    // Its own threads only: how a process ends itself.
    rules.push(When(libc::SYS_tgkill, 0, Is(std::process::id())));
    rules.extend(FILES);
    if needs.addresses {
        rules.extend([
            When(libc::SYS_socket, 0, Is(libc::AF_NETLINK as u32)),
            When(libc::SYS_ioctl, 1, Is(libc::SIOCGIFMTU as u32)),
            Always(libc::SYS_bind),
        ]);
    }
    if needs.removes {
        rules.push(Always(libc::SYS_unlinkat));
        #[cfg(target_arch = "x86_64")]
        rules.push(Always(libc::SYS_unlink));
    }
    rules
}

const SERVING: [Rule; 24] = [
    Always(libc::SYS_epoll_pwait),
    Always(libc::SYS_recvfrom),
    Always(libc::SYS_sendto),
    Always(libc::SYS_read),
    Always(libc::SYS_write),
    Always(libc::SYS_writev),
    Always(libc::SYS_sendmsg),
    Always(libc::SYS_recvmsg),
    Always(libc::SYS_recvmmsg),
    Always(libc::SYS_sendmmsg),
    Always(libc::SYS_epoll_ctl),
    Always(libc::SYS_futex),
    Always(libc::SYS_accept4),
    Always(libc::SYS_close),
    Always(libc::SYS_shutdown),
    Always(libc::SYS_getsockname),
    Always(libc::SYS_getpeername),
    Always(libc::SYS_getsockopt),
    Always(libc::SYS_setsockopt),
    // A worker that begins, or a watcher.
    Always(libc::SYS_epoll_create1),
    Always(libc::SYS_eventfd2),
    Always(libc::SYS_timerfd_create),
    Always(libc::SYS_timerfd_settime),
    Always(libc::SYS_fcntl),
];

#[cfg(target_arch = "x86_64")]
const SERVING_X86: [Rule; 2] = [Always(libc::SYS_epoll_wait), Always(libc::SYS_poll)];

const MEMORY: [Rule; 9] = [
    Always(libc::SYS_madvise),
    Always(libc::SYS_munmap),
    Always(libc::SYS_mremap),
    Always(libc::SYS_brk),
    Always(libc::SYS_msync),
    // No memory that can be written becomes code.
    When(libc::SYS_mmap, 2, Lacks(libc::PROT_EXEC as u32)),
    When(libc::SYS_mprotect, 2, Lacks(libc::PROT_EXEC as u32)),
    Always(libc::SYS_membarrier),
    // The names of the allocator's mappings.
    When(libc::SYS_prctl, 0, Is(PR_SET_VMA)),
];
const PR_SET_VMA: u32 = 0x5356_4d41;

const LIFE: [Rule; 25] = [
    Always(libc::SYS_clock_gettime),
    Always(libc::SYS_gettimeofday),
    Always(libc::SYS_clock_nanosleep),
    Always(libc::SYS_nanosleep),
    Always(libc::SYS_sched_yield),
    Always(libc::SYS_getrandom),
    Always(libc::SYS_getrusage),
    Always(libc::SYS_getpid),
    Always(libc::SYS_gettid),
    Always(libc::SYS_getcpu),
    Always(libc::SYS_uname),
    Always(libc::SYS_sysinfo),
    Always(libc::SYS_sched_getaffinity),
    Always(libc::SYS_ppoll),
    Always(libc::SYS_restart_syscall),
    Always(libc::SYS_rt_sigaction),
    Always(libc::SYS_rt_sigprocmask),
    Always(libc::SYS_rt_sigreturn),
    Always(libc::SYS_sigaltstack),
    // A thread that begins or ends.
    Always(libc::SYS_set_robust_list),
    Always(libc::SYS_rseq),
    When(libc::SYS_prctl, 0, Is(libc::PR_SET_NAME as u32)),
    Always(libc::SYS_exit),
    Always(libc::SYS_exit_group),
    Always(libc::SYS_getuid),
];

/// To write, to make or to empty a file.
const NOT_ONLY_READ: u32 = (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC) as u32;

const FILES: [Rule; 7] = [
    When(libc::SYS_openat, 2, Lacks(NOT_ONLY_READ)),
    Always(libc::SYS_fstat),
    Always(libc::SYS_newfstatat),
    Always(libc::SYS_statx),
    Always(libc::SYS_lseek),
    Always(libc::SYS_pread64),
    // glibc asks whether a stream is a terminal.
    When(libc::SYS_ioctl, 1, Is(libc::TCGETS as u32)),
];
