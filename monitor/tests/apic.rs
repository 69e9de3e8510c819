//! The local APIC against Intel SDM volume 3, "Advanced Programmable Interrupt Controller (APIC)":
//! modes, registers, reserved bits, priorities against a slow model.

use std::collections::BTreeSet;

use cloister_monitor::apic::{BASE, Destination, Effect, Gp, LocalApic, Mode};
use proptest::prelude::*;

const HZ: u64 = 1_000_000_000;
const ON: u64 = 1 << 11;
const X2: u64 = 1 << 10;
const BOOT: u64 = 1 << 8;
const SVR: u32 = 0x80f;

/// An x2APIC that software has enabled.
fn x2apic(id: u8) -> LocalApic {
    let mut apic = LocalApic::new(id, id == 0, true, HZ);
    assert_eq!(apic.write_msr(SVR, 0x1ff, 0), Ok(Effect::None));
    apic
}

/// An xAPIC that software has enabled.
fn xapic(id: u8) -> LocalApic {
    let mut apic = LocalApic::new(id, id == 0, false, HZ);
    apic.write_mmio(0xf0, 0x1ff, 0);
    apic
}

fn read(apic: &mut LocalApic, msr: u32) -> u64 {
    apic.read_msr(msr, 0).unwrap()
}

#[test]
fn reset_values_are_those_of_the_manual() {
    let mut apic = LocalApic::new(3, false, true, HZ);
    let expected = [
        (0x802, 3),
        (0x803, 0x5_0014),
        (0x808, 0),
        (0x80a, 0),
        (0x80d, 1 << 3),
        (0x80f, 0xff),
        (0x828, 0),
        (0x830, 0),
        (0x838, 0),
        (0x839, 0),
        (0x83e, 0),
    ];
    for (msr, value) in expected {
        assert_eq!(read(&mut apic, msr), value, "{msr:#x}");
    }
    for msr in (0x810..0x828).chain(0x832..0x838) {
        let value = if msr >= 0x832 { 0x1_0000 } else { 0 };
        assert_eq!(read(&mut apic, msr), value, "{msr:#x}");
    }
    let mut apic = LocalApic::new(3, false, false, HZ);
    for (offset, value) in [(0x20, 3 << 24), (0xd0, 0), (0xe0, u32::MAX), (0x30, 0x5_0014)] {
        assert_eq!(apic.read_mmio(offset, 0), value, "{offset:#x}");
    }
}

#[test]
fn the_logical_id_of_an_x2apic_follows_from_its_id() {
    for id in [0u8, 1, 15, 16, 0x35, 0xff] {
        let expected = u64::from(id >> 4) << 16 | 1 << (id & 15);
        assert_eq!(read(&mut LocalApic::new(id, false, true, HZ), 0x80d), expected);
    }
}

#[test]
fn the_base_register_knows_the_legal_transitions() {
    assert_eq!(BASE, 0xfee0_0000);
    let at = |mode: Mode| {
        let mut apic = LocalApic::new(0, true, mode == Mode::X2Apic, HZ);
        if mode == Mode::Off {
            apic.write_base(BASE | BOOT).unwrap();
        }
        assert_eq!(apic.mode(), mode);
        apic
    };
    let bits = [(Mode::Off, 0), (Mode::XApic, ON), (Mode::X2Apic, ON | X2)];
    for (from, old) in bits {
        for (to, new) in bits {
            let is_legal = from == to
                || (from, to) == (Mode::XApic, Mode::X2Apic)
                || (from, to) == (Mode::Off, Mode::XApic)
                || to == Mode::Off;
            let mut apic = at(from);
            let result = apic.write_base(BASE | BOOT | new);
            assert_eq!(result, if is_legal { Ok(()) } else { Err(Gp) }, "{from:?} to {to:?}");
            assert_eq!(apic.mode(), if is_legal { to } else { from });
            assert_eq!(apic.read_base(), BASE | BOOT | if is_legal { new } else { old });
            assert_eq!(apic.is_enabled(), apic.mode() != Mode::Off);
        }
        // Extended without enabled is never legal.
        assert_eq!(at(from).write_base(BASE | BOOT | X2), Err(Gp), "{from:?}");
    }
}

#[test]
fn reserved_bits_of_the_base_register_fault_and_the_boot_bit_stays() {
    for bit in (0..64).filter(|bit| ![8, 10, 11].contains(bit)) {
        let mut apic = LocalApic::new(0, true, true, HZ);
        assert_eq!(apic.write_base((BASE | ON | X2 | BOOT) ^ 1 << bit), Err(Gp), "bit {bit}");
    }
    for is_boot in [true, false] {
        let mut apic = LocalApic::new(0, is_boot, false, HZ);
        for value in [BASE | ON, BASE | ON | BOOT] {
            assert_eq!(apic.write_base(value), Ok(()));
            assert_eq!(apic.read_base() & BOOT != 0, is_boot);
        }
    }
}

#[test]
fn switching_off_forgets_everything_but_the_id() {
    let mut apic = x2apic(5);
    apic.accept(0x40, false);
    apic.write_base(BASE).unwrap();
    assert_eq!((apic.highest(), apic.route().matches(Destination::All)), (None, false));
    apic.accept(0x40, false);
    apic.write_base(BASE | ON).unwrap();
    assert_eq!((apic.highest(), apic.read_mmio(0xf0, 0)), (None, 0xff));
    assert_eq!(apic.read_mmio(0x20, 0), 5 << 24);
}

#[test]
fn msrs_fault_unless_the_mode_is_x2apic_and_the_page_is_gone_in_it() {
    for mut apic in [xapic(0), {
        let mut off = xapic(0);
        off.write_base(BASE).unwrap();
        off
    }] {
        for msr in 0x800..0x900 {
            assert_eq!(apic.read_msr(msr, 0), Err(Gp), "{msr:#x}");
            assert_eq!(apic.write_msr(msr, 0, 0), Err(Gp), "{msr:#x}");
        }
    }
    let mut apic = x2apic(0);
    assert_eq!(apic.read_mmio(0x30, 0), u32::MAX);
    assert_eq!(apic.write_mmio(0x80, 0x50, 0), Effect::None);
    assert_eq!(read(&mut apic, 0x808), 0);
    for msr in [0, 0x7ff, 0x900, u32::MAX] {
        assert_eq!(apic.read_msr(msr, 0), Err(Gp));
        assert_eq!(apic.write_msr(msr, 0, 0), Err(Gp));
    }
}

#[test]
fn each_msr_is_readable_and_writable_as_the_manual_says() {
    let read_only: BTreeSet<u32> =
        [0x802, 0x803, 0x80a, 0x80d, 0x839].into_iter().chain(0x810..0x828).collect();
    let read_write: BTreeSet<u32> =
        [0x808, 0x80f, 0x828, 0x830, 0x838, 0x83e].into_iter().chain(0x832..0x838).collect();
    let write_only = BTreeSet::from([0x80b, 0x83f]);
    for msr in 0x800..0x900 {
        let mut apic = x2apic(0);
        let may_read = read_only.contains(&msr) || read_write.contains(&msr);
        let may_write = read_write.contains(&msr) || write_only.contains(&msr);
        assert_eq!(apic.read_msr(msr, 0).is_ok(), may_read, "read {msr:#x}");
        assert_eq!(apic.write_msr(msr, 0, 0).is_ok(), may_write, "write {msr:#x}");
    }
}

/// Bits that may be set in each register of an x2APIC, read-only ones included.
const SETTABLE: [(u32, u64); 14] = [
    (0x808, 0xff),
    (0x80b, 0),
    (0x80f, 0x3ff),
    (0x828, 0),
    (0x830, 0xffff_ffff_000c_cfff),
    (0x832, 0x7_10ff),
    (0x833, 0x1_17ff),
    (0x834, 0x1_17ff),
    (0x835, 0x1_f7ff),
    (0x836, 0x1_f7ff),
    (0x837, 0x1_10ff),
    (0x838, 0xffff_ffff),
    (0x83e, 0b1011),
    (0x83f, 0xff),
];

#[test]
fn every_reserved_bit_of_every_register_faults_and_no_other_does() {
    for (msr, settable) in SETTABLE {
        for bit in 0..64 {
            let mut apic = x2apic(0);
            let before = apic.read_msr(msr, 0);
            let result = apic.write_msr(msr, 1 << bit, 0);
            assert_eq!(result.is_ok(), settable & 1 << bit != 0, "{msr:#x} bit {bit}");
            if result.is_err() {
                assert_eq!(apic.read_msr(msr, 0), before, "{msr:#x} bit {bit}");
            }
        }
    }
}

#[test]
fn the_page_drops_reserved_and_read_only_bits() {
    let kept = [
        (0x80, 0xff),
        (0xd0, 0xff00_0000),
        (0xe0, u32::MAX),
        (0xf0, 0x3ff),
        (0x310, 0xff00_0000),
        (0x320, 0x7_00ff),
        (0x330, 0x1_07ff),
        (0x340, 0x1_07ff),
        (0x350, 0x1_a7ff),
        (0x360, 0x1_a7ff),
        (0x370, 0x1_00ff),
        (0x3e0, 0b1011),
    ];
    for (offset, bits) in kept {
        let mut apic = xapic(0);
        assert_eq!(apic.write_mmio(offset, u32::MAX, 0), Effect::None);
        assert_eq!(apic.read_mmio(offset, 0), bits, "{offset:#x}");
    }
    let mut apic = xapic(2);
    apic.write_mmio(0xe0, 0, 0);
    assert_eq!(apic.read_mmio(0xe0, 0), 0x0fff_ffff);
    apic.write_mmio(0x20, 0, 0);
    apic.write_mmio(0x30, 0, 0);
    assert_eq!((apic.read_mmio(0x20, 0), apic.read_mmio(0x30, 0)), (2 << 24, 0x5_0014));
}

#[test]
fn a_register_that_is_not_there_is_an_error_of_the_page() {
    let mut apic = xapic(0);
    for offset in [0x00, 0x10, 0x40, 0x70, 0x290, 0x2f0, 0x3a0, 0x3f0, 0x400, 0xff0] {
        assert_eq!(apic.read_mmio(offset, 0), 0);
        apic.write_mmio(0x280, 0, 0);
        assert_eq!(apic.read_mmio(0x280, 0), 1 << 7, "read {offset:#x}");
        apic.write_mmio(offset, 1, 0);
        apic.write_mmio(0x280, 0, 0);
        assert_eq!(apic.read_mmio(0x280, 0), 1 << 7, "write {offset:#x}");
        apic.write_mmio(0x280, 0, 0);
        assert_eq!(apic.read_mmio(0x280, 0), 0);
    }
    // Between the registers there is nothing, not even an error.
    for offset in [0x24, 0x3e4, 0x1000, u32::MAX] {
        assert_eq!(apic.read_mmio(offset, 0), 0);
        assert_eq!(apic.write_mmio(offset, 1, 0), Effect::None);
    }
    apic.write_mmio(0x280, 0, 0);
    assert_eq!(apic.read_mmio(0x280, 0), 0);
}

#[test]
fn errors_are_shown_after_a_write_and_interrupt_once_until_then() {
    let mut apic = x2apic(0);
    apic.write_msr(0x837, 0xfe, 0).unwrap();
    apic.accept(15, false);
    assert_eq!((read(&mut apic, 0x828), apic.highest()), (0, Some(0xfe)));
    apic.taken(0xfe);
    apic.eoi();
    apic.accept(0, false);
    apic.write_msr(0x83f, 3, 0).unwrap();
    assert_eq!(apic.highest(), None, "armed again only by a write");
    apic.write_msr(0x828, 0, 0).unwrap();
    assert_eq!(read(&mut apic, 0x828), 1 << 6 | 1 << 5);
    apic.accept(7, true);
    assert_eq!((read(&mut apic, 0x828), apic.highest()), (0x60, Some(0xfe)));
}

#[test]
fn an_illegal_vector_of_the_error_entry_itself_does_no_harm() {
    let mut apic = x2apic(0);
    apic.write_msr(0x837, 4, 0).unwrap();
    apic.accept(1, false);
    apic.write_msr(0x828, 0, 0).unwrap();
    assert_eq!((read(&mut apic, 0x828), apic.highest()), (1 << 6, None));
}

#[test]
fn a_disabled_apic_takes_no_interrupt_and_keeps_its_entries_masked() {
    let mut apic = x2apic(0);
    apic.write_msr(0x835, 0x700, 0).unwrap();
    apic.accept(0x60, false);
    apic.taken(0x60);
    apic.accept(0x70, false);
    assert!(apic.accepts_external());
    apic.write_msr(SVR, 0xff, 0).unwrap();
    assert!(!apic.accepts_external());
    apic.accept(0x80, false);
    assert_eq!(apic.highest(), Some(0x70), "what was requested is held");
    for msr in 0x832..0x838 {
        apic.write_msr(msr, 0x40, 0).unwrap();
        assert_eq!(read(&mut apic, msr), 0x1_0040, "{msr:#x}");
    }
    apic.write_msr(SVR, 0x1ff, 0).unwrap();
    assert_eq!(read(&mut apic, 0x832), 0x1_0040, "enabling unmasks nothing");
    apic.write_msr(0x832, 0x40, 0).unwrap();
    assert_eq!(read(&mut apic, 0x832), 0x40);
}

#[test]
fn init_keeps_id_and_mode_alone() {
    for is_x2 in [true, false] {
        let mut apic = LocalApic::new(6, true, is_x2, HZ);
        let fresh = format!("{apic:?}");
        apic.write_msr(SVR, 0x1ff, 0).ok();
        apic.write_mmio(0xf0, 0x1ff, 0);
        for register in [0x08u32, 0x32, 0x35, 0x38, 0x3e, 0x28, 0x0d] {
            apic.write_msr(0x800 + register, 3, 0).ok();
            apic.write_mmio(register << 4, 0x0300_0003, 0);
        }
        apic.accept(0x55, true);
        apic.taken(0x55);
        apic.accept(0x99, true);
        assert_ne!(format!("{apic:?}"), fresh);
        apic.init();
        assert_eq!((apic.highest(), apic.deadline(), apic.task_priority()), (None, None, 0));
        assert_eq!(apic.eoi(), Effect::None);
        let mode = if is_x2 { Mode::X2Apic } else { Mode::XApic };
        assert_eq!((apic.mode(), apic.read_base() & BOOT), (mode, BOOT));
        assert!(apic.route().matches(Destination::Physical(6)));
        for register in (0x08..0x40u32).filter(|register| ![9, 11, 12, 14].contains(register)) {
            let mut reset = LocalApic::new(6, true, is_x2, HZ);
            let (msr, offset) = (0x800 + register, register << 4);
            assert_eq!(apic.read_msr(msr, 9), reset.read_msr(msr, 9), "{register:#x}");
            assert_eq!(apic.read_mmio(offset, 9), reset.read_mmio(offset, 9), "{register:#x}");
        }
    }
}

#[test]
fn level_interrupts_tell_of_their_end_and_edges_do_not() {
    let mut apic = x2apic(0);
    for (vector, is_level) in [(0x31, true), (0x52, false), (0x73, true)] {
        apic.accept(vector, is_level);
        apic.taken(vector);
    }
    let ends: Vec<_> = (0..4).map(|_| apic.write_msr(0x80b, 0, 0).unwrap()).collect();
    assert_eq!(ends, [Effect::Eoi(0x73), Effect::None, Effect::Eoi(0x31), Effect::None]);
    // The same vector as an edge later.
    apic.accept(0x31, false);
    apic.taken(0x31);
    assert_eq!(apic.eoi(), Effect::None);
}

#[test]
fn the_path_of_the_8259() {
    assert!(!x2apic(0).accepts_external());
    for (entry, accepts) in [(0x700, true), (0x1_0700, false), (0x400, false), (0x031, false)] {
        let mut apic = x2apic(0);
        apic.write_msr(0x835, entry, 0).unwrap();
        assert_eq!(apic.accepts_external(), accepts, "{entry:#x}");
    }
    let mut apic = xapic(0);
    apic.write_base(BASE).unwrap();
    assert!(apic.accepts_external(), "past an APIC that is off");
    let mut apic = LocalApic::new(0, true, false, HZ);
    apic.virtual_wire();
    assert!(apic.accepts_external());
    assert_eq!([0xf0, 0x350, 0x360].map(|offset| apic.read_mmio(offset, 0)), [0x1ff, 0x700, 0x400]);
}

/// Priorities as the manual describes them, with sets and loops.
#[derive(Default)]
struct Slow {
    requested: BTreeSet<u8>,
    serviced: BTreeSet<u8>,
    level: BTreeSet<u8>,
    tpr: u8,
}

impl Slow {
    fn highest(&self) -> Option<u8> {
        let is_free = |vector: &&u8| self.serviced.iter().all(|busy| busy / 16 < **vector / 16);
        self.requested.iter().rev().find(is_free).copied()
    }

    fn ppr(&self) -> u64 {
        let class = self.serviced.last().map_or(0, |vector| vector / 16);
        u64::from(if self.tpr / 16 >= class { self.tpr } else { class * 16 })
    }

    fn registers(set: &BTreeSet<u8>) -> Vec<u64> {
        let bit = |n: u8| u64::from(set.contains(&n)) << (n % 32);
        (0..8).map(|r| (0..32).map(|n| bit(r * 32 + n)).sum()).collect()
    }
}

#[derive(Clone, Debug)]
enum Op {
    Accept(u8, bool),
    Take,
    End,
    Priority(u8),
    Cr8(u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (any::<u8>(), any::<bool>()).prop_map(|(vector, level)| Op::Accept(vector, level)),
        3 => Just(Op::Take),
        2 => Just(Op::End),
        1 => any::<u8>().prop_map(Op::Priority),
        1 => (0..16u8).prop_map(Op::Cr8),
    ]
}

proptest! {
    #[test]
    fn priorities_are_those_of_the_slow_model(ops in prop::collection::vec(op(), 1..200)) {
        let (mut apic, mut slow) = (x2apic(0), Slow::default());
        for op in ops {
            match op {
                Op::Accept(vector, level) => {
                    apic.accept(vector, level);
                    if vector >= 16 {
                        slow.requested.insert(vector);
                        if level { slow.level.insert(vector) } else { slow.level.remove(&vector) };
                    }
                }
                Op::Take => {
                    if let Some(vector) = slow.highest() {
                        apic.taken(vector);
                        slow.requested.remove(&vector);
                        slow.serviced.insert(vector);
                    }
                }
                Op::End => {
                    let ended = slow.serviced.pop_last().filter(|end| slow.level.contains(end));
                    prop_assert_eq!(apic.eoi(), ended.map_or(Effect::None, Effect::Eoi));
                }
                Op::Priority(value) => {
                    slow.tpr = value;
                    apic.write_msr(0x808, u64::from(value), 0).unwrap();
                }
                Op::Cr8(value) => {
                    slow.tpr = value << 4;
                    apic.set_task_priority(u32::from(value));
                }
            }
            prop_assert_eq!(apic.highest(), slow.highest());
            prop_assert_eq!(apic.task_priority(), u32::from(slow.tpr >> 4));
            prop_assert_eq!(read(&mut apic, 0x80a), slow.ppr());
            for (base, set) in
                [(0x810, &slow.serviced), (0x818, &slow.level), (0x820, &slow.requested)]
            {
                let registers: Vec<_> = (base..base + 8).map(|msr| read(&mut apic, msr)).collect();
                prop_assert_eq!(registers, Slow::registers(set));
            }
        }
    }
}
