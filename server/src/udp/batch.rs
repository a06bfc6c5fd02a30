//! Many datagrams in one system call: an island of unsafe code around recvmmsg and sendmmsg.
//!
//! Buffers are made once and their addresses never change, so that the kernel's tables of pointers are made once too.

#![allow(unsafe_code)]

use rustix::io::Errno;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

/// Datagrams that one call takes in.
pub(super) const RECEIVE_MAX: usize = 16;
/// Datagrams that one call sends.
pub(super) const SEND_MAX: usize = 64;
/// Datagrams that the kernel cuts one message into, at most; some kernels would take more.
const SEGMENTS_MAX: usize = 64;
/// All of them together are one datagram to most of the kernel, IPv6's headers and options included.
const SEGMENTS_BYTES_MAX: usize = 60_000;
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
                Some(SocketAddrV4::new(address, u16::from_be(raw.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let raw = unsafe { &*(&raw const self.storage).cast::<libc::sockaddr_in6>() };
                let address = Ipv6Addr::from(raw.sin6_addr.s6_addr);
                let port = u16::from_be(raw.sin6_port);
                Some(SocketAddrV6::new(address, port, raw.sin6_flowinfo, raw.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

/// Room for one control message that names an address and one that asks for segments; aligned as the kernel's
/// structure is.
const CONTROL_WORDS: usize = 9;

/// Control messages, in the kernel's form for sending.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Control {
    words: [u64; CONTROL_WORDS],
    bytes: usize,
}

const _: () = {
    // SAFETY: CMSG_SPACE only calculates.
    let (v4, v6, segment) = unsafe {
        (
            libc::CMSG_SPACE(size_of::<libc::in_pktinfo>() as u32),
            libc::CMSG_SPACE(size_of::<libc::in6_pktinfo>() as u32),
            libc::CMSG_SPACE(size_of::<u16>() as u32),
        )
    };
    assert!(
        v4 as usize + segment as usize <= CONTROL_WORDS * 8
            && v6 as usize + segment as usize <= CONTROL_WORDS * 8
    );
};

impl Control {
    const NOTHING: Control = Control { words: [0; CONTROL_WORDS], bytes: 0 };

    /// Which of this machine's addresses a datagram was sent to: a reply has to come from it. From the control message
    /// that came with it; nothing where the socket is bound to one address anyway. The interface is left to routing; only
    /// where the address means nothing without it, as with link-local ones, does it stay.
    fn of_reply_to(header: &libc::msghdr) -> Control {
        let mut reply = Control::NOTHING;
        // SAFETY: the header is one that recvmmsg has filled in: its control buffer holds msg_controllen bytes of whole
        // messages, aligned for them. A message of these types holds the structure that is read from it.
        unsafe {
            let message = libc::CMSG_FIRSTHDR(header);
            if message.is_null() {
                return reply;
            }
            match ((*message).cmsg_level, (*message).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = libc::CMSG_DATA(message).cast::<libc::in_pktinfo>().read_unaligned();
                    let info = libc::in_pktinfo { ipi_ifindex: 0, ..info };
                    reply.push(libc::IPPROTO_IP, libc::IP_PKTINFO, info);
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let mut info = libc::CMSG_DATA(message).cast::<libc::in6_pktinfo>().read_unaligned();
                    let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                    if !address.is_unicast_link_local() {
                        info.ipi6_ifindex = 0;
                    }
                    if !address.is_multicast() {
                        reply.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
                    }
                }
                _ => {}
            }
        }
        reply
    }

    /// Adds a message. There is room for one that names an address and one that asks for segments.
    fn push<T: Copy>(&mut self, level: i32, kind: i32, info: T) {
        let size = size_of::<T>() as u32;
        // SAFETY: CMSG_SPACE only calculates.
        let space = unsafe { libc::CMSG_SPACE(size) as usize };
        let Some(place) = self.words.get_mut(self.bytes / 8..(self.bytes + space) / 8) else { return };
        // SAFETY: `place` is aligned for a cmsghdr and has the room that the kernel's own arithmetic asks for.
        unsafe {
            let header = place.as_mut_ptr().cast::<libc::cmsghdr>();
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            (*header).cmsg_len = libc::CMSG_LEN(size) as _;
            libc::CMSG_DATA(header).cast::<T>().write_unaligned(info);
        }
        self.bytes += space;
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
    pub(super) fn datagram(&self, index: usize) -> Option<(&[u8], &Source, Control)> {
        let header = self.headers.get(index)?;
        if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            return None;
        }
        let length = (header.msg_len as usize).min(DATAGRAM_BYTES_MAX);
        // SAFETY: `bytes` is RECEIVE_MAX parts of DATAGRAM_BYTES_MAX, initialised when made, and written to only by
        // `receive`, which borrows self exclusively; index is below RECEIVE_MAX because `headers` has that many.
        let bytes = unsafe { std::slice::from_raw_parts(self.bytes.add(index * DATAGRAM_BYTES_MAX), length) };
        Some((bytes, self.sources.get(index)?, Control::of_reply_to(&header.msg_hdr)))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let whole = ptr::slice_from_raw_parts_mut(self.bytes, RECEIVE_MAX * DATAGRAM_BYTES_MAX);
        // SAFETY: this is the box that `new` leaked, and no slice of it is alive.
        drop(unsafe { Box::from_raw(whole) });
    }
}

/// One datagram to send: bytes of an arena that the caller keeps.
#[derive(Clone)]
pub(super) struct Reply {
    /// Frame header and payload.
    pub(super) bytes: Range<usize>,
    pub(super) to: Source,
    /// Where the request was sent to.
    pub(super) from: Control,
}

/// What went out of what was to be sent. The rest is lost, as datagrams are.
#[derive(Clone, Copy, Default)]
pub(super) struct Sent {
    pub(super) datagrams: usize,
    pub(super) bytes: usize,
}

/// Sends `replies`, which lie in `arena`.
///
/// Neighbours for one client go out as one message that the kernel cuts apart as late as it can (UDP_SEGMENT): routing,
/// filters and queues then see it once. Where a way can't carry that, each goes alone.
pub(super) fn send(socket: &OwnedFd, replies: &[Reply], arena: &[u8]) -> Sent {
    let mut sent = Sent::default();
    let mut rest = replies;
    let mut together = SEGMENTS_MAX;
    while !rest.is_empty() {
        let (gone, left) = match send_batch(socket, rest, arena, together) {
            Ok(count) => rest.split_at_checked(count).unwrap_or_default(),
            // No room in the socket: that doesn't change by asking again.
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => break,
            Err(_) if together > 1 => {
                together = 1;
                continue;
            }
            // This client can't be reached; the others may.
            Err(_) => (&[][..], rest.get(1..).unwrap_or_default()),
        };
        sent.datagrams += gone.len();
        sent.bytes += gone.iter().map(|reply| reply.bytes.len()).sum::<usize>();
        rest = left;
    }
    sent
}

/// How many of `replies`, from the first, can be one message of segments: for one client, side by side in the arena, and
/// equally long but for a shorter last.
fn segments(replies: &[Reply], most: usize) -> usize {
    let Some((first, others)) = replies.split_first() else { return 0 };
    let (length, client) = (first.bytes.len(), first.to.address());
    let mut end = first.bytes.end;
    let mut last = length;
    let follows = |reply: &&Reply| {
        let belongs = last == length
            && reply.bytes.start == end
            && reply.bytes.len() <= length
            && reply.bytes.end - first.bytes.start <= SEGMENTS_BYTES_MAX
            && reply.to.address() == client
            && reply.from == first.from;
        end = reply.bytes.end;
        last = reply.bytes.len();
        belongs
    };
    1 + others.iter().take(most - 1).take_while(follows).count()
}

/// Sends as many of `replies` as one call takes, up to `together` of them as one message; tells how many went.
fn send_batch(socket: &OwnedFd, replies: &[Reply], arena: &[u8], together: usize) -> Result<usize, Errno> {
    // SAFETY: all of these are valid when zeroed.
    let (mut headers, mut pieces): ([libc::mmsghdr; SEND_MAX], [libc::iovec; SEND_MAX]) =
        unsafe { (mem::zeroed(), mem::zeroed()) };
    let mut controls = [Control::NOTHING; SEND_MAX];
    let mut runs = [0; SEND_MAX];
    let mut rest = replies;
    let mut count = 0;
    for (((header, piece), control), run) in
        headers.iter_mut().zip(&mut pieces).zip(&mut controls).zip(&mut runs)
    {
        *run = segments(rest, together);
        let Some(((first, last), others)) = rest
            .split_at_checked(*run)
            .and_then(|(these, others)| Some(((these.first()?, these.last()?), others)))
        else {
            break;
        };
        rest = others;
        let bytes = arena.get(first.bytes.start..last.bytes.end).unwrap_or_default();
        *piece = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        header.msg_hdr.msg_name = (&raw const first.to.storage).cast_mut().cast();
        header.msg_hdr.msg_namelen = first.to.length();
        header.msg_hdr.msg_iov = piece;
        header.msg_hdr.msg_iovlen = 1;
        *control = first.from;
        if *run > 1 {
            // Segments are at most 1,400 bytes long.
            control.push(libc::SOL_UDP, libc::UDP_SEGMENT, first.bytes.len() as u16);
        }
        if control.bytes > 0 {
            header.msg_hdr.msg_control = control.words.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = control.bytes as _;
        }
        count += 1;
    }
    loop {
        // SAFETY: each header below `count` points to a live piece, which points to bytes of `arena`, to an address in
        // `replies` and perhaps to control messages in `controls`; the kernel only reads them.
        let taken = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                count,
                (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
            )
        };
        match usize::try_from(taken) {
            Ok(taken) => return Ok(runs.iter().take(taken).sum()),
            Err(_) if last_error() == Errno::INTR => {}
            Err(_) => return Err(last_error()),
        }
    }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(bytes: Range<usize>, port: u16) -> Reply {
        let mut to = Source::empty();
        to.storage.ss_family = libc::AF_INET as libc::sa_family_t;
        // SAFETY: the storage is large and aligned enough for every kind of address.
        unsafe { (*(&raw mut to.storage).cast::<libc::sockaddr_in>()).sin_port = port.to_be() };
        Reply { bytes, to, from: Control::NOTHING }
    }

    #[test]
    fn neighbours_of_one_length_go_together() {
        let replies = [reply(0..10, 1), reply(10..20, 1), reply(20..30, 1)];
        assert_eq!(segments(&replies, SEGMENTS_MAX), 3);
        assert_eq!(segments(&replies, 2), 2);
        assert_eq!(segments(&replies, 1), 1);
        assert_eq!(segments(&[], SEGMENTS_MAX), 0);
    }

    #[test]
    fn a_shorter_one_is_the_last() {
        let replies = [reply(0..10, 1), reply(10..15, 1), reply(15..20, 1)];
        assert_eq!(segments(&replies, SEGMENTS_MAX), 2);
    }

    #[test]
    fn what_differs_goes_alone() {
        let longer = [reply(0..10, 1), reply(10..21, 1)];
        let apart = [reply(0..10, 1), reply(11..21, 1)];
        let another = [reply(0..10, 1), reply(10..20, 2)];
        let mut elsewhere = [reply(0..10, 1), reply(10..20, 1)];
        elsewhere[1].from.push(libc::IPPROTO_IP, libc::IP_TTL, 1i32);
        for replies in [longer, apart, another, elsewhere] {
            assert_eq!(segments(&replies, SEGMENTS_MAX), 1);
        }
    }

    #[test]
    fn all_together_are_one_datagram_at_most() {
        let replies: Vec<Reply> = (0..64).map(|index| reply(index * 1400..(index + 1) * 1400, 1)).collect();
        assert_eq!(segments(&replies, SEGMENTS_MAX), SEGMENTS_BYTES_MAX / 1400);
    }
}
