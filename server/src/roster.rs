//! Who is connected: what `stats conns` shows, kept where any thread can read it.
//!
//! A connection's seat is its descriptor's number, as memcached's listing has it. Addresses are written when it comes
//! and go when it goes, under a lock; what changes with every turn is two relaxed stores in a line of its own.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a connection is doing, under memcached's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    Empty,
    Listening,
    /// A UDP socket.
    Datagrams,
    New,
    /// Waits for a request.
    Read,
    /// Has sent a part of one.
    PartRead,
    /// Is being served now.
    Serving,
    /// Has not taken its reply.
    Stalled,
    /// Watches, or gets a dump.
    Watching,
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            State::Empty | State::New => "conn_new_cmd",
            State::Listening => "conn_listening",
            State::Datagrams | State::Read => "conn_read",
            State::PartRead => "conn_nread",
            State::Serving => "conn_parse_cmd",
            State::Stalled => "conn_mwrite",
            State::Watching => "conn_watch",
        }
    }

    fn from_bits(bits: u8) -> State {
        use State::{Datagrams, Empty, Listening, New, PartRead, Read, Serving, Stalled, Watching};
        let all = [Empty, Listening, Datagrams, New, Read, PartRead, Serving, Stalled, Watching];
        all.get(usize::from(bits)).copied().unwrap_or(Empty)
    }
}

/// What is known of a connection from its beginning.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) address: String,
    /// `None` for a listener, which has none to name but its own.
    pub(crate) listener: Option<usize>,
}

#[derive(Debug)]
#[repr(align(64))] // turns of different workers must not write to one line
struct Row {
    state: AtomicU8,
    last_turn_s: AtomicU32,
    entry: Mutex<Option<Entry>>,
}

#[derive(Debug)]
pub(crate) struct Roster {
    rows: Vec<Row>,
}

/// A connection's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seat(u32);

/// One row, as listed.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) number: u32,
    pub(crate) state: State,
    pub(crate) last_turn_s: u32,
    pub(crate) entry: Entry,
}

impl Roster {
    /// For descriptors below `rows`; those beyond are served all the same, but not listed.
    pub(crate) fn new(rows: usize) -> Roster {
        let row = || Row { state: AtomicU8::new(0), last_turn_s: AtomicU32::new(0), entry: Mutex::new(None) };
        Roster { rows: std::iter::repeat_with(row).take(rows).collect() }
    }

    pub(crate) fn enter(&self, descriptor: i32, entry: Entry, state: State, now_s: u32) -> Seat {
        let seat = Seat(descriptor as u32);
        if let Some(row) = self.rows.get(seat.0 as usize) {
            *lock(&row.entry) = Some(entry);
        }
        self.note(seat, state, now_s);
        seat
    }

    #[inline]
    pub(crate) fn note(&self, seat: Seat, state: State, now_s: u32) {
        if let Some(row) = self.rows.get(seat.0 as usize) {
            row.state.store(state as u8, Ordering::Relaxed);
            row.last_turn_s.store(now_s, Ordering::Relaxed);
        }
    }

    /// To be called before the descriptor is closed: after that its number may be another's.
    pub(crate) fn leave(&self, seat: Seat) {
        if let Some(row) = self.rows.get(seat.0 as usize) {
            *lock(&row.entry) = None;
            row.state.store(State::Empty as u8, Ordering::Relaxed);
        }
    }

    /// As `stats conns` shows it.
    pub(crate) fn address(&self, seat: Seat) -> Option<String> {
        let row = self.rows.get(seat.0 as usize)?;
        lock(&row.entry).as_ref().map(|entry| entry.address.clone())
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn list(&self) -> impl Iterator<Item = Listed> {
        self.rows.iter().enumerate().filter_map(|(number, row)| {
            let entry = lock(&row.entry).clone()?;
            let state = State::from_bits(row.state.load(Ordering::Relaxed));
            let last_turn_s = row.last_turn_s.load(Ordering::Relaxed);
            Some(Listed { number: number as u32, state, last_turn_s, entry })
        })
    }
}

/// A thread that panicked ends the process, so a poisoned lock is not met; if it is, the data is still whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_who_is_there() {
        let roster = Roster::new(8);
        let entry = Entry { address: "tcp:127.0.0.1:5".to_owned(), listener: Some(0) };
        let seat = roster.enter(5, entry.clone(), State::New, 7);
        let beyond = roster.enter(9, entry, State::New, 7);
        roster.note(seat, State::PartRead, 9);
        let listed: Vec<Listed> = roster.list().collect();
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].number, listed[0].state, listed[0].last_turn_s), (5, State::PartRead, 9));
        roster.leave(seat);
        roster.leave(beyond);
        assert_eq!(roster.list().count(), 0);
    }
}
