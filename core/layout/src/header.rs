//! The region header: the first page. Word offsets of its fields.
//!
//! Its fields are changed under locks that live elsewhere, and read without any. Its first half holds these fields and
//! the index directory, its second half a note for each page of the region: see [`page_note`].

/// First word of every region: "unbuckle" in little-endian ASCII.
pub const MAGIC: u64 = u64::from_le_bytes(*b"unbuckle");
/// Format version, stored in [`FORMAT`].
pub const FORMAT_VERSION: u64 = 2;

/// Word that holds [`MAGIC`].
pub const MAGIC_AT: u64 = 0;
/// Format version in the low half, log2 of the page size in bytes in the high half.
pub const FORMAT: u64 = 1;
/// The hash seed: two words.
pub const SEED: u64 = 2;
/// Number of index lines.
pub const LINES: u64 = 4;
/// Items whose stamp is not above this one are flushed.
pub const FLUSHED: u64 = 5;
/// Second (since the region was made) at which everything stored before it is flushed; 0 is never.
pub const FLUSH_AT: u64 = 6;
/// Sweeps of the spill flags that are finished: its lowest bit names the flag in force.
pub const SWEEPS: u64 = 7;
/// Whether the store was ended well: [`SEALED`], or anything else.
pub const STATE: u64 = 40;
/// Which boot of the machine the region was last used in: two words.
pub const BOOT_ID: u64 = 41;
/// When the count of seconds was 0: CLOCK_BOOTTIME, seconds and nanoseconds, and Unix time.
pub const MADE_BOOT_S: u64 = 43;
/// See [`MADE_BOOT_S`].
pub const MADE_BOOT_NS: u64 = 44;
/// See [`MADE_BOOT_S`].
pub const MADE_UNIX_S: u64 = 45;
/// The second in which the store was ended, by its own count and by Unix time.
pub const SEALED_S: u64 = 46;
/// See [`SEALED_S`].
pub const SEALED_UNIX_S: u64 = 47;
/// No stamp up to the end was above this one.
pub const SEALED_STAMP: u64 = 48;
/// Words of the whole region.
pub const REGION_WORDS: u64 = 49;
/// Of all other words of a sealed header.
pub const CHECKSUM: u64 = 50;
/// What [`STATE`] is after a good end.
pub const SEALED: u64 = u64::from_le_bytes(*b"ended ok");
/// The index directory: one word an index page, the page's number. It ends where the notes begin.
pub const DIRECTORY: u64 = 64;

/// Where the note of page `number` is, in a region of pages of `page_words` words; the pages of the largest regions have
/// none. A note is a hint for whoever adopts the region: the page's use in the low byte, 0 if it is free, and above it a
/// number that grows from page to page as they are taken.
#[inline(always)]
pub fn page_note(page_words: u32, number: u32) -> Option<u64> {
    let first = page_words / 2;
    (number < first).then_some(u64::from(first) + u64::from(number))
}

/// Whether word `at` of the header belongs to the index directory.
#[inline(always)]
pub fn in_directory(page_words: u32, at: u64) -> bool {
    at >= DIRECTORY && at < u64::from(page_words / 2)
}

/// Smallest page, as log2 of its bytes.
pub const PAGE_BYTES_LOG2_MIN: u32 = 16;
/// Largest page: no item crosses 1 MiB.
pub const PAGE_BYTES_LOG2_MAX: u32 = 20;
