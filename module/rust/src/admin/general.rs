//! `stats`, in memcached 1.6.45's order; `stats reset`; and `stats unbuckle`, for what it has no name for.
//!
//! A name whose matter does not exist here (slab moves, LRU segments, a process) is listed with 0.

use super::text::Text;
use crate::abi::door_counts;
use crate::door::{Core, TOTALS};
use core::sync::atomic::Ordering::Relaxed;
use unbuckle_engine::Counters;

/// The version whose behaviour this is; clients decide by it what they may ask for.
const VERSION: &[u8] = b"1.6.45";
/// The region's clock begins here: see `time.c`.
const SECONDS_BEFORE_START: u32 = 2;

/// Everything that counts up, with its name: the engines' first, then the shim's and the store's. `stats reset` sets these
/// back. They are added up in the core, as the stack is short; who asks at the same time adds up the same.
struct Totals<'c>(&'c Core);

const DOOR: [&[u8]; 16] = [
    b"total_connections",
    b"rejected_connections",
    b"idle_kicks",
    b"bytes_read",
    b"bytes_written",
    b"conn_yields",
    b"malloc_fails",
    b"udp_hooked",
    b"udp_from_socket",
    b"udp_replies",
    b"udp_dropped_malformed",
    b"udp_dropped_checksum",
    b"udp_dropped_rate",
    b"udp_dropped_size",
    b"udp_dropped_queue",
    b"udp_dropped_unsent",
];
const STORE: [&[u8]; 17] = [
    b"total_items",
    b"evictions",
    b"evicted_unfetched",
    b"evicted_active",
    b"expired_unfetched",
    b"reclaimed",
    b"crawler_reclaimed",
    b"crawler_items_checked",
    b"get_expired",
    b"get_flushed",
    b"index_evictions",
    b"relocated",
    b"read_retries",
    b"locked_reads",
    b"ghost_hits",
    b"corrupt",
    b"out_of_memory",
];
const _: () = assert!(Counters::COUNT + DOOR.len() + STORE.len() <= TOTALS);

impl<'c> Totals<'c> {
    /// As of now, since the last reset.
    fn now(core: &'c Core) -> Totals<'c> {
        engines_now(core);
        door_now(core);
        store_now(core);
        Totals(core)
    }

    /// 0 for a name that nothing counts.
    fn value(&self, name: &[u8]) -> u64 {
        let engines = Counters::NAMES.iter().map(|name| name.as_bytes());
        let names = engines.chain(DOOR.iter().copied()).chain(STORE.iter().copied());
        let Some(at) = names.zip(self.0.totals).position(|(counted, _)| counted == name) else { return 0 };
        let [total, baseline] = [self.0.totals, self.0.baseline]
            .map(|counts| counts.get(at).map_or(0, |count| count.load(Relaxed)));
        total.saturating_sub(baseline)
    }

    fn all(&self, reply: &mut Text<'_, '_>, names: &[&[u8]]) {
        for name in names {
            reply.stat(name, self.value(name));
        }
    }
}

/// Puts values in their places in the totals, behind the first `before`.
fn put(core: &Core, before: usize, values: impl IntoIterator<Item = u64>) {
    for (total, value) in core.totals.iter().skip(before).zip(values) {
        total.store(value, Relaxed);
    }
}

#[inline(never)]
fn engines_now(core: &Core) {
    let mut sums = [0u64; Counters::COUNT];
    for desk in core.desks {
        for (sum, value) in sums.iter_mut().zip(desk.counters.values()) {
            *sum = sum.wrapping_add(value);
        }
    }
    put(core, 0, sums);
}

#[inline(never)]
fn door_now(core: &Core) {
    let door = door_counts();
    let values: [u64; DOOR.len()] = [
        door.connections_total,
        door.connections_rejected,
        door.idle_kicks,
        door.bytes_read,
        door.bytes_written,
        door.yields,
        door.out_of_memory,
        door.udp_hooked,
        door.udp_from_socket,
        door.udp_replies,
        door.udp_dropped_malformed,
        door.udp_dropped_checksum,
        door.udp_dropped_rate,
        door.udp_dropped_size,
        door.udp_dropped_queue,
        door.udp_dropped_unsent,
    ];
    put(core, Counters::COUNT, values);
}

#[inline(never)]
fn store_now(core: &Core) {
    let store = core.store.counts();
    let values: [u64; STORE.len()] = [
        store.total_items,
        store.evictions,
        store.evicted_unfetched,
        store.evicted_active,
        store.expired_unfetched,
        store.reclaimed,
        store.crawler_reclaimed,
        store.crawler_items_checked,
        store.get_expired,
        store.get_flushed,
        store.index_evictions,
        store.relocated,
        store.read_retries,
        store.locked_reads,
        store.ghost_hits,
        store.corrupt,
        store.out_of_memory,
    ];
    put(core, Counters::COUNT + DOOR.len(), values);
}

pub(super) fn reset(core: &Core) {
    let Totals(core) = Totals::now(core);
    for (baseline, total) in core.baseline.iter().zip(core.totals) {
        baseline.store(total.load(Relaxed), Relaxed);
    }
}

pub(super) fn general(core: &Core, now_s: u32, reply: &mut Text<'_, '_>) {
    let since = Totals::now(core);
    let gauges = core.store.gauges();
    let now_s = core.now_s(now_s);
    reply.stat(b"pid", 0);
    reply.stat(b"uptime", u64::from(now_s.saturating_sub(SECONDS_BEFORE_START)));
    reply.stat(b"time", core.settings.made_unix_s.saturating_add(u64::from(now_s)));
    reply.word(b"version", VERSION);
    reply.word(b"libevent", b"none");
    reply.stat(b"pointer_size", u64::from(usize::BITS));
    reply.word(b"rusage_user", b"0.000000");
    reply.word(b"rusage_system", b"0.000000");
    connections(core, &since, reply);
    since.all(reply, &REQUESTS);
    if core.settings.idle_timeout_s > 0 {
        reply.stat(b"idle_kicks", since.value(b"idle_kicks"));
    }
    since.all(reply, &[b"bytes_read", b"bytes_written"]);
    reply.stat(b"limit_maxbytes", gauges.limit_bytes);
    reply.stat(b"accepting_conns", 1);
    since.all(reply, &[b"listen_disabled_num", b"time_in_listen_disabled_us"]);
    reply.stat(b"threads", u64::from(core.settings.tcp_workers));
    reply.stat(b"conn_yields", since.value(b"conn_yields"));
    let slots = gauges.index_lines.saturating_mul(8);
    reply.stat(b"hash_power_level", u64::from(slots.checked_ilog2().unwrap_or(0)));
    reply.stat(b"hash_bytes", gauges.index_bytes);
    reply.stat(b"hash_is_expanding", 0);
    since.all(reply, &SLABS);
    reply.word(b"slab_reassign_last_busy_status", b"none");
    since.all(reply, &THREADS_AND_LOGS);
    reply.stat(b"bytes", gauges.item_bytes.wrapping_add(gauges.chunk_bytes));
    reply.stat(b"curr_items", gauges.items);
    reply.stat(b"total_items", since.value(b"total_items"));
    reply.stat(b"slab_global_page_pool", gauges.pages_free);
    since.all(reply, &ITEMS);
}

fn connections(core: &Core, since: &Totals<'_>, reply: &mut Text<'_, '_>) {
    let current = door_counts().connections;
    reply.stat(b"max_connections", u64::from(core.settings.connections_max));
    reply.stat(b"curr_connections", current);
    reply.stat(b"total_connections", since.value(b"total_connections"));
    reply.stat(b"rejected_connections", since.value(b"rejected_connections"));
    reply.stat(b"connection_structures", current);
    since.all(reply, &BUFFERS);
}

const BUFFERS: [&[u8]; 8] = [
    b"response_obj_oom",
    b"response_obj_count",
    b"response_obj_bytes",
    b"read_buf_count",
    b"read_buf_bytes",
    b"read_buf_bytes_free",
    b"read_buf_oom",
    b"reserved_fds",
];

const REQUESTS: [&[u8]; 24] = [
    b"cmd_get",
    b"cmd_set",
    b"cmd_flush",
    b"cmd_touch",
    b"cmd_meta",
    b"get_hits",
    b"get_misses",
    b"get_expired",
    b"get_flushed",
    b"delete_misses",
    b"delete_hits",
    b"incr_misses",
    b"incr_hits",
    b"decr_misses",
    b"decr_hits",
    b"cas_misses",
    b"cas_hits",
    b"cas_badval",
    b"touch_hits",
    b"touch_misses",
    b"store_too_large",
    b"store_no_memory",
    b"auth_cmds",
    b"auth_errors",
];

const SLABS: [&[u8]; 6] = [
    b"slab_reassign_rescues",
    b"slab_reassign_chunk_rescues",
    b"slab_reassign_inline_reclaim",
    b"slab_reassign_busy_items",
    b"slab_reassign_busy_deletes",
    b"slab_reassign_busy_nomem",
];

const THREADS_AND_LOGS: [&[u8]; 13] = [
    b"slab_reassign_running",
    b"slabs_moved",
    b"lru_crawler_running",
    b"lru_crawler_starts",
    b"lru_maintainer_juggles",
    b"malloc_fails",
    b"log_worker_dropped",
    b"log_worker_written",
    b"log_watcher_skipped",
    b"log_watcher_sent",
    b"log_watchers",
    b"unexpected_napi_ids",
    b"round_robin_fallback",
];

const ITEMS: [&[u8]; 13] = [
    b"expired_unfetched",
    b"evicted_unfetched",
    b"evicted_active",
    b"evictions",
    b"reclaimed",
    b"crawler_reclaimed",
    b"crawler_items_checked",
    b"lrutail_reflocked",
    b"moves_to_cold",
    b"moves_to_warm",
    b"moves_within_lru",
    b"direct_reclaims",
    b"lru_bumps_dropped",
];

/// What only this store has.
const OWN: [&[u8]; 16] = [
    b"index_evictions",
    b"relocated",
    b"ghost_hits",
    b"read_retries",
    b"locked_reads",
    b"corrupt",
    b"out_of_memory",
    b"udp_hooked",
    b"udp_from_socket",
    b"udp_replies",
    b"udp_dropped_malformed",
    b"udp_dropped_checksum",
    b"udp_dropped_rate",
    b"udp_dropped_size",
    b"udp_dropped_queue",
    b"udp_dropped_unsent",
];

pub(super) fn own(core: &Core, reply: &mut Text<'_, '_>) {
    let gauges = core.store.gauges();
    reply.word(b"version", env!("CARGO_PKG_VERSION").as_bytes());
    reply.word(b"door", b"module");
    reply.stat(b"engines", u64::from(core.settings.engines));
    reply.stat(b"pinned_bytes", gauges.pinned_bytes);
    reply.stat(b"pages_total", gauges.pages_total);
    reply.stat(b"pages_free", gauges.pages_free);
    reply.stat(b"pages_small", gauges.pages_small);
    reply.stat(b"pages_main", gauges.pages_main);
    reply.stat(b"page_bytes", gauges.page_bytes);
    Totals::now(core).all(reply, &OWN);
}
