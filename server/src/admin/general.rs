//! `stats`, in memcached 1.6.45's order; `stats reset`; and `stats unbuckle`, for what it has no name for.
//!
//! A name whose matter does not exist here (slab moves, LRU segments, watchers) is listed with 0.

use super::{Shown, stat};
use crate::roster::lock;
use crate::shared::{Count, DoorCounts, Shared};
use crate::system;
use std::collections::HashMap;
use std::time::Duration;
use unbuckle_engine::Counters;
use unbuckle_fastpath::Reason;

/// The version whose behaviour this is; clients decide by it what they may ask for.
const VERSION: &str = "1.6.45";

/// Everything that counts up, by its name in `stats`. `stats reset` sets these back.
fn totals(shared: &Shared<'_>) -> HashMap<&'static str, u64> {
    let mut totals = HashMap::new();
    for desk in &shared.desks {
        for (name, value) in Counters::NAMES.into_iter().zip(desk.counters.values()) {
            *totals.entry(name).or_default() += value;
        }
    }
    let door =
        |count: fn(&DoorCounts) -> &Count| shared.desks.iter().map(|desk| count(&desk.door).value()).sum();
    let counts = shared.store.counts();
    let logs = shared.hub.tally();
    totals.extend([
        ("total_connections", shared.accept.accepted.value()),
        ("rejected_connections", shared.accept.rejected.value()),
        ("listen_disabled_num", shared.accept.listen_disabled.value()),
        ("time_in_listen_disabled_us", shared.accept.listen_disabled_us.value()),
        ("response_obj_oom", door(|door| &door.output_exhausted)),
        ("read_buf_oom", door(|door| &door.input_exhausted)),
        ("idle_kicks", door(|door| &door.idle_kicks)),
        ("bytes_read", door(|door| &door.bytes_read)),
        ("bytes_written", door(|door| &door.bytes_written)),
        ("conn_yields", door(|door| &door.yields)),
        ("ssl_new_sessions", door(|door| &door.tls_new_sessions)),
        ("ssl_handshake_errors", door(|door| &door.tls_handshake_errors)),
        ("ssl_proto_errors", door(|door| &door.tls_protocol_errors)),
        ("udp_dropped_malformed", door(|door| &door.udp_dropped_malformed)),
        ("udp_dropped_rate", door(|door| &door.udp_dropped_rate)),
        ("udp_dropped_size", door(|door| &door.udp_dropped_size)),
        ("udp_dropped_unsent", door(|door| &door.udp_dropped_unsent)),
        ("lru_crawler_starts", shared.crawls.load(std::sync::atomic::Ordering::Relaxed)),
        ("log_worker_dropped", logs.dropped),
        ("log_worker_written", logs.written),
        ("log_watcher_skipped", logs.skipped),
        ("log_watcher_sent", logs.sent),
        ("total_items", counts.total_items),
        ("evictions", counts.evictions),
        ("evicted_unfetched", counts.evicted_unfetched),
        ("evicted_active", counts.evicted_active),
        ("expired_unfetched", counts.expired_unfetched),
        ("reclaimed", counts.reclaimed),
        ("crawler_reclaimed", counts.crawler_reclaimed),
        ("crawler_items_checked", counts.crawler_items_checked),
        ("get_expired", counts.get_expired),
        ("get_flushed", counts.get_flushed),
        ("locked_reads", counts.locked_reads),
        ("ghost_hits", counts.ghost_hits),
        ("index_evictions", counts.index_evictions),
        ("relocated", counts.relocated),
        ("read_retries", counts.read_retries),
        ("corrupt", counts.corrupt),
        ("out_of_memory", counts.out_of_memory),
        ("pages_given_back", counts.pages_given_back),
    ]);
    if let Some(fast_path) = &shared.fast_path {
        add_fast_path(&fast_path.counters(), &mut totals);
    }
    totals
}

/// What was answered in the kernel: each of its keys is a get and a hit like any other.
fn add_fast_path(counters: &unbuckle_fastpath::Counters, totals: &mut HashMap<&'static str, u64>) {
    for (name, value) in [
        ("cmd_get", counters.hits),
        ("get_hits", counters.hits),
        ("bytes_read", counters.bytes_read),
        ("bytes_written", counters.bytes_written),
        ("fastpath_served", counters.served),
        ("fastpath_hits", counters.hits),
    ] {
        *totals.entry(name).or_default() += value;
    }
    totals.extend(PASSED_NAMES.into_iter().zip(counters.passed));
}

/// Packets for our ports that the fast path left to the server, by reason: names in `stats unbuckle`.
const PASSED_NAMES: [&str; Reason::COUNT] = [
    "fastpath_passed_disabled",
    "fastpath_passed_silent",
    "fastpath_passed_size",
    "fastpath_passed_network",
    "fastpath_passed_foreign",
    "fastpath_passed_source",
    "fastpath_passed_policy",
    "fastpath_passed_transport",
    "fastpath_passed_frame",
    "fastpath_passed_command",
    "fastpath_passed_miss",
    "fastpath_passed_torn",
    "fastpath_passed_special",
    "fastpath_passed_long",
    "fastpath_passed_resize",
    "fastpath_passed_internal",
];

pub(super) fn reset(shared: &Shared<'_>) {
    shared.desks.iter().for_each(|desk| desk.reporter.prefixes.clear());
    lock(&shared.baseline).values = totals(shared);
}

/// Totals since the last reset.
struct Since {
    totals: HashMap<&'static str, u64>,
    baseline: HashMap<&'static str, u64>,
}

impl Since {
    fn new(shared: &Shared<'_>) -> Since {
        Since { totals: totals(shared), baseline: lock(&shared.baseline).values.clone() }
    }

    /// 0 for a name that nothing counts.
    fn value(&self, name: &str) -> u64 {
        let now = self.totals.get(name).copied().unwrap_or(0);
        now.saturating_sub(self.baseline.get(name).copied().unwrap_or(0))
    }

    fn all(&self, reply: &mut Vec<u8>, names: &[&str]) {
        for name in names {
            stat(reply, name, self.value(name));
        }
    }
}

pub(super) fn general(shared: &Shared<'_>, reply: &mut Vec<u8>) {
    let since = Since::new(shared);
    let gauges = shared.store.gauges();
    process(shared, reply);
    connections(shared, &since, reply);
    since.all(reply, &REQUESTS);
    since.all(reply, &["auth_cmds", "auth_errors"]);
    if shared.options.extended.idle_timeout_s > 0 {
        stat(reply, "idle_kicks", since.value("idle_kicks"));
    }
    since.all(reply, &["bytes_read", "bytes_written"]);
    stat(reply, "limit_maxbytes", gauges.limit_bytes);
    let accepting = !shared.listening_paused.load(std::sync::atomic::Ordering::Relaxed);
    stat(reply, "accepting_conns", u8::from(accepting));
    since.all(reply, &["listen_disabled_num", "time_in_listen_disabled_us"]);
    stat(reply, "threads", shared.options.threads);
    stat(reply, "conn_yields", since.value("conn_yields"));
    stat(reply, "hash_power_level", (gauges.index_lines * 8).checked_ilog2().unwrap_or(0));
    stat(reply, "hash_bytes", gauges.index_bytes);
    stat(reply, "hash_is_expanding", 0);
    let shown = Shown::of(shared);
    if shown.slab_moves {
        since.all(reply, &SLAB_MOVES);
        stat(reply, "slab_reassign_last_busy_status", "none");
        since.all(reply, &["slab_reassign_running", "slabs_moved"]);
    }
    if shown.crawler {
        stat(reply, "lru_crawler_running", u8::from(shared.store.is_crawling()));
        stat(reply, "lru_crawler_starts", since.value("lru_crawler_starts"));
    }
    if shown.queues {
        stat(reply, "lru_maintainer_juggles", 0);
    }
    since.all(reply, &LOGS);
    stat(reply, "log_watchers", shared.hub.tally().watchers);
    tls(shared, &since, reply);
    since.all(reply, &["unexpected_napi_ids", "round_robin_fallback"]);
    stat(reply, "bytes", gauges.item_bytes + gauges.chunk_bytes);
    stat(reply, "curr_items", gauges.items);
    stat(reply, "total_items", since.value("total_items"));
    stat(reply, "slab_global_page_pool", gauges.pages_free);
    items(&since, shown, reply);
}

fn items(since: &Since, shown: Shown, reply: &mut Vec<u8>) {
    since.all(reply, &["expired_unfetched", "evicted_unfetched"]);
    if shown.queues {
        since.all(reply, &["evicted_active"]);
    }
    since.all(
        reply,
        &["evictions", "reclaimed", "crawler_reclaimed", "crawler_items_checked", "lrutail_reflocked"],
    );
    if shown.queues {
        since.all(
            reply,
            &["moves_to_cold", "moves_to_warm", "moves_within_lru", "direct_reclaims", "lru_bumps_dropped"],
        );
    }
}

const REQUESTS: [&str; 22] = [
    "cmd_get",
    "cmd_set",
    "cmd_flush",
    "cmd_touch",
    "cmd_meta",
    "get_hits",
    "get_misses",
    "get_expired",
    "get_flushed",
    "delete_misses",
    "delete_hits",
    "incr_misses",
    "incr_hits",
    "decr_misses",
    "decr_hits",
    "cas_misses",
    "cas_hits",
    "cas_badval",
    "touch_hits",
    "touch_misses",
    "store_too_large",
    "store_no_memory",
];

const SLAB_MOVES: [&str; 6] = [
    "slab_reassign_rescues",
    "slab_reassign_chunk_rescues",
    "slab_reassign_inline_reclaim",
    "slab_reassign_busy_items",
    "slab_reassign_busy_deletes",
    "slab_reassign_busy_nomem",
];

const LOGS: [&str; 5] =
    ["malloc_fails", "log_worker_dropped", "log_worker_written", "log_watcher_skipped", "log_watcher_sent"];

/// Only where TLS is on.
fn tls(shared: &Shared<'_>, since: &Since, reply: &mut Vec<u8>) {
    let Some(tls) = &shared.tls else { return };
    if shared.options.extended.tls.session_cache {
        stat(reply, "ssl_new_sessions", since.value("ssl_new_sessions"));
    }
    since.all(reply, &["ssl_handshake_errors", "ssl_proto_errors"]);
    stat(reply, "time_since_server_cert_refresh", tls.since_refresh_s(shared.clock.uptime_s()));
}

fn process(shared: &Shared<'_>, reply: &mut Vec<u8>) {
    let usage = system::usage();
    let seconds = |time: Duration| format!("{}.{:06}", time.as_secs(), time.subsec_micros());
    stat(reply, "pid", std::process::id());
    stat(reply, "uptime", shared.clock.uptime_s());
    stat(reply, "time", shared.clock.unix_s());
    stat(reply, "version", VERSION);
    stat(reply, "libevent", "none");
    stat(reply, "pointer_size", usize::BITS);
    stat(reply, "rusage_user", seconds(usage.user));
    stat(reply, "rusage_system", seconds(usage.system));
}

fn connections(shared: &Shared<'_>, since: &Since, reply: &mut Vec<u8>) {
    let current = shared.connections();
    stat(reply, "max_connections", shared.options.connections_max);
    stat(reply, "curr_connections", current);
    stat(reply, "total_connections", since.value("total_connections"));
    if Shown::of(shared).rejections {
        stat(reply, "rejected_connections", since.value("rejected_connections"));
    }
    stat(reply, "connection_structures", current);
    stat(reply, "response_obj_oom", since.value("response_obj_oom"));
    stat(reply, "response_obj_count", 0);
    stat(reply, "response_obj_bytes", 0);
    stat(reply, "read_buf_count", shared.options.threads);
    stat(reply, "read_buf_bytes", shared.budget.used_bytes());
    stat(reply, "read_buf_bytes_free", 0);
    stat(reply, "read_buf_oom", since.value("read_buf_oom"));
    stat(reply, "reserved_fds", shared.roster.len().saturating_sub(shared.options.connections_max as usize));
}

pub(super) fn own(shared: &Shared<'_>, reply: &mut Vec<u8>) {
    let since = Since::new(shared);
    let gauges = shared.store.gauges();
    stat(reply, "version", env!("CARGO_PKG_VERSION"));
    stat(reply, "parked_bytes", shared.budget.used_bytes());
    stat(reply, "pinned_bytes", gauges.pinned_bytes);
    stat(reply, "pages_total", gauges.pages_total);
    stat(reply, "pages_free", gauges.pages_free);
    stat(reply, "pages_small", gauges.pages_small);
    stat(reply, "pages_main", gauges.pages_main);
    stat(reply, "page_bytes", gauges.page_bytes);
    since.all(
        reply,
        &[
            "index_evictions",
            "relocated",
            "ghost_hits",
            "read_retries",
            "locked_reads",
            "corrupt",
            "out_of_memory",
            "pages_given_back",
            "udp_dropped_malformed",
            "udp_dropped_rate",
            "udp_dropped_size",
            "udp_dropped_unsent",
        ],
    );
    if let Some(passwords) = &shared.passwords {
        stat(reply, "auth_unheard", passwords.unheard());
    }
    if let Some(fast_path) = &shared.fast_path {
        stat(reply, "fastpath", fast_path.describe());
        since.all(reply, &["fastpath_served", "fastpath_hits"]);
        since.all(reply, &PASSED_NAMES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_the_name_that_the_programs_give_it() {
        for (name, reason) in PASSED_NAMES.into_iter().zip(Reason::NAMES) {
            assert_eq!(name, format!("fastpath_passed_{reason}"));
        }
    }
}
