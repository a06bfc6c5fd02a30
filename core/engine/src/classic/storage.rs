//! Commands with a data block: set, add, replace, append, prepend, cas.
//!
//! A value that fits an inline item is taken when all of it is there. A longer one goes into the store as it arrives,
//! so that memory is taken for bytes that came, never for bytes that were promised. Either way the two bytes behind the
//! value must be `\r\n`; if they are not, memcached takes what follows *them* for the next request, and so do we.

use super::single::unchanged;
use crate::observe::{Facts, StoreOutcome, Storing};
use crate::session::{KeyBytes, Phase, Purpose, Receiving, Session};
use crate::{Engine, Next, Step, Turn};
use core::ops::ControlFlow::{Break, Continue};
use unbuckle_store::{
    Condition, Expiry, Key, NewItem, Refused, Rewrite, RewriteCas, Rewritten, Side, Stored, Upload,
};
use unbuckle_wire::text::{Line, Store, StoreVerb};
use unbuckle_wire::{meta, reply};

/// memcached's own bytes in front of a key: what `-I` is compared with includes them.
const MEMCACHED_HEAD_BYTES: u64 = 48;
const MEMCACHED_CAS_BYTES: u64 = 8;
const MEMCACHED_FLAGS_BYTES: u64 = 4;

/// Why an append or prepend does not happen, though the item is there.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NotJoined {
    Outgrown,
    /// It has another CAS than was asked for.
    Differs,
}

impl Engine<'_, '_> {
    pub(super) fn store(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_, '_, '_>,
        line: &Line<'_>,
        store: &Store<'_>,
    ) -> Step {
        let Some(key) = self.worker.key(store.key) else { return Break(Next::Close) };
        let value_len = store.value_len as usize;
        if self.is_too_large(store.key.len(), store.flags, u64::from(store.value_len)) {
            self.refuse(session, turn, line, store, &key, Refused::TooLarge);
            return Continue(());
        }
        if value_len > self.worker.inline_value_bytes_max() {
            self.begin_upload(session, turn, line, store, &key);
            return Continue(());
        }
        let block_len = value_len.wrapping_add(reply::CRLF.len());
        let block = turn.rest().get(line.total..).and_then(|block| block.get(..block_len));
        let Some((value, end)) = block.and_then(|block| block.split_at_checked(value_len)) else {
            return Break(Next::Input);
        };
        let total = line.total.wrapping_add(block_len);
        if end != reply::CRLF {
            self.counters.cmd_set.add(1);
            turn.finish(total, reply::BAD_DATA_CHUNK, store.noreply);
            return Continue(());
        }
        let reply = self.store_inline(store, &key, value);
        turn.finish(total, reply, store.noreply);
        Continue(())
    }

    #[inline]
    fn store_inline(&mut self, store: &Store<'_>, key: &Key<'_>, value: &[u8]) -> &'static [u8] {
        self.tell_lookup(key);
        let expiry = self.clock.expiry(store.exptime);
        let condition = match store.verb {
            StoreVerb::Append | StoreVerb::Prepend => {
                let side = if store.verb == StoreVerb::Prepend { Side::Before } else { Side::After };
                let reply = joined(&self.join(side, key, value, None));
                self.tell_joined(store.verb, key, reply, Facts::sent(value.len() as u64, expiry));
                return reply;
            }
            verb => condition(verb, self.expected_cas(store.cas)),
        };
        match self.worker.set(key, &new_item(store.flags, expiry, value), condition) {
            Ok(stored) => {
                self.counters.cmd_set.add(1);
                let sent = Facts::sent(value.len() as u64, expiry);
                self.tell_stored(key, storing(store.verb), stored, sent);
                self.stored(store.verb, stored)
            }
            Err(refused) => self.not_stored(store.verb, key, refused),
        }
    }

    /// append, prepend; on condition that the item has the `expected` CAS, if there is one.
    pub(crate) fn join(
        &mut self,
        side: Side,
        key: &Key<'_>,
        value: &[u8],
        expected: Option<u64>,
    ) -> Rewritten<NotJoined> {
        self.counters.cmd_set.add(1);
        // The change may take its bytes from the scratch buffer only: it outlives the reading of the old item.
        let Some(place) = self.scratch.get_mut(..value.len()) else {
            return Rewritten::Declined(NotJoined::Outgrown);
        };
        place.copy_from_slice(value);
        let limit = self.worker.store().item_bytes_max();
        let (added, key_len, cas) = (value.len() as u64, key.bytes().len(), self.settings.cas);
        self.worker.rewrite(key, place, |item, added_bytes| {
            if expected.is_some_and(|expected| expected != item.cas()) {
                return Err(NotJoined::Differs);
            }
            let value_len = (item.value_len() as u64).saturating_add(added);
            if memcached_bytes(key_len, item.flags(), value_len, cas) > limit {
                return Err(NotJoined::Outgrown);
            }
            // What is stored is a new item, which is neither stale nor won by anyone.
            let change =
                Rewrite { cas: RewriteCas::Next, stale: false, win_token_sent: false, ..unchanged(item) };
            Ok(match side {
                Side::Before => Rewrite { before: added_bytes, ..change },
                Side::After => Rewrite { after: added_bytes, ..change },
            })
        })
    }

    fn begin_upload(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_, '_, '_>,
        line: &Line<'_>,
        store: &Store<'_>,
        key: &Key<'_>,
    ) {
        match self.worker.begin_upload(store.key.len(), u64::from(store.value_len)) {
            Ok(upload) => {
                self.counters.cmd_set.add(1);
                turn.at = turn.at.wrapping_add(line.total);
                session.phase = Phase::Receiving;
                session.receiving = Some(Receiving {
                    upload,
                    remaining: store.value_len,
                    purpose: Purpose::Classic {
                        verb: store.verb,
                        flags: store.flags,
                        expiry: self.clock.expiry(store.exptime),
                        cas: self.expected_cas(store.cas),
                        noreply: store.noreply,
                    },
                    key: KeyBytes::new(store.key),
                });
            }
            Err(refused) => self.refuse(session, turn, line, store, key, refused),
        }
    }

    /// Takes in what has come of a large value.
    pub(crate) fn receive(&mut self, session: &mut Session, turn: &mut Turn<'_, '_, '_>) -> Step {
        if turn.output.room() < meta::REPLY_BYTES_MAX {
            return Break(Next::Output);
        }
        let Some(receiving) = session.receiving.as_mut() else {
            session.phase = Phase::Idle;
            return Continue(());
        };
        let rest = turn.rest();
        let (value, rest) = rest.split_at_checked(receiving.remaining as usize).unwrap_or((rest, &[]));
        if !value.is_empty() {
            if self.worker.upload(&mut receiving.upload, value).is_err() {
                return self.break_off(session, turn);
            }
            turn.at = turn.at.wrapping_add(value.len());
            #[allow(clippy::cast_possible_truncation)] // at most `remaining`
            let len = value.len() as u32;
            receiving.remaining = receiving.remaining.wrapping_sub(len);
        }
        if receiving.remaining == 0
            && let Purpose::Binary(storage) = receiving.purpose
        {
            self.finish_binary_upload(session, turn, &storage);
            return Continue(());
        }
        match rest.first_chunk() {
            Some(end) if receiving.remaining == 0 => {
                self.finish_upload(session, turn, end);
                Continue(())
            }
            _ => Break(Next::Input),
        }
    }

    /// Memory ran out in the middle of a value: its rest is swallowed.
    fn break_off(&mut self, session: &mut Session, turn: &mut Turn<'_, '_, '_>) -> Step {
        if let Some(receiving) = session.receiving.take() {
            self.worker.abort_upload(receiving.upload);
            if let Purpose::Binary(storage) = receiving.purpose {
                Self::break_off_binary(turn, &storage);
                Self::swallow(session, receiving.remaining);
                return Continue(());
            }
            let noreply = matches!(receiving.purpose, Purpose::Classic { noreply: true, .. });
            turn.finish(0, reply::OUT_OF_MEMORY_READING, noreply);
            Self::swallow(session, receiving.remaining.wrapping_add(2));
        }
        Continue(())
    }

    fn finish_upload(&mut self, session: &mut Session, turn: &mut Turn<'_, '_, '_>, end: &[u8; 2]) {
        session.phase = Phase::Idle;
        let Some(receiving) = session.receiving.take() else { return };
        let Some(key) = self.worker.key(receiving.key.as_slice()) else {
            self.worker.abort_upload(receiving.upload);
            return;
        };
        match &receiving.purpose {
            Purpose::Classic { verb, flags, expiry, cas, noreply } => {
                let value = (*flags, *expiry, *cas);
                let reply = self.finish_classic_upload(receiving.upload, &key, *verb, value, end);
                turn.finish(end.len(), reply, *noreply);
            }
            Purpose::Meta(storage) => self.finish_meta_upload(turn, receiving.upload, &key, storage, end),
            // It has no line end, and does not come here.
            Purpose::Binary(_) => self.worker.abort_upload(receiving.upload),
        }
    }

    #[inline(never)]
    fn finish_classic_upload(
        &mut self,
        upload: Upload,
        key: &Key<'_>,
        verb: StoreVerb,
        (flags, expiry, cas): (u32, Expiry, u64),
        end: &[u8; 2],
    ) -> &'static [u8] {
        if end != reply::CRLF {
            self.worker.abort_upload(upload);
            return reply::BAD_DATA_CHUNK;
        }
        self.tell_lookup(key);
        let sent = Facts::sent(upload.value_len(), expiry);
        if matches!(verb, StoreVerb::Append | StoreVerb::Prepend) {
            let side = if verb == StoreVerb::Prepend { Side::Before } else { Side::After };
            let reply = joined(&self.join_upload(upload, key, side, None));
            self.tell_joined(verb, key, reply, sent);
            return reply;
        }
        let item = new_item(flags, expiry, &[]);
        match self.worker.finish_upload(upload, key, &item, condition(verb, cas)) {
            Ok(stored) => {
                self.tell_stored(key, storing(verb), stored, sent);
                self.stored(verb, stored)
            }
            Err(refused) => self.not_stored(verb, key, refused),
        }
    }

    pub(crate) fn join_upload(
        &mut self,
        upload: Upload,
        key: &Key<'_>,
        side: Side,
        expected: Option<u64>,
    ) -> Rewritten<NotJoined> {
        let limit = self.worker.store().item_bytes_max();
        let (added, key_len, cas) = (upload.value_len(), key.bytes().len(), self.settings.cas);
        let mut declined = NotJoined::Outgrown;
        let joined = self.worker.finish_join(upload, key, side, None, |item| {
            if expected.is_some_and(|expected| expected != item.cas()) {
                declined = NotJoined::Differs;
                return false;
            }
            memcached_bytes(key_len, item.flags(), (item.value_len() as u64).saturating_add(added), cas)
                <= limit
        });
        match joined {
            Rewritten::Done { cas } => Rewritten::Done { cas },
            Rewritten::NotFound => Rewritten::NotFound,
            Rewritten::Declined(()) => Rewritten::Declined(declined),
            Rewritten::Refused(refused) => Rewritten::Refused(refused),
        }
    }

    /// Answers a storage command before its data block, which is to be swallowed.
    fn refuse(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_, '_, '_>,
        line: &Line<'_>,
        store: &Store<'_>,
        key: &Key<'_>,
        refused: Refused,
    ) {
        let reply = self.not_stored(store.verb, key, refused);
        turn.finish(line.total, reply, store.noreply);
        Self::swallow(session, store.value_len.wrapping_add(2));
    }

    fn stored(&mut self, verb: StoreVerb, stored: Stored) -> &'static [u8] {
        let counters = self.counters;
        match stored {
            Stored::Stored { .. } => {
                if verb == StoreVerb::Cas {
                    counters.cas_hits.add(1);
                }
                reply::STORED
            }
            Stored::NotStored => reply::NOT_STORED,
            Stored::Exists => {
                counters.cas_badval.add(1);
                reply::EXISTS
            }
            Stored::NotFound => {
                counters.cas_misses.add(1);
                reply::NOT_FOUND
            }
        }
    }

    /// An append or prepend has been answered.
    fn tell_joined(&mut self, verb: StoreVerb, key: &Key<'_>, reply: &[u8], sent: Facts) {
        let stored = reply == reply::STORED;
        let outcome = if stored { StoreOutcome::Stored } else { StoreOutcome::NotStored };
        self.tell_stored(key, storing(verb), outcome, sent);
    }

    /// A refused `set` also removes what was there: the client has been told that it is out of date.
    fn not_stored(&mut self, verb: StoreVerb, key: &Key<'_>, refused: Refused) -> &'static [u8] {
        self.tell_stored(key, storing(verb), refused, Facts::default());
        self.note_refused(verb == StoreVerb::Set, key, refused);
        match refused {
            Refused::TooLarge => reply::TOO_LARGE,
            Refused::OutOfMemory => reply::OUT_OF_MEMORY_STORING,
        }
    }

    pub(crate) fn note_refused(&mut self, removes: bool, key: &Key<'_>, refused: Refused) {
        if removes {
            self.worker.delete(key, None);
        }
        match refused {
            Refused::TooLarge => self.counters.store_too_large.add(1),
            Refused::OutOfMemory => self.counters.store_no_memory.add(1),
        }
    }

    /// Under `-C` no item has a CAS that a client could know, so none may match.
    fn expected_cas(&self, cas: u64) -> u64 {
        if self.settings.cas { cas } else { 0 }
    }

    pub(crate) fn is_too_large(&self, key_len: usize, flags: u32, value_len: u64) -> bool {
        memcached_bytes(key_len, flags, value_len, self.settings.cas) > self.worker.store().item_bytes_max()
    }
}

/// What an append or prepend is answered.
fn joined(joined: &Rewritten<NotJoined>) -> &'static [u8] {
    match joined {
        Rewritten::Done { .. } => reply::STORED,
        // As memcached: for want of memory, too.
        Rewritten::NotFound | Rewritten::Declined(_) | Rewritten::Refused(_) => reply::NOT_STORED,
    }
}

/// An item's size as memcached counts it.
pub(crate) fn memcached_bytes(key_len: usize, flags: u32, value_len: u64, cas: bool) -> u64 {
    let optional =
        if cas { MEMCACHED_CAS_BYTES } else { 0 } + if flags == 0 { 0 } else { MEMCACHED_FLAGS_BYTES };
    // A NUL behind the key, a line end behind the value.
    value_len.saturating_add(MEMCACHED_HEAD_BYTES + optional + 3).saturating_add(key_len as u64)
}

pub(crate) fn new_item(flags: u32, expiry: Expiry, value: &[u8]) -> NewItem<'_> {
    NewItem { flags, expiry, value, cas: None, stale: false, win_token_sent: false, key_binary: false }
}

/// The command as whoever watches is told it.
pub(crate) fn storing(verb: StoreVerb) -> Storing {
    match verb {
        StoreVerb::Set => Storing::Set,
        StoreVerb::Add => Storing::Add,
        StoreVerb::Replace => Storing::Replace,
        StoreVerb::Append => Storing::Append,
        StoreVerb::Prepend => Storing::Prepend,
        StoreVerb::Cas => Storing::Cas,
    }
}

fn condition(verb: StoreVerb, cas: u64) -> Condition {
    match verb {
        StoreVerb::Add => Condition::Absent,
        StoreVerb::Replace => Condition::Present,
        StoreVerb::Cas => Condition::Cas(cas),
        StoreVerb::Set | StoreVerb::Append | StoreVerb::Prepend => Condition::Always,
    }
}
