//! The wall clock of many machines, good and bad.

use cloister_init_core::rtc::{Cmos, NoClock, unix_seconds};

/// A clock that reads its registers from a list of readings, one for each look at status A that
/// finds no update in progress; the last one stays.
struct Clock {
    readings: Vec<[u8; 128]>,
    updating: u32,
    pauses: u32,
}

impl Cmos for Clock {
    fn read(&mut self, register: u8) -> u8 {
        if register == 0x0a {
            if self.updating > 0 {
                self.updating -= 1;
                return 0x80;
            }
            if self.readings.len() > 1 {
                self.readings.remove(0);
            }
        }
        self.readings[0][usize::from(register)]
    }

    fn pause(&mut self) {
        self.pauses += 1;
    }
}

fn steady(registers: [u8; 128]) -> Clock {
    Clock { readings: vec![registers], updating: 0, pauses: 0 }
}

/// Seconds, minutes, hours, day, month, year, century at 0x32, status B.
fn registers(values: [u8; 7], status_b: u8) -> [u8; 128] {
    let mut all = [0; 128];
    for (place, value) in [0, 2, 4, 7, 8, 9, 0x32].into_iter().zip(values) {
        all[place] = value;
    }
    all[0x0b] = status_b;
    all
}

const DECIMAL_24: u8 = 2;
const BINARY_24: u8 = 6;

#[test]
fn dates_are_the_seconds_that_the_calendar_says() {
    let cases = [
        ([0x56, 0x34, 0x12, 0x29, 0x02, 0x24, 0x20], 1_709_210_096),
        ([0x00, 0x00, 0x00, 0x01, 0x01, 0x26, 0x20], 1_767_225_600),
        ([0x59, 0x59, 0x23, 0x31, 0x12, 0x99, 0x19], 946_684_799),
        ([0x00, 0x00, 0x00, 0x01, 0x01, 0x70, 0x19], 0),
        ([0x00, 0x00, 0x00, 0x01, 0x03, 0x00, 0x21], 4_107_542_400),
    ];
    for (values, seconds) in cases {
        let found = unix_seconds(&mut steady(registers(values, DECIMAL_24)), Some(0x32));
        assert_eq!(found, Ok(seconds), "{values:x?}");
    }
}

#[test]
fn binary_and_twelve_hour_clocks_are_understood() {
    let binary = registers([56, 34, 12, 29, 2, 24, 20], BINARY_24);
    assert_eq!(unix_seconds(&mut steady(binary), Some(0x32)), Ok(1_709_210_096));
    let midnight = 1_767_225_600;
    for (hour, after) in [(0x12, 0), (0x01, 1), (0x11, 11), (0x92, 12), (0x81, 13), (0x91, 23)] {
        let values = [0, 0, hour, 0x01, 0x01, 0x26, 0x20];
        let found = unix_seconds(&mut steady(registers(values, 0)), Some(0x32));
        assert_eq!(found, Ok(midnight + after * 3600), "{hour:x}");
    }
    let binary_afternoon = registers([0, 0, 0x80 | 11, 1, 1, 26, 20], 4);
    let found = unix_seconds(&mut steady(binary_afternoon), Some(0x32));
    assert_eq!(found, Ok(midnight + 23 * 3600));
}

#[test]
fn without_a_century_the_year_decides() {
    for (year, seconds) in [(0x26, 1_767_225_600), (0x70, 0), (0x69, 3_124_224_000)] {
        let values = [0, 0, 0, 0x01, 0x01, year, 0xff];
        let found = unix_seconds(&mut steady(registers(values, DECIMAL_24)), None);
        assert_eq!(found, Ok(seconds), "{year:x}");
    }
}

#[test]
fn what_is_no_date_is_none() {
    let good = [0x00, 0x00, 0x00, 0x28, 0x02, 0x23, 0x20];
    let bad = [(0, 0x60), (1, 0x60), (2, 0x24), (3, 0x29), (3, 0), (4, 0x13), (4, 0), (5, 0xa0)];
    for (place, value) in bad {
        let mut values = good;
        values[place] = value;
        let found = unix_seconds(&mut steady(registers(values, DECIMAL_24)), Some(0x32));
        assert_eq!(found, Err(NoClock::NoDate), "{place} {value:x}");
    }
    assert!(unix_seconds(&mut steady(registers(good, DECIMAL_24)), Some(0x32)).is_ok());
    let twelve = registers([0, 0, 0x13, 0x01, 0x01, 0x26, 0x20], 0);
    assert_eq!(unix_seconds(&mut steady(twelve), None), Err(NoClock::NoDate));
}

#[test]
fn an_update_is_waited_for_and_a_torn_reading_is_read_again() {
    let before = registers([0x59, 0x59, 0x23, 0x31, 0x12, 0x25, 0x20], DECIMAL_24);
    let torn = registers([0x00, 0x59, 0x23, 0x31, 0x12, 0x25, 0x20], DECIMAL_24);
    let after = registers([0x00, 0x00, 0x00, 0x01, 0x01, 0x26, 0x20], DECIMAL_24);
    let mut clock = Clock { readings: vec![before, torn, after], updating: 20, pauses: 0 };
    assert_eq!(unix_seconds(&mut clock, Some(0x32)), Ok(1_767_225_600));
    assert_eq!(clock.pauses, 20);
}

#[test]
fn a_clock_that_is_not_there_or_runs_wild_is_unsteady_within_bounds() {
    let mut absent = steady([0xff; 128]);
    assert_eq!(unix_seconds(&mut absent, None), Err(NoClock::Unsteady));
    assert_eq!(absent.pauses, 100);
    let wild = (0..50).map(|second| registers([second, 0, 0, 1, 1, 1, 1], BINARY_24)).collect();
    let mut wild = Clock { readings: wild, updating: 0, pauses: 0 };
    assert_eq!(unix_seconds(&mut wild, None), Err(NoClock::Unsteady));
}
