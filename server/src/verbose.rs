//! What `-vv` and `verbosity 2` tell on standard error, in memcached's words: size classes, connections, requests as they
//! come and the first line of each reply. For people who look on; it takes a system call a line.

use crate::admin::Classes;
use crate::options::Protocol;
use std::io::Write;

/// Verbosity from which requests and connections are told.
pub(crate) const REQUESTS: u32 = 2;
/// More of a line than this helps nobody.
const LINE_BYTES_MAX: usize = 1024;

/// Standard error may be closed: then nobody looks on.
fn tell(text: &[u8]) {
    let _ = std::io::stderr().write_all(text);
}

pub(crate) fn classes(classes: &Classes) {
    for (class, bytes) in classes.iter() {
        let per_page = (1u32 << 20) / bytes.max(1);
        tell(format!("slab class {class:3}: chunk size {bytes:9} perslab {per_page:7}\n").as_bytes());
    }
}

pub(crate) fn listening(descriptor: i32, protocol: Protocol) {
    tell(format!("<{descriptor} server listening ({})\n", protocol.name()).as_bytes());
}

pub(crate) fn connected(descriptor: i32, protocol: Protocol) {
    let line = match protocol {
        Protocol::Auto => format!("<{descriptor} new auto-negotiating client connection\n"),
        _ => format!("<{descriptor} new {} client connection.\n", protocol.name()),
    };
    tell(line.as_bytes());
}

pub(crate) fn closed(descriptor: i32) {
    tell(format!("<{descriptor} connection closed.\n").as_bytes());
}

/// The request at the front of `input`, if it is a line: binary ones are not told, as a password may be in them.
pub(crate) fn request(descriptor: i32, input: &[u8]) {
    const BINARY_MAGIC: u8 = 0x80;
    if input.first() != Some(&BINARY_MAGIC)
        && let Some(line) = first_line(input)
    {
        tell(&told(b'<', descriptor, b"", line));
    }
}

/// The first line of `reply`, or whose value it is.
pub(crate) fn reply(descriptor: i32, reply: &[u8]) {
    let Some(line) = first_line(reply) else { return };
    match line.strip_prefix(b"VALUE ").and_then(|rest| rest.split(|byte| *byte == b' ').next()) {
        Some(key) => tell(&told(b'>', descriptor, b"sending key ", key)),
        None => tell(&told(b'>', descriptor, b"", line)),
    }
}

fn first_line(text: &[u8]) -> Option<&[u8]> {
    let line = text.get(..text.iter().position(|byte| *byte == b'\n')?)?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    Some(line.get(..LINE_BYTES_MAX).unwrap_or(line))
}

/// A line of the log. What a client sends may not steer the terminal of who reads it.
fn told(direction: u8, descriptor: i32, what: &[u8], text: &[u8]) -> Vec<u8> {
    let mut line = vec![direction];
    line.extend_from_slice(format!("{descriptor} ").as_bytes());
    line.extend_from_slice(what);
    line.extend(text.iter().map(|&byte| if byte.is_ascii_control() { b'?' } else { byte }));
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_harmless() {
        assert_eq!(told(b'<', 7, b"", b"get \x1b[2Ja"), b"<7 get ?[2Ja\n");
        assert_eq!(first_line(b"get a\r\nget b\r\n"), Some(&b"get a"[..]));
        assert_eq!(first_line(b"get a"), None);
        assert_eq!(first_line(&[&[b'a'; 3000][..], b"\n"].concat()).map(<[u8]>::len), Some(LINE_BYTES_MAX));
    }
}
