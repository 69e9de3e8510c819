//! Whether a source of random numbers works.
//!
//! Intel Digital Random Number Generator (DRNG) Software Implementation Guide 2.1, "Retry
//! Recommendations": RDRAND has a number within ten tries unless it is broken; RDSEED may have to
//! be asked more often, with pauses. Some CPUs have been seen to return the same value for ever, so
//! values are compared: of [`SAMPLES`] numbers no two may be equal, and none all zeros or ones. A
//! working source breaks that once in 2^58 boots.

/// Numbers that are looked at.
pub const SAMPLES: usize = 8;

/// How often a source is asked for one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tries(pub u32);

/// For RDRAND.
pub const RDRAND_TRIES: Tries = Tries(10);
/// For RDSEED, with a pause after each failure.
pub const RDSEED_TRIES: Tries = Tries(100);

/// What a source is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It works.
    Works,
    /// It has no numbers.
    Silent,
    /// It repeats itself.
    Stuck,
}

/// Tests a source. `sample` is one try, `pause` lets time pass after a failed one.
pub fn test(
    tries: Tries,
    mut sample: impl FnMut() -> Option<u64>,
    mut pause: impl FnMut(),
) -> Health {
    let mut seen = [0; SAMPLES];
    for count in 0..SAMPLES {
        let number = (0..tries.0).find_map(|_| {
            let number = sample();
            if number.is_none() {
                pause();
            }
            number
        });
        let Some(number) = number else {
            return Health::Silent;
        };
        let before = seen.get(..count).unwrap_or_default();
        if number == 0 || number == u64::MAX || before.contains(&number) {
            return Health::Stuck;
        }
        if let Some(place) = seen.get_mut(count) {
            *place = number;
        }
    }
    Health::Works
}

#[cfg(test)]
mod tests {
    use super::{Health, RDRAND_TRIES, SAMPLES, test};

    #[test]
    fn a_source_that_counts_works_and_one_that_repeats_is_stuck() {
        let mut number = 0;
        let counting = || {
            number += 1;
            Some(number)
        };
        assert_eq!(test(RDRAND_TRIES, counting, || ()), Health::Works);
        assert_eq!(test(RDRAND_TRIES, || Some(5), || ()), Health::Stuck);
        assert_eq!(test(RDRAND_TRIES, || Some(u64::MAX), || ()), Health::Stuck);
        assert_eq!(test(RDRAND_TRIES, || Some(0), || ()), Health::Stuck);
        let mut calls = 0;
        let cycle = || {
            calls += 1;
            Some(1 + calls % 3)
        };
        assert_eq!(test(RDRAND_TRIES, cycle, || ()), Health::Stuck);
    }

    #[test]
    fn tries_are_bounded_and_pauses_follow_failures() {
        let (mut calls, mut pauses) = (0, 0);
        let silent = || {
            calls += 1;
            None
        };
        assert_eq!(test(RDRAND_TRIES, silent, || pauses += 1), Health::Silent);
        assert_eq!((calls, pauses), (10, 10));
        let mut calls = 0u64;
        let slow = || {
            calls += 1;
            calls.is_multiple_of(10).then_some(calls)
        };
        assert_eq!(test(RDRAND_TRIES, slow, || ()), Health::Works);
        assert_eq!(calls, 10 * SAMPLES as u64);
    }
}
