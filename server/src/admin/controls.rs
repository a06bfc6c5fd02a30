//! Commands that change how the server runs, or end it.
//!
//! memcached steers slab pages and LRU segments with some of these. This server has none of them: a well-formed request
//! for such a thing is answered as memcached answers it, shows in `stats settings`, and changes nothing else.

use super::{Asker, NOT_BY_DATAGRAM, Outcome, is, number};
use crate::jobs::Job;
use crate::roster::lock;
use crate::shared::Shared;
use crate::watch::{Kinds, TooMany};
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
            if let Some(fast_path) = &shared.fast_path {
                fast_path.follow(&shared.clock);
            }
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

/// Keeps a setting that nothing here depends on for `stats settings`.
fn show(shared: &Shared<'_>, settings: &[(&'static str, String)]) -> &'static [u8] {
    lock(&shared.shown_settings).extend(settings.iter().cloned());
    OK
}

pub(super) fn slabs(arguments: &[&[u8]], shared: &Shared<'_>) -> &'static [u8] {
    match arguments {
        [what, from, to] if is(what, b"reassign") => match (signed(from), signed(to)) {
            (Some(from), Some(to)) if from == to => b"SAME src and dst class are identical",
            (Some(from), Some(to)) if [from, to].iter().any(|class| !(0..=CLASSES_MAX).contains(class)) => {
                b"BADCLASS invalid src or dst class id"
            }
            (Some(_), Some(_)) => b"NOSPARE source class has no spare pages",
            _ => BAD_FORMAT,
        },
        [what, rest @ ..] if is(what, b"automove") && !rest.is_empty() => automove(rest, shared),
        _ => ERROR,
    }
}

fn automove(arguments: &[&[u8]], shared: &Shared<'_>) -> &'static [u8] {
    let ratio = |setting, digits: usize| match arguments.get(1).and_then(|word| float(word)) {
        Some(ratio) => show(shared, &[(setting, format!("{ratio:.digits$}"))]),
        None => ERROR,
    };
    match arguments.first().copied().unwrap_or_default() {
        what if is(what, b"ratio") => ratio("slab_automove_ratio", 2),
        what if is(what, b"freeratio") => ratio("slab_automove_freeratio", 3),
        what if is(what, b"window") => match arguments.get(1).and_then(|word| number(word)) {
            Some(window @ 3..=1800) => show(shared, &[("slab_automove_window", window.to_string())]),
            Some(_) => b"CLIENT_ERROR automove window too low or too high",
            None => BAD_FORMAT,
        },
        level => match number(level) {
            Some(level @ 0..=2) => show(shared, &[("slab_automove", level.to_string())]),
            Some(_) => ERROR,
            None => BAD_FORMAT,
        },
    }
}

pub(super) fn lru(arguments: &[&[u8]], shared: &Shared<'_>) -> &'static [u8] {
    match arguments {
        [what, rest @ ..] if is(what, b"tune") && rest.len() >= 4 => tune(rest, shared),
        [what, mode, ..] if is(what, b"mode") => match *mode {
            b"flat" => show(shared, &[("lru_segmented", "no".to_owned())]),
            b"segmented" => show(shared, &[("lru_segmented", "yes".to_owned())]),
            _ => ERROR,
        },
        [what, seconds, ..] if is(what, b"temp_ttl") => match signed(seconds) {
            Some(seconds) if seconds < 0 => show(shared, &[("temp_lru", "no".to_owned())]),
            Some(seconds) => {
                show(shared, &[("temp_lru", "yes".to_owned()), ("temporary_ttl", seconds.to_string())])
            }
            None => ERROR,
        },
        _ => ERROR,
    }
}

fn tune(arguments: &[&[u8]], shared: &Shared<'_>) -> &'static [u8] {
    let [hot, warm, hot_factor, warm_factor, ..] = arguments else { return ERROR };
    let (Some(hot), Some(warm)) = (number(hot), number(warm)) else { return ERROR };
    let (Some(hot_factor), Some(warm_factor)) = (float(hot_factor), float(warm_factor)) else {
        return ERROR;
    };
    if hot.saturating_add(warm) > 80 {
        return b"ERROR hot and warm pcts must not exceed 80";
    }
    if hot_factor <= 0.0 || warm_factor <= 0.0 {
        return b"ERROR hot/warm age factors must be greater than 0";
    }
    show(
        shared,
        &[
            ("hot_lru_pct", hot.to_string()),
            ("warm_lru_pct", warm.to_string()),
            ("hot_max_factor", format!("{hot_factor:.2}")),
            ("warm_max_factor", format!("{warm_factor:.2}")),
        ],
    )
}

/// The client becomes a watcher; or why not.
pub(super) fn watch(
    arguments: &[&[u8]],
    shared: &Shared<'_>,
    asker: &Asker,
) -> Result<&'static [u8], Outcome> {
    if !shared.options.watch_enabled {
        return Ok(b"CLIENT_ERROR watch commands not allowed");
    }
    if asker.replies_wait {
        return Ok(b"ERROR cannot pipeline other commands before watch");
    }
    let Some(kinds) = Kinds::asked(arguments) else { return Ok(ERROR) };
    let Some(worker) = asker.worker else { return Ok(NOT_BY_DATAGRAM) };
    match shared.hub.add(kinds, worker) {
        Ok(watcher) => {
            shared.attend_to_gets();
            Err(Outcome::Begin(Job::Watching(watcher)))
        }
        Err(TooMany) => Ok(b"WATCHER_TOO_MANY log watcher limit reached"),
    }
}
