//! Synthetic PCI machines: what is found, what is kept apart, which device is which function.

use std::collections::HashMap;

use cloister_abi::NAME_LEN;
use cloister_abi::table::{
    DEVICE_OPTIONAL, DEVICE_PCI_CLASS, DEVICE_PCI_ID, DEVICE_PCI_POSITION, DEVICE_PLATFORM, Device,
};
use cloister_init_core::groups::Groups;
use cloister_init_core::matching::{Mismatch, bindings};
use cloister_init_core::pci::{Address, Config, Functions, Role};
use proptest::prelude::*;

/// Configuration spaces of functions; all ones where there is none.
#[derive(Default)]
struct Machine {
    spaces: HashMap<Address, Vec<u32>>,
    reads: usize,
    /// Extended configuration space cannot be reached.
    is_narrow: bool,
    /// Access control services cannot be turned on.
    is_stubborn: bool,
}

impl Config for Machine {
    fn read(&mut self, at: Address, register: u8) -> u32 {
        self.reads += 1;
        let space = self.spaces.get(&at);
        space.map_or(u32::MAX, |space| space[usize::from(register) / 4])
    }

    fn read_extended(&mut self, at: Address, register: u16) -> Option<u32> {
        if self.is_narrow {
            return None;
        }
        self.spaces.get(&at)?.get(usize::from(register) / 4).copied()
    }

    /// Of all registers, those of access control services alone can be written, and of them the
    /// control bits whose services are there.
    fn write_extended(&mut self, at: Address, register: u16, value: u32) {
        assert_eq!(register, ACS + 4, "nothing else is to be written");
        let space = self.spaces.get_mut(&at).unwrap();
        let word = &mut space[usize::from(register) / 4];
        let there = *word & 0xffff;
        *word = there | if self.is_stubborn { 0 } else { value & there << 16 };
    }
}

/// Where a function's access control services are.
const ACS: u16 = 0x140;

const ENDPOINT: u8 = 0;
const ROOT_PORT: u8 = 4;
const UPSTREAM: u8 = 5;
const DOWNSTREAM: u8 = 6;
const TO_PCI: u8 = 7;

fn at(bus: u16, device: u16, function: u16) -> Address {
    bus << 8 | device << 3 | function
}

impl Machine {
    /// A function with that vendor:device and class.
    fn add(&mut self, at: Address, identity: u32, class: u32) -> &mut Vec<u32> {
        let mut space = vec![0; 1024];
        space[0] = identity.rotate_right(16);
        space[2] = class << 8;
        self.spaces.entry(at).or_insert(space)
    }

    /// A conventional bridge.
    fn bridge(&mut self, at: Address, secondary: u8) {
        let space = self.add(at, 0x8086_244e, 0x06_0401);
        space[3] |= 1 << 16;
        space[6] = u32::from(secondary) << 8;
    }

    /// Makes a function a PCI Express one, with ACS if asked.
    fn express(&mut self, at: Address, kind: u8, acs: bool) {
        let space = self.spaces.get_mut(&at).unwrap();
        space[1] |= 1 << 20;
        space[0x34 / 4] = 0x40;
        // Another capability first, so that the chain has to be followed.
        space[0x40 / 4] = 0x5001;
        space[0x50 / 4] = u32::from(kind) << 20 | 0x10;
        if acs {
            space[0x100 / 4] = 0x140 << 20 | 1 << 16 | 1;
            space[0x140 / 4] = 1 << 16 | 0x0d;
            // Everything is there and nothing is on, as firmware leaves it.
            space[0x144 / 4] = 0x1f;
        }
    }

    /// Changes which access control services a function has.
    fn services(&mut self, at: Address, there: u32) {
        self.spaces.get_mut(&at).unwrap()[usize::from(ACS) / 4 + 1] = there;
    }

    fn port(&mut self, at: Address, kind: u8, secondary: u8, acs: bool) {
        self.bridge(at, secondary);
        self.express(at, kind, acs);
    }

    fn endpoint(&mut self, at: Address, acs: bool) {
        self.add(at, 0x1b36_0010, 0x01_0802);
        self.express(at, ENDPOINT, acs);
    }

    fn multifunction(&mut self, slot: Address) {
        self.spaces.get_mut(&slot).unwrap()[3] |= 0x80 << 16;
    }
}

fn groups_of(machine: &mut Machine) -> impl Fn(Address, Address) -> bool + use<> {
    let functions = Functions::enumerate(machine);
    let groups = Groups::of(&functions);
    move |one, other| groups.group(one) == groups.group(other)
}

#[test]
fn functions_behind_bridges_are_found_and_sorted() {
    let mut machine = Machine::default();
    machine.endpoint(at(0, 31, 0), false);
    machine.bridge(at(0, 1, 0), 3);
    machine.bridge(at(3, 0, 0), 2);
    machine.endpoint(at(2, 5, 0), false);
    machine.endpoint(at(2, 5, 1), false);
    let found = |machine: &mut Machine| {
        Functions::enumerate(machine).iter().map(|f| f.address).collect::<Vec<_>>()
    };
    let without_second = [at(0, 1, 0), at(0, 31, 0), at(2, 5, 0), at(3, 0, 0)];
    assert_eq!(found(&mut machine), without_second, "no multifunction bit, no second function");
    machine.multifunction(at(2, 5, 0));
    assert!(found(&mut machine).contains(&at(2, 5, 1)));
}

#[test]
fn bridges_in_a_circle_are_walked_once() {
    let mut machine = Machine::default();
    machine.bridge(at(0, 0, 0), 1);
    machine.bridge(at(1, 0, 0), 0);
    machine.bridge(at(1, 1, 0), 1);
    let functions = Functions::enumerate(&mut machine);
    assert_eq!(functions.iter().count(), 3);
    assert!(machine.reads < 1000, "{} reads", machine.reads);
}

#[test]
fn more_functions_than_there_is_room_for_are_counted() {
    let mut machine = Machine::default();
    for device in 0..32 {
        for function in 0..8 {
            machine.endpoint(at(0, device, function), false);
            machine.multifunction(at(0, device, 0));
        }
    }
    machine.bridge(at(0, 31, 7), 1);
    machine.spaces.remove(&at(0, 31, 7));
    machine.bridge(at(0, 31, 7), 1);
    machine.endpoint(at(1, 0, 0), false);
    let functions = Functions::enumerate(&mut machine);
    assert_eq!((functions.iter().count(), functions.dropped), (256, 1));
}

#[test]
fn capabilities_in_a_circle_end() {
    let mut machine = Machine::default();
    let space = machine.add(at(0, 0, 0), 0x1234_5678, 0x02_0000);
    space[1] |= 1 << 20;
    space[0x34 / 4] = 0x40;
    space[0x40 / 4] = 0x4405;
    space[0x44 / 4] = 0x4005;
    let functions = Functions::enumerate(&mut machine);
    assert!(functions.iter().all(|f| f.role == Role::Endpoint && !f.has_acs));
}

#[test]
fn root_ports_in_different_slots_keep_their_devices_apart() {
    let mut machine = Machine::default();
    for (slot, bus, acs) in [(1, 1, true), (2, 2, false)] {
        machine.port(at(0, slot, 0), ROOT_PORT, bus, acs);
        machine.endpoint(at(bus.into(), 0, 0), false);
    }
    let same = groups_of(&mut machine);
    assert!(!same(at(1, 0, 0), at(2, 0, 0)));
    assert!(!same(at(0, 1, 0), at(1, 0, 0)), "a port with ACS is apart from what is behind it");
    assert!(same(at(0, 2, 0), at(2, 0, 0)), "one without is not");
}

#[test]
fn functions_of_one_device_are_together_unless_all_have_acs() {
    let mut machine = Machine::default();
    for (device, acs) in [(1, [true, true]), (2, [true, false]), (3, [false, false])] {
        for (function, acs) in (0..).zip(acs) {
            machine.endpoint(at(0, device, function), acs);
        }
        machine.multifunction(at(0, device, 0));
    }
    let same = groups_of(&mut machine);
    let pair = |device| same(at(0, device, 0), at(0, device, 1));
    assert_eq!([1, 2, 3].map(pair), [false, true, true]);
    assert!(!same(at(0, 2, 0), at(0, 3, 0)));
}

#[test]
fn root_ports_of_one_device_without_acs_join_what_is_behind_them() {
    let mut machine = Machine::default();
    for function in 0..2 {
        machine.port(at(0, 1, function), ROOT_PORT, 1 + function as u8, false);
        machine.endpoint(at(1 + function, 0, 0), false);
    }
    machine.multifunction(at(0, 1, 0));
    let same = groups_of(&mut machine);
    assert!(same(at(1, 0, 0), at(2, 0, 0)));
}

#[test]
fn everything_behind_a_conventional_bridge_has_its_name() {
    let mut machine = Machine::default();
    machine.port(at(0, 1, 0), ROOT_PORT, 1, true);
    machine.port(at(1, 0, 0), TO_PCI, 2, false);
    machine.add(at(2, 1, 0), 0x8086_100e, 0x02_0000);
    machine.bridge(at(2, 2, 0), 3);
    machine.add(at(3, 1, 0), 0x8086_100e, 0x02_0000);
    let same = groups_of(&mut machine);
    assert!(same(at(2, 1, 0), at(3, 1, 0)) && same(at(1, 0, 0), at(3, 1, 0)));
    assert!(!same(at(0, 1, 0), at(3, 1, 0)), "the root port with ACS stays apart");
}

#[test]
fn a_switch_keeps_apart_only_with_acs_on_its_downstream_ports() {
    for acs in [true, false] {
        let mut machine = Machine::default();
        machine.port(at(0, 1, 0), ROOT_PORT, 1, true);
        machine.port(at(1, 0, 0), UPSTREAM, 2, false);
        for slot in 0..2 {
            machine.port(at(2, slot, 0), DOWNSTREAM, 3 + slot as u8, acs);
            machine.endpoint(at(3 + slot, 0, 0), false);
        }
        let same = groups_of(&mut machine);
        assert_eq!(same(at(3, 0, 0), at(4, 0, 0)), !acs);
        assert_eq!(same(at(2, 0, 0), at(2, 1, 0)), !acs);
    }
}

#[test]
fn services_are_turned_on_and_what_is_not_taken_keeps_nobody_apart() {
    let two_ports = |kind, change: fn(&mut Machine)| {
        let mut machine = Machine::default();
        machine.port(at(0, 1, 0), ROOT_PORT, 1, true);
        machine.port(at(1, 0, 0), UPSTREAM, 2, false);
        let bus = if kind == DOWNSTREAM { 2 } else { 0 };
        let slots = if kind == DOWNSTREAM { [0, 1] } else { [2, 3] };
        for slot in slots {
            machine.port(at(bus, slot, 0), kind, 3 + slot as u8, true);
            machine.endpoint(at(3 + slot, 0, 0), false);
        }
        change(&mut machine);
        let same = groups_of(&mut machine);
        let on = machine.spaces[&at(bus, slots[0], 0)][usize::from(ACS) / 4 + 1] >> 16;
        (on, same(at(bus, slots[0], 0), at(3 + slots[0], 0, 0)))
    };
    let untouched: fn(&mut Machine) = |_| {};
    assert_eq!(two_ports(DOWNSTREAM, untouched), (0x1d, false));
    assert_eq!(two_ports(ROOT_PORT, untouched), (0x1d, false));
    assert_eq!(two_ports(DOWNSTREAM, |machine| machine.is_stubborn = true), (0, true));
    assert_eq!(two_ports(DOWNSTREAM, |machine| machine.is_narrow = true), (0, true));
    // A switch's port must redirect; a root port that cannot forwards nothing to its peers.
    assert_eq!(two_ports(DOWNSTREAM, |m| m.services(at(2, 0, 0), 0x11)), (0x11, true));
    assert_eq!(two_ports(ROOT_PORT, |m| m.services(at(0, 2, 0), 0x11)), (0x11, false));
    assert_eq!(two_ports(ROOT_PORT, |m| m.services(at(0, 2, 0), 0)), (0, true));
}

#[test]
fn what_is_behind_a_bridge_is_found_through_others_and_in_circles() {
    let mut machine = Machine::default();
    machine.bridge(at(0, 1, 0), 1);
    machine.bridge(at(1, 0, 0), 2);
    machine.bridge(at(2, 0, 0), 1);
    machine.endpoint(at(2, 1, 0), false);
    machine.endpoint(at(0, 2, 0), false);
    let functions = Functions::enumerate(&mut machine);
    assert!(functions.is_behind(at(0, 1, 0), at(2, 1, 0)));
    assert!(functions.is_behind(at(2, 0, 0), at(1, 0, 0)), "a circle is behind itself");
    assert!(!functions.is_behind(at(0, 1, 0), at(0, 2, 0)));
    assert!(!functions.is_behind(at(0, 2, 0), at(2, 1, 0)), "no bridge");
    assert!(!functions.is_behind(at(9, 0, 0), at(2, 1, 0)), "nothing");
}

fn device(kind: u8, select: u32, nth: u8, owner: u16) -> Device {
    let name = [0; NAME_LEN];
    Device { name, select, nth, kind, flags: 0, reserved: 0, owner, reserved2: [0; 3] }
}

/// Two disks behind own root ports, a network card with two functions.
fn server() -> (Functions, Groups) {
    let mut machine = Machine::default();
    for (slot, bus) in [(1, 1), (2, 2)] {
        machine.port(at(0, slot, 0), ROOT_PORT, bus, true);
        machine.endpoint(at(bus.into(), 0, 0), false);
    }
    machine.add(at(0, 3, 0), 0x8086_10c9, 0x02_0000);
    machine.add(at(0, 3, 1), 0x8086_10c9, 0x02_0000);
    machine.multifunction(at(0, 3, 0));
    let functions = Functions::enumerate(&mut machine);
    let groups = Groups::of(&functions);
    (functions, groups)
}

#[test]
fn devices_are_found_by_position_identity_and_class_in_order() {
    let (functions, groups) = server();
    let devices = [
        device(DEVICE_PLATFORM, 0, 0, 0),
        device(DEVICE_PCI_CLASS, 0x01_0802, 1, 1),
        device(DEVICE_PCI_CLASS, 0x01_0802, 0, 2),
        device(DEVICE_PCI_ID, 0x8086_10c9, 1, 3),
        device(DEVICE_PCI_POSITION, at(0, 3, 0).into(), 0, 3),
    ];
    let found = bindings(&devices, &functions, &groups).unwrap();
    let expected =
        [None, Some(at(2, 0, 0)), Some(at(1, 0, 0)), Some(at(0, 3, 1)), Some(at(0, 3, 0))];
    assert_eq!(found[..5], expected);
}

#[test]
fn what_cannot_be_bound_is_named() {
    let (functions, groups) = server();
    let bind = |devices: &[Device]| bindings(devices, &functions, &groups).map(|b| b[0]);
    let disk = |nth| device(DEVICE_PCI_CLASS, 0x01_0802, nth, 1);
    assert_eq!(bind(&[disk(2)]), Err(Mismatch::Missing(0)));
    assert_eq!(bind(&[Device { flags: DEVICE_OPTIONAL, ..disk(2) }]), Ok(None));
    assert_eq!(bind(&[disk(0), disk(0)]), Err(Mismatch::Taken(1)));
    let card = |function, owner| device(DEVICE_PCI_POSITION, at(0, 3, function).into(), 0, owner);
    assert_eq!(bind(&[card(0, 1), card(1, 2)]), Err(Mismatch::SharedGroup(1)));
    assert!(bind(&[card(0, 1), card(1, 1)]).is_ok(), "one owner may have the whole group");
    let many = vec![device(DEVICE_PLATFORM, 0, 0, 0); 64];
    assert!(bind(&many).is_ok());
    let full = [many, vec![disk(0)]].concat();
    assert_eq!(bind(&full), Err(Mismatch::TooMany(64)));
}

proptest! {
    /// Any configuration space at all: the walk ends, and groups are what they must be.
    #[test]
    fn noise_is_walked_and_grouped(
        words in prop::collection::vec(
            (0u16..0x300, prop::collection::vec(any::<u32>(), 64)),
            0..40,
        ),
    ) {
        let mut machine = Machine::default();
        for (at, space) in words {
            let mut whole = vec![0; 1024];
            whole[..64].copy_from_slice(&space);
            machine.spaces.insert(at, whole);
        }
        let functions = Functions::enumerate(&mut machine);
        let groups = Groups::of(&functions);
        for function in functions.iter() {
            let group = groups.group(function.address);
            prop_assert!(group <= function.address);
            prop_assert_eq!(groups.group(group), group);
        }
        prop_assert!(machine.reads < 256 * 256 * 8 + 100_000);
    }
}
