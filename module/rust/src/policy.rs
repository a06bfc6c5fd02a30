//! Who may ask how much over UDP, so that this machine is of no use for flooding others: as in the server.
//!
//! Sources in the allowed ranges are served without limit. Any other gets a rate, and replies that are at most three
//! times as long as the request. Each engine has a table of its own: a source that several processors hear has its rate
//! from each of them.

/// `struct unbuckle_range` in `core.h`: an IPv6 prefix; IPv4 in its mapped form.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Range {
    pub(crate) address: [u8; 16],
    pub(crate) prefix_len: u8,
}

/// Ranges that can be allowed.
pub(crate) const RANGES_MAX: usize = 16;

/// Requests that a limited source may send in one second, and at once after it was silent.
const REQUESTS_PER_S: u32 = 100;
/// Reply bytes for each request byte, frame headers included on both sides.
const REPLY_FACTOR: usize = 3;
pub(crate) const SETS: usize = 256;
pub(crate) const WAYS: usize = 4;

/// A source's allowance. All zeroes: nobody's.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Record {
    source: u64,
    /// Second of the last request.
    last_s: u32,
    requests_left: u32,
}

pub(crate) type Sets = [[Record; WAYS]; SETS];

/// How many reply bytes a request of `request_bytes` may be answered with; `None`: drop it.
pub(crate) fn judge(
    allowed: &[Range],
    sets: &mut Sets,
    seed: u64,
    source: &[u8; 16],
    request_bytes: usize,
    now_s: u32,
) -> Option<usize> {
    let address = u128::from_be_bytes(*source);
    if allowed.iter().any(|range| contains(range, address)) {
        return Some(usize::MAX);
    }
    let key = source_key(address);
    let mixed = (key ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let records = sets.get_mut((mixed >> 40) as usize % SETS)?;
    let record = find(records, key, now_s)?;
    let silent_s = now_s.saturating_sub(record.last_s);
    record.last_s = now_s;
    let refilled = record.requests_left.saturating_add(silent_s.saturating_mul(REQUESTS_PER_S));
    record.requests_left = refilled.min(REQUESTS_PER_S).checked_sub(1)?;
    Some(request_bytes.saturating_mul(REPLY_FACTOR))
}

fn contains(range: &Range, address: u128) -> bool {
    let differing = u128::from_be_bytes(range.address) ^ address;
    differing.leading_zeros() >= u32::from(range.prefix_len)
}

/// The source's record; the one that was silent longest becomes it if it has none.
fn find(records: &mut [Record; WAYS], key: u64, now_s: u32) -> Option<&mut Record> {
    let known = records.iter().position(|record| record.source == key);
    let position = match known {
        Some(position) => position,
        None => {
            let numbered = records.iter().enumerate();
            let (oldest, _) = numbered.min_by_key(|(_, record)| (record.source != 0, record.last_s))?;
            *records.get_mut(oldest)? = Record { source: key, last_s: now_s, requests_left: REQUESTS_PER_S };
            oldest
        }
    };
    records.get_mut(position)
}

/// An IPv4 address, or the /64 that an IPv6 address is in: who has one has all of it. Never 0.
fn source_key(address: u128) -> u64 {
    const MAPPED: u128 = 0xffff;
    if address >> 32 == MAPPED {
        // IPv6 prefixes that begin so are never assigned.
        return (0xffff_ffff << 32) | (address as u64 & 0xffff_ffff);
    }
    ((address >> 64) as u64).max(1)
}
