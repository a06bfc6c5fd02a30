//! A client that speaks UDP and looks at each datagram; it can send many with one call, as one aggregate (`UDP_SEGMENT`).
//! An island of unsafe code, for that.

#![allow(unsafe_code)]

use anyhow::{Context, Result, ensure};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// A reply that takes this long is lost.
const ANSWER_MAX: Duration = Duration::from_secs(10);
const FRAME_BYTES: usize = 8;
/// The number of a socket option of Linux, at level `IPPROTO_UDP`.
const UDP_SEGMENT: i32 = 103;

/// A reply's payloads, in order.
pub type Message = Vec<Vec<u8>>;

#[derive(Debug)]
pub struct Client {
    socket: UdpSocket,
    next_id: u16,
}

/// A socket that speaks to the server, and to nobody else.
pub fn connect(server: SocketAddr) -> Result<UdpSocket> {
    let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(ANSWER_MAX))?;
    Ok(socket)
}

/// The value of a key, empty for a miss; `None` when nobody answered.
pub fn get(socket: &UdpSocket, key: &str) -> Option<Vec<u8>> {
    let mut request = b"\0\x07\0\0\0\x01\0\0get ".to_vec();
    request.extend_from_slice(key.as_bytes());
    request.extend_from_slice(b"\r\n");
    // A port that nobody has is an error of its own, of an earlier request perhaps.
    let _ = socket.send(&request);
    let mut reply = [0; 2048];
    let length = socket.recv(&mut reply).ok()?;
    let (_, payload) = reply[..length].split_at_checked(FRAME_BYTES)?;
    let header_bytes = payload.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let rest = payload.get(header_bytes..)?;
    Some(rest.strip_suffix(b"\r\nEND\r\n").unwrap_or_default().to_vec())
}

impl Client {
    pub fn open(server: SocketAddr) -> Result<Client> {
        Ok(Client { socket: connect(server)?, next_id: 0x100 })
    }

    /// Sends one request and takes its reply.
    pub fn ask(&mut self, text: &[u8]) -> Result<Message> {
        let first = self.next_id;
        let request = self.request(text);
        self.socket.send(&request)?;
        Ok(self.take(first, 1)?.remove(0))
    }

    /// Sends requests of one length in one call, which leave as one aggregate if the interface takes that; their replies,
    /// in the order of the requests.
    pub fn ask_together(&mut self, texts: &[Vec<u8>]) -> Result<Vec<Message>> {
        let first = self.next_id;
        let requests: Vec<Vec<u8>> = texts.iter().map(|text| self.request(text)).collect();
        let bytes = requests.first().map_or(0, Vec::len);
        ensure!(requests.iter().all(|request| request.len() == bytes), "requests of several lengths");
        self.segment_bytes_set(bytes)?;
        self.socket.send(&requests.concat())?;
        self.segment_bytes_set(0)?;
        self.take(first, texts.len())
    }

    fn request(&mut self, text: &[u8]) -> Vec<u8> {
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        [&id.to_be_bytes()[..], &[0, 0, 0, 1, 0, 0], text].concat()
    }

    /// The replies to `count` requests, the first of which has this id. Nothing else may come.
    fn take(&self, first: u16, count: usize) -> Result<Vec<Message>> {
        let mut replies: Vec<Vec<Option<Vec<u8>>>> = vec![Vec::new(); count];
        let is_whole = |reply: &Vec<Option<_>>| !reply.is_empty() && reply.iter().all(Option::is_some);
        while !replies.iter().all(is_whole) {
            let mut buffer = vec![0; 1 << 16];
            let length = self.socket.recv(&mut buffer).context("a request got no reply")?;
            let (frame, payload) =
                buffer[..length].split_at_checked(FRAME_BYTES).context("a reply without a frame")?;
            let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
            let number = usize::from(word(0).wrapping_sub(first));
            let reply = replies.get_mut(number).context("a reply that nobody has asked for")?;
            let total = usize::from(word(4));
            ensure!(reply.is_empty() || reply.len() == total, "the total changes");
            reply.resize(total, None);
            let part = reply.get_mut(usize::from(word(2))).context("a part beyond the total")?;
            ensure!(part.replace(payload.to_vec()).is_none(), "a part came twice");
        }
        Ok(replies.into_iter().map(|reply| reply.into_iter().flatten().collect()).collect())
    }

    fn segment_bytes_set(&self, bytes: usize) -> Result<()> {
        let value = i32::try_from(bytes)?;
        let size = libc::socklen_t::try_from(size_of_val(&value))?;
        // SAFETY: the socket is open, and the value is an `int` of the size that is told, only read during the call.
        let result = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::IPPROTO_UDP,
                UDP_SEGMENT,
                (&raw const value).cast(),
                size,
            )
        };
        ensure!(result == 0, "UDP_SEGMENT: {}", std::io::Error::last_os_error());
        Ok(())
    }
}
