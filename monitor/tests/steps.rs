//! Stepped accesses to device pages: each trap that the design names, one scripted turn after the
//! other. A turn that is asked to step does to the slots what the instruction would do.
#![cfg(not(loom))]

mod support;

use std::sync::atomic::Ordering::Relaxed;

use cloister_abi::vcpu::{
    EVENT_ERROR, EVENT_EXCEPTION, EXCEPTION_ERROR, Exit, FLAG_EVENT, MEMORY_FETCH, MEMORY_WALK,
    MEMORY_WRITE, RAX, RCX, SET_CR2, SET_EVENT, SLOT_WRITE, STEP, STEP_TRAP,
};
use cloister_monitor::run::{Ran, Stop};
use cloister_proto::stopped::{
    STOPPED_DEVICE_PAGE, STOPPED_TOO_MANY_PAGES, STOPPED_TRIPLE_FAULT, Stopped,
};
use cloister_proto::vm::{VM_IOAPIC, VM_LEGACY, VM_XAPIC};
use support::{Guest, Script, Turn, play_with, turn};

const APIC: u64 = 0xfee0_0000;
const TPR: u64 = APIC + 0x80;
const EOI: u64 = APIC + 0xb0;
const SPURIOUS: u64 = APIC + 0xf0;
const ICR: u64 = APIC + 0x300;
const DIVIDE: u64 = APIC + 0x3e0;
const IOAPIC: u64 = 0xfec0_0000;
const FLAGS: u32 = VM_XAPIC | VM_IOAPIC;
const RIP: u64 = 0xc000_0000;

/// The instruction touches an address.
fn fault(guest: &mut Guest, address: u64, kind: u64) -> Ran {
    guest.exit(Exit::Memory, [address, kind, 0])
}

fn reads(address: u64) -> Turn {
    turn(move |guest| fault(guest, address, 0))
}

fn writes(address: u64) -> Turn {
    turn(move |guest| fault(guest, address, MEMORY_WRITE))
}

/// Asserts that a step was asked for, with these slots.
fn assert_step(guest: &Guest, slots: [u64; 2]) {
    assert_eq!(guest.asked & (STEP | SET_EVENT), STEP);
    assert_eq!((guest.state.slots, guest.state.rip), (slots, RIP));
}

/// Four bytes in a slot.
fn load(guest: &Guest, slot: usize, address: u64) -> u32 {
    let offset = (address & 0xffc) as usize;
    let word = guest.slots[slot * 512 + offset / 8].load(Relaxed);
    (word >> (offset % 8 * 8)) as u32
}

fn store(guest: &Guest, slot: usize, address: u64, value: u32) {
    let offset = (address & 0xffc) as usize;
    let (word, shift) = (&guest.slots[slot * 512 + offset / 8], offset % 8 * 8);
    let rest = word.load(Relaxed) & !(0xffff_ffff << shift);
    word.store(rest | u64::from(value) << shift, Relaxed);
}

/// The instruction is done; `trap` if the guest itself was stepping. Scripts stay at one `rip`.
fn done(guest: &mut Guest, trap: bool) -> Ran {
    guest.exit(Exit::Stepped, [if trap { STEP_TRAP } else { 0 }, 0, 0])
}

fn page(address: u64) -> u64 {
    address & !0xfff
}

/// A whole store: the fault, and the step that stores.
fn stores(address: u64, value: u32) -> Vec<Turn> {
    vec![
        writes(address),
        turn(move |guest| {
            assert_step(guest, [page(address) | SLOT_WRITE, 0]);
            store(guest, 0, address, value);
            done(guest, false)
        }),
    ]
}

/// A whole load of an expected value.
fn loads(address: u64, expected: u32) -> Vec<Turn> {
    vec![
        reads(address),
        turn(move |guest| {
            assert_step(guest, [page(address), 0]);
            assert_eq!(load(guest, 0, address), expected, "{address:#x}");
            done(guest, false)
        }),
    ]
}

/// The end of a script.
fn off() -> Turn {
    turn(|guest| {
        assert_eq!(guest.asked & STEP, 0);
        guest.state.registers[RAX] = 0x34;
        guest.exit(Exit::Port, [0x501 | 1 << 16, 0, 0])
    })
}

fn play(parts: Vec<Vec<Turn>>) -> Stop {
    play_with(FLAGS, Script::new(parts.into_iter().flatten().collect()))
}

fn stopped(code: u8, byte: u8) -> Stop {
    Stop::Stopped(Stopped { code, byte, rip: RIP })
}

#[test]
fn what_is_stored_is_what_is_loaded() {
    let parts = vec![
        stores(SPURIOUS, 0x1ff),
        loads(SPURIOUS, 0x1ff),
        loads(APIC + 0x20, 0),
        loads(APIC + 0x30, 0x0005_0014),
        stores(DIVIDE, 0xb),
        loads(DIVIDE, 0xb),
        vec![off()],
    ];
    assert_eq!(play(parts), Stop::PowerOff);
}

#[test]
fn a_store_of_the_value_that_is_there_counts() {
    // The second write to the end-of-interrupt register stores 0 where 0 is.
    let parts = vec![
        stores(SPURIOUS, 0x1ff),
        stores(ICR, 0x4_0061),
        vec![turn(|guest| {
            assert_eq!(guest.accept(), 0x61);
            guest.exit(Exit::Cache, [0; 3])
        })],
        vec![turn(|guest| {
            guest.state.rip = RIP;
            fault(guest, EOI, MEMORY_WRITE)
        })],
        vec![turn(|guest| {
            assert_step(guest, [APIC | SLOT_WRITE, 0]);
            assert_eq!(load(guest, 0, EOI), 0);
            done(guest, false)
        })],
        stores(ICR, 0x4_0041),
        vec![turn(|guest| {
            // Offered, so the end of the first was heard.
            assert_eq!(guest.waiting, 0x41);
            guest.exit(Exit::Shutdown, [0; 3])
        })],
    ];
    assert_eq!(play(parts), stopped(STOPPED_TRIPLE_FAULT, 0));
}

#[test]
fn a_read_never_has_the_effect_of_a_write() {
    // Reading the command register must not send again what it holds.
    let parts = vec![
        stores(SPURIOUS, 0x1ff),
        stores(ICR, 0x4_0061),
        vec![turn(|guest| {
            assert_eq!(guest.accept(), 0x61);
            fault(guest, EOI, MEMORY_WRITE)
        })],
        vec![turn(|guest| done(guest, false))],
        loads(ICR, 0x4_0061),
        vec![turn(|guest| {
            assert_eq!(guest.waiting, 0);
            guest.exit(Exit::Shutdown, [0; 3])
        })],
    ];
    assert_eq!(play(parts), stopped(STOPPED_TRIPLE_FAULT, 0));
}

#[test]
fn read_modify_write_sees_the_value_and_stores_another() {
    for first in [0, MEMORY_WRITE] {
        let mut parts = vec![stores(DIVIDE, 0x3)];
        parts.push(vec![turn(move |guest| fault(guest, DIVIDE, first))]);
        if first == 0 {
            // Some CPUs fault once for the read and once for the write.
            parts.push(vec![turn(|guest| {
                assert_step(guest, [APIC, 0]);
                fault(guest, DIVIDE, MEMORY_WRITE)
            })]);
        }
        parts.push(vec![turn(|guest| {
            assert_step(guest, [APIC | SLOT_WRITE, 0]);
            store(guest, 0, DIVIDE, load(guest, 0, DIVIDE) | 8);
            done(guest, false)
        })]);
        parts.extend([loads(DIVIDE, 0xb), vec![off()]]);
        assert_eq!(play(parts), Stop::PowerOff);
    }
}

#[test]
fn movs_within_a_page_writes_one_register_alone() {
    let (from, to) = (DIVIDE, APIC + 0x380);
    let parts = vec![
        stores(from, 0xa),
        vec![reads(from)],
        vec![turn(move |guest| {
            assert_step(guest, [APIC, 0]);
            fault(guest, to, MEMORY_WRITE)
        })],
        vec![turn(move |guest| {
            assert_step(guest, [APIC | SLOT_WRITE, 0]);
            store(guest, 0, to, load(guest, 0, from));
            // What else lands in the slot is not a write fault's register.
            store(guest, 0, from, 0);
            done(guest, false)
        })],
        loads(from, 0xa),
        loads(to, 0xa),
        vec![off()],
    ];
    assert_eq!(play(parts), Stop::PowerOff);
}

#[test]
fn movs_and_straddles_take_two_slots() {
    // From the I/O APIC's index to the divider of the timer.
    let parts = vec![
        stores(IOAPIC, 1),
        loads(IOAPIC + 0x10, 0x0017_0011),
        vec![reads(IOAPIC)],
        vec![turn(|guest| {
            assert_step(guest, [IOAPIC, 0]);
            fault(guest, DIVIDE, MEMORY_WRITE)
        })],
        vec![turn(|guest| {
            assert_step(guest, [IOAPIC, APIC | SLOT_WRITE]);
            store(guest, 1, DIVIDE, load(guest, 0, IOAPIC));
            done(guest, false)
        })],
        loads(DIVIDE, 1),
        loads(IOAPIC, 1),
        // Four bytes before the end of the page, eight bytes wide: nobody's, and nobody's.
        vec![writes(APIC + 0xffc)],
        vec![turn(|guest| fault(guest, APIC + 0x1000, MEMORY_WRITE))],
        vec![turn(|guest| {
            assert_step(guest, [APIC | SLOT_WRITE, (APIC + 0x1000) | SLOT_WRITE]);
            done(guest, false)
        })],
        vec![off()],
    ];
    assert_eq!(play(parts), Stop::PowerOff);
}

#[test]
fn a_third_page_stops_the_machine() {
    let parts = vec![vec![reads(APIC), reads(IOAPIC), reads(0xfed0_0000)]];
    assert_eq!(play(parts), stopped(STOPPED_TOO_MANY_PAGES, 0));
}

#[test]
fn an_instruction_that_faults_for_ever_stops_the_machine() {
    let parts = (0..100).map(|_| vec![reads(APIC)]).collect();
    assert_eq!(play(parts), stopped(STOPPED_TOO_MANY_PAGES, 0));
}

#[test]
fn a_fetch_and_a_page_walk_stop_the_machine() {
    for (kind, byte) in [(MEMORY_FETCH, 0), (MEMORY_WALK, 1), (MEMORY_WALK | MEMORY_WRITE, 1)] {
        for address in [APIC, 0xd000_0000] {
            let parts = vec![vec![turn(move |guest| fault(guest, address, kind))]];
            assert_eq!(play(parts), stopped(STOPPED_DEVICE_PAGE, byte));
        }
    }
}

#[test]
fn an_event_that_needs_a_device_page_is_a_triple_fault() {
    let needs = turn(|guest| {
        let ran = fault(guest, APIC, 0);
        guest.state.flags = FLAG_EVENT;
        ran
    });
    assert_eq!(play(vec![vec![needs, off()]]), stopped(STOPPED_TRIPLE_FAULT, 0));
}

#[test]
fn an_exception_during_the_step_is_the_guests_and_nothing_is_stored() {
    let parts = vec![
        vec![writes(DIVIDE)],
        vec![turn(|guest| {
            store(guest, 0, DIVIDE, 0xb);
            guest.exit(Exit::Exception, [14 | EXCEPTION_ERROR, 2, 0x1234])
        })],
        vec![turn(|guest| {
            assert_eq!(guest.asked & (SET_EVENT | SET_CR2 | STEP), SET_EVENT | SET_CR2);
            assert_eq!(guest.state.event, EVENT_EXCEPTION | EVENT_ERROR | 14 | 2 << 32);
            assert_eq!((guest.state.cr2, guest.state.rip), (0x1234, RIP));
            guest.exit(Exit::Cache, [0; 3])
        })],
        vec![turn(|guest| {
            guest.state.rip = RIP;
            fault(guest, DIVIDE, 0)
        })],
        vec![turn(|guest| {
            assert_eq!(load(guest, 0, DIVIDE), 0);
            done(guest, false)
        })],
        vec![off()],
    ];
    assert_eq!(play(parts), Stop::PowerOff);
}

#[test]
fn exceptions_without_an_error_code_have_none_and_change_no_address() {
    let parts = vec![
        vec![writes(DIVIDE)],
        vec![turn(|guest| guest.exit(Exit::Exception, [1, 2, 0x1234]))],
        vec![turn(|guest| {
            assert_eq!(guest.asked & (SET_EVENT | SET_CR2), SET_EVENT);
            assert_eq!(guest.state.event, EVENT_EXCEPTION | 1);
            guest.exit(Exit::Shutdown, [0; 3])
        })],
    ];
    assert_eq!(play(parts), stopped(STOPPED_TRIPLE_FAULT, 0));
}

#[test]
fn an_exception_while_an_event_is_delivered_is_left_to_the_processor() {
    let parts = vec![
        vec![writes(DIVIDE)],
        vec![turn(|guest| {
            let ran = guest.exit(Exit::Exception, [13 | EXCEPTION_ERROR, 0, 0]);
            guest.state.flags = FLAG_EVENT;
            ran
        })],
        vec![turn(|guest| {
            assert_eq!(guest.asked & (SET_EVENT | STEP), 0);
            guest.exit(Exit::Shutdown, [0; 3])
        })],
    ];
    assert_eq!(play(parts), stopped(STOPPED_TRIPLE_FAULT, 0));
}

#[test]
fn a_guest_that_steps_itself_gets_its_trap() {
    let parts = vec![
        vec![writes(DIVIDE)],
        vec![turn(|guest| {
            store(guest, 0, DIVIDE, 0xb);
            done(guest, true)
        })],
        vec![turn(|guest| {
            assert_eq!(guest.asked & SET_EVENT, SET_EVENT);
            assert_eq!(guest.state.event, EVENT_EXCEPTION | 1);
            guest.exit(Exit::Cache, [0; 3])
        })],
        vec![turn(|guest| {
            guest.state.rip = RIP;
            fault(guest, DIVIDE, 0)
        })],
        vec![turn(|guest| {
            assert_eq!(load(guest, 0, DIVIDE), 0xb);
            done(guest, false)
        })],
        vec![off()],
    ];
    assert_eq!(play(parts), Stop::PowerOff);
}

#[test]
fn an_instruction_that_another_cpu_has_changed_meanwhile_is_answered_as_what_it_is() {
    let parts = vec![
        stores(DIVIDE, 0xb),
        vec![writes(DIVIDE)],
        vec![turn(|guest| {
            assert_step(guest, [APIC | SLOT_WRITE, 0]);
            store(guest, 0, DIVIDE, 1);
            guest.state.registers[RAX] = 0x4000_0000;
            guest.state.registers[RCX] = 0;
            guest.exit(Exit::Cpuid, [0; 3])
        })],
        vec![turn(|guest| {
            assert_eq!(guest.asked & STEP, 0);
            assert_eq!((guest.state.rip, guest.state.registers[RAX]), (RIP + 2, 0x4000_0011));
            guest.state.rip = RIP;
            fault(guest, DIVIDE, 0)
        })],
        vec![turn(|guest| {
            assert_step(guest, [APIC, 0]);
            assert_eq!(load(guest, 0, DIVIDE), 0xb);
            done(guest, false)
        })],
        vec![off()],
    ];
    assert_eq!(play(parts), Stop::PowerOff);
}

#[test]
fn interrupts_and_signals_wait_for_the_end_of_the_step() {
    let parts = vec![
        stores(SPURIOUS, 0x1ff),
        stores(APIC + 0x320, 0xec),
        stores(APIC + 0x380, 500),
        vec![reads(DIVIDE)],
        vec![turn(|guest| {
            assert_step(guest, [APIC, 0]);
            assert_eq!(guest.deadline, 2_000);
            guest.now = 2_000;
            Ran::Deadline
        })],
        vec![turn(|guest| {
            // The kernel goes on with the step; to ask again would be to begin it again.
            assert_eq!((guest.asked, guest.waiting), (0, 0));
            done(guest, false)
        })],
        vec![turn(|guest| {
            assert_eq!(guest.waiting, 0xec);
            guest.exit(Exit::Shutdown, [0; 3])
        })],
    ];
    assert_eq!(play(parts), stopped(STOPPED_TRIPLE_FAULT, 0));
}

#[test]
fn nobodys_device_pages_read_ones_and_take_writes() {
    for address in [0xfed0_0000u64, 0xfec0_1000, APIC + 0x1000, 0xfeff_f000 + 0xfc0] {
        let parts = vec![
            stores(address, 0),
            vec![reads(address + 60)],
            vec![turn(move |guest| {
                assert_step(guest, [page(address), 0]);
                // As far as the widest access from there reaches, or the page.
                let all = (address + 60..address + 124).step_by(4);
                for at in all.take_while(|at| page(*at) == page(address)) {
                    assert_eq!(load(guest, 0, at), u32::MAX, "{at:#x}");
                }
                done(guest, false)
            })],
            vec![off()],
        ];
        assert_eq!(play(parts), Stop::PowerOff);
    }
}

#[test]
fn pages_that_are_not_there_are_nobodys() {
    // Eight bytes of it: a register would be four, and zeros.
    let turns = [SPURIOUS, SPURIOUS + 4].into_iter().flat_map(|at| loads(at, u32::MAX));
    let turns = turns.chain([off()]).collect();
    assert_eq!(play_with(0, Script::new(turns)), Stop::PowerOff);
    let turns = loads(IOAPIC, u32::MAX).into_iter().chain([off()]).collect();
    assert_eq!(play_with(0, Script::new(turns)), Stop::PowerOff);
}

#[test]
fn addresses_where_nothing_can_be_put_are_general_protection_faults() {
    for address in [0xd000_0000, 0xc000_0000, 0xff00_0000, 0xfebf_ffff, 1 << 40] {
        for kind in [0, MEMORY_WRITE] {
            let turns = vec![
                turn(move |guest| fault(guest, address, kind)),
                turn(|guest| {
                    assert_eq!(guest.asked & (STEP | SET_EVENT), SET_EVENT);
                    assert_eq!(guest.state.event, EVENT_EXCEPTION | EVENT_ERROR | 13);
                    guest.exit(Exit::Shutdown, [0; 3])
                }),
            ];
            assert_eq!(play(vec![turns]), stopped(STOPPED_TRIPLE_FAULT, 0));
        }
    }
}

#[test]
fn the_task_priority_register_and_cr8_are_one() {
    let parts = vec![
        vec![turn(|guest| {
            guest.tpr = 7;
            fault(guest, TPR, 0)
        })],
        vec![turn(|guest| {
            assert_eq!(load(guest, 0, TPR), 0x70);
            done(guest, false)
        })],
        stores(TPR, 0x35),
        vec![turn(|guest| {
            assert_eq!(guest.tpr, 3);
            fault(guest, TPR, 0)
        })],
        vec![turn(|guest| {
            assert_eq!(load(guest, 0, TPR), 0x35);
            done(guest, false)
        })],
        vec![off()],
    ];
    assert_eq!(play(parts), Stop::PowerOff);
}

/// A guest whose interrupts go by the 8259A alone programs no local APIC.
#[test]
fn interrupts_of_the_8259a_arrive_at_an_apic_that_nobody_has_programmed() {
    let out = |port: u64, value| {
        turn(move |guest: &mut Guest| {
            guest.state.registers[RAX] = value;
            guest.exit(Exit::Port, [port | 1 << 16, 0, 0])
        })
    };
    // Vectors from 0x20 on, every line but the serial port's masked; its interrupt on.
    let writes = [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xef)];
    let serial = [(0x3f9, 2), (0x3fc, 8)];
    for (flags, expected) in [(VM_LEGACY, 0x24), (VM_LEGACY | VM_XAPIC, 0x24), (0, 0)] {
        let mut turns: Vec<Turn> =
            writes.into_iter().chain(serial).map(|(port, value)| out(port, value)).collect();
        turns.push(turn(move |guest| {
            assert_eq!(guest.waiting, expected, "flags {flags:#x}");
            guest.exit(Exit::Shutdown, [0; 3])
        }));
        assert!(matches!(play_with(flags, Script::new(turns)), Stop::Stopped(_)));
    }
}

#[test]
fn a_device_interrupts_the_virtual_cpu_whose_thread_it_is_on() {
    let out = |port: u64, value| {
        vec![turn(move |guest: &mut Guest| {
            guest.state.registers[RAX] = value;
            let ran = guest.exit(Exit::Port, [port | 1 << 16, 0, 0]);
            // Scripts stay at one place.
            guest.state.next_rip = RIP;
            ran
        })]
    };
    let parts = vec![
        stores(SPURIOUS, 0x1ff),
        // Pin 4, the serial port's, is vector 0x44 at APIC 0.
        stores(IOAPIC, 0x18),
        stores(IOAPIC + 0x10, 0x44),
        // Its interrupt on, and connected: the transmitter is empty.
        out(0x3f9, 2),
        out(0x3fc, 8),
        vec![turn(|guest| {
            assert_eq!(guest.waiting, 0x44);
            guest.exit(Exit::Shutdown, [0; 3])
        })],
    ];
    assert_eq!(play(parts), stopped(STOPPED_TRIPLE_FAULT, 0));
}
