//! What only the engine has: outputs that fill up, values that come and go in pieces, sessions that end, gates. Requests and their
//! replies are in the conformance suite, and in the model of `check/binary.rs`.

use crate::check::Memory;
use crate::{Admission, Counters, Engine, Gate, Next, OUTPUT_BYTES_MIN, Output, Protocol, Session, Settings};
use std::string::ToString;
use std::vec;
use std::vec::Vec;

#[derive(Debug)]
struct OneUser;

/// A source from which nothing is heard.
const KNOWN_FOR_WRONG: u64 = 13;

impl Gate for OneUser {
    fn admits(&self, source: u64, user: &[u8], password: &[u8]) -> Admission {
        match (source, user, password) {
            (KNOWN_FOR_WRONG, ..) => Admission::Unheard,
            (_, b"foo", b"bar") => Admission::Admitted,
            _ => Admission::Wrong,
        }
    }
}

fn with_engine(settings: Settings, gate: Option<&'static dyn Gate>, test: impl FnOnce(Engine<'_, '_>)) {
    let memory = Memory::new();
    let store = memory.store();
    let counters = Counters::default();
    let mut engine = Engine::new(store.worker(0).expect("a first worker"), settings, &counters);
    engine.now_set(100, 1_700_000_000);
    test(match gate {
        Some(gate) => engine.guarded(gate),
        None => engine,
    });
}

fn frame(opcode: u8, extras: &[u8], key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = [0; 24];
    bytes[..2].copy_from_slice(&[0x80, opcode]);
    bytes[2..4].copy_from_slice(&(key.len() as u16).to_be_bytes());
    bytes[4] = extras.len() as u8;
    bytes[8..12].copy_from_slice(&((extras.len() + key.len() + value.len()) as u32).to_be_bytes());
    [&bytes[..], extras, key, value].concat()
}

fn set(key: &[u8], value: &[u8]) -> Vec<u8> {
    frame(0x01, &[0; 8], key, value)
}

/// Everything that `input` is answered with, and why the engine came back last.
fn ask(engine: &mut Engine<'_, '_>, session: &mut Session, input: &[u8], room: usize) -> (Vec<u8>, Next) {
    let (mut rest, mut replies) = (input, Vec::new());
    let mut buffer = vec![0; room];
    loop {
        let mut output = Output { bytes: &mut buffer, filled: 0 };
        let served = engine.serve(session, rest, &mut output, u32::MAX);
        replies.extend(&output.bytes[..output.filled]);
        rest = &rest[served.consumed..];
        if served.next != Next::Output {
            return (replies, served.next);
        }
    }
}

/// The status of each reply.
fn statuses(mut replies: &[u8]) -> Vec<u16> {
    let mut statuses = Vec::new();
    while let Some((header, rest)) = replies.split_first_chunk::<24>() {
        statuses.push(u16::from_be_bytes([header[6], header[7]]));
        let body_len = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
        replies = &rest[body_len as usize..];
    }
    statuses
}

#[test]
fn a_large_value_arrives_and_leaves_in_pieces() {
    with_engine(Settings::default(), None, |mut engine| {
        let value: Vec<u8> = (0..100_000u32).map(|byte| byte as u8).collect();
        let mut session = Session::default();
        let mut replies = Vec::new();
        for piece in [set(b"big", &value), frame(0x0a, b"", b"", b"")].concat().chunks(777) {
            // The door keeps what was not consumed; here, only a front is ever left, and it comes in one piece.
            let (reply, next) = ask(&mut engine, &mut session, piece, OUTPUT_BYTES_MIN);
            assert_eq!(next, Next::Input);
            replies.extend(reply);
        }
        assert_eq!(statuses(&replies), [0, 0]);
        for room in [OUTPUT_BYTES_MIN, OUTPUT_BYTES_MIN + 1, 50_000, 200_000] {
            let get = frame(0x0c, b"", b"big", b"").repeat(2);
            let (replies, _) = ask(&mut engine, &mut session, &get, room);
            assert_eq!(replies.len(), 2 * (24 + 4 + 3 + value.len()), "with {room} bytes of output");
            assert!(replies.ends_with(&value) && replies[31..].starts_with(&value));
        }
    });
}

#[test]
fn what_was_not_sent_of_a_large_value_comes_again() {
    with_engine(Settings::default(), None, |mut engine| {
        let value: Vec<u8> = (0..100_000u32).map(|byte| byte as u8).collect();
        let mut session = Session::default();
        ask(&mut engine, &mut session, &set(b"big", &value), OUTPUT_BYTES_MIN);
        let input = [frame(0x00, b"", b"big", b""), frame(0x09, b"", b"no", b""), frame(0x0a, b"", b"", b"")]
            .concat();
        let (mut rest, mut sent) = (&input[..], Vec::<u8>::new());
        let mut buffer = vec![0; 20_000];
        for refused in (0..).map(|turn| turn * 1237 % 20_000) {
            let mut output = Output { bytes: &mut buffer, filled: 0 };
            let served = engine.serve(&mut session, rest, &mut output, 1);
            let filled = output.filled;
            let again = engine.unsend(&mut session, refused.min(filled));
            sent.extend(&buffer[..filled - again]);
            rest = &rest[served.consumed..];
            if served.next == Next::Input {
                break;
            }
        }
        assert_eq!(statuses(&sent), [0, 0]);
        assert!(sent[28..].starts_with(&value));
    });
}

#[test]
fn an_ended_session_holds_nothing() {
    with_engine(Settings::default(), None, |mut engine| {
        let mut session = Session::default();
        ask(&mut engine, &mut session, &set(b"big", &[b'v'; 100_000]), OUTPUT_BYTES_MIN);
        let mut buffer = vec![0; OUTPUT_BYTES_MIN];
        let mut output = Output { bytes: &mut buffer, filled: 0 };
        let get = frame(0x00, b"", b"big", b"");
        assert_eq!(engine.serve(&mut session, &get, &mut output, 1).next, Next::Output);
        assert!(engine.worker().store().gauges().pinned_bytes > 0);
        engine.end(&mut session);
        assert_eq!(engine.worker().store().gauges().pinned_bytes, 0);
        let request = set(b"other", &[b'v'; 100_000]);
        ask(&mut engine, &mut session, &request[..5000], OUTPUT_BYTES_MIN);
        assert!(!session.is_idle());
        engine.end(&mut session);
        // The next connection in its place may speak the other protocol.
        assert!(session.is_idle() && !session.is_binary());
        let (reply, _) = ask(&mut engine, &mut session, b"get other\r\n", OUTPUT_BYTES_MIN);
        assert_eq!(reply, b"END\r\n");
    });
}

#[test]
fn a_limit_makes_the_engine_yield_between_frames() {
    with_engine(Settings::default(), None, |mut engine| {
        let mut session = Session::default();
        let input = frame(0x09, b"", b"a", b"").repeat(50);
        let mut buffer = vec![0; OUTPUT_BYTES_MIN];
        let mut output = Output { bytes: &mut buffer, filled: 0 };
        let served = engine.serve(&mut session, &input, &mut output, 20);
        assert_eq!((served.next, served.requests, served.consumed), (Next::Yield, 20, 20 * 25));
        let served = engine.serve(&mut session, &input[20 * 25..], &mut output, 30);
        assert_eq!((served.next, served.requests, served.consumed), (Next::Input, 30, 30 * 25));
    });
}

#[test]
fn the_door_answers_for_statistics() {
    with_engine(Settings::default(), None, |mut engine| {
        let (mut session, mut buffer) = (Session::default(), vec![0; OUTPUT_BYTES_MIN]);
        let mut output = Output { bytes: &mut buffer, filled: 0 };
        let input = [frame(0x0a, b"", b"", b""), frame(0x10, b"", b"items", b"")].concat();
        let served = engine.serve(&mut session, &input, &mut output, 20);
        assert_eq!((served.consumed, served.next), (24, Next::Admin { len: 29, skip: 29 }));
    });
}

#[test]
fn a_protocol_can_be_fixed() {
    let text = Settings { protocol: Protocol::Text, ..Settings::default() };
    with_engine(text, None, |mut engine| {
        let (replies, _) = ask(&mut engine, &mut Session::default(), b"\x80\r\n", OUTPUT_BYTES_MIN);
        assert_eq!(replies, b"CLIENT_ERROR bad command line format\r\n");
    });
    let binary = Settings { protocol: Protocol::Binary, ..Settings::default() };
    with_engine(binary, None, |mut engine| {
        let (replies, next) = ask(&mut engine, &mut Session::default(), &[b'g'; 24], OUTPUT_BYTES_MIN);
        assert_eq!((replies.as_slice(), next), (&b""[..], Next::Close));
    });
}

#[test]
fn a_gate_is_asked_and_attempts_are_counted() {
    with_engine(Settings::default(), Some(&OneUser), |mut engine| {
        let auth = |value: &[u8]| frame(0x21, b"", b"PLAIN", value);
        let mut session = Session::default();
        let (replies, next) = ask(&mut engine, &mut session, &frame(0x0a, b"", b"", b""), OUTPUT_BYTES_MIN);
        assert_eq!((statuses(&replies), next), (vec![0x20], Next::Close));
        let mut session = Session::default();
        let input =
            [auth(b"\0foo\0baz"), auth(b""), auth(b"\0foo\0bar"), frame(0x0a, b"", b"", b"")].concat();
        let (replies, next) = ask(&mut engine, &mut session, &input, OUTPUT_BYTES_MIN);
        assert_eq!((statuses(&replies), next), (vec![0x20, 0x21, 0, 0], Next::Input));
        let mut session = Session::default();
        let input = b"get a\r\nset a 0 0 7\r\nfoo bar\r\nmn\r\n";
        let (replies, _) = ask(&mut engine, &mut session, input, OUTPUT_BYTES_MIN);
        let expected = "CLIENT_ERROR unauthenticated\\r\\nSTORED\\r\\nMN\\r\\n";
        assert_eq!(replies.escape_ascii().to_string(), expected);
        let counters = engine.counters();
        assert_eq!((counters.auth_cmds.value(), counters.auth_errors.value()), (3, 1));
    });
}

#[test]
fn guesses_are_bounded() {
    with_engine(Settings::default(), Some(&OneUser), |mut engine| {
        let input = b"set a 0 0 7\r\nfoo baz\r\n".repeat(100);
        let (_, next) = ask(&mut engine, &mut Session::default(), &input, OUTPUT_BYTES_MIN);
        assert_eq!((next, engine.counters().auth_errors.value()), (Next::Close, 16));
    });
}

#[test]
fn who_is_not_heard_is_closed_even_with_the_right_password() {
    with_engine(Settings::default(), Some(&OneUser), |mut engine| {
        let mut session = Session::speaking(Protocol::Text).from(KNOWN_FOR_WRONG);
        let (replies, next) =
            ask(&mut engine, &mut session, b"set a 0 0 7\r\nfoo bar\r\nmn\r\n", OUTPUT_BYTES_MIN);
        assert_eq!(replies, b"CLIENT_ERROR authentication failure\r\n");
        assert_eq!((next, engine.counters().auth_errors.value()), (Next::Close, 1));
        let mut session = Session::speaking(Protocol::Binary).from(KNOWN_FOR_WRONG);
        let input = frame(0x21, b"", b"PLAIN", b"\0foo\0bar");
        let (replies, next) = ask(&mut engine, &mut session, &input, OUTPUT_BYTES_MIN);
        assert_eq!((statuses(&replies), next), (vec![0x20], Next::Close));
    });
}
