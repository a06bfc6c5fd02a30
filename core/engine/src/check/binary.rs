//! What the fuzz target `engine_binary` checks. A script is read as numbers, whatever it holds:
//!
//! - an even first byte: requests are made from it, which a model answers, too; they come in pieces, with a bounded output;
//! - an odd one: what follows is sent as it is, once whole and once in pieces; the replies must be the same.
//!
//! The model knows everything of a reply but new CAS values: of these, that they are unique, and stay until there is a change.

use super::{
    ADMIN_REPLY, Door, ITEM_BYTES_MAX, MADE_UNIX_S, Memory, SETTINGS, START_S, agree, piece_len, say,
};
use crate::{Counters, Engine, Session};
use std::collections::{BTreeMap, BTreeSet};
use std::format;
use std::string::ToString;
use std::vec;
use std::vec::Vec;
use unbuckle_wire::number::lenient_u64;

const KEYS: [&[u8]; 6] = [b"a", b"b", b"with space", b"\r\n\0\xff", &[b'k'; 250], b"n"];
/// The model never evicts: no script may fill the store.
const VALUE_BYTES_MAX: usize = 4 << 20;
const ROUNDS_MAX: usize = 200;

/// Runs a script.
///
/// # Panics
/// When engine and model, or whole and pieces, disagree.
pub fn engine_binary(script: &[u8]) {
    match script.split_first() {
        Some((head, rest)) if head % 2 == 1 => raw(*head, rest),
        Some((_, rest)) => modelled(rest),
        None => (),
    }
}

fn raw(head: u8, bytes: &[u8]) {
    // What begins otherwise is text, and another target's.
    let bytes = [b"\x80".as_slice(), bytes].concat();
    let rounds: [(u8, &[u8]); 1] = [(head, &bytes)];
    agree(&say(&rounds, |_, _| (usize::MAX, 0)), &say(&rounds, |head, len| (piece_len(head, len), head)));
}

fn modelled(script: &[u8]) {
    let memory = Memory::new();
    let store = memory.store();
    let counters = Counters::default();
    let worker = store.worker(0).expect("a first worker");
    let inline_bytes_max = worker.inline_value_bytes_max();
    let mut engine = Engine::new(worker, SETTINGS, &counters);
    let (mut session, mut unserved) = (Session::default(), Vec::new());
    let mut model = Model { now_s: START_S, inline_bytes_max, ..Model::default() };
    let mut numbers = Numbers(script);
    for _ in 0..ROUNDS_MAX {
        if numbers.0.is_empty() {
            break;
        }
        let head = numbers.next();
        model.now_s += u32::from(head % 4 / 2);
        engine.now_set(model.now_s, MADE_UNIX_S);
        let mut input = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..=numbers.next() % 8 {
            model.request(&mut numbers, &mut input, &mut expected);
        }
        let mut door = Door {
            engine: &mut engine,
            session: &mut session,
            unserved: &mut unserved,
            sent: Vec::new(),
            closed: false,
        };
        for piece in input.chunks(piece_len(head, input.len())) {
            door.receive(piece, head);
        }
        let Door { sent, closed, .. } = door;
        assert!(!closed, "closed without a reason");
        let rest = expected.into_iter().fold(&sent[..], |rest, reply| model.compare(&reply, rest));
        assert!(rest.is_empty(), "more than expected: {}", rest[..rest.len().min(300)].escape_ascii());
    }
    engine.end(&mut session);
    assert_eq!(store.gauges().pinned_bytes, 0);
}

/// The script, number by number; 0 behind its end.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn next(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }
}

#[derive(Clone, Debug)]
struct Item {
    flags: u32,
    value: Vec<u8>,
    /// 0: never.
    expiry: u32,
    /// Which of the model's changes it is.
    version: u64,
}

#[derive(Debug, Default)]
struct Model {
    items: BTreeMap<&'static [u8], Item>,
    now_s: u32,
    versions: u64,
    /// What is known of each version's CAS.
    cas_of: BTreeMap<u64, u64>,
    seen: BTreeSet<u64>,
    value_bytes: usize,
    opaque: u32,
    /// A longer value is no number.
    inline_bytes_max: usize,
}

#[derive(Debug)]
enum Reply {
    Frame {
        opcode: u8,
        opaque: u32,
        status: u16,
        extras: Vec<u8>,
        key: Vec<u8>,
        value: Vec<u8>,
        /// The version whose CAS it has.
        version: Option<u64>,
    },
    Admin,
}

/// A request's parts, until it is written.
struct Request {
    opcode: u8,
    extras: Vec<u8>,
    key: &'static [u8],
    value: Vec<u8>,
    cas: u64,
}

/// A status that comes with words.
fn words(status: u16) -> Vec<u8> {
    let words: &[u8] = match status {
        1 => b"Not found",
        2 => b"Data exists for key.",
        3 => b"Too large.",
        5 => b"Not stored.",
        6 => b"Non-numeric server-side value for incr or decr",
        0x81 => b"Unknown command",
        _ => b"",
    };
    words.to_vec()
}

impl Model {
    fn request(&mut self, numbers: &mut Numbers<'_>, input: &mut Vec<u8>, expected: &mut Vec<Reply>) {
        self.items.retain({
            let now_s = self.now_s;
            move |_, item| item.expiry == 0 || item.expiry > now_s
        });
        let (choice, place) = (numbers.next() % 16, numbers.next());
        let key = KEYS[usize::from(place) % KEYS.len()];
        let quiet = place & 0x80 != 0;
        let cas = match (place >> 5 & 3, self.items.get(key)) {
            (1, Some(item)) => self.cas_of.get(&item.version).copied().unwrap_or(0),
            (2, _) => 1,
            _ => 0,
        };
        self.opaque += 1;
        match choice {
            0..=3 => self.get(choice, numbers, key, input, expected),
            4..=9 => self.store(choice, quiet, numbers, key, cas, input, expected),
            10 | 11 => self.count(choice == 10, quiet, numbers, key, cas, input, expected),
            12 => {
                let status = match self.items.get(key) {
                    Some(item) if cas == 0 || self.cas_of.get(&item.version) == Some(&cas) => 0,
                    Some(_) => 2,
                    None => 1,
                };
                if status == 0 {
                    self.items.remove(key);
                }
                let opcode = if quiet { 0x14 } else { 0x04 };
                self.write(&Request { opcode, extras: vec![], key, value: vec![], cas }, input);
                if status != 0 || !quiet {
                    expected.push(self.plain(opcode, status, words(status), None));
                }
            }
            13 => {
                self.items.clear();
                let opcode = if quiet { 0x18 } else { 0x08 };
                self.write(&Request { opcode, extras: vec![], key: b"", value: vec![], cas: 0 }, input);
                if !quiet {
                    expected.push(self.plain(opcode, 0, vec![], None));
                }
            }
            14 => {
                let value = value(numbers);
                let request = Request { opcode: 0x30, extras: vec![7; 3], key, value, cas };
                self.write(&request, input);
                expected.push(self.plain(0x30, 0x81, words(0x81), None));
            }
            _ => {
                self.write(&Request { opcode: 0x10, extras: vec![], key, value: vec![], cas }, input);
                expected.push(Reply::Admin);
            }
        }
    }

    /// get, gat and touch, whose opcodes differ in what they reply.
    fn get(
        &mut self,
        choice: u8,
        numbers: &mut Numbers<'_>,
        key: &'static [u8],
        input: &mut Vec<u8>,
        expected: &mut Vec<Reply>,
    ) {
        let forms: [(u8, bool, bool); 4] = match choice {
            0 | 1 => [(0x00, false, false), (0x09, false, true), (0x0c, true, false), (0x0d, true, true)],
            2 => [(0x1d, false, false), (0x1e, false, true), (0x23, true, false), (0x24, true, true)],
            _ => [(0x1c, false, false); 4],
        };
        let (opcode, with_key, quiet) = forms[usize::from(numbers.next()) % 4];
        let mut extras = vec![];
        if choice >= 2 {
            let exptime = u32::from(numbers.next() % 4);
            extras = exptime.to_be_bytes().to_vec();
            if let Some(item) = self.items.get_mut(key) {
                item.expiry = if exptime == 0 { 0 } else { self.now_s + exptime };
            }
        }
        self.write(&Request { opcode, extras, key, value: vec![], cas: 0 }, input);
        let shown_key = if with_key { key.to_vec() } else { vec![] };
        match self.items.get(key) {
            Some(item) => expected.push(Reply::Frame {
                opcode,
                opaque: self.opaque,
                status: 0,
                extras: item.flags.to_be_bytes().to_vec(),
                key: shown_key,
                value: if opcode == 0x1c { vec![] } else { item.value.clone() },
                version: Some(item.version),
            }),
            None if quiet => (),
            None => expected.push(Reply::Frame {
                opcode,
                opaque: self.opaque,
                status: 1,
                extras: vec![],
                value: if with_key { vec![] } else { words(1) },
                key: shown_key,
                version: None,
            }),
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn store(
        &mut self,
        choice: u8,
        quiet: bool,
        numbers: &mut Numbers<'_>,
        key: &'static [u8],
        cas: u64,
        input: &mut Vec<u8>,
        expected: &mut Vec<Reply>,
    ) {
        let value = value(numbers);
        self.value_bytes += value.len();
        if self.value_bytes > VALUE_BYTES_MAX {
            return;
        }
        // set is the commonest
        let opcode = [0x01, 0x01, 0x02, 0x03, 0x0e, 0x0f][usize::from(choice - 4)];
        let joins = opcode >= 0x0e;
        let (flags, exptime) =
            (u32::from(numbers.next()) << 24, u32::from(numbers.next() % 8).saturating_sub(4));
        let mut extras = vec![];
        if !joins {
            extras.extend(flags.to_be_bytes());
            extras.extend(exptime.to_be_bytes());
        }
        let wire_opcode = match opcode {
            opcode if !quiet => opcode,
            0x0e | 0x0f => opcode + 0x0b,
            _ => opcode + 0x10,
        };
        self.write(&Request { opcode: wire_opcode, extras, key, value: value.clone(), cas }, input);
        let old = self.items.get(key).cloned();
        let same = |item: &Item| self.cas_of.get(&item.version) == Some(&cas);
        let (fits, joined) = match (&old, opcode) {
            (Some(old), 0x0e) => (true, [&old.value[..], &value].concat()),
            (Some(old), 0x0f) => (true, [&value[..], &old.value].concat()),
            (None, 0x0e | 0x0f) => (false, vec![]),
            _ => (true, value.clone()),
        };
        let item_flags = if joins { old.as_ref().map_or(0, |old| old.flags) } else { flags };
        let status = if is_too_large(key, if joins { 0 } else { flags }, value.len()) {
            3
        } else {
            match (&old, opcode) {
                (Some(old), _) if cas != 0 && !same(old) => 2,
                (Some(_), 0x02) if cas == 0 => 2,
                (None, 0x01..=0x03) if cas != 0 => 1,
                (None, 0x03) => 1,
                _ if !fits || is_too_large(key, item_flags, joined.len()) => 5,
                _ => 0,
            }
        };
        let mut version = None;
        if status == 0 {
            self.versions += 1;
            version = Some(self.versions);
            let expiry = match (&old, joins) {
                (Some(old), true) => old.expiry,
                _ if exptime == 0 => 0,
                _ => self.now_s + exptime,
            };
            let item = Item { flags: item_flags, value: joined, expiry, version: self.versions };
            self.items.insert(key, item);
        } else if status == 3 && opcode == 0x01 {
            self.items.remove(key);
        }
        if status != 0 || !quiet {
            expected.push(self.plain(wire_opcode, status, words(status), version));
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn count(
        &mut self,
        incr: bool,
        quiet: bool,
        numbers: &mut Numbers<'_>,
        key: &'static [u8],
        cas: u64,
        input: &mut Vec<u8>,
        expected: &mut Vec<Reply>,
    ) {
        let (delta, initial) = (u64::from(numbers.next()), u64::from(numbers.next()));
        let create = !numbers.next().is_multiple_of(4);
        let mut extras = [delta.to_be_bytes(), initial.to_be_bytes()].concat();
        extras.extend(if create { [0; 4] } else { [0xff; 4] });
        let opcode = if incr { 0x05 } else { 0x06 } + if quiet { 0x10 } else { 0 };
        self.write(&Request { opcode, extras, key, value: vec![], cas }, input);
        let outcome = match self.items.get(key) {
            Some(item) if item.value.is_empty() => Err(6),
            Some(item) if cas != 0 && self.cas_of.get(&item.version) != Some(&cas) => Err(2),
            Some(item) => {
                match lenient_u64(&item.value).filter(|_| item.value.len() <= self.inline_bytes_max) {
                    Some(old) if incr => Ok((old.wrapping_add(delta), item.clone())),
                    Some(old) => Ok((old.saturating_sub(delta), item.clone())),
                    None => Err(6),
                }
            }
            None if create => Ok((initial, Item { flags: 0, value: vec![], expiry: 0, version: 0 })),
            None => Err(1),
        };
        match outcome {
            Err(status) => expected.push(self.plain(opcode, status, words(status), None)),
            Ok((number, old)) => {
                self.versions += 1;
                let mut value = number.to_string().into_bytes();
                value.resize(value.len().max(old.value.len()), b' ');
                self.items.insert(key, Item { value, version: self.versions, ..old });
                if !quiet {
                    let value = number.to_be_bytes().to_vec();
                    expected.push(self.plain(opcode, 0, value, Some(self.versions)));
                }
            }
        }
    }

    fn plain(&self, opcode: u8, status: u16, value: Vec<u8>, version: Option<u64>) -> Reply {
        Reply::Frame { opcode, opaque: self.opaque, status, extras: vec![], key: vec![], value, version }
    }

    fn write(&self, request: &Request, input: &mut Vec<u8>) {
        let body_len = request.extras.len() + request.key.len() + request.value.len();
        input.extend([0x80, request.opcode]);
        input.extend((request.key.len() as u16).to_be_bytes());
        input.extend([request.extras.len() as u8, 0, 0, 0]);
        input.extend((body_len as u32).to_be_bytes());
        input.extend(self.opaque.to_be_bytes());
        input.extend(request.cas.to_be_bytes());
        input.extend(&request.extras);
        input.extend(request.key);
        input.extend(&request.value);
    }

    /// Takes `reply` off the front of what was sent.
    fn compare<'s>(&mut self, reply: &Reply, sent: &'s [u8]) -> &'s [u8] {
        let Reply::Frame { opcode, opaque, status, extras, key, value, version } = reply else {
            return sent.strip_prefix(ADMIN_REPLY).expect("the door's reply");
        };
        let mut front = vec![0x81, *opcode];
        front.extend((key.len() as u16).to_be_bytes());
        front.extend([extras.len() as u8, 0]);
        front.extend(status.to_be_bytes());
        front.extend(((extras.len() + key.len() + value.len()) as u32).to_be_bytes());
        front.extend(opaque.to_be_bytes());
        let body = [&extras[..], key, value].concat();
        let (head, rest) = sent.split_at(sent.len().min(24));
        let show = |bytes: &[u8]| format!("{}", bytes[..bytes.len().min(200)].escape_ascii());
        assert!(head.starts_with(&front), "expected {}\n     got {}", show(&front), show(sent));
        let cas = head[16..].first_chunk().copied().map(u64::from_be_bytes).expect("a whole header");
        match version {
            None => assert_eq!(cas, 0, "a CAS of nothing"),
            Some(version) => match self.cas_of.get(version) {
                Some(known) => assert_eq!(*known, cas, "an unchanged item has changed its CAS"),
                None => {
                    assert!(cas != 0 && self.seen.insert(cas), "a CAS was given twice");
                    self.cas_of.insert(*version, cas);
                }
            },
        }
        let Some(rest) = rest.strip_prefix(&body[..]) else {
            panic!("expected {}\n     got {}", show(&body), show(rest));
        };
        rest
    }
}

/// Numbers, words, and values on both sides of every limit.
fn value(numbers: &mut Numbers<'_>) -> Vec<u8> {
    let (kind, size) = (numbers.next() % 16, numbers.next());
    let of_len = |len: usize| (0..len).map(|at| (at as u8).wrapping_mul(31) ^ size).collect();
    match kind {
        0..=3 => size.to_string().into_bytes(),
        4 => vec![],
        5 => b"18446744073709551615".to_vec(),
        6..=9 => of_len(usize::from(size)),
        10 => of_len(4000 + usize::from(size)),
        11 => of_len((16 << 10) - 128 + usize::from(size)),
        12 | 13 => of_len(20_000 + 100 * usize::from(size)),
        14 => of_len(ITEM_BYTES_MAX as usize - 200 + usize::from(size)),
        _ => of_len(ITEM_BYTES_MAX as usize - 70 + usize::from(size % 8)),
    }
}

/// As memcached counts it: 48 bytes of its own, CAS, flags, a NUL and a line end.
fn is_too_large(key: &[u8], flags: u32, value_len: usize) -> bool {
    let bytes = 48 + 8 + if flags == 0 { 0 } else { 4 } + key.len() + 1 + value_len + 2;
    bytes as u64 > ITEM_BYTES_MAX
}
