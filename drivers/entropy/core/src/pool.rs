//! The generator between the CPU's noise and the guests: [`Pool`].
//!
//! A key is made of samples and of what the key before it gives, so no sample takes away what an
//! earlier one brought in; two sources are mixed by stirring in both. Bytes are a ChaCha20 stream.
//! After each fill the key is replaced by bytes of its own stream: whoever reads the state later
//! does not learn what guests were given before.

use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng, SeedableRng};

/// Words of a sample: as many bits as the key has.
pub const SEED_WORDS: usize = 4;
/// Bytes after which fresh samples are wanted.
const FRESH_AFTER: usize = 64 << 10;

type Key = [u8; 32];

/// The generator.
pub struct Pool {
    stream: ChaCha20Rng,
    given: usize,
    is_seeded: bool,
}

impl Default for Pool {
    fn default() -> Self {
        Pool { stream: ChaCha20Rng::from_seed([0; 32]), given: 0, is_seeded: false }
    }
}

impl Pool {
    /// Whether anything was stirred in. Until then the bytes are no secret.
    pub fn is_seeded(&self) -> bool {
        self.is_seeded
    }

    /// Whether so many bytes were given that fresh samples should be stirred in.
    pub fn wants_fresh(&self) -> bool {
        !self.is_seeded || self.given >= FRESH_AFTER
    }

    /// Stirs samples of a source in.
    pub fn stir(&mut self, sample: &[u64; SEED_WORDS]) {
        let mut key = self.next_key();
        for (to, word) in key.as_chunks_mut::<8>().0.iter_mut().zip(sample) {
            *to = (u64::from_le_bytes(*to) ^ word).to_le_bytes();
        }
        self.stream = ChaCha20Rng::from_seed(key);
        (self.given, self.is_seeded) = (0, true);
    }

    /// Fills bytes, and forgets how.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        self.stream.fill_bytes(bytes);
        self.stream = ChaCha20Rng::from_seed(self.next_key());
        self.given = self.given.saturating_add(bytes.len());
    }

    fn next_key(&mut self) -> Key {
        let mut key = Key::default();
        self.stream.fill_bytes(&mut key);
        key
    }
}

#[cfg(test)]
mod tests {
    use super::{FRESH_AFTER, Pool};

    fn some(pool: &mut Pool) -> [u8; 64] {
        let mut bytes = [0; 64];
        pool.fill(&mut bytes);
        bytes
    }

    fn stirred(samples: &[[u64; 4]]) -> Pool {
        let mut pool = Pool::default();
        samples.iter().for_each(|sample| pool.stir(sample));
        pool
    }

    #[test]
    fn nothing_is_secret_before_the_first_sample() {
        assert!(!Pool::default().is_seeded());
        assert!(stirred(&[[0; 4]]).is_seeded());
    }

    #[test]
    fn every_sample_counts_and_none_undoes_another() {
        let (a, b) = ([1, 2, 3, 4], [5, 6, 7, 8]);
        let pools = [vec![], vec![a], vec![b], vec![a, b], vec![b, a], vec![a, a], vec![a, b, b]];
        let bytes: Vec<_> = pools.iter().map(|samples| some(&mut stirred(samples))).collect();
        for (number, one) in bytes.iter().enumerate() {
            assert!(bytes[..number].iter().all(|other| other != one), "{:?}", pools[number]);
        }
        for word in 0..4 {
            let mut other = a;
            other[word] ^= 1 << 63;
            assert_ne!(some(&mut stirred(&[other])), bytes[1], "word {word} is not stirred in");
        }
    }

    #[test]
    fn no_bytes_are_given_twice() {
        let mut pool = stirred(&[[9; 4]]);
        let mut seen: Vec<[u8; 64]> = (0..1000).map(|_| some(&mut pool)).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 1000);
        let ones: u32 = seen.as_flattened().iter().map(|byte| byte.count_ones()).sum();
        // 512,000 fair coins: the deviation is 358, so this is 14 of them.
        assert!(ones.abs_diff(256_000) < 5_000, "{ones} of 512000 bits are set");
    }

    #[test]
    fn fresh_samples_are_wanted_again_after_some_time() {
        let mut pool = stirred(&[[9; 4]]);
        assert!(!pool.wants_fresh());
        for _ in 0..FRESH_AFTER / 64 {
            some(&mut pool);
        }
        assert!(pool.wants_fresh());
        pool.stir(&[9; 4]);
        assert!(!pool.wants_fresh());
    }
}
