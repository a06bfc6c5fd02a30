//! The floor: the least that any server must do, for the same bytes on the wire.
//!
//! Epoll, one read and one write per wake-up of a connection; a request is a number of bytes, a reply is canned. One
//! thread, but where servers of several are compared. What it costs is the kernel's; what a real server costs above it is the server's own. Not here: parsing,
//! storing, or any answer that means something.

use crate::sys::{Datagrams, Epoll};
use anyhow::{Context, Result, ensure};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Most bytes that one reply, or the replies of one read, may have.
const REPLIES_BYTES_MAX: usize = 4 << 20;
const INPUT_BYTES: usize = 64 << 10;

#[derive(Clone, Copy, Debug)]
pub struct Canned {
    pub request_bytes: usize,
    pub reply_bytes: usize,
}

struct Connection {
    stream: TcpStream,
    /// Bytes of a request that has not come whole.
    partial_bytes: usize,
    /// Reply bytes that the socket did not take yet.
    unsent_bytes: usize,
}

/// Serves TCP connections until the process is ended, each thread those that came to it in turn.
pub fn serve_tcp(listener: &TcpListener, canned: Canned, threads: usize) -> Result<()> {
    ensure!(
        canned.request_bytes > 0 && canned.reply_bytes > 0,
        "a request and a reply have at least one byte each"
    );
    let lanes = (0..threads.max(1)).map(|_| Lane::new()).collect::<Result<Vec<_>>>()?;
    std::thread::scope(|scope| {
        let others: Vec<_> =
            lanes[1..].iter().map(|lane| scope.spawn(|| lane.serve(canned, None, &lanes))).collect();
        let ended = lanes[0].serve(canned, Some(listener), &lanes);
        others.into_iter().fold(ended, |ended, thread| ended.and(thread.join().expect("a floor's thread")))
    })
}

/// One thread's poll, and how connections reach it.
struct Lane {
    poll: Epoll,
    arrivals: Mutex<Vec<TcpStream>>,
    /// Connections that were ever sent here; the next one's token.
    sent: AtomicUsize,
}

impl Lane {
    fn new() -> Result<Lane> {
        Ok(Lane { poll: Epoll::new(1)?, arrivals: Mutex::default(), sent: AtomicUsize::new(0) })
    }

    fn send(&self, stream: TcpStream) -> Result<()> {
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        self.poll.add(&stream, self.sent.fetch_add(1, Ordering::Relaxed))?;
        arrivals.push(stream);
        Ok(())
    }

    fn serve(&self, canned: Canned, listener: Option<&TcpListener>, lanes: &[Lane]) -> Result<()> {
        const LISTENER: usize = usize::MAX;
        if let Some(listener) = listener {
            self.poll.add(listener, LISTENER)?;
        }
        let mut epoll = self.poll.with_room(256)?;
        let replies = vec![b'x'; REPLIES_BYTES_MAX];
        let mut input = vec![0; INPUT_BYTES];
        let mut connections: Vec<Option<Connection>> = Vec::new();
        let mut turn = lanes.iter().cycle();
        loop {
            for index in 0..epoll.wait(None)? {
                let ready = epoll.event(index);
                if let (LISTENER, Some(listener), Some(lane)) = (ready.token, listener, turn.next()) {
                    let (stream, _) = listener.accept().context("accept")?;
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    lane.send(stream)?;
                    continue;
                }
                if ready.token >= connections.len() {
                    let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
                    connections.extend(
                        arrivals
                            .drain(..)
                            .map(|stream| Some(Connection { stream, partial_bytes: 0, unsent_bytes: 0 })),
                    );
                }
                let Some(slot) = connections.get_mut(ready.token) else { continue };
                let Some(connection) = slot else { continue };
                let was_waiting = connection.unsent_bytes > 0;
                match serve_once(connection, canned, &mut input, &replies) {
                    Ok(()) if was_waiting == (connection.unsent_bytes > 0) => {}
                    Ok(()) => {
                        epoll.want_write(&connection.stream, ready.token, connection.unsent_bytes > 0)?;
                    }
                    Err(_) => *slot = None,
                }
            }
        }
    }
}

fn serve_once(
    connection: &mut Connection,
    canned: Canned,
    input: &mut [u8],
    replies: &[u8],
) -> std::io::Result<()> {
    if connection.unsent_bytes == 0 {
        match connection.stream.read(input) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                let bytes = connection.partial_bytes + read;
                connection.partial_bytes = bytes % canned.request_bytes;
                connection.unsent_bytes = bytes / canned.request_bytes * canned.reply_bytes;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    while connection.unsent_bytes > 0 {
        let part = connection.unsent_bytes.min(replies.len());
        match connection.stream.write(&replies[..part]) {
            Ok(written) => connection.unsent_bytes -= written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Echoes each datagram's frame header, followed by canned bytes up to the reply's length.
pub fn serve_udp(socket: &UdpSocket, reply_bytes: usize) -> Result<()> {
    const FRAME_BYTES: usize = 8;
    let mut datagrams = Datagrams::new(64);
    let mut reply = vec![b'x'; reply_bytes.clamp(FRAME_BYTES, Datagrams::BYTES_MAX)];
    loop {
        let received = datagrams.receive(socket, true)?;
        for index in 0..received {
            let Some(frame) = datagrams.datagram(index).first_chunk::<FRAME_BYTES>() else { continue };
            reply[..FRAME_BYTES].copy_from_slice(frame);
            datagrams.put(index, &reply);
        }
        datagrams.send(socket, received, true)?;
    }
}
