//! Administrative commands: the lines that the engine hands to its door, answered as memcached 1.6.45 answers them.
//!
//! What needs a process (`shutdown`, `watch`, dumps) is refused with memcached's own words for "not allowed": a module is
//! ended by who may load it.

mod classes;
mod controls;
mod frames;
mod general;
mod settings;
mod text;

use crate::door::Core;
use text::Text;
use unbuckle_engine::Output;
use unbuckle_wire::binary::{Framing, REQUEST_MAGIC, frame};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The reply is in the output.
    Replied,
    /// It found no room; nothing was written.
    Full,
}

/// Answers `line` (without its line end) behind what the output holds.
pub(crate) fn answer(core: &Core, line: &[u8], now_s: u32, output: &mut Output<'_>) -> Outcome {
    let reply = match frame(line) {
        Framing::Frame(request) if line.first() == Some(&REQUEST_MAGIC) => {
            let mut reply = Text::framed(output, request.header);
            frames::stat(core, request.key, now_s, &mut reply);
            reply
        }
        _ => {
            let mut reply = Text::new(output);
            command(core, line, now_s, &mut reply);
            reply
        }
    };
    if reply.finish() { Outcome::Replied } else { Outcome::Full }
}

/// Counters and settings for a file: what `stats`, `stats settings` and `stats unbuckle` say.
pub(crate) fn report(core: &Core, now_s: u32, output: &mut Output<'_>) {
    let mut reply = Text::new(output);
    general::general(core, now_s, &mut reply);
    general::own(core, &mut reply);
    reply.finish();
}

/// The words of a line.
fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    line.split(|byte| *byte == b' ').filter(|word| !word.is_empty())
}

fn command(core: &Core, line: &[u8], now_s: u32, reply: &mut Text<'_, '_>) {
    let mut arguments = words(line);
    let command = arguments.next().unwrap_or_default();
    let may_be_silent =
        matches!(command, b"slabs" | b"lru" | b"lru_crawler" | b"verbosity" | b"cache_memlimit");
    let silent = may_be_silent && arguments.clone().last() == Some(b"noreply");
    let answer: &[u8] = match command {
        b"stats" => return stats(core, arguments, now_s, reply),
        b"verbosity" => controls::verbosity(core, arguments),
        b"cache_memlimit" => controls::memory_limit(core, arguments),
        b"slabs" => controls::slabs(arguments),
        b"lru" => controls::lru(arguments),
        b"lru_crawler" => controls::lru_crawler(core, arguments),
        b"watch" => controls::watch(arguments),
        b"shutdown" => b"SERVER_ERROR: shutdown not enabled",
        b"debugtime" if core.settings.debug_time != 0 => controls::debug_time(core, arguments),
        b"refresh_certs" => b"Error TLS not enabled",
        _ => b"ERROR",
    };
    if !silent {
        reply.put(answer);
        reply.put(b"\r\n");
    }
}

fn stats<'l>(
    core: &Core,
    mut arguments: impl Iterator<Item = &'l [u8]>,
    now_s: u32,
    reply: &mut Text<'_, '_>,
) {
    match arguments.next() {
        Some(b"reset") => {
            general::reset(core);
            return reply.put(b"RESET\r\n");
        }
        Some(b"detail") => return reply.put(controls::detail(arguments)),
        Some(b"cachedump") => return reply.put(b"CLIENT_ERROR stats cachedump not allowed\r\n"),
        group => {
            if !stats_group(core, group.unwrap_or_default(), now_s, reply) {
                return reply.put(b"ERROR\r\n");
            }
        }
    }
    reply.put(b"END\r\n");
}

/// The statistics of one group, without what ends them. False: there is no such group.
fn stats_group(core: &Core, group: &[u8], now_s: u32, reply: &mut Text<'_, '_>) -> bool {
    match group {
        b"" => general::general(core, now_s, reply),
        b"settings" => settings::settings(core, reply),
        b"items" => classes::items(core, reply),
        b"slabs" => classes::slabs(core, reply),
        b"sizes" => reply.word(b"sizes_status", b"disabled"),
        b"unbuckle" => general::own(core, reply),
        b"conns" | b"extstore" => {}
        _ => return false,
    }
    true
}
