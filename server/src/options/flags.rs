//! The table of command line flags: the one source of what is parsed and of the help text.
//!
//! Short and long names are memcached 1.6.45's, so that a start script needs no change. What a flag does is in
//! [`super::apply`]; what it is called and how it is described is only here.

/// What a flag takes after its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    Nothing,
    /// The word that help shows for the value.
    Value(&'static str),
    /// A value that may only come as `--name=value`; the word that help shows for it.
    Optional(&'static str),
    /// A value that may only come as `--name=value`, and is ignored.
    OptionalIgnored,
}

/// Identity of a flag, matched exhaustively where flags take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Id {
    Port,
    UdpPort,
    UnixSocket,
    UnixMask,
    EnableShutdown,
    Listen,
    UdpAllow,
    Daemon,
    CoreDumps,
    User,
    MemoryLimit,
    DisableEvictions,
    ConnectionLimit,
    LockMemory,
    Verbose,
    Help,
    Licence,
    Version,
    PidFile,
    GrowthFactor,
    SizeMin,
    LargePages,
    PrefixDelimiter,
    Threads,
    RequestsPerEvent,
    DisableCas,
    Backlog,
    Protocol,
    ItemSizeMax,
    Sasl,
    DisableFlushAll,
    DisableDumping,
    DisableWatch,
    AuthFile,
    MemoryFile,
    Tls,
    Extended,
    FastPath,
    FastPathHook,
    FastPathPin,
    FastPathGrace,
    FastPathRequired,
    DebugTime,
    NapiIds,
}

#[derive(Debug)]
pub(super) struct Flag {
    pub(super) id: Id,
    pub(super) short: Option<char>,
    pub(super) long: Option<&'static str>,
    pub(super) takes: Takes,
    /// Lines are split at `\n` and indented by the printer.
    pub(super) help: &'static str,
}

const fn flag(id: Id, short: char, long: &'static str, takes: Takes, help: &'static str) -> Flag {
    Flag { id, short: Some(short), long: Some(long), takes, help }
}

const fn long(id: Id, long: &'static str, takes: Takes, help: &'static str) -> Flag {
    Flag { id, short: None, long: Some(long), takes, help }
}

use Takes::{Nothing, Optional, OptionalIgnored, Value};

/// In the order of the help text.
pub(super) static FLAGS: &[Flag] = &[
    flag(Id::Port, 'p', "port", Value("num"), "TCP port (default: 11211; 0: no TCP; -1: any free port)"),
    flag(Id::UdpPort, 'U', "udp-port", Value("num"), "UDP port (default: 0, off)"),
    flag(Id::UnixSocket, 's', "unix-socket", Value("file"), "listen on this unix socket, and on no network"),
    flag(
        Id::UnixMask,
        'a',
        "unix-mask",
        Value("mask"),
        "access mask of the unix socket, octal (default: 700)",
    ),
    flag(Id::EnableShutdown, 'A', "enable-shutdown", Nothing, "allow the \"shutdown\" command"),
    flag(
        Id::Listen,
        'l',
        "listen",
        Value("addr"),
        "listen on this address (default: all; with no argument at all: loopback)\n\
         repeatable, or a comma separated list; each as host, host:port or [ipv6]:port;\n\
         with TLS, \"notls:\" in front is in the clear, \"btls:\" asks for no client\n\
         certificate, \"mtls:\" demands one",
    ),
    Flag {
        id: Id::UdpAllow,
        short: None,
        long: Some("udp-allow"),
        takes: Value("cidr"),
        help: "serve UDP sources in this range without limit, repeatable; \"any\" allows all\n\
               (default: loopback and private ranges; others are limited in rate, and\n\
               their replies to three times the request's size)",
    },
    flag(Id::Daemon, 'd', "daemon", Nothing, "run in the background"),
    flag(Id::CoreDumps, 'r', "enable-coredumps", Nothing, "raise the limit on core files"),
    flag(Id::User, 'u', "user", Value("user"), "become this user (when started as root)"),
    flag(
        Id::MemoryLimit,
        'm',
        "memory-limit",
        Value("num"),
        "memory for the cache in megabytes (default: 64)",
    ),
    flag(
        Id::DisableEvictions,
        'M',
        "disable-evictions",
        Nothing,
        "when full, answer an error; evict nothing",
    ),
    flag(
        Id::ConnectionLimit,
        'c',
        "conn-limit",
        Value("num"),
        "most connections at one time (default: 1024)",
    ),
    flag(Id::LockMemory, 'k', "lock-memory", Nothing, "keep all memory from being paged out"),
    flag(
        Id::MemoryFile,
        'e',
        "memory-file",
        Value("file"),
        "keep the cache in this file, for the next server to go on with",
    ),
    flag(Id::Verbose, 'v', "verbose", OptionalIgnored, "say more; -vv and -vvv say still more"),
    flag(Id::Help, 'h', "help", Nothing, "print this help"),
    flag(Id::Licence, 'i', "license", Nothing, "print the licence"),
    flag(Id::Version, 'V', "version", Nothing, "print the version"),
    flag(Id::PidFile, 'P', "pidfile", Value("file"), "write the process id to this file"),
    flag(
        Id::GrowthFactor,
        'f',
        "slab-growth-factor",
        Value("num"),
        "growth factor of the size classes that items are counted in (default: 1.25)",
    ),
    flag(
        Id::SizeMin,
        'n',
        "slab-min-size",
        Value("bytes"),
        "key, value and flags that the smallest size class holds (default: 48)",
    ),
    flag(Id::LargePages, 'L', "enable-largepages", Nothing, "ask the kernel for huge pages"),
    Flag {
        id: Id::PrefixDelimiter,
        short: Some('D'),
        long: None,
        takes: Value("char"),
        help: "ends the prefix of a key, for per-prefix statistics (default: \":\")",
    },
    flag(Id::Threads, 't', "threads", Value("num"), "worker threads (default: 4, or the cores if fewer)"),
    flag(
        Id::RequestsPerEvent,
        'R',
        "max-reqs-per-event",
        Value("num"),
        "requests served to one connection before the others get their turn (default: 20)",
    ),
    flag(Id::DisableCas, 'C', "disable-cas", Nothing, "use no CAS"),
    flag(
        Id::Backlog,
        'b',
        "listen-backlog",
        Value("num"),
        "queue of connections not yet accepted (default: 1024)",
    ),
    flag(
        Id::Protocol,
        'B',
        "protocol",
        Value("name"),
        "auto, ascii or binary (default: auto: by the first byte)",
    ),
    flag(
        Id::ItemSizeMax,
        'I',
        "max-item-size",
        Value("num"),
        "largest item in bytes, or with k or m (default: 1m, from 1k to 1024m)",
    ),
    flag(
        Id::Sasl,
        'S',
        "enable-sasl",
        Nothing,
        "ask binary clients for a password (SASL PLAIN); MEMCACHED_SASL_PWDB names\n\
         the file of users, with a line user:password for each",
    ),
    flag(
        Id::AuthFile,
        'Y',
        "auth-file",
        Value("file"),
        "ask text clients for a password: lines of user:password; read again on SIGHUP",
    ),
    flag(Id::DisableFlushAll, 'F', "disable-flush-all", Nothing, "refuse flush_all"),
    flag(Id::DisableDumping, 'X', "disable-dumping", Nothing, "refuse stats cachedump and stats detail"),
    flag(Id::DisableWatch, 'W', "disable-watch", Nothing, "refuse watch"),
    flag(
        Id::Tls,
        'Z',
        "enable-ssl",
        Nothing,
        "serve TCP with TLS 1.2 and 1.3; the certificate is set by the ssl_ options of -o",
    ),
    flag(
        Id::Extended,
        'o',
        "extended",
        Value("list"),
        "comma separated options of memcached; those that have an effect here:\n\
         maxconns_fast, no_maxconns_fast, idle_timeout=<seconds>, slab_chunk_max=<kilobytes>,\n\
         lru_crawler, no_lru_crawler, no_modern, track_sizes,\n\
         drop_privileges (no system calls but those that serving needs),\n\
         no_drop_privileges (files and networks, else out of reach, stay in it),\n\
         watcher_logbuf_size=<kilobytes>, worker_logbuf_size=<kilobytes>;\n\
         ssl_chain_cert=<file>, ssl_key=<file>, ssl_keyformat=<1: PEM, 2: DER>,\n\
         ssl_verify_mode=<0: ask for no client certificate, 1: ask, 2 and 3: demand one>,\n\
         ssl_ca_cert=<file>, ssl_ciphers=<OpenSSL names>, ssl_session_cache,\n\
         ssl_min_version=<2: TLS 1.2, 3: TLS 1.3>;\n\
         the others are accepted and named on standard error",
    ),
    long(
        Id::FastPath,
        "fastpath",
        Value("interface"),
        "answer gets over UDP (-U) that come in here in the kernel, before the network stack;\n\
         repeatable; firewall rules do not apply; \"unbuckle ctl doctor\" tells what is missing",
    ),
    long(
        Id::FastPathHook,
        "fastpath-hook",
        Value("name"),
        "where in the kernel: tcx, xdp or auto (default: auto, which is tcx from Linux 6.6 on)",
    ),
    long(
        Id::FastPathPin,
        "fastpath-pin",
        Optional("dir"),
        "let the cache and the answers outlive the daemon (default: /sys/fs/bpf/unbuckle);\n\
         the next daemon takes them over; \"unbuckle ctl detach\" ends them",
    ),
    long(
        Id::FastPathGrace,
        "fastpath-grace",
        Value("seconds"),
        "how long the kernel goes on answering when the daemon is silent (default: 10)",
    ),
    long(
        Id::FastPathRequired,
        "fastpath-required",
        Nothing,
        "do not start without the fast path (default: say why, and serve without it)",
    ),
    Flag {
        id: Id::DebugTime,
        short: None,
        long: Some("debug-time"),
        takes: Nothing,
        help: "for tests: a client may move the server's clock ahead with \"debugtime <seconds>\"",
    },
];

/// Known to memcached, not served: each is recognised so that it gets a clear answer. Not in the help text.
pub(super) static UNSERVED: &[Flag] = &[flag(Id::NapiIds, 'N', "napi-ids", Value("num"), "")];

/// What looking a long name up came to.
#[derive(Debug)]
pub(super) enum Found {
    Flag(&'static Flag),
    Unknown,
    Ambiguous,
}

fn all() -> impl Iterator<Item = &'static Flag> {
    FLAGS.iter().chain(UNSERVED)
}

pub(super) fn by_short(name: char) -> Option<&'static Flag> {
    all().find(|flag| flag.short == Some(name))
}

/// Takes an unambiguous beginning of a name for the name, as getopt_long does.
pub(super) fn by_long(name: &str) -> Found {
    if let Some(flag) = all().find(|flag| flag.long == Some(name)) {
        return Found::Flag(flag);
    }
    let mut matching = all().filter(|flag| flag.long.is_some_and(|long| long.starts_with(name)));
    match (matching.next(), matching.next()) {
        (Some(flag), None) => Found::Flag(flag),
        (Some(_), Some(_)) => Found::Ambiguous,
        (None, _) => Found::Unknown,
    }
}

const HELP_COLUMN: usize = 34;

pub(super) fn help_text() -> String {
    let mut text = format!("unbuckle {}\n", env!("CARGO_PKG_VERSION"));
    for flag in FLAGS {
        push_flag(&mut text, flag);
    }
    text
}

fn push_flag(text: &mut String, flag: &Flag) {
    let mut names = match (flag.short, flag.long) {
        (Some(short), Some(long)) => format!("-{short}, --{long}"),
        (Some(short), None) => format!("-{short}"),
        (None, Some(long)) => format!("    --{long}"),
        (None, None) => String::new(),
    };
    if let Value(word) = flag.takes {
        names.push(if flag.long.is_some() { '=' } else { ' ' });
        names.push_str(&format!("<{word}>"));
    }
    if let Optional(word) = flag.takes {
        names.push_str(&format!("[=<{word}>]"));
    }
    for (line, help) in flag.help.lines().enumerate() {
        let names = if line == 0 { names.as_str() } else { "" };
        text.push_str(&format!("{names:<HELP_COLUMN$}{help}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut shorts: Vec<_> = all().filter_map(|flag| flag.short).collect();
        let mut longs: Vec<_> = all().filter_map(|flag| flag.long).collect();
        shorts.sort_unstable();
        longs.sort_unstable();
        assert!(shorts.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(longs.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn the_beginning_of_a_long_name_is_enough_when_it_is_unique() {
        assert!(matches!(by_long("por"), Found::Flag(Flag { id: Id::Port, .. })));
        assert!(matches!(by_long("port"), Found::Flag(Flag { id: Id::Port, .. })));
        assert!(matches!(by_long("disable-"), Found::Ambiguous));
        assert!(matches!(by_long("fooble"), Found::Unknown));
    }

    #[test]
    fn help_fits_a_terminal_and_claims_nothing_that_is_not_there() {
        let text = help_text();
        assert!(text.lines().all(|line| line.len() <= 120), "{text}");
        assert!(text.contains("unix-socket"));
        for absent in ["ext_path", "proxy_config"] {
            assert!(!text.contains(absent), "{absent} is not served");
        }
    }
}
