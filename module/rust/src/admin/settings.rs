//! `stats settings`: names and order of memcached 1.6.45, with what the module was loaded with.
//!
//! Where a setting steers something that is not here, the value is memcached's default.

use super::text::{Name, Text};
use crate::door::Core;
use core::sync::atomic::Ordering::Relaxed;
use unbuckle_engine::Protocol;
use unbuckle_wire::number::{DECIMAL_BYTES_MAX, decimal};

fn yes_no(value: bool) -> &'static [u8] {
    if value { b"yes" } else { b"no" }
}

pub(super) fn settings(core: &Core, reply: &mut Text<'_, '_>) {
    let settings = &core.settings;
    reply.stat(b"maxbytes", core.store.limit_bytes());
    reply.stat(b"maxconns", u64::from(settings.connections_max));
    reply.stat(b"tcpport", u64::from(settings.tcp_port));
    reply.stat(b"udpport", u64::from(settings.udp_port));
    reply.word(b"inter", b"NULL");
    reply.stat(b"verbosity", u64::from(core.verbosity.load(Relaxed)));
    reply.stat(b"oldest", 0);
    reply.word(b"evictions", if settings.evict != 0 { b"on" } else { b"off" });
    reply.word(b"domain_socket", b"NULL");
    reply.word(b"umask", b"700");
    reply.word(b"shutdown_command", b"no");
    growth_factor(settings.growth_percent, reply);
    reply.stat(b"chunk_size", u64::from(settings.chunk_bytes_min));
    reply.stat(b"num_threads", u64::from(settings.tcp_workers));
    reply.stat(b"num_threads_per_udp", u64::from(settings.tcp_workers));
    reply.word(b"stat_key_prefix", b":");
    reply.word(b"detail_enabled", b"no");
    reply.stat(b"reqs_per_event", u64::from(settings.requests_per_turn));
    reply.word(b"cas_enabled", yes_no(settings.cas != 0));
    reply.stat(b"tcp_backlog", 1024);
    let protocol: &[u8] = match settings.protocol() {
        Protocol::Negotiated => b"auto-negotiate",
        Protocol::Text => b"ascii",
        Protocol::Binary => b"binary",
    };
    reply.word(b"binding_protocol", protocol);
    reply.word(b"auth_enabled_sasl", b"no");
    reply.word(b"auth_enabled_ascii", b"no");
    reply.stat(b"item_size_max", settings.item_bytes_max);
    for (name, value) in REST {
        match *name {
            b"slab_chunk_max" => reply.stat(name, u64::from(settings.chunk_bytes_max())),
            b"flush_enabled" => reply.word(name, yes_no(settings.flush_enabled != 0)),
            b"idle_timeout" => reply.stat(name, u64::from(settings.idle_timeout_s)),
            name => reply.word(name, value),
        }
    }
}

/// Hundredths, as a number with two digits behind its point.
fn growth_factor(percent: u32, reply: &mut Text<'_, '_>) {
    let digit = |value: u32| [b'0'.wrapping_add((value % 10) as u8)];
    let whole = &mut [0; DECIMAL_BYTES_MAX];
    let whole = decimal(u64::from(percent / 100), whole);
    let number = Name::of(&[whole, b".", &digit(percent / 10), &digit(percent)]);
    reply.word(b"growth_factor", number.as_slice());
}

/// The rest, in order, with memcached's defaults. An empty one is filled in above.
const REST: &[(&[u8], &[u8])] = &[
    (b"maxconns_fast", b"yes"),
    (b"hashpower_init", b"0"),
    (b"slab_reassign", b"yes"),
    (b"slab_automove", b"1"),
    (b"slab_automove_ratio", b"0.80"),
    (b"slab_automove_window", b"10"),
    (b"slab_chunk_max", b""),
    (b"lru_crawler", b"yes"),
    (b"lru_crawler_sleep", b"100"),
    (b"lru_crawler_tocrawl", b"0"),
    (b"tail_repair_time", b"0"),
    (b"flush_enabled", b""),
    (b"dump_enabled", b"no"),
    (b"hash_algorithm", b"murmur3"),
    (b"lru_maintainer_thread", b"yes"),
    (b"lru_segmented", b"yes"),
    (b"hot_lru_pct", b"20"),
    (b"warm_lru_pct", b"40"),
    (b"hot_max_factor", b"0.20"),
    (b"warm_max_factor", b"2.00"),
    (b"temp_lru", b"no"),
    (b"temporary_ttl", b"61"),
    (b"idle_timeout", b""),
    (b"watcher_logbuf_size", b"262144"),
    (b"worker_logbuf_size", b"65536"),
    (b"read_buf_mem_limit", b"0"),
    (b"track_sizes", b"no"),
    (b"inline_ascii_response", b"no"),
    (b"ext_item_size", b"512"),
    (b"ext_item_age", b"4294967295"),
    (b"ext_low_ttl", b"0"),
    (b"ext_recache_rate", b"2000"),
    (b"ext_wbuf_size", b"4194304"),
    (b"ext_compact_under", b"0"),
    (b"ext_drop_under", b"0"),
    (b"ext_max_sleep", b"1000000"),
    (b"ext_max_frag", b"0.80"),
    (b"slab_automove_freeratio", b"0.010"),
    (b"ext_drop_unread", b"no"),
    (b"ssl_enabled", b"no"),
    (b"ssl_chain_cert", b"(null)"),
    (b"ssl_key", b"(null)"),
    (b"ssl_verify_mode", b"0"),
    (b"ssl_keyformat", b"1"),
    (b"ssl_ciphers", b"NULL"),
    (b"ssl_ca_cert", b"NULL"),
    (b"ssl_wbuf_size", b"16384"),
    (b"ssl_session_cache", b"no"),
    (b"ssl_kernel_tls", b"no"),
    (b"ssl_min_version", b"tlsv1.2"),
    (b"num_napi_ids", b"0"),
    (b"memory_file", b"(null)"),
    (b"client_flags_size", b"4"),
];
