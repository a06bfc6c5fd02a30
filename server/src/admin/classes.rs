//! Size classes: `stats items` and `stats slabs`.
//!
//! Memory here has no size classes; items are counted in the ones that memcached would have put them in with the same
//! `-n`, `-f` and chunk maximum, so that tools which read these statistics see what they expect.

use super::{Shown, stat};
use crate::options::Options;
use crate::shared::Shared;
use unbuckle_store::ClassGauges;

/// What memcached's item takes beside key, value and flags.
const ITEM_HEADER_BYTES: u32 = 48;
const PAGE_BYTES: u32 = 1 << 20;
const ALIGNMENT_BYTES: u32 = 8;
/// Classes below the largest.
const CLASSES_BELOW_MAX: usize = 62;

/// Chunk sizes of classes 1, 2, ..., ascending.
#[derive(Debug)]
pub(crate) struct Classes {
    chunk_bytes: Vec<u32>,
}

impl Classes {
    pub(crate) fn new(options: &Options) -> Classes {
        let largest = options.chunk_bytes_max();
        let factor = options.growth_factor;
        let mut chunk_bytes = Vec::new();
        let mut size = ITEM_HEADER_BYTES.saturating_add(options.chunk_bytes_min);
        while chunk_bytes.len() < CLASSES_BELOW_MAX && f64::from(size) < f64::from(largest) / factor {
            size = size.next_multiple_of(ALIGNMENT_BYTES);
            chunk_bytes.push(size);
            size = (f64::from(size) * factor) as u32;
        }
        chunk_bytes.push(largest);
        Classes { chunk_bytes }
    }

    /// Class numbers with their chunk sizes.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, u32)> {
        self.chunk_bytes.iter().enumerate().map(|(index, bytes)| (index + 1, *bytes))
    }
}

/// What `stats items` says of queues: nothing here is kept by class but number, size, evictions and reclaims, so these are
/// 0, for tools that look for the names.
const QUEUES_ZERO: [&str; 8] = [
    "moves_to_cold",
    "moves_to_warm",
    "moves_within_lru",
    "direct_reclaims",
    "hits_to_hot",
    "hits_to_warm",
    "hits_to_cold",
    "hits_to_temp",
];
/// Likewise of `stats slabs`: requests are counted for all sizes together.
const SLABS_ZERO: [&str; 9] = [
    "free_chunks_end",
    "get_hits",
    "cmd_set",
    "delete_hits",
    "incr_hits",
    "decr_hits",
    "cas_hits",
    "cas_badval",
    "touch_hits",
];

/// The classes with their chunk sizes and what the store counted.
fn counted<'s>(shared: &'s Shared<'_>) -> impl Iterator<Item = (usize, u32, ClassGauges)> + 's {
    shared.classes.iter().map(|(class, bytes)| (class, bytes, shared.store.class(class - 1)))
}

pub(super) fn items(shared: &Shared<'_>, reply: &mut Vec<u8>) {
    let shown = Shown::of(shared);
    for (class, _, gauges) in counted(shared).filter(|(_, _, gauges)| gauges.items > 0) {
        let mut say = |name: &str, value: u64| stat(reply, &format!("items:{class}:{name}"), value);
        say("number", gauges.items);
        if shown.queues {
            say("number_hot", 0);
            say("number_warm", 0);
            say("number_cold", gauges.items);
            if shown.temporary {
                say("number_temp", 0);
            }
            say("age_hot", 0);
            say("age_warm", 0);
        }
        say("age", 0);
        say("mem_requested", gauges.bytes);
        say("evicted", gauges.evictions);
        say("evicted_nonzero", gauges.evictions_of_expiring);
        say("evicted_time", 0);
        say("outofmemory", 0);
        say("tailrepairs", 0);
        say("reclaimed", gauges.reclaimed);
        say("expired_unfetched", 0);
        say("evicted_unfetched", 0);
        if shown.queues {
            say("evicted_active", 0);
        }
        say("crawler_reclaimed", gauges.crawler_reclaimed);
        say("crawler_items_checked", 0);
        say("lrutail_reflocked", 0);
        if shown.queues {
            QUEUES_ZERO.iter().for_each(|name| say(name, 0));
        }
    }
}

pub(super) fn slabs(shared: &Shared<'_>, reply: &mut Vec<u8>) {
    let mut active = 0u64;
    // memcached's classes keep a page when their items are gone; of those that items were deleted from nothing is known.
    let known = |gauges: &ClassGauges| gauges.items + gauges.evictions + gauges.reclaimed > 0;
    for (class, chunk_bytes, gauges) in counted(shared).filter(|(_, _, gauges)| known(gauges)) {
        active += 1;
        // As many pages as memcached would need at least: here no page belongs to a class.
        let chunks_per_page = u64::from(PAGE_BYTES / chunk_bytes.max(1)).max(1);
        let pages = gauges.items.div_ceil(chunks_per_page).max(1);
        let mut say = |name: &str, value: u64| stat(reply, &format!("{class}:{name}"), value);
        say("chunk_size", u64::from(chunk_bytes));
        say("chunks_per_page", chunks_per_page);
        say("total_pages", pages);
        say("total_chunks", pages * chunks_per_page);
        say("used_chunks", gauges.items);
        say("free_chunks", pages * chunks_per_page - gauges.items);
        for name in SLABS_ZERO {
            say(name, 0);
        }
    }
    let gauges = shared.store.gauges();
    stat(reply, "active_slabs", active);
    let taken = gauges.pages_total.saturating_sub(gauges.pages_free);
    stat(reply, "total_malloced", taken.saturating_mul(gauges.page_bytes));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(change: impl FnOnce(&mut Options)) -> Vec<u32> {
        let mut options = Options::default();
        change(&mut options);
        Classes::new(&options).chunk_bytes
    }

    /// As memcached 1.6.45 prints them with -vv.
    #[test]
    fn classes_are_memcached_s() {
        let default = sizes(|_| {});
        assert_eq!(default.len(), 39);
        assert_eq!(default[..8], [96, 120, 152, 192, 240, 304, 384, 480]);
        assert_eq!(default[36..], [315_872, 394_840, 524_288]);
    }

    #[test]
    fn odd_settings_end() {
        assert_eq!(sizes(|options| options.growth_factor = 1.000_01).len(), 63);
        assert_eq!(sizes(|options| options.chunk_bytes_min = 1 << 20), [524_288]);
        assert_eq!(sizes(|options| options.item_bytes_max = 1024).last(), Some(&1024));
    }
}
