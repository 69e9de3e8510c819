//! The local APIC's timer against Intel SDM volume 3, "APIC Timer", in exact arithmetic.

use cloister_guest_abi::cpuid::APIC_TIMER_HZ;
use cloister_monitor::apic::LocalApic;
use cloister_monitor::scale::Scale;
use proptest::prelude::*;

const VECTOR: u8 = 0x40;
const ONE_SHOT: u64 = 0;
const PERIODIC: u64 = 1 << 17;
const DEADLINE: u64 = 2 << 17;
const RESERVED: u64 = 3 << 17;
const MASKED: u64 = 1 << 16;

/// An x2APIC whose timer is in this mode and counts undivided.
fn timer(mode: u64, tsc_hz: u64) -> LocalApic {
    let mut apic = LocalApic::new(0, true, true, tsc_hz);
    for (msr, value) in [(0x80f, 0x1ff), (0x832, mode | u64::from(VECTOR)), (0x83e, 0b1011)] {
        apic.write_msr(msr, value, 0).unwrap();
    }
    apic
}

fn set(apic: &mut LocalApic, msr: u32, value: u64, now: u64) {
    apic.write_msr(msr, value, now).unwrap();
}

fn count(apic: &mut LocalApic, now: u64) -> u64 {
    apic.read_msr(0x839, now).unwrap()
}

/// Whether the timer has interrupted; takes the interrupt.
fn fired(apic: &mut LocalApic, now: u64) -> bool {
    apic.tick(now);
    let is_there = apic.highest() == Some(VECTOR);
    apic.taken(VECTOR);
    apic.eoi();
    is_there
}

#[test]
fn one_shot_counts_down_once() {
    let mut apic = timer(ONE_SHOT, APIC_TIMER_HZ);
    assert_eq!((apic.deadline(), count(&mut apic, 5)), (None, 0));
    set(&mut apic, 0x838, 1_000, 100);
    assert_eq!(apic.deadline(), Some(1_100));
    for (now, left) in [(100, 1_000), (101, 999), (1_099, 1)] {
        assert_eq!(count(&mut apic, now), left, "at {now}");
        assert!(!fired(&mut apic, now));
    }
    assert!(fired(&mut apic, 1_100));
    assert_eq!((apic.deadline(), count(&mut apic, 1_100)), (None, 0));
    assert!(!fired(&mut apic, 9_999));
    assert_eq!(apic.read_msr(0x838, 0), Ok(1_000), "the initial count stays");
    set(&mut apic, 0x838, 50, 2_000);
    set(&mut apic, 0x838, 0, 2_001);
    assert_eq!((apic.deadline(), fired(&mut apic, 9_999)), (None, false));
}

#[test]
fn every_divider_divides() {
    let divisors = [(0b0000, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)];
    for (encoding, divisor) in divisors {
        let mut apic = timer(ONE_SHOT, APIC_TIMER_HZ);
        set(&mut apic, 0x83e, encoding, 0);
        set(&mut apic, 0x838, 1_000, 0);
        assert_eq!(apic.deadline(), Some(1_000 * divisor), "{encoding:#b}");
        assert_eq!(count(&mut apic, 10 * divisor), 990);
    }
}

#[test]
fn a_new_divider_goes_on_with_what_is_left() {
    let mut apic = timer(ONE_SHOT, APIC_TIMER_HZ);
    set(&mut apic, 0x838, 1_000, 0);
    set(&mut apic, 0x83e, 0b0001, 400);
    assert_eq!((apic.deadline(), count(&mut apic, 400)), (Some(400 + 600 * 4), 600));
}

#[test]
fn a_masked_timer_counts_and_its_expiry_is_lost() {
    let mut apic = timer(ONE_SHOT | MASKED, APIC_TIMER_HZ);
    set(&mut apic, 0x838, 1_000, 0);
    assert_eq!((apic.deadline(), count(&mut apic, 600)), (None, 400));
    set(&mut apic, 0x832, u64::from(VECTOR), 2_000);
    assert!(!fired(&mut apic, 2_000));
    let mut apic = timer(PERIODIC | MASKED, APIC_TIMER_HZ);
    set(&mut apic, 0x838, 10_000, 0);
    assert_eq!(count(&mut apic, 34_000), 6_000);
    set(&mut apic, 0x832, PERIODIC | u64::from(VECTOR), 45_000);
    assert!(!fired(&mut apic, 45_000));
    assert_eq!(apic.deadline(), Some(50_000));
}

#[test]
fn between_one_shot_and_periodic_the_count_goes_on() {
    let mut apic = timer(ONE_SHOT, APIC_TIMER_HZ);
    set(&mut apic, 0x838, 10_000, 0);
    set(&mut apic, 0x832, PERIODIC | u64::from(VECTOR), 3_000);
    assert_eq!(count(&mut apic, 3_000), 7_000);
    assert!(fired(&mut apic, 10_000) && fired(&mut apic, 20_000));
    set(&mut apic, 0x832, u64::from(VECTOR), 25_000);
    assert!(fired(&mut apic, 30_000) && !fired(&mut apic, 99_000));
}

#[test]
fn a_change_to_or_from_the_deadline_mode_disarms() {
    let mut apic = timer(ONE_SHOT, APIC_TIMER_HZ);
    set(&mut apic, 0x838, 10_000, 0);
    set(&mut apic, 0x832, DEADLINE | u64::from(VECTOR), 10);
    assert_eq!((apic.deadline(), apic.read_msr(0x838, 10)), (None, Ok(0)));
    apic.write_tsc_deadline(500, 0, 20);
    assert_eq!((apic.deadline(), apic.read_tsc_deadline()), (Some(500), 500));
    set(&mut apic, 0x832, PERIODIC | u64::from(VECTOR), 30);
    assert_eq!((apic.deadline(), apic.read_tsc_deadline()), (None, 0));
    assert!(!fired(&mut apic, 9_999));
}

#[test]
fn the_deadline_is_in_the_guests_time_and_fires_once() {
    let offset = 0u64.wrapping_sub(1_000_000);
    let mut apic = timer(DEADLINE, 3_000_000_000);
    apic.write_tsc_deadline(500, offset, 1_000_100);
    assert_eq!((apic.deadline(), apic.read_tsc_deadline()), (Some(1_000_500), 500));
    assert!(!fired(&mut apic, 1_000_499));
    assert!(fired(&mut apic, 1_000_500) && !fired(&mut apic, 1_000_501));
    assert_eq!((apic.deadline(), apic.read_tsc_deadline()), (None, 0));
    // A deadline in the past is now, without another call.
    apic.write_tsc_deadline(1, offset, 1_000_600);
    assert_eq!(apic.highest(), Some(VECTOR));
    assert!(fired(&mut apic, 1_000_600));
    apic.write_tsc_deadline(700, offset, 1_000_600);
    apic.write_tsc_deadline(0, offset, 1_000_601);
    assert_eq!((apic.deadline(), fired(&mut apic, 2_000_000)), (None, false));
    // The counting registers are dead in this mode.
    set(&mut apic, 0x838, 77, 1_000_700);
    apic.write_tsc_deadline(5_000, offset, 1_000_700);
    assert_eq!((apic.read_msr(0x838, 0), count(&mut apic, 1_000_800)), (Ok(0), 0));
    // A deadline at the end of time neither overflows nor fires.
    apic.write_tsc_deadline(u64::MAX, offset, 1_000_700);
    assert!(!fired(&mut apic, u64::MAX / 2));
}

#[test]
fn outside_of_its_mode_the_deadline_cannot_be_written() {
    for mode in [ONE_SHOT, PERIODIC, RESERVED] {
        let mut apic = timer(mode, APIC_TIMER_HZ);
        apic.write_tsc_deadline(500, 0, 0);
        assert_eq!((apic.deadline(), apic.read_tsc_deadline()), (None, 0));
    }
    let mut apic = timer(RESERVED, APIC_TIMER_HZ);
    set(&mut apic, 0x838, 100, 0);
    assert_eq!((apic.deadline(), fired(&mut apic, 1_000)), (None, false));
}

#[test]
fn a_million_periods_do_not_drift() {
    let tsc_hz = 2_793_437_519;
    let mut apic = timer(PERIODIC, tsc_hz);
    set(&mut apic, 0x838, 10_007, 12_345);
    for period in 1..=1_000_000u128 {
        let exact = 12_345 + (period * 10_007 * u128::from(tsc_hz)).div_ceil(1_000_000_000);
        let deadline = apic.deadline().unwrap();
        assert!(u128::from(deadline).abs_diff(exact) <= 1, "period {period}: {deadline} {exact}");
        // Somebody looks late, sometimes by a few microseconds.
        assert!(fired(&mut apic, deadline + (deadline % 7) * 1_000));
    }
}

#[test]
fn periods_that_nobody_looked_at_are_one_interrupt() {
    let mut apic = timer(PERIODIC, APIC_TIMER_HZ);
    set(&mut apic, 0x838, 10_000, 0);
    assert!(fired(&mut apic, 1_234_567));
    assert!(!fired(&mut apic, 1_234_568));
    assert_eq!(apic.deadline(), Some(1_240_000));
}

#[test]
fn the_shortest_period_leaves_the_guest_time_to_run() {
    let mut apic = timer(PERIODIC, APIC_TIMER_HZ);
    set(&mut apic, 0x838, 1, 0);
    let mut now = apic.deadline().unwrap();
    for _ in 0..1_000 {
        assert!(fired(&mut apic, now));
        let next = apic.deadline().unwrap();
        assert!(next >= now + 4_000, "{next} after {now}");
        assert!(!fired(&mut apic, next - 1));
        now = next;
    }
}

proptest! {
    #[test]
    fn expiries_and_counts_are_those_of_exact_arithmetic(
        tsc_hz in 10_000_000u64..6_000_000_000,
        initial in 5_000u32..,
        encoding in 0u64..8,
        start in 0u64..1 << 60,
        place in 0f64..1.0,
    ) {
        let mut apic = timer(ONE_SHOT, tsc_hz);
        set(&mut apic, 0x83e, encoding & 3 | (encoding & 4) << 1, start);
        set(&mut apic, 0x838, u64::from(initial), start);
        let divisor = 1u128 << ((encoding + 1) & 7);
        let (hz, apic_hz) = (u128::from(tsc_hz), u128::from(APIC_TIMER_HZ));
        let ticks = (u128::from(initial) * divisor * hz).div_ceil(apic_hz) as u64;
        let deadline = apic.deadline().unwrap();
        prop_assert!(deadline.abs_diff(start + ticks) <= 1);
        let now = start + (ticks as f64 * place) as u64;
        let gone = u128::from(now - start) * apic_hz / hz / divisor;
        let left = u64::from(initial) - (gone as u64).min(u64::from(initial));
        prop_assert!(count(&mut apic, now).abs_diff(left) <= 1 + APIC_TIMER_HZ / tsc_hz);
        prop_assert!(!fired(&mut apic, deadline - 1) && fired(&mut apic, deadline));
    }

    #[test]
    fn conversions_are_monotonic_and_off_by_at_most_one(
        from in 1_000_000u64..10_000_000_000,
        to in 1u64..10_000_000_000,
        ticks in 0u64..1 << 55,
    ) {
        let scale = Scale::new(from, to);
        let exact = u128::from(ticks) * u128::from(to);
        let down = exact / u128::from(from);
        prop_assume!(down < 1 << 58);
        prop_assert!(u128::from(scale.down(ticks)).abs_diff(down) <= 1);
        let up = exact.div_ceil(u128::from(from));
        prop_assert!(u128::from(scale.up(ticks)).abs_diff(up) <= 1);
        prop_assert!(scale.down(ticks) <= scale.up(ticks));
        prop_assert!(scale.down(ticks) <= scale.down(ticks + 1));
        // A whole second comes out whole.
        prop_assert_eq!(scale.down(from), to);
        // There and back again is not before where it began.
        prop_assert!(Scale::new(to, from).down(scale.up(ticks)) >= ticks);
    }
}

#[test]
fn conversions_at_the_ends_saturate() {
    for (from, to) in [(0, 0), (1, u64::MAX), (u64::MAX, 1), (u64::MAX, u64::MAX), (3, 7)] {
        let scale = Scale::new(from, to);
        for ticks in [0, 1, u64::MAX - 1, u64::MAX] {
            assert!(scale.down(ticks) <= scale.up(ticks), "{from} {to} {ticks}");
        }
    }
    assert_eq!(Scale::new(1, 1_000).up(u64::MAX), u64::MAX);
    assert_eq!(Scale::new(5, 5).down(u64::MAX), u64::MAX);
}
