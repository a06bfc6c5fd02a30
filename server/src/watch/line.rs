//! An event as a line of text, with memcached 1.6.45's fields in its order.

use super::log::{CloseReason, Event, What};
use crate::listen::Place;
use crate::uri::encode;
use std::io::Write;
use unbuckle_engine::{Facts, StoreOutcome, Storing};
use unbuckle_store::Missing;

/// Appends the line of `event`. `classes` are the size classes' upper bounds.
pub(super) fn write(event: &Event<'_>, classes: &[u32], line: &mut Vec<u8>) {
    // Microseconds without leading zeros: so memcached writes them.
    let (seconds, micros) = (event.at.as_secs(), event.at.subsec_micros());
    add(line, format_args!("ts={seconds}.{micros} gid={} type=", event.number));
    match event.what {
        What::LookedUp { found, descriptor } => {
            key(line, "item_get", event.text);
            let status = match found {
                Ok(_) => "found",
                Err(Missing::Absent) => "not_found",
                Err(Missing::Flushed) => "flushed",
                Err(Missing::Expired) => "expired",
            };
            let facts = found.unwrap_or_default();
            let class = class_of(&facts, classes);
            let size = facts.value_len;
            add(line, format_args!(" status={status} clsid={class} cfd={descriptor} size={size}"));
        }
        What::Stored { command, outcome, facts, ttl_s, descriptor } => {
            key(line, "item_store", event.text);
            let (status, command) = (outcome_name(outcome), command_name(command));
            add(line, format_args!(" status={status} cmd={command} ttl={ttl_s}"));
            let class = class_of(&facts, classes);
            add(line, format_args!(" clsid={class} cfd={descriptor} size={}", facts.value_len));
        }
        What::Evicted { facts, fetched, ttl_s, idle_s } => {
            key(line, "eviction", event.text);
            let fetched = if fetched { "yes" } else { "no" };
            add(line, format_args!(" fetch={fetched} ttl={} la={idle_s}", ttl_s.unwrap_or(-1)));
            add(line, format_args!(" clsid={} size={}", class_of(&facts, classes), facts.value_len));
        }
        What::Deleted { facts, meta } => {
            key(line, "deleted", event.text);
            let command = if meta { "md" } else { "delete" };
            let class = class_of(&facts, classes);
            add(line, format_args!(" cmd={command} clsid={class} size={}", facts.value_len));
        }
        What::Opened { descriptor } => {
            connection(line, "conn_new", event.text);
            add(line, format_args!(" cfd={descriptor}"));
        }
        What::Closed { descriptor, reason } => {
            connection(line, "conn_close", event.text);
            add(line, format_args!(" reason={} cfd={descriptor}", reason_name(reason)));
        }
    }
    line.push(b'\n');
}

fn add(line: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing to a Vec does not fail.
    let _ = line.write_fmt(text);
}

fn key(line: &mut Vec<u8>, kind: &str, key: &[u8]) {
    add(line, format_args!("{kind} key="));
    encode(key, line);
}

/// `address` is what `stats conns` shows: see [`Place`].
fn connection(line: &mut Vec<u8>, kind: &str, address: &[u8]) {
    match Place::peer(&String::from_utf8_lossy(address)) {
        Some(peer) => {
            add(line, format_args!("{kind} rip={} rport={} transport=tcp", peer.ip(), peer.port()));
        }
        None => add(line, format_args!("{kind} rip=unix rport=0 transport=local")),
    }
}

fn class_of(facts: &Facts, classes: &[u32]) -> usize {
    if facts.memcached_bytes == 0 {
        return 0;
    }
    let last = classes.len().saturating_sub(1);
    classes.partition_point(|largest| u64::from(*largest) < facts.memcached_bytes).min(last) + 1
}

fn outcome_name(outcome: StoreOutcome) -> &'static str {
    match outcome {
        StoreOutcome::Stored => "stored",
        StoreOutcome::NotStored => "not_stored",
        StoreOutcome::Exists => "exists",
        StoreOutcome::NotFound => "not_found",
        StoreOutcome::TooLarge => "too_large",
        StoreOutcome::OutOfMemory => "no_memory",
    }
}

fn command_name(command: Storing) -> &'static str {
    match command {
        Storing::Set => "set",
        Storing::Add => "add",
        Storing::Replace => "replace",
        Storing::Append => "append",
        Storing::Prepend => "prepend",
        Storing::Cas => "cas",
    }
}

fn reason_name(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Error => "error",
        CloseReason::Normal => "normal",
        CloseReason::IdleTimeout => "idle_timeout",
        CloseReason::Shutdown => "shutdown",
    }
}

#[cfg(test)]
mod tests {
    use super::super::Kinds;
    use super::*;
    use std::time::Duration;

    fn line(what: What, text: &[u8]) -> String {
        let at = Duration::new(17, 5_000);
        let mut line = Vec::new();
        write(&Event { number: 3, at, kind: Kinds::FETCHERS, what, text }, &[96, 120], &mut line);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn lines_are_memcached_s() {
        let facts = Facts { value_len: 5, memcached_bytes: 100, expiry_s: 0 };
        assert_eq!(
            line(What::LookedUp { found: Ok(facts), descriptor: 9 }, b"a b"),
            "ts=17.5 gid=3 type=item_get key=a%20b status=found clsid=2 cfd=9 size=5\n"
        );
        assert_eq!(
            line(What::LookedUp { found: Err(Missing::Expired), descriptor: 9 }, b"a"),
            "ts=17.5 gid=3 type=item_get key=a status=expired clsid=0 cfd=9 size=0\n"
        );
        let stored = What::Stored {
            command: Storing::Cas,
            outcome: StoreOutcome::Exists,
            facts: Facts { memcached_bytes: 0, ..facts },
            ttl_s: 60,
            descriptor: 9,
        };
        assert_eq!(
            line(stored, b"a"),
            "ts=17.5 gid=3 type=item_store key=a status=exists cmd=cas ttl=60 clsid=0 cfd=9 size=5\n"
        );
        assert_eq!(
            line(What::Evicted { facts, fetched: true, ttl_s: None, idle_s: 4 }, b"a"),
            "ts=17.5 gid=3 type=eviction key=a fetch=yes ttl=-1 la=4 clsid=2 size=5\n"
        );
        assert_eq!(
            line(What::Deleted { facts, meta: true }, b"a"),
            "ts=17.5 gid=3 type=deleted key=a cmd=md clsid=2 size=5\n"
        );
        assert_eq!(
            line(What::Opened { descriptor: 9 }, b"tcp6:[::1]:80"),
            "ts=17.5 gid=3 type=conn_new rip=::1 rport=80 transport=tcp cfd=9\n"
        );
        assert_eq!(
            line(What::Closed { descriptor: 9, reason: CloseReason::IdleTimeout }, b"unix:"),
            "ts=17.5 gid=3 type=conn_close rip=unix rport=0 transport=local reason=idle_timeout cfd=9\n"
        );
    }
}
