//! The acceptor: takes connections in and gives each to the worker that has the fewest; hears signals.
//!
//! It has a poll of its own. With several workers a thread waits in it; with one, it is an entry of that worker's poll,
//! so that a server of one thread is one.

use crate::listen::{Listener, Place};
use crate::shared::{Arrival, Shared};
use crate::sources;
use crate::system::{Signal, Signals};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fs::{Mode, OFlags, Timespec};
use rustix::io::{self, Errno};
use rustix::net::{SendFlags, SocketAddrAny, SocketFlags};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Connections that one event takes in, so that signals and, with one thread, clients get their turn.
const ACCEPTS_PER_EVENT: usize = 64;
const REJECTION: &[u8] = b"ERROR Too many open connections\r\n";

/// Tokens of the poll: a listener's index, or one of these.
const SIGNALS: u64 = u64::MAX;
const BELL: u64 = u64::MAX - 1;

pub(crate) struct Acceptor<'s, 'r> {
    shared: &'s Shared<'r>,
    listeners: &'s [Listener],
    signals: &'s Signals,
    poll: OwnedFd,
    /// Given up for a moment to turn a connection away when descriptors have run out.
    reserve: Option<OwnedFd>,
    /// Since when listening is interrupted.
    paused: Option<Instant>,
}

impl<'s, 'r> Acceptor<'s, 'r> {
    pub(crate) fn new(
        shared: &'s Shared<'r>,
        listeners: &'s [Listener],
        signals: &'s Signals,
    ) -> io::Result<Acceptor<'s, 'r>> {
        let poll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&poll, &signals.descriptor, EventData::new_u64(SIGNALS), EventFlags::IN)?;
        epoll::add(&poll, &shared.acceptor_bell.0, EventData::new_u64(BELL), EventFlags::IN)?;
        let acceptor = Acceptor { shared, listeners, signals, poll, reserve: open_reserve(), paused: None };
        acceptor.listen()?;
        Ok(acceptor)
    }

    /// Readable when [`Self::handle_ready`] has something to do.
    pub(crate) fn poll(&self) -> &OwnedFd {
        &self.poll
    }

    /// Until the server stops.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        while !self.shared.is_stopping() {
            self.handle(None)?;
        }
        Ok(())
    }

    /// Without waiting.
    pub(crate) fn handle_ready(&mut self) -> io::Result<()> {
        self.handle(Some(Timespec { tv_sec: 0, tv_nsec: 0 }))
    }

    fn handle(&mut self, timeout: Option<Timespec>) -> io::Result<()> {
        let mut events = Vec::with_capacity(16);
        match epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        for event in events {
            match event.data.u64() {
                SIGNALS => self.hear_signals(),
                BELL => self.hear_bell(),
                index => {
                    if let Some(listener) = self.listeners.get(index as usize) {
                        self.accept_from(index as usize, listener);
                    }
                }
            }
        }
        Ok(())
    }

    fn hear_signals(&self) {
        while let Some(signal) = self.signals.next() {
            if signal == Signal::HangUp {
                self.reload();
                continue;
            }
            if self.shared.verbosity() > 0 {
                eprintln!("ending on signal: {signal:?}");
            }
            self.shared.stop();
        }
    }

    /// SIGHUP: reads again what can be read again. What cannot be, stays as it was.
    fn reload(&self) {
        if let Some(passwords) = &self.shared.passwords
            && let Err(message) = passwords.reload()
        {
            eprintln!("{message}; the old ones stay in force");
        }
        if let Some(tls) = &self.shared.tls
            && let Err(error) = tls.refresh(self.shared.clock.uptime_s())
        {
            eprintln!("{error}; the certificates stay as they are");
        }
    }

    fn hear_bell(&mut self) {
        let mut number = [0; 8];
        let _ = io::read(&self.shared.acceptor_bell.0, &mut number);
        self.resume_if_possible();
    }

    fn accept_from(&mut self, index: usize, listener: &Listener) {
        for _ in 0..ACCEPTS_PER_EVENT {
            if self.is_full() && !self.shared.options.extended.max_connections_fast {
                return self.pause();
            }
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match rustix::net::acceptfrom_with(&listener.socket, flags) {
                Ok((socket, _)) if self.is_full() => self.reject(&socket),
                Ok((socket, peer)) => self.admit(socket, peer, index, listener),
                Err(Errno::MFILE | Errno::NFILE) => return self.turn_away(listener),
                Err(Errno::NOBUFS | Errno::NOMEM) => return self.pause(),
                // A connection that broke before it was taken is not the listener's failure.
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    fn is_full(&self) -> bool {
        self.shared.connections() >= self.shared.options.connections_max
    }

    fn reject(&self, socket: &OwnedFd) {
        self.shared.accept.rejected.add(1);
        let _ = rustix::net::send(socket, REJECTION, SendFlags::NOSIGNAL);
    }

    fn admit(&self, socket: OwnedFd, peer: Option<SocketAddrAny>, index: usize, listener: &Listener) {
        let desks = self.shared.desks.iter().enumerate();
        let fewest = desks.min_by_key(|(_, desk)| desk.mailbox.connections.load(Ordering::Relaxed));
        let Some((worker, desk)) = fewest else { return };
        desk.mailbox.connections.fetch_add(1, Ordering::Relaxed);
        self.shared.accept.accepted.add(1);
        let (address, source) = match (&listener.place, peer.and_then(|peer| SocketAddr::try_from(peer).ok()))
        {
            (Place::Unix(_), _) | (_, None) => ("unix:".to_owned(), sources::LOCAL),
            (_, Some(address)) => (Place::Tcp(address).to_string(), sources::source_key(address.ip())),
        };
        let Listener { protection, protocol, .. } = *listener;
        let arrival = Arrival { socket, address, listener: index, protection, protocol, source };
        self.shared.hand_over(worker, arrival);
    }

    /// No descriptor is free: the one in reserve is lent to one connection after another, to tell them.
    fn turn_away(&mut self, listener: &Listener) {
        if self.reserve.take().is_none() {
            return self.pause();
        }
        if let Ok(socket) =
            rustix::net::accept_with(&listener.socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)
        {
            self.reject(&socket);
        }
        self.reserve = open_reserve();
    }

    /// Stops listening until a connection goes: the next ones wait in the kernel's queue.
    fn pause(&mut self) {
        if self.paused.is_none() {
            self.paused = Some(Instant::now());
            self.shared.accept.listen_disabled.add(1);
            for listener in self.listeners {
                let _ = epoll::delete(&self.poll, &listener.socket);
            }
        }
        self.shared.listening_paused.store(true, Ordering::SeqCst);
        // One may have gone before it could see that we wait for it.
        self.resume_if_possible();
    }

    fn resume_if_possible(&mut self) {
        let Some(since) = self.paused else { return };
        if self.is_full() && !self.shared.is_stopping() {
            return;
        }
        self.shared.listening_paused.store(false, Ordering::SeqCst);
        self.shared.accept.listen_disabled_us.add(since.elapsed().as_micros() as u64);
        self.reserve = self.reserve.take().or_else(open_reserve);
        self.paused = None;
        if let Err(error) = self.listen() {
            eprintln!("cannot listen again: {error}");
        }
    }

    fn listen(&self) -> io::Result<()> {
        for (index, listener) in self.listeners.iter().enumerate() {
            epoll::add(&self.poll, &listener.socket, EventData::new_u64(index as u64), EventFlags::IN)?;
        }
        Ok(())
    }
}

fn open_reserve() -> Option<OwnedFd> {
    rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
}
