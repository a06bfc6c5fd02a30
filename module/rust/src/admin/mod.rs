//! Administrative commands: the lines that the engine hands to its door, answered as memcached 1.6.45 answers them.
//!
//! What needs a process (`shutdown`, `watch`, dumps) is refused with memcached's own words for "not allowed": a module is
//! ended by who may load it.

mod classes;
mod controls;
mod general;
mod settings;
mod text;

use crate::door::Core;
use text::Text;
use unbuckle_engine::Output;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The reply is in the output.
    Replied,
    /// It found no room; nothing was written.
    Full,
}

/// Answers `line` (without its line end) behind what the output holds.
pub(crate) fn answer(core: &Core, line: &[u8], now_s: u32, output: &mut Output<'_>) -> Outcome {
    let mut reply = Text::new(output);
    command(core, line, now_s, &mut reply);
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
        b"lru_crawler" => controls::lru_crawler(arguments),
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
        None => general::general(core, now_s, reply),
        Some(b"reset") => {
            general::reset(core);
            return reply.put(b"RESET\r\n");
        }
        Some(b"settings") => settings::settings(core, reply),
        Some(b"items") => classes::items(core, reply),
        Some(b"slabs") => classes::slabs(core, reply),
        Some(b"sizes") => reply.word(b"sizes_status", b"disabled"),
        Some(b"unbuckle") => general::own(core, reply),
        Some(b"conns" | b"extstore") => {}
        Some(b"detail") => return reply.put(controls::detail(arguments)),
        Some(b"cachedump") => return reply.put(b"CLIENT_ERROR stats cachedump not allowed\r\n"),
        Some(_) => return reply.put(b"ERROR\r\n"),
    }
    reply.put(b"END\r\n");
}
