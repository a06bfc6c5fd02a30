//! What the fuzz targets check, and what plain `cargo test` replays over their corpora: one function for both.

use crate::binary;
use crate::meta::{self, Flags, Reply, Request, Set};
use crate::text::{Command, Framing, Line, decode, frame};

/// Frames and decodes every line of `input`, and checks that the outcome does not depend on how much of the input
/// was there: a prefix gives the same line or none at all.
///
/// # Panics
/// When a promise of [`crate::text`] is broken.
pub fn wire_text(input: &[u8]) {
    let mut rest = input;
    while let Framing::Line(line) = frame(rest) {
        check_line(rest, &line);
        rest = &rest[line.total..];
    }
}

fn check_line(input: &[u8], line: &Line<'_>) {
    assert!(line.total >= 1 && line.total <= input.len());
    assert_eq!(input[line.total - 1], b'\n');
    assert_eq!(&input[..line.text.len()], line.text);
    assert!(!line.text.contains(&b'\n'));
    check_command(line, &decode(line));
    // Cut anywhere before its end, the line is not yet one; cut anywhere after it, it is the same.
    let step = (line.total / 16).max(1);
    for cut in (0..line.total).step_by(step) {
        assert!(!matches!(frame(&input[..cut]), Framing::Line(_)), "a line was seen before its end");
    }
    assert_eq!(frame(&input[..line.total]), Framing::Line(*line));
}

fn check_command(line: &Line<'_>, command: &Command<'_>) {
    let within = |part: &[u8]| {
        let line = line.text.as_ptr_range();
        let part = part.as_ptr_range();
        assert!(line.start <= part.start && part.end <= line.end, "a part lies outside its line");
    };
    let key = |key: &[u8]| {
        within(key);
        assert!((1..=crate::KEY_BYTES_MAX).contains(&key.len()) && !key.contains(&b' '));
    };
    match command {
        Command::Get { keys, .. } | Command::GetAndTouch { keys, .. } => {
            within(keys);
            assert!(keys.first().is_some_and(|byte| *byte != b' '));
        }
        Command::Store(store) => {
            key(store.key);
            assert!(store.value_len < i32::MAX as u32 - 1);
        }
        Command::StoreRefused { block_len, .. } => assert!((2..=i32::MAX as u32).contains(block_len)),
        Command::Arithmetic { key: bytes, .. }
        | Command::Delete { key: bytes, .. }
        | Command::Touch { key: bytes, .. } => {
            key(bytes);
        }
        Command::Refused { reply, .. } => assert!(reply.ends_with(b"\r\n")),
        _ => (),
    }
}

/// Decodes what follows a meta command in every way, and checks what the engine relies on: limits of keys, each flag
/// once, the hot path's decoder agreeing with the whole one, and that any reply to it fits.
///
/// # Panics
/// When a promise of [`crate::meta`] is broken.
pub fn wire_meta(input: &[u8]) {
    for line in input.split(|byte| *byte == b'\n') {
        let decoded = meta::decode(line);
        if let Ok(request) = &decoded {
            check_request(request);
        }
        if let Some((key, flags)) = crate::text::token(line)
            && key.len() <= crate::KEY_BYTES_MAX
            && let Some(flags) = Flags::plain(flags)
        {
            assert_eq!(decoded, Ok(Request::plain(key, flags)), "{}", line.escape_ascii());
        }
        match meta::decode_set(line) {
            Set::Request { value_len, request } => {
                assert!(value_len < 0x7fff_fffe);
                check_request(&request);
            }
            Set::Refused { value_len, reply } => assert!(value_len < 0x7fff_fffe && reply.ends_with(b"\r\n")),
            Set::Malformed => (),
        }
        if let Ok((key, binary)) = meta::decode_debug(line) {
            check_key(key, binary);
        }
    }
}

fn check_request(request: &Request<'_>) {
    check_key(request.key, request.key_binary);
    let letters: std::vec::Vec<u8> = request.flags.iter().map(|(letter, _)| letter).collect();
    assert!(letters.len() <= 18);
    for (at, letter) in letters.iter().enumerate() {
        assert!(request.flags.has(*letter) && !letters[..at].contains(letter));
    }
    if request.has_long_opaque() {
        return;
    }
    let mut out = [0; meta::REPLY_BYTES_MAX];
    let mut reply = Reply::value(&mut out, u64::MAX);
    for (letter, token) in request.flags.iter() {
        match letter {
            b'O' => reply.repeat(token),
            b'k' => reply.key(request.key, request.key_binary),
            b's' | b't' | b'c' | b'f' | b'l' | b'h' => reply.number(letter, u64::MAX),
            _ => (),
        }
    }
    b"WXZ".iter().for_each(|letter| reply.flag(*letter));
    let len = reply.finish().expect("every reply fits");
    assert!(out[..len].ends_with(b"\r\n"));
}

fn check_key(key: &[u8], binary: bool) {
    assert!((1..=crate::KEY_BYTES_MAX).contains(&key.len()) && !key.contains(&b' '));
    if binary {
        let mut decoded = [0; crate::KEY_BYTES_MAX];
        let len = crate::base64::decode(key, &mut decoded).expect("checked when the flag was read");
        let text: std::vec::Vec<u8> = decoded[..len].chunks(3).flat_map(crate::base64::encode).collect();
        let mut again = [0; crate::KEY_BYTES_MAX];
        assert_eq!(crate::base64::decode(&text, &mut again), Some(len));
        assert_eq!(again, decoded);
    }
}

/// Takes frames off `input`, and checks that what is seen of each does not depend on how much of the input was there, that
/// the hot path sees what the other sees, and that every reply's header says how long it is.
///
/// # Panics
/// When a promise of [`crate::binary`] is broken.
pub fn wire_binary(input: &[u8]) {
    let mut rest = input;
    while let binary::Framing::Frame(frame) = binary::frame(rest) {
        check_frame(rest, &frame);
        let whole = frame.front_len().saturating_add(frame.value_len() as usize);
        let Some(behind) = rest.get(whole..).filter(|_| binary::check_lengths(&frame.header).is_ok()) else {
            return;
        };
        rest = behind;
    }
}

fn check_frame(input: &[u8], frame: &binary::Frame<'_>) {
    let front = frame.front_len().min(input.len());
    for cut in 0..front {
        assert!(matches!(binary::frame(&input[..cut]), binary::Framing::Partial | binary::Framing::Frame(_)));
        assert_eq!(binary::plain_get(&input[..cut]), None, "a get was seen before its end");
    }
    assert_eq!(binary::frame(&input[..front]), binary::Framing::Frame(*frame));
    if binary::check_lengths(&frame.header).is_err() {
        return;
    }
    let command = binary::decode(frame);
    let plain = binary::plain_get(input);
    let is_plain = matches!(command, binary::Command::Get { touch: None, .. });
    assert_eq!(plain.is_some(), is_plain, "the hot path and the other see different requests");
    if let (Some(plain), binary::Command::Get { key, .. }) = (plain, command) {
        assert_eq!((plain.key, plain.total), (key, frame.front_len()));
        assert_eq!((plain.form.opcode, plain.form.opaque), (frame.header.opcode, frame.header.opaque));
    }
    let mut out = [0; 1024];
    let parts = binary::Parts { extras: frame.extras, key: frame.key, value: b"value" };
    let written = binary::write_reply(&mut out, &frame.header, binary::Status::Ok, parts, frame.header.cas);
    if let Some(written) = written {
        assert_eq!(out[16..24], input[16..24], "the CAS comes back as it was");
        assert_eq!(out[12..16], input[12..16], "the opaque comes back as it was");
        let body_len = u32::from_be_bytes([out[8], out[9], out[10], out[11]]);
        assert_eq!(written, binary::HEADER_BYTES + body_len as usize);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    fn replay(corpus: &str, check: fn(&[u8])) {
        let mut replayed = 0;
        for entry in fs::read_dir(corpus).expect("the corpus is part of the tree") {
            check(&fs::read(entry.expect("readable").path()).expect("readable"));
            replayed += 1;
        }
        assert!(replayed >= 5, "only {replayed} files in the corpus");
    }

    #[test]
    fn the_corpora_replay() {
        replay(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/wire_text"), super::wire_text);
        replay(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/wire_meta"), super::wire_meta);
        replay(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/wire_binary"), super::wire_binary);
    }
}
