//! A whole virtual CPU, number 0 with all devices or number 1 without, in a guest made of bytes.
//!
//! Rules: those of [`super::guest`] before each turn; and a virtual machine ends only for a reason
//! that the exits gave: power-off and reset for an access to their ports (or INIT of number 0),
//! a stop with a code that this run can have, and its own instruction pointer.

use cloister_abi::vcpu::VcpuState;
use cloister_monitor::bus::Bus;
use cloister_monitor::machine::Machine;
use cloister_monitor::posted::{NMI, STARTUP};
use cloister_monitor::run::{Cpu, Stop};
use cloister_proto::stopped::{
    STOPPED_DEVICE_PAGE, STOPPED_INVALID, STOPPED_PANIC, STOPPED_TOO_MANY_PAGES,
    STOPPED_TRIPLE_FAULT,
};
use cloister_proto::vm::VM_XAPIC;

use super::guest::Guest;
use super::machine::{MEMORY, START, TSC_HZ, config, table, words};
use crate::{Input, mark};

/// Turns of a guest at most.
const TURNS: u32 = 200;

/// Does what the bytes say.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let kind = input.byte();
    let (flags, number) = (u32::from(kind & 0xf), usize::from(kind >> 7));
    let config = config(2, flags, u32::from(kind >> 4 & 3) % 3);
    let cpuid = table(&config);
    let machine = Machine::new();
    machine.start(2, flags & VM_XAPIC == 0, START);
    let (shared, pages) = ([words(128), words(128)], [words(512), words(512)]);
    let mut bus = Bus::new(flags, TSC_HZ, 0, START);
    for (number, (shared, page)) in shared.iter().zip(&pages).enumerate() {
        let device = &config.devices[number];
        let add = bus.add_device(number, 1 << number, |devices| {
            devices.add(number, device, shared, page, MEMORY)
        });
        add.expect("the pages are large enough");
    }
    let host = Guest {
        input,
        turns: 0,
        number,
        flags,
        requests: &machine.requests,
        shared: [&shared[0], &shared[1]],
        page: VcpuState::default(),
        slots: words(1024),
        now: START,
        last: [0; 2],
        waiting: 0,
    };
    // A machine whose virtual CPU 1 waits for ever shows nothing.
    let messages = [STARTUP, NMI];
    for event in messages.into_iter().filter(|_| number == 1 || kind & 0x40 != 0) {
        let _ = machine.posted[number].event(event);
    }
    let bus = (number == 0).then_some(&mut bus);
    let mut cpu = Cpu::new(host, number as u8, &machine, &config, &cpuid, TSC_HZ, bus);
    let stop = (0..TURNS).find_map(|_| cpu.turn());
    let rip = cpu.rip();
    if let Some(stop) = stop {
        judge(stop, rip);
    }
}

fn judge(stop: Stop, rip: u64) {
    match stop {
        Stop::PowerOff => mark("off"),
        Stop::Reset => mark("reset"),
        Stop::Stopped(stopped) => {
            let codes = [
                STOPPED_TRIPLE_FAULT,
                STOPPED_PANIC,
                STOPPED_INVALID,
                STOPPED_DEVICE_PAGE,
                STOPPED_TOO_MANY_PAGES,
            ];
            assert!(codes.contains(&stopped.code), "{stopped:?}");
            assert_eq!(stopped.rip, rip);
            mark("stopped");
        }
    }
}
