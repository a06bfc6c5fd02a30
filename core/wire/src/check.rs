//! What the fuzz target checks, and what plain `cargo test` replays over its corpus: one function for both.

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

#[cfg(test)]
mod tests {
    use std::fs;

    #[test]
    fn the_corpus_replays() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/wire_text");
        let mut replayed = 0;
        for entry in fs::read_dir(corpus).expect("the corpus is part of the tree") {
            super::wire_text(&fs::read(entry.expect("readable").path()).expect("readable"));
            replayed += 1;
        }
        assert!(replayed >= 5, "only {replayed} files in the corpus");
    }
}
