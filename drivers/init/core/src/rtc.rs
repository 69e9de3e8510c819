//! The wall clock: registers of the MC146818 and its successors, and what date they mean.
//!
//! Motorola MC146818A data sheet, "Time, Calendar, and Alarm Locations" and "Registers". The clock
//! counts UTC. It is read twice, with no update in progress, until both readings agree.

const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
/// Status A: the registers are changing.
const UPDATING: u8 = 0x80;
/// Status B: hours count to 24.
const HOURS_24: u8 = 2;
/// Status B: numbers are binary, not decimal digits.
const BINARY: u8 = 4;
/// Hours of a 12-hour clock: afternoon.
const AFTERNOON: u8 = 0x80;
/// How often to look whether an update is over; it lasts 2 ms at most.
const PAUSES_MAX: u32 = 100;
/// How many pairs of readings to try.
const READINGS_MAX: u32 = 5;

/// Access to the clock.
pub trait Cmos {
    /// A register.
    fn read(&mut self, register: u8) -> u8;
    /// Lets at least 50 microseconds pass.
    fn pause(&mut self);
}

/// Why there is no wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoClock {
    /// It is always updating, or never reads the same twice: there is none.
    Unsteady,
    /// It shows no date: its battery is empty, or it was never set.
    NoDate,
}

/// Seconds since 1970. `century` is the register that holds it, if the firmware names one.
pub fn unix_seconds(cmos: &mut impl Cmos, century: Option<u8>) -> Result<u64, NoClock> {
    let mut last = read(cmos, century)?;
    for _ in 0..READINGS_MAX {
        let again = read(cmos, century)?;
        if again == last {
            return last.to_unix().ok_or(NoClock::NoDate);
        }
        last = again;
    }
    Err(NoClock::Unsteady)
}

/// The registers, as they are.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Raw {
    second: u8,
    minute: u8,
    hour: u8,
    day: u8,
    month: u8,
    year: u8,
    century: Option<u8>,
    status_b: u8,
}

fn read(cmos: &mut impl Cmos, century: Option<u8>) -> Result<Raw, NoClock> {
    let mut pauses = 0;
    while cmos.read(STATUS_A) & UPDATING != 0 {
        if pauses == PAUSES_MAX {
            return Err(NoClock::Unsteady);
        }
        pauses += 1;
        cmos.pause();
    }
    Ok(Raw {
        second: cmos.read(SECONDS),
        minute: cmos.read(MINUTES),
        hour: cmos.read(HOURS),
        day: cmos.read(DAY),
        month: cmos.read(MONTH),
        year: cmos.read(YEAR),
        century: century.map(|register| cmos.read(register)),
        status_b: cmos.read(STATUS_B),
    })
}

impl Raw {
    fn to_unix(self) -> Option<u64> {
        let second = self.number(self.second).filter(|s| *s < 60)?;
        let minute = self.number(self.minute).filter(|m| *m < 60)?;
        let hour = self.hour()?;
        let month = self.number(self.month).filter(|m| (1..=12).contains(m))?;
        let year = self.number(self.year).filter(|y| *y < 100)?;
        let century = match self.century {
            Some(register) => self.number(register).filter(|c| (19..=29).contains(c))?,
            // Without the register: the hundred years that begin with this protocol's birth.
            None if year >= 70 => 19,
            None => 20,
        };
        let year = century * 100 + year;
        let day = self.number(self.day).filter(|d| (1..=days_in(year, month)).contains(d))?;
        let days = days_since_1970(year, month, day)?;
        Some(days * 86_400 + hour * 3_600 + minute * 60 + second)
    }

    fn hour(&self) -> Option<u64> {
        if self.status_b & HOURS_24 != 0 {
            return self.number(self.hour).filter(|h| *h < 24);
        }
        let hour = self.number(self.hour & !AFTERNOON).filter(|h| (1..=12).contains(h))?;
        let afternoon = if self.hour & AFTERNOON != 0 { 12 } else { 0 };
        Some(hour % 12 + afternoon)
    }

    /// A register's number; `None` if its digits are none.
    fn number(&self, register: u8) -> Option<u64> {
        if self.status_b & BINARY != 0 {
            return Some(register.into());
        }
        let (tens, ones) = (register >> 4, register & 0xf);
        (tens < 10 && ones < 10).then(|| u64::from(tens) * 10 + u64::from(ones))
    }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    let years = (1970..year).map(|y| if is_leap(y) { 366 } else { 365 }).sum::<u64>();
    let months = (1..month).map(|m| days_in(year, m)).sum::<u64>();
    (year >= 1970).then(|| years + months + day - 1)
}
