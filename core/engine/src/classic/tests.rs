//! Requests and their replies, as memcached 1.6.45 was seen to give them; and what only the engine has: outputs that
//! fill up, values that are taken back, sessions that end.

use crate::check::Memory;
use crate::{Counters, Engine, Next, OUTPUT_BYTES_MIN, Output, Protocol, Session, Settings};
use std::format;
use std::string::ToString;
use std::vec;
use std::vec::Vec;

const SETTINGS: Settings = Settings { cas: true, flush_enabled: true, protocol: Protocol::Negotiated };

/// Runs `test` with an engine over a new store.
fn with_engine(settings: Settings, test: impl FnOnce(&mut Engine<'_, '_>)) {
    let memory = Memory::new();
    let store = memory.store();
    let counters = Counters::default();
    let mut engine = Engine::new(store.worker(0).expect("a first worker"), settings, &counters);
    engine.now_set(100, 1_700_000_000);
    test(&mut engine);
}

/// Everything that `input` is answered with, and why the engine came back last.
fn ask_in(engine: &mut Engine<'_, '_>, session: &mut Session, input: &[u8], room: usize) -> (Vec<u8>, Next) {
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

fn ask(engine: &mut Engine<'_, '_>, input: &[u8]) -> Vec<u8> {
    let (replies, next) = ask_in(engine, &mut Session::default(), input, OUTPUT_BYTES_MIN);
    assert_eq!(next, Next::Input);
    replies
}

#[track_caller]
fn expect(engine: &mut Engine<'_, '_>, input: &[u8], replies: &[u8]) {
    let got = ask(engine, input);
    assert_eq!(got.escape_ascii().to_string(), replies.escape_ascii().to_string());
}

fn set(key: &str, value: &[u8]) -> Vec<u8> {
    [format!("set {key} 0 0 {}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
}

#[test]
fn numbers_keep_the_length_of_a_longer_value() {
    with_engine(SETTINGS, |engine| {
        expect(
            engine,
            b"set n 0 0 2\r\n10\r\ndecr n 1\r\nget n\r\n",
            b"STORED\r\n9\r\nVALUE n 0 2\r\n9 \r\nEND\r\n",
        );
        expect(engine, b"incr n 95\r\nget n\r\n", b"104\r\nVALUE n 0 3\r\n104\r\nEND\r\n");
        expect(
            engine,
            b"set n 0 0 6\r\n12 abc\r\nincr n 1\r\nget n\r\n",
            b"STORED\r\n13\r\nVALUE n 0 6\r\n13    \r\nEND\r\n",
        );
        expect(engine, b"set n 0 0 20\r\n18446744073709551615\r\nincr n 2\r\n", b"STORED\r\n1\r\n");
        expect(engine, b"decr n 5\r\n", b"0\r\n");
        let refusal = b"STORED\r\nCLIENT_ERROR cannot increment or decrement non-numeric value\r\n";
        for value in [&b"-12"[..], b"", b" ", b"x"] {
            expect(engine, &[&set("n", value)[..], b"incr n 1\r\n"].concat(), refusal);
        }
    });
}

#[test]
fn a_long_key_takes_the_lines_values_back() {
    with_engine(SETTINGS, |engine| {
        let long = [b'k'; 251];
        let refusal = b"CLIENT_ERROR bad command line format\r\n\r\n";
        ask(engine, &set("a", b"1"));
        expect(engine, &[b"get a ", &long[..], b" a\r\n"].concat(), refusal);
        expect(engine, &[b"get ", &long[..], b"\r\n"].concat(), refusal);
        expect(engine, &[b"get ", &long[..], b" noreply\r\nmn\r\n"].concat(), b"\r\nMN\r\n");
        expect(engine, &[b"get a ", &long[..], b" noreply\r\n"].concat(), refusal);
        // Even when the values before it fill many outputs.
        ask(engine, &set("b", &[b'b'; 8000]));
        let keys = b"b ".repeat(100);
        expect(
            engine,
            &[b"get ", &keys[..], &long, b"\r\nmn\r\n"].concat(),
            &[&refusal[..], b"MN\r\n"].concat(),
        );
        // Earlier requests keep their replies.
        expect(
            engine,
            &[b"get a\r\nget ", &long[..], b"\r\n"].concat(),
            b"VALUE a 0 1\r\n1\r\nEND\r\nCLIENT_ERROR bad command line format\r\n\r\n",
        );
    });
}

#[test]
fn a_get_line_of_any_length_is_served() {
    with_engine(SETTINGS, |engine| {
        ask(engine, &[set("a", b"1"), set("z", b"26")].concat());
        let mut line = Vec::from(b"get a");
        (0..20_000).for_each(|key| line.extend(format!(" key_{key}").bytes()));
        line.extend(b" z\r\nmn\r\n");
        let mut session = Session::default();
        let (mut unserved, mut replies) = (Vec::new(), Vec::new());
        let mut buffer = vec![0; OUTPUT_BYTES_MIN];
        let mut held_max = 0;
        for piece in line.chunks(1400) {
            unserved.extend(piece);
            let mut output = Output { bytes: &mut buffer, filled: 0 };
            let served = engine.serve(&mut session, &unserved, &mut output, 20);
            assert_eq!(served.next, Next::Input);
            replies.extend(&output.bytes[..output.filled]);
            unserved.drain(..served.consumed);
            held_max = held_max.max(unserved.len());
        }
        assert_eq!(
            replies.escape_ascii().to_string(),
            b"VALUE a 0 1\r\n1\r\nVALUE z 0 2\r\n26\r\nEND\r\nMN\r\n".escape_ascii().to_string()
        );
        assert!(held_max <= crate::INPUT_BYTES_MIN, "{held_max} bytes were left to the door");
        // A token that never ends is refused long before its line is.
        let (replies, next) =
            ask_in(engine, &mut session, &[b"get ", &[b'k'; 70_000][..]].concat(), OUTPUT_BYTES_MIN);
        assert_eq!((replies.as_slice(), next), (&b""[..], Next::Input));
        let (replies, _) = ask_in(engine, &mut session, b" a\r\nmn\r\n", OUTPUT_BYTES_MIN);
        assert_eq!(replies, b"CLIENT_ERROR bad command line format\r\n\r\nMN\r\n");
    });
}

#[test]
fn a_large_value_arrives_and_leaves_in_pieces() {
    with_engine(SETTINGS, |engine| {
        let value: Vec<u8> = (0..100_000u32).map(|byte| byte as u8).collect();
        let request = set("big", &value);
        let mut session = Session::default();
        for piece in request.chunks(777) {
            let (replies, next) = ask_in(engine, &mut session, piece, OUTPUT_BYTES_MIN);
            // Two bytes that end the value are only looked at together, so that the last piece must hold both.
            assert_eq!(next, Next::Input);
            assert!(replies.is_empty() || replies == b"STORED\r\n");
        }
        assert!(session.is_idle());
        let expected = [b"VALUE big 0 100000\r\n", value.as_slice(), b"\r\nEND\r\n"].concat();
        for room in [OUTPUT_BYTES_MIN, OUTPUT_BYTES_MIN + 1, 50_000, 200_000] {
            assert!(
                ask_in(engine, &mut session, b"get big\r\n", room).0 == expected,
                "with {room} bytes of output"
            );
        }
    });
}

#[test]
fn what_was_not_sent_of_a_large_value_comes_again() {
    with_engine(SETTINGS, |engine| {
        let value: Vec<u8> = (0..100_000u32).map(|byte| byte as u8).collect();
        ask(engine, &set("big", &value));
        let mut session = Session::default();
        let (mut input, mut sent) = (&b"get big nothing big\r\n"[..], Vec::<u8>::new());
        let mut buffer = vec![0; 20_000];
        for refused in (0..).map(|turn| turn * 1237 % 20_000) {
            let mut output = Output { bytes: &mut buffer, filled: 0 };
            let served = engine.serve(&mut session, input, &mut output, 1);
            let filled = output.filled;
            let again = engine.unsend(&mut session, refused.min(filled));
            assert!(again <= refused);
            sent.extend(&buffer[..filled - again]);
            input = &input[served.consumed..];
            if served.next == Next::Input {
                break;
            }
        }
        let one = [b"VALUE big 0 100000\r\n", value.as_slice(), b"\r\n"].concat();
        assert!(sent == [&one[..], &one, b"END\r\n"].concat());
    });
}

#[test]
fn an_ended_session_holds_nothing() {
    with_engine(SETTINGS, |engine| {
        ask(engine, &set("big", &[b'v'; 100_000]));
        let mut sending = Session::default();
        let mut buffer = vec![0; OUTPUT_BYTES_MIN];
        let mut output = Output { bytes: &mut buffer, filled: 0 };
        assert_eq!(engine.serve(&mut sending, b"get big\r\n", &mut output, 1).next, Next::Output);
        assert!(engine.worker().store().gauges().pinned_bytes > 0);
        engine.end(&mut sending);
        assert_eq!(engine.worker().store().gauges().pinned_bytes, 0);
        let mut receiving = Session::default();
        ask_in(engine, &mut receiving, b"set other 0 0 100000\r\nsecret", OUTPUT_BYTES_MIN);
        assert!(!receiving.is_idle());
        engine.end(&mut receiving);
        assert!(receiving.is_idle());
        expect(engine, b"get other\r\n", b"END\r\n");
    });
}

#[test]
fn a_refused_set_removes_what_was_there() {
    with_engine(SETTINGS, |engine| {
        let too_large =
            |verb: &str| [format!("{verb} a 0 0 200000\r\n").as_bytes(), &[b'x'; 200_000], b"\r\n"].concat();
        ask(engine, &set("a", b"1"));
        expect(engine, &too_large("add"), b"SERVER_ERROR object too large for cache\r\n");
        expect(engine, b"get a\r\n", b"VALUE a 0 1\r\n1\r\nEND\r\n");
        expect(engine, &too_large("set"), b"SERVER_ERROR object too large for cache\r\n");
        expect(engine, b"get a\r\n", b"END\r\n");
        assert_eq!(engine.counters().store_too_large.value(), 2);
    });
}

#[test]
fn without_cas_none_is_told_and_none_matches() {
    with_engine(Settings { cas: false, ..SETTINGS }, |engine| {
        ask(engine, &set("a", b"1"));
        expect(engine, b"gets a\r\n", b"VALUE a 0 1 0\r\n1\r\nEND\r\n");
        expect(engine, b"cas a 0 0 1 0\r\nx\r\ncas b 0 0 1 0\r\nx\r\n", b"EXISTS\r\nNOT_FOUND\r\n");
    });
}

#[test]
fn flush_all_can_be_forbidden() {
    with_engine(Settings { flush_enabled: false, ..SETTINGS }, |engine| {
        ask(engine, &set("a", b"1"));
        expect(engine, b"flush_all\r\nflush_all x\r\n", &b"CLIENT_ERROR flush_all not allowed\r\n".repeat(2));
        expect(engine, b"get a\r\n", b"VALUE a 0 1\r\n1\r\nEND\r\n");
        assert_eq!(engine.counters().cmd_flush.value(), 2);
    });
}

#[test]
fn a_limit_makes_the_engine_yield_between_requests() {
    with_engine(SETTINGS, |engine| {
        let mut session = Session::default();
        let input = b"get a\r\n".repeat(50);
        let mut buffer = vec![0; OUTPUT_BYTES_MIN];
        let mut output = Output { bytes: &mut buffer, filled: 0 };
        let served = engine.serve(&mut session, &input, &mut output, 20);
        assert_eq!((served.next, served.requests, served.consumed), (Next::Yield, 20, 20 * 7));
        let served = engine.serve(&mut session, &input[20 * 7..], &mut output, 30);
        assert_eq!((served.next, served.requests, served.consumed), (Next::Input, 30, 30 * 7));
    });
}

#[test]
fn the_door_answers_for_the_operator() {
    with_engine(SETTINGS, |engine| {
        let mut buffer = vec![0; OUTPUT_BYTES_MIN];
        let mut output = Output { bytes: &mut buffer, filled: 0 };
        let served = engine.serve(&mut Session::default(), b"mn\r\nstats items\r\nmn\r\n", &mut output, 20);
        assert_eq!(
            (served.consumed, served.requests, served.next),
            (4, 2, Next::Admin { len: 11, skip: 13 })
        );
        assert_eq!(&output.bytes[..output.filled], b"MN\r\n");
    });
}

#[test]
fn requests_are_counted_as_memcached_counts_them() {
    with_engine(SETTINGS, |engine| {
        let mut before = engine.counters().values();
        let mut counts = |engine: &mut Engine<'_, '_>, input: &[u8]| {
            ask(engine, input);
            let now = engine.counters().values();
            let changed =
                Counters::NAMES.iter().zip(now).zip(before).filter(|((_, now), before)| now != before);
            let changed: Vec<_> =
                changed.map(|((name, now), before)| format!("{name} {}", now - before)).collect();
            before = now;
            changed.join(", ")
        };
        assert_eq!(counts(engine, &set("a", b"1")), "cmd_set 1");
        assert_eq!(counts(engine, b"gat 0 a b\r\n"), "cmd_touch 2, touch_hits 1, touch_misses 1");
        assert_eq!(counts(engine, b"gets a b\r\n"), "cmd_get 2, get_hits 1, get_misses 1");
        assert_eq!(counts(engine, b"touch b 0\r\n"), "cmd_touch 1, touch_misses 1");
        assert_eq!(counts(engine, b"set a 0 0 1\r\nxyz\r\n"), "cmd_set 1");
        assert_eq!(counts(engine, b"set a bad 0 1\r\nx\r\n"), "");
        assert_eq!(counts(engine, b"cas a 0 0 1 0\r\nx\r\n"), "cmd_set 1, cas_badval 1");
        assert_eq!(counts(engine, b"cas b 0 0 1 1\r\nx\r\n"), "cmd_set 1, cas_misses 1");
        assert_eq!(
            counts(engine, b"incr a 1\r\nincr b 1\r\ndecr a 1\r\ndecr b 1\r\n"),
            "incr_misses 1, incr_hits 1, decr_misses 1, decr_hits 1"
        );
        assert_eq!(counts(engine, b"incr a x\r\n"), "");
        assert_eq!(counts(engine, b"delete a\r\ndelete a\r\n"), "delete_misses 1, delete_hits 1");
    });
}

#[test]
fn a_session_is_small() {
    assert!(size_of::<Session>() <= 512, "{}", size_of::<Session>());
}
