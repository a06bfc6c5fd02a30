//! The load over TCP: one thread, many connections, every reply checked.
//!
//! Closed loop: each connection keeps `in_flight` requests under way; a reply makes room for the next. Open loop:
//! requests have times at which they are meant to be sent, whatever the server does, and latency counts from there,
//! so a stall is felt by all requests that it delays (no coordinated omission). The load stays connected between
//! windows, so a warm-up is a window whose result is dropped.

use crate::histogram::Histogram;
use crate::random::{Choice, Random};
use crate::sys::Epoll;
use crate::tls::{Client, Wire};
use crate::workload::{Reply, Workload};
use anyhow::{Context, Result, bail};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Get,
    Set,
    /// One get of this many keys.
    MultiGet {
        keys: usize,
    },
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub operation: Operation,
    pub choice: Choice,
    pub connections: usize,
    /// Per connection, closed loop.
    pub in_flight: usize,
    pub seed: u64,
    /// False against a floor, whose bytes mean nothing: then only lengths are expected.
    pub check: bool,
    /// Over TLS.
    pub tls: Option<Client>,
}

#[derive(Clone, Copy, Debug)]
pub enum Pace {
    Closed,
    /// Requests per second, timed from the intended send.
    Rate(f64),
}

#[derive(Clone, Debug)]
pub struct Outcome {
    pub requests: u64,
    pub seconds: f64,
    pub latency: Histogram,
}

impl Outcome {
    pub fn per_second(&self) -> f64 {
        self.requests as f64 / self.seconds
    }
}

struct Connection {
    stream: Wire,
    input: Vec<u8>,
    filled: usize,
    out: Vec<u8>,
    sent: usize,
    waits_for_write: bool,
    /// When each request under way was (to be) sent, in ns since the load began.
    since: VecDeque<u64>,
    /// The keys asked for and not answered yet, in order: one per request, or several for a multi-get.
    asked: VecDeque<u32>,
}

pub struct Load<'w> {
    workload: &'w Workload,
    plan: Plan,
    connections: Vec<Connection>,
    epoll: Epoll,
    random: Random,
    began: Instant,
    latency: Histogram,
    /// Replies still to come from before the current window do not count in it.
    answered: u64,
}

impl<'w> Load<'w> {
    pub fn connect(address: SocketAddrV4, workload: &'w Workload, plan: Plan) -> Result<Self> {
        let epoll = Epoll::new(plan.connections)?;
        let keys = keys_per_request(plan.operation);
        let input_bytes = (64 << 10).max(plan.in_flight.max(8) * keys * 2 * workload.hit_bytes(0));
        let mut connections = Vec::with_capacity(plan.connections);
        for token in 0..plan.connections {
            let stream =
                TcpStream::connect(address).with_context(|| format!("connection {token} to {address}"))?;
            stream.set_nodelay(true)?;
            let stream = match &plan.tls {
                Some(client) => Wire::Tls(Box::new(client.greet(stream)?)),
                None => Wire::Plain(stream),
            };
            stream.socket().set_nonblocking(true)?;
            epoll.add(&stream, token)?;
            connections.push(Connection {
                stream,
                input: vec![0; input_bytes],
                filled: 0,
                out: Vec::with_capacity(64 << 10),
                sent: 0,
                waits_for_write: false,
                since: VecDeque::new(),
                asked: VecDeque::new(),
            });
        }
        let random = Random::new(plan.seed);
        let began = Instant::now();
        Ok(Load { workload, plan, connections, epoll, random, began, latency: Histogram::new(), answered: 0 })
    }

    /// Runs for `window` and says what was answered in it. Fails on any wrong reply, and on a miss: what is asked for
    /// was stored.
    pub fn run(&mut self, window: Duration, pace: Pace) -> Result<Outcome> {
        self.latency = Histogram::new();
        self.answered = 0;
        let start_ns = self.now_ns();
        let end_ns = start_ns + window.as_nanos() as u64;
        match pace {
            Pace::Closed => self.run_closed(end_ns)?,
            Pace::Rate(rate) => self.run_open(start_ns, end_ns, rate)?,
        }
        let seconds = (self.now_ns() - start_ns) as f64 / 1e9;
        Ok(Outcome { requests: self.answered, seconds, latency: self.latency.clone() })
    }

    fn run_closed(&mut self, end_ns: u64) -> Result<()> {
        let now_ns = self.now_ns();
        for token in 0..self.connections.len() {
            while self.connections[token].since.len() < self.plan.in_flight {
                self.ask(token, now_ns);
            }
            self.flush(token)?;
        }
        while self.now_ns() < end_ns {
            let events = self.epoll.wait(Some(Duration::from_secs(5)))?;
            if events == 0 {
                bail!("no reply for 5 s: the server hangs");
            }
            for index in 0..events {
                let ready = self.epoll.event(index);
                if ready.readable {
                    let now_ns = self.receive(ready.token)?;
                    while self.connections[ready.token].since.len() < self.plan.in_flight {
                        self.ask(ready.token, now_ns);
                    }
                }
                self.flush(ready.token)?;
            }
        }
        Ok(())
    }

    fn run_open(&mut self, start_ns: u64, end_ns: u64, rate: f64) -> Result<()> {
        let gap_ns = 1e9 / rate;
        let (mut sent, mut token) = (0u64, 0);
        loop {
            let now_ns = self.now_ns();
            if now_ns >= end_ns {
                break;
            }
            loop {
                let intended_ns = start_ns + (sent as f64 * gap_ns) as u64;
                if intended_ns > now_ns {
                    break;
                }
                self.ask(token, intended_ns);
                self.flush(token)?;
                sent += 1;
                token = (token + 1) % self.connections.len();
                // What has come meanwhile is looked at now and then even when the load lags behind.
                if sent.is_multiple_of(64) {
                    break;
                }
            }
            for index in 0..self.epoll.wait(Some(Duration::ZERO))? {
                let ready = self.epoll.event(index);
                if ready.readable {
                    self.receive(ready.token)?;
                }
                self.flush(ready.token)?;
            }
        }
        self.drain()
    }

    /// Waits for the replies that are still under way (they count: they are the late ones).
    fn drain(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.connections.iter().any(|connection| !connection.since.is_empty()) {
            if Instant::now() > deadline {
                bail!("replies are missing 10 s after the last request");
            }
            for index in 0..self.epoll.wait(Some(Duration::from_millis(100)))? {
                let ready = self.epoll.event(index);
                self.receive(ready.token)?;
                self.flush(ready.token)?;
            }
        }
        Ok(())
    }

    fn now_ns(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    fn ask(&mut self, token: usize, now_ns: u64) {
        let connection = &mut self.connections[token];
        match self.plan.operation {
            Operation::Get => {
                let index = self.plan.choice.draw(&mut self.random);
                self.workload.push_get(&mut connection.out, index);
                connection.asked.push_back(index);
            }
            Operation::Set => {
                let index = self.plan.choice.draw(&mut self.random);
                self.workload.push_set(&mut connection.out, index, false);
            }
            Operation::MultiGet { keys } => {
                connection.out.extend_from_slice(b"get");
                for _ in 0..keys {
                    let index = self.plan.choice.draw(&mut self.random);
                    connection.out.push(b' ');
                    self.workload.push_key(&mut connection.out, index);
                    connection.asked.push_back(index);
                }
                connection.out.extend_from_slice(b"\r\n");
            }
        }
        connection.since.push_back(now_ns);
    }

    fn flush(&mut self, token: usize) -> Result<()> {
        let connection = &mut self.connections[token];
        while connection.sent < connection.out.len() {
            match connection.stream.write(&connection.out[connection.sent..]) {
                Ok(written) => connection.sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("sending a request"),
            }
        }
        let unsent = connection.sent < connection.out.len();
        if !unsent {
            connection.out.clear();
            connection.sent = 0;
        }
        if unsent != connection.waits_for_write {
            connection.waits_for_write = unsent;
            self.epoll.want_write(&connection.stream, token, unsent)?;
        }
        Ok(())
    }

    /// Reads once and takes every whole reply. Returns the time of reading.
    fn receive(&mut self, token: usize) -> Result<u64> {
        let connection = &mut self.connections[token];
        let read = match connection.stream.read(&mut connection.input[connection.filled..]) {
            Ok(0) => bail!("the server closed connection {token}"),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error).context("receiving a reply"),
        };
        let now_ns = self.began.elapsed().as_nanos() as u64;
        connection.filled += read;
        let mut start = 0;
        while !connection.since.is_empty() {
            let received = &connection.input[start..connection.filled];
            let keys = keys_per_request(self.plan.operation).min(connection.asked.len());
            let bytes = match self.plan.operation {
                Operation::Set => set_reply(received)?,
                _ if !self.plan.check => canned_reply(received, self.workload, &connection.asked, keys),
                _ => get_reply(received, self.workload, &connection.asked, keys)?,
            };
            let Some(bytes) = bytes else { break };
            start += bytes;
            connection.asked.drain(..keys);
            let since_ns = connection.since.pop_front().unwrap_or(now_ns);
            self.latency.record(now_ns.saturating_sub(since_ns));
            self.answered += 1;
        }
        connection.input.copy_within(start..connection.filled, 0);
        connection.filled -= start;
        if connection.since.is_empty() && connection.filled > 0 {
            bail!("the server sent {} bytes that nobody asked for", connection.filled);
        }
        if connection.filled == connection.input.len() {
            bail!("a reply is longer than the {} bytes it can have", connection.input.len());
        }
        Ok(now_ns)
    }
}

pub fn keys_per_request(operation: Operation) -> usize {
    match operation {
        Operation::MultiGet { keys } => keys,
        Operation::Get | Operation::Set => 1,
    }
}

/// The bytes of one request and of its reply, for a floor that answers the same amount.
pub fn canned(workload: &Workload, operation: Operation) -> crate::floor::Canned {
    let mut request = Vec::new();
    let keys = keys_per_request(operation);
    let reply_bytes = match operation {
        Operation::Set => {
            workload.push_set(&mut request, 0, false);
            STORED.len()
        }
        Operation::Get | Operation::MultiGet { .. } => {
            request.resize(b"get".len() + keys * (1 + workload.key_bytes(0)) + 2, 0);
            keys * workload.hit_bytes(0) + END.len()
        }
    };
    crate::floor::Canned { request_bytes: request.len(), reply_bytes }
}

const STORED: &[u8] = b"STORED\r\n";
const END: &[u8] = b"END\r\n";

fn set_reply(received: &[u8]) -> Result<Option<usize>> {
    match received.get(..STORED.len()) {
        // The floor's bytes have the length and no meaning.
        Some(line) if line == STORED || line == b"xxxxxxxx" => Ok(Some(STORED.len())),
        Some(_) => bail!("a set was answered by {}", received[..received.len().min(80)].escape_ascii()),
        None => Ok(None),
    }
}

fn canned_reply(received: &[u8], workload: &Workload, asked: &VecDeque<u32>, keys: usize) -> Option<usize> {
    let bytes = asked.iter().take(keys).map(|index| workload.hit_bytes(*index)).sum::<usize>() + END.len();
    (received.len() >= bytes).then_some(bytes)
}

fn get_reply(
    received: &[u8],
    workload: &Workload,
    asked: &VecDeque<u32>,
    keys: usize,
) -> Result<Option<usize>> {
    // A multi-get's reply often comes in pieces: do not check the first values again for every piece.
    let least = asked.iter().take(keys).map(|index| workload.hit_bytes(*index)).sum::<usize>() + END.len();
    if received.len() < least && !received.starts_with(b"END") && !received.starts_with(b"SERVER") {
        return Ok(None);
    }
    let mut start = 0;
    for index in asked.iter().take(keys) {
        match workload.check(&received[start..], *index) {
            Reply::Hit { bytes } => start += bytes,
            Reply::Incomplete => return Ok(None),
            Reply::Miss => bail!("key {index} was stored and is missing"),
            Reply::Wrong => {
                let shown = &received[start..received.len().min(start + 120)];
                bail!("wrong value for key {index}: {}", shown.escape_ascii());
            }
        }
    }
    match received.get(start..start + END.len()) {
        Some(END) => Ok(Some(start + END.len())),
        Some(other) => bail!("expected END after the values, got {}", other.escape_ascii()),
        None => Ok(None),
    }
}
