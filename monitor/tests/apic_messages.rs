//! Messages between local APICs against Intel SDM volume 3, "Issuing Interprocessor Interrupts" and
//! "Determining IPI Destination".

use cloister_monitor::apic::{Destination, Effect, Gp, Kind, LocalApic, Message, Route};

const HZ: u64 = 1_000_000_000;
const SVR: u32 = 0x80f;
const ICR: u32 = 0x830;

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

fn ipi(destination: Destination, kind: Kind) -> Result<Effect, Gp> {
    Ok(Effect::Ipi(Message { destination, kind, is_level: false }))
}

#[test]
fn the_command_register_sends_what_it_says() {
    let other = 4u64 << 32;
    let physical = Destination::Physical(4);
    for (value, expected) in [
        (other | 0x0fb, ipi(physical, Kind::Fixed(0xfb))),
        (other | 0x8fb, ipi(Destination::Logical(4), Kind::Fixed(0xfb))),
        (other | 0x1fb, ipi(physical, Kind::LowestPriority(0xfb))),
        (other | 0x2fb, ipi(physical, Kind::Smi)),
        (other | 0x400, ipi(physical, Kind::Nmi)),
        (other | 0x500, ipi(physical, Kind::Init)),
        (other | 0xc500, ipi(physical, Kind::Init)),
        (other | 0x8500, Ok(Effect::None)),
        (other | 0x699, ipi(physical, Kind::Startup(0x99))),
        // A start-up page may be below 16, a vector not.
        (other | 0x608, ipi(physical, Kind::Startup(8))),
        (other | 0x00f, Ok(Effect::None)),
        (other | 0x10f, Ok(Effect::None)),
        // Remote read and external interrupts are not sent.
        (other | 0x3fb, Ok(Effect::None)),
        (other | 0x7fb, Ok(Effect::None)),
        (0xffff_ffff << 32 | 0xfb, ipi(Destination::All, Kind::Fixed(0xfb))),
        (0xff << 32 | 0xfb, ipi(Destination::Physical(0xff), Kind::Fixed(0xfb))),
        (2 << 18 | 0xfb, ipi(Destination::All, Kind::Fixed(0xfb))),
        (3 << 18 | 0x4fb, ipi(Destination::Others, Kind::Nmi)),
        (3 << 18 | 0xc500, ipi(Destination::Others, Kind::Init)),
        // Only fixed interrupts include the sender.
        (2 << 18 | 0x400, Ok(Effect::None)),
        (1 << 18 | 0x400, Ok(Effect::None)),
        (1 << 18 | 0x500, Ok(Effect::None)),
    ] {
        let mut apic = x2apic(0);
        assert_eq!(apic.write_msr(ICR, value, 0), expected, "{value:#x}");
        assert_eq!(read(&mut apic, ICR), value);
        assert_eq!(apic.highest(), None);
        apic.write_msr(0x828, 0, 0).unwrap();
        let sent_illegal = if value & 0xff == 0xf { 1 << 5 } else { 0 };
        assert_eq!(read(&mut apic, 0x828), sent_illegal, "{value:#x}");
    }
}

#[test]
fn three_ways_to_interrupt_oneself() {
    for (msr, value) in [(0x83f, 0xc3), (ICR, 1 << 18 | 0xc3), (ICR, 6 << 32 | 0xc3)] {
        let mut apic = x2apic(6);
        assert_eq!(apic.write_msr(msr, value, 0), Ok(Effect::None));
        assert_eq!(apic.highest(), Some(0xc3));
        apic.taken(0xc3);
        assert_eq!(apic.write_msr(0x80b, 0, 0), Ok(Effect::None));
        assert_eq!(apic.write_msr(msr, value & !0xff | 9, 0), Ok(Effect::None));
        apic.write_msr(0x828, 0, 0).unwrap();
        assert_eq!((read(&mut apic, 0x828), apic.highest()), (0x60, None), "{value:#x}");
    }
}

#[test]
fn the_page_sends_with_eight_bits_of_destination() {
    let mut apic = xapic(0);
    apic.write_mmio(0x310, 0x0500_0000, 0);
    let sent = apic.write_mmio(0x300, 0xfc, 0);
    assert_eq!(Ok(sent), ipi(Destination::Physical(5), Kind::Fixed(0xfc)));
    assert_eq!((apic.read_mmio(0x300, 0), apic.read_mmio(0x310, 0)), (0xfc, 0x0500_0000));
    let sent = apic.write_mmio(0x300, 0xfff3_38fd, 0);
    assert_eq!(Ok(sent), ipi(Destination::Logical(5), Kind::Fixed(0xfd)));
    assert_eq!(apic.read_mmio(0x300, 0), 0x8fd, "reserved bits and delivery status are 0");
    for logical in [0, 0x800] {
        apic.write_mmio(0x310, u32::MAX, 0);
        let sent = apic.write_mmio(0x300, 0x4000 | logical | 0xfe, 0);
        assert_eq!(Ok(sent), ipi(Destination::All, Kind::Fixed(0xfe)));
    }
}

#[test]
fn destinations_of_the_xapic() {
    let matches = |ldr: u32, dfr: u32, set: u32| {
        let mut apic = xapic(1);
        apic.write_mmio(0xd0, ldr << 24, 0);
        apic.write_mmio(0xe0, dfr, 0);
        apic.route().matches(Destination::Logical(set))
    };
    for ldr in 0..=0xff {
        for set in 0..0xff {
            assert_eq!(matches(ldr, u32::MAX, set), ldr & set != 0, "flat {ldr:#x} {set:#x}");
            let expected = ldr >> 4 == set >> 4 && ldr & set & 0xf != 0;
            assert_eq!(matches(ldr, 0, set), expected, "cluster {ldr:#x} {set:#x}");
        }
    }
    let apic = xapic(1);
    for id in 0..0xff {
        assert_eq!(apic.route().matches(Destination::Physical(id)), id == 1);
    }
    assert!(apic.route().matches(Destination::All) && apic.route().matches(Destination::Others));
}

#[test]
fn destinations_of_the_x2apic() {
    for id in 0..=0xff {
        let apic = x2apic(id);
        for bit in 0..16 {
            for cluster in [0, u32::from(id >> 4), 7, 0xffff] {
                let mine = cluster == u32::from(id >> 4) && bit == u32::from(id & 15);
                let set = cluster << 16 | 1 << bit;
                assert_eq!(apic.route().matches(Destination::Logical(set)), mine, "{id} {set:#x}");
            }
        }
        assert!(!apic.route().matches(Destination::Physical(0x100 | u32::from(id))));
    }
    // Eight vCPUs are the members of cluster 0, so that devices' eight bits reach them.
    let reached = |set| (0..8).filter(|&id| x2apic(id).route().matches(set)).collect::<Vec<_>>();
    assert_eq!(reached(Destination::from_byte(0b1010_0100, true)), [2, 5, 7]);
    assert_eq!(reached(Destination::from_byte(0xff, false)), Vec::from_iter(0..8));
    assert_eq!(Destination::from_word(u32::MAX, false), Destination::All);
    assert_eq!(Destination::from_word(0xff, true), Destination::Logical(0xff));
}

#[test]
fn a_route_survives_its_word_and_off_matches_nothing() {
    let routes = [Route::OFF, Route::x2apic(7), Route::xapic(3, 0x0800_0000, u32::MAX)];
    for route in routes {
        assert_eq!(Route::from_word(route.to_word()), route);
    }
    for destination in [Destination::All, Destination::Others, Destination::Physical(0)] {
        assert!(!Route::OFF.matches(destination));
    }
}

#[test]
fn delivery_modes_of_devices() {
    let kinds: Vec<_> = (0..9).map(|mode| Kind::from_mode(mode, 0x77)).collect();
    let fixed = Some(Kind::Fixed(0x77));
    let lowest = Some(Kind::LowestPriority(0x77));
    let [smi, nmi, init, ext] = [Kind::Smi, Kind::Nmi, Kind::Init, Kind::ExtInt].map(Some);
    assert_eq!(kinds, [fixed, lowest, smi, None, nmi, init, None, ext, fixed]);
}
