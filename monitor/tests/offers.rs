//! The short ways of an interrupt: a completion that is offered at once, and an end of interrupt
//! after which the virtual CPU goes on without a look at anything. Whatever they leave out must
//! come to the guest all the same, once, and in the order of the manuals.
#![cfg(not(loom))]

mod support;

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use cloister_abi::vcpu::{Exit, RAX, RCX, RDX, SET_INTERRUPT, STEP};
use cloister_guest_abi::platform;
use cloister_monitor::bus::{Bus, Env};
use cloister_monitor::machine::Machine;
use cloister_monitor::request::{Op, Request};
use cloister_monitor::run::{Cpu, Ran, Stop};
use cloister_proto::vm::{VM_IOAPIC, VM_LEGACY, VmDevice};
use cloister_virtio::wire;
use support::{Guest, Script, TSC_HZ, Turn, config, table, turn};

const EOI: u32 = 0x80b;
const SPURIOUS: u32 = 0x80f;
const SELF_IPI: u32 = 0x83f;
/// The interrupt of the device's queue.
const VECTOR: u32 = 0x71;
/// The bits with which others signal thread 0, and with which the worker does.
const OTHERS: u64 = 1;
const WORKER: u64 = 1 << 4;

/// A machine with one virtual CPU in x2APIC mode and a device whose driver waits for buffers.
#[derive(Clone, Copy)]
struct System {
    flags: u32,
    machine: &'static Machine,
    /// What the worker shares.
    words: &'static [AtomicU64],
}

fn leak(count: usize) -> &'static [AtomicU64] {
    Box::leak((0..count).map(|_| AtomicU64::new(0)).collect())
}

impl System {
    fn new(flags: u32) -> System {
        let machine: &'static Machine = Box::leak(Box::new(Machine::new()));
        machine.start(1, true, 1_000);
        System { flags, machine, words: leak(512) }
    }

    /// Plays a guest to its end. It begins with its APIC enabled.
    fn play(self, turns: Vec<Turn>) -> Stop {
        self.play_with(turns, &[])
    }

    fn play_with(self, turns: Vec<Turn>, waits: &[Ran]) -> Stop {
        let config = config(1, self.flags);
        let table = table(&config);
        let mut bus = self.bus();
        let first = turn(|guest| write_msr(guest, SPURIOUS, 0x1ff));
        let script = Script::new(std::iter::once(first).chain(turns).collect()).waits(waits);
        Cpu::new(script, 0, self.machine, &config, &table, TSC_HZ, Some(&mut bus)).run()
    }

    /// The devices: queue 0 has vector 1, which is [`VECTOR`] at virtual CPU 0. Pin 4 of the I/O
    /// APIC, the serial port's, is vector 0x44 by level.
    fn bus(self) -> Bus<'static> {
        let mut bus = Bus::new(self.flags, TSC_HZ, 0, 1_000);
        let device = VmDevice { name: [b'd'; 32], kind: 4, queues: 1, reserved: 0 };
        self.words[wire::QUEUE_SIZE].store(64, SeqCst);
        let add = bus.add_device(0, WORKER, |devices| {
            devices.add(0, &device, self.words, leak(512), 1 << 20)
        });
        assert_eq!(add, Ok(()));
        self.words[wire::ANSWER].store(self.words[wire::ORDER].load(SeqCst), SeqCst);
        assert_eq!(bus.unready(), None);
        let mut env = Env { machine: self.machine, now: 1_000, signals: 0 };
        for (register, value) in [(4, 7), (0x40, 1 << 31)] {
            bus.write(0xcf8, 4, 1 << 31 | 1 << 11 | register, &mut env);
            bus.write(0xcfc, 4, value, &mut env);
        }
        let entry = (platform::MSIX + 16, [0xfee0_0000, u64::from(VECTOR)]);
        let pin = |offset: u64, value| (platform::IOAPIC + offset, [value, 0]);
        for (address, values) in [entry, pin(0, 0x18), pin(0x10, 1 << 15 | 0x44)] {
            let address = u32::try_from(address).unwrap();
            bus.carry_out(&Request { op: Op::MemoryWrite, address, width: 16, values }, &mut env);
        }
        for (offset, width, value) in [
            (0x14, 1, 1),
            (0x14, 1, 3),
            (0x08, 4, 1),
            (0x0c, 4, 3),
            (0x14, 1, 11),
            (0x1a, 2, 1),
            (0x20, 4, 0x1000),
            (0x28, 4, 0x2000),
            (0x30, 4, 0x3000),
            (0x1c, 2, 1),
            (0x14, 1, 15),
        ] {
            bus.write(platform::VIRTIO + offset, width, value, &mut env);
        }
        bus
    }

    /// The worker completes, and signals as the last thing of this turn.
    fn complete(self) -> Ran {
        self.words[wire::PENDING].fetch_or(1, SeqCst);
        Ran::Bits(WORKER)
    }

    /// Another thread posts an interrupt; its signal is yet to come.
    fn post(self, vector: u8) {
        assert!(self.machine.posted[0].vector(vector, false), "nobody has looked since the last");
    }
}

fn write_msr(guest: &mut Guest, msr: u32, value: u64) -> Ran {
    guest.state.registers[RCX] = msr.into();
    (guest.state.registers[RAX], guest.state.registers[RDX]) = (value, 0);
    guest.exit(Exit::MsrWrite, [0; 3])
}

fn port_out(guest: &mut Guest, port: u16, value: u8) -> Ran {
    guest.state.registers[RAX] = value.into();
    guest.exit(Exit::Port, [u64::from(port) | 1 << 16, 0, 0])
}

/// Writes a byte to a port.
fn out(port: u16, value: u8) -> Turn {
    turn(move |guest| port_out(guest, port, value))
}

/// An interrupt to oneself.
fn ipi(vector: u64) -> Turn {
    turn(move |guest| write_msr(guest, SELF_IPI, vector))
}

/// This interrupt waits, and is taken; its handler ends it at once.
fn takes(vector: u32) -> Turn {
    turn(move |guest| {
        assert_eq!(guest.accept(), vector);
        write_msr(guest, EOI, 0)
    })
}

/// No interrupt waits, and the machine goes off.
fn off() -> Turn {
    turn(|guest| {
        assert_eq!(guest.waiting, 0);
        port_out(guest, platform::SLEEP_CONTROL, platform::SLEEP_OFF)
    })
}

#[test]
fn a_completion_is_offered_at_the_next_entry_and_once() {
    let system = System::new(0);
    let stop = system.play(vec![
        turn(move |_| system.complete()),
        turn(move |guest| {
            assert_eq!((guest.asked & SET_INTERRUPT, guest.waiting), (SET_INTERRUPT, VECTOR));
            assert_eq!(system.machine.posted[0].drain(), None, "it needs no post");
            assert_eq!(system.words[wire::PENDING].load(SeqCst), 0);
            guest.accept();
            write_msr(guest, EOI, 0)
        }),
        turn(move |guest| {
            assert_eq!((guest.asked, guest.waiting), (0, 0), "a plain turn");
            system.complete()
        }),
        takes(VECTOR),
        off(),
    ]);
    assert_eq!(stop, Stop::PowerOff);
}

#[test]
fn the_higher_of_completion_and_offer_goes_first() {
    for (other, order) in [(0x61, [VECTOR, 0x61]), (0x81, [0x81, VECTOR])] {
        let system = System::new(0);
        let [first, second] = order.map(takes);
        let complete = turn(move |guest| {
            assert_eq!(u64::from(guest.waiting), other);
            system.complete()
        });
        let stop = system.play(vec![ipi(other), complete, first, second, off()]);
        assert_eq!(stop, Stop::PowerOff, "{other:#x}");
    }
}

#[test]
fn a_completion_waits_for_the_end_of_what_its_class_may_not_interrupt() {
    for in_service in [0x70, 0x7f, 0x91] {
        let system = System::new(0);
        let stop = system.play(vec![
            ipi(in_service),
            turn(move |guest| {
                assert_eq!(u64::from(guest.accept()), in_service);
                system.complete()
            }),
            turn(|guest| {
                assert_eq!(guest.waiting, 0);
                guest.exit(Exit::Cpuid, [0; 3])
            }),
            turn(|guest| {
                assert_eq!(guest.waiting, 0);
                write_msr(guest, EOI, 0)
            }),
            takes(VECTOR),
            off(),
        ]);
        assert_eq!(stop, Stop::PowerOff, "{in_service:#x}");
    }
}

#[test]
fn a_completion_does_not_take_the_place_of_the_8259as_interrupt() {
    let system = System::new(VM_LEGACY);
    let controller = [(0x20, 0x11), (0x21, 0x50), (0x21, 4), (0x21, 1), (0x21, 0xef)];
    let serial = [(platform::UART + 1, 2), (platform::UART + 4, 8)];
    let mut turns: Vec<Turn> =
        controller.into_iter().chain(serial).map(|(port, value)| out(port, value)).collect();
    // Virtual wire mode: LINT0 stands for the 8259A.
    turns.insert(0, turn(|guest| write_msr(guest, 0x835, 0x700)));
    turns.extend([
        turn(move |guest| {
            assert_eq!(guest.waiting, 0x54);
            system.complete()
        }),
        turn(|guest| {
            assert_eq!(guest.accept(), 0x54);
            guest.exit(Exit::Cpuid, [0; 3])
        }),
        takes(VECTOR),
        off(),
    ]);
    assert_eq!(system.play(turns), Stop::PowerOff);
}

#[test]
fn a_completion_ends_a_halt() {
    let system = System::new(0);
    let halt = turn(move |guest| {
        guest.state.rflags |= 1 << 9;
        system.complete();
        guest.exit(Exit::Halt, [0; 3])
    });
    let stop = system.play_with(vec![halt, takes(VECTOR), off()], &[Ran::Bits(WORKER)]);
    assert_eq!(stop, Stop::PowerOff);
}

#[test]
fn what_is_posted_before_the_end_of_an_interrupt_comes_with_its_signal() {
    let system = System::new(0);
    let stop = system.play(vec![
        turn(move |_| system.complete()),
        turn(move |guest| {
            assert_eq!(guest.accept(), VECTOR);
            system.post(0x41);
            write_msr(guest, EOI, 0)
        }),
        turn(|guest| {
            assert_eq!((guest.asked, guest.waiting), (0, 0), "the end looked at nothing");
            Ran::Bits(OTHERS)
        }),
        takes(0x41),
        off(),
    ]);
    assert_eq!(stop, Stop::PowerOff);
}

#[test]
fn a_completion_and_a_post_that_come_together_both_count() {
    let system = System::new(0);
    let stop = system.play(vec![
        turn(move |_| {
            system.post(0x41);
            system.complete();
            Ran::Bits(WORKER | OTHERS)
        }),
        takes(VECTOR),
        takes(0x41),
        off(),
    ]);
    assert_eq!(stop, Stop::PowerOff);
}

#[test]
fn a_level_that_is_still_active_interrupts_again_at_its_end() {
    let system = System::new(VM_IOAPIC);
    let stop = system.play(vec![
        // The transmitter is empty, which is a cause until the guest has read it.
        out(platform::UART + 1, 2),
        out(platform::UART + 4, 8),
        takes(0x44),
        turn(|guest| {
            assert_eq!(guest.accept(), 0x44);
            port_out(guest, platform::UART + 1, 0)
        }),
        turn(|guest| write_msr(guest, EOI, 0)),
        off(),
    ]);
    assert_eq!(stop, Stop::PowerOff);
}

#[test]
fn a_completion_during_a_step_waits_for_its_end() {
    let system = System::new(0);
    let stop = system.play(vec![
        // An exit that is answered by one instruction alone.
        turn(|guest| guest.exit(Exit::TaskPriority, [0; 3])),
        turn(move |guest| {
            assert_eq!(guest.asked & STEP, STEP);
            system.complete()
        }),
        turn(|guest| {
            assert_eq!((guest.asked & SET_INTERRUPT, guest.waiting), (0, 0));
            guest.exit(Exit::Stepped, [0; 3])
        }),
        takes(VECTOR),
        off(),
    ]);
    assert_eq!(stop, Stop::PowerOff);
}
