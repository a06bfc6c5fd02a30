//! Commands on one item without a data block: incr, decr, delete, touch; and flush_all.
//!
//! Each decides on a reply and leaves sending it, or not, to the caller.

use crate::Engine;
use unbuckle_store::{Deleted, Expiry, Item, Mark, Rewrite, RewriteCas, Rewritten};
use unbuckle_wire::number::{DECIMAL_BYTES_MAX, decimal, lenient_u64};
use unbuckle_wire::reply;

/// The new number and its line end.
pub(super) const NUMBER_LINE_BYTES: usize = DECIMAL_BYTES_MAX + reply::CRLF.len();

/// The item is there, but not a number.
pub(crate) struct NotNumeric;

/// The item's number after `incr` or `decr`, and the change, whose value is made in `scratch`. A number that becomes longer is
/// a new item, which is neither stale nor won by anyone; any other stays what it is.
pub(crate) fn changed_number<'x>(
    item: &Item<'_>,
    scratch: &'x mut [u8],
    incr: bool,
    delta: u64,
) -> Result<(u64, Rewrite<'x>), NotNumeric> {
    let len = item.value_len();
    if item.is_large() || !item.copy_value(scratch) {
        return Err(NotNumeric);
    }
    let old = scratch.get(..len).and_then(lenient_u64).ok_or(NotNumeric)?;
    let outcome = if incr { old.wrapping_add(delta) } else { old.saturating_sub(delta) };
    let mut buffer = [0; DECIMAL_BYTES_MAX];
    let digits = decimal(outcome, &mut buffer);
    let value = scratch.get_mut(..len.max(digits.len())).ok_or(NotNumeric)?;
    let (number, padding) = value.split_at_mut_checked(digits.len()).ok_or(NotNumeric)?;
    number.copy_from_slice(digits);
    padding.fill(b' ');
    let same = value.len() <= len;
    let change = Rewrite {
        before: value,
        keep: false,
        cas: RewriteCas::Next,
        stale: same && item.stale(),
        win_token_sent: same && item.win_token_sent(),
        ..unchanged(item)
    };
    Ok((outcome, change))
}

/// A change that leaves the value alone.
pub(crate) fn unchanged<'x>(item: &Item<'_>) -> Rewrite<'x> {
    Rewrite {
        before: &[],
        keep: true,
        after: &[],
        expiry: None,
        flags: None,
        cas: RewriteCas::Keep,
        stale: item.stale(),
        win_token_sent: item.win_token_sent(),
    }
}

impl Engine<'_, '_> {
    /// The number becomes the value's front; what is left of a longer value is filled with spaces, as memcached does it
    /// when it changes a value in place. 64 bits wrap upwards and stop at 0 downwards.
    pub(super) fn arithmetic<'d>(
        &mut self,
        incr: bool,
        key: &[u8],
        delta: u64,
        line: &'d mut [u8; NUMBER_LINE_BYTES],
    ) -> &'d [u8] {
        let Some(key) = self.worker.key(key) else { return reply::BAD_FORMAT };
        self.tell_lookup(&key);
        let mut outcome = 0;
        let rewritten = self.worker.rewrite(&key, &mut self.scratch, |item, scratch| {
            let change;
            (outcome, change) = changed_number(item, scratch, incr, delta)?;
            Ok(change)
        });
        let counters = self.counters;
        match rewritten {
            Rewritten::Done { .. } => {
                if incr { &counters.incr_hits } else { &counters.decr_hits }.add(1);
                number_line(outcome, line)
            }
            Rewritten::NotFound => {
                if incr { &counters.incr_misses } else { &counters.decr_misses }.add(1);
                reply::NOT_FOUND
            }
            Rewritten::Declined(NotNumeric) => reply::NOT_NUMERIC,
            Rewritten::Refused(_) => reply::OUT_OF_MEMORY,
        }
    }

    pub(super) fn delete(&mut self, key: &[u8]) -> &'static [u8] {
        let Some(key) = self.worker.key(key) else { return reply::BAD_FORMAT };
        let item = self.tell_lookup(&key);
        match self.worker.delete(&key, None) {
            Deleted::Deleted => {
                self.tell_deleted(&key, item, false);
                self.counters.delete_hits.add(1);
                reply::DELETED
            }
            Deleted::NotFound | Deleted::Exists => {
                self.tell_deleted(&key, None, false);
                self.counters.delete_misses.add(1);
                reply::NOT_FOUND
            }
        }
    }

    pub(super) fn touch(&mut self, key: &[u8], exptime: i32) -> &'static [u8] {
        let Some(key) = self.worker.key(key) else { return reply::BAD_FORMAT };
        self.tell_lookup(&key);
        let expiry = self.clock.expiry(exptime);
        let rewritten = self.worker.rewrite(&key, &mut [], |item, _| {
            Ok::<_, core::convert::Infallible>(Rewrite { expiry: Some(expiry), ..unchanged(item) })
        });
        self.counters.cmd_touch.add(1);
        match rewritten {
            Rewritten::Done { .. } => {
                // Unlike other changes, it counts as a use.
                self.worker.get(&key, Mark::Used, |_| ());
                self.counters.touch_hits.add(1);
                reply::TOUCHED
            }
            // memcached cannot run out of memory here. An item that could not be touched is as it was.
            Rewritten::Refused(_) => reply::OUT_OF_MEMORY,
            Rewritten::NotFound | Rewritten::Declined(_) => {
                self.counters.touch_misses.add(1);
                reply::NOT_FOUND
            }
        }
    }

    /// `delay` as on the wire; `None` when malformed. A delay ends a second early, as in memcached: `flush_all 1` acts
    /// at once.
    pub(super) fn flush_all(&mut self, delay: Option<i32>) -> &'static [u8] {
        self.counters.cmd_flush.add(1);
        if !self.settings.flush_enabled {
            return reply::FLUSH_NOT_ALLOWED;
        }
        let Some(delay) = delay else { return reply::BAD_EXPTIME };
        self.flush_from(self.clock.expiry(delay.max(0)));
        reply::OK
    }

    /// `from`: as an expiry, but acting a second earlier; never is now.
    pub(crate) fn flush_from(&mut self, from: Expiry) {
        let at = if from == Expiry::NEVER { 0 } else { from.0.saturating_sub(1) };
        self.worker.flush((at > self.clock.now_s).then_some(at));
    }
}

fn number_line(number: u64, line: &mut [u8; NUMBER_LINE_BYTES]) -> &[u8] {
    let mut buffer = [0; DECIMAL_BYTES_MAX];
    let digits = decimal(number, &mut buffer);
    line.iter_mut().zip(digits.iter().chain(reply::CRLF)).for_each(|(place, byte)| *place = *byte);
    line.get(..digits.len().wrapping_add(reply::CRLF.len())).unwrap_or_default()
}
