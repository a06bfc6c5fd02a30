//! Where in the index a key may be: three lines, computed from its hash and the number of lines.
//!
//! The index grows and shrinks by one line at a time: linear hashing with partial expansions (Larson, "Linear
//! hashing with partial expansions", VLDB 1980). Lines are grouped into `2^k` *units*; a unit has 4 to 7 lines
//! while the table grows, and where it would get an eighth, two units of 4 take its place. So the fullest unit is
//! never more than 25 % denser than the emptiest (plain linear hashing: 100 %), and the whole state is one number: the
//! count of lines. Line `j` of unit `u` is number `j·2^k + u`; a doubling renames lines and moves none.
//!
//! A key has three choices of a line: home, and two alternates (cuckoo hashing with 8-slot buckets). All
//! three lie in the same *stripe*, the unit number modulo [`STRIPES`], whatever the size of the table: a writer
//! holds one lock for whatever it does to a key.

/// Parts of the index that have a lock each. A power of two.
pub const STRIPES: u64 = 128;
/// Fewest lines: `4 · STRIPES` at least, so that a unit lies in one stripe.
pub const LINES_MIN: u64 = 1024;
/// Most lines: what the 28 unit bits of the hash can tell apart.
pub const LINES_MAX: u64 = 1 << 30;
/// Lines in which a key may be.
pub const CHOICES: usize = 3;
/// Lines in a unit, at most (one more during an expansion step).
pub const UNIT_LINES_MAX: u64 = 8;

const _: () = assert!(LINES_MIN >= 4 * STRIPES && STRIPES.is_power_of_two());

/// The lock that covers a key's three lines.
#[inline(always)]
pub fn stripe(hash: u64) -> u64 {
    hash & (STRIPES - 1)
}

/// The tag of an entry: 8 bits that are never 0, and 2 more.
#[inline(always)]
pub fn tag(hash: u64) -> (u8, u8) {
    let low = (hash >> 48) as u8;
    (if low == 0 { 0xff } else { low }, ((hash >> 56) & 3) as u8)
}

/// What a ghost remembers of an evicted key: 32 bits, never 0.
#[inline(always)]
pub fn ghost(hash: u64) -> u32 {
    ((hash >> 29) as u32 ^ (hash >> 7) as u32) | 1
}

/// log2 of the number of units when there are `lines` lines.
#[inline(always)]
fn unit_bits(lines: u64) -> u32 {
    // LINES_MIN makes the leading-zero count at most 53, so nothing here underflows.
    (61u32).saturating_sub(lines.leading_zeros()) & 31
}

/// The line of the unit `u` that a hash falls in, for a unit of `unit_lines` lines.
/// The fraction is two constant bits, the bit that decides the next doubling, and thirteen constant ones: with it
/// a unit of eight lines falls apart into two of four without a move.
#[inline(always)]
fn line_of_unit(choice: u64, bits: u32, unit_lines: u64) -> u64 {
    let constant = choice >> 32;
    let fraction = (constant & 3) << 14 | ((choice >> bits) & 1) << 13 | ((constant >> 2) & 0x1fff);
    (fraction * unit_lines) >> 16
}

#[inline(always)]
fn line_of(choice: u64, lines: u64) -> u64 {
    let bits = unit_bits(lines);
    let units = 1u64 << bits;
    let unit = choice & (units - 1);
    let unit_lines = (lines >> bits) + u64::from(unit < (lines & (units - 1)));
    line_of_unit(choice, bits, unit_lines) << bits | unit
}

/// The hash that picks choice `choice` (0 is home).
#[inline(always)]
fn choice_hash(hash: u64, choice: usize) -> u64 {
    if choice == 0 {
        return hash;
    }
    let salt = if choice == 1 { 0x9e37_79b9_7f4a_7c15 } else { 0xc2b2_ae3d_27d4_eb4f };
    let mixed = (hash ^ salt).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = mixed ^ mixed >> 29;
    (mixed & !(STRIPES - 1)) | stripe(hash)
}

/// Number of the line that is the key's choice `choice` when the index has `lines` lines.
#[inline(always)]
pub fn place(hash: u64, choice: usize, lines: u64) -> u64 {
    line_of(choice_hash(hash, choice), lines)
}

/// The unit that the step from `lines` to `lines + 1` (or back) rebuilds: its first line, the distance between its
/// lines, and how many it has before the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Number of its first line.
    pub first: u64,
    /// Distance between its lines.
    pub stride: u64,
    /// Lines it has with `lines` lines in all; it has one more with `lines + 1`.
    pub lines: u64,
}

/// How many units an index of `lines` lines has: a power of two, and at least [`STRIPES`].
#[inline]
pub fn units(lines: u64) -> u64 {
    1 << unit_bits(lines)
}

/// Unit number `unit` (modulo their number) of an index of `lines` lines. All of it lies in the stripe `unit`.
#[inline]
pub fn unit(unit: u64, lines: u64) -> Unit {
    let bits = unit_bits(lines);
    let stride = 1u64 << bits;
    let first = unit & (stride - 1);
    Unit { first, stride, lines: (lines >> bits) + u64::from(first < (lines & (stride - 1))) }
}

/// The unit that gains line number `lines` when the index grows by one.
#[inline]
pub fn growing_unit(lines: u64) -> Unit {
    let bits = unit_bits(lines);
    let units = 1u64 << bits;
    Unit { first: lines & (units - 1), stride: units, lines: lines >> bits }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes() -> impl Iterator<Item = u64> {
        (0..4000u64).map(|i| crate::hash::hash([1, 2], &i.to_le_bytes()))
    }

    #[test]
    fn places_are_in_range_and_in_the_stripe() {
        for lines in (LINES_MIN..LINES_MIN * 9).step_by(97) {
            for hash in hashes() {
                for choice in 0..CHOICES {
                    let line = place(hash, choice, lines);
                    assert!(line < lines);
                    assert_eq!(line & (STRIPES - 1), stripe(hash));
                }
            }
        }
    }

    #[test]
    fn a_step_moves_keys_only_within_its_unit() {
        for lines in LINES_MIN..LINES_MIN * 5 {
            let unit = growing_unit(lines);
            let in_unit = |line: u64| line & (unit.stride - 1) == unit.first;
            for hash in hashes().take(200) {
                for choice in 0..CHOICES {
                    let (before, after) = (place(hash, choice, lines), place(hash, choice, lines + 1));
                    assert!(
                        before == after || (in_unit(before) && in_unit(after)),
                        "{lines}: {before} -> {after}"
                    );
                }
            }
            assert!(in_unit(lines), "the new line belongs to the unit");
        }
    }

    #[test]
    fn keys_spread_evenly() {
        for lines in [1024u64, 1300, 1800, 2047] {
            let mut counts = std::vec![0u32; lines as usize];
            for i in 0..lines * 64 {
                counts[place(crate::hash::hash([3, 4], &i.to_le_bytes()), 0, lines) as usize] += 1;
            }
            let (least, most) = (*counts.iter().min().unwrap(), *counts.iter().max().unwrap());
            assert!(least > 20 && most < 64 * 5 / 4 + 60, "{lines}: {least}..{most}");
        }
    }
    extern crate std;
}
