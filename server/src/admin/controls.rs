//! Commands that change how the server runs, or end it.
//!
//! memcached steers slab pages, LRU segments and a crawler thread with some of these. This server has none of them:
//! a well-formed request for such a thing is answered as memcached answers it, and changes nothing.

use super::number;
use crate::shared::Shared;
use std::sync::atomic::Ordering;

const OK: &[u8] = b"OK";
const ERROR: &[u8] = b"ERROR";
const BAD_FORMAT: &[u8] = b"CLIENT_ERROR bad command line format";
/// memcached knows three levels of -v.
const VERBOSITY_MAX: u32 = 2;
const MEGABYTES_MIN: u32 = 8;
/// Above this, somebody has given bytes.
const MEGABYTES_MAX: u32 = 1_000_000_000;
const CLASSES_MAX: i64 = 63;

/// `None`: the connection closes, and the server ends.
pub(super) fn shutdown(arguments: &[&[u8]], shared: &Shared<'_>) -> Option<&'static [u8]> {
    if !shared.options.shutdown_enabled {
        return Some(b"SERVER_ERROR: shutdown not enabled");
    }
    match arguments {
        [] | [b"graceful"] => {
            shared.stop();
            None
        }
        _ => Some(b"CLIENT_ERROR invalid shutdown mode"),
    }
}

pub(super) fn verbosity(arguments: &[&[u8]], shared: &Shared<'_>) -> &'static [u8] {
    match arguments.first().and_then(|word| number(word)) {
        Some(level) => {
            shared.verbosity.store(level.min(VERBOSITY_MAX), Ordering::Relaxed);
            OK
        }
        None => BAD_FORMAT,
    }
}

pub(super) fn memory_limit(arguments: &[&[u8]], shared: &Shared<'_>) -> &'static [u8] {
    let Some(megabytes) = arguments.first().and_then(|word| number(word)) else { return ERROR };
    if megabytes < MEGABYTES_MIN {
        return b"MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m";
    }
    if megabytes > MEGABYTES_MAX {
        return b"MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes";
    }
    match shared.store.limit_bytes_set(u64::from(megabytes) << 20) {
        Ok(()) => {
            if shared.verbosity() > 0 {
                eprintln!("memory limit set to {megabytes} MB");
            }
            OK
        }
        Err(_) => b"MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust",
    }
}

/// Reads certificates and key again; what cannot be read stays as it was, and the reply says why.
pub(super) fn refresh_certificates(shared: &Shared<'_>, reply: &mut Vec<u8>) {
    let done = match &shared.tls {
        Some(tls) => tls.refresh(shared.clock.uptime_s()),
        None => Err("Error TLS not enabled".to_owned()),
    };
    let text = done.map_or_else(|error| error, |()| "OK".to_owned());
    reply.extend_from_slice(text.as_bytes());
    reply.extend_from_slice(b"\r\n");
}

/// Moves the clock of all workers ahead, where `--debug-time` allows it.
pub(super) fn debug_time(arguments: &[&[u8]], shared: &Shared<'_>) -> &'static [u8] {
    match arguments.first().and_then(|word| number(word)) {
        Some(seconds) => {
            shared.clock.advance(seconds);
            OK
        }
        None => ERROR,
    }
}

/// A decimal that may have a sign.
fn signed(word: &[u8]) -> Option<i64> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

fn float(word: &[u8]) -> Option<f64> {
    std::str::from_utf8(word).ok()?.parse().ok().filter(|number: &f64| number.is_finite())
}

pub(super) fn slabs(arguments: &[&[u8]], _shared: &Shared<'_>) -> &'static [u8] {
    match arguments {
        [b"reassign", from, to] | [b"reassign", from, to, b"noreply"] => match (signed(from), signed(to)) {
            (Some(from), Some(to)) if from == to => b"SAME src and dst class are identical",
            (Some(from), Some(to)) if [from, to].iter().any(|class| !(0..=CLASSES_MAX).contains(class)) => {
                b"BADCLASS invalid src or dst class id"
            }
            (Some(_), Some(_)) => b"NOSPARE source class has no spare pages",
            _ => BAD_FORMAT,
        },
        [b"automove", level, ..] => match number(level) {
            Some(0..=2) => OK,
            Some(_) => ERROR,
            None => BAD_FORMAT,
        },
        _ => ERROR,
    }
}

pub(super) fn lru(arguments: &[&[u8]]) -> &'static [u8] {
    match arguments {
        [b"tune", hot, warm, hot_factor, warm_factor, ..] => {
            let (Some(hot), Some(warm)) = (number(hot), number(warm)) else { return ERROR };
            let (Some(hot_factor), Some(warm_factor)) = (float(hot_factor), float(warm_factor)) else {
                return ERROR;
            };
            if hot.saturating_add(warm) > 80 {
                b"ERROR hot and warm pcts must not exceed 80"
            } else if hot_factor <= 0.0 || warm_factor <= 0.0 {
                b"ERROR hot/warm age factors must be greater than 0"
            } else {
                OK
            }
        }
        [b"mode", b"flat" | b"segmented", ..] => OK,
        [b"temp_ttl", seconds, ..] if signed(seconds).is_some() => OK,
        _ => ERROR,
    }
}

pub(super) fn lru_crawler(arguments: &[&[u8]], shared: &Shared<'_>) -> &'static [u8] {
    match arguments {
        [b"crawl", classes] | [b"crawl", classes, b"noreply"] => match *classes {
            b"all" => OK,
            b"hash" => b"ERROR an unknown error happened",
            classes if is_class_list(classes) => OK,
            _ => b"BADCLASS invalid class id",
        },
        [b"metadump" | b"mgdump", _] if !shared.options.dump_enabled => b"ERROR metadump not allowed",
        [b"metadump" | b"mgdump", classes]
            if !matches!(*classes, b"all" | b"hash") && !is_class_list(classes) =>
        {
            b"BADCLASS invalid class id"
        }
        [b"metadump", _] => b"SERVER_ERROR lru_crawler metadump not supported yet",
        [b"mgdump", _] => b"SERVER_ERROR lru_crawler mgdump not supported yet",
        [b"tocrawl", items] | [b"tocrawl", items, b"noreply"] => number(items).map_or(BAD_FORMAT, |_| OK),
        [b"sleep", micros] | [b"sleep", micros, b"noreply"] => match number(micros) {
            Some(0..=1_000_000) => OK,
            Some(_) => b"CLIENT_ERROR sleep must be one second or less",
            None => BAD_FORMAT,
        },
        [what @ (b"enable" | b"disable")] | [what @ (b"enable" | b"disable"), b"noreply"] => {
            shared.store.crawler_enabled_set(*what == b"enable");
            OK
        }
        _ => ERROR,
    }
}

fn is_class_list(text: &[u8]) -> bool {
    text.split(|byte| *byte == b',').all(|class| matches!(number(class), Some(1..=63)))
}

pub(super) fn watch(arguments: &[&[u8]], shared: &Shared<'_>) -> &'static [u8] {
    const KINDS: [&[u8]; 10] = [
        b"rawcmds",
        b"evictions",
        b"fetchers",
        b"mutations",
        b"sysevents",
        b"connevents",
        b"proxyreqs",
        b"proxyevents",
        b"proxyuser",
        b"deletions",
    ];
    if !shared.options.watch_enabled {
        b"CLIENT_ERROR watch commands not allowed"
    } else if arguments.iter().all(|kind| KINDS.contains(kind)) {
        b"SERVER_ERROR watch not supported yet"
    } else {
        ERROR
    }
}
