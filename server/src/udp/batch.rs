//! Many datagrams in one system call: an island of unsafe code around recvmmsg and sendmmsg.
//!
//! Buffers are made once and their addresses never change, so that the kernel's tables of pointers are made once too.

#![allow(unsafe_code)]

use rustix::io::Errno;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use unbuckle_wire::udp::FRAME_BYTES;

/// Datagrams that one call takes in.
pub(super) const RECEIVE_MAX: usize = 16;
/// Datagrams that one call sends.
pub(super) const SEND_MAX: usize = 64;
/// No UDP datagram is longer.
const DATAGRAM_BYTES_MAX: usize = 64 << 10;

/// Where a datagram came from, as the kernel wrote it.
#[derive(Clone, Copy)]
pub(super) struct Source {
    storage: libc::sockaddr_storage,
}

impl Source {
    fn empty() -> Source {
        // SAFETY: a sockaddr_storage is valid when zeroed.
        Source { storage: unsafe { mem::zeroed() } }
    }

    fn length(&self) -> libc::socklen_t {
        let length = match i32::from(self.storage.ss_family) {
            libc::AF_INET => size_of::<libc::sockaddr_in>(),
            _ => size_of::<libc::sockaddr_in6>(),
        };
        length as libc::socklen_t
    }

    /// `None` for what is no internet address.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match i32::from(self.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the storage is large and aligned enough for every kind of address, and the family says
                // that it holds this one.
                let raw = unsafe { &*(&raw const self.storage).cast::<libc::sockaddr_in>() };
                let address = Ipv4Addr::from_bits(u32::from_be(raw.sin_addr.s_addr));
                Some(SocketAddr::new(IpAddr::V4(address), u16::from_be(raw.sin_port)))
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let raw = unsafe { &*(&raw const self.storage).cast::<libc::sockaddr_in6>() };
                let address = Ipv6Addr::from(raw.sin6_addr.s6_addr);
                Some(SocketAddr::new(IpAddr::V6(address), u16::from_be(raw.sin6_port)))
            }
            _ => None,
        }
    }
}

/// Room for one control message that names an address; aligned as the kernel's structure is.
const CONTROL_WORDS: usize = 6;

/// Which of this machine's addresses a datagram was sent to: a reply has to come from it. It is kept as the control message
/// that says so, in the kernel's form for sending. Empty where the socket is bound to one address anyway.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    words: [u64; CONTROL_WORDS],
    bytes: usize,
}

const _: () = {
    // SAFETY: CMSG_SPACE only calculates.
    let (v4, v6) = unsafe {
        (
            libc::CMSG_SPACE(size_of::<libc::in_pktinfo>() as u32),
            libc::CMSG_SPACE(size_of::<libc::in6_pktinfo>() as u32),
        )
    };
    assert!(v4 as usize <= CONTROL_WORDS * 8 && v6 as usize <= CONTROL_WORDS * 8);
};

impl Asked {
    const NOTHING: Asked = Asked { words: [0; CONTROL_WORDS], bytes: 0 };

    /// From the control message that came with a datagram. The interface is left to routing; only where the address means
    /// nothing without it, as with link-local ones, does it stay.
    fn of(header: &libc::msghdr) -> Asked {
        // SAFETY: the header is one that recvmmsg has filled in: its control buffer holds msg_controllen bytes of whole
        // messages, aligned for them. A message of these types holds the structure that is read from it.
        unsafe {
            let message = libc::CMSG_FIRSTHDR(header);
            if message.is_null() {
                return Asked::NOTHING;
            }
            match ((*message).cmsg_level, (*message).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = libc::CMSG_DATA(message).cast::<libc::in_pktinfo>().read_unaligned();
                    let reply = libc::in_pktinfo {
                        ipi_ifindex: 0,
                        ipi_spec_dst: info.ipi_spec_dst,
                        ipi_addr: info.ipi_addr,
                    };
                    Asked::message(libc::IPPROTO_IP, libc::IP_PKTINFO, reply)
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let mut info = libc::CMSG_DATA(message).cast::<libc::in6_pktinfo>().read_unaligned();
                    let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                    if address.is_multicast() {
                        return Asked::NOTHING;
                    }
                    if !address.is_unicast_link_local() {
                        info.ipi6_ifindex = 0;
                    }
                    Asked::message(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
                }
                _ => Asked::NOTHING,
            }
        }
    }

    fn message<T: Copy>(level: i32, kind: i32, info: T) -> Asked {
        let mut asked = Asked::NOTHING;
        let size = size_of::<T>() as u32;
        // SAFETY: `words` is aligned for a cmsghdr and has room for it and for `info` behind it: both kinds were
        // checked above, when this was compiled.
        unsafe {
            let header = asked.words.as_mut_ptr().cast::<libc::cmsghdr>();
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            (*header).cmsg_len = libc::CMSG_LEN(size) as _;
            libc::CMSG_DATA(header).cast::<T>().write_unaligned(info);
            asked.bytes = libc::CMSG_SPACE(size) as usize;
        }
        asked
    }
}

/// Has the kernel say which address each datagram was sent to, if that can differ. Where it can't be asked, replies come
/// from the address that routing chooses.
pub(super) fn ask_for_addresses(socket: &OwnedFd) {
    let bound = rustix::net::getsockname(socket).ok().and_then(|address| SocketAddr::try_from(address).ok());
    if bound.is_some_and(|address| !address.ip().is_unspecified()) {
        return;
    }
    let on: libc::c_int = 1;
    for (level, option) in
        [(libc::IPPROTO_IP, libc::IP_PKTINFO), (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)]
    {
        // SAFETY: the option's value is a live int of the stated size.
        unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                level,
                option,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            );
        }
    }
}

/// Takes datagrams in.
///
/// Invariants: `headers[i]` points to `sources[i]`, to `controls[i]` and to `pieces[i]`, which points to the i-th part of
/// `bytes`. None of these is ever moved or made anew.
pub(super) struct Receiver {
    headers: Box<[libc::mmsghdr]>,
    #[allow(dead_code, reason = "read by the kernel, through the headers")]
    pieces: Box<[libc::iovec]>,
    sources: Box<[Source]>,
    #[allow(dead_code, reason = "written by the kernel and read through the headers")]
    controls: Box<[[u64; CONTROL_WORDS]]>,
    bytes: *mut u8,
}

impl Receiver {
    pub(super) fn new() -> Receiver {
        // Only pages that datagrams reach are ever filled in.
        let bytes: Box<[u8]> = vec![0; RECEIVE_MAX * DATAGRAM_BYTES_MAX].into_boxed_slice();
        let bytes = Box::leak(bytes).as_mut_ptr();
        let mut sources = vec![Source::empty(); RECEIVE_MAX].into_boxed_slice();
        let mut controls = vec![[0u64; CONTROL_WORDS]; RECEIVE_MAX].into_boxed_slice();
        let mut pieces: Box<[libc::iovec]> = (0..RECEIVE_MAX)
            .map(|index| libc::iovec {
                iov_base: bytes.wrapping_add(index * DATAGRAM_BYTES_MAX).cast(),
                iov_len: DATAGRAM_BYTES_MAX,
            })
            .collect();
        let headers = pieces
            .iter_mut()
            .zip(&mut sources)
            .zip(&mut controls)
            .map(|((piece, source), control)| {
                // SAFETY: a mmsghdr is valid when zeroed.
                let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
                header.msg_hdr.msg_name = (&raw mut source.storage).cast();
                header.msg_hdr.msg_iov = piece;
                header.msg_hdr.msg_iovlen = 1;
                header.msg_hdr.msg_control = control.as_mut_ptr().cast();
                header
            })
            .collect();
        Receiver { headers, pieces, sources, controls, bytes }
    }

    /// Takes in what is there, without waiting; tells how many.
    pub(super) fn receive(&mut self, socket: &OwnedFd) -> Result<usize, Errno> {
        for header in &mut self.headers {
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_hdr.msg_controllen = size_of::<[u64; CONTROL_WORDS]>() as _;
            header.msg_hdr.msg_flags = 0;
        }
        // SAFETY: the headers point to live memory of the stated lengths (see the invariants), and nobody else refers
        // to it: `datagram` hands slices out only while it is borrowed.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                RECEIVE_MAX as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        usize::try_from(count).map_err(|_| last_error())
    }

    /// The `index`-th datagram of those that the last call took in; `None` when it was cut short.
    pub(super) fn datagram(&self, index: usize) -> Option<(&[u8], &Source, Asked)> {
        let header = self.headers.get(index)?;
        if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            return None;
        }
        let length = (header.msg_len as usize).min(DATAGRAM_BYTES_MAX);
        // SAFETY: `bytes` is RECEIVE_MAX parts of DATAGRAM_BYTES_MAX, initialised when made, and written to only by
        // `receive`, which borrows self exclusively; index is below RECEIVE_MAX because `headers` has that many.
        let bytes = unsafe { std::slice::from_raw_parts(self.bytes.add(index * DATAGRAM_BYTES_MAX), length) };
        Some((bytes, self.sources.get(index)?, Asked::of(&header.msg_hdr)))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let whole = ptr::slice_from_raw_parts_mut(self.bytes, RECEIVE_MAX * DATAGRAM_BYTES_MAX);
        // SAFETY: this is the box that `new` leaked, and no slice of it is alive.
        drop(unsafe { Box::from_raw(whole) });
    }
}

/// One datagram to send: a frame header, and bytes of an arena that the caller keeps.
#[derive(Clone)]
pub(super) struct Reply {
    pub(super) frame: [u8; FRAME_BYTES],
    pub(super) payload: std::ops::Range<usize>,
    pub(super) to: Source,
    /// Where the request was sent to.
    pub(super) from: Asked,
}

/// Sends `replies`, whose payloads lie in `arena`; tells how many the socket took. The rest is lost, as datagrams are.
pub(super) fn send(socket: &OwnedFd, replies: &[Reply], arena: &[u8]) -> usize {
    let mut sent = 0;
    for batch in replies.chunks(SEND_MAX) {
        let count = send_batch(socket, batch, arena);
        sent += count;
        if count < batch.len() {
            break;
        }
    }
    sent
}

fn send_batch(socket: &OwnedFd, replies: &[Reply], arena: &[u8]) -> usize {
    // SAFETY: all of these are valid when zeroed.
    let (mut headers, mut pieces): ([libc::mmsghdr; SEND_MAX], [[libc::iovec; 2]; SEND_MAX]) =
        unsafe { (mem::zeroed(), mem::zeroed()) };
    let places = headers.iter_mut().zip(&mut pieces);
    let mut count = 0;
    for ((header, pieces), reply) in places.zip(replies) {
        let payload = arena.get(reply.payload.clone()).unwrap_or_default();
        *pieces = [
            libc::iovec { iov_base: reply.frame.as_ptr().cast_mut().cast(), iov_len: FRAME_BYTES },
            libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() },
        ];
        header.msg_hdr.msg_name = (&raw const reply.to.storage).cast_mut().cast();
        header.msg_hdr.msg_namelen = reply.to.length();
        header.msg_hdr.msg_iov = pieces.as_mut_ptr();
        header.msg_hdr.msg_iovlen = 2;
        if reply.from.bytes > 0 {
            header.msg_hdr.msg_control = reply.from.words.as_ptr().cast_mut().cast();
            header.msg_hdr.msg_controllen = reply.from.bytes as _;
        }
        count += 1;
    }
    let mut sent = 0;
    while sent < count {
        // SAFETY: each header below `count` points to two live pieces, which point to bytes of `replies` and `arena`,
        // and to an address and perhaps a control message in `replies`; the kernel only reads them.
        let taken = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr().add(sent),
                (count - sent) as libc::c_uint,
                (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
            )
        };
        match usize::try_from(taken) {
            Ok(taken) if taken > 0 => sent += taken,
            _ if last_error() == Errno::INTR => {}
            _ => break,
        }
    }
    sent
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
