//! Seeded randomness of the workloads: a small generator and the distributions that are drawn from it.
//!
//! The same seed gives the same sequence on every machine. Not for secrets.

/// SplitMix64 (Steele, Lea, Flood 2014): one multiply-xorshift chain per draw, any seed is good.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Uniform in `0..bound` (by multiplication: the bias is below 2^-32 for the bounds used here).
    pub fn below(&mut self, bound: u32) -> u32 {
        (((self.word() >> 32) * u64::from(bound)) >> 32) as u32
    }

    /// Uniform in (0, 1).
    pub fn unit(&mut self) -> f64 {
        ((self.word() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Standard normal, by Box and Muller.
    pub fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().ln()).sqrt() * (core::f64::consts::TAU * self.unit()).cos()
    }
}

/// A bijection of u64 that looks random: SplitMix64's finaliser.
pub fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// How the next key is chosen among `0..keys`.
#[derive(Clone, Debug)]
pub enum Choice {
    Uniform {
        keys: u32,
    },
    Zipf(Zipf),
    /// Always the same key: contention's worst case.
    One {
        key: u32,
    },
}

impl Choice {
    pub fn draw(&self, random: &mut Random) -> u32 {
        match self {
            Choice::Uniform { keys } => random.below(*keys),
            Choice::Zipf(zipf) => zipf.draw(random),
            Choice::One { key } => *key,
        }
    }
}

/// Zipf over `0..keys`, rank r with weight (r+1)^-alpha, by rejection-inversion (Hörmann and Derflinger 1996):
/// constant time for any number of keys and any alpha >= 0, so no table has to fit the cache.
#[derive(Clone, Debug)]
pub struct Zipf {
    keys: f64,
    alpha: f64,
    integral_first: f64,
    integral_last: f64,
    accept: f64,
}

impl Zipf {
    pub fn new(keys: u32, alpha: f64) -> Self {
        let keys = f64::from(keys.max(1));
        Zipf {
            keys,
            alpha,
            integral_first: integral(1.5, alpha) - 1.0,
            integral_last: integral(keys + 0.5, alpha),
            accept: 2.0 - inverse(integral(2.5, alpha) - (2.0f64).powf(-alpha), alpha),
        }
    }

    pub fn draw(&self, random: &mut Random) -> u32 {
        loop {
            let u = self.integral_last + random.unit() * (self.integral_first - self.integral_last);
            let x = inverse(u, self.alpha);
            let rank = (x + 0.5).floor().clamp(1.0, self.keys);
            if rank - x <= self.accept || u >= integral(rank + 0.5, self.alpha) - rank.powf(-self.alpha) {
                return rank as u32 - 1;
            }
        }
    }
}

/// The integral of x^-alpha from 1, continuous at alpha = 1.
fn integral(x: f64, alpha: f64) -> f64 {
    let log = x.ln();
    let exponent = (1.0 - alpha) * log;
    if exponent.abs() < 1e-8 { log * (1.0 + exponent / 2.0) } else { exponent.exp_m1() / (1.0 - alpha) }
}

fn inverse(value: f64, alpha: f64) -> f64 {
    let scaled = (value * (1.0 - alpha)).max(-1.0);
    if scaled.abs() < 1e-8 {
        (value * (1.0 - scaled / 2.0)).exp()
    } else {
        (scaled.ln_1p() / (1.0 - alpha)).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipf_draws_ranks_in_proportion_to_their_weight() {
        for alpha in [0.0, 0.3, 0.8, 1.0, 1.2, 2.7] {
            let (keys, draws) = (50u32, 400_000u32);
            let zipf = Zipf::new(keys, alpha);
            let mut random = Random::new(7);
            let mut counts = vec![0u32; keys as usize];
            (0..draws).for_each(|_| counts[zipf.draw(&mut random) as usize] += 1);
            let weight = |rank: u32| f64::from(rank + 1).powf(-alpha);
            let sum: f64 = (0..keys).map(weight).sum();
            for rank in 0..keys {
                let expected = f64::from(draws) * weight(rank) / sum;
                let off = (f64::from(counts[rank as usize]) - expected).abs();
                assert!(
                    off < 6.0 * expected.sqrt() + 1.0,
                    "alpha {alpha} rank {rank}: off by {off} of {expected}"
                );
            }
        }
    }
}
