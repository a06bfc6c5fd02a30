//! Size classes: `stats items` and `stats slabs`, as the server gives them.

use super::text::{Name, Text};
use crate::door::Core;
use unbuckle_store::ClassGauges;
use unbuckle_wire::number::{DECIMAL_BYTES_MAX, decimal};

const PAGE_BYTES: u64 = 1 << 20;

/// Names of `stats items`; what nothing here is counted by class for is 0.
const ITEMS: [&[u8]; 28] = [
    b"number",
    b"number_hot",
    b"number_warm",
    b"number_cold",
    b"age_hot",
    b"age_warm",
    b"age",
    b"mem_requested",
    b"evicted",
    b"evicted_nonzero",
    b"evicted_time",
    b"outofmemory",
    b"tailrepairs",
    b"reclaimed",
    b"expired_unfetched",
    b"evicted_unfetched",
    b"evicted_active",
    b"crawler_reclaimed",
    b"crawler_items_checked",
    b"lrutail_reflocked",
    b"moves_to_cold",
    b"moves_to_warm",
    b"moves_within_lru",
    b"direct_reclaims",
    b"hits_to_hot",
    b"hits_to_warm",
    b"hits_to_cold",
    b"hits_to_temp",
];

/// Names of `stats slabs`, likewise.
const SLABS: [&[u8]; 15] = [
    b"chunk_size",
    b"chunks_per_page",
    b"total_pages",
    b"total_chunks",
    b"used_chunks",
    b"free_chunks",
    b"free_chunks_end",
    b"get_hits",
    b"cmd_set",
    b"delete_hits",
    b"incr_hits",
    b"decr_hits",
    b"cas_hits",
    b"cas_badval",
    b"touch_hits",
];

/// The classes that hold items, with their numbers, chunk sizes and what the store counted.
fn held(core: &Core) -> impl Iterator<Item = (u64, u64, ClassGauges)> {
    let numbered = core.classes.iter().enumerate();
    numbered
        .map(|(index, bytes)| (index as u64 + 1, u64::from(*bytes), core.store.class(index)))
        .filter(|(_, _, gauges)| gauges.items > 0)
}

fn line(reply: &mut Text<'_, '_>, prefix: &[u8], class: u64, name: &[u8], value: u64) {
    let name = Name::of(&[prefix, decimal(class, &mut [0; DECIMAL_BYTES_MAX]), b":", name]);
    reply.stat(name.as_slice(), value);
}

pub(super) fn items(core: &Core, reply: &mut Text<'_, '_>) {
    for (class, _, gauges) in held(core) {
        for name in &ITEMS {
            let value = match *name {
                b"number" | b"number_cold" => gauges.items,
                b"mem_requested" => gauges.bytes,
                b"evicted" => gauges.evictions,
                b"evicted_nonzero" => gauges.evictions_of_expiring,
                b"reclaimed" => gauges.reclaimed,
                _ => 0,
            };
            line(reply, b"items:", class, name, value);
        }
    }
}

pub(super) fn slabs(core: &Core, reply: &mut Text<'_, '_>) {
    let mut active = 0u64;
    for (class, chunk_bytes, gauges) in held(core) {
        active = active.saturating_add(1);
        // As many pages as memcached would need at least: here no page belongs to a class.
        let chunks_per_page = (PAGE_BYTES / chunk_bytes.max(1)).max(1);
        let pages = gauges.items.div_ceil(chunks_per_page);
        let chunks = pages.saturating_mul(chunks_per_page);
        for name in &SLABS {
            let value = match *name {
                b"chunk_size" => chunk_bytes,
                b"chunks_per_page" => chunks_per_page,
                b"total_pages" => pages,
                b"total_chunks" => chunks,
                b"used_chunks" => gauges.items,
                b"free_chunks" => chunks.saturating_sub(gauges.items),
                _ => 0,
            };
            line(reply, b"", class, name, value);
        }
    }
    let gauges = core.store.gauges();
    reply.stat(b"active_slabs", active);
    let taken = gauges.pages_total.saturating_sub(gauges.pages_free);
    reply.stat(b"total_malloced", taken.saturating_mul(gauges.page_bytes));
}
