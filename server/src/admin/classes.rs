//! Size classes: `stats items` and `stats slabs`.
//!
//! Memory here has no size classes; items are counted in the ones that memcached would have put them in with the same
//! `-n`, `-f` and chunk maximum, so that tools which read these statistics see what they expect.

use super::stat;
use crate::options::Options;
use crate::shared::Shared;
use unbuckle_engine::CLASSES_MAX;

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

    /// Chunk sizes as the engine wants them.
    pub(crate) fn sizes(&self) -> [u32; CLASSES_MAX] {
        let mut sizes = [0; CLASSES_MAX];
        sizes.iter_mut().zip(&self.chunk_bytes).for_each(|(place, bytes)| *place = *bytes);
        sizes
    }

    /// Class numbers with their chunk sizes.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, u32)> {
        self.chunk_bytes.iter().enumerate().map(|(index, bytes)| (index + 1, *bytes))
    }
}

/// What is known of one class.
#[derive(Clone, Copy, Debug, Default)]
struct ClassCounts {
    items: u64,
}

/// The store does not count by class yet.
fn counts(_shared: &Shared<'_>, _class: usize) -> ClassCounts {
    ClassCounts::default()
}

pub(super) fn items(shared: &Shared<'_>, reply: &mut Vec<u8>) {
    for (class, _) in shared.classes.iter() {
        let counts = counts(shared, class);
        if counts.items > 0 {
            stat(reply, &format!("items:{class}:number"), counts.items);
        }
    }
}

pub(super) fn slabs(shared: &Shared<'_>, reply: &mut Vec<u8>) {
    let mut active = 0;
    for (class, chunk_bytes) in shared.classes.iter() {
        let counts = counts(shared, class);
        if counts.items == 0 {
            continue;
        }
        active += 1;
        stat(reply, &format!("{class}:chunk_size"), chunk_bytes);
        stat(reply, &format!("{class}:chunks_per_page"), PAGE_BYTES / chunk_bytes.max(1));
        stat(reply, &format!("{class}:used_chunks"), counts.items);
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
