//! `stats settings`: names and order of memcached 1.6.45.
//!
//! Where a setting steers something that this server has not, the value is what was asked for with `-o`, or memcached's
//! default: tools that check their own configuration find it.

use super::{stat, yes_no};
use crate::options::{KeyFormat, Options};
use crate::roster::lock;
use crate::shared::Shared;
use std::path::PathBuf;

pub(super) fn settings(shared: &Shared<'_>, reply: &mut Vec<u8>) {
    let options = &shared.options;
    stat(reply, "maxbytes", shared.store.limit_bytes());
    stat(reply, "maxconns", options.connections_max);
    stat(reply, "tcpport", options.tcp_port.unwrap_or(0));
    stat(reply, "udpport", options.udp_port.unwrap_or(0));
    stat(reply, "inter", options.listen_text.as_deref().unwrap_or("NULL"));
    stat(reply, "verbosity", shared.verbosity());
    stat(reply, "oldest", 0);
    stat(reply, "evictions", if options.evict { "on" } else { "off" });
    let unix = options.unix_socket.as_deref().map(|path| path.display().to_string());
    stat(reply, "domain_socket", unix.as_deref().unwrap_or("NULL"));
    stat(reply, "umask", format_args!("{:o}", options.unix_mask));
    stat(reply, "shutdown_command", yes_no(options.shutdown_enabled));
    stat(reply, "growth_factor", format_args!("{:.2}", options.growth_factor));
    stat(reply, "chunk_size", options.chunk_bytes_min);
    stat(reply, "num_threads", options.threads);
    stat(reply, "num_threads_per_udp", options.threads);
    stat(reply, "stat_key_prefix", options.prefix_delimiter);
    stat(reply, "detail_enabled", yes_no(shared.hub.wants_prefixes()));
    stat(reply, "reqs_per_event", options.requests_per_event);
    stat(reply, "cas_enabled", yes_no(options.cas));
    stat(reply, "tcp_backlog", options.backlog);
    stat(reply, "binding_protocol", options.protocol.name());
    stat(reply, "auth_enabled_sasl", yes_no(options.sasl));
    match &options.auth_file {
        Some(path) => stat(reply, "auth_enabled_ascii", path.display()),
        None => stat(reply, "auth_enabled_ascii", "no"),
    }
    stat(reply, "item_size_max", options.item_bytes_max);
    without_effect(shared, reply);
}

/// The rest, in order, with memcached's defaults. An empty default is filled in below.
const REST: &[(&str, &str)] = &[
    ("maxconns_fast", "yes"),
    ("hashpower_init", "0"),
    ("slab_reassign", "yes"),
    ("slab_automove", "1"),
    ("slab_automove_ratio", "0.80"),
    ("slab_automove_window", "10"),
    ("slab_chunk_max", ""),
    ("lru_crawler", ""),
    ("lru_crawler_sleep", "100"),
    ("lru_crawler_tocrawl", "0"),
    ("tail_repair_time", "0"),
    ("flush_enabled", ""),
    ("dump_enabled", ""),
    ("hash_algorithm", "murmur3"),
    ("lru_maintainer_thread", "yes"),
    ("lru_segmented", "yes"),
    ("hot_lru_pct", "20"),
    ("warm_lru_pct", "40"),
    ("hot_max_factor", "0.20"),
    ("warm_max_factor", "2.00"),
    ("temp_lru", "no"),
    ("temporary_ttl", "61"),
    ("idle_timeout", "0"),
    ("watcher_logbuf_size", "262144"),
    ("worker_logbuf_size", "65536"),
    ("read_buf_mem_limit", "0"),
    ("track_sizes", "no"),
    ("inline_ascii_response", "no"),
    ("drop_privileges", "no"),
    ("ext_item_size", "512"),
    ("ext_item_age", "4294967295"),
    ("ext_low_ttl", "0"),
    ("ext_recache_rate", "2000"),
    ("ext_wbuf_size", "4194304"),
    ("ext_compact_under", "0"),
    ("ext_drop_under", "0"),
    ("ext_max_sleep", "1000000"),
    ("ext_max_frag", "0.80"),
    ("slab_automove_freeratio", "0.010"),
    ("ext_drop_unread", "no"),
    (TLS, ""),
    ("num_napi_ids", "0"),
    ("memory_file", "(null)"),
    ("client_flags_size", "4"),
];

fn memory_file(options: &Options) -> Option<String> {
    Some(options.memory_file.as_deref()?.display().to_string())
}

/// Stands in [`REST`] for the lines of [`tls`].
const TLS: &str = "ssl_enabled";

fn tls(options: &Options, reply: &mut Vec<u8>) {
    let tls = &options.extended.tls;
    let shown = |path: &Option<PathBuf>| path.as_deref().map(|path| path.display().to_string());
    stat(reply, TLS, yes_no(options.tls_enabled));
    stat(reply, "ssl_chain_cert", shown(&tls.chain_cert).as_deref().unwrap_or("(null)"));
    stat(reply, "ssl_key", shown(&tls.key).as_deref().unwrap_or("(null)"));
    stat(reply, "ssl_verify_mode", tls.verify_flags);
    stat(reply, "ssl_keyformat", if tls.key_format == KeyFormat::Pem { 1 } else { 2 });
    stat(reply, "ssl_ciphers", tls.ciphers.as_deref().unwrap_or("NULL"));
    stat(reply, "ssl_ca_cert", shown(&tls.ca_cert).as_deref().unwrap_or("NULL"));
    stat(reply, "ssl_wbuf_size", tls.write_buffer_bytes);
    stat(reply, "ssl_session_cache", yes_no(tls.session_cache));
    stat(reply, "ssl_kernel_tls", yes_no(tls.kernel_tls));
    stat(reply, "ssl_min_version", tls.min_version.name());
}

fn without_effect(shared: &Shared<'_>, reply: &mut Vec<u8>) {
    let options = &shared.options;
    let shown = lock(&shared.shown_settings);
    for &(name, default) in REST {
        if name == TLS {
            tls(options, reply);
            continue;
        }
        let value = match name {
            "slab_chunk_max" => options.chunk_bytes_max().to_string(),
            "lru_crawler" => yes_no(shared.store.crawler_is_enabled()).to_owned(),
            "memory_file" => memory_file(options).unwrap_or_else(|| default.to_owned()),
            "flush_enabled" => yes_no(options.flush_enabled).to_owned(),
            "dump_enabled" => yes_no(options.dump_enabled).to_owned(),
            _ => shown.get(name).map_or(default, String::as_str).to_owned(),
        };
        stat(reply, name, value);
    }
}
