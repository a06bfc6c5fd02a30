//! Latencies in nanoseconds, in buckets whose width is at most 1/64 of their value (as HDR histograms do it).
//!
//! Recording is a shift and an increment, so it does not slow the load down. Not here: concurrency.

const SUB_BITS: u32 = 6;
const SUB: u64 = 1 << SUB_BITS;
/// Enough for any u64: one linear range and one range of `SUB` buckets for each further power of two.
const BUCKETS: usize = (65 - SUB_BITS as usize) * SUB as usize;

#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Box<[u64]>,
    total: u64,
    max: u64,
}

impl Histogram {
    pub fn new() -> Self {
        Histogram { counts: vec![0; BUCKETS].into_boxed_slice(), total: 0, max: 0 }
    }

    pub fn record(&mut self, value: u64) {
        self.counts[bucket(value)] += 1;
        self.total += 1;
        self.max = self.max.max(value);
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    pub fn max(&self) -> u64 {
        self.max
    }

    /// The smallest recorded bucket's upper bound below which `quantile` (0..=1) of the values lie.
    pub fn at(&self, quantile: f64) -> u64 {
        let rank = ((self.total as f64 * quantile).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_bound(index).min(self.max);
            }
        }
        self.max
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

fn bucket(value: u64) -> usize {
    if value < SUB {
        return value as usize;
    }
    let shift = 63 - value.leading_zeros() - SUB_BITS;
    ((u64::from(shift) + 1) * SUB + ((value >> shift) - SUB)) as usize
}

fn upper_bound(bucket: usize) -> u64 {
    let (range, offset) = (bucket as u64 / SUB, bucket as u64 % SUB);
    match range {
        0 => offset,
        _ => (u128::from(SUB + offset + 1) << (range - 1)).saturating_sub(1).min(u128::from(u64::MAX)) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_a_bucket_at_most_a_64th_wide() {
        for power in 0..64 {
            for value in [
                1u64 << power,
                (1 << power) + (1 << power) / 3,
                (1u64 << power).wrapping_mul(2).wrapping_sub(1),
            ] {
                let bound = upper_bound(bucket(value));
                assert!(bound >= value, "{value} is above its bucket's bound {bound}");
                assert!(bound - value <= value / SUB, "{value}: bucket ends at {bound}");
            }
        }
    }

    #[test]
    fn quantiles_of_a_ramp() {
        let mut histogram = Histogram::new();
        (1..=10_000).for_each(|value| histogram.record(value));
        for (quantile, expected) in [(0.5, 5_000u64), (0.99, 9_900), (0.999, 9_990), (1.0, 10_000)] {
            let found = histogram.at(quantile);
            assert!(
                found.abs_diff(expected) <= expected / 64 + 1,
                "{quantile}: {found}, expected {expected}"
            );
        }
    }
}
