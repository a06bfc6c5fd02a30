//! A client's end of one connection, whatever the transport: bytes go out, bytes are taken as they come.
//!
//! Reads wait for bytes, up to [`ANSWER_MAX`]; that bound is there to end a hung test and never decides a result that
//! a slower machine would change.

use crate::server::Address;
use crate::tls::{Identity, TlsStream};
use crate::transcript::Transport;
use anyhow::{Context, Result, bail};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// After this long without a byte an answer is taken as missing.
pub const ANSWER_MAX: Duration = Duration::from_secs(8);
/// A UDP server may not have bound its socket yet, and datagrams may be lost: greetings are repeated this often.
const GREETING_STEP: Duration = Duration::from_millis(40);
const FRAME_BYTES: usize = 8;

#[derive(Debug)]
enum Wire {
    Tcp(TcpStream),
    Tls(Box<TlsStream>),
    Unix(UnixStream),
    Udp(UdpSocket),
}

#[derive(Debug)]
pub struct Connection {
    wire: Wire,
    transport: Transport,
    received: Vec<u8>,
    taken: usize,
    request_id: u16,
    /// The transport writes only when something is expected: consecutive lines make one datagram or segment.
    pending: Vec<u8>,
    /// What was last sent began as a binary frame.
    binary: bool,
}

impl Connection {
    pub fn open(address: &Address, transport: Transport) -> Result<Connection> {
        let wire = match (address, transport) {
            (Address::Path(path), _) => Wire::Unix(UnixStream::connect(path)?),
            (Address::Port(port), Transport::Udp | Transport::Datagram) => Wire::Udp(greeted(*port)?),
            (Address::Port(port), Transport::Tls) => Wire::Tls(Box::new(Identity::plain()?.connect(*port)?)),
            (Address::Port(port), _) => {
                let stream = TcpStream::connect(port)?;
                stream.set_nodelay(true)?;
                Wire::Tcp(stream)
            }
        };
        match &wire {
            Wire::Tcp(stream) => stream.set_read_timeout(Some(ANSWER_MAX))?,
            Wire::Tls(stream) => stream.socket().set_read_timeout(Some(ANSWER_MAX))?,
            Wire::Unix(stream) => stream.set_read_timeout(Some(ANSWER_MAX))?,
            Wire::Udp(socket) => socket.set_read_timeout(Some(ANSWER_MAX))?,
        }
        Ok(Connection {
            wire,
            transport,
            received: Vec::new(),
            taken: 0,
            request_id: 0,
            pending: Vec::new(),
            binary: false,
        })
    }

    /// Queues bytes: they leave when [`Connection::flush`] is called.
    pub fn send(&mut self, bytes: &[u8]) {
        if self.pending.is_empty() {
            self.binary = bytes.first() == Some(&0x80);
        }
        self.pending.extend_from_slice(bytes);
    }

    /// Whether it speaks the binary protocol.
    pub fn is_binary(&self) -> bool {
        self.binary
    }

    /// Sends what is queued. A server that has closed meanwhile is noticed when its answer is missing, not here.
    pub fn flush(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.pending);
        let sent = match &mut self.wire {
            Wire::Tcp(stream) if self.transport == Transport::Drip => {
                bytes.chunks(1).try_for_each(|byte| stream.write_all(byte))
            }
            Wire::Tcp(stream) => stream.write_all(&bytes),
            Wire::Tls(stream) => stream.write_all(&bytes).and_then(|()| stream.flush()),
            Wire::Unix(stream) => stream.write_all(&bytes),
            Wire::Udp(socket) if self.transport == Transport::Datagram => socket.send(&bytes).map(|_| ()),
            Wire::Udp(socket) => {
                self.request_id = self.request_id.wrapping_add(1);
                let mut datagram = self.request_id.to_be_bytes().to_vec();
                datagram.extend([0, 0, 0, 1, 0, 0]);
                datagram.extend(bytes);
                socket.send(&datagram).map(|_| ())
            }
        };
        match sent {
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                Ok(())
            }
            other => other.context("cannot send"),
        }
    }

    /// Bytes that have come and not been taken.
    pub fn untaken(&self) -> &[u8] {
        self.received.get(self.taken..).unwrap_or_default()
    }

    /// Looks at the next byte, waiting for it; `None` when the server has closed.
    pub fn peek(&mut self) -> Result<Option<u8>> {
        loop {
            if let Some(&byte) = self.received.get(self.taken) {
                return Ok(Some(byte));
            }
            if !self.receive()? {
                return Ok(None);
            }
        }
    }

    pub fn take(&mut self) {
        self.taken += 1;
    }

    /// One read; false at the end of the stream.
    fn receive(&mut self) -> Result<bool> {
        self.received.drain(..self.taken);
        self.taken = 0;
        let mut buffer = vec![0; 1 << 16];
        let read = match &mut self.wire {
            Wire::Tcp(stream) => stream.read(&mut buffer),
            Wire::Tls(stream) => stream.read(&mut buffer),
            Wire::Unix(stream) => stream.read(&mut buffer),
            Wire::Udp(socket) => socket.recv(&mut buffer),
        };
        let length = match read {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                bail!("nothing came for {ANSWER_MAX:?}")
            }
            Err(error) => return Err(error).context("cannot receive"),
        };
        let bytes = buffer.get(..length).unwrap_or_default();
        match self.transport {
            Transport::Udp => self.receive_framed(bytes)?,
            Transport::Datagram => self.received.extend_from_slice(bytes),
            _ if length == 0 => return Ok(false),
            _ => self.received.extend_from_slice(bytes),
        }
        Ok(true)
    }

    fn receive_framed(&mut self, datagram: &[u8]) -> Result<()> {
        let (frame, payload) =
            datagram.split_at_checked(FRAME_BYTES).context("a datagram without a whole frame came")?;
        let id = u16::from_be_bytes([frame[0], frame[1]]);
        if id != self.request_id {
            bail!("a reply to request {id} came while {} was asked", self.request_id);
        }
        self.received.extend_from_slice(payload);
        Ok(())
    }

    pub fn finish(&mut self) -> Result<()> {
        self.flush()?;
        match &mut self.wire {
            Wire::Tcp(stream) => stream.shutdown(Shutdown::Write)?,
            Wire::Tls(stream) => stream.finish()?,
            Wire::Unix(stream) => stream.shutdown(Shutdown::Write)?,
            Wire::Udp(_) => bail!("a datagram socket has no half to close"),
        }
        Ok(())
    }
}

/// A socket on which the server has already answered.
fn greeted(address: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(GREETING_STEP))?;
    let started = Instant::now();
    while started.elapsed() < ANSWER_MAX {
        // A port that nobody has bound yet refuses with an error of its own: the next round asks again.
        let _ = socket.send(b"\xff\xff\0\0\0\x01\0\0version\r\n");
        if socket.recv(&mut [0; 2048]).is_ok() {
            drain(&socket)?;
            return Ok(socket);
        }
    }
    bail!("no answer over UDP from {address}");
}

/// Takes late answers to repeated greetings.
fn drain(socket: &UdpSocket) -> Result<()> {
    socket.set_read_timeout(Some(GREETING_STEP))?;
    while socket.recv(&mut [0; 2048]).is_ok() {}
    Ok(())
}
