//! What all engines of the module share: the store, the settings, the counters.

use crate::memory::{Cutter, Reserved};
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use unbuckle_engine::sources::Set;
use unbuckle_engine::udp_policy::Range;
use unbuckle_engine::{Counters, Engine, OUTPUT_BYTES_MIN, Protocol, Session};
use unbuckle_layout::sync::AtomicU64 as Word;
use unbuckle_store::{CLASSES_MAX, Options, Page, Parts, STRIPES, Store, Stripe, WorkerCounts};

/// Room for the replies to one datagram. A command whose reply is longer is refused, see `datagram.rs`.
pub(crate) const ARENA_BYTES: usize = 96 << 10;
const _: () = assert!(ARENA_BYTES >= OUTPUT_BYTES_MIN);

/// Ranges that can be allowed, each a `struct unbuckle_range`.
pub(crate) const RANGES_MAX: usize = 16;
/// Of each engine's table of sources: a source that several processors hear has its rate from each of them.
const SETS: usize = 256;

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
    pub(crate) store: &'static Store<'static>,
    pub(crate) settings: &'static Settings,
    pub(crate) classes: &'static [u32],
    pub(crate) desks: &'static [Desk],
    /// What `stats reset` subtracts.
    pub(crate) baseline: &'static [AtomicU64],
    /// Where it adds up.
    pub(crate) totals: &'static [AtomicU64],
    pub(crate) verbosity: AtomicU32,
    /// How far `debugtime` has moved the clock.
    pub(crate) shift_s: AtomicU32,
}

/// One engine and its room for replies to a datagram. The shim lets one caller at a time have it.
pub(crate) struct Post {
    pub(crate) engine: &'static mut Engine<'static, 'static>,
    pub(crate) arena: &'static mut [u8],
    /// Of the datagram that is being served; between two, as new.
    pub(crate) session: &'static mut Session,
    /// Sources of datagrams that have a limit.
    pub(crate) sources: &'static mut [Set],
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
        // All are asked for before the first `?`, so that counting sees each of them.
        let (whole, core) = (cutter.reserve(1), cutter.reserve(1));
        let shared = SharedPlaces::reserve(settings, cutter);
        let own = OwnPlaces::reserve(settings, cutter);
        let core = make_core(settings, words, core?, shared)?;
        let posts = make_posts(core, own)?;
        whole?.fill_one(|| Some(Whole { core, posts: NonNull::new(posts.as_mut_ptr())? }))
    }
}

#[inline(never)]
fn make_core(
    settings: &Settings,
    words: &'static [Word],
    place: Reserved<Core>,
    places: Option<SharedPlaces>,
) -> Option<&'static Core> {
    let places = places?;
    let classes = fill_classes(places.classes.fill(|_| 0), settings);
    let parts = Parts {
        words,
        pages: places.pages.fill(|_| Page::default()),
        stripes: places.stripes.fill(|_| Stripe::default()),
        workers: places.workers.fill(|_| WorkerCounts::default()),
        classes,
    };
    let stores = places.store.try_fill_places(|_, place| make_store(place, &parts, settings))?;
    let (desks, baseline, totals) = make_counters(places.desks, places.baseline, places.totals);
    let core = place.fill_one(|| {
        Some(Core {
            store: stores.first()?,
            settings: keep(places.settings, settings)?,
            classes,
            desks,
            baseline,
            totals,
            verbosity: AtomicU32::new(0),
            shift_s: AtomicU32::new(0),
        })
    })?;
    Some(core)
}

#[inline(never)]
fn keep(place: Reserved<Settings>, settings: &Settings) -> Option<&'static Settings> {
    place.try_fill_places(|_, place| Some(place.write(*settings)))?.first()
}

type Totals = &'static [AtomicU64];

#[inline(never)]
fn make_counters(
    desks: Reserved<Desk>,
    baseline: Reserved<AtomicU64>,
    totals: Reserved<AtomicU64>,
) -> (&'static [Desk], Totals, Totals) {
    let [baseline, totals] = [baseline, totals].map(|place| &*place.fill(|_| AtomicU64::new(0)));
    let desks = desks.try_fill_places(|_, place| Some(place.write(Desk::default())));
    (desks.unwrap_or_default(), baseline, totals)
}

#[inline(never)]
fn make_store<'p>(
    place: &'p mut MaybeUninit<Store<'static>>,
    parts: &Parts<'static>,
    settings: &Settings,
) -> Option<&'p mut Store<'static>> {
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
    match Store::new(*parts, &options) {
        Ok(store) => Some(place.write(store)),
        Err(_) => None,
    }
}

/// Where all that engines share will be.
struct SharedPlaces {
    store: Reserved<Store<'static>>,
    pages: Reserved<Page>,
    stripes: Reserved<Stripe>,
    workers: Reserved<WorkerCounts>,
    desks: Reserved<Desk>,
    classes: Reserved<u32>,
    settings: Reserved<Settings>,
    baseline: Reserved<AtomicU64>,
    totals: Reserved<AtomicU64>,
}

/// Where each engine's own will be.
struct OwnPlaces {
    engines: Reserved<Engine<'static, 'static>>,
    posts: Reserved<Option<Post>>,
    sources: Reserved<Set>,
    sessions: Reserved<Session>,
    arenas: &'static mut [u8],
}

impl SharedPlaces {
    #[inline(never)]
    fn reserve(settings: &Settings, cutter: &mut Cutter) -> Option<SharedPlaces> {
        let log2 = unbuckle_store::page_bytes_log2(settings.memory_bytes);
        let engines = usize::try_from(settings.engines).ok()?;
        let store = cutter.reserve(1);
        let pages = cutter.reserve(usize::try_from(settings.memory_bytes >> (log2 & 63)).ok()?);
        let stripes = cutter.reserve(STRIPES);
        let workers = cutter.reserve(engines);
        let desks = cutter.reserve(engines);
        let classes = cutter.reserve(CLASSES_MAX);
        let kept = cutter.reserve(1);
        let (baseline, totals) = (cutter.reserve(TOTALS), cutter.reserve(TOTALS));
        Some(SharedPlaces {
            store: store?,
            pages: pages?,
            stripes: stripes?,
            workers: workers?,
            desks: desks?,
            classes: classes?,
            settings: kept?,
            baseline: baseline?,
            totals: totals?,
        })
    }
}

impl OwnPlaces {
    #[inline(never)]
    fn reserve(settings: &Settings, cutter: &mut Cutter) -> Option<OwnPlaces> {
        let count = usize::try_from(settings.engines).ok()?;
        let engines = cutter.reserve(count);
        let posts = cutter.reserve(count);
        let sources = cutter.reserve(count.checked_mul(SETS)?);
        let sessions = cutter.reserve(count);
        let arenas = cutter.zeroes(count.checked_mul(ARENA_BYTES)?);
        Some(OwnPlaces {
            engines: engines?,
            posts: posts?,
            sources: sources?,
            sessions: sessions?,
            arenas: arenas?,
        })
    }
}

#[inline(never)]
fn make_posts(core: &'static Core, places: Option<OwnPlaces>) -> Option<&'static mut [Option<Post>]> {
    let places = places?;
    let settings = unbuckle_engine::Settings {
        cas: core.settings.cas != 0,
        flush_enabled: core.settings.flush_enabled != 0,
        protocol: core.settings.protocol(),
    };
    let posts = places.posts.fill(|_| None);
    let engines = places.engines.try_fill_places(|index, place| make_engine(place, core, index, settings))?;
    let sources = places.sources.fill(|_| Set::default()).chunks_exact_mut(SETS);
    let sessions = places.sessions.fill(|_| Session::default());
    let arenas = places.arenas.chunks_exact_mut(ARENA_BYTES);
    let own = engines.iter_mut().zip(arenas).zip(sessions).zip(sources);
    for (post, (((engine, arena), session), sources)) in posts.iter_mut().zip(own) {
        *post = Some(Post { engine, arena, session, sources });
    }
    Some(posts)
}

/// With its buffers, larger than the stack.
#[inline(never)]
fn make_engine<'p>(
    place: &'p mut MaybeUninit<Engine<'static, 'static>>,
    core: &'static Core,
    index: usize,
    settings: unbuckle_engine::Settings,
) -> Option<&'p mut Engine<'static, 'static>> {
    let worker = core.store.worker(index)?;
    let counters = &core.desks.get(index)?.counters;
    Some(place.write(Engine::new(worker, settings, counters)))
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
