//! Long answers about all items, made a piece at a time: `lru_crawler metadump` and `mgdump`, `stats cachedump` and
//! `stats sizes`.
//!
//! A dump belongs to its connection and is made by the connection's worker, between other clients' turns, as fast as the
//! client reads: what exists of it at any time is one piece. Nothing waits for it, and it holds nothing of the store; what
//! [`unbuckle_store::Walk`] promises of items that move meanwhile holds here.

use crate::shared::Shared;
use crate::uri::encode;
use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow::{self, Break, Continue};
use unbuckle_engine::Engine;
use unbuckle_store::{Expiry, Item, Walk};
use unbuckle_wire::base64;

/// A piece ends when it is this long (one unit of the index more, at most), or so many units have been seen.
const PIECE_BYTES: usize = 32 << 10;
const UNITS_PER_PIECE: usize = 64;
/// Longest key, and a word behind it.
const KEY_PLACE_BYTES: usize = 256 + 8;
/// Steps of `stats sizes`.
const SIZE_STEP_BYTES: u64 = 32;

/// Size classes, 1 to 63.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClassSet(u64);

impl ClassSet {
    pub(crate) const ALL: ClassSet = ClassSet(u64::MAX);

    pub(crate) fn one(class: u32) -> ClassSet {
        ClassSet(1u64.checked_shl(class).unwrap_or(0))
    }

    /// A list such as `1,5,30`.
    pub(crate) fn listed(text: &[u8]) -> Option<ClassSet> {
        let mut set = ClassSet(0);
        // Empty entries are passed over, as in memcached.
        for word in text.split(|byte| *byte == b',').filter(|word| !word.is_empty()) {
            let class =
                std::str::from_utf8(word).ok()?.parse().ok().filter(|class| (1..=63).contains(class))?;
            set.0 |= ClassSet::one(class).0;
        }
        Some(set)
    }

    fn has(self, class: usize) -> bool {
        class < 64 && self.0 >> class & 1 == 1
    }
}

#[derive(Debug)]
enum Form {
    /// Everything that is known of an item, a line each.
    Meta,
    /// Each key as a request for it.
    Keys,
    /// `stats cachedump`, of so many items at most.
    Cached { left: u32 },
    /// How many items there are of each size.
    Sizes(BTreeMap<u64, u64>),
}

#[derive(Debug)]
pub(crate) struct Dump {
    form: Form,
    walk: Walk,
    classes: ClassSet,
    begun: bool,
}

/// What an item's line is made from, beside the item.
struct View<'a> {
    made_unix_s: u64,
    /// What memcached's item has and this server's `-C` leaves out.
    cas_in_use: bool,
    class_of: &'a dyn Fn(u64) -> usize,
}

impl Dump {
    pub(crate) fn meta(classes: ClassSet) -> Dump {
        Dump::new(Form::Meta, classes)
    }

    pub(crate) fn keys(classes: ClassSet) -> Dump {
        Dump::new(Form::Keys, classes)
    }

    /// `limit` 0 is none.
    pub(crate) fn cached(class: u32, limit: u32) -> Dump {
        Dump::new(Form::Cached { left: if limit == 0 { u32::MAX } else { limit } }, ClassSet::one(class))
    }

    pub(crate) fn sizes() -> Dump {
        Dump::new(Form::Sizes(BTreeMap::new()), ClassSet::ALL)
    }

    fn new(form: Form, classes: ClassSet) -> Dump {
        Dump { form, walk: Walk::default(), classes, begun: false }
    }

    /// Appends the next piece, which may be empty. `Break` was the last.
    pub(crate) fn piece(
        &mut self,
        engine: &mut Engine<'_, '_>,
        shared: &Shared<'_>,
        piece: &mut Vec<u8>,
    ) -> ControlFlow<()> {
        if !self.begun && matches!(self.form, Form::Meta | Form::Keys) {
            piece.extend_from_slice(b"OK\r\n");
        }
        self.begun = true;
        let view = View {
            made_unix_s: shared.clock.made_unix_s(),
            cas_in_use: shared.options.cas,
            class_of: &|bytes| shared.store.class_of(bytes) + 1,
        };
        for _ in 0..UNITS_PER_PIECE {
            if self.walk.has_ended() || matches!(self.form, Form::Cached { left: 0 }) {
                self.end(piece);
                return Break(());
            }
            if piece.len() >= PIECE_BYTES {
                break;
            }
            let (form, classes) = (&mut self.form, self.classes);
            engine.walk(&mut self.walk, |item| form.see(item, classes, &view, piece));
        }
        Continue(())
    }

    fn end(&mut self, piece: &mut Vec<u8>) {
        if let Form::Sizes(counts) = &self.form {
            for (size, count) in counts {
                add(piece, format_args!("STAT {size} {count}\r\n"));
            }
        }
        piece.extend_from_slice(if matches!(self.form, Form::Keys) { b"EN\r\n" } else { b"END\r\n" });
    }
}

impl Form {
    fn see(&mut self, item: &Item<'_>, classes: ClassSet, view: &View<'_>, piece: &mut Vec<u8>) {
        let class = (view.class_of)(item.memcached_bytes());
        if !classes.has(class) {
            return;
        }
        let bytes = item.memcached_bytes() - if view.cas_in_use { 0 } else { 8 };
        let mut place = [0; KEY_PLACE_BYTES];
        if !item.copy_key(&mut place) {
            return;
        }
        let key = place.get(..item.key_len()).unwrap_or_default();
        match self {
            Form::Meta => metadump(item, key, class, bytes, view, piece),
            Form::Keys => mgdump(item, key, piece),
            Form::Cached { left: 0 } => {}
            // Not for keys that a terminal or a parser of lines might trip over.
            Form::Cached { .. } if item.key_binary() => {}
            Form::Cached { left } => {
                *left -= 1;
                cachedump(item, key, view, piece);
            }
            Form::Sizes(counts) => {
                *counts.entry(bytes.next_multiple_of(SIZE_STEP_BYTES)).or_default() += 1;
            }
        }
    }
}

/// Writing to a Vec does not fail.
fn add(piece: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let _ = piece.write_fmt(text);
}

fn metadump(item: &Item<'_>, key: &[u8], class: usize, bytes: u64, view: &View<'_>, piece: &mut Vec<u8>) {
    piece.extend_from_slice(b"key=");
    encode(key, piece);
    match item.expiry() {
        Expiry::NEVER => piece.extend_from_slice(b" exp=-1"),
        Expiry(at) => add(piece, format_args!(" exp={}", view.made_unix_s + u64::from(at))),
    }
    let accessed = view.made_unix_s + u64::from(item.accessed_s());
    let cas = if view.cas_in_use { item.cas() } else { 0 };
    let fetched = if item.fetched() { "yes" } else { "no" };
    add(piece, format_args!(" la={accessed} cas={cas} fetch={fetched} cls={class}"));
    // The space in front of the line's end is memcached's.
    add(piece, format_args!(" size={bytes} flags={} \n", item.flags()));
}

fn mgdump(item: &Item<'_>, key: &[u8], piece: &mut Vec<u8>) {
    piece.extend_from_slice(b"mg ");
    if item.key_binary() {
        key.chunks(3).for_each(|bytes| piece.extend_from_slice(&base64::encode(bytes)));
        piece.extend_from_slice(b" b\r\n");
    } else {
        piece.extend_from_slice(key);
        piece.extend_from_slice(b"\r\n");
    }
}

fn cachedump(item: &Item<'_>, key: &[u8], view: &View<'_>, piece: &mut Vec<u8>) {
    piece.extend_from_slice(b"ITEM ");
    piece.extend_from_slice(key);
    let expiry = match item.expiry() {
        Expiry::NEVER => 0,
        Expiry(at) => view.made_unix_s + u64::from(at),
    };
    add(piece, format_args!(" [{} b; {expiry} s]\r\n", item.value_len()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_classes() {
        let set = ClassSet::listed(b"1,5,,63").unwrap();
        assert!(set.has(1) && set.has(5) && set.has(63) && !set.has(2) && !set.has(64));
        for bad in [&b"0"[..], b"64", b"x", b"1,-1"] {
            assert_eq!(ClassSet::listed(bad), None);
        }
    }
}
