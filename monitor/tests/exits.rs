//! Answers to exits, one scripted turn of the guest after the other.
//!
//! Longer than 600 lines because every kind of exit has its cases here, on one scripted host.
#![cfg(not(loom))]

mod support;

use cloister_abi::vcpu::{
    EVENT_ERROR, EVENT_EXCEPTION, EVENT_NMI, Exit, FLAG_EVENT, PORT_IN, PORT_STRING, RAX, RBX, RCX,
    RDX, RESET, SET_CONTROL, SET_EVENT, SET_INTERRUPT, SET_NMI_WINDOW, SET_SEGMENTS, SET_TPR,
    SET_TSC, SET_XCR0, STEP, WANT_ALL,
};
use cloister_guest_abi::platform;
use cloister_monitor::run::{NEVER, Ran, Stop};
use cloister_proto::stopped::{STOPPED_INVALID, STOPPED_PANIC, STOPPED_TRIPLE_FAULT, Stopped};
use cloister_proto::vm::{VM_LEGACY, VM_V3};
use support::{Guest, Script, Turn, play, play_with, turn};

const EOI: u32 = 0x80b;
const TPR: u32 = 0x808;
const SPURIOUS: u32 = 0x80f;
const ICR: u32 = 0x830;
const LVT_TIMER: u32 = 0x832;
const TIMER: u32 = 0x838;
const SELF_IPI: u32 = 0x83f;
const FLAG_IF: u64 = 0x200;
const GP: u64 = EVENT_EXCEPTION | EVENT_ERROR | 13;

fn write_msr(guest: &mut Guest, msr: u32, value: u64) -> Ran {
    guest.state.registers[RCX] = msr.into();
    // The upper halves of the registers mean nothing.
    guest.state.registers[RAX] = value & 0xffff_ffff | 0xdead << 32;
    guest.state.registers[RDX] = value >> 32 | 0xdead << 32;
    guest.exit(Exit::MsrWrite, [0; 3])
}

fn read_msr(guest: &mut Guest, msr: u32) -> Ran {
    guest.state.registers[RCX] = msr.into();
    guest.exit(Exit::MsrRead, [0; 3])
}

fn value(guest: &Guest) -> u64 {
    assert_eq!(guest.state.registers[RDX] >> 32, 0);
    guest.state.registers[RAX] | guest.state.registers[RDX] << 32
}

fn port_in(guest: &mut Guest, port: u16, width: u64) -> Ran {
    guest.exit(Exit::Port, [u64::from(port) | width << 16 | PORT_IN, 0, 0])
}

fn port_out(guest: &mut Guest, port: u16, width: u64, value: u64) -> Ran {
    guest.state.registers[RAX] = value;
    guest.exit(Exit::Port, [u64::from(port) | width << 16, 0, 0])
}

/// The exit of this turn was answered by going past the instruction at `rip`.
fn assert_past(guest: &Guest, rip: u64) {
    assert_eq!(guest.state.rip, rip + 2);
    assert_eq!(guest.asked & SET_EVENT, 0);
}

/// The exit of this turn was answered by an event, with the instruction still to come.
fn assert_event(guest: &Guest, rip: u64, event: u64) {
    assert_eq!((guest.state.rip, guest.asked & SET_EVENT), (rip, SET_EVENT));
    assert_eq!(guest.state.event, event);
}

/// Ends a script: the machine is off.
fn off() -> Turn {
    turn(|guest| port_out(guest, platform::SLEEP_CONTROL, 1, u64::from(platform::SLEEP_OFF)))
}

fn stopped(code: u8, byte: u8, rip: u64) -> Stop {
    Stop::Stopped(Stopped { code, byte, rip })
}

#[test]
fn the_first_entry_resets_everything_and_starts_the_image() {
    let script = Script::new(vec![
        turn(|guest| {
            let everything = RESET | SET_CONTROL | SET_SEGMENTS | SET_TSC | SET_XCR0;
            assert_eq!(guest.asked & everything, everything);
            assert_eq!((guest.state.rip, guest.deadline), (0xc000_0000, NEVER));
            assert_eq!(guest.state.tsc_offset, 1_000u64.wrapping_neg());
            guest.exit(Exit::Cpuid, [0; 3])
        }),
        off(),
    ]);
    assert_eq!(play(script), Stop::PowerOff);
}

#[test]
fn cpuid_is_answered_in_four_registers() {
    let script = Script::new(vec![
        turn(|guest| {
            guest.state.registers[RAX] = 0xffff_ffff_4000_0000;
            guest.state.registers[RBX] = u64::MAX;
            guest.exit(Exit::Cpuid, [0; 3])
        }),
        turn(|guest| {
            assert_past(guest, 0xc000_0000);
            let text: Vec<u8> = [RBX, RCX, RDX]
                .iter()
                .flat_map(|n| u32::try_from(guest.state.registers[*n]).unwrap().to_le_bytes())
                .collect();
            assert_eq!(text, b"KVMKVMKVM\0\0\0");
            guest.state.registers[RAX] = 1;
            // CR4.OSXSAVE.
            guest.exit(Exit::Cpuid, [1 << 18, 0, 0])
        }),
        turn(|guest| {
            assert_ne!(guest.state.registers[RCX] & 1 << 27, 0);
            guest.state.registers[RAX] = 1;
            guest.exit(Exit::Cpuid, [0; 3])
        }),
        turn(|guest| {
            assert_eq!(guest.state.registers[RCX] & 1 << 27, 0);
            guest.exit(Exit::Shutdown, [0; 3])
        }),
    ]);
    let rip = 0xc000_0006;
    assert_eq!(play_with(VM_V3, script), stopped(STOPPED_TRIPLE_FAULT, 0, rip));
}

#[test]
fn a_port_read_changes_as_many_bits_as_it_is_wide() {
    // Nothing answers at 0x300.
    for (width, expected) in
        [(1, 0x1122_3344_5566_77ff), (2, 0x1122_3344_5566_ffff), (4, 0xffff_ffff)]
    {
        let script = Script::new(vec![
            turn(move |guest| {
                guest.state.registers[RAX] = 0x1122_3344_5566_7788;
                port_in(guest, 0x300, width)
            }),
            turn(move |guest| {
                assert_eq!(guest.state.registers[RAX], expected);
                assert_past(guest, 0xc000_0000);
                port_out(guest, platform::PANIC, 1, 0x5a)
            }),
        ]);
        assert_eq!(play(script), stopped(STOPPED_PANIC, 0x5a, 0xc000_0002));
    }
}

#[test]
fn ports_that_kernels_probe_say_absent_without_a_loop() {
    for (port, expected) in
        [(0x40, 0), (0x42, 0), (0x43, 0), (0x61, 0), (0x64, 0), (0x60, 0xff), (0x87, 0xff)]
    {
        let script = Script::new(vec![
            turn(move |guest| port_in(guest, port, 1)),
            turn(move |guest| {
                assert_eq!(guest.state.registers[RAX], expected, "{port:#x}");
                guest.exit(Exit::Shutdown, [0; 3])
            }),
        ]);
        play(script);
    }
}

#[test]
fn a_string_access_to_a_port_is_a_general_protection_fault() {
    let script = Script::new(vec![
        turn(|guest| guest.exit(Exit::Port, [0x3f8 | 1 << 16 | PORT_STRING, 0, 0])),
        turn(|guest| {
            assert_event(guest, 0xc000_0000, GP);
            off()(guest)
        }),
    ]);
    assert_eq!(play(script), Stop::PowerOff);
}

#[test]
fn registers_that_do_not_exist_and_values_that_are_refused_are_general_protection_faults() {
    let cases: [(u32, Option<u64>); 6] = [
        (0xc001_0114, None),
        (0x1d9, Some(1)),
        (ICR, Some(1 << 13)),
        (0x1b, Some(0)),
        (EOI, Some(1)),
        (0xc000_0103, Some(1 << 32)),
    ];
    for (msr, value) in cases {
        let script = Script::new(vec![
            turn(move |guest| match value {
                Some(value) => write_msr(guest, msr, value),
                None => read_msr(guest, msr),
            }),
            turn(move |guest| {
                assert_event(guest, 0xc000_0000, GP);
                off()(guest)
            }),
        ]);
        assert_eq!(play(script), Stop::PowerOff, "{msr:#x}");
    }
}

#[test]
fn an_interrupt_to_oneself_is_offered_accepted_and_ended() {
    let script = Script::new(vec![
        turn(|guest| write_msr(guest, SPURIOUS, 0x1ff)),
        turn(|guest| write_msr(guest, SELF_IPI, 0x61)),
        turn(|guest| {
            assert_eq!((guest.asked & SET_INTERRUPT, guest.accept()), (SET_INTERRUPT, 0x61));
            // A lower one has to wait for the end of this one.
            write_msr(guest, ICR, 0x4_0041)
        }),
        turn(|guest| {
            assert_eq!(guest.waiting, 0);
            write_msr(guest, EOI, 0)
        }),
        turn(|guest| {
            assert_eq!(guest.waiting, 0x41);
            // Not accepted: a higher one takes its place.
            write_msr(guest, ICR, 0x4_0081)
        }),
        turn(|guest| {
            assert_eq!(guest.accept(), 0x81);
            write_msr(guest, EOI, 0)
        }),
        turn(|guest| {
            assert_eq!(guest.accept(), 0x41);
            guest.exit(Exit::Cpuid, [0; 3])
        }),
        turn(|guest| {
            assert_eq!(guest.waiting, 0);
            off()(guest)
        }),
    ]);
    assert_eq!(play(script), Stop::PowerOff);
}

#[test]
fn an_apic_that_is_switched_off_withdraws_what_it_offered() {
    let script = Script::new(vec![
        turn(|guest| write_msr(guest, SPURIOUS, 0x1ff)),
        turn(|guest| write_msr(guest, SELF_IPI, 0x61)),
        turn(|guest| {
            assert_eq!(guest.waiting, 0x61);
            write_msr(guest, 0x1b, 0xfee0_0100)
        }),
        turn(|guest| {
            assert_eq!((guest.asked & SET_INTERRUPT, guest.waiting), (SET_INTERRUPT, 0));
            off()(guest)
        }),
    ]);
    assert_eq!(play(script), Stop::PowerOff);
}

#[test]
fn an_interrupt_that_is_taken_while_a_signal_arrives_is_taken_once() {
    let script = Script::new(vec![
        turn(|guest| write_msr(guest, SPURIOUS, 0x1ff)),
        turn(|guest| write_msr(guest, SELF_IPI, 0x61)),
        turn(|guest| {
            assert_eq!(guest.accept(), 0x61);
            Ran::Bits(1)
        }),
        turn(|guest| {
            assert_eq!(guest.waiting, 0);
            write_msr(guest, EOI, 0)
        }),
        turn(|guest| {
            assert_eq!(guest.waiting, 0);
            off()(guest)
        }),
    ]);
    assert_eq!(play(script), Stop::PowerOff);
}

#[test]
fn the_timer_is_the_deadline_of_the_turn_and_interrupts_when_it_is_over() {
    let script = Script::new(vec![
        turn(|guest| write_msr(guest, SPURIOUS, 0x1ff)),
        turn(|guest| write_msr(guest, LVT_TIMER, 0xec)),
        // The divider is 2 after a reset: 500 counts are 1000 ns.
        turn(|guest| write_msr(guest, TIMER, 500)),
        turn(|guest| {
            assert_eq!(guest.deadline, 2_000);
            guest.now = 2_000;
            Ran::Deadline
        }),
        turn(|guest| {
            assert_eq!((guest.waiting, guest.deadline), (0xec, NEVER));
            off()(guest)
        }),
    ]);
    assert_eq!(play(script), Stop::PowerOff);
}

#[test]
fn the_tsc_deadline_is_in_the_guests_time() {
    let script = Script::new(vec![
        turn(|guest| write_msr(guest, SPURIOUS, 0x1ff)),
        turn(|guest| write_msr(guest, LVT_TIMER, 0x4_00ec)),
        // The guest's counter started at 0 when the machine's was 1000.
        turn(|guest| write_msr(guest, 0x6e0, 700)),
        turn(|guest| {
            assert_eq!(guest.deadline, 1_700);
            read_msr(guest, 0x6e0)
        }),
        turn(|guest| {
            assert_eq!(value(guest), 700);
            // In the past: at once.
            guest.now = 5_000;
            write_msr(guest, 0x6e0, 600)
        }),
        turn(|guest| {
            assert_eq!((guest.waiting, guest.deadline), (0xec, NEVER));
            off()(guest)
        }),
    ]);
    assert_eq!(play(script), Stop::PowerOff);
}

#[test]
fn hlt_ends_with_an_interrupt_that_the_guest_accepts() {
    let script = Script::new(vec![
        turn(|guest| write_msr(guest, SPURIOUS, 0x1ff)),
        turn(|guest| write_msr(guest, LVT_TIMER, 0xec)),
        turn(|guest| write_msr(guest, TIMER, 500)),
        turn(|guest| {
            guest.state.rflags = FLAG_IF;
            guest.exit(Exit::Halt, [0; 3])
        }),
        turn(|guest| {
            assert_past(guest, 0xc000_0006);
            assert_eq!((guest.now, guest.accept()), (2_000, 0xec));
            guest.exit(Exit::Halt, [0; 3])
        }),
        turn(|guest| {
            // The interrupt in service holds back others of its class and below.
            assert_eq!(guest.now, 2_000);
            off()(guest)
        }),
    ])
    .waits(&[Ran::Bits(2), Ran::Deadline]);
    let guest = script.guest();
    // The second HLT has nothing to end it.
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play(script))).is_err());
    assert_eq!(guest.borrow().deadline, NEVER);
}

#[test]
fn hlt_does_not_end_with_an_interrupt_that_the_guest_holds_back() {
    for (rflags, tpr) in [(0, 0), (FLAG_IF, 0xe)] {
        let script = Script::new(vec![
            turn(|guest| write_msr(guest, SPURIOUS, 0x1ff)),
            turn(|guest| write_msr(guest, SELF_IPI, 0xec)),
            turn(move |guest| {
                (guest.state.rflags, guest.tpr) = (rflags, tpr);
                guest.exit(Exit::Halt, [0; 3])
            }),
            off(),
        ]);
        let guest = script.guest();
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play(script))).is_err());
        assert_eq!(guest.borrow().waiting, 0xec);
    }
}

#[test]
fn registers_of_the_processor_need_an_exit_with_the_whole_state() {
    let script = Script::new(vec![
        turn(|guest| read_msr(guest, 0xc000_0080)),
        turn(|guest| {
            assert_eq!((guest.asked & WANT_ALL, guest.state.rip), (WANT_ALL, 0xc000_0000));
            // An interrupt got in between: this exit is another one's.
            guest.exit(Exit::Cpuid, [0; 3])
        }),
        turn(|guest| {
            guest.state.efer = 0xbad;
            read_msr(guest, 0xc000_0080)
        }),
        turn(|guest| {
            assert_eq!((guest.asked & WANT_ALL, guest.state.rip), (WANT_ALL, 0xc000_0002));
            guest.state.efer = 0x500;
            read_msr(guest, 0xc000_0080)
        }),
        turn(|guest| {
            assert_past(guest, 0xc000_0002);
            assert_eq!(value(guest), 0x500);
            write_msr(guest, 0xc000_0080, 0xd01)
        }),
        turn(|guest| {
            (guest.state.cr0, guest.state.efer) = (1 << 31, 0x500);
            write_msr(guest, 0xc000_0080, 0xd01)
        }),
        turn(|guest| {
            assert_past(guest, 0xc000_0004);
            assert_eq!((guest.asked & SET_CONTROL, guest.state.efer), (SET_CONTROL, 0xd01));
            off()(guest)
        }),
    ]);
    assert_eq!(play(script), Stop::PowerOff);
}

#[test]
fn xsetbv_sets_what_cpuid_announces() {
    for (value, good) in
        [(1u64, true), (3, true), (7, true), (5, false), (0, false), (1 << 32 | 1, false)]
    {
        let script = Script::new(vec![
            turn(move |guest| {
                guest.state.registers[RCX] = 0;
                guest.state.registers[RAX] = value & 0xffff_ffff;
                guest.state.registers[RDX] = value >> 32;
                guest.exit(Exit::Xsetbv, [0; 3])
            }),
            turn(move |guest| {
                if good {
                    assert_past(guest, 0xc000_0000);
                    assert_eq!((guest.asked & SET_XCR0, guest.state.xcr0), (SET_XCR0, value));
                } else {
                    assert_event(guest, 0xc000_0000, GP);
                    assert_eq!(guest.asked & SET_XCR0, 0);
                }
                off()(guest)
            }),
        ]);
        assert_eq!(play_with(VM_V3, script), Stop::PowerOff, "{value:#x}");
    }
}

#[test]
fn rare_exits_are_skipped_or_raise_their_exception() {
    let ud = EVENT_EXCEPTION | 6;
    let cases = [
        (Exit::Cache, 0, None),
        (Exit::Hypercall, 0, Some(ud)),
        (Exit::Forbidden, 6, Some(ud)),
        (Exit::Forbidden, 13, Some(GP)),
    ];
    for (exit, info, event) in cases {
        let script = Script::new(vec![
            turn(move |guest| guest.exit(exit, [info, 0, 0])),
            turn(move |guest| {
                match event {
                    Some(event) => assert_event(guest, 0xc000_0000, event),
                    None => assert_past(guest, 0xc000_0000),
                }
                off()(guest)
            }),
        ]);
        assert_eq!(play(script), Stop::PowerOff, "{exit:?}");
    }
}

#[test]
fn the_task_priority_is_the_processors_while_an_interrupt_waits() {
    let script = Script::new(vec![
        turn(|guest| write_msr(guest, SPURIOUS, 0x1ff)),
        turn(|guest| write_msr(guest, SELF_IPI, 0x61)),
        turn(|guest| {
            assert_eq!(guest.waiting, 0x61);
            guest.exit(Exit::TaskPriority, [0; 3])
        }),
        turn(|guest| {
            // Stepped without an interrupt, and not past it.
            assert_eq!((guest.asked & STEP, guest.waiting, guest.state.slots), (STEP, 0, [0; 2]));
            assert_eq!(guest.state.rip, 0xc000_0004);
            guest.tpr = 9;
            guest.state.rip += 4;
            guest.exit(Exit::Stepped, [0; 3])
        }),
        turn(|guest| {
            assert_eq!((guest.asked & STEP, guest.waiting), (0, 0x61));
            assert_eq!(guest.state.rip, 0xc000_0008);
            read_msr(guest, TPR)
        }),
        turn(|guest| {
            assert_eq!(value(guest), 0x90);
            write_msr(guest, TPR, 0x25)
        }),
        turn(|guest| {
            assert_eq!((guest.asked & SET_TPR, guest.tpr), (SET_TPR, 2));
            read_msr(guest, TPR)
        }),
        turn(|guest| {
            assert_eq!(value(guest), 0x25);
            off()(guest)
        }),
    ]);
    assert_eq!(play(script), Stop::PowerOff);
}

#[test]
fn a_second_nmi_waits_for_the_end_of_the_first() {
    // To the APIC with id 0, which is this one.
    const NMI: u64 = 4 << 8;
    let script = Script::new(vec![
        turn(|guest| write_msr(guest, ICR, NMI)),
        turn(|guest| {
            assert_eq!((guest.asked & SET_EVENT, guest.state.event), (SET_EVENT, EVENT_NMI));
            assert_eq!(guest.asked & SET_NMI_WINDOW, SET_NMI_WINDOW);
            write_msr(guest, ICR, NMI)
        }),
        turn(|guest| {
            assert_eq!(guest.asked & SET_EVENT, 0);
            guest.exit(Exit::Iret, [0; 3])
        }),
        turn(|guest| {
            assert_eq!(guest.asked & (STEP | SET_EVENT | SET_NMI_WINDOW), STEP);
            guest.exit(Exit::Stepped, [0; 3])
        }),
        turn(|guest| {
            assert_eq!((guest.asked & SET_EVENT, guest.state.event), (SET_EVENT, EVENT_NMI));
            off()(guest)
        }),
    ]);
    assert_eq!(play(script), Stop::PowerOff);
}

#[test]
fn an_nmi_does_not_take_the_place_of_another_event() {
    let script = Script::new(vec![
        turn(|guest| {
            let ran = write_msr(guest, ICR, 4 << 8);
            guest.state.flags = FLAG_EVENT;
            ran
        }),
        turn(|guest| {
            assert_eq!(guest.asked & SET_EVENT, 0);
            assert!(guest.deadline < guest.now + 1_000_000);
            guest.now = guest.deadline;
            guest.state.flags = 0;
            Ran::Deadline
        }),
        turn(|guest| {
            assert_eq!((guest.asked & SET_EVENT, guest.state.event), (SET_EVENT, EVENT_NMI));
            off()(guest)
        }),
    ]);
    assert_eq!(play(script), Stop::PowerOff);
}

#[test]
fn the_guest_can_move_its_time() {
    let script = Script::new(vec![
        turn(|guest| write_msr(guest, 0x3b, 50)),
        turn(|guest| {
            assert_eq!(guest.asked & SET_TSC, SET_TSC);
            assert_eq!(guest.state.tsc_offset, 950u64.wrapping_neg());
            guest.now = 3_000;
            write_msr(guest, 0x10, 10_000)
        }),
        turn(|guest| {
            assert_eq!(guest.state.tsc_offset, 7_000);
            read_msr(guest, 0x3b)
        }),
        turn(|guest| {
            assert_eq!(value(guest), 8_000);
            read_msr(guest, 0x10)
        }),
        turn(|guest| {
            assert_eq!(value(guest), 10_000);
            off()(guest)
        }),
    ]);
    assert_eq!(play(script), Stop::PowerOff);
}

#[test]
fn a_guest_ends_in_every_way_that_it_can() {
    let rip = 0xc000_0000;
    let ends: [(Turn, Stop); 7] = [
        (off(), Stop::PowerOff),
        (turn(|guest| port_out(guest, platform::RESET, 1, 6)), Stop::Reset),
        (turn(|guest| write_msr(guest, ICR, 5 << 8 | 1 << 14)), Stop::Reset),
        (turn(|guest| port_out(guest, platform::PANIC, 1, 3)), stopped(STOPPED_PANIC, 3, rip)),
        (turn(|guest| guest.exit(Exit::Shutdown, [0; 3])), stopped(STOPPED_TRIPLE_FAULT, 0, rip)),
        (
            turn(|guest| guest.exit(Exit::Invalid, [0xff, 0, 0])),
            stopped(STOPPED_INVALID, 0xff, rip),
        ),
        (
            turn(|guest| {
                guest.state.exit = 4711;
                Ran::Exit
            }),
            stopped(STOPPED_INVALID, 0, rip),
        ),
    ];
    for (end, expected) in ends {
        let stop = play(Script::new(vec![end]));
        match (stop, expected) {
            // An INIT is looked at before the next turn, so past the write.
            (Stop::Reset, Stop::Reset) => {}
            (stop, expected) => assert_eq!(stop, expected),
        }
    }
}

#[test]
fn values_that_end_nothing_end_nothing() {
    for (port, value) in [
        (platform::SLEEP_CONTROL, 0x14),
        (platform::SLEEP_CONTROL, 0x34 & 0x20),
        (platform::RESET, 2),
        (platform::SLEEP_STATUS, 0x80),
    ] {
        let script = Script::new(vec![
            turn(move |guest| port_out(guest, port, 1, value)),
            turn(|guest| guest.exit(Exit::Shutdown, [0; 3])),
        ]);
        assert_eq!(play(script), stopped(STOPPED_TRIPLE_FAULT, 0, 0xc000_0002));
    }
}

#[test]
fn the_8259a_interrupts_through_lint0() {
    // Both controllers set up with vectors 0x20 and 0x28, all masked but the timer; LINT0 as the
    // external interrupt; counter 0 as a one-shot of 1193 ticks, a millisecond.
    let mut turns = vec![
        turn(|guest| write_msr(guest, SPURIOUS, 0x1ff)),
        turn(|guest| write_msr(guest, 0x835, 0x700)),
    ];
    for (port, value) in [
        (0x20, 0x11),
        (0x21, 0x20),
        (0x21, 4),
        (0x21, 1),
        (0x21, 0xfe),
        (0x43, 0x30),
        (0x40, 0xa9),
        (0x40, 0x04),
    ] {
        turns.push(turn(move |guest| port_out(guest, port, 1, value)));
    }
    turns.push(turn(|guest| {
        assert!((900_000..1_100_000).contains(&guest.deadline), "{}", guest.deadline);
        guest.now = guest.deadline;
        Ran::Deadline
    }));
    turns.push(turn(|guest| {
        assert_eq!(guest.accept(), 0x20);
        port_out(guest, 0x20, 1, 0x0b)
    }));
    turns.push(turn(|guest| port_in(guest, 0x20, 1)));
    turns.push(turn(|guest| {
        // In service at the controller, and not at the local APIC.
        assert_eq!(guest.state.registers[RAX] & 0xff, 1);
        port_out(guest, 0x20, 1, 0x20)
    }));
    turns.push(turn(|guest| {
        assert_eq!(guest.waiting, 0);
        off()(guest)
    }));
    assert_eq!(play_with(VM_LEGACY, Script::new(turns)), Stop::PowerOff);
}
