//! The lookup as the fast path will make it: hash, line, tag, key, and the line's version again.

use unbuckle_layout::hash;
use unbuckle_layout::item::{self, Head};
use unbuckle_layout::region::Region;
use unbuckle_layout::sync::{AtomicU64, Ordering};
use unbuckle_layout::{bytes, header, index};

/// A root of the link: one function a section, as programs are. Answers 1 for a hit.
#[unsafe(no_mangle)]
#[unsafe(link_section = "tcx/gate_lookup")]
fn gate_lookup(words: &'static [AtomicU64; 1 << 17], key: &[u8; 32], out: &mut [u8; 64]) -> u32 {
    let seed = [words[0].load(Ordering::Relaxed), 1];
    let region = Region::new(words, 20, seed);
    let hash = hash::hash(region.seed(), key);
    let lines = region.load_acquire(header::LINES);
    for choice in 0..index::CHOICES {
        let Some(line) = region.line(index::place(hash, choice, lines)) else { return 0 };
        let state = line.begin_read();
        if state.is_odd() {
            return 0;
        }
        for slot in line.tagged(index::tag(hash)) {
            let entry = line.entry(slot);
            let head = Head::decode(region.head(entry.offset));
            let record = region.rest_of_page(entry.offset);
            if usize::from(head.key_len) == key.len()
                && item::plausible(&head)
                && bytes::equal(record, head.key_start(), key)
            {
                let copied = bytes::copy_out(record, head.value_start(), 32, out);
                return u32::from(copied && line.unchanged(state));
            }
        }
    }
    0
}
