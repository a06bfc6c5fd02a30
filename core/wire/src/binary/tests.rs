//! Frames as memcached 1.6.45 was seen to take and give them.

use super::*;
use std::vec::Vec;

fn request(opcode: u8, extras: &[u8], key: &[u8], value: &[u8], cas: u64) -> Vec<u8> {
    let mut bytes = Vec::from([REQUEST_MAGIC, opcode]);
    bytes.extend((key.len() as u16).to_be_bytes());
    bytes.extend([extras.len() as u8, 0, 0, 0]);
    bytes.extend(((extras.len() + key.len() + value.len()) as u32).to_be_bytes());
    bytes.extend(*b"opaq");
    bytes.extend(cas.to_be_bytes());
    [&bytes[..], extras, key, value].concat()
}

fn asked(bytes: &[u8]) -> Command<'_> {
    let Framing::Frame(frame) = frame(bytes) else { panic!("no frame") };
    assert_eq!(check_lengths(&frame.header), Ok(()));
    decode(&frame)
}

#[test]
fn a_front_is_waited_for() {
    let bytes = request(opcode::SET, &[0; 8], b"key", b"value", 7);
    for len in 0..35 {
        assert_eq!(frame(&bytes[..len]), Framing::Partial, "{len} bytes");
    }
    let Framing::Frame(frame) = frame(&bytes[..35]) else { panic!("no frame") };
    assert_eq!((frame.front_len(), frame.value_len(), frame.header.cas), (35, 5, 7));
    assert_eq!(super::frame(&[b'g'; 24]), Framing::Foreign);
}

#[test]
fn a_front_that_no_request_has_is_not_waited_for() {
    let mut bytes = request(opcode::GET, b"", b"", b"", 0);
    bytes[2..4].copy_from_slice(&[0xff; 2]);
    bytes[8..12].copy_from_slice(&[0, 1, 0, 0]);
    assert_eq!(asked(&bytes), Command::Malformed(Status::InvalidArguments));
}

#[test]
fn lengths_must_fit() {
    let mut bytes = request(opcode::GET, b"", b"abc", b"", 0);
    let lengths = |bytes: &[u8]| match frame(bytes) {
        Framing::Frame(frame) => check_lengths(&frame.header),
        other => panic!("{other:?}"),
    };
    assert_eq!(lengths(&bytes), Ok(()));
    bytes[11] = 2;
    assert_eq!(lengths(&bytes), Err(Status::UnknownCommand));
    bytes[8..12].copy_from_slice(&[0x40, 0, 0, 1]);
    assert_eq!(lengths(&bytes), Err(Status::InvalidArguments));
}

#[test]
fn each_command_wants_its_own_extras() {
    let malformed = Command::Malformed(Status::InvalidArguments);
    let get = request(opcode::GET, b"", b"k", b"", 0);
    assert_eq!(asked(&get), Command::Get { key: b"k", touch: None });
    assert_eq!(asked(&request(opcode::GET, b"", b"k", b"v", 0)), malformed);
    assert_eq!(asked(&request(opcode::GET, b"", b"", b"", 0)), malformed);
    assert_eq!(asked(&request(opcode::GET, b"x", b"k", b"", 0)), malformed);
    let touch = request(opcode::TOUCH, &[0, 0, 1, 0], b"k", b"", 0);
    assert_eq!(asked(&touch), Command::Touch { key: b"k", exptime: 256 });
    assert_eq!(asked(&request(opcode::TOUCH, b"", b"k", b"", 0)), malformed);
    // What stood behind the key could be taken for a request: 1.6.45 does.
    assert_eq!(asked(&request(opcode::TOUCH, &[0; 4], b"k", &get, 0)), malformed);
    assert_eq!(asked(&request(opcode::STAT, b"", b"items", &get, 0)), malformed);
    assert_eq!(asked(&request(opcode::SET, &[0; 4], b"k", b"", 0)), malformed);
    assert_eq!(asked(&request(opcode::APPEND, &[0; 8], b"k", b"", 0)), malformed);
    assert_eq!(
        asked(&request(opcode::FLUSH, &[0, 0, 0, 9], b"", b"", 0)),
        Command::Flush { delay: 9, quiet: false }
    );
    assert_eq!(asked(&request(opcode::FLUSH, &[0; 5], b"", b"", 0)), malformed);
    assert_eq!(asked(&request(opcode::NOOP, b"", b"k", b"", 0)), malformed);
    assert_eq!(asked(&request(0x1b, &[0; 4], b"", b"", 0)), Command::Unknown);
}

#[test]
fn an_increment_may_forbid_creation() {
    let mut extras = [0; 20];
    extras[7] = 3;
    extras[15] = 4;
    let bytes = request(opcode::DECREMENT_QUIET, &extras, b"k", b"", 0);
    let expected = Arithmetic { incr: false, key: b"k", delta: 3, initial: 4, exptime: Some(0), quiet: true };
    assert_eq!(asked(&bytes), Command::Arithmetic(expected));
    extras[16..].fill(0xff);
    let bytes = request(opcode::DECREMENT_QUIET, &extras, b"k", b"", 0);
    assert_eq!(asked(&bytes), Command::Arithmetic(Arithmetic { exptime: None, ..expected }));
}

#[test]
fn the_hot_path_sees_what_the_other_sees() {
    for (opcode, with_key, quiet) in
        [(0x00, false, false), (0x09, false, true), (0x0c, true, false), (0x0d, true, true)]
    {
        let bytes = request(opcode, b"", b"key", b"", 0);
        let plain = plain_get(&bytes).expect("a plain get");
        assert_eq!((plain.key, plain.total), (&b"key"[..], 27));
        assert_eq!((plain.form.with_key(), plain.form.quiet()), (with_key, quiet));
        assert_eq!(asked(&bytes), Command::Get { key: b"key", touch: None });
    }
    assert_eq!(plain_get(&request(0x00, b"", b"", b"", 0)), None);
    assert_eq!(plain_get(&request(0x00, b"", &[b'k'; 251], b"", 0)), None);
    assert_eq!(plain_get(&request(0x01, b"", b"key", b"", 0)), None);
}

#[test]
fn replies_are_laid_out_as_documented() {
    let mut out = [0; 64];
    let form = GetForm { opcode: 0x0c, opaque: *b"opaq" };
    let len = value_front(&mut out, form, b"key", 0xdead_beef, 5, 0x0102).expect("fits");
    assert_eq!(out[..len], *b"\x81\x0c\0\x03\x04\0\0\0\0\0\0\x0copaq\0\0\0\0\0\0\x01\x02\xde\xad\xbe\xefkey");
    let Framing::Frame(frame) = frame(b"\x80\0\0\0\0\0\0\0\0\0\0\0opaq\0\0\0\0\0\0\0\0") else {
        panic!("no frame")
    };
    let not_found = Status::NotFound;
    let parts = Parts::value(not_found.text());
    let len = write_reply(&mut out, &frame.header, not_found, parts, 0).expect("fits");
    assert_eq!(out[..len], *b"\x81\0\0\0\0\0\0\x01\0\0\0\x09opaq\0\0\0\0\0\0\0\0Not found");
    assert_eq!(write_reply(&mut [0; 32], &frame.header, not_found, parts, 0), None);
}
