//! A large value that becomes another: append and prepend, and whatever else keeps a part of the old one.
//!
//! What is appended goes behind the end of the chain that is there, what is prepended in front of its beginning, so that it
//! costs what is added: the rest of the last chunk, the front of the first one and the link from the one to the other are
//! nobody's, as every reader keeps to its own value. They are written under the stripe's lock, a chunk's worth at most,
//! just before the item's new description takes the old one's place.
//! What makes a small value large is a new chain, copied in one request.

use crate::chunks::{CHUNK_DATA_BYTES, Chain};
use crate::counts::Count;
use crate::log::{Body, Need, Staged};
use crate::pin::{Pin, copy_exact};
use crate::read::Place;
use crate::upload::Upload;
use crate::write::{Committed, Read};
use crate::{Item, Key, Refused, Rewrite, Rewritten, Worker};
use core::ops::Range;
use unbuckle_layout::item::{Head, option};

/// Where [`Worker::finish_join`] puts the uploaded value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Before,
    After,
}

// Functions are kept apart here (`inline(never)`): their frames would add up, and a kernel's stack is short.

/// Bytes that go into a value.
#[derive(Clone, Copy)]
enum Piece<'a> {
    Bytes(&'a [u8]),
    /// Of the record at `offset`, from byte `start` of it on.
    Inline {
        offset: u64,
        start: usize,
        len: usize,
    },
    /// Pinned, or not linked yet.
    Large(Chain),
}

const NOTHING: Piece<'static> = Piece::Bytes(&[]);

/// A piece, and how far it has been read: what lies far behind in a chain is found by walking it, not under a lock.
struct Source<'a> {
    piece: &'a Piece<'a>,
    reader: Option<Pin>,
}

impl<'a> Source<'a> {
    fn new(piece: &'a Piece<'a>) -> Self {
        let reader = if let Piece::Large(chain) = piece { Some(Pin::reader(*chain)) } else { None };
        Source { piece, reader }
    }
}

impl Piece<'_> {
    fn len(&self) -> u64 {
        match self {
            Piece::Bytes(bytes) => bytes.len() as u64,
            Piece::Inline { len, .. } => *len as u64,
            Piece::Large(chain) => chain.value_len,
        }
    }
}

/// A value in the making: the old one, if it is kept, between two parts.
struct Join<'a> {
    before: Piece<'a>,
    keep: bool,
    after: Piece<'a>,
}

impl<'r> Worker<'_, 'r> {
    /// A rewrite whose outcome, or whose old value, is large.
    pub(crate) fn rewrite_large(
        &mut self,
        key: &Key<'_>,
        read: &Read<'r>,
        head: Head,
        rewrite: &Rewrite<'_>,
    ) -> Result<Committed, Refused> {
        let (before, after) = (Piece::Bytes(rewrite.before), Piece::Bytes(rewrite.after));
        self.make(key, read, head, &Join { before, keep: rewrite.keep, after })
    }

    /// Stores what was uploaded together with the value that `key` has now: append and prepend of large values.
    /// `fits` sees the old item and may decline. The CAS becomes `cas`, or the next. Like an append or prepend of small
    /// values, this makes a new item, without the old one's meta marks.
    pub fn finish_join(
        &mut self,
        upload: Upload,
        key: &Key<'_>,
        side: Side,
        cas: Option<u64>,
        mut fits: impl FnMut(&Item<'_>) -> bool,
    ) -> Rewritten<()> {
        // It has arrived: what counts as being uploaded from here on is what is made of it.
        self.settle(&upload);
        let joined = if upload.remaining() == 0 {
            self.join(&upload, key, side, cas, &mut fits)
        } else {
            Rewritten::Declined(())
        };
        self.store.release_chain(&upload.chain);
        joined
    }

    fn join(
        &mut self,
        upload: &Upload,
        key: &Key<'_>,
        side: Side,
        cas: Option<u64>,
        fits: &mut impl FnMut(&Item<'_>) -> bool,
    ) -> Rewritten<()> {
        let added = Piece::Large(upload.chain);
        let join = match side {
            Side::Before => Join { before: added, keep: true, after: NOTHING },
            Side::After => Join { before: NOTHING, keep: true, after: added },
        };
        loop {
            let Some(read) = self.read_for_rewrite(key) else { return Rewritten::NotFound };
            let fits = fits(&self.item_at(&read.place));
            if !read.place.line.unchanged(read.state) {
                continue;
            }
            if !fits {
                return Rewritten::Declined(());
            }
            let mut head = read.place.head;
            head.stamp = self.draw_stamp(head.stamp);
            head.cas = cas.unwrap_or(head.stamp);
            head.options &= !(option::CAS | option::STALE | option::WIN_TOKEN_SENT);
            head.options |= if cas.is_some() { option::CAS } else { 0 };
            match self.make(key, &read, head, &join) {
                Ok(Committed::Done { cas }) => {
                    self.count(Count::TotalItems);
                    return Rewritten::Done { cas };
                }
                Ok(_) => {}
                Err(refused) => return Rewritten::Refused(refused),
            }
        }
    }

    /// Makes the new value, and puts it in the place of what was read.
    #[inline(never)]
    fn make(
        &mut self,
        key: &Key<'_>,
        read: &Read<'r>,
        mut head: Head,
        join: &Join<'_>,
    ) -> Result<Committed, Refused> {
        head.options |= option::LARGE;
        let Place { offset, head: old, .. } = read.place;
        if !join.keep {
            return self.make_copy(key, read, head, [&join.before, &NOTHING, &join.after]);
        }
        if !old.has(option::LARGE) {
            let (start, len) = (old.value_start(), old.value_len as usize);
            let kept = Piece::Inline { offset, start, len };
            return self.make_copy(key, read, head, [&join.before, &kept, &join.after]);
        }
        let Some(pin) = self.pin_read(key, read) else { return Ok(Committed::Changed) };
        let made = match (join.before.len(), join.after.len()) {
            (0, _) => self.lengthen(key, read, head, &pin.chain, Side::After, &join.after),
            (_, 0) => self.lengthen(key, read, head, &pin.chain, Side::Before, &join.before),
            _ => self.make_copy(key, read, head, [&join.before, &Piece::Large(pin.chain), &join.after]),
        };
        self.unpin(pin);
        made
    }

    /// Pins the value that was read; `None` if the item has changed since.
    #[inline(never)]
    fn pin_read(&mut self, key: &Key<'_>, read: &Read<'r>) -> Option<Pin> {
        let Place { offset, head, .. } = read.place;
        let _guard = self.store.lock_stripe(key.hash);
        let found = self.store.find_locked(key);
        if !read.is_current(self.store, found.as_ref()) {
            return None;
        }
        self.store.pin_chain(self.store.chain_at(offset, &head))
    }

    /// A chain of its own, of copies of all pieces.
    #[inline(never)]
    fn make_copy(
        &mut self,
        key: &Key<'_>,
        read: &Read<'r>,
        head: Head,
        pieces: [&Piece<'_>; 3],
    ) -> Result<Committed, Refused> {
        let total = pieces.iter().fold(0u64, |total, piece| total.saturating_add(piece.len()));
        let mut upload = self.begin_upload(key.bytes.len(), total)?;
        for piece in pieces {
            if let Err(refused) = self.copy_piece(&mut upload, &mut Source::new(piece), 0..piece.len()) {
                self.abort_upload(upload);
                return Err(refused);
            }
        }
        self.settle(&upload);
        let committed = self
            .stage_chain(key, read, head, &upload.chain)
            .and_then(|staged| self.commit(key, staged, read.expect()));
        if !matches!(committed, Ok(Committed::Done { .. })) {
            self.store.release_chain(&upload.chain);
        }
        committed
    }

    /// The chain `old`, with `added` behind its end or in front of it.
    #[inline(never)]
    fn lengthen(
        &mut self,
        key: &Key<'_>,
        read: &Read<'r>,
        head: Head,
        old: &Chain,
        side: Side,
        added: &Piece<'_>,
    ) -> Result<Committed, Refused> {
        let value_len = old.value_len.saturating_add(added.len());
        if !self.store.fits(key.bytes.len(), value_len) {
            return Err(Refused::TooLarge);
        }
        let near = added.len().min(old.room(side));
        let mut source = Source::new(added);
        let far = self.upload_far(side, &mut source, near)?;
        let chain = lengthened(old, side, &far, added.len());
        let committed = self.stage_chain(key, read, head, &chain).and_then(|staged| {
            self.commit_after(key, staged, read.expect(), |worker| {
                worker.attach(old, side, &mut source, near, &far);
                worker.store.lengthen_pins(&chain);
            })
        });
        if !matches!(committed, Ok(Committed::Done { .. })) {
            self.store.release_chain(&far);
        }
        committed
    }

    /// Chunks for what does not go into the old chain's own, all but `near` bytes, while nothing is locked.
    #[inline(never)]
    fn upload_far(&mut self, side: Side, source: &mut Source<'_>, near: u64) -> Result<Chain, Refused> {
        let len = source.piece.len().saturating_sub(near);
        let (mut far, bytes) = match side {
            Side::Before => (Upload::before(len), 0..len),
            Side::After => (Upload::of(len), near..source.piece.len()),
        };
        if let Err(refused) = self.copy_piece(&mut far, source, bytes) {
            self.abort_upload(far);
            return Err(refused);
        }
        self.settle(&far);
        Ok(far.chain)
    }

    /// Puts `near` bytes into the old chain's chunk at that side, and links `far` to it. The stripe is locked.
    #[inline(never)]
    fn attach(&mut self, old: &Chain, side: Side, source: &mut Source<'_>, near: u64, far: &Chain) {
        let len = source.piece.len();
        let (mut upload, bytes) = match side {
            Side::Before => (Upload::in_front(old, near), len.saturating_sub(near)..len),
            Side::After => (Upload::behind(old, near), 0..near),
        };
        // Its chunk is there: nothing can be missing.
        let _ = self.copy_piece(&mut upload, source, bytes);
        if far.first != 0 {
            let (before, behind) = match side {
                Side::Before => (far, old),
                Side::After => (old, far),
            };
            self.store.link_chunks(before.last, behind.first);
            self.store.link_chunks(behind.last, before.first);
        }
    }

    #[inline(never)]
    fn stage_chain(
        &mut self,
        key: &Key<'_>,
        read: &Read<'r>,
        head: Head,
        chain: &Chain,
    ) -> Result<Staged, Refused> {
        let description = chain.encode();
        let body = Body { key: key.bytes, before: &description, kept: None, after: &[] };
        self.stage(self.store.lane_of(read.place.offset), head, &body, Need::Request)
    }

    /// Copies the bytes `range` of a piece to the end of an upload.
    #[inline(never)]
    fn copy_piece(
        &mut self,
        upload: &mut Upload,
        source: &mut Source<'_>,
        range: Range<u64>,
    ) -> Result<(), Refused> {
        if let Piece::Bytes(bytes) = source.piece {
            let (from, to) = (range.start as usize, range.end as usize);
            return self.upload(upload, bytes.get(from..to).unwrap_or(&[]));
        }
        let mut buffer = [0; 128];
        let mut at = range.start;
        while at < range.end {
            let left = (range.end - at).min(buffer.len() as u64) as usize;
            let Some(to) = buffer.get_mut(..left) else { break };
            match (source.piece, &mut source.reader) {
                (Piece::Inline { offset, start, .. }, _) => {
                    copy_exact(self.store.region.rest_of_page(*offset), start + at as usize, to);
                }
                (_, Some(reader)) => {
                    self.read_pinned(reader, at, to);
                }
                _ => break,
            }
            self.upload(upload, to)?;
            at += left as u64;
        }
        Ok(())
    }
}

impl Chain {
    /// Bytes that the chunk at that side still has room for.
    fn room(&self, side: Side) -> u64 {
        match side {
            Side::Before => self.skipped.into(),
            Side::After => (CHUNK_DATA_BYTES as u64).saturating_sub(self.end().into()),
        }
    }
}

/// The chain that `old` becomes with `len` bytes more, of which those that got chunks of their own are in `far`.
fn lengthened(old: &Chain, side: Side, far: &Chain, len: u64) -> Chain {
    let value_len = old.value_len.saturating_add(len);
    match (side, far.first) {
        (Side::Before, 0) => Chain { value_len, skipped: old.skipped.saturating_sub(len as u32), ..*old },
        (Side::Before, first) => Chain { value_len, skipped: far.skipped, first, ..*old },
        (Side::After, 0) => Chain { value_len, ..*old },
        (Side::After, _) => Chain { value_len, last: far.last, ..*old },
    }
}
