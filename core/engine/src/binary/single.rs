//! Frames on one item without a value: incr, decr, delete, touch; and flush.

use crate::classic::single::{changed_number, unchanged};
use crate::classic::storage::new_item;
use crate::{Engine, Turn};
use unbuckle_store::{Condition, Deleted, Key, Mark, Refused, Rewrite, RewriteCas, Rewritten, Stored};
use unbuckle_wire::binary::{
    Arithmetic, Header, NO_MEMORY_FOR_NEW_NUMBER, NO_MEMORY_FOR_NUMBER, Parts, Status,
};
use unbuckle_wire::number::{DECIMAL_BYTES_MAX, decimal};

/// Why a number was not changed, though its item is there.
enum Declined {
    NotNumeric,
    /// It has another CAS than was asked for.
    Differs,
}

/// How an `incr` or `decr` ended: the number and its CAS, or what is wrong.
type Counted = Result<(u64, u64), (Status, &'static [u8])>;

fn fault(status: Status) -> Counted {
    Err((status, status.text()))
}

impl Engine<'_, '_> {
    pub(super) fn binary_arithmetic(
        &mut self,
        turn: &mut Turn<'_, '_, '_>,
        header: &Header,
        arithmetic: &Arithmetic<'_>,
    ) {
        let Some(key) = self.worker.key(arithmetic.key) else { return };
        self.tell_lookup(&key);
        match self.count_frame(&key, header, arithmetic) {
            Ok(_) if arithmetic.quiet => (),
            Ok((number, cas)) => {
                let value = number.to_be_bytes();
                turn.put_frame(header, Status::Ok, Parts::value(&value), self.told(cas));
            }
            Err((status, text)) => turn.put_frame(header, status, Parts::value(text), 0),
        }
    }

    fn count_frame(&mut self, key: &Key<'_>, header: &Header, arithmetic: &Arithmetic<'_>) -> Counted {
        let incr = arithmetic.incr;
        let expected = self.expected(header);
        let mut number = 0;
        let rewritten = self.worker.rewrite(key, &mut self.scratch, |item, scratch| {
            // An empty value is told before another CAS, any other that is no number only after it.
            if item.value_len() == 0 {
                return Err(Declined::NotNumeric);
            }
            if expected.is_some_and(|expected| expected != item.cas()) {
                return Err(Declined::Differs);
            }
            let changed = changed_number(item, scratch, incr, arithmetic.delta);
            let (new, change) = changed.map_err(|_| Declined::NotNumeric)?;
            number = new;
            Ok(Rewrite { cas: RewriteCas::Next, ..change })
        });
        match rewritten {
            Rewritten::Done { cas } => {
                if incr { &self.counters.incr_hits } else { &self.counters.decr_hits }.add(1);
                Ok((number, cas))
            }
            Rewritten::Declined(Declined::NotNumeric) => fault(Status::NotNumeric),
            Rewritten::Declined(Declined::Differs) => fault(Status::Exists),
            Rewritten::Refused(_) => Err((Status::OutOfMemory, NO_MEMORY_FOR_NUMBER)),
            Rewritten::NotFound => self.begin_number(key, arithmetic),
        }
    }

    /// There is no such number: perhaps one is to be created.
    fn begin_number(&mut self, key: &Key<'_>, arithmetic: &Arithmetic<'_>) -> Counted {
        let Some(exptime) = arithmetic.exptime else {
            if arithmetic.incr { &self.counters.incr_misses } else { &self.counters.decr_misses }.add(1);
            return fault(Status::NotFound);
        };
        let mut digits = [0; DECIMAL_BYTES_MAX];
        let value = decimal(arithmetic.initial, &mut digits);
        let item = new_item(0, self.clock.expiry_unsigned(exptime), value);
        match self.worker.set(key, &item, Condition::Absent) {
            Ok(Stored::Stored { cas }) => Ok((arithmetic.initial, cas)),
            // Another client was faster.
            Ok(_) => fault(Status::NotStored),
            Err(Refused::TooLarge | Refused::OutOfMemory) => {
                Err((Status::OutOfMemory, NO_MEMORY_FOR_NEW_NUMBER))
            }
        }
    }

    pub(super) fn binary_delete(
        &mut self,
        turn: &mut Turn<'_, '_, '_>,
        header: &Header,
        key: &[u8],
        quiet: bool,
    ) {
        let Some(key) = self.worker.key(key) else { return };
        let item = self.tell_lookup(&key);
        match self.worker.delete(&key, self.expected(header)) {
            Deleted::Deleted => {
                self.tell_deleted(&key, item, false);
                self.counters.delete_hits.add(1);
                turn.finish_frame(header, quiet, 0);
            }
            Deleted::NotFound => {
                self.tell_deleted(&key, None, false);
                self.counters.delete_misses.add(1);
                turn.put_error(header, Status::NotFound);
            }
            Deleted::Exists => {
                self.tell_deleted(&key, None, false);
                turn.put_error(header, Status::Exists);
            }
        }
    }

    /// Its reply has the item's flags and CAS, as that of a `get` without the value.
    pub(super) fn binary_touch(
        &mut self,
        turn: &mut Turn<'_, '_, '_>,
        header: &Header,
        key: &[u8],
        exptime: u32,
    ) {
        let Some(key) = self.worker.key(key) else { return };
        self.tell_lookup(&key);
        let expiry = self.clock.expiry_unsigned(exptime);
        let mut flags = 0u32;
        let rewritten = self.worker.rewrite(&key, &mut [], |item, _| {
            flags = item.flags();
            Ok::<_, core::convert::Infallible>(Rewrite { expiry: Some(expiry), ..unchanged(item) })
        });
        self.counters.cmd_touch.add(1);
        match rewritten {
            Rewritten::Done { cas } => {
                // Unlike other changes, it counts as a use.
                self.worker.get(&key, Mark::Used, |_| ());
                self.counters.touch_hits.add(1);
                let flags = flags.to_be_bytes();
                let parts = Parts { extras: &flags, ..Parts::default() };
                turn.put_frame(header, Status::Ok, parts, self.told(cas));
            }
            // memcached cannot run out of memory here. An item that could not be touched is as it was.
            Rewritten::Refused(_) => turn.put_error(header, Status::OutOfMemory),
            Rewritten::NotFound | Rewritten::Declined(_) => {
                self.counters.touch_misses.add(1);
                turn.put_error(header, Status::NotFound);
            }
        }
    }

    pub(super) fn binary_flush(
        &mut self,
        turn: &mut Turn<'_, '_, '_>,
        header: &Header,
        delay: u32,
        quiet: bool,
    ) {
        if !self.settings.flush_enabled {
            return turn.put_error(header, Status::AuthError);
        }
        self.counters.cmd_flush.add(1);
        self.flush_from(self.clock.expiry_unsigned(delay));
        turn.finish_frame(header, quiet, 0);
    }
}
