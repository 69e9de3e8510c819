//! A physical function with the SR-IOV capability behind a root port, and what is made of
//! capabilities that lie.

use std::cell::Cell;
use std::collections::HashMap;

use cloister_init_core::groups::Groups;
use cloister_init_core::pci::{Address, Config, Functions};
use cloister_init_core::sriov::{Virtual, Wrong};
use proptest::prelude::*;

/// What makes a capability wrong.
type Breakage = fn(&mut Machine);

const PORT: Address = 0x80;
const PHYSICAL: Address = 0x100;
const CAPABILITY: u16 = 0x120;
const ROOM: u64 = 0xfe60_0000;
const ENABLED: u32 = 9;

/// Registers, with the bits of each that can be written; the others keep what they have.
struct Machine {
    registers: HashMap<(Address, u16), (u32, u32)>,
    /// Virtual functions do not answer although they are on.
    is_silent: bool,
    writes: Vec<(Address, u16, u32)>,
}

impl Machine {
    /// A port with a window of 2 MiB, and a function with 16 KiB of registers at its beginning.
    fn new() -> Machine {
        let registers = HashMap::new();
        let mut machine = Machine { registers, is_silent: false, writes: Vec::new() };
        for at in [PORT, PHYSICAL] {
            machine.set(at, 0x00, 0x0010_1b36, 0);
            machine.set(at, 0x04, 1 << 20, 0xffff);
            machine.set(at, 0x34, 0x40, 0);
        }
        machine.set(PORT, 0x0c, 1 << 16, 0);
        machine.set(PORT, 0x18, 0x01_01_00, 0);
        machine.set(PORT, 0x20, 0xfe70_fe60, 0);
        machine.set(PORT, 0x40, 4 << 20 | 0x10, 0);
        machine.set(PORT, 0x100, 0x0001_000d, 0);
        machine.set(PORT, 0x104, 0x1d, 0x1d << 16);
        machine.set(PHYSICAL, 0x40, 0x10, 0);
        machine.set(PHYSICAL, 0x10, ROOM as u32 | 4, !0x3fff);
        machine.set(PHYSICAL, 0x14, 0, u32::MAX);
        machine.set(PHYSICAL, 0x100, 0x120 << 20 | 0x0001_000e, 0);
        let capability = [
            (0x00, 0x0001_0010, 0),
            (0x08, 0, 0x1f),
            (0x0c, 4 << 16 | 4, 0),
            (0x10, 0, 0xffff),
            (0x14, 1 << 16 | 1, 0),
            (0x1c, 0x553, 0),
            (0x20, 0, u32::MAX),
            (0x24, 4, !0x3fff),
            (0x28, 0, u32::MAX),
        ];
        for (register, value, mask) in capability {
            machine.set(PHYSICAL, CAPABILITY + register, value, mask);
        }
        machine
    }

    fn set(&mut self, at: Address, register: u16, value: u32, mask: u32) {
        self.registers.insert((at, register), (value, mask));
    }

    fn capability(&mut self, register: u16, value: u32) {
        self.registers.get_mut(&(PHYSICAL, CAPABILITY + register)).unwrap().0 = value;
    }

    fn get(&self, at: Address, register: u16) -> u32 {
        let is_there = self.registers.contains_key(&(at, 0));
        let missing = if is_there { 0 } else { u32::MAX };
        self.registers.get(&(at, register & 0xffc)).map_or(missing, |(value, _)| *value)
    }

    fn enable(&mut self, count: u8) -> Result<Virtual, Wrong> {
        let functions = Functions::enumerate(self);
        Virtual::enable(self, &functions, PHYSICAL, count, || {})
    }
}

impl Config for Machine {
    /// A virtual function's header has zeros where others have identity and addresses.
    fn read(&mut self, at: Address, register: u8) -> u32 {
        let is_virtual = at > PHYSICAL && at >> 8 == PHYSICAL >> 8;
        let is_on = self.get(PHYSICAL, CAPABILITY + 8) & ENABLED == ENABLED && !self.is_silent;
        match (is_virtual && is_on, register) {
            (true, 0) => u32::MAX,
            (true, _) => 0,
            _ => self.get(at, register.into()),
        }
    }

    fn read_extended(&mut self, at: Address, register: u16) -> Option<u32> {
        assert!(register < 0x1000 && register.is_multiple_of(4), "{register:#x}");
        Some(self.get(at, register))
    }

    fn write_extended(&mut self, at: Address, register: u16, value: u32) {
        assert!(register < 0x1000 && register.is_multiple_of(4), "{register:#x}");
        self.writes.push((at, register, value));
        if let Some((word, mask)) = self.registers.get_mut(&(at, register)) {
            *word = *word & !*mask | value & *mask;
        }
    }
}

#[test]
fn virtual_functions_are_switched_on_and_given_the_upper_end() {
    let mut machine = Machine::new();
    let found = machine.enable(2).unwrap();
    assert_eq!([1, 2].map(|n| found.address(n)), [Some(0x101), Some(0x102)]);
    // Room for all four, though two are on.
    let base = 0xfe80_0000 - 4 * 0x4000;
    assert_eq!([1, 2].map(|n| found.place(n)), [Some(base | 14), Some((base + 0x4000) | 14)]);
    for number in [0, 3, 255] {
        assert_eq!((found.address(number), found.place(number)), (None, None));
    }
    assert_eq!(u64::from(machine.get(PHYSICAL, CAPABILITY + 0x24)), base | 4);
    assert_eq!(machine.get(PHYSICAL, CAPABILITY + 8), ENABLED);
    assert_eq!(machine.get(PHYSICAL, CAPABILITY + 0x10), 2);
    assert_eq!(machine.get(PHYSICAL, CAPABILITY + 0x20), 1);
    // The physical function's own registers are where they were.
    assert_eq!(u64::from(machine.get(PHYSICAL, 0x10)), ROOM | 4);
    let mut last = machine.writes.iter().rev();
    assert_eq!([last.next(), last.next()], [Some(&(0x102, 4, 2)), Some(&(0x101, 4, 2))]);
    assert_eq!(last.next().map(|write| write.1), Some(CAPABILITY + 8), "switched on last");
}

#[test]
fn they_are_waited_for_once_and_switched_off_before_if_they_were_on() {
    for (before, pauses) in [(0, 1), (ENABLED, 2)] {
        let mut machine = Machine::new();
        machine.capability(0x08, before);
        let functions = Functions::enumerate(&mut Machine::new());
        let count = Cell::new(0);
        let pause = || count.set(count.get() + 1);
        Virtual::enable(&mut machine, &functions, PHYSICAL, 1, pause).unwrap();
        assert_eq!(count.get(), pauses);
    }
}

#[test]
fn registers_of_others_are_kept_clear_of() {
    let mut machine = Machine::new();
    // 1 MiB and 64 KiB before the window's end are the function's own.
    machine.set(PHYSICAL, 0x10, 0xfe7f_0000, 0xffff_0000);
    machine.set(PHYSICAL, 0x14, 0, 0);
    let found = machine.enable(4).unwrap();
    assert_eq!(found.place(1), Some(0xfe7e_0000 | 14));
    // What firmware has placed stays.
    let mut machine = Machine::new();
    machine.capability(0x24, 0xfe70_0004);
    assert_eq!(machine.enable(4).unwrap().place(4), Some(0xfe70_c000 | 14));
}

#[test]
fn a_capability_that_lies_is_refused() {
    let cases: [(Wrong, Breakage); 13] = [
        (Wrong::None, |m| m.capability(0x00, 0x0001_0011)),
        (Wrong::Few, |m| m.capability(0x0c, 1 << 16 | 4)),
        (Wrong::Bar, |m| m.capability(0x1c, 0x552)),
        (Wrong::Stubborn, |m| m.set(PHYSICAL, CAPABILITY + 0x10, 7, 0)),
        // On the physical function itself, in another slot, beyond all buses, on one place.
        (Wrong::Place, |m| m.capability(0x14, 1 << 16)),
        (Wrong::Place, |m| m.capability(0x14, 1 << 16 | 7)),
        (Wrong::Place, |m| m.capability(0x14, 1 << 16 | 0xffff)),
        (Wrong::Place, |m| m.capability(0x14, 1)),
        (Wrong::Bar, |m| m.set(PHYSICAL, CAPABILITY + 0x24, 1, !3)),
        (Wrong::Bar, |m| m.set(PHYSICAL, CAPABILITY + 0x24, 0, !0x7ff)),
        (Wrong::Room, |m| m.set(PORT, 0x20, 0xfe60_fe70, 0)),
        (Wrong::Room, |m| m.set(PHYSICAL, CAPABILITY + 0x24, 0, !0xf_ffff)),
        (Wrong::Stubborn, |m| m.is_silent = true),
    ];
    for (number, (wrong, change)) in cases.into_iter().enumerate() {
        let mut machine = Machine::new();
        change(&mut machine);
        assert_eq!(machine.enable(2), Err(wrong), "case {number}");
        // Nothing is left on, but where they were on and did not answer.
        let is_on = machine.get(PHYSICAL, CAPABILITY + 8) != 0;
        assert_eq!(is_on, machine.is_silent, "case {number}");
    }
    assert_eq!(Machine::new().enable(0), Err(Wrong::Few));
}

#[test]
fn another_function_beside_them_is_not_hidden_and_shares_their_group() {
    let mut machine = Machine::new();
    machine.set(PHYSICAL, 0x0c, 0x80 << 16, 0);
    machine.set(PHYSICAL | 2, 0x00, 0x0010_1b36, 0);
    assert_eq!(machine.enable(2), Err(Wrong::Place));
    let functions = Functions::enumerate(&mut machine);
    assert!(!Groups::of(&functions).is_alone(PHYSICAL));
    let functions = Functions::enumerate(&mut Machine::new());
    assert!(Groups::of(&functions).is_alone(PHYSICAL));
}

proptest! {
    #[test]
    fn hostile_capabilities_give_functions_in_the_slot_or_none(
        words in prop::collection::vec((any::<u32>(), any::<u32>()), 16),
        window in any::<u32>(),
        count in any::<u8>(),
    ) {
        let mut machine = Machine::new();
        machine.set(PORT, 0x20, window, 0);
        for (register, (value, mask)) in (CAPABILITY + 4..).step_by(4).zip(words) {
            machine.set(PHYSICAL, register, value, mask);
        }
        if let Ok(found) = machine.enable(count) {
            for number in 1..=count {
                let at = found.address(number).unwrap();
                prop_assert!(at > PHYSICAL && at >> 3 == PHYSICAL >> 3);
                prop_assert!((12..=24).contains(&(found.place(number).unwrap() & 0xfff)));
            }
        }
    }

    /// The words that decide are right, so that more is reached.
    #[test]
    fn hostile_bars_give_room_in_the_window(
        bars in prop::collection::vec((any::<u32>(), 0u32..28), 6),
        shift in 8u32..28,
    ) {
        let mut machine = Machine::new();
        for (register, (value, shift)) in (0x10..).step_by(4).zip(bars) {
            machine.set(PHYSICAL, register, value, u32::MAX << shift);
        }
        machine.set(PHYSICAL, CAPABILITY + 0x24, 0, u32::MAX << shift);
        if let Ok(found) = machine.enable(4) {
            let place = found.place(1).unwrap();
            let (base, size) = (place & !0xfff, 1u64 << (place & 0xfff));
            prop_assert!(base >= 0xfe60_0000 && base + 4 * size <= 0xfe80_0000);
        }
    }
}
