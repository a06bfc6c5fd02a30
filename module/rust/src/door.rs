//! What all engines of the module share: the store, the settings, the counters.

use crate::memory::{Cutter, Reserved};
use crate::policy::{RANGES_MAX, Range, Record, SETS, Sets, WAYS};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use unbuckle_engine::{Counters, Engine, OUTPUT_BYTES_MIN, Protocol};
use unbuckle_layout::sync::AtomicU64 as Word;
use unbuckle_store::{CLASSES_MAX, Options, Page, Parts, STRIPES, Store, Stripe, WorkerCounts};

/// Room for the replies to one datagram. A command whose reply is longer is refused, see `datagram.rs`.
pub(crate) const ARENA_BYTES: usize = 96 << 10;
const _: () = assert!(ARENA_BYTES >= OUTPUT_BYTES_MIN);

/// `struct unbuckle_settings` in `core.h`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Settings {
    pub(crate) memory_bytes: u64,
    pub(crate) item_bytes_max: u64,
    pub(crate) seed: [u64; 2],
    /// Unix time when the region's clock stood at 0.
    pub(crate) made_unix_s: u64,
    pub(crate) engines: u32,
    pub(crate) tcp_workers: u32,
    pub(crate) tcp_port: u32,
    pub(crate) udp_port: u32,
    pub(crate) connections_max: u32,
    pub(crate) requests_per_turn: u32,
    pub(crate) idle_timeout_s: u32,
    pub(crate) chunk_bytes_min: u32,
    /// Growth of the size classes that statistics tell apart, in hundredths.
    pub(crate) growth_percent: u32,
    pub(crate) evict: u8,
    pub(crate) cas: u8,
    pub(crate) flush_enabled: u8,
    pub(crate) debug_time: u8,
    /// `enum unbuckle_protocol`
    pub(crate) protocol: u8,
    /// How many of the ranges there are.
    pub(crate) udp_allowed_count: u8,
    pub(crate) udp_allowed: [Range; RANGES_MAX],
}

impl Settings {
    pub(crate) fn udp_allowed(&self) -> &[Range] {
        self.udp_allowed.get(..usize::from(self.udp_allowed_count)).unwrap_or_default()
    }

    pub(crate) fn protocol(&self) -> Protocol {
        match self.protocol {
            1 => Protocol::Text,
            2 => Protocol::Binary,
            _ => Protocol::Negotiated,
        }
    }

    /// The largest chunk that memcached would have: half an item, or the item if it is small.
    pub(crate) fn chunk_bytes_max(&self) -> u32 {
        const HALF_A_MEGABYTE: u64 = 1 << 19;
        u32::try_from(self.item_bytes_max.min(HALF_A_MEGABYTE)).unwrap_or(1 << 19)
    }
}

/// One engine's counters, where all can read them.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    pub(crate) counters: Counters,
}

/// Counters of the shim: `struct unbuckle_door_counts` in `core.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct DoorCounts {
    pub(crate) connections: u64,
    pub(crate) connections_total: u64,
    pub(crate) connections_rejected: u64,
    pub(crate) idle_kicks: u64,
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
    pub(crate) yields: u64,
    pub(crate) out_of_memory: u64,
    pub(crate) udp_hooked: u64,
    pub(crate) udp_from_socket: u64,
    pub(crate) udp_replies: u64,
    pub(crate) udp_dropped_malformed: u64,
    pub(crate) udp_dropped_checksum: u64,
    pub(crate) udp_dropped_rate: u64,
    pub(crate) udp_dropped_size: u64,
    pub(crate) udp_dropped_queue: u64,
    pub(crate) udp_dropped_unsent: u64,
}

/// How many numbers [`crate::admin`] counts up.
pub(crate) const TOTALS: usize = 64;

/// The heart of the module.
pub(crate) struct Core {
    pub(crate) store: Store<'static>,
    pub(crate) settings: Settings,
    pub(crate) classes: &'static [u32],
    pub(crate) desks: &'static [Desk],
    /// What `stats reset` subtracts.
    pub(crate) baseline: [AtomicU64; TOTALS],
    pub(crate) verbosity: AtomicU32,
    /// How far `debugtime` has moved the clock.
    pub(crate) shift_s: AtomicU32,
}

/// One engine and its room for replies to a datagram. The shim lets one caller at a time have it.
pub(crate) struct Post {
    pub(crate) engine: &'static mut Engine<'static, 'static>,
    pub(crate) arena: &'static mut [u8],
    /// Sources of datagrams that have a limit.
    pub(crate) sources: &'static mut Sets,
}

impl Core {
    /// Seconds since the region was made, as moved by `debugtime`.
    pub(crate) fn now_s(&self, now_s: u32) -> u32 {
        now_s.saturating_add(self.shift_s.load(Relaxed))
    }

    /// Cuts all tables out of the block and makes the store. With a counting cutter, only counts: `None`.
    pub(crate) fn make(
        settings: &Settings,
        words: &'static [Word],
        cutter: &mut Cutter,
    ) -> Option<&'static mut Whole> {
        let log2 = unbuckle_store::page_bytes_log2(settings.memory_bytes);
        let engines = usize::try_from(settings.engines).ok()?;
        // All are asked for before the first `?`, so that counting sees each of them.
        let whole = cutter.reserve::<Whole>(1);
        let core = cutter.reserve::<Core>(1);
        let pages = cutter.reserve(usize::try_from(settings.memory_bytes >> (log2 & 63)).ok()?);
        let stripes = cutter.reserve(STRIPES);
        let workers = cutter.reserve(engines);
        let desks = cutter.reserve(engines);
        let classes = cutter.reserve(CLASSES_MAX);
        let pipelines = cutter.reserve(engines);
        let posts = cutter.reserve::<Option<Post>>(engines);
        let sources = cutter.reserve(engines);
        let arenas = cutter.zeroes(engines.checked_mul(ARENA_BYTES)?);

        let classes = fill_classes(classes?.fill(|_| 0), settings);
        let parts = Parts {
            words,
            pages: pages?.fill(|_| Page::default()),
            stripes: stripes?.fill(|_| Stripe::default()),
            workers: workers?.fill(|_| WorkerCounts::default()),
            classes,
        };
        let desks: &'static [Desk] = desks?.fill(|_| Desk::default());
        let options = Options {
            limit_bytes: settings.memory_bytes,
            item_bytes_max: settings.item_bytes_max,
            evict: settings.evict != 0,
            seed: settings.seed,
            relax,
            // vmalloc's pages stay mapped for the life of the module.
            give_back: None,
            read_from_outside: false,
        };
        let store = Store::new(parts, &options).ok()?;
        let core: &'static Core = core?.fill_one(Core {
            store,
            settings: *settings,
            classes,
            desks,
            baseline: [const { AtomicU64::new(0) }; TOTALS],
            verbosity: AtomicU32::new(0),
            shift_s: AtomicU32::new(0),
        })?;
        let sources: &'static mut [Sets] = sources?.fill(|_| [[Record::default(); WAYS]; SETS]);
        let posts = Self::make_posts(core, pipelines?, posts?, sources, arenas?)?;
        whole?.fill_one(Whole { core, posts: NonNull::new(posts.as_mut_ptr())? })
    }

    fn make_posts(
        core: &'static Core,
        pipelines: Reserved<Engine<'static, 'static>>,
        posts: Reserved<Option<Post>>,
        sources: &'static mut [Sets],
        arenas: &'static mut [u8],
    ) -> Option<&'static mut [Option<Post>]> {
        let settings = unbuckle_engine::Settings {
            cas: core.settings.cas != 0,
            flush_enabled: core.settings.flush_enabled != 0,
            protocol: core.settings.protocol(),
        };
        let posts = posts.fill(|_| None);
        let engines = pipelines.try_fill(|index| {
            Some(Engine::new(core.store.worker(index)?, settings, &core.desks.get(index)?.counters))
        })?;
        let arenas = arenas.chunks_exact_mut(ARENA_BYTES);
        for (((post, engine), arena), sources) in posts.iter_mut().zip(engines).zip(arenas).zip(sources) {
            *post = Some(Post { engine, arena, sources });
        }
        Some(posts)
    }
}

/// What the shim holds on to.
pub(crate) struct Whole {
    pub(crate) core: &'static Core,
    /// One for each engine.
    pub(crate) posts: NonNull<Option<Post>>,
}

/// Whoever holds a lock of the store runs with softirqs off, so it is not waiting for us.
fn relax() {}

/// Chunk sizes as memcached would choose them, for statistics.
fn fill_classes(classes: &'static mut [u32], settings: &Settings) -> &'static [u32] {
    const ITEM_HEADER_BYTES: u32 = 48;
    const CLASSES_BELOW_MAX: usize = 62;
    const ALIGNMENT_BYTES: u32 = 8;
    let largest = settings.chunk_bytes_max();
    let percent = u64::from(settings.growth_percent.max(101));
    let grown = |bytes: u32| u32::try_from(u64::from(bytes) * percent / 100).unwrap_or(u32::MAX);
    let mut size = ITEM_HEADER_BYTES.saturating_add(settings.chunk_bytes_min);
    let mut count = 0;
    for place in classes.iter_mut().take(CLASSES_BELOW_MAX) {
        if grown(size) >= largest {
            break;
        }
        size = size.checked_next_multiple_of(ALIGNMENT_BYTES).unwrap_or(u32::MAX);
        *place = size;
        size = grown(size);
        count += 1;
    }
    if let Some(place) = classes.get_mut(count) {
        *place = largest;
        count += 1;
    }
    classes.get(..count).unwrap_or_default()
}
