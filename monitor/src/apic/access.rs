//! The guest's way to the local APIC: its MSRs, its page, and what the registers do when they are
//! written (Intel SDM volume 3, "Local APIC" and "Extended XAPIC (x2APIC)").
//!
//! Neighbours: `registers` for numbers and bits, `apic` for the state behind them, `timer` for what
//! counts, `route` for the messages of the command register.
//!
//! Invariant: a write that faults changes nothing, and no write stores a reserved bit.

use super::registers as reg;
use super::registers::LVT_MASKED;
use super::{Destination, Effect, Gp, Kind, LocalApic, Message, Mode, timer};
use crate::ensure;
use crate::num::{high32, low8, low32};

impl LocalApic {
    /// Reads an MSR of 0x800 to 0x8ff.
    pub fn read_msr(&mut self, msr: u32, now: u64) -> Result<u64, Gp> {
        let register = self.number(msr)?;
        match register {
            reg::LDR => Ok(u64::from(self.id >> 4 << 16 | 1u32 << (self.id & 15))),
            reg::ICR => Ok(self.command),
            reg::ICR_HIGH | reg::DFR => Err(Gp),
            _ => self.register(register, now).map(u64::from).ok_or(Gp),
        }
    }

    /// Writes an MSR of 0x800 to 0x8ff. What is reserved must be 0 (Intel SDM volume 3, "x2APIC
    /// Register Availability" and "Reserved Bit Checking").
    #[inline]
    pub fn write_msr(&mut self, msr: u32, value: u64, now: u64) -> Result<Effect, Gp> {
        let register = self.number(msr)?;
        if register == reg::ICR && value & reg::ICR_RESERVED == 0 {
            self.command = value;
            let is_logical = value & reg::ICR_LOGICAL != 0;
            return Ok(self.send(Destination::from_word(high32(value), is_logical)));
        }
        let settable = u64::from(reg::settable(register).ok_or(Gp)?);
        ensure(value & !settable == 0, Gp)?;
        Ok(self.set_register(register, low32(value), now))
    }

    /// The number of an MSR's register; others than registers' have numbers that no register has.
    fn number(&self, msr: u32) -> Result<u32, Gp> {
        ensure(self.mode() == Mode::X2Apic, Gp)?;
        Ok(msr.wrapping_sub(0x800))
    }

    /// Reads a register of the page. Off the registers, and when there is no page, it reads 0 and
    /// all ones.
    pub fn read_mmio(&mut self, offset: u32, now: u64) -> u32 {
        match offset >> 4 {
            _ if self.mode() != Mode::XApic => u32::MAX,
            _ if !is_register(offset) => 0,
            0x02 => self.id << 24,
            register => self.register(register, now).unwrap_or_else(|| self.missing()),
        }
    }

    /// Writes a register of the page, all 32 bits. Reserved bits are dropped.
    pub fn write_mmio(&mut self, offset: u32, value: u32, now: u64) -> Effect {
        let (low, high) = (low32(self.command), high32(self.command));
        match offset >> 4 {
            _ if self.mode() != Mode::XApic || !is_register(offset) => {}
            reg::ICR => {
                let is_logical = u64::from(value) & reg::ICR_LOGICAL != 0;
                self.command = u64::from(high) << 32 | u64::from(value) & !reg::ICR_RESERVED;
                return self.send(Destination::from_byte(low8(self.command >> 56), is_logical));
            }
            reg::ICR_HIGH => self.command = u64::from(value & 0xff00_0000) << 32 | u64::from(low),
            reg::LDR => self.logical = value & 0xff00_0000,
            reg::DFR => self.format = value | 0x0fff_ffff,
            register => match reg::settable(register).filter(|_| register != reg::SELF_IPI) {
                Some(settable) => return self.set_register(register, value & settable, now),
                None => _ = self.register(register, now).unwrap_or_else(|| self.missing()),
            },
        }
        Effect::None
    }

    /// A register that reads the same in both modes; `None` for what cannot be read.
    fn register(&mut self, register: u32, now: u64) -> Option<u32> {
        Some(match register {
            0x02 => self.id,
            // Version 0x14 with six entries in the local vector table; no suppression of EOI
            // messages.
            0x03 => 5 << 16 | 0x14,
            reg::TPR => self.tpr,
            reg::PPR => self.processor_priority(),
            reg::LDR => self.logical,
            reg::DFR => self.format,
            reg::SVR => self.spurious,
            0x10..0x18 => self.in_service.register(register & 7),
            0x18..0x20 => self.level.register(register & 7),
            0x20..0x28 => self.requested.register(register & 7),
            reg::ESR => self.shown,
            reg::ICR => low32(self.command),
            reg::ICR_HIGH => high32(self.command),
            reg::LVT_TIMER..=reg::LVT_ERROR => self.entry(reg::entry(register)),
            reg::TMICT => self.timer.initial,
            // An expiry that nobody looked at counts first.
            0x39 => {
                self.tick(now);
                self.timer.current(now)
            }
            reg::DIVIDE => self.timer.divide,
            _ => return None,
        })
    }

    /// Writes a register of [`reg::settable`]; `value` has no reserved bit.
    #[inline]
    fn set_register(&mut self, register: u32, value: u32, now: u64) -> Effect {
        match register {
            reg::EOI => return self.eoi(),
            reg::SELF_IPI => self.interrupt_self(low8(u64::from(value))),
            reg::TPR => self.tpr = value,
            reg::ESR => (self.shown, self.errors) = (self.errors, 0),
            reg::SVR => {
                self.tick(now);
                self.spurious = value;
                // This masks the entries of an APIC that is disabled now.
                for entry in 0..self.lvt.len() {
                    self.set_entry(entry, self.entry(entry));
                }
            }
            // In deadline mode the count cannot be written.
            reg::TMICT if self.timer_mode() >= timer::DEADLINE => {}
            reg::TMICT => {
                self.tick(now);
                self.timer.start(value, now);
            }
            reg::DIVIDE => {
                self.tick(now);
                self.timer.set_divide(value, now);
            }
            _ => self.write_entry(reg::entry(register), value, now),
        }
        Effect::None
    }

    /// Writes an entry of the local vector table. A change to or from the deadline mode disarms;
    /// between one-shot and periodic the count goes on, as it does on silicon.
    fn write_entry(&mut self, entry: usize, value: u32, now: u64) {
        // What expired while the timer was masked is lost, not late.
        self.tick(now);
        let before = self.timer_mode();
        self.set_entry(entry, value);
        let modes = [before, self.timer_mode()];
        if before != self.timer_mode() && modes.iter().any(|mode| *mode >= timer::DEADLINE) {
            self.timer.stop();
        }
    }

    /// Stores an entry; its mask stays while software has the APIC disabled.
    pub(super) fn set_entry(&mut self, entry: usize, value: u32) {
        let is_on = self.spurious & reg::SPURIOUS_ENABLED != 0;
        if let Some(slot) = self.lvt.get_mut(entry) {
            *slot = (value & !reg::LVT_READ_ONLY) | if is_on { 0 } else { LVT_MASKED };
        }
    }

    /// No register is there; it reads 0.
    fn missing(&mut self) -> u32 {
        self.error(reg::ERROR_ADDRESS);
        0
    }

    /// Executes the command register (Intel SDM volume 3, "Issuing Interprocessor Interrupts").
    fn send(&mut self, destination: Destination) -> Effect {
        let low = low32(self.command);
        let vector = low8(u64::from(low));
        let kind = match low >> 8 & 7 {
            6 => Some(Kind::Startup(vector)),
            // An external interrupt cannot be sent between CPUs.
            7 => None,
            // INIT with the level (bit 15) de-asserted (bit 14) only set arbitration ids once, which are gone.
            5 if low >> 14 & 3 == 2 => None,
            mode => Kind::from_mode(mode, vector),
        };
        let Some(kind) = kind else { return Effect::None };
        let is_fixed = kind == Kind::Fixed(vector);
        let destination = match low >> 18 & 3 {
            0 => destination,
            // "Valid Combinations" of the command register: to oneself go only fixed interrupts.
            1 | 2 if !is_fixed => return Effect::None,
            1 => Destination::Physical(self.id),
            2 => Destination::All,
            _ => Destination::Others,
        };
        if is_fixed && destination == Destination::Physical(self.id) {
            self.interrupt_self(vector);
            return Effect::None;
        }
        if (is_fixed || kind == Kind::LowestPriority(vector)) && vector < reg::VECTOR_MIN {
            self.error(reg::ERROR_SENT_ILLEGAL);
            return Effect::None;
        }
        Effect::Ipi(Message { destination, kind, is_level: false })
    }
}

/// Whether an offset in the page is a register's; they are at multiples of 16.
fn is_register(offset: u32) -> bool {
    offset & 0xffff_f00f == 0
}
