//! The system calls that the standard library does not have: epoll, affinity, batched datagrams, resource limits.
//!
//! The only unsafe code of this crate. Every function here is safe to call with any arguments.
#![allow(unsafe_code)]

use std::io::{Error, Result};
use std::net::{SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

fn check(result: libc::c_int) -> Result<libc::c_int> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

/// Cores that this thread may run on.
pub fn cores() -> Result<Vec<usize>> {
    // SAFETY: all zeroes is a valid (empty) cpu_set_t.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is writable and its size is given; pid 0 is the calling thread.
    check(unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) })?;
    // SAFETY: every index is below CPU_SETSIZE, the set's number of bits.
    Ok((0..libc::CPU_SETSIZE as usize).filter(|core| unsafe { libc::CPU_ISSET(*core, &set) }).collect())
}

/// Binds the calling thread, and what it starts from now on, to `cores`.
pub fn pin(cores: &[usize]) -> Result<()> {
    // SAFETY: all zeroes is a valid (empty) cpu_set_t.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for core in cores.iter().filter(|core| **core < libc::CPU_SETSIZE as usize) {
        // SAFETY: the index was just checked against the set's number of bits.
        unsafe { libc::CPU_SET(*core, &mut set) };
    }
    // SAFETY: `set` is readable and its size is given; pid 0 is the calling thread.
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) }).map(drop)
}

/// Whether this process, and what it starts from now on, may have huge pages.
pub fn huge_pages_allow(allow: bool) -> Result<()> {
    // SAFETY: numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, libc::c_ulong::from(!allow), 0, 0, 0) }).map(drop)
}

/// Raises the soft limit of open files to the hard one and returns it.
pub fn open_files_max() -> Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a writable rlimit.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is a readable rlimit.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) })?;
    Ok(limit.rlim_cur)
}

/// Connects with a small receive buffer and an Ethernet's segment size, both set before the handshake. A reader that
/// stops is then felt by the server after some 100 KB, as over a network; on a plain loopback connection the kernel
/// would take megabytes first.
pub fn connect_narrow(address: SocketAddrV4, receive_buffer_bytes: i32) -> Result<TcpStream> {
    const SEGMENT_BYTES: i32 = 1448;
    // SAFETY: no preconditions.
    let socket = check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor is new and owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    socket_option_set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, receive_buffer_bytes)?;
    socket_option_set(&socket, libc::IPPROTO_TCP, libc::TCP_MAXSEG, SEGMENT_BYTES)?;
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    };
    let bytes = size_of_val(&address) as libc::socklen_t;
    // SAFETY: `address` is a readable sockaddr_in of the stated size.
    check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), bytes) })?;
    Ok(TcpStream::from(socket))
}

pub fn receive_buffer_set(socket: &impl AsRawFd, bytes: i32) -> Result<()> {
    socket_option_set(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes)
}

fn socket_option_set(
    socket: &impl AsRawFd,
    level: libc::c_int,
    option: libc::c_int,
    value: i32,
) -> Result<()> {
    let bytes = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the option's value is a readable int of the stated size; a bad descriptor is an error, not a hazard.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), bytes) })
        .map(drop)
}

/// Writes a file back and forgets its pages: whoever reads it next waits for its disk.
pub fn drop_from_page_cache(file: &std::fs::File) -> Result<()> {
    file.sync_all()?;
    // SAFETY: advice about a descriptor that is open.
    let error = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    if error == 0 { Ok(()) } else { Err(Error::from_raw_os_error(error)) }
}

/// Ticks per second of /proc/PID/stat.
pub fn ticks_per_second() -> u64 {
    // SAFETY: sysconf has no preconditions.
    unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64
}

/// Under callgrind started with `--instr-atstart=no`: counts from now on (true) or no more. Elsewhere it does nothing.
/// Its request numbers and the sequence that it recognises are valgrind's documented client interface.
pub fn count_instructions(count: bool) {
    const START: u64 = 0x4354_0004;
    const STOP: u64 = 0x4354_0005;
    let request: [u64; 6] = [if count { START } else { STOP }, 0, 0, 0, 0, 0];
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the rotations add up to 128 bits and the exchange is with itself, so outside valgrind no register
    // changes; inside, it reads `request` and writes rdx.
    unsafe {
        std::arch::asm!(
            "rol rdi, 3", "rol rdi, 13", "rol rdi, 61", "rol rdi, 51", "xchg rbx, rbx",
            in("rax") request.as_ptr(), inout("rdx") 0u64 => _, inout("rdi") 0u64 => _,
        );
    }
    let _ = request;
}

/// Readiness events, level-triggered, with a token each.
#[derive(Debug)]
pub struct Epoll {
    descriptor: OwnedFd,
    events: Vec<libc::epoll_event>,
    ready: usize,
}

#[derive(Clone, Copy, Debug)]
pub struct Ready {
    pub token: usize,
    pub readable: bool,
    pub writable: bool,
}

impl Epoll {
    pub fn new(events_max: usize) -> Result<Self> {
        // SAFETY: no preconditions.
        let descriptor = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the descriptor is new and owned by nobody else.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Epoll {
            descriptor,
            events: vec![libc::epoll_event { events: 0, u64: 0 }; events_max.max(1)],
            ready: 0,
        })
    }

    /// The same poll for a thread that waits, while others add to it.
    pub fn with_room(&self, events_max: usize) -> Result<Self> {
        let events = vec![libc::epoll_event { events: 0, u64: 0 }; events_max.max(1)];
        Ok(Epoll { descriptor: self.descriptor.try_clone()?, events, ready: 0 })
    }

    pub fn add(&self, socket: &impl AsRawFd, token: usize) -> Result<()> {
        self.control(libc::EPOLL_CTL_ADD, socket, token, false)
    }

    /// Changes whether writability is reported too.
    pub fn want_write(&self, socket: &impl AsRawFd, token: usize, want: bool) -> Result<()> {
        self.control(libc::EPOLL_CTL_MOD, socket, token, want)
    }

    fn control(&self, what: libc::c_int, socket: &impl AsRawFd, token: usize, write: bool) -> Result<()> {
        let events = libc::EPOLLIN | if write { libc::EPOLLOUT } else { 0 };
        let mut event = libc::epoll_event { events: events as u32, u64: token as u64 };
        // SAFETY: `event` is readable; bad descriptors are errors, not hazards.
        check(unsafe { libc::epoll_ctl(self.descriptor.as_raw_fd(), what, socket.as_raw_fd(), &mut event) })
            .map(drop)
    }

    /// Waits; `None` is for ever. An interrupted wait is an empty one. Returns how many are ready.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<usize> {
        let timeout_ms = timeout.map_or(-1, |timeout| timeout.as_millis().min(i32::MAX as u128) as i32);
        let room = self.events.len() as libc::c_int;
        // SAFETY: the kernel writes at most `room` events, which is the vector's length.
        let ready = unsafe {
            libc::epoll_wait(self.descriptor.as_raw_fd(), self.events.as_mut_ptr(), room, timeout_ms)
        };
        self.ready = match check(ready) {
            Ok(ready) => ready as usize,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        Ok(self.ready)
    }

    /// One of the events that the last wait found.
    pub fn event(&self, index: usize) -> Ready {
        let event = self.events[index];
        let flags = event.events as i32;
        Ready {
            token: event.u64 as usize,
            readable: flags & (libc::EPOLLIN | libc::EPOLLHUP | libc::EPOLLERR | libc::EPOLLRDHUP) != 0,
            writable: flags & libc::EPOLLOUT != 0,
        }
    }
}

/// Room for a batch of datagrams, received and sent with one system call each.
pub struct Datagrams {
    /// Each message names its part and its address, each part its buffer, once and for all.
    messages: Box<[libc::mmsghdr]>,
    parts: Box<[libc::iovec]>,
    // INVARIANT: never reallocated, since the messages and the parts point into them.
    bytes: Box<[[u8; Datagrams::BYTES_MAX]]>,
    addresses: Box<[libc::sockaddr_storage]>,
}

impl Datagrams {
    pub const BYTES_MAX: usize = 2048;

    pub fn new(count: usize) -> Self {
        // SAFETY: all zeroes is a valid (unspecified) sockaddr_storage.
        let address: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        // SAFETY: all zeroes is a valid (empty) mmsghdr.
        let message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        let mut datagrams = Datagrams {
            messages: vec![message; count].into(),
            parts: vec![libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; count].into(),
            bytes: vec![[0; Self::BYTES_MAX]; count].into(),
            addresses: vec![address; count].into(),
        };
        for (index, message) in datagrams.messages.iter_mut().enumerate() {
            datagrams.parts[index].iov_base = datagrams.bytes[index].as_mut_ptr().cast();
            message.msg_hdr.msg_iov = &mut datagrams.parts[index];
            message.msg_hdr.msg_iovlen = 1;
            message.msg_hdr.msg_name = (&raw mut datagrams.addresses[index]).cast();
        }
        datagrams
    }

    pub fn datagram(&self, index: usize) -> &[u8] {
        let length = self.parts[index].iov_len.min(Self::BYTES_MAX);
        &self.bytes[index][..length]
    }

    /// Puts `bytes` (cut at `BYTES_MAX`) at `index`, to be sent to where the datagram there came from, if any did.
    pub fn put(&mut self, index: usize, bytes: &[u8]) {
        let length = bytes.len().min(Self::BYTES_MAX);
        self.bytes[index][..length].copy_from_slice(&bytes[..length]);
        self.parts[index].iov_len = length;
    }

    /// Receives what is there, up to the capacity; waits for the first if `wait`. 0 when there is none.
    pub fn receive(&mut self, socket: &UdpSocket, wait: bool) -> Result<usize> {
        for (part, message) in self.parts.iter_mut().zip(&mut self.messages) {
            part.iov_len = Self::BYTES_MAX;
            message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        }
        let flags = if wait { libc::MSG_WAITFORONE } else { libc::MSG_DONTWAIT };
        let count = self.messages.len() as libc::c_uint;
        let messages = self.messages.as_mut_ptr();
        // SAFETY: by the invariant every message points to its part, buffer and address, of the stated sizes.
        let received =
            unsafe { libc::recvmmsg(socket.as_raw_fd(), messages, count, flags, std::ptr::null_mut()) };
        let received = match check(received) {
            Ok(received) => received as usize,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        for (part, message) in self.parts.iter_mut().zip(&self.messages).take(received) {
            part.iov_len = message.msg_len as usize;
        }
        Ok(received)
    }

    /// Sends the first `count`: each to where it came from if `reply`, else to the connected peer. Returns how many the
    /// kernel took.
    pub fn send(&mut self, socket: &UdpSocket, count: usize, reply: bool) -> Result<usize> {
        let count = count.min(self.messages.len());
        if !reply {
            self.messages.iter_mut().for_each(|message| message.msg_hdr.msg_namelen = 0);
        }
        let messages = self.messages.as_mut_ptr();
        // SAFETY: as in `receive`; no part is longer than its buffer.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages, count as libc::c_uint, 0) };
        check(sent).map(|sent| sent as usize)
    }
}
