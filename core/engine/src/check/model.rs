//! memcached in a hash map: what every request must answer, written for obviousness.
//!
//! It shares the decoder with the engine (which `unbuckle-wire` checks by itself) and nothing else. It sees all input
//! of a round at once, while the engine gets it in pieces.

use std::collections::HashMap;
use std::format;
use std::vec::Vec;
use unbuckle_wire::text::{Command, Framing, Store, StoreVerb, decode, frame, long_key_reply, tokens};
use unbuckle_wire::{KEY_BYTES_MAX, number, reply};

/// A piece of a reply.
#[derive(Debug)]
pub(super) enum Expected {
    Bytes(Vec<u8>),
    /// The CAS of this version of an item: unknown, but always the same.
    Cas(u64),
}

#[derive(Clone, Debug)]
struct Item {
    flags: u32,
    /// 0 is never.
    expires_s: u32,
    stored_s: u32,
    value: Vec<u8>,
    version: u64,
}

#[derive(Debug)]
pub(super) struct Model {
    items: HashMap<Vec<u8>, Item>,
    now_s: u32,
    made_unix_s: u64,
    item_bytes_max: u64,
    inline_bytes_max: usize,
    flush_at_s: Option<u32>,
    versions: u64,
    swallow: usize,
    /// The CAS of each version that was seen in a reply.
    pub(super) cas_of: HashMap<u64, u64>,
    pub(super) replies: Vec<Expected>,
    pub(super) closed: bool,
    /// A meta command came, or a retrieval so long that it is answered as it comes: what follows is more than this model
    /// knows.
    pub(super) beyond: bool,
}

impl Model {
    pub(super) fn new(made_unix_s: u64, item_bytes_max: u64, inline_bytes_max: usize) -> Self {
        Self {
            items: HashMap::new(),
            now_s: 0,
            made_unix_s,
            item_bytes_max,
            inline_bytes_max,
            flush_at_s: None,
            versions: 0,
            swallow: 0,
            cas_of: HashMap::new(),
            replies: Vec::new(),
            closed: false,
            beyond: false,
        }
    }

    pub(super) fn now_set(&mut self, now_s: u32) {
        self.now_s = now_s;
        if let Some(at) = self.flush_at_s.filter(|at| *at <= now_s) {
            self.items.retain(|_, item| item.stored_s >= at);
            self.flush_at_s = None;
        }
        self.items.retain(|_, item| item.expires_s == 0 || item.expires_s > now_s);
    }

    fn say(&mut self, bytes: &[u8], noreply: bool) {
        if !noreply {
            self.replies.push(Expected::Bytes(bytes.to_vec()));
        }
    }

    /// Answers what is complete in `input`; returns how much of it is done with.
    pub(super) fn serve(&mut self, input: &[u8]) -> usize {
        let mut rest = input;
        while !self.closed && !self.beyond {
            let swallowed = self.swallow.min(rest.len());
            self.swallow -= swallowed;
            rest = &rest[swallowed..];
            let line = match frame(rest) {
                Framing::Line(line) => line,
                Framing::Overlong => {
                    self.closed = true;
                    break;
                }
                Framing::Partial => break,
                Framing::Stream => {
                    self.beyond = true;
                    break;
                }
            };
            let after = &rest[line.total..];
            match decode(&line) {
                Command::Store(store) => {
                    let needed = store.value_len as usize + 2;
                    if self.too_large(store.key.len(), store.flags, store.value_len as usize) {
                        self.refuse_too_large(&store);
                        rest = after;
                        continue;
                    }
                    if after.len() < needed {
                        break;
                    }
                    self.store(&store, &after[..needed]);
                    rest = &after[needed..];
                }
                Command::StoreRefused { block_len, noreply } => {
                    self.say(reply::BAD_FORMAT, noreply);
                    self.swallow = block_len as usize;
                    rest = after;
                }
                command => {
                    self.command(&command, line.text);
                    rest = after;
                }
            }
        }
        input.len() - rest.len()
    }

    fn command(&mut self, command: &Command<'_>, text: &[u8]) {
        match *command {
            Command::Get { cas, keys } => self.get(keys, cas, None, tokens(text).last() == Some(b"noreply")),
            Command::GetAndTouch { cas, exptime, keys } => self.get(keys, cas, Some(exptime), false),
            Command::Arithmetic { incr, key, delta, noreply } => self.arithmetic(key, incr, delta, noreply),
            Command::Delete { key, noreply } => {
                let there = self.items.remove(key).is_some();
                self.say(if there { reply::DELETED } else { reply::NOT_FOUND }, noreply);
            }
            Command::Touch { key, exptime, noreply } => {
                let there = self.items.contains_key(key);
                self.touch(key, exptime);
                self.say(if there { reply::TOUCHED } else { reply::NOT_FOUND }, noreply);
            }
            Command::FlushAll { delay: None, noreply } => self.say(reply::BAD_EXPTIME, noreply),
            Command::FlushAll { delay: Some(delay), noreply } => {
                let at = if delay > 0 { self.expires_s(delay) - 1 } else { 0 };
                self.flush_at_s = Some(at).filter(|at| *at > self.now_s);
                if self.flush_at_s.is_none() {
                    self.items.clear();
                }
                self.say(reply::OK, noreply);
            }
            Command::Version => self.say(reply::VERSION, false),
            Command::MetaNoop => self.say(reply::META_NOOP, false),
            Command::Meta(_) => self.beyond = true,
            Command::Admin => self.say(super::ADMIN_REPLY, false),
            Command::Quit | Command::Http => self.closed = true,
            Command::Refused { reply, noreply } => self.say(reply, noreply),
            Command::Store(_) | Command::StoreRefused { .. } => unreachable!("served by the caller"),
        }
    }

    fn get(&mut self, keys: &[u8], cas: bool, touch: Option<i32>, noreply: bool) {
        let keys: Vec<&[u8]> = keys.split(|byte| *byte == b' ').filter(|key| !key.is_empty()).collect();
        let bad = keys.iter().position(|key| key.len() > KEY_BYTES_MAX);
        let mut replies = Vec::new();
        for key in &keys[..bad.unwrap_or(keys.len())] {
            let Some(item) = self.items.get(*key) else { continue };
            let header = format!(" {} {}", item.flags, item.value.len());
            replies.push(Expected::Bytes([b"VALUE ", *key, header.as_bytes()].concat()));
            if cas {
                replies.push(Expected::Bytes(b" ".to_vec()));
                replies.push(Expected::Cas(item.version));
            }
            replies.push(Expected::Bytes([b"\r\n", item.value.as_slice(), b"\r\n"].concat()));
            if let Some(exptime) = touch {
                self.touch(key, exptime);
            }
        }
        match bad {
            Some(at) => self.say(long_key_reply(at == 0, noreply), false),
            None => {
                self.replies.append(&mut replies);
                self.say(reply::END, false);
            }
        }
    }

    fn touch(&mut self, key: &[u8], exptime: i32) {
        let expires_s = self.expires_s(exptime);
        if let Some(item) = self.items.get_mut(key) {
            item.expires_s = expires_s;
        }
        self.bury(key);
    }

    /// Removes an item whose expiry has come.
    fn bury(&mut self, key: &[u8]) {
        if self.items.get(key).is_some_and(|item| item.expires_s != 0 && item.expires_s <= self.now_s) {
            self.items.remove(key);
        }
    }

    fn arithmetic(&mut self, key: &[u8], incr: bool, delta: u64, noreply: bool) {
        let version = self.next_version();
        let now_s = self.now_s;
        let Some(item) = self.items.get_mut(key) else { return self.say(reply::NOT_FOUND, noreply) };
        let inline = item.value.len() <= self.inline_bytes_max;
        let Some(old) = number::lenient_u64(&item.value).filter(|_| inline) else {
            return self.say(reply::NOT_NUMERIC, noreply);
        };
        let new = if incr { old.wrapping_add(delta) } else { old.saturating_sub(delta) };
        let mut value = format!("{new}").into_bytes();
        value.resize(value.len().max(item.value.len()), b' ');
        *item = Item { value, version, stored_s: now_s, ..item.clone() };
        self.say(format!("{new}\r\n").as_bytes(), noreply);
    }

    fn refuse_too_large(&mut self, store: &Store<'_>) {
        if store.verb == StoreVerb::Set {
            self.items.remove(store.key);
        }
        self.say(reply::TOO_LARGE, store.noreply);
        self.swallow = store.value_len as usize + 2;
    }

    fn store(&mut self, store: &Store<'_>, block: &[u8]) {
        let Some(value) = block.strip_suffix(b"\r\n") else {
            return self.say(reply::BAD_DATA_CHUNK, store.noreply);
        };
        let reply = self.stored(store, value);
        self.bury(store.key);
        self.say(reply, store.noreply);
    }

    fn stored(&mut self, store: &Store<'_>, value: &[u8]) -> &'static [u8] {
        let version = self.next_version();
        let new = Item {
            flags: store.flags,
            expires_s: self.expires_s(store.exptime),
            stored_s: self.now_s,
            value: value.to_vec(),
            version,
        };
        let old = self.items.get(store.key).cloned();
        let new = match (store.verb, old) {
            (StoreVerb::Add, Some(_))
            | (StoreVerb::Replace | StoreVerb::Append | StoreVerb::Prepend, None) => {
                return reply::NOT_STORED;
            }
            (StoreVerb::Cas, None) => return reply::NOT_FOUND,
            (StoreVerb::Cas, Some(old)) if self.cas_of.get(&old.version) != Some(&store.cas) => {
                return reply::EXISTS;
            }
            (StoreVerb::Append, Some(old)) => {
                Item { value: [old.value.as_slice(), value].concat(), version, stored_s: self.now_s, ..old }
            }
            (StoreVerb::Prepend, Some(old)) => {
                Item { value: [value, old.value.as_slice()].concat(), version, stored_s: self.now_s, ..old }
            }
            _ => new,
        };
        if self.too_large(store.key.len(), new.flags, new.value.len()) {
            return reply::NOT_STORED;
        }
        self.items.insert(store.key.to_vec(), new);
        reply::STORED
    }

    fn too_large(&self, key_len: usize, flags: u32, value_len: usize) -> bool {
        let flags_len = if flags == 0 { 0 } else { 4 };
        (48 + 8 + key_len + 1 + flags_len + value_len + 2) as u64 > self.item_bytes_max
    }

    fn expires_s(&self, exptime: i32) -> u32 {
        let (exptime, now) = (i64::from(exptime), i64::from(self.now_s));
        let expires = match exptime {
            0 => return 0,
            1..=2_592_000 => now + exptime,
            _ => exptime - i64::try_from(self.made_unix_s).expect("a date"),
        };
        u32::try_from(expires.max(1)).expect("in range")
    }

    fn next_version(&mut self) -> u64 {
        self.versions += 1;
        self.versions
    }
}
