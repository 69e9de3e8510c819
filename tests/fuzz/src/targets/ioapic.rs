//! The I/O APIC against a slow model of its pins (82093AA data sheet, "Register Description").
//!
//! Rules: the messages after each step are those of the model, in order of pins; entries read back
//! as they were written, without reserved bits; remote IRR is set from a level-triggered message to
//! its end.

use cloister_monitor::apic::Kind;
use cloister_monitor::ioapic::{IoApic, PINS};

use crate::{Input, mark};

const REMOTE_IRR: u64 = 1 << 14;
const MASKED: u64 = 1 << 16;
/// What is kept of a write: of the low half vector, mode, destination mode, polarity, trigger and
/// mask; of the high half the destination.
const KEPT: u64 = 0xff00_0000_0001_afff;

/// A pin as the data sheet describes it.
#[derive(Clone, Copy)]
struct Pin {
    entry: u64,
    is_active: bool,
}

impl Pin {
    /// A level-triggered entry; only fixed and lowest-priority interrupts can be.
    fn is_level(self) -> bool {
        self.entry & 1 << 15 != 0 && self.entry >> 9 & 3 == 0
    }

    /// The message that the pin sends now, if it does: `rises` for an edge just now.
    fn send(&mut self, rises: bool) -> Option<(Kind, bool)> {
        let is_level = self.is_level();
        let wants = if is_level { self.is_active && self.entry & REMOTE_IRR == 0 } else { rises };
        if !wants || self.entry & MASKED != 0 {
            return None;
        }
        let kind = Kind::from_mode((self.entry >> 8) as u32, self.entry as u8)?;
        self.entry |= if is_level { REMOTE_IRR } else { 0 };
        mark(if is_level { "level" } else { "edge" });
        Some((kind, is_level))
    }
}

/// Does what the bytes say.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut apic = IoApic::new();
    let mut pins = [Pin { entry: MASKED, is_active: false }; PINS];
    while !input.is_empty() {
        let rising = step(&mut apic, &mut pins, &mut input);
        let expected: Vec<_> = pins
            .iter_mut()
            .enumerate()
            .filter_map(|(number, pin)| pin.send(rising == Some(number)))
            .collect();
        let sent: Vec<_> = std::iter::from_fn(|| apic.next_message()).take(PINS + 1).collect();
        let kinds: Vec<_> = sent.iter().map(|message| (message.kind, message.is_level)).collect();
        assert_eq!(kinds, expected, "messages");
        for (number, pin) in (0u32..).zip(&pins) {
            let half = |apic: &mut IoApic, half| {
                apic.write(0, 0x10 + 2 * number + half);
                u64::from(apic.read(0x10))
            };
            let entry = half(&mut apic, 1) << 32 | half(&mut apic, 0);
            assert_eq!(entry, pin.entry, "entry {number}");
        }
    }
}

/// One step; the pin that rises, if one does.
fn step(apic: &mut IoApic, pins: &mut [Pin; PINS], input: &mut Input<'_>) -> Option<usize> {
    let kind = input.byte();
    // Few pins, so that the same one is hit again.
    let number = usize::from(if kind & 0x80 == 0 { kind >> 3 & 3 } else { input.byte() & 31 });
    match kind & 7 {
        0..3 => {
            let is_active = input.flag();
            apic.set_line(number as u8, is_active);
            let pin = pins.get_mut(number)?;
            let rises = is_active && !pin.is_active;
            pin.is_active = is_active;
            return rises.then_some(number);
        }
        3 | 4 => {
            let vector = if input.flag() { pins.get(number)?.entry as u8 } else { input.byte() };
            apic.eoi(vector);
            for pin in pins.iter_mut().filter(|pin| pin.entry as u8 == vector) {
                if pin.entry & REMOTE_IRR != 0 {
                    mark("ended");
                }
                pin.entry &= !REMOTE_IRR;
            }
        }
        5 => {
            // Off the two registers there is nothing.
            apic.write(0x20 + u32::from(input.byte() & 0xf0), input.word());
        }
        _ => {
            let (is_high, value) = (kind & 7 == 7, u64::from(entry_value(input)));
            apic.write(0, 0x10 + 2 * number as u32 + u32::from(is_high));
            apic.write(0x10, value as u32);
            let pin = pins.get_mut(number)?;
            let (shift, other) = if is_high { (32, 0xffff_ffff) } else { (0, !0xffff_ffff) };
            let read_only = if is_high { 0 } else { REMOTE_IRR };
            pin.entry = pin.entry & (other | read_only) | value << shift & KEPT;
            if !pin.is_level() {
                pin.entry &= !REMOTE_IRR;
            }
        }
    }
    None
}

/// An entry's half, mostly one that is not masked.
fn entry_value(input: &mut Input<'_>) -> u32 {
    let value = input.value() as u32;
    if input.byte() & 3 == 0 { value } else { value & !(MASKED as u32) }
}
