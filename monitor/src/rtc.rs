//! The real-time clock and its memory (MC146818 data sheet; the century as in ACPI's FADT).
//!
//! [`Rtc`] belongs to thread 0. The time follows from the host's; a guest that sets it changes what
//! is added. There is no interrupt: alarms and periods can be written and never happen, and the
//! "update in progress" bit is never set, because a read is always consistent.
//!
//! Invariant: the time is between the years 2000 and 2099.

use crate::scale::Scale;

/// Seconds of a day.
const DAY: u64 = 86_400;
/// 2000-01-01 in seconds since 1970.
const EPOCH: u64 = 946_684_800;
/// Days of 2000 to 2099.
const DAYS: u64 = 36_525;
/// Days of four years, the first of them a leap year.
const FOUR_YEARS: u64 = 1_461;

/// Register B: updates are held while the time is set.
const SET: u8 = 1 << 7;
/// Register B: binary, not decimal digits.
const BINARY: u8 = 1 << 2;
/// Register B: 24 hours, not 12.
const HOURS_24: u8 = 1 << 1;

/// Where the century is.
const CENTURY: u8 = 0x32;

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
        let mut memory = [0; 128];
        if let Some([a, b]) = memory.get_mut(0xa..0xc) {
            // The usual divider and rate; decimal digits and 24 hours.
            (*a, *b) = (0x26, HOURS_24);
        }
        let base = unix.saturating_sub(EPOCH);
        Rtc { to_seconds: Scale::new(tsc_hz, 1), start: now, base, held: None, index: 0, memory }
    }

    /// Selects a register; the top bit, which masks NMIs elsewhere, is dropped.
    pub fn select(&mut self, index: u8) {
        self.index = index & 0x7f;
    }

    /// Reads the selected register.
    pub fn read(&self, now: u64) -> u8 {
        let stored = self.cell(self.index);
        match self.index {
            0 | 2 | 4 | 6..=9 | CENTURY => self.encode(self.field(now)),
            0xa => stored & 0x7f,
            // No interrupt has happened; memory and time are valid.
            0xc => 0,
            0xd => 0x80,
            _ => stored,
        }
    }

    /// Writes the selected register.
    pub fn write(&mut self, value: u8, now: u64) {
        match self.index {
            0 | 2 | 4 | 6..=9 | CENTURY => self.set_field(value, now),
            0xb => {
                let fields = self.fields(now);
                if value & SET != 0 {
                    self.held = Some(fields);
                } else if self.held.take().is_some() {
                    (self.base, self.start) = (fields.to_time(), now);
                }
                self.store(value);
            }
            0xc | 0xd => {}
            _ => self.store(value),
        }
    }

    fn cell(&self, index: u8) -> u8 {
        self.memory.get(usize::from(index)).copied().unwrap_or(0)
    }

    fn store(&mut self, value: u8) {
        if let Some(cell) = self.memory.get_mut(usize::from(self.index)) {
            *cell = value;
        }
    }

    /// The time, broken down.
    fn fields(&self, now: u64) -> Fields {
        let gone = self.to_seconds.down(now.saturating_sub(self.start));
        self.held.unwrap_or_else(|| Fields::from_time(self.base.saturating_add(gone)))
    }

    /// The selected register's number, neither encoded nor with 12 hours.
    fn field(&self, now: u64) -> u64 {
        let fields = self.fields(now);
        match self.index {
            0 => fields.second,
            2 => fields.minute,
            4 => fields.hour,
            // 2000-01-01 was a Saturday, day 7.
            6 => ((fields.to_time() / DAY).wrapping_add(6) % 7).wrapping_add(1),
            7 => fields.day,
            8 => fields.month,
            9 => fields.year,
            _ => 20,
        }
    }

    /// Sets the selected register. The day of the week follows from the date, and the century is
    /// fixed.
    fn set_field(&mut self, value: u8, now: u64) {
        let mut fields = self.fields(now);
        let number = self.decode(value);
        match self.index {
            0 => fields.second = number,
            2 => fields.minute = number,
            4 => fields.hour = number,
            7 => fields.day = number,
            8 => fields.month = number,
            9 => fields.year = number,
            _ => return,
        }
        if self.held.is_some() {
            self.held = Some(fields);
        } else {
            (self.base, self.start) = (fields.to_time(), now);
        }
    }

    /// A number as the guest reads it.
    fn encode(&self, number: u64) -> u8 {
        let mode = self.cell(0xb);
        let is_12 = self.index == 4 && mode & HOURS_24 == 0;
        let (number, afternoon) = match (is_12, number) {
            (true, 0) => (12, 0),
            (true, 12) => (12, 0x80),
            (true, 13..) => (number.wrapping_sub(12), 0x80),
            _ => (number, 0),
        };
        let digits = if mode & BINARY != 0 { number } else { ((number / 10) << 4) | (number % 10) };
        crate::num::low8(digits | afternoon)
    }

    /// A number as the guest writes it.
    fn decode(&self, value: u8) -> u64 {
        let mode = self.cell(0xb);
        let is_12 = self.index == 4 && mode & HOURS_24 == 0;
        let digits = u64::from(if is_12 { value & 0x7f } else { value });
        let number = if mode & BINARY != 0 {
            digits
        } else {
            (digits >> 4).saturating_mul(10).saturating_add(digits & 0xf)
        };
        if !is_12 {
            return number;
        }
        let afternoon = if value & 0x80 != 0 { 12 } else { 0 };
        (number % 12).saturating_add(afternoon)
    }
}

/// A time of 2000 to 2099, broken down.
#[derive(Clone, Copy, Debug)]
struct Fields {
    second: u64,
    minute: u64,
    hour: u64,
    day: u64,
    month: u64,
    year: u64,
}

impl Fields {
    /// From seconds since 2000; after 2099 the calendar begins again.
    fn from_time(time: u64) -> Fields {
        let (second, minute, hour) = (time % 60, time / 60 % 60, time / 3_600 % 24);
        let days = time / DAY % DAYS;
        let mut left = days % FOUR_YEARS;
        let mut year = (days / FOUR_YEARS).saturating_mul(4);
        while left >= days_of_year(year) {
            left = left.wrapping_sub(days_of_year(year));
            year = year.wrapping_add(1);
        }
        let mut month = 1;
        while left >= days_of_month(year, month) {
            left = left.wrapping_sub(days_of_month(year, month));
            month = month.wrapping_add(1);
        }
        Fields { second, minute, hour, day: left.wrapping_add(1), month, year }
    }

    /// Seconds since 2000. What is outside of the calendar counts as the nearest that is inside.
    fn to_time(self) -> u64 {
        let (year, month) = (self.year.min(99), self.month.clamp(1, 12));
        let day = self.day.clamp(1, days_of_month(year, month)).wrapping_sub(1);
        let years = (0..year).map(days_of_year).fold(day, u64::wrapping_add);
        let months = (1..month).map(|month| days_of_month(year, month));
        let days = months.fold(years, u64::wrapping_add);
        let hours = days.wrapping_mul(24).wrapping_add(self.hour.min(23));
        let minutes = hours.wrapping_mul(60).wrapping_add(self.minute.min(59));
        minutes.wrapping_mul(60).wrapping_add(self.second.min(59))
    }
}

/// Every fourth year is a leap year; the exceptions are outside of this century.
fn days_of_year(year: u64) -> u64 {
    if year.is_multiple_of(4) { 366 } else { 365 }
}

fn days_of_month(year: u64, month: u64) -> u64 {
    match month {
        2 if year.is_multiple_of(4) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}
