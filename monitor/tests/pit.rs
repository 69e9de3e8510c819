//! The interval timer against the 82C54 data sheet, "Mode Definitions": random programs against a
//! model that is clocked pulse by pulse, and the timer's registers.

use cloister_monitor::pit::Pit;
use proptest::prelude::*;

/// A host whose time stamp counter is the timer's clock: a tick is a pulse.
const HZ: u64 = 1_193_182;

/// A counter as hardware has it: a counting element that a pulse decrements or loads.
#[derive(Clone, Debug, Default)]
struct Clocked {
    mode: u8,
    bcd: bool,
    gate: bool,
    output: bool,
    /// The whole count that was written.
    register: Option<u32>,
    /// The next pulse loads.
    load: bool,
    element: u32,
    /// What the element was loaded with, where it is still what matters.
    loaded: Option<u32>,
    /// The output may still change at the end.
    armed: bool,
}

impl Clocked {
    fn modulus(&self) -> u32 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }

    fn control(&mut self, mode: u8, bcd: bool) {
        *self = Clocked { mode, bcd, gate: self.gate, output: mode != 0, ..Clocked::default() };
    }

    fn write(&mut self, count: u32) {
        let count = if count == 0 { self.modulus() } else { count };
        let cyclic = matches!(self.mode, 2 | 3);
        self.register = Some(if cyclic { count.max(2) } else { count });
        match self.mode {
            0 => (self.output, self.load) = (false, true),
            4 => self.load = true,
            2 | 3 if self.loaded.is_none() => self.load = true,
            _ => {}
        }
    }

    fn set_gate(&mut self, gate: bool) {
        let rises = gate && !self.gate;
        self.gate = gate;
        if matches!(self.mode, 2 | 3) && !gate {
            self.output = true;
        }
        if rises && matches!(self.mode, 1 | 2 | 3 | 5) && self.register.is_some() {
            self.load = true;
        }
    }

    fn reload(&mut self) {
        let register = self.register.unwrap();
        self.loaded = Some(register);
        self.element = if self.mode == 3 { register & !1 } else { register };
    }

    fn pulse(&mut self) {
        if self.load {
            // Modes that a low gate stops keep the load for the gate, but for 0 and 4.
            if matches!(self.mode, 2 | 3) && !self.gate {
                return;
            }
            self.load = false;
            self.reload();
            self.armed = true;
            self.output = !matches!(self.mode, 0 | 1);
            return;
        }
        if self.mode == 4 || self.mode == 5 {
            self.output = true;
        }
        let Some(loaded) = self.loaded else { return };
        if !self.gate && !matches!(self.mode, 1 | 5) {
            return;
        }
        match self.mode {
            2 if self.element == 1 => {
                self.reload();
                self.output = true;
            }
            2 => {
                self.element -= 1;
                self.output = self.element != 1;
            }
            3 => {
                // An odd count makes the high half one pulse longer.
                let is_over = if loaded % 2 == 1 && self.output {
                    self.element == 0
                } else {
                    self.element == 2
                };
                if is_over {
                    self.output = !self.output;
                    self.reload();
                } else {
                    self.element -= 2;
                }
            }
            mode => {
                let top = self.modulus();
                self.element = (self.element + top - 1) % top;
                if self.element == 0 && self.armed {
                    self.armed = false;
                    self.output = mode < 2;
                }
            }
        }
    }

    /// What a read shows, where that is defined.
    fn shown(&self) -> Option<u16> {
        let count = self.element % self.modulus();
        let digit = |power: u32, place: u32| (count / power % 10) << place;
        let digits = digit(1, 0) | digit(10, 4) | digit(100, 8) | digit(1_000, 12);
        let is_known = self.loaded.is_some() && !self.load;
        is_known.then_some((if self.bcd { digits } else { count }) as u16)
    }
}

fn read_16(pit: &mut Pit, counter: u16, now: u64) -> u16 {
    pit.write(3, (counter as u8) << 6, now);
    u16::from_le_bytes([pit.read(counter, now), pit.read(counter, now)])
}

fn program(pit: &mut Pit, counter: u16, mode: u8, count: u16, now: u64) {
    pit.write(3, (counter as u8) << 6 | 0x30 | mode << 1, now);
    let [low, high] = count.to_le_bytes();
    pit.write(counter, low, now);
    pit.write(counter, high, now);
}

#[derive(Clone, Debug)]
enum Op {
    Control(u8, bool),
    Count(u16),
    Gate(bool),
    Run(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let digits = [1u16, 2, 3, 4, 5, 6, 7, 8, 9, 0x10, 0x25, 0];
    prop_oneof![
        1 => (0..8u8, any::<bool>()).prop_map(|(mode, bcd)| Op::Control(mode, bcd)),
        2 => prop::sample::select(digits.to_vec()).prop_map(Op::Count),
        2 => any::<bool>().prop_map(Op::Gate),
        4 => (0..40u64).prop_map(Op::Run),
        1 => (9_990..10_010u64).prop_map(Op::Run),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn counter_2_is_at_every_pulse_where_the_clocked_one_is(
        mode in 0..8u8,
        bcd in any::<bool>(),
        ops in prop::collection::vec(op(), 1..40),
    ) {
        let (mut pit, mut slow, mut now) = (Pit::new(HZ, 0), Clocked::default(), 0u64);
        for op in std::iter::once(Op::Control(mode, bcd)).chain(ops) {
            match op {
                Op::Control(mode, bcd) => {
                    pit.write(3, 0xb0 | mode << 1 | u8::from(bcd), now);
                    slow.control(if mode > 5 { mode & 3 } else { mode }, bcd);
                }
                Op::Count(count) => {
                    let [low, high] = count.to_le_bytes();
                    pit.write(2, low, now);
                    pit.write(2, high, now);
                    let decimal = |n: u16| n & 0xf;
                    let value = if slow.bcd { decimal(count) + 10 * (count >> 4) } else { count };
                    slow.write(u32::from(value));
                }
                // The strobe of mode 4 is as long as the gate lets it be; not looked at.
                Op::Gate(_) if slow.mode == 4 && !slow.output => {}
                Op::Gate(gate) => {
                    pit.write_control(u8::from(gate), now);
                    slow.set_gate(gate);
                }
                Op::Run(pulses) => for _ in 0..pulses {
                    now += 1;
                    slow.pulse();
                    // Sometimes nobody looks for a while.
                    if now % 16 < 8 {
                        continue;
                    }
                    prop_assert_eq!(pit.output(2, now), slow.output, "{:?} at {}", slow, now);
                    if let Some(shown) = slow.shown() {
                        prop_assert_eq!(read_16(&mut pit, 2, now), shown, "{:?} at {}", slow, now);
                    }
                },
            }
            prop_assert_eq!(pit.output(2, now), slow.output, "{:?} at {}", slow, now);
            prop_assert_eq!(pit.read_control(now) >> 5 & 1 != 0, slow.output);
        }
    }

    #[test]
    fn every_edge_of_output_0_is_told_of_once(
        mode in 0..8u8,
        ops in prop::collection::vec(op(), 1..40),
    ) {
        let (mut pit, mut now, mut seen) = (Pit::new(HZ, 0), 0u64, 0u64);
        let mut slow = Clocked { gate: true, output: true, ..Clocked::default() };
        for op in std::iter::once(Op::Control(mode, false)).chain(ops) {
            let before = slow.output;
            match op {
                Op::Control(mode, bcd) => {
                    pit.write(3, 0x30 | mode << 1 | u8::from(bcd), now);
                    slow.control(if mode > 5 { mode & 3 } else { mode }, bcd);
                }
                Op::Count(count) if count < 10 => {
                    pit.write(0, count as u8, now);
                    pit.write(0, 0, now);
                    slow.write(u32::from(count));
                }
                Op::Run(pulses) => {
                    // Where the next interrupt is due, the deadline says before.
                    let mut deadline = pit.deadline();
                    for _ in 0..pulses {
                        now += 1;
                        let before = slow.output;
                        slow.pulse();
                        let rises = !before && slow.output;
                        if rises {
                            let due = deadline.expect("an edge without a deadline");
                            prop_assert!(due == now.max(seen + 5), "{} {:?}", now, deadline);
                        }
                        if now % 3 != 0 || rises {
                            prop_assert_eq!(pit.tick(now), rises, "{:?} at {}", slow, now);
                            (deadline, seen) = (pit.deadline(), now);
                        }
                    }
                }
                _ => {}
            }
            if !matches!(op, Op::Run(_)) {
                prop_assert_eq!(pit.tick(now), !before && slow.output);
                seen = now;
            }
        }
    }
}

#[test]
fn edges_that_nobody_looked_at_are_one_and_the_next_is_not_late() {
    let tsc_hz = 2_999_999_999;
    let mut pit = Pit::new(tsc_hz, 7_000);
    program(&mut pit, 0, 2, 11_932, 7_000);
    let at = |n: u128| 7_000 + ((1 + 11_932 * n) * u128::from(tsc_hz)).div_ceil(HZ.into()) as u64;
    assert!(pit.deadline().unwrap().abs_diff(at(1)) <= 1, "{:?} {}", pit.deadline(), at(1));
    assert!(!pit.tick(at(1) - 2_600));
    assert!(pit.tick(at(1_000) + 5));
    assert!(!pit.tick(at(1_000) + 6));
    assert!(pit.deadline().unwrap().abs_diff(at(1_001)) <= 1);
}

#[test]
fn the_shortest_period_leaves_the_guest_time_to_run() {
    let mut pit = Pit::new(HZ, 0);
    program(&mut pit, 0, 2, 2, 0);
    let mut now = pit.deadline().unwrap();
    for _ in 0..1_000 {
        assert!(pit.tick(now));
        let next = pit.deadline().unwrap();
        assert!(next >= now + 5);
        now = next;
    }
}

#[test]
fn a_count_that_cuts_a_strobe_short_ends_it_with_an_edge() {
    let mut pit = Pit::new(HZ, 0);
    program(&mut pit, 0, 4, 10, 0);
    assert!(pit.output(0, 10) && !pit.output(0, 11));
    pit.tick(11);
    pit.write(0, 10, 11);
    pit.write(0, 0, 11);
    assert!(!pit.output(0, 11) && !pit.tick(11));
    assert!(pit.tick(12) && pit.output(0, 12));
    assert!(!pit.tick(22) && pit.tick(23));
}

#[test]
fn access_modes_read_and_write_the_bytes_they_say() {
    // Low byte alone.
    let mut pit = Pit::new(HZ, 0);
    pit.write(3, 0x10, 0);
    pit.write(0, 0x34, 0);
    assert_eq!((pit.read(0, 1), pit.read(0, 2)), (0x34, 0x33));
    // High byte alone.
    pit.write(3, 0x20, 2);
    pit.write(0, 0x12, 2);
    assert_eq!((pit.read(0, 3), pit.read(0, 4)), (0x12, 0x11));
    // Both, low first; another half in between does nothing.
    pit.write(3, 0x30, 4);
    pit.write(0, 0x34, 4);
    assert!(!pit.output(0, 99_999));
    pit.write(0, 0x12, 100_000);
    assert_eq!((pit.read(0, 100_001), pit.read(0, 100_001)), (0x34, 0x12));
    // The first half of a new count ends the old one.
    assert!(pit.output(0, 110_000));
    pit.write(0, 0x34, 110_000);
    assert!(!pit.output(0, 110_000) && !pit.output(0, 199_999));
    let mut pit = Pit::new(HZ, 100_000);
    program(&mut pit, 0, 0, 0x1234, 100_000);
    assert_eq!((pit.read(0, 100_001), pit.read(0, 100_001)), (0x34, 0x12));
    // The count goes on between the bytes unless it is latched.
    assert_eq!((pit.read(0, 100_002), pit.read(0, 100_003)), (0x33, 0x12));
}

#[test]
fn a_latched_count_waits_until_it_is_read() {
    let mut pit = Pit::new(HZ, 0);
    program(&mut pit, 1, 2, 0x1000, 0);
    pit.write(3, 0x40, 0x11);
    pit.write(3, 0x40, 0x800);
    assert_eq!((pit.read(1, 0x900), pit.read(1, 0x901)), (0xf0, 0x0f));
    assert_eq!(pit.read(1, 0x801 + 0x1000), 0x00);
    // A new control word forgets what is latched.
    pit.write(3, 0x40, 0x11);
    program(&mut pit, 1, 2, 0x2222, 0x20);
    assert_eq!((pit.read(1, 0x21), pit.read(1, 0x21)), (0x22, 0x22));
}

#[test]
fn the_read_back_command_latches_state_before_count() {
    let mut pit = Pit::new(HZ, 0);
    program(&mut pit, 0, 3, 0x5678, 0);
    pit.write(3, 0x54, 0);
    // State of 0 and 1, count of 0.
    pit.write(3, 0xc2, 1);
    pit.write(3, 0xe4, 1);
    assert_eq!(pit.read(0, 9), 0x80 | 0x36, "output high, loaded, both bytes, mode 3");
    assert_eq!((pit.read(0, 9), pit.read(0, 9)), (0x78, 0x56));
    assert_eq!(pit.read(1, 9), 0xc0 | 0x14, "no count yet, low byte, mode 2");
    // Until the next pulse a count is not loaded; nor, in a cycle, until its end.
    program(&mut pit, 0, 2, 100, 10);
    for (now, is_new) in [(10, true), (11, false)] {
        pit.write(3, 0xe2, now);
        assert_eq!(pit.read(0, now) & 0x40 != 0, is_new, "{now}");
    }
    pit.write(0, 50, 20);
    pit.write(0, 0, 20);
    for (now, is_new) in [(110, true), (111, false)] {
        pit.write(3, 0xe2, now);
        assert_eq!(pit.read(0, now) & 0x40 != 0, is_new, "{now}");
    }
    // A triggered counter's is new until its gate rises.
    program(&mut pit, 2, 1, 7, 120);
    pit.write(3, 0xe8, 130);
    assert_eq!(pit.read(2, 130) & 0x40, 0x40);
    pit.write_control(1, 131);
    pit.write(3, 0xe8, 132);
    assert_eq!(pit.read(2, 132) & 0x40, 0);
}

#[test]
fn port_61_has_gate_output_and_refresh() {
    let mut pit = Pit::new(HZ, 0);
    pit.write_control(0xff, 0);
    assert_eq!(pit.read_control(0) & 0xcf, 0x0f);
    pit.write_control(0, 0);
    program(&mut pit, 2, 0, 100, 0);
    assert_eq!(pit.read_control(5_000) & 0x20, 0, "the gate is low");
    pit.write_control(1, 5_000);
    assert_eq!(pit.read_control(5_099) & 0x21, 0x01);
    assert_eq!(pit.read_control(5_100) & 0x21, 0x21);
    let toggles = (5_100..23_100)
        .filter(|&now| (pit.read_control(now) ^ pit.read_control(now + 1)) & 0x10 != 0);
    assert_eq!(toggles.count(), 1_000);
}

#[test]
fn nothing_can_be_read_at_the_control_register() {
    let mut pit = Pit::new(HZ, 0);
    assert_eq!(pit.read(3, 0), 0);
    assert_eq!(pit.deadline(), None);
}
