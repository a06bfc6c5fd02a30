//! Administrative commands: what they are answered, byte for byte as memcached 1.6.45 answers them.
//!
//! These are the lines that the engine hands to its door: statistics, settings that can be changed while running, and
//! shutdown. They may allocate; they are not on the path of a request for an item. What takes long (a dump, a watch) is
//! only begun here.

mod classes;
mod conns;
mod controls;
mod crawler;
mod frames;
mod general;
mod settings;

pub(crate) use classes::Classes;

use crate::dump::Dump;
use crate::jobs::Job;
use crate::prefixes::{Counts, Table};
use crate::roster::lock;
use crate::shared::Shared;
use std::fmt::Display;
use std::io::Write;
use unbuckle_wire::binary::REQUEST_MAGIC;

/// What is to be done beside sending the reply.
#[derive(Debug)]
pub(crate) enum Outcome {
    Replied,
    Close,
    /// From now on the connection is sent this.
    Begin(Job),
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    pub(crate) now_s: u32,
    /// The worker that has the connection; `None` for a datagram.
    pub(crate) worker: Option<usize>,
    /// Replies to earlier requests have not been sent yet.
    pub(crate) replies_wait: bool,
}

impl Asker {
    fn begin(&self, job: Job) -> Result<&'static [u8], Outcome> {
        if self.worker.is_some() { Err(Outcome::Begin(job)) } else { Ok(NOT_BY_DATAGRAM) }
    }
}

const NOT_BY_DATAGRAM: &[u8] = b"SERVER_ERROR not over UDP";

/// More words than any command has; what follows is ignored, as memcached ignores it.
const WORDS_MAX: usize = 24;

/// Answers `line` (without its line end) into `reply`; or a binary frame.
pub(crate) fn answer(line: &[u8], shared: &Shared<'_>, asker: &Asker, reply: &mut Vec<u8>) -> Outcome {
    if line.first() == Some(&REQUEST_MAGIC) {
        frames::stat(line, shared, asker.now_s, reply);
        return Outcome::Replied;
    }
    let words: Vec<&[u8]> =
        line.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).take(WORDS_MAX).collect();
    let Some((command, arguments)) = words.split_first() else {
        reply.extend_from_slice(b"ERROR\r\n");
        return Outcome::Replied;
    };
    let (arguments, silent) = match (*command, arguments) {
        (
            b"slabs" | b"lru" | b"lru_crawler" | b"verbosity" | b"cache_memlimit",
            [arguments @ .., b"noreply"],
        ) => (arguments, true),
        _ => (arguments, false),
    };
    let answered = match *command {
        b"stats" => stats(arguments, shared, asker, reply),
        b"shutdown" => controls::shutdown(arguments, shared).ok_or(Outcome::Close),
        b"verbosity" => Ok(controls::verbosity(arguments, shared)),
        b"cache_memlimit" => Ok(controls::memory_limit(arguments, shared)),
        b"slabs" => Ok(controls::slabs(arguments, shared)),
        b"lru" => Ok(controls::lru(arguments, shared)),
        b"lru_crawler" => crawler::lru_crawler(arguments, shared, asker),
        b"watch" => controls::watch(arguments, shared, asker),
        b"debugtime" if shared.options.debug_time => Ok(controls::debug_time(arguments, shared)),
        b"refresh_certs" => {
            controls::refresh_certificates(shared, reply);
            Ok(b"".as_slice())
        }
        _ => Ok(b"ERROR".as_slice()),
    };
    match answered {
        Ok(text) if !silent && !text.is_empty() => {
            reply.extend_from_slice(text);
            reply.extend_from_slice(b"\r\n");
            Outcome::Replied
        }
        Ok(_) => Outcome::Replied,
        Err(outcome) => {
            if matches!(outcome, Outcome::Begin(Job::Watching(_))) {
                reply.extend_from_slice(b"OK\r\n");
            }
            outcome
        }
    }
}

/// Answers into `reply`, or with a line, or begins a dump.
fn stats(
    arguments: &[&[u8]],
    shared: &Shared<'_>,
    asker: &Asker,
    reply: &mut Vec<u8>,
) -> Result<&'static [u8], Outcome> {
    let Some((topic, rest)) = arguments.split_first() else {
        general::general(shared, reply);
        return Ok(b"END");
    };
    match *topic {
        topic if is(topic, b"reset") => {
            general::reset(shared);
            return Ok(b"RESET");
        }
        topic if is(topic, b"detail") => return Ok(detail(rest, shared, reply)),
        topic if is(topic, b"settings") => settings::settings(shared, reply),
        topic if is(topic, b"cachedump") => return cachedump(rest, shared, asker),
        topic if is(topic, b"conns") => conns::conns(shared, asker.now_s, reply),
        topic if is(topic, b"extstore") => {}
        b"items" => classes::items(shared, reply),
        b"slabs" => classes::slabs(shared, reply),
        b"sizes" if shared.options.extended.track_sizes => {
            return asker.begin(Job::Dumping(Box::new(Dump::sizes())));
        }
        b"sizes" => stat(reply, "sizes_status", "disabled"),
        b"unbuckle" => general::own(shared, reply),
        _ => return Ok(b"ERROR"),
    }
    Ok(b"END")
}

/// Requests by key prefix.
fn detail(arguments: &[&[u8]], shared: &Shared<'_>, reply: &mut Vec<u8>) -> &'static [u8] {
    if !shared.options.dump_enabled {
        return b"CLIENT_ERROR stats detail not allowed";
    }
    match arguments.first() {
        Some(what) if is(what, b"on") => {
            shared.hub.want_prefixes(true);
            shared.attend_to_gets();
            b"OK"
        }
        Some(what) if is(what, b"off") => {
            shared.hub.want_prefixes(false);
            shared.attend_to_gets();
            b"OK"
        }
        Some(what) if is(what, b"dump") => {
            let mut table = Table::new();
            shared.desks.iter().for_each(|desk| desk.reporter.prefixes.add_to(&mut table));
            for (prefix, counts) in &table {
                reply.extend_from_slice(b"PREFIX ");
                reply.extend_from_slice(prefix);
                let Counts { gets, hits, sets, deletes } = counts;
                // Writing to a Vec does not fail.
                let _ = write!(reply, " get {gets} hit {hits} set {sets} del {deletes}\r\n");
            }
            b"END"
        }
        _ => b"CLIENT_ERROR usage: stats detail on|off|dump",
    }
}

/// memcached has at most this many size classes.
const CLASSES_MAX: u32 = 63;

fn cachedump(arguments: &[&[u8]], shared: &Shared<'_>, asker: &Asker) -> Result<&'static [u8], Outcome> {
    if !shared.options.dump_enabled {
        return Ok(b"CLIENT_ERROR stats cachedump not allowed");
    }
    let [class, limit, ..] = arguments else { return Ok(b"CLIENT_ERROR bad command line") };
    match (number(class), number(limit)) {
        (Some(class), Some(_)) if class > CLASSES_MAX => Ok(b"CLIENT_ERROR Illegal slab id"),
        (Some(class), Some(limit)) => asker.begin(Job::Dumping(Box::new(Dump::cached(class, limit)))),
        _ => Ok(b"CLIENT_ERROR bad command line format"),
    }
}

/// Whether `word` means `name`: as memcached compares its subcommands, any beginning of the name does.
fn is(word: &[u8], name: &[u8]) -> bool {
    name.starts_with(word)
}

/// Which statistics there are depends on settings, here as in memcached, though nothing else may.
#[derive(Clone, Copy, Debug)]
struct Shown {
    rejections: bool,
    slab_moves: bool,
    crawler: bool,
    queues: bool,
    temporary: bool,
}

impl Shown {
    fn of(shared: &Shared<'_>) -> Shown {
        let settings = lock(&shared.shown_settings);
        let is_set = |name, default: bool| settings.get(name).map_or(default, |value| value == "yes");
        Shown {
            rejections: shared.options.extended.max_connections_fast,
            slab_moves: is_set("slab_reassign", true),
            crawler: shared.store.crawler_is_enabled(),
            queues: is_set("lru_maintainer_thread", true),
            temporary: is_set("temp_lru", false),
        }
    }
}

/// One line of statistics.
fn stat(reply: &mut Vec<u8>, name: &str, value: impl Display) {
    // Writing to a Vec does not fail.
    let _ = write!(reply, "STAT {name} {value}\r\n");
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
