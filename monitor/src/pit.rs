//! The 8254 interval timer and port 0x61 (82C54 data sheet, "Mode Definitions").
//!
//! [`Pit`] belongs to thread 0. It is told the host's time with every access and computes from it
//! where its counters are ([`counter`]); nothing runs in between. Output 0 is an interrupt line:
//! [`Pit::deadline`] tells when it rises next and [`Pit::tick`] whether it has. Output 2 is read at
//! port 0x61, which also opens its gate.
//!
//! Invariant: however many edges of output 0 nobody looked at, they are one.

pub mod counter;

use crate::scale::Scale;
use counter::Counter;

/// Its frequency: a third of the NTSC colour subcarrier's.
const HZ: u64 = 1_193_182;
/// Counted time starts here, so that a phase that began before the start is no negative number.
const EPOCH: u64 = 1 << 20;
/// Two interrupts are at least so many ticks apart, 4 µs, whatever the guest asks for: its own
/// instructions must be able to run between them.
const GAP: u64 = 5;
/// Ticks between two changes of the memory refresh bit, which some kernels wait by.
const REFRESH: u64 = 18;

/// The timer of a virtual machine.
#[derive(Clone, Debug, Default)]
pub struct Pit {
    to_pit: Scale,
    to_host: Scale,
    start: u64,
    counters: [Counter; 3],
    /// The stored bits of port 0x61: gate 2, speaker, and two that mean nothing here.
    control: u8,
    /// Up to which tick edges of output 0 have been looked for.
    seen: u64,
    has_risen: bool,
}

impl Pit {
    /// A timer before it is programmed.
    pub fn new(tsc_hz: u64, now: u64) -> Pit {
        let (to_pit, to_host) = (Scale::new(tsc_hz, HZ), Scale::new(HZ, tsc_hz));
        let counters = [true, true, false].map(Counter::new);
        Pit { to_pit, to_host, start: now, counters, seen: EPOCH, ..Pit::default() }
    }

    /// Reads register 0 to 3 of ports 0x40 to 0x43; the last cannot be read.
    pub fn read(&mut self, register: u16, now: u64) -> u8 {
        let ticks = self.look(now);
        let counter = self.counters.get_mut(usize::from(register & 3));
        counter.map_or(0, |counter| counter.read(ticks))
    }

    /// Writes register 0 to 3 of ports 0x40 to 0x43.
    pub fn write(&mut self, register: u16, value: u8, now: u64) {
        let ticks = self.look(now);
        let was_high = self.output(0, now);
        if let Some(counter) = self.counters.get_mut(usize::from(register & 3)) {
            counter.write(value, ticks);
        } else if let Some(counter) = self.counters.get_mut(usize::from(value >> 6)) {
            counter.control(value, ticks);
        } else {
            // The read-back command latches counts and states of several counters.
            let named = self.counters.iter_mut().zip([2, 4, 8]);
            for (counter, _) in named.filter(|(_, bit)| value & bit != 0) {
                counter.read_back(value & 0x20 == 0, value & 0x10 == 0, ticks);
            }
        }
        // A control word moves the output without a clock.
        self.has_risen |= !was_high && self.output(0, now);
    }

    /// Reads port 0x61.
    pub fn read_control(&mut self, now: u64) -> u8 {
        let periods = self.look(now) / REFRESH;
        let refresh = u8::from(!periods.is_multiple_of(2)) << 4;
        self.control | refresh | u8::from(self.output(2, now)) << 5
    }

    /// Writes port 0x61.
    pub fn write_control(&mut self, value: u8, now: u64) {
        let ticks = self.look(now);
        self.control = value & 0xf;
        let [_, _, counter] = &mut self.counters;
        counter.set_gate(value & 1 != 0, ticks);
    }

    /// The level of an output; there are three.
    pub fn output(&mut self, number: usize, now: u64) -> bool {
        let ticks = self.look(now);
        self.counters.get(number).is_some_and(|counter| counter.output(ticks))
    }

    /// When [`Pit::tick`] is to be called next, in host ticks.
    pub fn deadline(&self) -> Option<u64> {
        if self.has_risen {
            return Some(self.start);
        }
        let [counter, _, _] = &self.counters;
        let rise = counter.next_rise(self.seen)?.max(self.seen.saturating_add(GAP));
        Some(self.start.saturating_add(self.to_host.up(rise.saturating_sub(EPOCH))))
    }

    /// It is `now`: whether output 0 has risen since it was asked last.
    pub fn tick(&mut self, now: u64) -> bool {
        self.look(now);
        core::mem::take(&mut self.has_risen)
    }

    /// Looks for edges up to now and brings the counters there.
    fn look(&mut self, now: u64) -> u64 {
        let gone = self.to_pit.down(now.saturating_sub(self.start));
        let ticks = EPOCH.saturating_add(gone).max(self.seen);
        let [counter, _, _] = &self.counters;
        self.has_risen |= counter.next_rise(self.seen).is_some_and(|rise| rise <= ticks);
        self.seen = ticks;
        self.counters.iter_mut().for_each(|counter| counter.bring_to(ticks));
        ticks
    }
}
