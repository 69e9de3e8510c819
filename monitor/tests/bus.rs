//! The devices of thread 0 as a whole: console behind the serial port, interrupt wires, workers.
#![cfg(not(loom))]

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use cloister_guest_abi::platform;
use cloister_monitor::apic::LocalApic;
use cloister_monitor::bus::{Bus, Env, SIGNAL_CONSOLE, constant, worker_signal};
use cloister_monitor::machine::Machine;
use cloister_monitor::request::{Op, Request};
use cloister_proto::vm::{VM_IOAPIC, VM_LEGACY, VmDevice};
use cloister_ring::{Side, Stream};
use cloister_virtio::wire;

const THR: u16 = platform::UART;
const IER: u16 = platform::UART + 1;
const FCR: u16 = platform::UART + 2;
const MCR: u16 = platform::UART + 4;
const LSR: u16 = platform::UART + 5;
/// Line status: the transmitter is empty.
const EMPTY: u32 = 0x20;
const READY: u32 = 1;
const CONSOLE_BIT: u64 = 1 << 9;

/// A machine with one virtual CPU in x2APIC mode.
fn machine() -> Machine {
    let machine = Machine::new();
    machine.start(1, true, 0);
    machine
}

fn words(count: usize) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

fn bus<'a>(flags: u32, console: &'a [AtomicU64]) -> (Bus<'a>, Stream<'a>) {
    let mut bus = Bus::new(flags, 1_000_000_000, 0, 0);
    bus.set_console(Stream::new(console, Side::Client, 0).unwrap(), CONSOLE_BIT);
    (bus, Stream::new(console, Side::Server, 0).unwrap())
}

/// Calls with an environment, and returns who is to be signalled.
fn with<R>(machine: &Machine, act: impl FnOnce(&mut Env<'_>) -> R) -> (R, u64) {
    let mut env = Env { machine, now: 0, signals: 0 };
    let result = act(&mut env);
    (result, env.signals)
}

/// The vectors that were posted since the last time.
fn posted(machine: &Machine) -> Vec<u8> {
    let vectors = machine.posted[0].drain().map_or([0; 4], |taken| taken.vectors);
    (0..=255u8).filter(|n| vectors[usize::from(n >> 6)] >> (n & 63) & 1 != 0).collect()
}

/// Routes a pin of the I/O APIC to a vector of virtual CPU 0.
fn route(bus: &mut Bus<'_>, machine: &Machine, pin: u8, entry: u64) {
    for (register, value) in [(1, entry >> 32), (0, entry & 0xffff_ffff)] {
        for (offset, value) in [(0, 0x10 + 2 * u64::from(pin) + register), (0x10, value)] {
            let address = platform::IOAPIC as u32 + offset;
            let request = Request { op: Op::MemoryWrite, address, width: 16, values: [value, 0] };
            with(machine, |env| bus.carry_out(&request, env));
        }
    }
}

#[test]
fn a_slow_console_slows_the_guest_and_loses_nothing() {
    let (machine, region) = (machine(), words(32));
    let (mut bus, mut console) = bus(0, &region);
    let (mut sent, mut seen, mut stalls) = (Vec::new(), Vec::new(), 0);
    for number in 0..2_000u32 {
        // The guest waits until the transmitter is empty, as drivers do.
        while with(&machine, |env| bus.read(LSR, 1, env)).0 & EMPTY == 0 {
            stalls += 1;
            let mut bytes = [0; 5];
            let count = console.read(&mut bytes);
            seen.extend_from_slice(&bytes[..count]);
            with(&machine, |env| bus.poll(CONSOLE_BIT, env));
        }
        let byte = (number % 251) as u8;
        let ((), signals) = with(&machine, |env| bus.write(THR, 1, byte.into(), env));
        // While there is room, the console is told at once.
        assert!(signals == SIGNAL_CONSOLE || console.pending() == console.capacity());
        sent.push(byte);
    }
    while console.pending() != 0 {
        let mut bytes = [0; 64];
        let count = console.read(&mut bytes);
        seen.extend_from_slice(&bytes[..count]);
        with(&machine, |env| bus.poll(CONSOLE_BIT, env));
    }
    assert!(seen == sent && stalls > 100, "{} of {}, {stalls}", seen.len(), sent.len());
}

#[test]
fn without_a_console_the_guest_talks_to_an_open_line() {
    let machine = machine();
    let mut bus = Bus::new(0, 1_000_000_000, 0, 0);
    for _ in 0..100 {
        let ((), signals) = with(&machine, |env| bus.write(THR, 1, 0x41, env));
        assert_eq!(signals, 0);
        assert_ne!(with(&machine, |env| bus.read(LSR, 1, env)).0 & EMPTY, 0);
    }
}

#[test]
fn typed_bytes_interrupt_and_wait_for_room() {
    let (machine, region) = (machine(), words(400));
    let (mut bus, mut console) = bus(VM_IOAPIC, &region);
    route(&mut bus, &machine, platform::UART_PIN, 0x44);
    for (port, value) in [(FCR, 1), (IER, 1), (MCR, 8)] {
        with(&machine, |env| bus.write(port, 1, value, env));
    }
    let text: Vec<u8> = (0..40).collect();
    assert_eq!(console.write(&text), 40);
    let ((), signals) = with(&machine, |env| bus.poll(CONSOLE_BIT, env));
    // Thread 0 for its interrupt, and the console for the room.
    assert_eq!((signals, posted(&machine)), (SIGNAL_CONSOLE | 1, vec![0x44]));
    assert_eq!(console.room(), console.capacity() - 40 + 16);
    let mut seen = Vec::new();
    while with(&machine, |env| bus.read(LSR, 1, env)).0 & READY != 0 {
        seen.push(with(&machine, |env| bus.read(THR, 1, env)).0 as u8);
    }
    assert_eq!(seen, text);
}

#[test]
fn a_level_triggered_pin_interrupts_again_after_its_end() {
    let (machine, region) = (machine(), words(400));
    let (mut bus, mut console) = bus(VM_IOAPIC, &region);
    route(&mut bus, &machine, platform::UART_PIN, 1 << 15 | 0x44);
    for (port, value) in [(IER, 1), (MCR, 8)] {
        with(&machine, |env| bus.write(port, 1, value, env));
    }
    console.write(b"x");
    with(&machine, |env| bus.poll(CONSOLE_BIT, env));
    let taken = machine.posted[0].drain().unwrap();
    assert_eq!((taken.vectors[1], taken.levels[1]), (1 << 4, 1 << 4));
    // The local APIC tells of the end, because the vector came as a level.
    let mut apic = LocalApic::new(0, true, true, 1_000_000_000);
    apic.write_msr(0x80f, 0x1ff, 0).unwrap();
    apic.accept(0x44, true);
    apic.taken(0x44);
    assert_eq!(apic.eoi(), cloister_monitor::apic::Effect::Eoi(0x44));
    let request = Request { op: Op::EndOfInterrupt, address: 0x44, width: 0, values: [0; 2] };
    let (_, signals) = with(&machine, |env| bus.carry_out(&request, env));
    assert_eq!((signals, posted(&machine)), (1, vec![0x44]));
    // Nobody waits for the byte any more: the wire is down, and nothing follows.
    with(&machine, |env| bus.read(THR, 1, env));
    with(&machine, |env| bus.carry_out(&request, env));
    assert_eq!(posted(&machine), []);
}

#[test]
fn a_workers_completion_becomes_the_vector_in_the_table() {
    let (machine, region) = (machine(), words(400));
    let (mut bus, _console) = bus(0, &region);
    let (page, table) = (words(512), words(512));
    page[wire::QUEUE_SIZE].store(64, Relaxed);
    let device = VmDevice { name: [b'd'; 32], kind: 4, queues: 1, reserved: 0 };
    let added = bus.add_device(0, 1, |devices| devices.add(0, &device, &page, &table, 1 << 20));
    assert!(added.is_ok());
    assert_eq!(bus.unready(), Some(0));
    let answer = || page[wire::ANSWER].store(page[wire::ORDER].load(SeqCst), SeqCst);
    with(&machine, |env| bus.poll(1, env));
    assert_eq!(bus.unready(), Some(0), "a signal is no answer");
    answer();
    assert_eq!(bus.unready(), None);
    let bar = platform::VIRTIO;
    let set = |bus: &mut Bus<'_>, port: u16, width, value| {
        with(&machine, |env| bus.write(port, width, value, env)).1
    };
    // Configuration space: I/O and bus master on, MSI-X on.
    set(&mut bus, 0xcf8, 4, 1 << 31 | 1 << 11 | 4);
    set(&mut bus, 0xcfc, 2, 5);
    let msix = (0x40..0xff).step_by(4).find(|register| {
        set(&mut bus, 0xcf8, 4, 1 << 31 | 1 << 11 | register);
        with(&machine, |env| bus.read(0xcfc, 1, env)).0 & 0xff == 0x11
    });
    set(&mut bus, 0xcf8, 4, 1 << 31 | 1 << 11 | msix.expect("an MSI-X capability"));
    set(&mut bus, 0xcfe, 2, 0x8000);
    // Entry 1: vector 0x71 at virtual CPU 0, not masked.
    let address = platform::MSIX as u32 + 16;
    let values = [0xfee0_0000, 0x71];
    let store = Request { op: Op::MemoryWrite, address, width: 16, values };
    with(&machine, |env| bus.carry_out(&store, env));
    let look = Request { op: Op::MemoryRead, ..store };
    assert_eq!(with(&machine, |env| bus.carry_out(&look, env)).0, values);
    // The driver: reset, features, queue 0 with vector 1, live.
    for status in [1, 3] {
        set(&mut bus, bar + 0x14, 1, status);
    }
    for (select, features) in [(0, 0), (1, 3)] {
        set(&mut bus, bar + 0x08, 4, select);
        set(&mut bus, bar + 0x0c, 4, features);
    }
    set(&mut bus, bar + 0x14, 1, 11);
    for (offset, width, value) in
        [(0x16, 2, 0), (0x18, 2, 16), (0x1a, 2, 1), (0x20, 4, 0x1000), (0x28, 4, 0x2000)]
    {
        set(&mut bus, bar + offset, width, value);
    }
    set(&mut bus, bar + 0x30, 4, 0x3000);
    set(&mut bus, bar + 0x1c, 2, 1);
    assert_eq!(set(&mut bus, bar + 0x14, 1, 15), worker_signal(0));
    answer();
    page[wire::PENDING].fetch_or(1, SeqCst);
    let ((), signals) = with(&machine, |env| bus.poll(1, env));
    assert_eq!((signals, posted(&machine)), (1, vec![0x71]));
    // Taken: the next signal is about something else.
    with(&machine, |env| bus.poll(1, env));
    assert_eq!(posted(&machine), []);
    // The signal of this device alone is a completion for virtual CPU 0, without a post.
    page[wire::PENDING].fetch_or(1, SeqCst);
    for other in [0, 2, 3, CONSOLE_BIT, CONSOLE_BIT | 1] {
        assert_eq!(bus.completion(other), None, "{other:#x}");
    }
    assert_eq!(bus.completion(1), Some(0x71));
    assert_eq!(bus.completion(1), None, "it was taken");
    assert_eq!(posted(&machine), []);
}

#[test]
fn wide_accesses_reach_every_byte_and_none_beyond() {
    let (machine, region) = (machine(), words(400));
    let (mut bus, _console) = bus(0, &region);
    // Line control and modem control, then scratch, and a port behind the last.
    with(&machine, |env| bus.write(platform::UART + 3, 2, 0x0203, env));
    assert_eq!(with(&machine, |env| bus.read(platform::UART + 3, 2, env)).0, 0x0203);
    with(&machine, |env| bus.write(platform::UART + 7, 1, 0xaa55, env));
    assert_eq!(with(&machine, |env| bus.read(platform::UART + 7, 1, env)).0, 0x55);
}

#[test]
fn what_is_constant_is_what_the_bus_reads() {
    for flags in [0, VM_LEGACY] {
        let machine = machine();
        let mut bus = Bus::new(flags, 1_000_000_000, 0, 0);
        for port in 0..=u16::MAX {
            for width in [1, 2, 4] {
                let Some(expected) = constant(port, flags) else { continue };
                let (value, signals) = with(&machine, |env| bus.read(port, width, env));
                assert_eq!((value, signals), (expected, 0), "port {port:#x}, {width} bytes");
            }
        }
    }
}
