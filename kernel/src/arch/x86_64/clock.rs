//! How fast the time stamp counter and the APIC timer run.
//!
//! Counter 2 of the PIT runs while the kernel builds its objects; two readings of all three clocks
//! give the ratios, so nothing waits unless the work in between was too short to measure. A core can
//! stand still at any instruction (firmware, or what emulates it), so a reading says how sharp it is,
//! and the counter comes to its end only once.

use super::{apic, cpu};

const PIT_HZ: u64 = 1_193_182;
/// Shortest useful distance of the readings: 300 PIT clocks are 251 µs, an error below 0.4 %.
const WINDOW_MIN: u64 = 300;
/// The error of both readings together is below 1 / 2^8, 0.4 %, of their distance.
const SHARPNESS: u32 = 8;
/// Looks at the clocks for one reading.
const LOOKS: u32 = 4;
/// Counter 2 once from its first value to zero, "Mode 0: Interrupt on Terminal Count" of the 8254's
/// data sheet, and its output at port 0x61.
const ONCE: u8 = 0xb0;
const OUTPUT: u8 = 1 << 5;
/// How often the PIT is read before it is taken for absent.
const PATIENCE: u32 = 250_000;

/// The result of the calibration.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// Ticks of the time stamp counter in a second.
    pub tsc_hz: u64,
    /// APIC timer clocks per 2^32 ticks of the time stamp counter.
    pub apic_ratio: u64,
}

impl Clock {
    /// Ticks for a time in nanoseconds.
    pub fn ticks(&self, ns: u64) -> u64 {
        let product = u128::from(ns) * u128::from(self.tsc_hz);
        u64::try_from(product / 1_000_000_000).unwrap_or(u64::MAX)
    }
}

/// All three clocks at about one time.
struct Reading {
    tsc: u64,
    /// Ticks that the look took: what the others may be late.
    blur: u64,
    pit: u64,
    apic: u64,
}

impl Reading {
    /// The sharpest of a few looks.
    fn take() -> Option<Reading> {
        let look = |_| {
            let tsc = cpu::rdtsc();
            let (pit, apic) = (pit(), apic::remaining().into());
            Reading { tsc, blur: cpu::rdtsc() - tsc, pit, apic }
        };
        (0..LOOKS).map(look).min_by_key(|reading| reading.blur)
    }
}

fn pit() -> u64 {
    cpu::outb(0x43, 0x80);
    let low = u64::from(cpu::inb(0x42));
    u64::from(cpu::inb(0x42)) << 8 | low
}

/// A calibration that has begun, with its first reading.
pub struct Calibration(Option<Reading>);

impl Calibration {
    /// Starts the PIT and takes the first reading. The APIC must be on, its timer masked.
    pub fn start() -> Calibration {
        cpu::outb(0x61, cpu::inb(0x61) & !2 | 1);
        cpu::outb(0x43, ONCE);
        cpu::outb(0x42, 0xff);
        cpu::outb(0x42, 0xff);
        apic::arm(u32::MAX);
        Calibration(Reading::take())
    }

    /// Takes the second reading; waits only if the first was less than 251 µs ago or one of them is
    /// not sharp. If that took until the PIT's end, it begins anew. `None`: the PIT does not count.
    pub fn finish(mut self) -> Option<Clock> {
        for _ in 0..PATIENCE {
            let (first, last) = (self.0?, Reading::take()?);
            if cpu::inb(0x61) & OUTPUT != 0 || last.pit > first.pit {
                self = Calibration::start();
                continue;
            }
            let (pit, tsc) = (first.pit - last.pit, last.tsc - first.tsc);
            if pit >= WINDOW_MIN && (first.blur + last.blur) << SHARPNESS <= tsc {
                apic::arm(0);
                let apic = first.apic - last.apic;
                return Some(Clock { tsc_hz: tsc * PIT_HZ / pit, apic_ratio: (apic << 32) / tsc });
            }
            self.0 = Some(first);
        }
        None
    }
}
