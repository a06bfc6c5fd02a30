//! `lru_crawler`: crawls for what has expired, and dumps of all items.
//!
//! The crawler is part of every worker's upkeep, by page of memory and not by class: a crawl of some classes is a crawl of
//! all. Dumps need no crawler, and any number of them may be under way; they are refused where memcached refuses them.

use super::{Asker, Outcome, is, number};
use crate::dump::{ClassSet, Dump};
use crate::jobs::Job;
use crate::roster::lock;
use crate::shared::Shared;
use std::sync::atomic::Ordering;

const OK: &[u8] = b"OK";
const ERROR: &[u8] = b"ERROR";
const DISABLED: &[u8] = b"CLIENT_ERROR lru crawler disabled";
const BAD_CLASS: &[u8] = b"BADCLASS invalid class id";
const BAD_FORMAT: &[u8] = b"CLIENT_ERROR bad command line format";
/// Longest pause that can be asked for.
const SLEEP_US_MAX: u32 = 1_000_000;

/// A dump, as its command names it.
struct Kind {
    of_classes: fn(ClassSet) -> Dump,
    not_allowed: &'static [u8],
    not_in_a_pipeline: &'static [u8],
}

const METADUMP: Kind = Kind {
    of_classes: Dump::meta,
    not_allowed: b"ERROR metadump not allowed",
    not_in_a_pipeline: b"ERROR cannot pipeline other commands before metadump",
};
const MGDUMP: Kind = Kind {
    of_classes: Dump::keys,
    not_allowed: b"ERROR key dump not allowed",
    not_in_a_pipeline: b"ERROR cannot pipeline other commands before mgdump",
};

/// The reply, or the dump that is begun.
pub(super) fn lru_crawler(
    arguments: &[&[u8]],
    shared: &Shared<'_>,
    asker: &Asker,
) -> Result<&'static [u8], Outcome> {
    Ok(match arguments {
        [what, classes] if is(what, b"crawl") => crawl(classes, shared),
        [what, classes] if is(what, b"metadump") => return dump(&METADUMP, classes, shared, asker),
        [what, classes] if is(what, b"mgdump") => return dump(&MGDUMP, classes, shared, asker),
        [what, items] if is(what, b"tocrawl") => match number(items) {
            Some(items) => show(shared, "lru_crawler_tocrawl", items),
            None => BAD_FORMAT,
        },
        [what, pause] if is(what, b"sleep") => match number(pause) {
            Some(pause @ 0..=SLEEP_US_MAX) => show(shared, "lru_crawler_sleep", pause),
            Some(_) => b"CLIENT_ERROR sleep must be one second or less",
            None => BAD_FORMAT,
        },
        [what] if is(what, b"enable") => switch(shared, true),
        [what] if is(what, b"disable") => switch(shared, false),
        _ => ERROR,
    })
}

fn switch(shared: &Shared<'_>, enabled: bool) -> &'static [u8] {
    shared.store.crawler_enabled_set(enabled);
    OK
}

/// Kept for `stats settings`, and without effect: a crawl goes as fast as the workers have time for it.
fn show(shared: &Shared<'_>, setting: &'static str, value: u32) -> &'static [u8] {
    lock(&shared.shown_settings).insert(setting, value.to_string());
    OK
}

fn crawl(classes: &[u8], shared: &Shared<'_>) -> &'static [u8] {
    if !shared.store.crawler_is_enabled() {
        return DISABLED;
    }
    match classes {
        b"hash" => return b"ERROR an unknown error happened",
        b"all" => {}
        list if ClassSet::listed(list).is_some() => {}
        _ => return BAD_CLASS,
    }
    shared.crawls.fetch_add(1, Ordering::Relaxed);
    shared.store.crawl_everything();
    OK
}

fn dump(kind: &Kind, classes: &[u8], shared: &Shared<'_>, asker: &Asker) -> Result<&'static [u8], Outcome> {
    if !shared.store.crawler_is_enabled() {
        return Ok(DISABLED);
    }
    if !shared.options.dump_enabled {
        return Ok(kind.not_allowed);
    }
    if asker.replies_wait {
        return Ok(kind.not_in_a_pipeline);
    }
    let classes = match classes {
        b"all" | b"hash" => ClassSet::ALL,
        list => match ClassSet::listed(list) {
            Some(classes) => classes,
            None => return Ok(BAD_CLASS),
        },
    };
    asker.begin(Job::Dumping(Box::new((kind.of_classes)(classes))))
}
