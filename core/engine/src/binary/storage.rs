//! Frames with a value to store: set, add, replace, append, prepend, each of which may compare a CAS.
//!
//! A value that fits an inline item is taken when all of it is there; a longer one goes into the store as it arrives. No line
//! end follows it.

use crate::classic::storage::storing;
use crate::classic::storage::{NotJoined, new_item};
use crate::observe::{Facts, StoreOutcome, Storing};
use crate::session::{KeyBytes, Phase, Purpose, Receiving, Session};
use crate::{Engine, Next, Step, Turn};
use core::ops::ControlFlow::{Break, Continue};
use unbuckle_store::{Condition, Expiry, Key, Refused, Rewritten, Side, Stored};
use unbuckle_wire::binary::{Frame, Header, NO_MEMORY_FOR_ITEM, NO_MEMORY_FOR_REST, Parts, Status, Store};
use unbuckle_wire::text::StoreVerb;

/// A storage frame whose value is still arriving.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Storage {
    header: Header,
    verb: StoreVerb,
    flags: u32,
    expiry: Expiry,
    quiet: bool,
}

/// What became of it: the new CAS, or what is wrong.
type Outcome = Result<u64, Fault>;

/// Why nothing was stored.
enum Fault {
    Status(Status),
    Refused(Refused),
}

impl Engine<'_, '_> {
    pub(super) fn binary_store(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_, '_, '_>,
        frame: &Frame<'_>,
        store: &Store<'_>,
    ) -> Step {
        let Some(key) = self.worker.key(store.key) else { return Break(Next::Close) };
        let storage = Storage {
            header: frame.header,
            verb: store.verb,
            flags: store.flags,
            expiry: self.clock.expiry_unsigned(store.exptime),
            quiet: store.quiet,
        };
        let value_len = store.value_len as usize;
        let refused = if self.is_too_large(store.key.len(), store.flags, u64::from(store.value_len)) {
            Refused::TooLarge
        } else if value_len <= self.worker.inline_value_bytes_max() {
            let value = turn.rest().get(frame.front_len()..).and_then(|value| value.get(..value_len));
            let Some(value) = value else { return Break(Next::Input) };
            self.tell_lookup(&key);
            let outcome = self.store_frame(&storage, &key, value);
            self.tell_frame_stored(&storage, &key, &outcome, value_len as u64);
            self.answer_storage(turn, &storage, &key, outcome);
            turn.finish(frame.front_len().wrapping_add(value_len), b"", true);
            return Continue(());
        } else {
            match self.worker.begin_upload(store.key.len(), u64::from(store.value_len)) {
                Ok(upload) => {
                    self.counters.cmd_set.add(1);
                    turn.at = turn.at.wrapping_add(frame.front_len());
                    session.phase = Phase::Receiving;
                    session.receiving = Some(Receiving {
                        upload,
                        remaining: store.value_len,
                        purpose: Purpose::Binary(storage),
                        key: KeyBytes::new(store.key),
                    });
                    return Continue(());
                }
                Err(refused) => refused,
            }
        };
        self.tell_stored(&key, storing(storage.verb), refused, Facts::default());
        self.answer_storage(turn, &storage, &key, Err(Fault::Refused(refused)));
        Self::finish_front(session, turn, frame);
        Continue(())
    }

    #[inline]
    fn store_frame(&mut self, storage: &Storage, key: &Key<'_>, value: &[u8]) -> Outcome {
        let expected = self.expected_storage(&storage.header);
        let condition = match storage.verb {
            StoreVerb::Append => return joined(self.join(Side::After, key, value, expected)),
            StoreVerb::Prepend => return joined(self.join(Side::Before, key, value, expected)),
            verb => condition(verb, expected),
        };
        match self.worker.set(key, &new_item(storage.flags, storage.expiry, value), condition) {
            Ok(stored) => {
                self.counters.cmd_set.add(1);
                self.stored_frame(storage, condition, stored)
            }
            Err(refused) => Err(Fault::Refused(refused)),
        }
    }

    /// All of a large value has come.
    pub(crate) fn finish_binary_upload(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_, '_, '_>,
        storage: &Storage,
    ) {
        session.rest();
        let Some(Receiving { upload, key, .. }) = session.receiving.take() else { return };
        let Some(key) = self.worker.key(key.as_slice()) else {
            return self.worker.abort_upload(upload);
        };
        self.tell_lookup(&key);
        let value_len = upload.value_len();
        let expected = self.expected_storage(&storage.header);
        let outcome = match storage.verb {
            StoreVerb::Append => joined(self.join_upload(upload, &key, Side::After, expected)),
            StoreVerb::Prepend => joined(self.join_upload(upload, &key, Side::Before, expected)),
            verb => {
                let condition = condition(verb, expected);
                let item = new_item(storage.flags, storage.expiry, &[]);
                match self.worker.finish_upload(upload, &key, &item, condition) {
                    Ok(stored) => self.stored_frame(storage, condition, stored),
                    Err(refused) => Err(Fault::Refused(refused)),
                }
            }
        };
        self.tell_frame_stored(storage, &key, &outcome, value_len);
        self.answer_storage(turn, storage, &key, outcome);
        turn.finish(0, b"", true);
    }

    /// Memory ran out in the middle of a value.
    pub(crate) fn break_off_binary(turn: &mut Turn<'_, '_, '_>, storage: &Storage) {
        turn.put_frame(&storage.header, Status::OutOfMemory, Parts::value(NO_MEMORY_FOR_REST), 0);
        turn.finish(0, b"", true);
    }

    fn tell_frame_stored(&mut self, storage: &Storage, key: &Key<'_>, outcome: &Outcome, value_len: u64) {
        let told = match outcome {
            Ok(_) => StoreOutcome::Stored,
            Err(Fault::Refused(refused)) => (*refused).into(),
            Err(Fault::Status(Status::NotFound)) => StoreOutcome::NotFound,
            Err(Fault::Status(Status::Exists)) => StoreOutcome::Exists,
            Err(Fault::Status(_)) => StoreOutcome::NotStored,
        };
        let command = if storage.header.cas == 0 { storing(storage.verb) } else { Storing::Cas };
        self.tell_stored(key, command, told, Facts::sent(value_len, storage.expiry));
    }

    fn answer_storage(
        &mut self,
        turn: &mut Turn<'_, '_, '_>,
        storage: &Storage,
        key: &Key<'_>,
        outcome: Outcome,
    ) {
        let header = &storage.header;
        match outcome {
            Ok(cas) => turn.finish_frame(header, storage.quiet, self.told(cas)),
            Err(Fault::Status(status)) => turn.put_error(header, status),
            Err(Fault::Refused(refused)) => {
                self.note_refused(storage.verb == StoreVerb::Set, key, refused);
                match refused {
                    Refused::TooLarge => turn.put_error(header, Status::TooLarge),
                    Refused::OutOfMemory => {
                        turn.put_frame(header, Status::OutOfMemory, Parts::value(NO_MEMORY_FOR_ITEM), 0);
                    }
                }
            }
        }
    }

    fn stored_frame(&self, storage: &Storage, condition: Condition, stored: Stored) -> Outcome {
        let counters = self.counters;
        match stored {
            Stored::Stored { cas } => {
                if matches!(condition, Condition::Cas(_)) {
                    counters.cas_hits.add(1);
                }
                Ok(cas)
            }
            Stored::Exists => {
                counters.cas_badval.add(1);
                Err(Fault::Status(Status::Exists))
            }
            Stored::NotFound => {
                counters.cas_misses.add(1);
                Err(Fault::Status(Status::NotFound))
            }
            Stored::NotStored if storage.verb == StoreVerb::Add => Err(Fault::Status(Status::Exists)),
            Stored::NotStored => Err(Fault::Status(Status::NotFound)),
        }
    }

    /// Unlike what only changes an item, a storage request under `-C` forgets the CAS that it was given.
    fn expected_storage(&self, header: &Header) -> Option<u64> {
        if self.settings.cas { self.expected(header) } else { None }
    }
}

/// A CAS decides alone, whatever the verb.
fn condition(verb: StoreVerb, expected: Option<u64>) -> Condition {
    match (expected, verb) {
        (Some(cas), _) => Condition::Cas(cas),
        (None, StoreVerb::Add) => Condition::Absent,
        (None, StoreVerb::Replace) => Condition::Present,
        (None, _) => Condition::Always,
    }
}

/// As memcached: what does not fit is not stored, as what is not there.
fn joined(joined: Rewritten<NotJoined>) -> Outcome {
    match joined {
        Rewritten::Done { cas } => Ok(cas),
        Rewritten::Declined(NotJoined::Differs) => Err(Fault::Status(Status::Exists)),
        Rewritten::NotFound | Rewritten::Declined(NotJoined::Outgrown) | Rewritten::Refused(_) => {
            Err(Fault::Status(Status::NotStored))
        }
    }
}
