//! `stat` of the binary protocol: the lines of `stats`, each as a frame, and an empty one behind the last.
//!
//! All groups that the text protocol has are served, also those that 1.6.45 keeps from binary clients.

use super::{Asker, general, stats};
use crate::shared::Shared;
use unbuckle_wire::binary::{Frame, Framing, Parts, REPLY_BYTES_MAX, Status, frame, write_reply};

/// Answers the `stat` request in `bytes`, which the engine has found to be whole and well-formed.
pub(super) fn stat(bytes: &[u8], shared: &Shared<'_>, now_s: u32, reply: &mut Vec<u8>) {
    let Framing::Frame(request) = frame(bytes) else { return };
    let mut lines = Vec::new();
    let mut group = |arguments: &[&[u8]]| lines_of(arguments, shared, now_s, &mut lines);
    match request.key {
        key if key.starts_with(b"reset") => general::reset(shared),
        key if key.starts_with(b"settings") => group(&[b"settings"]),
        key if key.starts_with(b"detail") => return detail(&request, shared, now_s, reply),
        b"" => group(&[]),
        key if key.contains(&b' ') => return put_error(&request, reply),
        key => group(&[key]),
    }
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match name_and_value(line) {
            Some((name, value)) => put(&request, Parts { key: name, value, ..Parts::default() }, reply),
            None if line == b"END" => {}
            // No such group, or nothing that has names and values.
            None => return put_error(&request, reply),
        }
    }
    put(&request, Parts::default(), reply);
}

/// What the text protocol answers. Dumps are not made for frames: they are errors here.
fn lines_of(arguments: &[&[u8]], shared: &Shared<'_>, now_s: u32, lines: &mut Vec<u8>) {
    let asker = Asker { now_s, worker: None, replies_wait: false };
    if let Ok(last) = stats(arguments, shared, &asker, lines) {
        lines.extend_from_slice(last);
        lines.extend_from_slice(b"\r\n");
    }
}

/// Per-prefix statistics are one value.
fn detail(request: &Frame<'_>, shared: &Shared<'_>, now_s: u32, reply: &mut Vec<u8>) {
    let mut text = Vec::new();
    let topic = request.key.strip_prefix(b"detail ").unwrap_or_default();
    let topic: &[u8] = match topic {
        [b'd', b'u', b'm', b'p', ..] => b"dump",
        [b'o', b'n', ..] => b"on",
        [b'o', b'f', b'f', ..] => b"off",
        _ => return put_error(request, reply),
    };
    lines_of(&[b"detail", topic], shared, now_s, &mut text);
    if text.starts_with(b"CLIENT_ERROR") || text.starts_with(b"SERVER_ERROR") {
        return put_error(request, reply);
    }
    if topic == b"dump" {
        put(request, Parts { key: b"detailed", value: &text, ..Parts::default() }, reply);
    }
    put(request, Parts::default(), reply);
}

fn name_and_value(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = line.strip_prefix(b"STAT ")?;
    let (name, value) = rest.split_at_checked(rest.iter().position(|byte| *byte == b' ')?)?;
    Some((name, value.strip_prefix(b" ").unwrap_or(value)))
}

fn put_error(request: &Frame<'_>, reply: &mut Vec<u8>) {
    reply.clear();
    put_status(request, Status::NotFound, Parts::value(Status::NotFound.text()), reply);
}

fn put(request: &Frame<'_>, parts: Parts<'_>, reply: &mut Vec<u8>) {
    put_status(request, Status::Ok, parts, reply);
}

fn put_status(request: &Frame<'_>, status: Status, parts: Parts<'_>, reply: &mut Vec<u8>) {
    let start = reply.len();
    reply.resize(start + REPLY_BYTES_MAX + parts.key.len() + parts.value.len(), 0);
    let written = write_reply(&mut reply[start..], &request.header, status, parts, 0).unwrap_or(0);
    reply.truncate(start + written);
}
