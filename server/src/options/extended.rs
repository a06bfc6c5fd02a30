//! `-o`: memcached's suboptions.
//!
//! Every name of memcached 1.6.45 is known and its value checked, so that a start script needs no change. Few have
//! an effect here: most steer slab pages, LRU segments and threads that this server has none of. Those values are
//! kept to be echoed by `stats settings`, and the user is told, one line each.

use super::tls::{Setting, TlsOptions};
use super::{Refusal, exit};
use crate::watch::Sizes;
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug)]
enum Shape {
    /// Takes no value.
    Bare,
    /// A whole number in this range.
    Whole(u64, u64),
    /// A whole number that may be left out.
    WholeOrBare(u64, u64),
    /// A number above 0, up to this.
    Fraction(f64),
    Text,
    OneOf(&'static [&'static str]),
}

#[derive(Clone, Copy, Debug)]
enum Effect {
    /// Echoed in `stats settings`, and nothing else.
    None,
    MaxConnectionsFast(bool),
    IdleTimeout,
    ChunkMax,
    /// Kept in [`TlsOptions`], which also shows it.
    Tls(Setting),
    Crawler(bool),
    /// Of what it switches off, only some is here.
    NotModern,
    TrackSizes,
    WatcherLog,
    WorkerLog,
    /// `drop_privileges`, of which `=kill` is ours.
    Confine,
    NotConfine,
    /// Speaks about tests or builds of memcached: nothing to say about it.
    Silent,
}

/// `setting` names the line of `stats settings` that shows it: with a fixed text, or with the value times `unit`.
struct Suboption {
    name: &'static str,
    shape: Shape,
    setting: &'static str,
    shows: Shows,
    effect: Effect,
}

enum Shows {
    Nothing,
    Text(&'static str),
    Value {
        unit: u64,
    },
    /// With this many digits after the point.
    Decimal(usize),
}

const fn bare(name: &'static str, setting: &'static str, text: &'static str) -> Suboption {
    Suboption { name, shape: Shape::Bare, setting, shows: Shows::Text(text), effect: Effect::None }
}
const fn whole(name: &'static str, least: u64, most: u64, unit: u64) -> Suboption {
    let shape = Shape::Whole(least, most);
    Suboption { name, shape, setting: name, shows: Shows::Value { unit }, effect: Effect::None }
}
const fn fraction(name: &'static str, most: f64, digits: usize) -> Suboption {
    let shows = Shows::Decimal(digits);
    Suboption { name, shape: Shape::Fraction(most), setting: name, shows, effect: Effect::None }
}
const fn unseen(name: &'static str, shape: Shape, effect: Effect) -> Suboption {
    Suboption { name, shape, setting: "", shows: Shows::Nothing, effect }
}

const ANY: u64 = u32::MAX as u64;
/// A gigabyte of log is a mistake.
const LOG_KIB_MAX: u64 = 1 << 20;

static SUBOPTIONS: &[Suboption] = &[
    Suboption { effect: Effect::MaxConnectionsFast(true), ..bare("maxconns_fast", "maxconns_fast", "yes") },
    Suboption {
        effect: Effect::MaxConnectionsFast(false),
        ..bare("no_maxconns_fast", "maxconns_fast", "no")
    },
    Suboption { effect: Effect::IdleTimeout, ..whole("idle_timeout", 0, ANY, 1) },
    Suboption { effect: Effect::ChunkMax, ..whole("slab_chunk_max", 1, 1024, 1024) },
    Suboption { setting: "hashpower_init", ..whole("hashpower", 12, 32, 1) },
    unseen("no_hashexpand", Shape::Bare, Effect::None),
    bare("slab_reassign", "slab_reassign", "yes"),
    bare("no_slab_reassign", "slab_reassign", "no"),
    Suboption { shape: Shape::WholeOrBare(0, 2), ..whole("slab_automove", 0, 2, 1) },
    bare("no_slab_automove", "slab_automove", "0"),
    fraction("slab_automove_ratio", 1.0, 2),
    whole("slab_automove_window", 3, 1800, 1),
    fraction("slab_automove_freeratio", 1.0, 3),
    whole("tail_repair_time", 10, ANY, 1),
    Suboption {
        name: "hash_algorithm",
        shape: Shape::OneOf(&["jenkins", "murmur3", "xxh3"]),
        setting: "",
        shows: Shows::Nothing,
        effect: Effect::None,
    },
    unseen("lru_crawler", Shape::Bare, Effect::Crawler(true)),
    unseen("no_lru_crawler", Shape::Bare, Effect::Crawler(false)),
    whole("lru_crawler_sleep", 0, 1_000_000, 1),
    whole("lru_crawler_tocrawl", 0, ANY, 1),
    bare("lru_maintainer", "lru_maintainer_thread", "yes"),
    bare("no_lru_maintainer", "lru_maintainer_thread", "no"),
    whole("hot_lru_pct", 1, 79, 1),
    whole("warm_lru_pct", 1, 79, 1),
    fraction("hot_max_factor", f64::MAX, 2),
    fraction("warm_max_factor", f64::MAX, 2),
    whole("temporary_ttl", 0, ANY, 1),
    Suboption { effect: Effect::WatcherLog, ..whole("watcher_logbuf_size", 0, LOG_KIB_MAX, 1024) },
    Suboption { effect: Effect::WorkerLog, ..whole("worker_logbuf_size", 0, LOG_KIB_MAX, 1024) },
    whole("read_buf_mem_limit", 0, ANY, 1 << 20),
    unseen("resp_obj_mem_limit", Shape::Text, Effect::None),
    unseen("slab_sizes", Shape::Text, Effect::None),
    Suboption { effect: Effect::TrackSizes, ..bare("track_sizes", "track_sizes", "yes") },
    unseen("inline_ascii_resp", Shape::Bare, Effect::None),
    unseen("no_inline_ascii_resp", Shape::Bare, Effect::None),
    unseen("no_chunked_items", Shape::Bare, Effect::None),
    unseen("modern", Shape::Bare, Effect::Silent),
    unseen("no_modern", Shape::Bare, Effect::NotModern),
    Suboption { effect: Effect::Confine, ..bare("drop_privileges", "drop_privileges", "yes") },
    Suboption { effect: Effect::NotConfine, ..bare("no_drop_privileges", "drop_privileges", "no") },
    unseen("relaxed_privileges", Shape::Bare, Effect::Silent),
    unseen("sock_cookie_id", Shape::Text, Effect::None),
    unseen("ext_path", Shape::Text, Effect::None),
    whole("ext_page_size", 0, ANY, 1 << 20),
    whole("ext_wbuf_size", 0, ANY, 1 << 20),
    unseen("ext_threads", Shape::Text, Effect::None),
    unseen("ext_io_depth", Shape::Text, Effect::None),
    whole("ext_item_size", 0, ANY, 1),
    whole("ext_item_age", 0, ANY, 1),
    whole("ext_low_ttl", 0, ANY, 1),
    whole("ext_recache_rate", 0, ANY, 1),
    whole("ext_compact_under", 0, ANY, 1),
    whole("ext_drop_under", 0, ANY, 1),
    whole("ext_max_sleep", 0, ANY, 1),
    fraction("ext_max_frag", 1.0, 2),
    bare("ext_drop_unread", "ext_drop_unread", "yes"),
    unseen("ssl_chain_cert", Shape::Text, Effect::Tls(Setting::ChainCert)),
    unseen("ssl_key", Shape::Text, Effect::Tls(Setting::Key)),
    unseen("ssl_keyformat", Shape::Whole(0, 3), Effect::Tls(Setting::KeyFormat)),
    unseen("ssl_verify_mode", Shape::Whole(0, 3), Effect::Tls(Setting::VerifyMode)),
    unseen("ssl_ciphers", Shape::Text, Effect::Tls(Setting::Ciphers)),
    unseen("ssl_ca_cert", Shape::Text, Effect::Tls(Setting::CaCert)),
    unseen("ssl_wbuf_size", Shape::Whole(0, ANY >> 10), Effect::Tls(Setting::WriteBuffer)),
    unseen("ssl_session_cache", Shape::Bare, Effect::Tls(Setting::SessionCache)),
    unseen("ssl_kernel_tls", Shape::Bare, Effect::Tls(Setting::KernelTls)),
    unseen("ssl_min_version", Shape::Whole(0, 3), Effect::Tls(Setting::MinVersion)),
];

/// What the process gives up before it serves, each more than the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sandbox {
    /// `no_drop_privileges`
    Off,
    /// Files and networks: what costs nothing while nobody opens anything.
    #[default]
    Files,
    /// `drop_privileges`: system calls as well, for some 35 ns a call.
    Calls,
    /// `drop_privileges=kill`: a system call that was given up ends the process. For tests.
    Strict,
}

/// What `-o` came to.
#[derive(Clone, Debug)]
pub struct Extended {
    /// Over the limit, a connection is told so and closed; else it waits to be accepted.
    pub max_connections_fast: bool,
    /// Seconds after which a silent connection is closed; 0 is never.
    pub idle_timeout_s: u32,
    /// Expired items are looked for.
    pub crawler: bool,
    /// Largest size class; `None` follows the item size.
    pub chunk_bytes_max: Option<u32>,
    /// `stats sizes` answers.
    pub track_sizes: bool,
    pub(crate) log_sizes: Sizes,
    pub sandbox: Sandbox,
    pub tls: TlsOptions,
    /// Lines of `stats settings` that differ from their defaults.
    pub shown: BTreeMap<&'static str, String>,
}

impl Default for Extended {
    fn default() -> Extended {
        Extended {
            max_connections_fast: true,
            idle_timeout_s: 0,
            crawler: true,
            chunk_bytes_max: None,
            track_sizes: false,
            log_sizes: Sizes { log_bytes: 64 << 10, watcher_bytes: 256 << 10 },
            sandbox: Sandbox::default(),
            tls: TlsOptions::default(),
            shown: BTreeMap::new(),
        }
    }
}

impl Extended {
    /// Takes one comma separated list. Adds a line to `notes` for each name that has no effect here.
    pub(super) fn apply(&mut self, list: &str, notes: &mut Vec<String>) -> Result<(), Refusal> {
        for entry in list.split(',').filter(|entry| !entry.is_empty()) {
            let (name, value) = match entry.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (entry, None),
            };
            let Some(suboption) = SUBOPTIONS.iter().find(|suboption| suboption.name == name) else {
                return Err(Refusal::new(exit::FAILURE, format!("illegal suboption of -o: \"{name}\"")));
            };
            self.apply_one(suboption, value, notes)?;
        }
        Ok(())
    }

    fn imply(&mut self, name: &str) {
        let settings =
            IMPLIED.iter().filter(|(implying, _)| *implying == name).flat_map(|(_, settings)| *settings);
        self.shown.extend(settings.map(|(setting, value)| (*setting, (*value).to_owned())));
    }

    fn apply_one(
        &mut self,
        suboption: &Suboption,
        value: Option<&str>,
        notes: &mut Vec<String>,
    ) -> Result<(), Refusal> {
        let number = check(suboption, value)?;
        match suboption.effect {
            Effect::None => notes.push(format!("-o {}: accepted, has no effect here", suboption.name)),
            Effect::Silent => {}
            Effect::MaxConnectionsFast(fast) => self.max_connections_fast = fast,
            Effect::IdleTimeout => self.idle_timeout_s = number as u32,
            Effect::Tls(setting) => {
                self.tls.set(setting, value.unwrap_or_default(), number as u64, notes)?;
            }
            Effect::Crawler(crawler) => self.crawler = crawler,
            Effect::NotModern => {
                self.crawler = false;
                self.max_connections_fast = false;
                self.chunk_bytes_max = self.chunk_bytes_max.or(Some(1 << 20));
            }
            Effect::TrackSizes => self.track_sizes = true,
            Effect::WatcherLog => self.log_sizes.watcher_bytes = (number as usize) << 10,
            Effect::WorkerLog => self.log_sizes.log_bytes = (number as usize) << 10,
            Effect::Confine if value == Some("kill") => self.sandbox = Sandbox::Strict,
            Effect::Confine => self.sandbox = Sandbox::Calls,
            Effect::NotConfine => self.sandbox = Sandbox::Off,
            Effect::ChunkMax => self.chunk_bytes_max = Some((number as u32) << 10),
        }
        self.imply(suboption.name);
        let text = match suboption.shows {
            Shows::Nothing => return Ok(()),
            Shows::Text(text) => text.to_owned(),
            Shows::Value { unit } => (number as u64).wrapping_mul(unit).to_string(),
            Shows::Decimal(digits) => format!("{number:.digits$}"),
        };
        self.shown.insert(suboption.setting, text);
        Ok(())
    }
}

/// Settings that follow from others, for `stats settings` and for the statistics that depend on them.
const IMPLIED: &[(&str, &[(&str, &str)])] = &[
    ("temporary_ttl", &[("temp_lru", "yes")]),
    ("no_lru_maintainer", &[("lru_segmented", "no")]),
    (
        "no_modern",
        &[
            ("slab_reassign", "no"),
            ("slab_automove", "0"),
            ("maxconns_fast", "no"),
            ("lru_segmented", "no"),
            ("lru_maintainer_thread", "no"),
            ("hash_algorithm", "jenkins"),
        ],
    ),
];

/// The value as a number, where it is one.
fn check(suboption: &Suboption, value: Option<&str>) -> Result<f64, Refusal> {
    let refuse = |wanted: String| {
        let got = value.map_or("nothing".to_owned(), |value| format!("\"{value}\""));
        Err(Refusal::new(exit::FAILURE, format!("-o {}: expected {wanted}, got {got}", suboption.name)))
    };
    match suboption.shape {
        // getsubopt passes a needless value over in silence, and so do we.
        Shape::Bare => Ok(0.0),
        Shape::Text => match value {
            Some(_) => Ok(0.0),
            None => refuse("a value".to_owned()),
        },
        Shape::OneOf(words) => match value {
            Some(value) if words.contains(&value) => Ok(0.0),
            _ => refuse(format!("one of {}", words.join(", "))),
        },
        Shape::WholeOrBare(..) if value.is_none() => Ok(1.0),
        Shape::Whole(least, most) | Shape::WholeOrBare(least, most) => {
            match value.and_then(|value| value.parse::<u64>().ok()) {
                Some(number) if (least..=most).contains(&number) => Ok(number as f64),
                _ => refuse(format!("a whole number from {least} to {most}")),
            }
        }
        Shape::Fraction(most) => match value.and_then(|value| value.parse::<f64>().ok()) {
            Some(number) if number > 0.0 && number <= most => Ok(number),
            _ if most == f64::MAX => refuse("a number above 0".to_owned()),
            _ => refuse(format!("a number above 0, up to {most}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(list: &str) -> Result<(Extended, Vec<String>), Refusal> {
        let (mut extended, mut notes) = (Extended::default(), Vec::new());
        extended.apply(list, &mut notes).map(|()| (extended, notes))
    }

    #[test]
    fn names_with_an_effect_have_it() {
        let (extended, notes) = apply("no_maxconns_fast,idle_timeout=3,slab_chunk_max=16,no_modern").unwrap();
        assert!(!extended.max_connections_fast);
        assert_eq!(extended.idle_timeout_s, 3);
        assert!(!extended.crawler);
        assert_eq!(extended.chunk_bytes_max, Some(16 << 10));
        assert!(notes.is_empty());
    }

    #[test]
    fn names_without_an_effect_are_echoed_and_named() {
        let (extended, notes) = apply("hot_lru_pct=30,modern,warm_max_factor=1.5").unwrap();
        assert_eq!(extended.shown["hot_lru_pct"], "30");
        assert_eq!(extended.shown["warm_max_factor"], "1.50");
        assert_eq!(notes.len(), 2, "{notes:?}");
    }

    #[test]
    fn bad_values_are_refused() {
        for list in
            ["fooble", "hot_lru_pct", "hot_lru_pct=90", "hashpower=3", "hash_algorithm=md5", "idle_timeout=x"]
        {
            assert_eq!(apply(list).unwrap_err().exit_code, 1, "{list}");
        }
    }
}
