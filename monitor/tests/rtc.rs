//! The real-time clock against the MC146818 data sheet, and the power management timer.

use cloister_monitor::pm_timer::PmTimer;
use cloister_monitor::rtc::Rtc;
use proptest::prelude::*;

const HZ: u64 = 2_500_000_000;
/// 2000-01-01.
const Y2K: u64 = 946_684_800;
const DAY: u64 = 86_400;
const BINARY_24: u8 = 6;
const SET: u8 = 0x80;

fn read(rtc: &mut Rtc, index: u8, now: u64) -> u8 {
    rtc.select(index);
    rtc.read(now)
}

fn write(rtc: &mut Rtc, index: u8, value: u8, now: u64) {
    rtc.select(index);
    rtc.write(value, now);
}

/// Second, minute, hour, day of the week, day, month, year, century.
fn all(rtc: &mut Rtc, now: u64) -> [u8; 8] {
    [0, 2, 4, 6, 7, 8, 9, 0x32].map(|index| read(rtc, index, now))
}

#[test]
fn a_known_time_in_decimal_digits() {
    // Thursday, 29 February 2024, 23:59:58.
    let mut rtc = Rtc::new(1_709_251_198, HZ, 1_000);
    assert_eq!(all(&mut rtc, 1_000), [0x58, 0x59, 0x23, 0x05, 0x29, 0x02, 0x24, 0x20]);
    assert_eq!(read(&mut rtc, 0, 999 + HZ), 0x58);
    assert_eq!(read(&mut rtc, 0, 1_000 + HZ), 0x59);
    let midnight = all(&mut rtc, 1_000 + 2 * HZ);
    assert_eq!(midnight, [0x00, 0x00, 0x00, 0x06, 0x01, 0x03, 0x24, 0x20]);
}

#[test]
fn twelve_hours_and_binary() {
    for (hour, binary, digits) in [
        (0, 12, 0x12),
        (1, 1, 0x01),
        (11, 11, 0x11),
        (12, 0x80 | 12, 0x92),
        (13, 0x80 | 1, 0x81),
        (22, 0x80 | 10, 0x90),
        (23, 0x80 | 11, 0x91),
    ] {
        let mut rtc = Rtc::new(Y2K + hour * 3_600, HZ, 0);
        for (mode, expected) in [(4, binary), (0, digits), (6, hour as u8)] {
            write(&mut rtc, 0xb, mode, 0);
            assert_eq!(read(&mut rtc, 4, 0), expected, "{hour} in mode {mode}");
        }
        // What is read can be written back.
        for (mode, value) in [(4, binary), (0, digits)] {
            let mut rtc = Rtc::new(Y2K, HZ, 0);
            write(&mut rtc, 0xb, mode, 0);
            write(&mut rtc, 4, value, 0);
            write(&mut rtc, 0xb, BINARY_24, 0);
            assert_eq!(read(&mut rtc, 4, 0), hour as u8);
        }
    }
}

#[test]
fn control_registers() {
    let mut rtc = Rtc::new(Y2K, HZ, 0);
    assert_eq!([0xa, 0xb, 0xc, 0xd].map(|index| read(&mut rtc, index, 0)), [0x26, 0x02, 0, 0x80]);
    for index in [0xa, 0xb, 0xc, 0xd] {
        write(&mut rtc, index, 0xff, 0);
    }
    let values = [0xa, 0xb, 0xc, 0xd].map(|index| read(&mut rtc, index, 0));
    assert_eq!(values, [0x7f, 0xff, 0, 0x80], "no update in progress, no interrupt");
}

#[test]
fn memory_is_128_bytes_of_zeros_that_can_be_written() {
    let mut rtc = Rtc::new(Y2K, HZ, 0);
    let memory: Vec<u8> = [1, 3, 5].into_iter().chain(0xe..0x32).chain(0x33..0x80).collect();
    for &index in &memory {
        assert_eq!(read(&mut rtc, index, 0), 0);
        write(&mut rtc, index, index ^ 0x5a, 0);
    }
    for &index in &memory {
        assert_eq!(read(&mut rtc, index | 0x80, 0), index ^ 0x5a, "the top bit masks NMIs");
    }
}

#[test]
fn setting_the_time_field_by_field_passes_impossible_dates() {
    let mut rtc = Rtc::new(Y2K + 31 * DAY, HZ, 0);
    assert_eq!(read(&mut rtc, 8, 0), 2, "February");
    write(&mut rtc, 0xb, SET | BINARY_24, 0);
    // The 31st before the month that has one.
    for (index, value) in [(7, 31), (8, 12), (9, 77), (4, 22), (2, 10), (0, 59)] {
        write(&mut rtc, index, value, 5 * HZ);
        assert_eq!(read(&mut rtc, index, 6 * HZ), value, "held");
    }
    write(&mut rtc, 0xb, BINARY_24, 9 * HZ);
    assert_eq!(all(&mut rtc, 9 * HZ), [59, 10, 22, 6, 31, 12, 77, 20]);
    assert_eq!(all(&mut rtc, 10 * HZ)[..2], [0, 11]);
    // Without holding, a field takes effect at once.
    write(&mut rtc, 2, 30, 10 * HZ);
    assert_eq!(all(&mut rtc, 11 * HZ)[..3], [1, 30, 22]);
    // The day of the week and the century follow from the date.
    write(&mut rtc, 6, 1, 11 * HZ);
    write(&mut rtc, 0x32, 19, 11 * HZ);
    assert_eq!((read(&mut rtc, 6, 11 * HZ), read(&mut rtc, 0x32, 11 * HZ)), (6, 20));
}

#[test]
fn values_outside_of_the_calendar_become_the_nearest_inside() {
    let mut rtc = Rtc::new(Y2K, HZ, 0);
    write(&mut rtc, 0xb, SET | BINARY_24, 0);
    for index in [0, 2, 4, 7, 8, 9] {
        write(&mut rtc, index, 0xff, 0);
    }
    write(&mut rtc, 0xb, BINARY_24, 0);
    assert_eq!(all(&mut rtc, 0), [59, 59, 23, 5, 31, 12, 99, 20]);
    // The calendar begins again behind its end.
    assert_eq!(all(&mut rtc, HZ), [0, 0, 0, 7, 1, 1, 0, 20]);
    for index in [7, 8] {
        write(&mut rtc, index, 0, HZ);
    }
    assert_eq!(all(&mut rtc, HZ)[4..6], [1, 1]);
}

#[test]
fn times_before_and_after_the_century_are_dates_too() {
    let mut rtc = Rtc::new(0, HZ, 0);
    assert_eq!(all(&mut rtc, 0), [0, 0, 0, 7, 1, 1, 0, 0x20]);
    let mut rtc = Rtc::new(u64::MAX, 1, 0);
    for now in [0, 1, u64::MAX] {
        assert!(all(&mut rtc, now)[4..7].iter().all(|&value| value & 0xf < 10));
    }
}

#[test]
fn every_day_of_the_century_follows_the_one_before() {
    let mut rtc = Rtc::new(Y2K, HZ, 0);
    write(&mut rtc, 0xb, BINARY_24, 0);
    let (mut year, mut month, mut day, mut weekday) = (0u8, 1u8, 1u8, 7u8);
    for number in 0..36_525u64 {
        let [_, _, _, shown_weekday, shown_day, shown_month, shown_year, _] =
            all(&mut rtc, number * DAY * HZ);
        let shown = (shown_year, shown_month, shown_day, shown_weekday);
        assert_eq!(shown, (year, month, day, weekday), "day {number}");
        weekday = weekday % 7 + 1;
        let last = match month {
            2 if year % 4 == 0 => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        day += 1;
        if day > last {
            (day, month) = (1, month + 1);
        }
        if month > 12 {
            (month, year) = (1, year + 1);
        }
    }
}

proptest! {
    #[test]
    fn what_is_set_is_read(time in Y2K..Y2K + 36_525 * DAY, mode in 0u8..4) {
        let mode = mode << 1;
        let mut source = Rtc::new(time, HZ, 0);
        write(&mut source, 0xb, mode, 0);
        let mut rtc = Rtc::new(Y2K, HZ, 0);
        write(&mut rtc, 0xb, SET | mode, 0);
        let fields = all(&mut source, 0);
        for (index, value) in [0, 2, 4, 6, 7, 8, 9, 0x32].into_iter().zip(fields) {
            write(&mut rtc, index, value, 0);
        }
        write(&mut rtc, 0xb, mode, 0);
        prop_assert_eq!(all(&mut rtc, 0), fields);
    }

    #[test]
    fn the_power_management_timer_has_its_frequency(
        tsc_hz in 10_000_000u64..6_000_000_000,
        start in any::<u32>(),
        gone in 0u64..1 << 50,
    ) {
        let start = u64::from(start);
        let timer = PmTimer::new(tsc_hz, start);
        let exact = u128::from(gone) * 3_579_545 / u128::from(tsc_hz);
        let shown = timer.read(start + gone);
        let ahead = shown.wrapping_sub(exact as u32);
        prop_assert!(ahead <= 1, "{shown} for {exact}");
    }
}

#[test]
fn the_power_management_timer_wraps_at_32_bits() {
    let timer = PmTimer::new(3_579_545, 10);
    for (now, value) in [(0, 0), (10, 0), (11, 1), (10 + (1 << 32), 0), (9 + (1 << 32), u32::MAX)] {
        assert_eq!(timer.read(now), value, "{now}");
    }
}
