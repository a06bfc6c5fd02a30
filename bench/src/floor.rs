//! The floor: the least that any server must do, for the same bytes on the wire.
//!
//! One thread, epoll, one read and one write per wake-up of a connection; a request is a number of bytes, a reply is
//! canned. What it costs is the kernel's; what a real server costs above it is the server's own. Not here: parsing,
//! storing, or any answer that means something.

use crate::sys::{Datagrams, Epoll};
use anyhow::{Context, Result, ensure};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};

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

/// Serves TCP connections until the process is ended.
pub fn serve_tcp(listener: &TcpListener, canned: Canned) -> Result<()> {
    ensure!(
        canned.request_bytes > 0 && canned.reply_bytes > 0,
        "a request and a reply have at least one byte each"
    );
    const LISTENER: usize = usize::MAX;
    let mut epoll = Epoll::new(256)?;
    epoll.add(listener, LISTENER)?;
    let replies = vec![b'x'; REPLIES_BYTES_MAX];
    let mut input = vec![0; INPUT_BYTES];
    let mut connections: Vec<Option<Connection>> = Vec::new();
    loop {
        for index in 0..epoll.wait(None)? {
            let ready = epoll.event(index);
            if ready.token == LISTENER {
                let (stream, _) = listener.accept().context("accept")?;
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                epoll.add(&stream, connections.len())?;
                connections.push(Some(Connection { stream, partial_bytes: 0, unsent_bytes: 0 }));
                continue;
            }
            let Some(slot) = connections.get_mut(ready.token) else { continue };
            let Some(connection) = slot else { continue };
            let was_waiting = connection.unsent_bytes > 0;
            match serve_once(connection, canned, &mut input, &replies) {
                Ok(()) if was_waiting == (connection.unsent_bytes > 0) => {}
                Ok(()) => epoll.want_write(&connection.stream, ready.token, connection.unsent_bytes > 0)?,
                Err(_) => *slot = None,
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
