//! `mg`: reading, touching, creating on a miss, and winning the right to recache.
//!
//! What changes nothing is the hot path, and is served like `get`: a run of such requests is decoded and hashed ahead,
//! its index lines and items are asked for, and each is answered by one lookup that writes the reply. All others, and
//! what a lookup finds to be stale or large, go through [`Engine::meta_get`], one at a time.

use super::{repeat_request, ttl};
use crate::batch::Spot;
use crate::classic::retrieval::SPARE_BYTES;
use crate::classic::single::unchanged;
use crate::session::{Phase, Sending, Session, Tail};
use crate::{Engine, Next, Output, Step, Turn};
use core::ops::ControlFlow::{self, Break, Continue};
use unbuckle_store::{Condition, Expiry, Item, Key, Mark, NewItem, Pin, Rewrite, Rewritten, Stored};
use unbuckle_wire::meta::{Flags, Letters, OPAQUE_TOO_LONG, REPLY_BYTES_MAX, Reply, Request};
use unbuckle_wire::{reply, scan};

/// How often an item may change between looking at it and pinning or creating it, before it counts as a miss.
const FETCH_TRIES: usize = 8;

/// A request that was decoded ahead: its flags, and where they stand.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ahead {
    flags_at: u32,
    flags_len: u32,
    letters: Letters,
}

/// A request whose turn has come.
#[derive(Clone, Copy)]
struct Slot<'i> {
    key: Key<'i>,
    flags: Flags<'i>,
    /// Where the input goes on.
    after: usize,
}

/// What a lookup came to.
#[derive(Clone, Copy)]
enum Answer {
    Miss,
    Hit,
    /// The output has no room for it; nothing was written.
    Full,
    /// Not for the hot path: stale or large. It was like this before it counted as used.
    Special(Before),
}

/// What `h` and `l` tell of an item: how it was before the request.
#[derive(Clone, Copy)]
struct Before {
    fetched: bool,
    accessed_s: u32,
}

impl Before {
    fn of(item: &Item<'_>) -> Self {
        Self { fetched: item.fetched(), accessed_s: item.accessed_s() }
    }
}

/// An item as a reply shows it.
struct View<'k> {
    key: &'k [u8],
    key_binary: bool,
    value_len: u64,
    flags: u32,
    cas: u64,
    expiry: Expiry,
    stale: bool,
    token_sent: bool,
    /// It was not there before this request.
    created: bool,
    before: Before,
}

impl<'k> View<'k> {
    #[inline(always)]
    fn of(item: &Item<'_>, key: &Key<'k>, cas: u64, before: Before) -> Self {
        Self {
            key: key.bytes(),
            key_binary: item.key_binary(),
            value_len: item.value_len() as u64,
            flags: item.flags(),
            cas,
            expiry: item.expiry(),
            stale: item.stale(),
            token_sent: item.win_token_sent(),
            created: false,
            before,
        }
    }
}

/// What a request makes of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outcome {
    expiry: Expiry,
    won: bool,
}

/// The times of a request.
#[derive(Clone, Copy)]
struct Times {
    now_s: u32,
    touch: Option<Expiry>,
    vivify: Option<Expiry>,
    recache: Option<Expiry>,
}

/// What one try came to.
enum Fetched {
    /// The reply, or its header, has this length.
    Hit(usize),
    Miss,
    /// The value is large and not pinned, or something else is.
    Large,
    /// Another client came between.
    Late,
    Full,
    OutOfMemory,
}

/// A large value that is pinned, to be sent.
struct Held {
    pin: Pin,
    cas: u64,
}

impl Held {
    fn is_value_of(&self, item: &Item<'_>) -> bool {
        item.is_large() && item.cas() == self.cas && item.value_len() as u64 == self.pin.value_len()
    }
}

impl Engine<'_, '_> {
    /// Serves the run of `mg` at the front of the input that change nothing; false if there is none.
    #[inline]
    pub(crate) fn run_of_meta_gets(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_, '_, '_>,
    ) -> ControlFlow<Next, bool> {
        if self.is_observed() {
            // One at a time.
            return Continue(false);
        }
        self.gather_meta_gets(turn);
        if self.meta_gets.len() == 0 {
            return Continue(false);
        }
        self.meta_gets.prefetch(&self.worker, turn.input);
        let (mut hits, mut misses) = (0, 0);
        let mut step = Continue(true);
        for index in 0..self.meta_gets.len() {
            let Some(slot) = self.meta_slot(turn.input, index) else { break };
            match self.answer_plain(turn.output, &slot) {
                Answer::Hit => hits += 1,
                Answer::Miss => {
                    misses += 1;
                    miss_plain(turn.output, &slot);
                }
                Answer::Full => {
                    step = Break(Next::Output);
                    break;
                }
                Answer::Special(before) => {
                    step = self.fetch_special(session, turn, &slot, before).map_continue(|()| true);
                    if step.is_break() || session.phase != Phase::Idle {
                        break;
                    }
                    continue;
                }
            }
            turn.at = slot.after;
            turn.requests = turn.requests.wrapping_add(1);
        }
        self.counters.cmd_get.add(hits + misses);
        self.counters.get_hits.add(hits);
        self.counters.get_misses.add(misses);
        step
    }

    #[inline(always)]
    fn gather_meta_gets(&mut self, turn: &Turn<'_, '_, '_>) {
        const WORD: &[u8] = b"mg ";
        let mut at = turn.at;
        let lines_max = turn.limit.wrapping_sub(turn.requests) as usize;
        let worker = &self.worker;
        self.meta_gets.fill(lines_max, || {
            let rest = turn.input.get(at..)?.strip_prefix(WORD)?;
            let (token, rest) = rest.split_at_checked(scan::space_or_newline(rest)?)?;
            let (flags, line_end) = rest.split_at_checked(scan::newline(rest)?)?;
            // Without flags the key's token ends the line.
            let (key, flags) = match flags.strip_suffix(b"\r") {
                _ if flags.is_empty() => (token.strip_suffix(b"\r").unwrap_or(token), flags),
                Some(flags) => (token, flags),
                None => (token, flags),
            };
            let key = worker.key(key)?;
            let letters = Flags::plain(flags)?.letters();
            let key_at = at.wrapping_add(WORD.len());
            let flags_at = u32::try_from(key_at.wrapping_add(token.len())).ok()?;
            let flags_len = u32::try_from(flags.len()).ok()?;
            at = turn.input.len().wrapping_sub(line_end.len()).wrapping_add(1);
            Spot::new(&key, key_at, at, Ahead { flags_at, flags_len, letters })
        });
    }

    #[inline(always)]
    fn meta_slot<'i>(&self, input: &'i [u8], index: usize) -> Option<Slot<'i>> {
        let spot = self.meta_gets.get(index)?;
        let Ahead { flags_at, flags_len, letters } = spot.more;
        let text = input.get(flags_at as usize..)?.get(..flags_len as usize)?;
        let flags = Flags::seen(text, letters);
        Some(Slot { key: spot.key(&self.worker, input)?, flags, after: spot.after() })
    }

    #[cold]
    #[inline(never)]
    fn fetch_special(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_, '_, '_>,
        slot: &Slot<'_>,
        before: Before,
    ) -> Step {
        let bytes = slot.after.wrapping_sub(turn.at);
        let request = Request::plain(slot.key.bytes(), slot.flags);
        self.fetch(session, turn, bytes, &slot.key, &request, Some(before))
    }

    /// Looks one key up and writes its reply.
    #[inline(never)]
    fn answer_plain(&mut self, output: &mut Output<'_>, slot: &Slot<'_>) -> Answer {
        let free = output.free();
        if free.len() < REPLY_BYTES_MAX {
            return Answer::Full;
        }
        let flags = slot.flags;
        let cas_in_use = self.settings.cas;
        let now_s = self.clock.now_s;
        let mut written = 0;
        let mark = if flags.has(b'u') { Mark::None } else { Mark::Used };
        let found = self.worker.get(&slot.key, mark, |item| {
            if (item.is_large() && flags.has(b'v')) || (item.stale() && !item.win_token_sent()) {
                return Answer::Special(Before::of(item));
            }
            // By far the commonest request wants the value and nothing else.
            let header = if flags.are_answered() || item.stale() || item.win_token_sent() {
                let cas = if cas_in_use { item.cas() } else { 0 };
                write_plain_header(free, item, &slot.key, cas, flags, now_s)
            } else if flags.has(b'v') {
                Reply::value(free, item.value_len() as u64).finish()
            } else {
                Reply::new(free, b"HD").finish()
            };
            let Some(header) = header else { return Answer::Full };
            written = header;
            if !flags.has(b'v') {
                return Answer::Hit;
            }
            match write_value(free, header, item) {
                Some(end) => {
                    written = end;
                    Answer::Hit
                }
                None => Answer::Full,
            }
        });
        let answer = found.unwrap_or(Answer::Miss);
        if matches!(answer, Answer::Hit) {
            output.filled = output.filled.wrapping_add(written);
        }
        answer
    }

    /// Serves one `mg` of `bytes` bytes.
    pub(super) fn meta_get(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_, '_, '_>,
        bytes: usize,
        key: &Key<'_>,
        request: &Request<'_>,
    ) -> Step {
        if request.has_long_opaque() {
            turn.finish(bytes, OPAQUE_TOO_LONG, false);
            return Continue(());
        }
        if !self.is_observed() {
            return self.fetch(session, turn, bytes, key, request, None);
        }
        let found = self.look(key);
        let at = turn.at;
        let step = self.fetch(session, turn, bytes, key, request, None);
        if turn.at != at {
            self.tell_found(key, found, true);
        }
        step
    }

    fn times(&self, request: &Request<'_>) -> Times {
        let expiry = |exptime: Option<i32>| exptime.map(|exptime| self.clock.expiry(exptime));
        Times {
            now_s: self.clock.now_s,
            touch: expiry(request.ttl),
            vivify: expiry(request.vivify),
            recache: expiry(request.recache),
        }
    }

    /// Reads, and changes what there is to change, as one step. With `before` the item has already been marked as used.
    #[cold]
    fn fetch(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_, '_, '_>,
        bytes: usize,
        key: &Key<'_>,
        request: &Request<'_>,
        before: Option<Before>,
    ) -> Step {
        if turn.output.room() < REPLY_BYTES_MAX {
            return Break(Next::Output);
        }
        let times = self.times(request);
        let mut held = None;
        for _ in 0..FETCH_TRIES {
            match self.fetch_once(turn, key, request, before, times, held.as_ref()) {
                Fetched::Hit(written) => {
                    if before.is_none() && !request.flags.has(b'u') {
                        self.worker.get(key, Mark::Used, |_| ());
                    }
                    self.count_get(true, times.touch.is_some());
                    match held {
                        Some(Held { pin, .. }) => {
                            turn.output.filled = turn.output.filled.wrapping_add(written);
                            turn.at = turn.at.wrapping_add(bytes);
                            session.sending = Some(Sending { pin, offset: 0, tail: Tail::Nothing });
                            session.phase = Phase::Sending;
                        }
                        None => turn.finish_written(bytes, Some(written)),
                    }
                    return Continue(());
                }
                Fetched::Late => self.let_go(held.take()),
                Fetched::Large => {
                    self.let_go(held.take());
                    held = self
                        .worker
                        .pin(key, Mark::None, |item| item.cas())
                        .map(|(pin, cas)| Held { pin, cas });
                }
                Fetched::Full => {
                    self.let_go(held);
                    return Break(Next::Output);
                }
                Fetched::OutOfMemory => {
                    self.let_go(held);
                    turn.finish(bytes, reply::OUT_OF_MEMORY, false);
                    return Continue(());
                }
                Fetched::Miss => break,
            }
        }
        self.let_go(held);
        miss(turn.output, request, key);
        self.count_get(false, false);
        turn.finish(bytes, b"", true);
        Continue(())
    }

    fn let_go(&mut self, held: Option<Held>) {
        if let Some(held) = held {
            self.worker.unpin(held.pin);
        }
    }

    /// One try. What it writes (all of the reply, or of a large value's the header) is behind the output, and not counted
    /// as filled yet.
    #[inline(never)]
    fn fetch_once(
        &mut self,
        turn: &mut Turn<'_, '_, '_>,
        key: &Key<'_>,
        request: &Request<'_>,
        before: Option<Before>,
        times: Times,
        held: Option<&Held>,
    ) -> Fetched {
        let cas_in_use = self.settings.cas;
        let free = turn.output.free();
        let mut written = 0;
        let rewritten = self.worker.rewrite(key, &mut [], |item, _| {
            let cas = if cas_in_use { item.cas() } else { 0 };
            let view = View::of(item, key, cas, before.unwrap_or_else(|| Before::of(item)));
            let value = request.flags.has(b'v') && request.cas != Some(cas);
            // A large value is pinned before the item is changed: it may be the change that ends its life.
            let large = value && item.is_large();
            if large != held.is_some_and(|held| held.is_value_of(item)) {
                return Err(Fetched::Large);
            }
            let (outcome, header) = write_header(free, &view, request.flags, value, times);
            written = header.ok_or(Fetched::Full)?;
            if value && !large {
                written = write_value(free, written, item).ok_or(Fetched::Full)?;
            }
            if outcome == (Outcome { expiry: view.expiry, won: false }) {
                return Err(Fetched::Hit(written));
            }
            Ok(Rewrite {
                expiry: Some(outcome.expiry),
                win_token_sent: outcome.won || view.token_sent,
                ..unchanged(item)
            })
        });
        match rewritten {
            Rewritten::Done { .. } => Fetched::Hit(written),
            Rewritten::Declined(reason) => reason,
            Rewritten::Refused(_) => Fetched::OutOfMemory,
            Rewritten::NotFound => self.create(turn, key, request, times),
        }
    }

    /// `N`: an empty item for whoever comes next to wait for. Writes the reply if it was made.
    fn create(
        &mut self,
        turn: &mut Turn<'_, '_, '_>,
        key: &Key<'_>,
        request: &Request<'_>,
        times: Times,
    ) -> Fetched {
        if times.vivify.is_none() {
            return Fetched::Miss;
        }
        let item = NewItem {
            flags: 0,
            expiry: last_expiry(request.flags, times),
            value: &[],
            cas: self.cas_new(request.cas_new),
            stale: false,
            win_token_sent: true,
            key_binary: request.key_binary,
        };
        match self.worker.set(key, &item, Condition::Absent) {
            Ok(Stored::Stored { cas }) => {
                let cas = if self.settings.cas { cas } else { 0 };
                let view = View {
                    key: key.bytes(),
                    key_binary: request.key_binary,
                    value_len: 0,
                    flags: 0,
                    cas,
                    expiry: Expiry::NEVER,
                    stale: false,
                    token_sent: false,
                    created: true,
                    before: Before { fetched: false, accessed_s: times.now_s },
                };
                let value = request.flags.has(b'v') && request.cas != Some(cas);
                let free = turn.output.free();
                let header = write_header(free, &view, request.flags, value, times).1.unwrap_or_default();
                let end = if value { reply::CRLF.as_slice() } else { &[] };
                if let Some(place) = free.get_mut(header..).and_then(|rest| rest.get_mut(..end.len())) {
                    place.copy_from_slice(end);
                }
                Fetched::Hit(header.wrapping_add(end.len()))
            }
            // Another has been faster: now it is there.
            Ok(_) => Fetched::Late,
            // As memcached: no word about the lack of memory.
            Err(_) => Fetched::Miss,
        }
    }

    fn count_get(&self, hit: bool, touched: bool) {
        let counters = self.counters;
        let (commands, outcome) = match (hit, touched) {
            (true, true) => (&counters.cmd_touch, &counters.touch_hits),
            (true, false) => (&counters.cmd_get, &counters.get_hits),
            (false, _) => (&counters.cmd_get, &counters.get_misses),
        };
        commands.add(1);
        outcome.add(1);
    }
}

/// The expiry that a created item has when all flags are through: of `N` and `T` the later one counts.
fn last_expiry(flags: Flags<'_>, times: Times) -> Expiry {
    flags.iter().fold(Expiry::NEVER, |expiry, (letter, _)| match letter {
        b'T' => times.touch.unwrap_or(expiry),
        b'N' => times.vivify.unwrap_or(expiry),
        _ => expiry,
    })
}

/// Writes the line of a hit that changes nothing.
#[inline(never)]
fn write_plain_header(
    free: &mut [u8],
    item: &Item<'_>,
    key: &Key<'_>,
    cas: u64,
    flags: Flags<'_>,
    now_s: u32,
) -> Option<usize> {
    let view = View::of(item, key, cas, Before::of(item));
    let times = Times { now_s, touch: None, vivify: None, recache: None };
    write_header(free, &view, flags, flags.has(b'v'), times).1
}

/// Writes a hit's line. Flags take effect in their order: a `t` in front of a `T` tells the old time to live.
#[inline]
fn write_header(
    free: &mut [u8],
    view: &View<'_>,
    flags: Flags<'_>,
    value: bool,
    times: Times,
) -> (Outcome, Option<usize>) {
    let mut reply = if value { Reply::value(free, view.value_len) } else { Reply::new(free, b"HD") };
    let mut outcome = Outcome { expiry: view.expiry, won: false };
    for (letter, token) in flags.iter() {
        match letter {
            b'T' => outcome.expiry = times.touch.unwrap_or(outcome.expiry),
            b'N' if view.created => {
                outcome = Outcome { expiry: times.vivify.unwrap_or(outcome.expiry), won: true };
            }
            b'R' => {
                let soon = times.recache.is_some_and(|recache| outcome.expiry.0 < recache.0);
                outcome.won |= soon && outcome.expiry != Expiry::NEVER && !view.token_sent && !view.created;
            }
            b's' => reply.number(b's', view.value_len),
            b't' => {
                reply.flag(b't');
                ttl(&mut reply, outcome.expiry, times.now_s);
            }
            b'c' => reply.number(b'c', view.cas),
            b'f' => reply.number(b'f', u64::from(view.flags)),
            b'l' => reply.number(b'l', u64::from(times.now_s.saturating_sub(view.before.accessed_s))),
            b'h' => reply.number(b'h', u64::from(view.before.fetched)),
            b'O' => reply.repeat(token),
            b'k' => reply.key(view.key, view.key_binary),
            _ => (),
        }
    }
    if view.token_sent {
        reply.flag(b'Z');
    }
    if view.stale {
        reply.flag(b'X');
        outcome.won |= !view.token_sent;
    }
    if outcome.won {
        reply.flag(b'W');
    }
    (outcome, reply.finish())
}

/// Writes the value and its line end at `start`; where they end, or `None` if there is no room.
#[inline(always)]
fn write_value(free: &mut [u8], start: usize, item: &Item<'_>) -> Option<usize> {
    let len = item.value_len();
    // Copies come in whole words; what they leave behind the value is overwritten, or not sent.
    let value = free.get_mut(start..).filter(|place| place.len() >= len.saturating_add(SPARE_BYTES))?;
    if !item.copy_value(value) {
        return None;
    }
    let end = value.get_mut(len..)?.first_chunk_mut()?;
    *end = *reply::CRLF;
    Some(start.wrapping_add(len).wrapping_add(reply::CRLF.len()))
}

#[inline(never)]
fn miss_plain(output: &mut Output<'_>, slot: &Slot<'_>) {
    miss(output, &Request::plain(slot.key.bytes(), slot.flags), &slot.key);
}

/// The reply to a miss, which `q` leaves out. There is room for it.
#[inline]
fn miss(output: &mut Output<'_>, request: &Request<'_>, key: &Key<'_>) {
    if request.flags.has(b'q') {
        return;
    }
    let mut reply = Reply::new(output.free(), b"EN");
    if request.flags.are_answered() {
        repeat_request(&mut reply, request, key);
    }
    let written = reply.finish().unwrap_or_default();
    output.filled = output.filled.wrapping_add(written);
}
