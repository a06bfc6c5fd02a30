//! `md`: removing an item, or only its value (`x`), or leaving it as stale (`I`).

use super::{CAS_OF_NOTHING, repeat_request};
use crate::classic::single::unchanged;
use crate::{Engine, Turn};
use unbuckle_store::{Deleted, Expiry, Key, Rewrite, RewriteCas, Rewritten};
use unbuckle_wire::meta::{OPAQUE_TOO_LONG, Reply, Request};
use unbuckle_wire::reply;

/// The item has another CAS than `C` says.
struct Differs;

impl Engine<'_, '_> {
    pub(super) fn meta_delete(
        &mut self,
        turn: &mut Turn<'_, '_, '_>,
        bytes: usize,
        key: &Key<'_>,
        request: &Request<'_>,
    ) {
        if request.has_long_opaque() {
            return turn.finish(bytes, OPAQUE_TOO_LONG, false);
        }
        let item = self.tell_lookup(key);
        let invalidates = request.flags.has(b'I');
        let deleted = if invalidates || request.flags.has(b'x') {
            match self.leave_behind(key, request, invalidates) {
                Some(deleted) => deleted,
                None => return turn.finish(bytes, reply::OUT_OF_MEMORY, false),
            }
        } else {
            self.worker.delete(key, self.expected_of_delete(request))
        };
        match deleted {
            Deleted::Deleted if invalidates => (),
            Deleted::Deleted => {
                self.tell_deleted(key, item, true);
                self.counters.delete_hits.add(1);
            }
            // memcached counts both.
            Deleted::NotFound | Deleted::Exists => {
                self.tell_deleted(key, None, true);
                self.counters.delete_misses.add(1);
            }
        }
        let status: &[u8] = match deleted {
            Deleted::Deleted if request.flags.has(b'q') => return turn.finish(bytes, b"", true),
            Deleted::Deleted => b"HD",
            Deleted::NotFound => b"NF",
            Deleted::Exists => b"EX",
        };
        let mut reply = Reply::new(turn.output.free(), status);
        repeat_request(&mut reply, request, key);
        let written = reply.finish();
        turn.finish_written(bytes, written);
    }

    /// Under `-C` every item shows a CAS of 0.
    fn expected_of_delete(&self, request: &Request<'_>) -> Option<u64> {
        match request.cas {
            Some(0) if !self.settings.cas => None,
            Some(_) if !self.settings.cas => Some(CAS_OF_NOTHING),
            cas => cas,
        }
    }

    /// Changes the item instead of deleting it. `None` is a lack of memory.
    fn leave_behind(&mut self, key: &Key<'_>, request: &Request<'_>, invalidates: bool) -> Option<Deleted> {
        let expected = self.expected_of_delete(request);
        let ttl = request.ttl.map(|exptime| self.clock.expiry(exptime));
        let next = self.next_cas(request);
        let rewritten = self.worker.rewrite(key, &mut [], |item, _| {
            if expected.is_some_and(|expected| expected != item.cas()) {
                return Err(Differs);
            }
            // An item without its value is a new one, with flags and time to live of its own, but the same CAS.
            let emptied = if request.flags.has(b'x') {
                Rewrite {
                    keep: false,
                    flags: Some(request.client_flags),
                    expiry: Some(ttl.unwrap_or(Expiry::NEVER)),
                    cas: match next {
                        RewriteCas::Exactly(cas) => RewriteCas::Exactly(cas),
                        _ => RewriteCas::Exactly(item.cas()),
                    },
                    stale: false,
                    win_token_sent: false,
                    ..unchanged(item)
                }
            } else {
                unchanged(item)
            };
            // The next client may win the right to recache, even if one has won it before.
            Ok(if invalidates {
                Rewrite {
                    expiry: ttl.or(emptied.expiry),
                    cas: next,
                    stale: true,
                    win_token_sent: false,
                    ..emptied
                }
            } else {
                emptied
            })
        });
        match rewritten {
            Rewritten::Done { .. } => Some(Deleted::Deleted),
            Rewritten::NotFound => Some(Deleted::NotFound),
            Rewritten::Declined(Differs) => Some(Deleted::Exists),
            Rewritten::Refused(_) => None,
        }
    }
}
