//! The region header: the first page. Word offsets of its fields.
//!
//! Its fields are changed under locks that live elsewhere, and read without any.

/// First word of every region: "unbuckle" in little-endian ASCII.
pub const MAGIC: u64 = u64::from_le_bytes(*b"unbuckle");
/// Format version, stored in [`FORMAT`].
pub const FORMAT_VERSION: u64 = 1;

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
/// The index directory: one word an index page, the page's number. It fills the rest of the page.
pub const DIRECTORY: u64 = 64;

/// Smallest page, as log2 of its bytes.
pub const PAGE_BYTES_LOG2_MIN: u32 = 16;
/// Largest page: no item crosses 1 MiB.
pub const PAGE_BYTES_LOG2_MAX: u32 = 20;
