//! The PCI bus as a guest meets it: configuration mechanism #1, BARs, capabilities, the window.
#![cfg(not(loom))]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use cloister_monitor::apic::{Destination, Kind, Message};
use cloister_monitor::devices::{DeviceError, Devices, Effect};
use cloister_monitor::virtio::VirtioError;
use cloister_proto::vm::VmDevice;
use cloister_virtio::wire;
use proptest::prelude::*;
use zerocopy::FromZeros;

const ONES: u32 = u32::MAX;
const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;

/// Words that live as long as the test; each machine needs its own.
fn leak(words: usize) -> &'static [AtomicU64] {
    Vec::leak((0..words).map(|_| AtomicU64::new(0)).collect())
}

struct Machine {
    devices: Devices<'static>,
    effects: Vec<Effect>,
    words: Vec<&'static [AtomicU64]>,
}

impl Machine {
    /// A console with two queues and an entropy source with one, whose workers are there.
    fn new() -> Machine {
        let mut machine = Machine { devices: Devices::new(), effects: vec![], words: vec![] };
        for (number, kind, queues) in [(0, 3, 2), (1, 4, 1)] {
            let words = leak(512);
            let device = VmDevice { kind, queues, ..VmDevice::new_zeroed() };
            machine.devices.add(number, &device, words, leak(512), 16 << 20).unwrap();
            words[wire::QUEUE_SIZE].store(64, Relaxed);
            machine.words.push(words);
        }
        for number in 0..2 {
            assert_eq!(machine.devices.unready(), Some(number));
            machine.answer(number);
        }
        assert_eq!(machine.devices.unready(), None);
        machine
    }

    fn answer(&mut self, number: usize) {
        let words = self.words[number];
        words[wire::ANSWER].store(words[wire::ORDER].load(Relaxed), Relaxed);
        self.devices.poll(number, &mut |effect| self.effects.push(effect));
    }

    fn read(&mut self, port: u16, width: u8) -> u32 {
        self.devices.read(port, width).unwrap_or(ONES)
    }

    fn write(&mut self, port: u16, width: u8, value: u32) {
        self.devices.write(port, width, value, &mut |effect| self.effects.push(effect));
    }

    fn select(&mut self, slot: u32, register: u32) {
        self.write(ADDRESS, 4, 1 << 31 | slot << 11 | register & !3);
    }

    fn get(&mut self, slot: u32, register: u32) -> u32 {
        self.select(slot, register);
        self.read(DATA, 4)
    }

    fn set(&mut self, slot: u32, register: u32, value: u32) {
        self.select(slot, register);
        self.write(DATA, 4, value);
    }

    /// Capabilities of a function: offset, id, and the dwords behind.
    fn capabilities(&mut self, slot: u32) -> Vec<(u32, Vec<u32>)> {
        let mut found = Vec::new();
        let mut at = self.get(slot, 0x34) & 0xff;
        while at != 0 {
            assert!(at >= 0x40 && at & 3 == 0 && found.len() < 16, "{at:#x}");
            let words = (0..5).map(|word| self.get(slot, at + word * 4)).collect::<Vec<u32>>();
            let next = words[0] >> 8 & 0xff;
            found.push((at, words));
            at = next;
        }
        found
    }
}

#[test]
fn the_address_port_holds_whole_writes_only() {
    let mut m = Machine::new();
    m.write(ADDRESS, 4, 0x8000_0000);
    assert_eq!(m.read(ADDRESS, 4), 0x8000_0000);
    // Linux's probe for mechanism #1 begins with a byte to 0xcfb.
    m.write(ADDRESS + 3, 1, 1);
    m.write(ADDRESS, 2, 0x1234);
    m.write(ADDRESS, 1, 0x12);
    assert_eq!(m.read(ADDRESS, 4), 0x8000_0000);
    assert_eq!((m.read(ADDRESS, 2), m.read(ADDRESS + 1, 1)), (0xffff, 0xff));
    assert_eq!(m.read(ADDRESS + 1, 4), ONES);
    m.write(ADDRESS, 4, ONES);
    assert_eq!(m.read(ADDRESS, 4), 0x8fff_fffc);
}

#[test]
fn there_is_a_host_bridge_and_what_is_absent_reads_ones() {
    let mut m = Machine::new();
    assert_eq!(m.get(0, 0), 0x10f0_1af4);
    assert_eq!(m.get(0, 8) >> 16, 0x0600);
    m.set(0, 4, ONES);
    m.set(0, 0x10, ONES);
    assert_eq!((m.get(0, 4), m.get(0, 0x10), m.get(0, 0x34)), (0, 0, 0));
    for slot in 3..32 {
        assert_eq!(m.get(slot, 0), ONES, "slot {slot}");
    }
    // Another function, another bus, an extended register, no enable bit.
    for address in [0x8000_0900u32, 0x8001_0800, 0x8100_0800, 0x8800_0800, 0x0000_0800] {
        m.write(ADDRESS, 4, address);
        assert_eq!(m.read(DATA, 4), ONES, "{address:#x}");
        m.write(DATA, 4, 0);
    }
    assert_eq!(m.get(1, 0), 0x1043_1af4);
    assert_eq!(m.get(2, 0), 0x1044_1af4);
}

#[test]
fn any_bytes_inside_a_register_can_be_read_and_none_beyond() {
    let mut m = Machine::new();
    m.select(1, 0);
    let whole = 0x1043_1af4u32.to_le_bytes();
    for lane in 0..4u16 {
        for width in [1u8, 2, 4] {
            let bytes = whole.get(usize::from(lane)..usize::from(lane) + usize::from(width));
            let mut value = [0; 4];
            let expected = bytes.map_or(ONES >> (32 - 8 * u32::from(width)), |bytes| {
                value[..bytes.len()].copy_from_slice(bytes);
                u32::from_le_bytes(value)
            });
            assert_eq!(m.read(DATA + lane, width), expected, "{lane} {width}");
        }
    }
    for width in [0, 3, 8] {
        assert_ne!(m.read(DATA, width), 0x1043_1af4);
    }
}

#[test]
fn bytes_are_written_by_themselves() {
    let mut m = Machine::new();
    m.select(1, 4);
    m.write(DATA, 1, 7);
    assert_eq!(m.read(DATA, 4), 0x0010_0007);
    m.write(DATA + 1, 1, 4);
    assert_eq!(m.read(DATA, 4), 0x0010_0407);
    m.write(DATA + 2, 2, 0xffff);
    m.write(DATA, 2, 0);
    assert_eq!(m.read(DATA, 4), 0x0010_0000);
}

#[test]
fn bars_tell_their_sizes_and_never_move() {
    let mut m = Machine::new();
    for (slot, io, page) in [(1, 0x1001, 0xfed0_0000u32), (2, 0x1101, 0xfed0_1000)] {
        assert_eq!((m.get(slot, 0x10), m.get(slot, 0x14)), (io, page));
        m.set(slot, 0x10, ONES);
        m.set(slot, 0x14, ONES);
        assert_eq!((m.get(slot, 0x10), m.get(slot, 0x14)), (0xffff_ff01, 0xffff_f000));
        for value in [0x2001, 0xfea0_0000, 0] {
            m.set(slot, 0x10, value);
            m.set(slot, 0x14, value);
            assert_eq!((m.get(slot, 0x10), m.get(slot, 0x14)), (io, page));
        }
        for register in (0x18..0x28).step_by(4).chain([0x30]) {
            m.set(slot, register, ONES);
            assert_eq!(m.get(slot, register), 0, "{register:#x}");
        }
        assert_eq!(m.get(slot, 0x3c), 0, "no interrupt pin");
    }
}

#[test]
fn the_capabilities_describe_the_bars() {
    let mut m = Machine::new();
    for (slot, vectors) in [(1, 3), (2, 2)] {
        let found = m.capabilities(slot);
        let msix: Vec<_> = found.iter().filter(|(_, words)| words[0] & 0xff == 0x11).collect();
        let [(_, msix)] = &msix[..] else { panic!("{found:x?}") };
        assert_eq!((msix[0] >> 16 & 0x7ff, msix[1], msix[2]), (vectors - 1, 1, 0x801));
        let mut kinds = Vec::new();
        for (_, words) in found.iter().filter(|(_, words)| words[0] & 0xff == 9) {
            let (len, kind) = (words[0] >> 16 & 0xff, words[0] >> 24);
            kinds.push((kind, len, words[1], words[2], words[3]));
        }
        let expected = [
            (1, 16, 0, 0x00, 0x38),
            (2, 20, 0, 0xc0, 0x10),
            (3, 16, 0, 0x40, 1),
            (4, 16, 0, 0x80, 0x40),
            (5, 20, 0, 0, 0),
        ];
        assert_eq!(kinds, expected);
        let (_, notify) = &found[2];
        assert_eq!(notify[4], 2, "bytes between two doorbells");
    }
}

#[test]
fn the_window_reaches_the_registers_of_the_bar() {
    let mut m = Machine::new();
    let (at, _) = m.capabilities(1).into_iter().find(|(_, w)| w[0] >> 24 == 5).unwrap();
    let aim = |m: &mut Machine, bar, offset, len| {
        m.set(1, at + 4, bar);
        m.set(1, at + 8, offset);
        m.set(1, at + 12, len);
    };
    // The status, then the number of queues, written and read as bytes and words.
    aim(&mut m, 0, 0x14, 1);
    m.set(1, at + 16, 0xffff_ff01);
    m.set(1, 4, 1);
    assert_eq!((m.get(1, at + 16), m.read(0x1014, 1)), (1, 1));
    aim(&mut m, 0, 0x12, 2);
    assert_eq!(m.get(1, at + 16), 2);
    // Other BARs, odd widths and offsets lead nowhere: the register is plain memory.
    for (bar, offset, len) in
        [(1, 0x14, 1), (0, 0x13, 2), (0, 0x14, 3), (0, 0x14, 0), (0, 0x100, 1), (0, ONES, 1)]
    {
        aim(&mut m, bar, offset, len);
        m.set(1, at + 16, 3);
        assert_eq!((m.get(1, at + 16), m.read(0x1014, 1)), (3, 1), "{bar} {offset:#x} {len}");
    }
}

#[test]
fn a_function_answers_at_its_bar_only_when_told_to() {
    let mut m = Machine::new();
    assert_eq!(m.devices.read(0x1014, 1), None);
    assert!(!m.devices.write(0x1014, 1, 1, &mut |_| panic!("an effect")));
    m.set(1, 4, 1);
    assert_eq!(m.devices.read(0x1014, 1), Some(0));
    assert_eq!(m.devices.read(0x1114, 1), None, "the other one was not");
    assert_eq!((m.devices.read(0x0fff, 1), m.devices.read(0x1800, 1)), (None, None));
}

/// Brings device 0 up with its first queue on vector 1.
fn go_live(m: &mut Machine) {
    m.set(1, 4, 7);
    m.set(1, 0x40, 1 << 31);
    for (offset, width, value) in [
        (0x14, 1, 1),
        (0x14, 1, 3),
        (0x08, 4, 1),
        (0x0c, 4, 3),
        (0x14, 1, 11),
        (0x1a, 2, 1),
        (0x20, 4, 0x1_0000),
        (0x28, 4, 0x2_0000),
        (0x30, 4, 0x3_0000),
        (0x1c, 2, 1),
        (0x14, 1, 15),
    ] {
        m.write(0x1000 + offset, width, value);
    }
    assert_eq!(m.effects, [Effect::Signal(0)]);
    m.effects.clear();
}

/// What comes of a state, by [`Devices::completion`] first where that is `direct`. Its way must
/// come to the same as the other in everything that can be seen.
fn outcome(direct: bool, case: [usize; 3]) -> (Vec<Effect>, bool, ([u64; 4], Option<u32>)) {
    let [change, queues, entry] = case;
    let mut m = Machine::new();
    go_live(&mut m);
    let values = [
        [0xfee0_0000, 0x51],
        [0xfee0_0000, 0x51 | 1 << 32],
        [0xfee0_1000, 0x51],
        [0xfee0_0004, 0x51],
        [0xfee0_0000, 0x8051],
        [0xfee0_0000, 0x451],
        [0xfee0_0000, 0x05],
        [0, 0x51],
        [u64::MAX, u64::MAX],
    ][entry];
    m.devices.write_page(0xfed0_0010, values, &mut |_| panic!("nothing is pending"));
    match change {
        1 => m.set(1, 4, 3),
        2 => m.set(1, 0x40, 3 << 30),
        3 => m.set(1, 0x40, 0),
        4 => m.write(0x1014, 1, 0),
        5 => m.words[0][wire::BROKEN].store(m.words[0][wire::ORDER].load(Relaxed), Relaxed),
        6 => m.words[0][wire::CONFIG_GENERATION].store(2, Relaxed),
        7 => m.words[0][wire::CONFIG_GENERATION].store(3, Relaxed),
        8 => m.write(0x101a, 2, 9),
        // Queue 1 has a vector and is not enabled.
        9 => [0x1016, 0x101a].into_iter().for_each(|port| m.write(port, 2, 1)),
        _ => {}
    }
    m.effects.clear();
    m.words[0][wire::PENDING].store([0, 1, 2, 3, 1 << 8, 1 << 63 | 1][queues], Relaxed);
    let vector = if direct { m.devices.completion(0) } else { None };
    match vector {
        Some(vector) => {
            let (destination, kind) = (Destination::Physical(0), Kind::Fixed(vector));
            let message = Message { destination, kind, is_level: false };
            m.effects.push(Effect::Interrupt(message));
        }
        None => m.devices.poll(0, &mut |effect| m.effects.push(effect)),
    }
    let lines = [0xfed0_0010, 0xfed0_0800].map(|at| m.devices.read_page(at).unwrap());
    let [[address, data], [bits, _]] = lines;
    let left = m.words[0][wire::PENDING].load(Relaxed);
    let status = m.devices.read(0x1014, 1);
    (m.effects, vector.is_some(), ([address, data, bits, left], status))
}

#[test]
fn a_completion_comes_to_the_same_as_a_poll() {
    let mut direct = Vec::new();
    for change in 0..10 {
        for queues in 0..6 {
            for entry in 0..9 {
                let case = [change, queues, entry];
                let (effects, is_direct, state) = outcome(true, case);
                let slow = outcome(false, case);
                assert_eq!((effects, false, state), slow, "{case:?}");
                direct.extend(is_direct.then_some(case));
            }
        }
    }
    // One queue and nothing else to say, an unmasked message to virtual CPU 0; its vector is the
    // APIC's business.
    assert_eq!(direct, [[0, 1, 0], [0, 1, 6], [9, 1, 0], [9, 1, 6]]);
}

fn use_buffer(m: &mut Machine) {
    m.words[0][wire::PENDING].fetch_or(1, Relaxed);
    m.devices.poll(0, &mut |effect| m.effects.push(effect));
}

#[test]
fn a_used_buffer_waits_for_mask_function_mask_and_bus_master() {
    let mut m = Machine::new();
    go_live(&mut m);
    use_buffer(&mut m);
    assert_eq!(m.effects, [], "the vector is masked");
    assert_eq!(m.devices.read_page(0xfed0_0800), Some([2, 0]));
    m.set(1, 4, 3);
    let entry = 0xfed0_0010;
    m.devices.write_page(entry, [0xfee0_1000, 0x51], &mut |effect| m.effects.push(effect));
    assert_eq!(m.effects, [], "the function may not write");
    m.set(1, 0x40, 3 << 30);
    m.set(1, 4, 7);
    assert_eq!(m.effects, [], "the function is masked");
    m.set(1, 0x40, 1 << 31);
    let [Effect::Interrupt(message)] = m.effects[..] else { panic!("{:?}", m.effects) };
    assert_eq!(message.kind, Kind::Fixed(0x51));
    use_buffer(&mut m);
    assert_eq!(m.effects.len(), 2);
}

#[test]
fn without_msix_the_status_shows_that_an_interrupt_waits() {
    let mut m = Machine::new();
    go_live(&mut m);
    m.set(1, 0x40, 0);
    use_buffer(&mut m);
    assert_eq!(m.get(1, 4) >> 19 & 1, 1);
    assert_eq!((m.read(0x1040, 1), m.read(0x1040, 1)), (1, 0), "reading takes it");
    assert_eq!((m.get(1, 4) >> 19 & 1, m.effects.len()), (0, 0));
}

#[test]
fn only_a_look_at_its_data_register_reads_through_the_window() {
    let mut m = Machine::new();
    go_live(&mut m);
    m.set(1, 0x40, 0);
    // The interrupt status: reading it takes it.
    let (at, _) = m.capabilities(1).into_iter().find(|(_, w)| w[0] >> 24 == 5).unwrap();
    m.set(1, at + 8, 0x40);
    m.set(1, at + 12, 1);
    use_buffer(&mut m);
    for register in (0..0x100).step_by(4).filter(|register| *register != at + 16) {
        m.get(1, register);
    }
    assert_eq!((m.get(1, at + 16), m.get(1, at + 16)), (1, 0));
}

#[test]
fn a_reset_forgets_what_is_pending() {
    let mut m = Machine::new();
    go_live(&mut m);
    use_buffer(&mut m);
    m.write(0x1014, 1, 0);
    assert_eq!(m.effects, [Effect::Signal(0)]);
    assert_eq!(m.devices.read_page(0xfed0_0800), Some([0, 0]));
}

#[test]
fn pages_exist_where_devices_do() {
    let mut m = Machine::new();
    let mut none = |_| panic!("an effect");
    assert!(m.devices.read_page(0xfed0_1fff).is_some());
    for address in [0, 0xfecf_ffff, 0xfed0_2000, 0xfed0_8000, u64::MAX] {
        assert_eq!(m.devices.read_page(address), None, "{address:#x}");
        assert!(!m.devices.write_page(address, [0, 0], &mut none));
    }
}

#[test]
fn mistakes_of_the_manifest_are_errors() {
    let mut devices = Devices::new();
    let device = VmDevice { kind: 4, queues: 1, ..VmDevice::new_zeroed() };
    let mut add = |number, device: &VmDevice, words, page| {
        devices.add(number, device, leak(words), leak(page), 1 << 20)
    };
    assert_eq!(add(8, &device, 512, 512), Err(DeviceError::Full));
    let many = VmDevice { queues: 9, ..device };
    assert_eq!(add(0, &many, 512, 512), Err(DeviceError::Virtio(VirtioError::Queues(9))));
    assert_eq!(add(0, &device, 79, 512), Err(DeviceError::Virtio(VirtioError::Words(79))));
    assert_eq!(add(0, &device, 80, 511), Err(DeviceError::Page(511)));
    assert_eq!(add(7, &device, 80, 512), Ok(()));
    assert_eq!(devices.unready(), Some(7));
}

/// Where a guest writes, and what: slot, register, first byte, width, value.
fn write() -> impl Strategy<Value = (u32, u32, u16, u8, u32)> {
    let width = prop::sample::select(vec![1, 2, 3, 4]);
    (0u32..4, 0u32..0x100, 0u16..4, width, any::<u32>())
}

/// Any port, but mostly those where something is.
fn port() -> impl Strategy<Value = u16> {
    prop_oneof![0xcf8u16..0xd00, 0x1000u16..0x1100, 0x1100u16..0x1200, any::<u16>()]
}

proptest! {
    /// Whatever is written wherever, what a function is does not change.
    #[test]
    fn configuration_stays_what_it_is(
        writes in prop::collection::vec(write(), 1..80)
    ) {
        let mut m = Machine::new();
        let before: Vec<u32> = (0..64).map(|register| m.get(1, register * 4)).collect();
        for (slot, register, lane, width, value) in writes {
            m.select(slot, register);
            m.write(DATA + lane, width, value);
        }
        // Command, MSI-X control, the window's four registers; BARs show address or size.
        let changing: &[(usize, u32)] =
            &[(1, 0x0008_0407), (16, 0xc000_0000), (38, 0xff), (39, ONES), (40, ONES), (41, ONES)];
        for (register, old) in before.into_iter().enumerate() {
            let new = m.get(1, register as u32 * 4);
            if register == 4 || register == 5 {
                let size = if register == 4 { 0xffff_ff01 } else { 0xffff_f000 };
                prop_assert!(new == old || new == size, "BAR {:#x}", new);
                continue;
            }
            let mask = changing.iter().find(|(number, _)| *number == register);
            let mask = mask.map_or(0, |(_, mask)| *mask);
            prop_assert_eq!(new & !mask, old & !mask, "register {:#x}", register * 4);
        }
    }

    #[test]
    fn no_access_panics(
        accesses in prop::collection::vec((port(), 0u8..9, any::<u32>(), any::<bool>()), 1..200)
    ) {
        let mut m = Machine::new();
        m.set(1, 4, 7);
        m.set(2, 4, 7);
        for (port, width, value, write) in accesses {
            if write { m.write(port, width, value) } else { m.read(port, width); }
        }
    }
}
