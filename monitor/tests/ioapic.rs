//! The I/O APIC against the 82093AA data sheet, "Register Description".

use cloister_monitor::apic::{Destination, Kind, Message};
use cloister_monitor::ioapic::{IoApic, PINS};
use proptest::prelude::*;

const MASKED: u32 = 1 << 16;
const LEVEL: u32 = 1 << 15;
const REMOTE_IRR: u32 = 1 << 14;

fn read(apic: &mut IoApic, register: u32) -> u32 {
    apic.write(0, register);
    apic.read(0x10)
}

fn write(apic: &mut IoApic, register: u32, value: u32) {
    apic.write(0, register);
    apic.write(0x10, value);
}

fn set_pin(apic: &mut IoApic, pin: u8, low: u32, destination: u32) {
    write(apic, 0x11 + 2 * u32::from(pin), destination << 24);
    write(apic, 0x10 + 2 * u32::from(pin), low);
}

fn messages(apic: &mut IoApic) -> Vec<Message> {
    std::iter::from_fn(|| apic.next_message()).take(PINS + 1).collect()
}

fn fixed(id: u32, vector: u8, is_level: bool) -> Message {
    let destination = Destination::Physical(id);
    Message { destination, kind: Kind::Fixed(vector), is_level }
}

#[test]
fn identity_and_reset_values() {
    let mut apic = IoApic::new();
    assert_eq!((read(&mut apic, 0), read(&mut apic, 1), read(&mut apic, 2)), (0, 0x17_0011, 0));
    for register in (0x10..0x40).step_by(2) {
        assert_eq!(read(&mut apic, register), MASKED);
        assert_eq!(read(&mut apic, register + 1), 0);
    }
    for register in (3..0x10).chain(0x40..0x100) {
        write(&mut apic, register, u32::MAX);
        assert_eq!(read(&mut apic, register), 0, "{register:#x}");
    }
    write(&mut apic, 0, u32::MAX);
    write(&mut apic, 1, u32::MAX);
    assert_eq!(read(&mut apic, 1), 0x17_0011);
    // The arbitration register follows the id.
    assert_eq!((read(&mut apic, 0), read(&mut apic, 2)), (0x0f00_0000, 0x0f00_0000));
    apic.write(0, 0xffff_ff01);
    assert_eq!(apic.read(0), 1);
    for offset in [4, 8, 0x14, 0x40, 0x1000] {
        apic.write(offset, u32::MAX);
        assert_eq!(apic.read(offset), 0);
    }
}

#[test]
fn entries_keep_their_writable_bits() {
    let mut apic = IoApic::new();
    for register in (0x10..0x40).step_by(2) {
        write(&mut apic, register, u32::MAX);
        write(&mut apic, register + 1, u32::MAX);
        assert_eq!(read(&mut apic, register), 0x1_afff);
        assert_eq!(read(&mut apic, register + 1), 0xff00_0000);
    }
}

#[test]
fn edges_send_once_each_and_are_lost_while_masked() {
    let mut apic = IoApic::new();
    set_pin(&mut apic, 4, MASKED | 0x34, 2);
    apic.set_line(4, true);
    set_pin(&mut apic, 4, 0x34, 2);
    assert_eq!(messages(&mut apic), [], "an edge at a masked pin is lost");
    apic.set_line(4, true);
    assert_eq!(messages(&mut apic), [], "no edge");
    apic.set_line(4, false);
    apic.set_line(4, true);
    assert_eq!(messages(&mut apic), [fixed(2, 0x34, false)]);
    apic.set_line(4, false);
    apic.set_line(4, true);
    assert_eq!(messages(&mut apic), [fixed(2, 0x34, false)], "edges need no end");
    assert_eq!(read(&mut apic, 0x18), 0x34);
}

#[test]
fn a_level_sends_again_after_its_end_while_it_is_active() {
    let mut apic = IoApic::new();
    set_pin(&mut apic, 9, LEVEL | 0x59, 0);
    apic.set_line(9, true);
    assert_eq!(messages(&mut apic), [fixed(0, 0x59, true)]);
    assert_eq!(read(&mut apic, 0x22), LEVEL | REMOTE_IRR | 0x59);
    apic.set_line(9, true);
    apic.set_line(9, false);
    apic.set_line(9, true);
    assert_eq!(messages(&mut apic), [], "one that has not ended is enough");
    apic.eoi(0x58);
    assert_eq!(messages(&mut apic), [], "another vector's end");
    apic.eoi(0x59);
    assert_eq!(messages(&mut apic), [fixed(0, 0x59, true)]);
    apic.set_line(9, false);
    apic.eoi(0x59);
    assert_eq!((messages(&mut apic), read(&mut apic, 0x22)), (vec![], LEVEL | 0x59));
}

#[test]
fn unmasking_an_active_level_sends() {
    let mut apic = IoApic::new();
    set_pin(&mut apic, 23, LEVEL | MASKED | 0x61, 1);
    apic.set_line(23, true);
    assert_eq!(messages(&mut apic), []);
    set_pin(&mut apic, 23, LEVEL | 0x61, 1);
    assert_eq!(messages(&mut apic), [fixed(1, 0x61, true)]);
    // Masked between the end and the next look: nothing.
    set_pin(&mut apic, 23, LEVEL | MASKED | 0x61, 1);
    apic.eoi(0x61);
    assert_eq!(messages(&mut apic), []);
}

#[test]
fn making_a_pin_an_edge_ends_its_interrupt() {
    let mut apic = IoApic::new();
    set_pin(&mut apic, 5, LEVEL | 0x71, 0);
    apic.set_line(5, true);
    assert_eq!(messages(&mut apic).len(), 1);
    set_pin(&mut apic, 5, MASKED | 0x71, 0);
    assert_eq!(read(&mut apic, 0x1a), MASKED | 0x71);
    set_pin(&mut apic, 5, LEVEL | 0x71, 0);
    assert_eq!(messages(&mut apic), [fixed(0, 0x71, true)]);
}

#[test]
fn a_line_that_falls_before_the_message_is_taken_withdraws_it() {
    let mut apic = IoApic::new();
    set_pin(&mut apic, 5, LEVEL | 0x71, 0);
    apic.set_line(5, true);
    apic.set_line(5, false);
    assert_eq!(messages(&mut apic), []);
}

#[test]
fn delivery_modes_and_destinations() {
    let send = |low: u32, destination: u32| {
        let mut apic = IoApic::new();
        set_pin(&mut apic, 2, low, destination);
        apic.set_line(2, true);
        let sent = messages(&mut apic);
        assert!(sent.len() < 2);
        sent.first().copied()
    };
    let message = |destination, kind, is_level| Some(Message { destination, kind, is_level });
    let physical = Destination::Physical(3);
    let logical = Destination::Logical(3);
    assert_eq!(send(0x841, 3), message(logical, Kind::Fixed(0x41), false));
    let lowest = Kind::LowestPriority(0x41);
    assert_eq!(send(LEVEL | 0x941, 3), message(logical, lowest, true));
    assert_eq!(send(0x041, 0xff), message(Destination::All, Kind::Fixed(0x41), false));
    assert_eq!(send(0x841, 0xff), message(Destination::All, Kind::Fixed(0x41), false));
    // These are edges whatever the trigger bit says, and need no end.
    assert_eq!(send(LEVEL | 0x241, 3), message(physical, Kind::Smi, false));
    assert_eq!(send(LEVEL | 0x441, 3), message(physical, Kind::Nmi, false));
    assert_eq!(send(LEVEL | 0x541, 3), message(physical, Kind::Init, false));
    assert_eq!(send(LEVEL | 0x741, 3), message(physical, Kind::ExtInt, false));
    assert_eq!((send(0x341, 3), send(0x641, 3)), (None, None));
}

#[test]
fn one_end_reaches_every_pin_with_its_vector() {
    let mut apic = IoApic::new();
    for pin in [1, 12] {
        set_pin(&mut apic, pin, LEVEL | 0x80, 0);
        apic.set_line(pin, true);
    }
    assert_eq!(messages(&mut apic).len(), 2);
    apic.eoi(0x80);
    assert_eq!(messages(&mut apic).len(), 2);
}

#[test]
fn pins_that_are_not_there_do_nothing() {
    let mut apic = IoApic::new();
    for pin in 0..24 {
        set_pin(&mut apic, pin, LEVEL | 0x90, 0);
    }
    for pin in 24..=255 {
        apic.set_line(pin, true);
        assert_eq!(messages(&mut apic), [], "{pin}");
    }
}

/// One pin as the data sheet describes it.
#[derive(Clone, Copy)]
struct SlowPin {
    low: u32,
    is_active: bool,
    in_flight: bool,
    sent: u32,
}

impl SlowPin {
    fn is_level(&self) -> bool {
        self.low & LEVEL != 0
    }

    fn look(&mut self) {
        if self.is_level() && self.is_active && self.low & MASKED == 0 && !self.in_flight {
            self.in_flight = true;
            self.sent += 1;
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Line(u8, bool),
    Entry(u8, bool, bool),
    End(u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0..24u8, any::<bool>()).prop_map(|(pin, line)| Op::Line(pin, line)),
        1 => (0..24u8, any::<bool>(), any::<bool>())
            .prop_map(|(pin, level, masked)| Op::Entry(pin, level, masked)),
        2 => (0..24u8).prop_map(Op::End),
    ]
}

proptest! {
    #[test]
    fn pins_send_what_the_slow_model_sends(ops in prop::collection::vec(op(), 1..300)) {
        let mut apic = IoApic::new();
        let reset = SlowPin { low: MASKED, is_active: false, in_flight: false, sent: 0 };
        let mut slow = [reset; PINS];
        let mut sent = [0; PINS];
        for op in ops {
            match op {
                Op::Line(pin, is_active) => {
                    apic.set_line(pin, is_active);
                    let slow = &mut slow[usize::from(pin)];
                    let rises = is_active && !slow.is_active;
                    slow.is_active = is_active;
                    if rises && !slow.is_level() && slow.low & MASKED == 0 {
                        slow.sent += 1;
                    }
                    slow.look();
                }
                Op::Entry(pin, level, masked) => {
                    let low = if level { LEVEL } else { 0 } | if masked { MASKED } else { 0 };
                    set_pin(&mut apic, pin, low | (0x40 + u32::from(pin)), 0);
                    let slow = &mut slow[usize::from(pin)];
                    slow.low = low;
                    slow.in_flight &= level;
                    slow.look();
                }
                Op::End(pin) => {
                    apic.eoi(0x40 + pin);
                    let slow = &mut slow[usize::from(pin)];
                    slow.in_flight = false;
                    slow.look();
                }
            }
            for message in messages(&mut apic) {
                let Kind::Fixed(vector) = message.kind else { panic!("{message:?}") };
                let pin = usize::from(vector) - 0x40;
                sent[pin] += 1;
                prop_assert_eq!(message.is_level, slow[pin].is_level());
            }
            for pin in 0..PINS {
                prop_assert_eq!(sent[pin], slow[pin].sent, "pin {}", pin);
                let shown = read(&mut apic, 0x10 + 2 * pin as u32) & REMOTE_IRR != 0;
                prop_assert_eq!(shown, slow[pin].in_flight);
            }
        }
    }
}
