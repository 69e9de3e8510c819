//! Ports and device pages of thread 0: serial port, clock, legacy parts, I/O APIC, PCI, virtio.
//!
//! Rules: a port that [`constant`] knows reads so; nobody is signalled who is not there, and who is
//! signalled finds something; a virtual CPU that does not exist gets nothing; no timer is due in
//! the past; the serial port's cause is one that the guest enabled; the clock's fields are digits;
//! what identifies a PCI function never changes.

use std::array;

use cloister_guest_abi::{pci, platform};
use cloister_monitor::bus::{Bus, Env, SIGNAL_CONSOLE, constant, worker_signal};
use cloister_monitor::machine::Machine;
use cloister_monitor::request::{Op, Request};
use cloister_proto::vm::{VM_LEGACY, VM_XAPIC};
use cloister_ring::{Side, Stream};

use super::machine::{MEMORY, START, TSC_HZ, config, words};
use super::ports;
use crate::{Input, mark};

/// Virtual CPUs of the machine.
const VCPUS: usize = 2;
/// Signal bits of the console and of the two workers.
const CONSOLE_BIT: u64 = 1 << 4;

/// The bus, and what its accesses need.
struct Rig<'m, 'a> {
    bus: Bus<'a>,
    machine: &'m Machine,
    flags: u32,
    now: u64,
}

/// Does what the bytes say.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let flags = u32::from(input.byte() & 0xf);
    let config = config(VCPUS as u32, flags, 0);
    let machine = Machine::new();
    machine.start(VCPUS, flags & VM_XAPIC == 0, START);
    let shared: [_; 4] = array::from_fn(|_| words(512));
    let [first, second, first_page, second_page] = &shared;
    let line = words(600);
    let mut bus = Bus::new(flags, TSC_HZ, u64::from(input.word()), START);
    for (number, words, page) in [(0, first, first_page), (1, second, second_page)] {
        let device = &config.devices[number];
        let add = bus.add_device(number, 1 << number, |devices| {
            devices.add(number, device, words, page, MEMORY)
        });
        add.expect("the pages are large enough");
    }
    let stream = |side| Stream::new(&line, side, 1).expect("the line is large enough");
    bus.set_console(stream(Side::Client), CONSOLE_BIT);
    let mut person = stream(Side::Server);
    let mut rig = Rig { bus, machine: &machine, flags, now: START };
    while !input.is_empty() {
        rig.now += input.delay();
        match input.byte() {
            0..120 => rig.access(&mut input),
            120..150 => rig.page(&mut input),
            150..180 => {
                ports::disturb(&shared[usize::from(input.byte() & 1)], &mut input);
                rig.act(|bus, env| bus.poll(0b11, env));
            }
            180..200 => {
                // Nobody looks at how much fits: a console that is full drops the rest.
                person.write(input.take(3));
                person.read(&mut [0; 8]);
                rig.act(|bus, env| bus.poll(CONSOLE_BIT, env));
            }
            200..220 => rig.tick(),
            220..232 => rig.serial(),
            232..244 => rig.clock(),
            _ => rig.functions(),
        }
    }
}

impl Rig<'_, '_> {
    /// Does something on the bus, and judges who is signalled.
    fn act<R>(&mut self, act: impl FnOnce(&mut Bus<'_>, &mut Env<'_>) -> R) -> R {
        let mut env = Env { machine: self.machine, now: self.now, signals: 0 };
        let result = act(&mut self.bus, &mut env);
        let signals = env.signals;
        let known = 0b11 | worker_signal(0) | worker_signal(1) | SIGNAL_CONSOLE;
        assert_eq!(signals & !known, 0, "somebody is signalled who is not there: {signals:#x}");
        for (number, posted) in self.machine.posted.iter().enumerate() {
            let (taken, is_signalled) = (posted.drain(), signals >> number & 1 != 0);
            let is_there = number < VCPUS;
            assert!(is_there || taken.is_none(), "vCPU {number} does not exist, and got {taken:?}");
            assert_eq!(taken.is_some(), is_signalled && is_there, "vCPU {number}: {taken:?}");
            for (vectors, levels) in taken.iter().flat_map(|t| t.vectors.iter().zip(t.levels)) {
                assert_eq!(levels & !vectors, 0, "a level without its vector");
            }
        }
        for (place, bits) in [
            ("thread", 0b11),
            ("worker", worker_signal(0) | worker_signal(1)),
            ("console", SIGNAL_CONSOLE),
        ] {
            if signals & bits != 0 {
                mark(place);
            }
        }
        let external = self.bus.external();
        assert!(external.is_none() || self.flags & VM_LEGACY != 0, "an 8259A that is not there");
        if external.is_some() {
            mark("external");
        }
        result
    }

    fn read(&mut self, port: u16, width: u8) -> u32 {
        self.act(|bus, env| bus.read(port, width, env))
    }

    fn write(&mut self, port: u16, width: u8, value: u32) {
        self.act(|bus, env| bus.write(port, width, value, env));
    }

    /// A port access, as thread 0's guest makes it or as another one asks for it.
    fn access(&mut self, input: &mut Input<'_>) {
        let (port, width) = (ports::port(input), ports::width(input));
        let kind = input.byte();
        if kind & 1 != 0 {
            return self.write(port, width, input.value() as u32);
        }
        let value = if kind & 2 != 0 {
            let request =
                Request { op: Op::PortIn, address: u32::from(port), width, values: [0; 2] };
            self.act(|bus, env| bus.carry_out(&request, env))[0] as u32
        } else {
            self.read(port, width)
        };
        let mask = !u32::MAX.unbounded_shl(u32::from(width) * 8);
        match constant(port, self.flags) {
            Some(always) => assert_eq!(value, always, "port {port:#x} has nobody behind it"),
            None => assert!(value == u32::MAX || value & !mask == 0, "{port:#x}: {value:#x}"),
        }
        if kind & 4 != 0 && self.bus.external().is_some() {
            self.bus.acknowledge();
        }
    }

    /// An access to a device page, or the end of an interrupt.
    fn page(&mut self, input: &mut Input<'_>) {
        let op = [Op::MemoryRead, Op::MemoryWrite, Op::MemoryWrite, Op::EndOfInterrupt];
        let (op, values) = (input.pick(&op), [input.value(), input.value()]);
        let address = match op {
            Op::EndOfInterrupt => input.byte().into(),
            _ => ports::address(input) as u32,
        };
        let request = Request { op, address, width: 16, values };
        self.act(|bus, env| bus.carry_out(&request, env));
    }

    /// Time passes: what is due is done, and the next is later.
    fn tick(&mut self) {
        self.act(|bus, env| bus.tick(env));
        let (deadline, now) = (self.bus.deadline(), self.now);
        assert!(deadline > now, "the next tick, at {deadline}, is not after {now}");
    }

    /// What interrupts is enabled (NS16550A data sheet, "Interrupt Identification Register").
    fn serial(&mut self) {
        let line = self.read(platform::UART + 3, 1);
        self.write(platform::UART + 3, 1, line & 0x7f);
        let enabled = self.read(platform::UART + 1, 1);
        let cause = self.read(platform::UART + 2, 1) & 0xf;
        let by = match cause {
            1 => return,
            6 => 4,
            4 | 0xc => 1,
            2 => 2,
            0 => 8,
            other => panic!("cause {other:#x} does not exist"),
        };
        assert_ne!(enabled & by, 0, "cause {cause:#x} with enable register {enabled:#x}");
        mark("serial cause");
    }

    /// The clock's registers (MC146818 data sheet): no update is in progress, no interrupt waits,
    /// memory is valid, fields are decimal digits unless the guest wants them binary.
    fn clock(&mut self) {
        let mut cell = |index| {
            self.write(platform::RTC, 1, index);
            self.read(platform::RTC + 1, 1)
        };
        assert_eq!(cell(0xa) & 0x80, 0, "an update is in progress");
        assert_eq!((cell(0xc), cell(0xd)), (0, 0x80));
        let mode = cell(0xb);
        if mode & 0x84 == 0 {
            for (index, last) in [(0, 0x59), (2, 0x59), (7, 0x31), (8, 0x12), (9, 0x99)] {
                let value = cell(index);
                assert!(value & 0xf < 10 && value <= last, "field {index}: {value:#x}");
            }
            mark("time of day");
        }
    }

    /// Identity, class and capabilities of each function (PCI Local Bus Specification 3.0,
    /// "Configuration Space Header").
    fn functions(&mut self) {
        let latch = self.read(platform::PCI_ADDRESS, 4);
        let mut register = |slot: u32, at: u32| {
            self.write(platform::PCI_ADDRESS, 4, 1 << 31 | slot << 11 | at);
            self.read(platform::PCI_DATA, 4)
        };
        let id = |device: u16| u32::from(device) << 16 | u32::from(pci::VENDOR);
        let ids = [pci::HOST_BRIDGE, pci::VIRTIO_BASE + 3, pci::VIRTIO_BASE + 4].map(id);
        for (slot, id) in (0..).zip(ids) {
            assert_eq!(register(slot, 0), id, "the function in slot {slot}");
            assert_eq!(register(slot, 0x34), if slot == 0 { 0 } else { 0x40 });
        }
        assert_eq!(register(3, 0), u32::MAX, "slot 3 is empty");
        self.write(platform::PCI_ADDRESS, 4, latch);
        assert_eq!(self.read(platform::PCI_ADDRESS, 4), latch);
    }
}
