//! The real-time clock and its memory (MC146818 data sheet; the century as in ACPI's FADT).
//!
//! [`Rtc`] belongs to thread 0. The time follows from the host's; a guest that sets it changes what
//! is added. There is no interrupt: alarms and periods can be written and never happen, and the
//! "update in progress" bit is never set, because a read is always consistent.
//!
//! Invariant: the time is between the years 2000 and 2099.

use crate::num::{index, low8};
use crate::scale::Scale;

/// Seconds of a day.
const DAY: u64 = 86_400;
/// 2000-01-01 in seconds since 1970.
const EPOCH: u64 = 946_684_800;
/// Days of 2000 to 2099.
const DAYS: u64 = 36_525;
/// Days of a common year before each month, by its number.
const MONTHS: [u64; 14] = [0, 0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365];

/// Register B: updates are held while the time is set.
const SET: u8 = 1 << 7;
/// Register B: binary, not decimal digits.
const BINARY: u8 = 1 << 2;
/// Register B: 24 hours, not 12.
const HOURS_24: u8 = 1 << 1;

/// Where the century is.
const CENTURY: u8 = 0x32;

/// A time of 2000 to 2099, broken down: second, minute, hour, day, month, year.
type Fields = [u64; 6];

/// The clock.
#[derive(Clone, Debug)]
pub struct Rtc {
    to_seconds: Scale,
    start: u64,
    /// The time at the start, in seconds since 2000.
    base: u64,
    /// The time while it is being set; it need not be in the calendar before it is complete.
    held: Option<Fields>,
    index: u8,
    memory: [u8; 128],
}

impl Rtc {
    /// A clock that shows `unix` seconds since 1970 now.
    pub fn new(unix: u64, tsc_hz: u64, now: u64) -> Rtc {
        let base = unix.saturating_sub(EPOCH);
        let (to_seconds, mut memory) = (Scale::new(tsc_hz, 1), [0; 128]);
        // The usual divider and rate; decimal digits and 24 hours.
        [memory[0xa], memory[0xb]] = [0x26, HOURS_24];
        Rtc { to_seconds, start: now, base, held: None, index: 0, memory }
    }

    /// Selects a register; the top bit, which masks NMIs elsewhere, is dropped.
    pub fn select(&mut self, index: u8) {
        self.index = index & 0x7f;
    }

    /// Reads the selected register.
    pub fn read(&self, now: u64) -> u8 {
        let time = self.fields(now);
        match (self.field(), self.index) {
            (Some(field), _) => self.encode(time.get(field).copied().unwrap_or(0)),
            // 2000-01-01 was a Saturday, day 7.
            (_, 6) => self.encode(((to_time(time) / DAY).wrapping_add(6) % 7).wrapping_add(1)),
            (_, CENTURY) => self.encode(20),
            (_, 0xa) => self.cell(0xa) & 0x7f,
            // No interrupt has happened; memory and time are valid.
            (_, 0xc) => 0,
            (_, 0xd) => 0x80,
            (_, index) => self.cell(index),
        }
    }

    /// Writes the selected register. The day of the week follows from the date, and the century is
    /// fixed.
    pub fn write(&mut self, value: u8, now: u64) {
        let mut time = self.fields(now);
        match (self.field(), self.index) {
            (Some(field), _) => {
                time.iter_mut().skip(field).take(1).for_each(|old| *old = self.decode(value));
                self.set_time(time, self.held.is_some(), now);
            }
            (_, 0xb) => {
                if value & SET != 0 || self.held.is_some() {
                    self.set_time(time, value & SET != 0, now);
                }
                self.store(value);
            }
            (_, 6 | CENTURY | 0xc | 0xd) => {}
            _ => self.store(value),
        }
    }

    /// Which field of the time is selected.
    fn field(&self) -> Option<usize> {
        [0, 2, 4, 7, 8, 9].iter().position(|index| *index == self.index)
    }

    fn cell(&self, index: u8) -> u8 {
        self.memory.get(usize::from(index)).copied().unwrap_or(0)
    }

    fn store(&mut self, value: u8) {
        self.memory.get_mut(usize::from(self.index)).into_iter().for_each(|cell| *cell = value);
    }

    fn fields(&self, now: u64) -> Fields {
        let gone = self.to_seconds.down(now.saturating_sub(self.start));
        self.held.unwrap_or_else(|| from_time(self.base.saturating_add(gone)))
    }

    fn set_time(&mut self, time: Fields, is_held: bool, now: u64) {
        self.held = is_held.then_some(time);
        if !is_held {
            (self.base, self.start) = (to_time(time), now);
        }
    }

    /// Whether the selected register counts from 1 to 12, with a bit for the afternoon.
    fn is_12_hours(&self) -> bool {
        self.index == 4 && self.cell(0xb) & HOURS_24 == 0
    }

    /// A number as the guest reads it.
    fn encode(&self, number: u64) -> u8 {
        let afternoon = if self.is_12_hours() && number >= 12 { 0x80 } else { 0 };
        let hour = number.wrapping_add(11) % 12;
        let number = if self.is_12_hours() { hour.wrapping_add(1) } else { number };
        let is_binary = self.cell(0xb) & BINARY != 0;
        low8(afternoon | if is_binary { number } else { ((number / 10) << 4) | (number % 10) })
    }

    /// A number as the guest writes it.
    fn decode(&self, value: u8) -> u64 {
        let is_12 = self.is_12_hours();
        let digits = u64::from(if is_12 { value & 0x7f } else { value });
        let is_binary = self.cell(0xb) & BINARY != 0;
        let decimal = (digits >> 4).wrapping_mul(10).wrapping_add(digits & 0xf);
        let number = if is_binary { digits } else { decimal };
        let afternoon = if value & 0x80 != 0 { 12 } else { 0 };
        if is_12 { (number % 12).wrapping_add(afternoon) } else { number }
    }
}

/// From seconds since 2000; after 2099 the calendar begins again.
fn from_time(time: u64) -> Fields {
    let days = time / DAY % DAYS;
    let year = (0..100).rev().find(|year| days_before(*year, 1) <= days).unwrap_or(0);
    let month = (1..=12).rev().find(|month| days_before(year, *month) <= days).unwrap_or(1);
    let day = days.wrapping_sub(days_before(year, month)).wrapping_add(1);
    [time % 60, time / 60 % 60, time / 3_600 % 24, day, month, year]
}

/// Seconds since 2000. What is outside of the calendar counts as the nearest that is inside.
fn to_time([second, minute, hour, day, month, year]: Fields) -> u64 {
    let (year, month) = (year.min(99), month.clamp(1, 12));
    let day = days_before(year, month).wrapping_add(day.max(1));
    let days = day.min(days_before(year, month.wrapping_add(1))).wrapping_sub(1);
    let hours = days.wrapping_mul(24).wrapping_add(hour.min(23));
    let minutes = hours.wrapping_mul(60).wrapping_add(minute.min(59));
    minutes.wrapping_mul(60).wrapping_add(second.min(59))
}

/// Days from 2000 to the first of a month; month 13 is the next January. Every fourth year is a
/// leap year; the exceptions are outside of this century.
fn days_before(year: u64, month: u64) -> u64 {
    let leap_days = year.wrapping_add(if month > 2 { 4 } else { 3 }) / 4;
    let months = MONTHS.get(index(month)).copied().unwrap_or(0);
    year.wrapping_mul(365).wrapping_add(leap_days).wrapping_add(months)
}
