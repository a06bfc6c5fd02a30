//! Memory under 1,000 connections that want more than they read.
//!
//! A full server; then a third of the connections reads as fast as it can and asks again, a third reads a little now
//! and then, a third asks and never reads. The greatest resident memory over that time must stay near `-m`; what the
//! kernel holds in the sockets of both ends is stated beside it. Three variants: 100-key gets of 10 KB values, the
//! same with keys of 250 bytes, and single values of 1 MiB. Replies are not checked here: keys may be evicted.

use super::Setting;
use super::report::{Report, Spread, Target};
use crate::client::{Operation, canned};
use crate::servers::{Kind, Server, Settings};
use crate::sys::{self, Epoll};
use crate::usage;
use crate::workload::Workload;
use anyhow::{Context, Result};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const CONNECTIONS: usize = 1000;
const MEMORY_MB: u64 = 64;
/// Of a slow reader: this much at each look, which come about ten times a second.
const SLOW_BYTES: usize = 4 << 10;
const RECEIVE_BUFFER_BYTES: i32 = 8 << 10;

struct Variant {
    what: &'static str,
    key_bytes: usize,
    value_bytes: usize,
    keys_per_get: usize,
}

const VARIANTS: [Variant; 3] = [
    Variant { what: "100 x 10 KB", key_bytes: 32, value_bytes: 10_240, keys_per_get: 100 },
    Variant { what: "100 x 10 KB, 250 B keys", key_bytes: 250, value_bytes: 10_240, keys_per_get: 100 },
    Variant { what: "1 MiB values", key_bytes: 32, value_bytes: 1 << 20, keys_per_get: 1 },
];

#[derive(Clone, Copy, Debug)]
struct Memory {
    before: u64,
    greatest: u64,
    sockets: u64,
    connections_left: usize,
}

pub(super) fn run(setting: &Setting, report: &mut Report) -> Result<()> {
    for variant in &VARIANTS {
        for kind in Kind::STORES {
            let memory = measure(setting, kind, variant).with_context(|| kind.name())?;
            println!(
                "  {:<24} {:<10} RSS {:>4} MB full, {:>4} MB at most; sockets (both ends) {} MB; {} connections left",
                variant.what,
                kind.name(),
                memory.before >> 20,
                memory.greatest >> 20,
                memory.sockets >> 20,
                memory.connections_left,
            );
            let limit = (MEMORY_MB << 20) as f64 * 1.05 + 20e6;
            let target = if kind == Kind::Unbuckle { Target::AtMost(1.0) } else { Target::None };
            let what = format!("{}: RSS / (-m + 5 % + 20 MB), {}", kind.name(), variant.what);
            report.add(what, Spread::of([memory.greatest as f64 / limit]), target);
        }
    }
    Ok(())
}

fn measure(setting: &Setting, kind: Kind, variant: &Variant) -> Result<Memory> {
    let workload = Workload::fixed(variant.key_bytes, variant.value_bytes);
    let mut settings = Settings::new(&setting.cores, canned(&workload, Operation::Get));
    settings.memory_mb = MEMORY_MB;
    settings.item_bytes_max = Some(4 << 20);
    let server = Server::start(kind, &setting.binaries, &settings)?;
    let mut control = server.control()?;
    // Full with the same sizes, so that all of `-m` is resident before; the wanted keys come last.
    let wanted = 0..variant.keys_per_get as u32;
    let filler = (2 * (MEMORY_MB << 20) / (variant.key_bytes + variant.value_bytes) as u64) as u32;
    control.fill(&workload, wanted.end..wanted.end + filler)?;
    control.fill(&workload, wanted.clone())?;
    let before = usage::resident_bytes(server.process())?;

    let mut request = b"get".to_vec();
    for index in wanted {
        request.push(b' ');
        workload.push_key(&mut request, index);
    }
    request.extend_from_slice(b"\r\n");
    let mut readers = Readers::connect(&server, &request)?;
    let duration = Duration::from_secs(if setting.quick { 3 } else { 6 });
    let mut memory = Memory { before, greatest: before, sockets: 0, connections_left: 0 };
    let end = Instant::now() + duration;
    while Instant::now() < end {
        readers.read_for(Duration::from_millis(100), &request)?;
        memory.greatest = memory.greatest.max(usage::resident_bytes(server.process())?);
        memory.sockets = memory.sockets.max(usage::tcp_socket_bytes()?);
    }
    memory.connections_left = readers.left();
    Ok(memory)
}

struct Readers {
    streams: Vec<Option<TcpStream>>,
    /// Requests whose bytes were not all taken: the rest, by connection.
    unsent: Vec<usize>,
    epoll: Epoll,
    input: Vec<u8>,
}

impl Readers {
    fn connect(server: &Server, request: &[u8]) -> Result<Self> {
        let epoll = Epoll::new(CONNECTIONS)?;
        let mut streams = Vec::new();
        for token in 0..CONNECTIONS {
            let mut stream = sys::connect_narrow(server.address, RECEIVE_BUFFER_BYTES)?;
            stream.write_all(request)?;
            stream.set_nonblocking(true)?;
            if token % 3 == 0 {
                epoll.add(&stream, token)?;
            }
            streams.push(Some(stream));
        }
        Ok(Readers { streams, unsent: vec![0; CONNECTIONS], epoll, input: vec![0; 256 << 10] })
    }

    fn left(&self) -> usize {
        self.streams.iter().flatten().count()
    }

    fn read_for(&mut self, duration: Duration, request: &[u8]) -> Result<()> {
        for slow in (1..CONNECTIONS).step_by(3) {
            let Some(stream) = &mut self.streams[slow] else { continue };
            if ended(stream.read(&mut self.input[..SLOW_BYTES])) {
                self.streams[slow] = None;
            }
        }
        let end = Instant::now() + duration;
        while Instant::now() < end {
            for index in 0..self.epoll.wait(Some(Duration::from_millis(10)))? {
                self.read_fast(self.epoll.event(index).token, request);
            }
        }
        Ok(())
    }

    /// Reads; when the reply's end came, asks again.
    fn read_fast(&mut self, token: usize, request: &[u8]) {
        let Some(stream) = &mut self.streams[token] else { return };
        let read = stream.read(&mut self.input);
        if let Ok(read) = read
            && self.input[..read].ends_with(b"END\r\n")
        {
            self.unsent[token] = request.len();
        }
        let rest = &request[request.len() - self.unsent[token]..];
        let written = if rest.is_empty() { Ok(0) } else { stream.write(rest) };
        self.unsent[token] -= written.as_ref().copied().unwrap_or(0).min(self.unsent[token]);
        if ended(read) {
            self.streams[token] = None;
        }
    }
}

fn ended(read: std::io::Result<usize>) -> bool {
    match read {
        Ok(read) => read == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}
