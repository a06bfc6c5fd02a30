//! The meta protocol: one request at a time, except for runs of `mg` that change nothing (see `get.rs`).
//!
//! Each command is decoded whole before anything is done, so that a refused one changes nothing. What changes an item
//! and answers from it does both under the same version of it: the store's `rewrite` lets the reply be written while
//! the change is decided. `me` is here; the others have a file each.
//!
//! Where 1.6.45 forgets, we remember: an item that `N` creates under a base64 key is told in base64 again, and `T` and `E`
//! of an `ma` hold even if the number has become longer. COMPATIBILITY.md has the list.

mod arithmetic;
mod delete;
mod get;
mod set;

pub(crate) use get::Ahead;
pub(crate) use set::Storage;

use crate::classic::storage::memcached_bytes;
use crate::session::Session;
use crate::{Engine, Next, Step, Turn};
use core::ops::ControlFlow::{Break, Continue};
use unbuckle_store::{Expiry, Key, Mark, RewriteCas};
use unbuckle_wire::meta::{self, Refusal, Reply, Request, Verb};
use unbuckle_wire::text::Line;
use unbuckle_wire::{KEY_BYTES_MAX, base64};

/// Under `-C`: what is compared when nothing may match. No stamp is as large, and `E` is not heard there.
pub(crate) const CAS_OF_NOTHING: u64 = u64::MAX;

impl Engine<'_, '_> {
    /// Serves the meta command of `line`.
    pub(crate) fn meta(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_, '_, '_>,
        line: &Line<'_>,
        verb: Verb,
    ) -> Step {
        if turn.output.room() < meta::REPLY_BYTES_MAX {
            return Break(Next::Output);
        }
        let arguments = line.text.get(b"mg".len()..).unwrap_or_default();
        match verb {
            Verb::Set => return self.meta_set(session, turn, line, arguments),
            Verb::Debug => self.meta_debug(turn, line, arguments),
            Verb::Get | Verb::Delete | Verb::Arithmetic => match meta::decode(arguments) {
                Ok(request) => return self.meta_request(session, turn, line, verb, &request),
                Err(Refusal::Flags(_)) if verb == Verb::Arithmetic => {
                    turn.finish(line.total, meta::INVALID_OR_DUPLICATE_FLAG, false);
                }
                Err(Refusal::Line(reply) | Refusal::Flags(reply)) => turn.finish(line.total, reply, false),
            },
        }
        Continue(())
    }

    fn meta_request(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_, '_, '_>,
        line: &Line<'_>,
        verb: Verb,
        request: &Request<'_>,
    ) -> Step {
        let mut buffer = KeyBuffer::default();
        let Some(key) = self.worker.key(buffer.key(request)) else { return Break(Next::Close) };
        match verb {
            Verb::Get => return self.meta_get(session, turn, line.total, &key, request),
            Verb::Delete => self.meta_delete(turn, line.total, &key, request),
            _ => self.meta_arithmetic(turn, line.total, &key, request),
        }
        Continue(())
    }

    /// `me`: what is known of an item, except its value. It leaves no trace but in `cmd_meta`.
    fn meta_debug(&mut self, turn: &mut Turn<'_, '_, '_>, line: &Line<'_>, arguments: &[u8]) {
        let (text, binary) = match meta::decode_debug(arguments) {
            Ok(decoded) => decoded,
            Err(reply) => return turn.finish(line.total, reply, false),
        };
        let mut buffer = [0; KEY_BYTES_MAX];
        let decoded = if binary { base64::decode(text, &mut buffer) } else { None };
        let bytes = decoded.and_then(|len| buffer.get(..len)).unwrap_or(text);
        let Some(key) = self.worker.key(bytes) else { return };
        self.counters.cmd_meta.add(1);
        let (now_s, settings, store) = (self.clock.now_s, self.settings, self.worker.store());
        let free = turn.output.free();
        let written = self.worker.get(&key, Mark::None, |item| {
            let value_len = item.value_len() as u64;
            let bytes = memcached_bytes(key.bytes().len(), item.flags(), value_len, settings.cas);
            let mut reply = Reply::new(free, b"ME ");
            reply.bare_key(key.bytes(), item.key_binary());
            reply.text(b" exp=");
            ttl(&mut reply, item.expiry(), now_s);
            reply.text(b" la=");
            reply.decimal(u64::from(now_s.saturating_sub(item.accessed_s())));
            reply.text(b" cas=");
            reply.decimal(if settings.cas { item.cas() } else { 0 });
            reply.text(if item.fetched() { b" fetch=yes cls=" } else { b" fetch=no cls=" });
            reply.decimal((store.class_of(bytes) as u64).wrapping_add(1));
            reply.text(b" size=");
            reply.decimal(bytes);
            reply.finish()
        });
        match written {
            Some(written) => turn.finish_written(line.total, written),
            None => turn.finish(line.total, meta::MISS, false),
        }
    }

    /// The CAS that a change leaves behind: `E`, or the next.
    fn next_cas(&self, request: &Request<'_>) -> RewriteCas {
        self.cas_new(request.cas_new).map_or(RewriteCas::Next, RewriteCas::Exactly)
    }

    /// `E`, where CAS values are in use.
    fn cas_new(&self, asked: Option<u64>) -> Option<u64> {
        asked.filter(|_| self.settings.cas)
    }
}

impl Turn<'_, '_, '_> {
    /// Like [`Turn::finish`], with a reply that is written behind the output already. `None` is one that did not fit, which
    /// the check for room makes impossible.
    #[inline]
    fn finish_written(&mut self, bytes: usize, written: Option<usize>) {
        debug_assert!(written.is_some(), "a reply line is longer than its limit");
        self.output.filled = self.output.filled.wrapping_add(written.unwrap_or_default());
        self.finish(bytes, b"", true);
    }
}

/// Where a base64 key is decoded.
#[derive(Default)]
struct KeyBuffer(Option<[u8; KEY_BYTES_MAX]>);

impl KeyBuffer {
    /// The request's key as it is stored. Only a binary one pays for the buffer.
    #[inline]
    fn key<'k>(&'k mut self, request: &Request<'k>) -> &'k [u8] {
        if !request.key_binary {
            return request.key;
        }
        let buffer = self.0.insert([0; KEY_BYTES_MAX]);
        let len = base64::decode(request.key, buffer).unwrap_or_default();
        buffer.get(..len).unwrap_or_default()
    }
}

/// Repeats the opaque and the key, which is all that a reply without an item has.
fn repeat_request(reply: &mut Reply<'_>, request: &Request<'_>, key: &Key<'_>) {
    for (letter, token) in request.flags.iter() {
        match letter {
            b'O' => reply.repeat(token),
            b'k' => reply.key(key.bytes(), request.key_binary),
            _ => (),
        }
    }
}

/// Seconds that are left, or -1. An expiry in the past wraps around 2^32, as in the original.
fn ttl(reply: &mut Reply<'_>, expiry: Expiry, now_s: u32) {
    if expiry == Expiry::NEVER {
        reply.text(b"-1");
    } else {
        reply.decimal(u64::from(expiry.0.wrapping_sub(now_s)));
    }
}
