//! `ma`: adding to a number, or subtracting, or beginning with one.

use super::{CAS_OF_NOTHING, repeat_request, ttl};
use crate::classic::single::changed_number;
use crate::{Engine, Turn};
use unbuckle_store::{Condition, Expiry, Key, NewItem, Refused, Rewrite, Rewritten, Stored};
use unbuckle_wire::meta::{INVALID_ARITHMETIC_MODE, OPAQUE_TOO_LONG, OUT_OF_MEMORY_NEW, Reply, Request};
use unbuckle_wire::number::{DECIMAL_BYTES_MAX, decimal};
use unbuckle_wire::reply;

/// Why an item was not changed.
enum Declined {
    NotNumeric,
    /// It has another CAS than `C` says.
    Differs,
}

/// The number and what a reply says of its item.
#[derive(Clone, Copy)]
struct Counted {
    number: u64,
    cas: u64,
    /// Before this request.
    expiry: Expiry,
    created: bool,
}

impl Engine<'_, '_> {
    pub(super) fn meta_arithmetic(
        &mut self,
        turn: &mut Turn<'_, '_, '_>,
        bytes: usize,
        key: &Key<'_>,
        request: &Request<'_>,
    ) {
        let incr = match request.mode {
            None | Some(b'I' | b'+') => true,
            Some(b'D' | b'-') => false,
            Some(_) => return turn.finish(bytes, INVALID_ARITHMETIC_MODE, false),
        };
        if request.has_long_opaque() {
            return turn.finish(bytes, OPAQUE_TOO_LONG, false);
        }
        self.tell_lookup(key);
        let counted = loop {
            let rewritten = self.count_up(key, request, incr);
            if !matches!(rewritten, Err(Rewritten::NotFound)) || request.vivify.is_none() {
                break rewritten;
            }
            match self.begin_count(key, request) {
                Ok(Some(counted)) => break Ok(counted),
                // Another has been faster: now it is there.
                Ok(None) => (),
                Err(_) => return turn.finish(bytes, OUT_OF_MEMORY_NEW, false),
            }
        };
        let status: &[u8] = match counted {
            Ok(_) if request.flags.has(b'q') => return turn.finish(bytes, b"", true),
            Ok(counted) => return self.write_count(turn, bytes, key, request, counted),
            Err(Rewritten::Declined(Declined::NotNumeric)) => {
                return turn.finish(bytes, reply::NOT_NUMERIC, false);
            }
            Err(Rewritten::Refused(_)) => return turn.finish(bytes, reply::OUT_OF_MEMORY, false),
            Err(Rewritten::Declined(Declined::Differs)) => b"EX",
            Err(_) => {
                if incr { &self.counters.incr_misses } else { &self.counters.decr_misses }.add(1);
                b"NF"
            }
        };
        let mut reply = Reply::new(turn.output.free(), status);
        repeat_request(&mut reply, request, key);
        let written = reply.finish();
        turn.finish_written(bytes, written);
    }

    /// Changes the number that is there; or why it was not changed.
    fn count_up(
        &mut self,
        key: &Key<'_>,
        request: &Request<'_>,
        incr: bool,
    ) -> Result<Counted, Rewritten<Declined>> {
        // Here a CAS of 0 asks for nothing.
        let expected = match request.cas.filter(|cas| *cas != 0) {
            Some(_) if !self.settings.cas => Some(CAS_OF_NOTHING),
            cas => cas,
        };
        let touch = request.ttl.map(|exptime| self.clock.expiry(exptime));
        let next = self.next_cas(request);
        let (mut number, mut expiry) = (0, Expiry::NEVER);
        let rewritten = self.worker.rewrite(key, &mut self.scratch, |item, scratch| {
            // An empty value is told before another CAS, any other that is no number only after it.
            if item.value_len() == 0 {
                return Err(Declined::NotNumeric);
            }
            if expected.is_some_and(|expected| expected != item.cas()) {
                return Err(Declined::Differs);
            }
            let changed = changed_number(item, scratch, incr, request.delta);
            let (new, change) = changed.map_err(|_| Declined::NotNumeric)?;
            (number, expiry) = (new, item.expiry());
            Ok(Rewrite { expiry: touch, cas: next, ..change })
        });
        match rewritten {
            Rewritten::Done { cas } => {
                if incr { &self.counters.incr_hits } else { &self.counters.decr_hits }.add(1);
                Ok(Counted { number, cas, expiry, created: false })
            }
            not_done => Err(not_done),
        }
    }

    /// `N`: a new number, `J`. `None` if there is one meanwhile.
    fn begin_count(&mut self, key: &Key<'_>, request: &Request<'_>) -> Result<Option<Counted>, Refused> {
        let expiry = request.flags.iter().fold(Expiry::NEVER, |expiry, (letter, _)| {
            self.expiry_flag(letter, request, true).unwrap_or(expiry)
        });
        let mut buffer = [0; DECIMAL_BYTES_MAX];
        let item = NewItem {
            flags: 0,
            expiry,
            value: decimal(request.initial, &mut buffer),
            cas: self.cas_new(request.cas_new),
            stale: false,
            win_token_sent: false,
            key_binary: request.key_binary,
        };
        Ok(match self.worker.set(key, &item, Condition::Absent)? {
            Stored::Stored { cas } => {
                Some(Counted { number: request.initial, cas, expiry: Expiry::NEVER, created: true })
            }
            _ => None,
        })
    }

    /// The expiry that a flag sets.
    fn expiry_flag(&self, letter: u8, request: &Request<'_>, created: bool) -> Option<Expiry> {
        let exptime = match letter {
            b'T' => request.ttl,
            b'N' if created => request.vivify,
            _ => None,
        };
        exptime.map(|exptime| self.clock.expiry(exptime))
    }

    fn write_count(
        &self,
        turn: &mut Turn<'_, '_, '_>,
        bytes: usize,
        key: &Key<'_>,
        request: &Request<'_>,
        counted: Counted,
    ) {
        let mut buffer = [0; DECIMAL_BYTES_MAX];
        let digits = decimal(counted.number, &mut buffer);
        let value = request.flags.has(b'v');
        let free = turn.output.free();
        let mut reply = if value { Reply::value(free, digits.len() as u64) } else { Reply::new(free, b"HD") };
        let mut expiry = counted.expiry;
        for (letter, token) in request.flags.iter() {
            match letter {
                b'c' => reply.number(b'c', if self.settings.cas { counted.cas } else { 0 }),
                b't' => {
                    reply.flag(b't');
                    ttl(&mut reply, expiry, self.clock.now_s);
                }
                b'T' | b'N' => expiry = self.expiry_flag(letter, request, counted.created).unwrap_or(expiry),
                b'O' => reply.repeat(token),
                b'k' => reply.key(key.bytes(), request.key_binary),
                _ => (),
            }
        }
        if value {
            reply.text(reply::CRLF);
            reply.text(digits);
        }
        let written = reply.finish();
        turn.finish_written(bytes, written);
    }
}
