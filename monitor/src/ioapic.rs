//! The I/O APIC: 24 pins and a redirection entry for each (82093AA data sheet, "Register
//! Description").
//!
//! [`IoApic`] belongs to thread 0. Devices set its pins, the guest writes its two-register window,
//! local APICs tell it of ends of interrupts; each of these may leave messages, which the caller
//! takes with [`IoApic::next_message`] until there is none. Neighbour: `apic::route`, whose
//! [`Message`] it makes. The polarity bit is stored and changes nothing: a pin is active or not.
//!
//! Invariant: a level-triggered pin has at most one message that has not been ended, and while its
//! line stays active and unmasked the end of one makes the next.

use crate::apic::{Destination, Kind, Message};
use crate::num::{high32, low8, low32};

/// Pins.
pub const PINS: usize = 24;

/// Offset of the index register in the page.
const INDEX: u32 = 0x00;
/// Offset of the data window.
const WINDOW: u32 = 0x10;

/// Entry: logical destination.
const LOGICAL: u64 = 1 << 11;
/// Entry: a level-triggered interrupt has not been ended.
const REMOTE_IRR: u64 = 1 << 14;
/// Entry: level-triggered.
const LEVEL: u64 = 1 << 15;
/// Entry: masked.
const MASKED: u64 = 1 << 16;
/// The bits of an entry's low half that software writes: vector, mode, destination mode, polarity,
/// trigger, mask.
const WRITABLE: u32 = 0x0001_afff;

/// The I/O APIC of a virtual machine.
#[derive(Clone, Debug)]
pub struct IoApic {
    id: u32,
    index: u8,
    entries: [u64; PINS],
    /// Which pins are active.
    lines: u32,
    /// Which pins have a message to send.
    pending: u32,
}

impl IoApic {
    /// As after power-up: every pin masked.
    #[expect(clippy::new_without_default, reason = "nobody needs one by default")]
    pub fn new() -> IoApic {
        IoApic { id: 0, index: 0, entries: [MASKED; PINS], lines: 0, pending: 0 }
    }

    /// Reads 32 bits of the page.
    pub fn read(&self, offset: u32) -> u32 {
        match (offset, self.index) {
            (INDEX, index) => u32::from(index),
            (WINDOW, 0 | 2) => self.id,
            // The version and the number of the last entry.
            (WINDOW, 1) => 23 << 16 | 0x11,
            (WINDOW, index) => {
                let entry = pin_of(index).and_then(|pin| self.entries.get(pin)).copied();
                entry.map_or(0, |entry| if index & 1 == 0 { low32(entry) } else { high32(entry) })
            }
            _ => 0,
        }
    }

    /// Writes 32 bits of the page.
    pub fn write(&mut self, offset: u32, value: u32) {
        match (offset, self.index) {
            (INDEX, _) => self.index = low8(u64::from(value)),
            (WINDOW, 0) => self.id = value & 0x0f00_0000,
            (WINDOW, index) => self.write_entry(index, value),
            _ => {}
        }
    }

    /// A device drives a pin. Pins that are not there are ignored.
    pub fn set_line(&mut self, pin: u8, is_active: bool) {
        let bit = 1u32.unbounded_shl(u32::from(pin));
        let Some(entry) = self.entries.get(usize::from(pin)).copied() else { return };
        // Edges at a masked pin are lost ("Interrupt Mask").
        if is_active && self.lines & bit == 0 && entry & MASKED == 0 && !is_level(entry) {
            self.pending |= bit;
        }
        self.lines = if is_active { self.lines | bit } else { self.lines & !bit };
        self.look_at_levels();
    }

    /// A local APIC has ended a level-triggered interrupt with this vector.
    pub fn eoi(&mut self, vector: u8) {
        for entry in self.entries.iter_mut().filter(|entry| low8(**entry) == vector) {
            *entry &= !REMOTE_IRR;
        }
        self.look_at_levels();
    }

    /// Takes a message to be delivered.
    pub fn next_message(&mut self) -> Option<Message> {
        while self.pending != 0 {
            let pin = self.pending.trailing_zeros();
            self.pending &= self.pending.wrapping_sub(1);
            let entry = self.entries.get_mut(crate::num::index(u64::from(pin)))?;
            let Some(kind) = Kind::from_mode(low32(*entry >> 8), low8(*entry)) else { continue };
            let is_level = is_level(*entry);
            *entry |= if is_level { REMOTE_IRR } else { 0 };
            let destination = Destination::from_byte(low8(*entry >> 56), *entry & LOGICAL != 0);
            return Some(Message { destination, kind, is_level });
        }
        None
    }

    fn write_entry(&mut self, index: u8, value: u32) {
        let entry = pin_of(index).and_then(|pin| self.entries.get_mut(pin));
        let Some(entry) = entry else { return };
        if index & 1 == 1 {
            *entry = u64::from(low32(*entry)) | u64::from(value & 0xff00_0000) << 32;
            return;
        }
        *entry = *entry & !u64::from(WRITABLE) | u64::from(value & WRITABLE);
        if !is_level(*entry) {
            // Kernels rely on this to end an interrupt: without an EOI register they make the pin
            // edge-triggered for a moment.
            *entry &= !REMOTE_IRR;
        }
        self.look_at_levels();
    }

    /// Sends for each level-triggered pin that is active, unmasked and has nothing in service.
    fn look_at_levels(&mut self) {
        for (pin, entry) in (0..).zip(self.entries) {
            let bit = 1u32.unbounded_shl(pin);
            let wants = self.lines & bit != 0 && entry & (MASKED | REMOTE_IRR) == 0;
            if is_level(entry) {
                self.pending = if wants { self.pending | bit } else { self.pending & !bit };
            }
        }
    }
}

/// The pin that a register is half of the entry of: two for each, from 0x10 on.
fn pin_of(register: u8) -> Option<usize> {
    register.checked_sub(0x10).map(|register| usize::from(register >> 1))
}

/// Whether a pin works by level: only fixed and lowest-priority interrupts do, the others are
/// edges whatever the trigger bit says ("Delivery Mode").
fn is_level(entry: u64) -> bool {
    entry & LEVEL != 0 && entry >> 9 & 3 == 0
}
