//! A worker: one thread, one poll, and the connections that it was given.
//!
//! Edge-triggered epoll: a socket is registered once, and again only when it has not taken a reply. Connections that
//! have more to do than their turn allows wait in a queue, and are served between polls. Workers share no connection
//! and hold no lock while they serve.

use crate::acceptor::Acceptor;
use crate::ahead;
use crate::buffers::Exhausted;
use crate::connection::{Connection, Table, Token};
use crate::jobs::Job;
use crate::roster::{Entry, State, lock};
use crate::shared::{Arrival, Desk, Shared};
use crate::tls::session::Session as TlsSession;
use crate::turn::{Leftover, Server, Turn};
use crate::udp::DatagramSocket;
use crate::verbose;
use crate::watch::{CloseReason, What};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::{self, Errno};
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use unbuckle_engine::{Engine, Session, Settings};

/// Sockets that one poll reports.
const EVENTS_MAX: usize = 128;
/// Background work on a busy worker: steps for each second's tick, and one for each poll while there is more.
const MAINTAIN_STEPS_PER_TICK: usize = 32;
/// A TLS handshake that takes longer is given up.
const GREETING_SECONDS_MAX: u32 = 60;

/// The poller's own tokens have the highest bit; see [`Token`] for the others.
const OWN: u64 = 1 << 63;
const TICK: u64 = OWN;
const BELL: u64 = OWN | 1;
const DATAGRAMS: u64 = OWN | (1 << 32);
const ACCEPTOR: u64 = OWN | (2 << 32);
/// What a connection is registered for while it is not stalled.
const WAIT_FOR_INPUT: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::ET);

const KIND_MASK: u64 = OWN | (0x7fff_ffff << 32);

pub(crate) struct Worker<'s, 'r> {
    number: usize,
    shared: &'s Shared<'r>,
    desk: &'s Desk,
    server: Server<'s, 'r>,
    poll: OwnedFd,
    ticker: OwnedFd,
    connections: Table<'s>,
    /// Connections that have more to do.
    queue: VecDeque<Token>,
    /// Stalled connections with the number of their stall, the longest-stalled first. Entries outlive their stall.
    stalled: VecDeque<(Token, u32)>,
    /// Connections that watch.
    watching: Vec<Token>,
    /// TLS handshakes with the second in which they began, the oldest first. Entries outlive their handshake.
    greetings: VecDeque<(Token, u32)>,
    datagrams: Vec<DatagramSocket>,
    /// With one thread, the worker accepts as well.
    acceptor: Option<Acceptor<'s, 'r>>,
    /// The engine has background work left.
    maintain_more: bool,
}

impl<'s, 'r> Worker<'s, 'r> {
    pub(crate) fn new(
        shared: &'s Shared<'r>,
        number: usize,
        datagrams: Vec<DatagramSocket>,
        acceptor: Option<Acceptor<'s, 'r>>,
    ) -> io::Result<Worker<'s, 'r>> {
        let desk = &shared.desks[number];
        let settings = Settings {
            cas: shared.options.cas,
            flush_enabled: shared.options.flush_enabled,
            protocol: shared.options.protocol.spoken(),
        };
        let hands = shared.store.worker(number).ok_or(Errno::INVAL)?;
        let mut engine = Engine::new(hands, settings, &desk.counters);
        if let Some(passwords) = &shared.passwords {
            engine = engine.guarded(passwords);
        }
        let poll = epoll::create(CreateFlags::CLOEXEC)?;
        let ticker = shared.clock.ticker()?;
        let edge = EventFlags::IN | EventFlags::ET;
        epoll::add(&poll, &ticker, EventData::new_u64(TICK), edge)?;
        epoll::add(&poll, &desk.mailbox.bell.0, EventData::new_u64(BELL), edge)?;
        for (index, socket) in datagrams.iter().enumerate() {
            // Level-triggered: a batch may leave datagrams behind.
            epoll::add(
                &poll,
                socket.descriptor(),
                EventData::new_u64(DATAGRAMS | index as u64),
                EventFlags::IN,
            )?;
        }
        if let Some(acceptor) = &acceptor {
            epoll::add(&poll, acceptor.poll(), EventData::new_u64(ACCEPTOR), EventFlags::IN)?;
        }
        Ok(Worker {
            number,
            shared,
            desk,
            server: Server::new(engine, shared, number),
            poll,
            ticker,
            connections: Table::default(),
            queue: VecDeque::new(),
            stalled: VecDeque::new(),
            watching: Vec::new(),
            greetings: VecDeque::new(),
            datagrams,
            acceptor,
            maintain_more: true,
        })
    }

    /// Serves until the server stops.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        self.server.now_set(self.shared.clock.now_s());
        let mut events = Vec::with_capacity(EVENTS_MAX);
        while !self.shared.is_stopping() {
            events.clear();
            let busy = !self.queue.is_empty() || self.maintain_more;
            let no_wait = rustix::fs::Timespec { tv_sec: 0, tv_nsec: 0 };
            match epoll::wait(
                &self.poll,
                rustix::buffer::spare_capacity(&mut events),
                busy.then_some(&no_wait),
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
            let waiting = events.len() + self.queue.len();
            for batch in events.chunks(ahead::PLACES) {
                if batch.len() > 1 {
                    self.read_ahead(batch);
                }
                for event in batch {
                    self.handle(*event, waiting <= 1);
                }
            }
            self.serve_queue();
            if self.maintain_more {
                self.maintain_more = self.server.engine.maintain();
            }
        }
        self.end();
        Ok(())
    }

    /// Receives what connections at rest have sent, and asks for the memory that it will take to answer.
    fn read_ahead(&mut self, batch: &[Event]) {
        let read_ahead = &mut self.server.read_ahead;
        read_ahead.begin();
        for event in batch {
            let (data, flags) = (event.data.u64(), event.flags);
            if data & OWN == 0
                && flags == EventFlags::IN
                && let Some(connection) = self.connections.get_mut(Token::from_bits(data))
                && connection.is_at_rest()
            {
                read_ahead.receive(connection);
            }
        }
        read_ahead.anticipate(&self.server.engine);
    }

    fn handle(&mut self, event: Event, alone: bool) {
        let data = event.data.u64();
        if data & OWN == 0 {
            return self.handle_connection(Token::from_bits(data), event.flags, alone);
        }
        match data & KIND_MASK {
            TICK if data == TICK => self.tick(),
            TICK => self.hear_bell(),
            DATAGRAMS => {
                if let Some(socket) = self.datagrams.get_mut(data as u32 as usize) {
                    socket.serve(&mut self.server);
                }
            }
            ACCEPTOR => {
                if let Some(acceptor) = &mut self.acceptor {
                    // It fails only where the poll itself has; then so does ours.
                    let _ = acceptor.handle_ready();
                }
            }
            _ => {}
        }
    }

    fn handle_connection(&mut self, token: Token, flags: EventFlags, alone: bool) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        if flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            connection.hung_up = true;
            connection.readable = true;
        } else if flags.contains(EventFlags::IN) {
            connection.readable = true;
        }
        if !connection.queued {
            self.give_turn(token, alone);
        }
    }

    fn give_turn(&mut self, token: Token, alone: bool) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        match self.server.turn(connection, alone) {
            Turn::Wait(leftover) => {
                self.park(token, leftover);
            }
            Turn::Again(leftover) => {
                if self.park(token, leftover) {
                    if let Some(connection) = self.connections.get_mut(token) {
                        connection.queued = true;
                    }
                    self.queue.push_back(token);
                }
            }
            Turn::Close => self.close(token),
        }
    }

    /// One turn for each connection that was in the queue when this began.
    fn serve_queue(&mut self) {
        let waiting = self.queue.len();
        for _ in 0..waiting {
            let Some(token) = self.queue.pop_front() else { return };
            if let Some(connection) = self.connections.get_mut(token) {
                connection.queued = false;
                self.give_turn(token, waiting == 1);
            }
        }
    }

    /// Keeps what a turn left over. When memory for that is used up, the client that has not read its replies for the
    /// longest time makes room. False: there was none but this one, and it was closed.
    fn park(&mut self, token: Token, mut leftover: Leftover) -> bool {
        loop {
            let Some(connection) = self.connections.get_mut(token) else { return false };
            let counted = match keep(connection, &mut leftover, &self.server) {
                Ok(()) => break,
                Err(part) => part,
            };
            let counts = self.server.counts;
            match counted {
                Part::Input => counts.input_exhausted.add(1),
                Part::Output => counts.output_exhausted.add(1),
            }
            let victim = self.longest_stalled(token).unwrap_or(token);
            self.close(victim);
            if victim == token {
                return false;
            }
        }
        self.note_turn(token);
        true
    }

    fn note_turn(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        let state = if let Some(job) = &connection.job {
            if matches!(job, Job::Watching(_)) && !self.watching.contains(&token) {
                self.watching.push(token);
            }
            State::Watching
        } else if connection.stalled {
            State::Stalled
        } else if !connection.session.is_idle() || connection.input.rest().contains(&b'\n') {
            State::PartRead
        } else {
            State::Read
        };
        connection.last_turn_s = self.server.now_s;
        self.shared.roster.note(connection.seat, state, self.server.now_s);
        if connection.stalled != connection.stall_noted {
            self.note_stall(token);
        }
    }

    /// A connection has stalled, or goes on.
    fn note_stall(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        connection.stall_noted = connection.stalled;
        let flags = if connection.stalled { WAIT_FOR_INPUT | EventFlags::OUT } else { WAIT_FOR_INPUT };
        // It reports at once what has come meanwhile, so that nothing is missed.
        let _ = epoll::modify(&self.poll, &connection.socket, EventData::new_u64(token.to_bits()), flags);
        if !connection.stalled {
            return;
        }
        connection.stalls = connection.stalls.wrapping_add(1);
        let holds_pin = !connection.session.is_idle();
        self.stalled.push_back((token, connection.stalls));
        if self.stalled.len() > 2 * self.connections.len() + 16 {
            self.forget_past_stalls();
        }
        if holds_pin {
            self.bound_pins(token);
        }
    }

    fn forget_past_stalls(&mut self) {
        let connections = &mut self.connections;
        self.stalled.retain(|(token, stall)| {
            connections
                .get_mut(*token)
                .is_some_and(|connection| connection.stalled && connection.stalls == *stall)
        });
    }

    /// The connection of this worker that has been stalled longest, `except` apart.
    fn longest_stalled(&mut self, except: Token) -> Option<Token> {
        self.forget_past_stalls();
        let victim = self.stalled.iter().find(|(token, _)| *token != except)?.0;
        Some(victim)
    }

    /// Values that are being sent stay in memory whatever becomes of them; a quarter of it is the most that clients who
    /// do not read may hold.
    fn bound_pins(&mut self, newest: Token) {
        let store = &self.shared.store;
        if store.pinned_bytes() > store.limit_bytes() / 4
            && let Some(victim) = self.longest_stalled(newest)
        {
            self.server.counts.output_exhausted.add(1);
            self.close(victim);
        }
    }

    fn close(&mut self, token: Token) {
        if let Some(mut connection) = self.connections.remove(token) {
            self.server.end_sealed(&mut connection);
            self.server.engine.end(&mut connection.session);
            if let Some(Job::Watching(watcher)) = connection.job.take() {
                self.shared.hub.remove(&watcher);
                self.watching.retain(|other| *other != token);
            }
            self.report_close(&connection);
            self.shared.roster.leave(connection.seat);
            drop(connection);
            self.shared.connection_gone(self.number);
        }
    }

    fn report_close(&self, connection: &Connection<'_>) {
        if self.shared.verbosity() >= verbose::REQUESTS {
            verbose::closed(connection.socket.as_raw_fd());
        }
        if !self.shared.hub.wanted().is_empty() {
            let (descriptor, reason) = (connection.socket.as_raw_fd(), connection.close_reason);
            let address = self.shared.roster.address(connection.seat).unwrap_or_default();
            self.desk.reporter.connection(What::Closed { descriptor, reason }, &address);
        }
    }

    fn hear_bell(&mut self) {
        let mut number = [0; 8];
        // To be heard again, the bell must have been silenced.
        let _ = io::read(&self.desk.mailbox.bell.0, &mut number);
        self.take_arrivals();
        for index in 0..self.watching.len() {
            let Some(&token) = self.watching.get(index) else { break };
            let waits = self.connections.get_mut(token).is_some_and(|connection| !connection.queued);
            if waits {
                self.give_turn(token, false);
            }
        }
    }

    fn take_arrivals(&mut self) {
        let arrivals = std::mem::take(&mut *lock(&self.desk.mailbox.arrivals));
        for arrival in arrivals {
            if self.welcome(arrival).is_err() {
                self.shared.connection_gone(self.number);
            }
        }
    }

    fn welcome(&mut self, arrival: Arrival) -> io::Result<()> {
        let now_s = self.server.now_s;
        let descriptor = arrival.socket.as_raw_fd();
        if self.shared.verbosity() >= verbose::REQUESTS {
            verbose::connected(descriptor, arrival.protocol);
        }
        self.desk.reporter.connection(What::Opened { descriptor }, &arrival.address);
        let budget = &self.shared.budget;
        let tls = match &self.shared.tls {
            Some(tls) => TlsSession::accept(tls, arrival.protection, budget).transpose(),
            None => Ok(None),
        };
        let tls = tls.map_err(|_| Errno::PROTO)?;
        let is_greeting = tls.is_some();
        let session = Session::speaking(arrival.protocol.spoken()).from(arrival.source);
        let entry = Entry { address: arrival.address, listener: Some(arrival.listener) };
        let seat = self.shared.roster.enter(arrival.socket.as_raw_fd(), entry, State::New, now_s);
        let connection = Connection::new(arrival.socket, session, tls, seat, budget, now_s);
        let token = self.connections.insert(connection);
        if is_greeting {
            self.greetings.push_back((token, now_s));
        }
        let Some(connection) = self.connections.get_mut(token) else { return Ok(()) };
        let added =
            epoll::add(&self.poll, &connection.socket, EventData::new_u64(token.to_bits()), WAIT_FOR_INPUT);
        if added.is_err()
            && let Some(connection) = self.connections.remove(token)
        {
            self.shared.roster.leave(connection.seat);
        }
        added
    }

    /// A new second.
    fn tick(&mut self) {
        // A timer that is not read does not start over.
        let _ = io::read(&self.ticker, &mut [0; 8]);
        self.server.now_set(self.shared.clock.now_s());
        // Upkeep may evict, too.
        self.server.follow_watchers(0);
        if let (0, Some(fast_path)) = (self.number, &self.shared.fast_path) {
            fast_path.tick();
            // Watchers may have gone.
            self.shared.attend_to_gets();
        }
        let timeout_s = self.shared.options.extended.idle_timeout_s;
        if timeout_s > 0 {
            self.close_idle(timeout_s);
        }
        self.close_long_greetings();
        self.maintain_more = true;
        for _ in 0..MAINTAIN_STEPS_PER_TICK {
            if !self.server.engine.maintain() {
                self.maintain_more = false;
                break;
            }
        }
    }

    fn close_long_greetings(&mut self) {
        let now_s = self.server.now_s;
        while let Some(&(token, began_s)) = self.greetings.front() {
            let greets = self
                .connections
                .get_mut(token)
                .is_some_and(|connection| connection.tls.as_ref().is_some_and(|tls| tls.is_greeting()));
            if greets && now_s.saturating_sub(began_s) <= GREETING_SECONDS_MAX {
                return;
            }
            self.greetings.pop_front();
            if greets {
                self.server.counts.tls_handshake_errors.add(1);
                self.close(token);
            }
        }
    }

    fn close_idle(&mut self, timeout_s: u32) {
        let now_s = self.server.now_s;
        let idle: Vec<Token> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.job.is_none())
            .filter(|(_, connection)| now_s.saturating_sub(connection.last_turn_s) > timeout_s)
            .map(|(token, _)| token)
            .collect();
        for token in idle {
            self.server.counts.idle_kicks.add(1);
            if let Some(connection) = self.connections.get_mut(token) {
                connection.close_reason = CloseReason::IdleTimeout;
            }
            self.close(token);
        }
    }

    fn end(&mut self) {
        let all: Vec<Token> = self.connections.iter().map(|(token, _)| token).collect();
        for token in all {
            self.close(token);
        }
    }
}

/// Which part of a leftover found no memory.
enum Part {
    Input,
    Output,
}

/// Parks as much of `leftover` as is not parked yet.
fn keep(
    connection: &mut Connection<'_>,
    leftover: &mut Leftover,
    server: &Server<'_, '_>,
) -> Result<(), Part> {
    let output = server.output.get(leftover.output.clone()).unwrap_or_default();
    connection.output.append(output).map_err(|Exhausted| Part::Output)?;
    leftover.output = 0..0;
    connection.output.append(&leftover.long_reply).map_err(|Exhausted| Part::Output)?;
    leftover.long_reply = Vec::new();
    let input = server.input.get(..leftover.input_bytes).unwrap_or_default();
    connection.input.append(input).map_err(|Exhausted| Part::Input)?;
    leftover.input_bytes = 0;
    Ok(())
}
