//! The median of an odd number of samples.

/// Samples of each measurement.
pub const SAMPLES: usize = 101;

/// Takes samples and returns the one in the middle.
pub fn median(mut sample: impl FnMut() -> u64) -> u64 {
    let mut all = [0; SAMPLES];
    all.iter_mut().for_each(|slot| *slot = sample());
    all.sort_unstable();
    all.get(SAMPLES / 2).copied().unwrap_or(0)
}
