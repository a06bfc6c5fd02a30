//! Commands that change how the store runs.
//!
//! memcached steers slab pages, LRU segments and a crawler thread with some of these. There are none here: a
//! well-formed request for such a thing is answered as memcached answers it, and changes nothing.

use crate::door::Core;
use core::sync::atomic::Ordering::Relaxed;
use unbuckle_wire::number::{strict_i32, strict_u32};

const OK: &[u8] = b"OK";
const ERROR: &[u8] = b"ERROR";
const BAD_FORMAT: &[u8] = b"CLIENT_ERROR bad command line format";
/// memcached knows three levels of -v.
const VERBOSITY_MAX: u32 = 2;
const MEGABYTES_MIN: u32 = 8;
/// Above this, somebody has given bytes.
const MEGABYTES_MAX: u32 = 1_000_000_000;
const CLASSES_MAX: i32 = 63;

/// An unsigned decimal, and nothing else.
fn number(word: Option<&[u8]>) -> Option<u32> {
    word.filter(|word| word.iter().all(u8::is_ascii_digit)).and_then(strict_u32)
}

pub(super) fn verbosity<'l>(core: &Core, mut arguments: impl Iterator<Item = &'l [u8]>) -> &'static [u8] {
    match number(arguments.next()) {
        Some(level) => {
            core.verbosity.store(level.min(VERBOSITY_MAX), Relaxed);
            OK
        }
        None => BAD_FORMAT,
    }
}

pub(super) fn memory_limit<'l>(core: &Core, mut arguments: impl Iterator<Item = &'l [u8]>) -> &'static [u8] {
    let Some(megabytes) = number(arguments.next()) else { return ERROR };
    if megabytes < MEGABYTES_MIN {
        return b"MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m";
    }
    if megabytes > MEGABYTES_MAX {
        return b"MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes";
    }
    match core.store.limit_bytes_set(u64::from(megabytes) << 20) {
        Ok(()) => OK,
        Err(_) => b"MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust",
    }
}

/// Moves the clock of all engines ahead, where the parameter `debug_time` allows it.
pub(super) fn debug_time<'l>(core: &Core, mut arguments: impl Iterator<Item = &'l [u8]>) -> &'static [u8] {
    match number(arguments.next()) {
        Some(seconds) => {
            core.shift_s.fetch_add(seconds, Relaxed);
            OK
        }
        None => ERROR,
    }
}

pub(super) fn slabs<'l>(mut arguments: impl Iterator<Item = &'l [u8]>) -> &'static [u8] {
    match arguments.next() {
        Some(b"reassign") => reassign(arguments),
        Some(b"automove") => match arguments.next() {
            None => ERROR,
            level => match number(level) {
                Some(0..=2) => OK,
                Some(_) => ERROR,
                None => BAD_FORMAT,
            },
        },
        _ => ERROR,
    }
}

fn reassign<'l>(mut arguments: impl Iterator<Item = &'l [u8]>) -> &'static [u8] {
    let (Some(from), Some(to)) = (arguments.next(), arguments.next()) else { return ERROR };
    if !matches!((arguments.next(), arguments.next()), (None | Some(b"noreply"), None)) {
        return ERROR;
    }
    match (strict_i32(from), strict_i32(to)) {
        (Some(from), Some(to)) if from == to => b"SAME src and dst class are identical",
        (Some(from), Some(to)) if [from, to].iter().any(|class| !(0..=CLASSES_MAX).contains(class)) => {
            b"BADCLASS invalid src or dst class id"
        }
        (Some(_), Some(_)) => b"NOSPARE source class has no spare pages",
        _ => BAD_FORMAT,
    }
}

pub(super) fn lru<'l>(mut arguments: impl Iterator<Item = &'l [u8]>) -> &'static [u8] {
    match (arguments.next(), arguments.next()) {
        (Some(b"mode"), Some(b"flat" | b"segmented")) => OK,
        (Some(b"temp_ttl"), Some(seconds)) if strict_i32(seconds).is_some() => OK,
        (Some(b"tune"), hot) => tune(hot, arguments),
        _ => ERROR,
    }
}

/// Two percentages and two factors; the factors have fractions, of which only the form is looked at.
fn tune<'l>(hot: Option<&[u8]>, mut arguments: impl Iterator<Item = &'l [u8]>) -> &'static [u8] {
    let (Some(hot), Some(warm)) = (number(hot), number(arguments.next())) else { return ERROR };
    for _ in 0..2 {
        let Some(factor) = arguments.next() else { return ERROR };
        if !factor.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.') {
            return ERROR;
        }
        if factor.iter().all(|byte| matches!(byte, b'0' | b'.')) {
            return b"ERROR hot/warm age factors must be greater than 0";
        }
    }
    if hot.saturating_add(warm) > 80 { b"ERROR hot and warm pcts must not exceed 80" } else { OK }
}

pub(super) fn lru_crawler<'l>(core: &Core, mut arguments: impl Iterator<Item = &'l [u8]>) -> &'static [u8] {
    let (command, argument) = (arguments.next(), arguments.next());
    match (command, argument) {
        (Some(b"crawl"), Some(b"all")) => OK,
        (Some(b"crawl"), Some(b"hash")) => b"ERROR an unknown error happened",
        (Some(b"crawl"), Some(classes)) if is_class_list(classes) => OK,
        (Some(b"crawl"), Some(_)) => b"BADCLASS invalid class id",
        (Some(b"metadump" | b"mgdump"), Some(_)) if arguments.next().is_none() => {
            b"ERROR metadump not allowed"
        }
        (Some(b"tocrawl"), Some(_)) => number(argument).map_or(BAD_FORMAT, |_| OK),
        (Some(b"sleep"), Some(_)) => match number(argument) {
            Some(0..=1_000_000) => OK,
            Some(_) => b"CLIENT_ERROR sleep must be one second or less",
            None => BAD_FORMAT,
        },
        (Some(what @ (b"enable" | b"disable")), None | Some(b"noreply")) => {
            core.store.crawler_enabled_set(what == b"enable");
            OK
        }
        _ => ERROR,
    }
}

fn is_class_list(text: &[u8]) -> bool {
    text.split(|byte| *byte == b',').all(|class| matches!(number(Some(class)), Some(1..=63)))
}

/// There is nobody to watch for; a word that is no kind of event is an error all the same.
pub(super) fn watch<'l>(mut arguments: impl Iterator<Item = &'l [u8]>) -> &'static [u8] {
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
    let known = arguments.all(|kind| KINDS.contains(&kind));
    if known { b"CLIENT_ERROR watch commands not allowed" } else { ERROR }
}

/// Per-prefix statistics are not collected: they can be switched off, and their dump is empty.
pub(super) fn detail<'l>(mut arguments: impl Iterator<Item = &'l [u8]>) -> &'static [u8] {
    match arguments.next() {
        Some(b"on") => b"CLIENT_ERROR stats detail not allowed\r\n",
        Some(b"off") => b"OK\r\n",
        Some(b"dump") => b"END\r\n",
        _ => b"CLIENT_ERROR usage: stats detail on|off|dump\r\n",
    }
}
