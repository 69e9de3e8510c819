//! Time: [`Instant`] counts ticks of the time stamp counter, [`Duration`] nanoseconds, and
//! [`Clock`] converts between them.
//!
//! The conversion is one multiplication and one shift, with factors computed once per start, so
//! that reading the time costs no division. Results are rounded down; with a counter of 1 GHz or
//! more a day is off by less than a tenth of a millisecond.

use core::ops::{Add, Sub};
use core::sync::atomic::{AtomicU64, Ordering};

use cloister_abi::call::NEVER;

use crate::cpu;
use crate::memory::system;

/// Bits behind the binary point of the conversion factors.
const SHIFT: u32 = 32;
const NS_PER_SECOND: u64 = 1_000_000_000;

/// A length of time in nanoseconds; sums and products saturate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(u64);

impl Duration {
    /// So many nanoseconds.
    pub const fn from_nanos(ns: u64) -> Self {
        Duration(ns)
    }

    /// So many microseconds.
    pub const fn from_micros(us: u64) -> Self {
        Duration(us.saturating_mul(1_000))
    }

    /// So many milliseconds.
    pub const fn from_millis(ms: u64) -> Self {
        Duration(ms.saturating_mul(1_000_000))
    }

    /// So many seconds.
    pub const fn from_secs(s: u64) -> Self {
        Duration(s.saturating_mul(NS_PER_SECOND))
    }

    /// Its length in nanoseconds.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Its length in whole microseconds.
    pub const fn as_micros(self) -> u64 {
        self.0 / 1_000
    }

    /// Its length in whole milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }
}

/// How ticks and nanoseconds relate: two factors with [`SHIFT`] bits behind the binary point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    ticks_per_ns: u64,
    ns_per_tick: u64,
}

impl Clock {
    /// For a counter of that frequency. A frequency of zero counts as one tick a second.
    pub const fn new(tsc_hz: u64) -> Clock {
        let hz = if tsc_hz == 0 { 1 } else { tsc_hz };
        let whole = (hz / NS_PER_SECOND) << SHIFT;
        let part = ((hz % NS_PER_SECOND) << SHIFT) / NS_PER_SECOND;
        Clock { ticks_per_ns: whole + part, ns_per_tick: (NS_PER_SECOND << SHIFT) / hz }
    }

    /// Ticks in a length of time.
    pub const fn ticks(self, duration: Duration) -> u64 {
        scale(duration.0, self.ticks_per_ns)
    }

    /// The length of so many ticks.
    pub const fn duration(self, ticks: u64) -> Duration {
        Duration(scale(ticks, self.ns_per_tick))
    }
}

/// `value * factor`, where the factor has [`SHIFT`] bits behind the point; saturates.
const fn scale(value: u64, factor: u64) -> u64 {
    let wide = (value as u128 * factor as u128) >> SHIFT;
    if wide > u64::MAX as u128 { u64::MAX } else { wide as u64 }
}

static TICKS_PER_NS: AtomicU64 = AtomicU64::new(0);
static NS_PER_TICK: AtomicU64 = AtomicU64::new(0);

/// Computes the factors; the start code calls it before `main`.
pub(crate) fn start() {
    let clock = Clock::new(system().tsc_hz);
    TICKS_PER_NS.store(clock.ticks_per_ns, Ordering::Relaxed);
    NS_PER_TICK.store(clock.ns_per_tick, Ordering::Relaxed);
}

/// The machine's clock.
pub fn clock() -> Clock {
    Clock {
        ticks_per_ns: TICKS_PER_NS.load(Ordering::Relaxed),
        ns_per_tick: NS_PER_TICK.load(Ordering::Relaxed),
    }
}

/// A moment, as the time stamp counter shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(u64);

impl Instant {
    /// This moment.
    pub fn now() -> Instant {
        Instant(cpu::tsc())
    }

    /// The moment at which the counter shows `tsc`.
    pub const fn from_tsc(tsc: u64) -> Instant {
        Instant(tsc)
    }

    /// What the counter shows at that moment.
    pub const fn tsc(self) -> u64 {
        self.0
    }

    /// How long ago that moment was; zero if it is still to come.
    pub fn elapsed(self) -> Duration {
        Instant::now() - self
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_add(clock().ticks(duration)))
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, earlier: Instant) -> Duration {
        clock().duration(self.0.saturating_sub(earlier.0))
    }
}

/// Until when to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// For ever.
    Never,
    /// Until a moment.
    At(Instant),
}

impl Deadline {
    /// That long from now.
    pub fn after(duration: Duration) -> Deadline {
        Deadline::At(Instant::now() + duration)
    }

    pub(crate) fn ticks(self) -> u64 {
        match self {
            Deadline::Never => NEVER,
            Deadline::At(instant) => instant.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Clock, Duration};

    const FREQUENCIES: [u64; 7] =
        [1, 24_000_000, 999_999_999, 1_000_000_000, 2_399_998_123, 3_000_000_000, 5_800_000_000];

    #[test]
    fn a_day_is_converted_to_within_a_tenth_of_a_millisecond() {
        let day_ns = 86_400 * 1_000_000_000u64;
        for hz in FREQUENCIES.into_iter().filter(|hz| *hz > 900_000_000) {
            let exact = u128::from(day_ns) * u128::from(hz) / 1_000_000_000;
            let ticks = Clock::new(hz).ticks(Duration::from_nanos(day_ns));
            let error = exact - u128::from(ticks);
            assert!(error <= u128::from(hz) / 10_000 + 1, "{hz}: {error} ticks");
        }
    }

    #[test]
    fn ticks_become_nanoseconds_with_an_error_below_one_in_a_hundred_million() {
        for hz in FREQUENCIES.into_iter().skip(1) {
            let ticks = hz * 3600;
            let ns = Clock::new(hz).duration(ticks).as_nanos();
            let exact = 3_600_000_000_000u64;
            assert!(ns <= exact && exact - ns < exact / 100_000_000, "{hz}: {ns}");
        }
    }

    #[test]
    fn conversions_saturate_instead_of_wrapping() {
        assert_eq!(Clock::new(5_000_000_000).ticks(Duration::from_nanos(u64::MAX)), u64::MAX);
        assert_eq!(Clock::new(1).duration(u64::MAX).as_nanos(), u64::MAX);
        assert_eq!(Duration::from_secs(u64::MAX).as_nanos(), u64::MAX);
    }

    #[test]
    fn a_frequency_of_zero_divides_nothing_by_zero() {
        assert_eq!(Clock::new(0), Clock::new(1));
    }
}
