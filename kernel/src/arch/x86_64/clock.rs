//! How fast the time stamp counter and the APIC timer run.
//!
//! Counter 2 of the PIT runs while the kernel builds its objects; two readings of all three clocks
//! give the ratios, so nothing waits unless the work in between was too short to measure.

use super::{apic, cpu};

const PIT_HZ: u64 = 1_193_182;
/// Shortest useful distance of the readings: 300 PIT clocks are 251 µs, an error below 0.4 %.
const WINDOW_MIN: u64 = 300;
/// A turn of the PIT within a window makes the result at least forty times too large.
const PLAUSIBLE_HZ: core::ops::Range<u64> = 50_000_000..12_000_000_000;
/// How often the PIT is read before it is taken for absent.
const PATIENCE: u32 = 1_000_000;

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

/// A calibration that has begun.
pub struct Calibration {
    tsc: u64,
    pit: u64,
    apic: u32,
}

fn pit() -> u64 {
    cpu::outb(0x43, 0x80);
    let low = u64::from(cpu::inb(0x42));
    u64::from(cpu::inb(0x42)) << 8 | low
}

impl Calibration {
    /// Starts the PIT and takes the first readings. The APIC must be on, its timer masked.
    pub fn start() -> Calibration {
        cpu::outb(0x61, cpu::inb(0x61) & !2 | 1);
        cpu::outb(0x43, 0xb4);
        cpu::outb(0x42, 0xff);
        cpu::outb(0x42, 0xff);
        apic::arm(u32::MAX);
        Calibration { pit: pit(), tsc: cpu::rdtsc(), apic: apic::remaining() }
    }

    /// Takes the second readings; waits only if the first were less than 251 µs ago. If this core
    /// stood still for so long that the PIT went round, the result is absurd, and it begins anew.
    /// `None`: the PIT does not count.
    pub fn finish(mut self) -> Option<Clock> {
        for _ in 0..PATIENCE {
            let pit_ticks = self.pit.wrapping_sub(pit()) & 0xffff;
            if pit_ticks >= WINDOW_MIN {
                let tsc = cpu::rdtsc() - self.tsc;
                let apic = u64::from(self.apic - apic::remaining());
                let tsc_hz = tsc * PIT_HZ / pit_ticks;
                if !PLAUSIBLE_HZ.contains(&tsc_hz) {
                    self = Calibration::start();
                    continue;
                }
                apic::arm(0);
                return Some(Clock { tsc_hz, apic_ratio: (apic << 32) / tsc });
            }
        }
        None
    }
}
