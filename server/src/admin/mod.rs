//! Administrative commands: what they are answered, byte for byte as memcached 1.6.45 answers them.
//!
//! These are the lines that the engine hands to its door: statistics, settings that can be changed while running, and
//! shutdown. They may allocate; they are not on the path of a request for an item. What belongs to a later version is
//! answered with `SERVER_ERROR ... not supported yet`, malformed or not allowed with memcached's own error.

mod classes;
mod conns;
mod controls;
mod frames;
mod general;
mod settings;

pub(crate) use classes::Classes;

use crate::shared::Shared;
use std::fmt::Display;
use std::io::Write;
use std::sync::atomic::Ordering;
use unbuckle_wire::binary::REQUEST_MAGIC;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Whatever is in the reply is to be sent.
    Replied,
    Close,
}

/// More words than any command has; what follows is ignored, as memcached ignores it.
const WORDS_MAX: usize = 24;

/// Answers `line` (without its line end) into `reply`; or a binary frame.
pub(crate) fn answer(line: &[u8], shared: &Shared<'_>, now_s: u32, reply: &mut Vec<u8>) -> Outcome {
    if line.first() == Some(&REQUEST_MAGIC) {
        frames::stat(line, shared, now_s, reply);
        return Outcome::Replied;
    }
    let words: Vec<&[u8]> =
        line.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).take(WORDS_MAX).collect();
    let Some((command, arguments)) = words.split_first() else {
        reply.extend_from_slice(b"ERROR\r\n");
        return Outcome::Replied;
    };
    let silent = match *command {
        b"slabs" | b"lru" | b"lru_crawler" | b"verbosity" | b"cache_memlimit" => {
            arguments.last().is_some_and(|last| *last == b"noreply")
        }
        _ => false,
    };
    let text: &[u8] = match *command {
        b"stats" => {
            stats(arguments, shared, now_s, reply);
            return Outcome::Replied;
        }
        b"shutdown" => match controls::shutdown(arguments, shared) {
            Some(text) => text,
            None => return Outcome::Close,
        },
        b"verbosity" => controls::verbosity(arguments, shared),
        b"cache_memlimit" => controls::memory_limit(arguments, shared),
        b"slabs" => controls::slabs(arguments, shared),
        b"lru" => controls::lru(arguments),
        b"lru_crawler" => controls::lru_crawler(arguments, shared),
        b"watch" => controls::watch(arguments, shared),
        b"debugtime" if shared.options.debug_time => controls::debug_time(arguments, shared),
        b"refresh_certs" => {
            controls::refresh_certificates(shared, reply);
            return Outcome::Replied;
        }
        _ => b"ERROR",
    };
    if !silent {
        reply.extend_from_slice(text);
        reply.extend_from_slice(b"\r\n");
    }
    Outcome::Replied
}

fn stats(arguments: &[&[u8]], shared: &Shared<'_>, now_s: u32, reply: &mut Vec<u8>) {
    let Some((topic, rest)) = arguments.split_first() else {
        general::general(shared, reply);
        return end(reply);
    };
    match *topic {
        b"reset" => {
            general::reset(shared);
            return reply.extend_from_slice(b"RESET\r\n");
        }
        b"settings" => settings::settings(shared, reply),
        b"items" => classes::items(shared, reply),
        b"slabs" => classes::slabs(shared, reply),
        b"conns" => conns::conns(shared, now_s, reply),
        b"sizes" => stat(reply, "sizes_status", "disabled"),
        b"unbuckle" => general::own(shared, reply),
        b"extstore" => {}
        b"detail" => return detail(rest, shared, reply),
        b"cachedump" => return cachedump(rest, shared, reply),
        _ => return reply.extend_from_slice(b"ERROR\r\n"),
    }
    end(reply);
}

/// Per-prefix statistics: never collected yet, so switching them on is refused and their dump is empty.
fn detail(arguments: &[&[u8]], shared: &Shared<'_>, reply: &mut Vec<u8>) {
    let text: &[u8] = match arguments.first() {
        _ if !shared.options.dump_enabled => b"CLIENT_ERROR stats detail not allowed",
        Some(&b"on") => b"SERVER_ERROR stats detail not supported yet",
        Some(&b"off") => {
            shared.detail_enabled.store(false, Ordering::Relaxed);
            b"OK"
        }
        Some(&b"dump") => b"END",
        _ => b"CLIENT_ERROR usage: stats detail on|off|dump",
    };
    reply.extend_from_slice(text);
    reply.extend_from_slice(b"\r\n");
}

/// memcached has at most this many size classes.
const CLASSES_MAX: u32 = 63;

fn cachedump(arguments: &[&[u8]], shared: &Shared<'_>, reply: &mut Vec<u8>) {
    let text: &[u8] = match arguments {
        _ if !shared.options.dump_enabled => b"CLIENT_ERROR stats cachedump not allowed",
        [] | [_] => b"CLIENT_ERROR bad command line",
        [class, limit, ..] => match (number(class), number(limit)) {
            (Some(class), Some(_)) if class > CLASSES_MAX => b"CLIENT_ERROR Illegal slab id",
            (Some(_), Some(_)) => b"SERVER_ERROR stats cachedump not supported yet",
            _ => b"CLIENT_ERROR bad command line format",
        },
    };
    reply.extend_from_slice(text);
    reply.extend_from_slice(b"\r\n");
}

/// One line of statistics.
fn stat(reply: &mut Vec<u8>, name: &str, value: impl Display) {
    // Writing to a Vec does not fail.
    let _ = write!(reply, "STAT {name} {value}\r\n");
}

fn end(reply: &mut Vec<u8>) {
    reply.extend_from_slice(b"END\r\n");
}

fn yes_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

/// An unsigned 32-bit decimal, and nothing else.
fn number(word: &[u8]) -> Option<u32> {
    if word.is_empty() || !word.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(word).ok()?.parse().ok()
}
