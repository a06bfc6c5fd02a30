//! `ms`: set, add, replace, append, prepend and cas in one command.
//!
//! Values come as they do for the classic commands: short ones are taken when they are all there, longer ones go into the
//! store as they arrive (`classic/storage.rs`), and meet [`Storage`] again when they are complete.

use super::KeyBuffer;
use crate::classic::single::unchanged;
use crate::observe::{Facts, Storing};
use crate::session::{KeyBytes, Phase, Purpose, Receiving, Session};
use crate::{Engine, Next, Step, Turn};
use core::ops::ControlFlow::{Break, Continue};
use unbuckle_store::{
    Condition, Expiry, Item, Key, Mark, NewItem, Refused, Rewrite, RewriteCas, Rewritten, Side, Stored,
    Upload,
};
use unbuckle_wire::meta::{self, OPAQUE_BYTES_MAX, Reply, Request, Set};
use unbuckle_wire::reply;
use unbuckle_wire::text::Line;

/// How often a value that another client keeps changing is looked at again.
const STALE_TRIES: usize = 8;

/// `M`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Set,
    Add,
    Replace,
    Append,
    Prepend,
}

impl Mode {
    fn of(letter: Option<u8>) -> Option<Self> {
        Some(match letter {
            None | Some(b'S') => Self::Set,
            Some(b'E') => Self::Add,
            Some(b'R') => Self::Replace,
            Some(b'A') => Self::Append,
            Some(b'P') => Self::Prepend,
            Some(_) => return None,
        })
    }

    /// The command as whoever watches is told it.
    fn storing(self, with_cas: bool) -> Storing {
        match self {
            Self::Set | Self::Replace if with_cas => Storing::Cas,
            Self::Set => Storing::Set,
            Self::Add => Storing::Add,
            Self::Replace => Storing::Replace,
            Self::Append => Storing::Append,
            Self::Prepend => Storing::Prepend,
        }
    }
}

/// What an `ms` has to remember until its value is there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Storage {
    mode: Mode,
    client_flags: u32,
    expiry: Expiry,
    /// `N`, for append and prepend.
    vivify: Option<Expiry>,
    /// `C`
    cas: Option<u64>,
    /// `E`
    cas_new: Option<u64>,
    /// `I`
    invalidates: bool,
    key_binary: bool,
    quiet: bool,
    answered: Answered,
}

/// The flags that the reply answers, in their order.
#[derive(Clone, Copy, Debug, Default)]
struct Answered {
    /// Of `k`, `c`, `s` and `O`; 0 behind the last.
    letters: [u8; 4],
    opaque: [u8; OPAQUE_BYTES_MAX],
    opaque_len: u8,
}

impl Answered {
    fn of(request: &Request<'_>) -> Self {
        let mut answered = Self::default();
        let letters = request.flags.iter().filter(|(letter, _)| matches!(letter, b'k' | b'c' | b's' | b'O'));
        for (place, (letter, token)) in answered.letters.iter_mut().zip(letters) {
            *place = letter;
            if letter == b'O' {
                answered.opaque.iter_mut().zip(token).for_each(|(place, byte)| *place = *byte);
                #[allow(clippy::cast_possible_truncation)] // the minimum is at most 32
                let len = token.len().min(OPAQUE_BYTES_MAX) as u8;
                answered.opaque_len = len;
            }
        }
        answered
    }
}

/// What storing came to.
#[derive(Clone, Copy)]
struct Outcome {
    stored: Stored,
    /// Length of the value that is there now, or that was sent.
    value_len: u64,
}

/// An append or prepend that does not happen, though the item is there.
enum Declined {
    Outgrown,
    /// It has another CAS than `C` says.
    Differs,
}

impl Engine<'_, '_> {
    pub(super) fn meta_set(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_, '_, '_>,
        line: &Line<'_>,
        arguments: &[u8],
    ) -> Step {
        let decoded = meta::decode_set(arguments);
        let (value_len, request) = match &decoded {
            Set::Request { value_len, request } => (*value_len, request),
            Set::Refused { value_len, reply } => {
                Self::refuse_block(session, turn, line, *value_len, reply);
                return Continue(());
            }
            Set::Malformed => {
                turn.finish(line.total, reply::BAD_FORMAT, false);
                return Continue(());
            }
        };
        let Some(mode) = Mode::of(request.mode) else {
            Self::refuse_block(session, turn, line, value_len, meta::INVALID_SET_MODE);
            return Continue(());
        };
        self.meta_set_key(session, turn, line, value_len, request, mode)
    }

    fn meta_set_key(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_, '_, '_>,
        line: &Line<'_>,
        value_len: u32,
        request: &Request<'_>,
        mode: Mode,
    ) -> Step {
        let mut buffer = KeyBuffer::default();
        let Some(key) = self.worker.key(buffer.key(request)) else { return Break(Next::Close) };
        if self.is_too_large(key.bytes().len(), request.client_flags, u64::from(value_len)) {
            let storing = mode.storing(request.cas.is_some());
            let reply = self.meta_not_stored(&key, storing, Refused::TooLarge);
            Self::refuse_block(session, turn, line, value_len, reply);
            return Continue(());
        }
        if request.has_long_opaque() {
            self.counters.cmd_set.add(1);
            Self::refuse_block(session, turn, line, value_len, meta::OPAQUE_TOO_LONG);
            return Continue(());
        }
        self.take_value(session, turn, line, value_len, &key, request, mode)
    }

    #[allow(clippy::too_many_arguments)] // the request's parts, each looked at once
    #[inline(never)]
    fn take_value(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_, '_, '_>,
        line: &Line<'_>,
        value_len: u32,
        key: &Key<'_>,
        request: &Request<'_>,
        mode: Mode,
    ) -> Step {
        let len = value_len as usize;
        if len > self.worker.inline_value_bytes_max() {
            match self.worker.begin_upload(key.bytes().len(), u64::from(value_len)) {
                Ok(upload) => {
                    self.counters.cmd_set.add(1);
                    turn.at = turn.at.wrapping_add(line.total);
                    let purpose = Purpose::Meta(self.storage(request, mode));
                    let key = KeyBytes::new(key.bytes());
                    session.phase = Phase::Receiving;
                    session.receiving = Some(Receiving { upload, remaining: value_len, purpose, key });
                }
                Err(refused) => {
                    let storing = mode.storing(request.cas.is_some());
                    let reply = self.meta_not_stored(key, storing, refused);
                    Self::refuse_block(session, turn, line, value_len, reply);
                }
            }
            return Continue(());
        }
        let block_len = len.wrapping_add(reply::CRLF.len());
        let block = turn.rest().get(line.total..).and_then(|block| block.get(..block_len));
        let Some((value, end)) = block.and_then(|block| block.split_at_checked(len)) else {
            return Break(Next::Input);
        };
        let total = line.total.wrapping_add(block_len);
        self.counters.cmd_set.add(1);
        if end != reply::CRLF {
            turn.finish(total, reply::BAD_DATA_CHUNK, false);
            return Continue(());
        }
        let storage = self.storage(request, mode);
        self.tell_lookup(key);
        let outcome = self.store_meta(key, &storage, value);
        self.write_stored(turn, total, key, &storage, outcome);
        Continue(())
    }

    fn storage(&self, request: &Request<'_>, mode: Mode) -> Storage {
        let vivify = request.vivify.map(|exptime| self.clock.expiry(exptime));
        Storage {
            mode,
            client_flags: request.client_flags,
            expiry: self.clock.expiry(request.ttl.unwrap_or(0)),
            vivify,
            cas: request.cas,
            // Here, and only here, a CAS of 0 asks for nothing.
            cas_new: self.cas_new(request.cas_new).filter(|cas| *cas != 0),
            invalidates: request.flags.has(b'I'),
            key_binary: request.key_binary,
            quiet: request.flags.has(b'q'),
            answered: Answered::of(request),
        }
    }

    /// A large value is complete, except that the two bytes behind it have not been looked at.
    pub(crate) fn finish_meta_upload(
        &mut self,
        turn: &mut Turn<'_, '_, '_>,
        upload: Upload,
        key: &Key<'_>,
        storage: &Storage,
        end: &[u8; 2],
    ) {
        if end != reply::CRLF {
            self.worker.abort_upload(upload);
            return turn.finish(end.len(), reply::BAD_DATA_CHUNK, false);
        }
        self.tell_lookup(key);
        let value_len = upload.value_len();
        let stored = match storage.mode {
            Mode::Append => return self.finish_meta_join(turn, upload, key, storage, Side::After),
            Mode::Prepend => return self.finish_meta_join(turn, upload, key, storage, Side::Before),
            _ => match self.condition(key, storage) {
                Ok((condition, item)) => self.worker.finish_upload(upload, key, &item, condition),
                Err(stored) => {
                    self.worker.abort_upload(upload);
                    Ok(stored)
                }
            },
        };
        let outcome = stored.map(|stored| Outcome { stored, value_len });
        self.write_stored(turn, end.len(), key, storage, outcome);
    }

    fn finish_meta_join(
        &mut self,
        turn: &mut Turn<'_, '_, '_>,
        upload: Upload,
        key: &Key<'_>,
        storage: &Storage,
        side: Side,
    ) {
        let added = upload.value_len();
        let mut value_len = added;
        let stored = if let Some(expiry) = storage.vivify
            && self.worker.get(key, Mark::None, |_| ()).is_none()
        {
            let item = NewItem { expiry, ..storage.item(&[]) };
            self.worker.finish_upload(upload, key, &item, Condition::Absent)
        } else {
            let (expected, cas_in_use) = (storage.expected_of_join(), self.settings.cas);
            let limit = self.worker.store().item_bytes_max();
            let mut declined = Declined::Outgrown;
            let joined = self.worker.finish_join(upload, key, side, storage.cas_new, |item| {
                value_len = added.saturating_add(item.value_len() as u64);
                match joins(item, key, added, expected, limit, cas_in_use) {
                    Ok(()) => true,
                    Err(reason) => {
                        declined = reason;
                        false
                    }
                }
            });
            Ok(match (joined, declined) {
                (Rewritten::Done { cas }, _) => Stored::Stored { cas },
                (Rewritten::Declined(()), Declined::Differs) => Stored::Exists,
                _ => Stored::NotStored,
            })
        };
        if !matches!(stored, Ok(Stored::Stored { .. })) {
            value_len = added;
        }
        let outcome = stored.map(|stored| Outcome { stored, value_len });
        self.write_stored(turn, 2, key, storage, outcome);
    }

    fn store_meta(&mut self, key: &Key<'_>, storage: &Storage, value: &[u8]) -> Result<Outcome, Refused> {
        if matches!(storage.mode, Mode::Append | Mode::Prepend) {
            return self.join_meta(key, storage, value);
        }
        let value_len = value.len() as u64;
        for _ in 0..STALE_TRIES {
            let (condition, item) = match self.condition(key, storage) {
                Ok(wanted) => wanted,
                Err(stored) => return Ok(Outcome { stored, value_len }),
            };
            let stored = self.worker.set(key, &NewItem { value, ..item }, condition)?;
            if stored == Stored::Exists && condition != Condition::Cas(storage.cas.unwrap_or_default()) {
                continue;
            }
            return Ok(Outcome { stored, value_len });
        }
        Ok(Outcome { stored: Stored::Exists, value_len })
    }

    /// On which condition what is stored; or, if that can't hold, what it comes to.
    fn condition(
        &mut self,
        key: &Key<'_>,
        storage: &Storage,
    ) -> Result<(Condition, NewItem<'static>), Stored> {
        let item = storage.item(&[]);
        let Some(cas) = storage.cas.filter(|_| storage.mode != Mode::Add) else {
            return Ok(match storage.mode {
                Mode::Add => (Condition::Absent, item),
                Mode::Replace => (Condition::Present, item),
                _ => (Condition::Always, item),
            });
        };
        // 0 is no CAS, so nothing has it.
        if cas == 0 || !self.settings.cas {
            let there = self.worker.get(key, Mark::None, |_| ());
            return Err(if there.is_some() { Stored::Exists } else { Stored::NotFound });
        }
        if !storage.invalidates {
            return Ok((Condition::Cas(cas), item));
        }
        // An older CAS is let through, but leaves the item stale, and its time to live as it was.
        let old = self.worker.get(key, Mark::None, |old| (old.cas(), old.expiry(), old.win_token_sent()));
        Ok(match old {
            Some((old_cas, expiry, win_token_sent)) if cas < old_cas => {
                (Condition::Cas(old_cas), NewItem { expiry, stale: true, win_token_sent, ..item })
            }
            _ => (Condition::Cas(cas), item),
        })
    }

    /// append, prepend
    fn join_meta(&mut self, key: &Key<'_>, storage: &Storage, value: &[u8]) -> Result<Outcome, Refused> {
        let (expected, cas_in_use) = (storage.expected_of_join(), self.settings.cas);
        let limit = self.worker.store().item_bytes_max();
        let added = value.len() as u64;
        loop {
            let mut value_len = added;
            // The change may take its bytes from the scratch buffer only: it outlives the reading of the old item.
            let Some(place) = self.scratch.get_mut(..value.len()) else { return Err(Refused::TooLarge) };
            place.copy_from_slice(value);
            let rewritten = self.worker.rewrite(key, place, |item, added_bytes| {
                joins(item, key, added, expected, limit, cas_in_use)?;
                value_len = added.saturating_add(item.value_len() as u64);
                let cas = storage.cas_new.map_or(RewriteCas::Next, RewriteCas::Exactly);
                // What is stored is a new item, which is neither stale nor won by anyone.
                let change = Rewrite { cas, stale: false, win_token_sent: false, ..unchanged(item) };
                Ok(match storage.mode {
                    Mode::Prepend => Rewrite { before: added_bytes, ..change },
                    _ => Rewrite { after: added_bytes, ..change },
                })
            });
            let stored = match (rewritten, storage.vivify) {
                (Rewritten::Done { cas }, _) => {
                    return Ok(Outcome { stored: Stored::Stored { cas }, value_len });
                }
                (Rewritten::NotFound, Some(expiry)) => {
                    let item = NewItem { expiry, ..storage.item(value) };
                    match self.worker.set(key, &item, Condition::Absent)? {
                        // Another has been faster: now it is there.
                        Stored::NotStored => continue,
                        stored => stored,
                    }
                }
                (Rewritten::Declined(Declined::Differs), _) => Stored::Exists,
                // As memcached: for want of memory, too.
                _ => Stored::NotStored,
            };
            return Ok(Outcome { stored, value_len: added });
        }
    }

    /// A refused `ms` also removes what was there, in any mode: the client has been told that it is out of date.
    #[cold]
    #[inline(never)]
    fn meta_not_stored(&mut self, key: &Key<'_>, storing: Storing, refused: Refused) -> &'static [u8] {
        self.tell_stored(key, storing, refused, Facts::default());
        self.worker.delete(key, None);
        match refused {
            Refused::TooLarge => {
                self.counters.store_too_large.add(1);
                reply::TOO_LARGE
            }
            Refused::OutOfMemory => {
                self.counters.store_no_memory.add(1);
                reply::OUT_OF_MEMORY_STORING
            }
        }
    }

    /// Answers before the data block, which is to be swallowed. Errors are never quiet.
    fn refuse_block(
        session: &mut Session,
        turn: &mut Turn<'_, '_, '_>,
        line: &Line<'_>,
        value_len: u32,
        reply: &[u8],
    ) {
        turn.finish(line.total, reply, false);
        Self::swallow(session, value_len.wrapping_add(2));
    }

    /// Consumes the request's last `bytes` and answers it.
    fn write_stored(
        &mut self,
        turn: &mut Turn<'_, '_, '_>,
        bytes: usize,
        key: &Key<'_>,
        storage: &Storage,
        outcome: Result<Outcome, Refused>,
    ) {
        let Outcome { stored, value_len } = match outcome {
            Ok(outcome) => outcome,
            Err(refused) => {
                let reply = self.meta_not_stored(key, storage.storing(), refused);
                return turn.finish(bytes, reply, false);
            }
        };
        self.tell_stored(key, storage.storing(), stored, Facts::sent(value_len, storage.expiry));
        self.count_cas(storage, stored);
        let (status, cas): (&[u8], u64) = match stored {
            Stored::Stored { .. } if storage.quiet => return turn.finish(bytes, b"", true),
            Stored::Stored { cas } => (b"HD", if self.settings.cas { cas } else { 0 }),
            Stored::NotStored => (b"NS", 0),
            Stored::Exists => (b"EX", 0),
            Stored::NotFound => (b"NF", 0),
        };
        let mut reply = Reply::new(turn.output.free(), status);
        for letter in storage.answered.letters {
            match letter {
                b'O' => {
                    let len = usize::from(storage.answered.opaque_len);
                    reply.repeat(storage.answered.opaque.get(..len).unwrap_or_default());
                }
                b'k' => reply.key(key.bytes(), storage.key_binary),
                b'c' => reply.number(b'c', cas),
                b's' => reply.number(b's', value_len),
                _ => (),
            }
        }
        let written = reply.finish();
        turn.finish_written(bytes, written);
    }

    /// Only a set or replace with `C` counts as a `cas`.
    fn count_cas(&self, storage: &Storage, stored: Stored) {
        if storage.cas.is_none() || !matches!(storage.mode, Mode::Set | Mode::Replace) {
            return;
        }
        let counters = self.counters;
        match stored {
            Stored::Stored { .. } => &counters.cas_hits,
            Stored::NotFound => &counters.cas_misses,
            Stored::Exists | Stored::NotStored => &counters.cas_badval,
        }
        .add(1);
    }
}

impl Storage {
    fn storing(&self) -> Storing {
        self.mode.storing(self.cas.is_some())
    }

    fn item<'v>(&self, value: &'v [u8]) -> NewItem<'v> {
        NewItem {
            flags: self.client_flags,
            expiry: self.expiry,
            value,
            cas: self.cas_new,
            stale: false,
            win_token_sent: false,
            key_binary: self.key_binary,
        }
    }

    /// An append or prepend with a CAS of 0 asks for nothing.
    fn expected_of_join(&self) -> Option<u64> {
        self.cas.filter(|cas| *cas != 0)
    }
}

/// Whether an append or prepend may happen. Under `-C` any CAS is good for it.
fn joins(
    item: &Item<'_>,
    key: &Key<'_>,
    added: u64,
    expected: Option<u64>,
    limit: u64,
    cas_in_use: bool,
) -> Result<(), Declined> {
    if cas_in_use && expected.is_some_and(|expected| expected != item.cas()) {
        return Err(Declined::Differs);
    }
    let value_len = added.saturating_add(item.value_len() as u64);
    if crate::classic::storage::memcached_bytes(key.bytes().len(), item.flags(), value_len, cas_in_use)
        > limit
    {
        return Err(Declined::Outgrown);
    }
    Ok(())
}
