//! The local APIC of a virtual CPU, as xAPIC and x2APIC (Intel SDM volume 3, "Advanced
//! Programmable Interrupt Controller (APIC)").
//!
//! [`LocalApic`] is a register file that its vCPU's thread owns. Guest accesses come by MSR or by
//! the page of the xAPIC; interrupts come by [`LocalApic::accept`] from whatever was posted; the
//! run loop takes them out with [`LocalApic::highest`] and [`LocalApic::taken`]. What concerns
//! others is returned as an [`Effect`]. Neighbours: `access` has what the guest reads and writes,
//! [`route`] says whom messages mean, `timer` counts, `ioapic` hears of the ends of level-triggered
//! interrupts.
//!
//! Invariant: no vector below 16 is ever requested or in service, and a switched-off APIC requests
//! none at all.

mod access;
mod registers;
pub mod route;
mod timer;
mod vectors;

pub use registers::BASE;
pub(crate) use registers::{DFR, LDR, PPR, TPR};
pub use route::{Destination, Kind, Message, Route};

use crate::ensure;
use crate::num::{low8, low32};
use registers as reg;
use registers::{ERROR, LINT0, LVT_MASKED, TIMER};
use timer::Timer;
use vectors::Vectors;

/// The access raises a general protection fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gp;

/// What a write does outside of the APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The level-triggered interrupt with this vector has ended.
    Eoi(u8),
    /// A message to other CPUs, perhaps to this one too.
    Ipi(Message),
}

/// How the APIC answers, from its base MSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Not at all: it is switched off.
    Off,
    /// At its page.
    XApic,
    /// By MSRs.
    X2Apic,
}

/// The local APIC of one virtual CPU.
#[derive(Clone, Debug, Default)]
pub struct LocalApic {
    id: u32,
    base: u64,
    tpr: u32,
    spurious: u32,
    requested: Vectors,
    in_service: Vectors,
    level: Vectors,
    logical: u32,
    format: u32,
    /// What the error status register shows.
    shown: u32,
    /// Errors since the register was last written.
    pub(crate) errors: u32,
    command: u64,
    lvt: [u32; 6],
    timer: Timer,
}

impl LocalApic {
    /// The APIC of vCPU `id` after power-up, on a host whose time stamp counter has `tsc_hz`.
    pub fn new(id: u8, is_boot: bool, x2apic: bool, tsc_hz: u64) -> LocalApic {
        let boot = if is_boot { reg::BASE_BOOT } else { 0 };
        let mode = if x2apic { reg::BASE_X2APIC } else { 0 };
        let (id, base) = (u32::from(id), BASE | reg::BASE_ENABLED | boot | mode);
        let timer = Timer::new(tsc_hz);
        let mut apic = LocalApic { id, base, timer, ..LocalApic::default() };
        apic.init();
        apic
    }

    /// INIT: everything as after power-up but for the id and the mode.
    pub fn init(&mut self) {
        let mut timer = self.timer.clone();
        timer.stop();
        timer.divide = 0;
        let (id, base, spurious) = (self.id, self.base, 0xff);
        let (format, lvt) = (u32::MAX, [LVT_MASKED; 6]);
        *self = LocalApic { id, base, spurious, format, lvt, timer, ..LocalApic::default() };
    }

    /// As firmware leaves the boot CPU for a system that has not heard of APICs: enabled, with the
    /// 8259A behind LINT0 and NMIs behind LINT1 (MultiProcessor Specification, "Virtual Wire
    /// Mode").
    pub fn virtual_wire(&mut self) {
        self.spurious |= reg::SPURIOUS_ENABLED;
        self.set_entry(LINT0, reg::LVT_EXTINT);
        self.set_entry(LINT0 + 1, 4 << 8);
    }

    /// The mode that the base MSR has selected.
    #[inline(always)]
    pub fn mode(&self) -> Mode {
        match (self.base & reg::BASE_ENABLED != 0, self.base & reg::BASE_X2APIC != 0) {
            (false, _) => Mode::Off,
            (true, false) => Mode::XApic,
            (true, true) => Mode::X2Apic,
        }
    }

    /// Whether the base MSR has it switched on; CPUID shows this bit.
    pub fn is_enabled(&self) -> bool {
        self.mode() != Mode::Off
    }

    /// How it is addressed; to be published after [`LocalApic::write_base`], [`LocalApic::init`]
    /// and writes to its page.
    pub fn route(&self) -> Route {
        match self.mode() {
            Mode::Off => Route::OFF,
            Mode::XApic => Route::xapic(self.id, self.logical, self.format),
            Mode::X2Apic => Route::x2apic(self.id),
        }
    }

    /// The base MSR.
    pub fn read_base(&self) -> u64 {
        self.base
    }

    /// Writes the base MSR. Legal are the transitions of Intel SDM volume 3, "x2APIC State
    /// Transitions"; the page does not move and the boot bit keeps its value.
    pub fn write_base(&mut self, value: u64) -> Result<(), Gp> {
        const MODE: u64 = reg::BASE_ENABLED | reg::BASE_X2APIC;
        ensure(value & !(MODE | reg::BASE_BOOT) == BASE, Gp)?;
        let (is_on, is_x2apic) = (value & reg::BASE_ENABLED != 0, value & reg::BASE_X2APIC != 0);
        let is_legal = match self.mode() {
            Mode::Off => !is_x2apic,
            Mode::XApic => is_on || !is_x2apic,
            Mode::X2Apic => is_on == is_x2apic,
        };
        ensure(is_legal, Gp)?;
        if !is_on && self.is_enabled() {
            self.init();
        }
        if is_x2apic && self.mode() == Mode::XApic {
            self.command = u64::from(low32(self.command));
        }
        self.base = self.base & !MODE | value & MODE;
        Ok(())
    }

    /// An interrupt arrives; whether it is requested now. A vector below 16 is an error; an APIC that
    /// software has disabled takes none.
    #[inline(always)]
    pub fn accept(&mut self, vector: u8, is_level: bool) -> bool {
        if self.spurious & reg::SPURIOUS_ENABLED == 0 || !self.is_enabled() {
            return false;
        }
        if vector < reg::VECTOR_MIN {
            self.error(reg::ERROR_RECEIVED_ILLEGAL);
            return false;
        }
        self.requested.set(vector, true);
        self.level.set(vector, is_level);
        true
    }

    /// Whether any interrupt is requested, deliverable or not.
    #[inline(always)]
    pub fn has_requests(&self) -> bool {
        !self.requested.is_empty()
    }

    /// The requested vector that is to be injected: the highest, if it can be delivered.
    pub fn highest(&self) -> Option<u8> {
        self.requested.highest().filter(|&vector| self.can_deliver(vector))
    }

    /// Whether a vector's class is above every one in service. The task priority is not looked at:
    /// the CPU compares it by itself.
    #[inline(always)]
    pub fn can_deliver(&self, vector: u8) -> bool {
        let is_above = |serviced: u8| vector >> 4 > serviced >> 4;
        // Mostly none is, which is asked faster than which is.
        self.in_service.is_empty() || self.in_service.highest().is_none_or(is_above)
    }

    /// The CPU has accepted this interrupt.
    #[inline(always)]
    pub fn taken(&mut self, vector: u8) {
        if self.requested.has(vector) {
            self.requested.set(vector, false);
            self.in_service.set(vector, true);
        }
    }

    /// The guest ends the highest interrupt in service.
    #[inline(always)]
    pub fn eoi(&mut self) -> Effect {
        let Some(vector) = self.in_service.highest() else { return Effect::None };
        self.in_service.set(vector, false);
        if self.level.has(vector) { Effect::Eoi(vector) } else { Effect::None }
    }

    /// The guest has written CR8.
    pub fn set_task_priority(&mut self, cr8: u32) {
        self.tpr = (cr8 & 0xf) << 4;
    }

    /// The task priority as CR8 shows it.
    pub fn task_priority(&self) -> u32 {
        self.tpr >> 4
    }

    /// When [`LocalApic::tick`] is to be called next, in host ticks.
    pub fn deadline(&self) -> Option<u64> {
        self.timer.expiry.filter(|_| self.entry(TIMER) & LVT_MASKED == 0)
    }

    /// It is `now`: the timer may have expired.
    #[inline]
    pub fn tick(&mut self, now: u64) {
        if self.timer.expire(self.timer_mode(), now) {
            self.strike(TIMER);
        }
    }

    /// The TSC deadline MSR, in the guest's time.
    pub fn read_tsc_deadline(&self) -> u64 {
        self.timer.guest_deadline
    }

    /// Writes the TSC deadline MSR. The guest's time is the host's plus `offset`. Outside of the
    /// deadline mode the write does nothing.
    #[inline]
    pub fn write_tsc_deadline(&mut self, value: u64, offset: u64, now: u64) {
        if self.timer_mode() == timer::DEADLINE {
            let left = value.saturating_sub(now.wrapping_add(offset));
            self.timer.set_deadline(value, now.saturating_add(left));
            self.tick(now);
        }
    }

    /// Whether the 8259A's interrupts reach this CPU: by LINT0, or past an APIC that is off.
    pub fn accepts_external(&self) -> bool {
        !self.is_enabled() || self.entry(LINT0) & (LVT_MASKED | reg::LVT_EXTINT) == reg::LVT_EXTINT
    }

    fn entry(&self, entry: usize) -> u32 {
        self.lvt.get(entry).copied().unwrap_or(LVT_MASKED)
    }

    fn timer_mode(&self) -> u32 {
        self.entry(TIMER) >> 17 & 3
    }

    /// The timer's or the error's entry raises its interrupt.
    fn strike(&mut self, entry: usize) {
        let entry = self.entry(entry);
        if entry & LVT_MASKED == 0 {
            self.accept(low8(u64::from(entry)), false);
        }
    }

    /// Records an error. The first since the register was written raises the error interrupt.
    fn error(&mut self, bit: u32) {
        let is_first = self.errors == 0;
        self.errors |= bit;
        if is_first {
            self.strike(ERROR);
        }
    }

    /// The class of what the CPU is doing, and the subclass where the task priority decides.
    fn processor_priority(&self) -> u32 {
        let serviced = u32::from(self.in_service.highest().unwrap_or(0)) & 0xf0;
        if self.tpr & 0xf0 >= serviced { self.tpr } else { serviced }
    }

    /// An interrupt to the own CPU; edge-triggered, as every interrupt between CPUs.
    fn interrupt_self(&mut self, vector: u8) {
        if vector < reg::VECTOR_MIN {
            self.error(reg::ERROR_SENT_ILLEGAL);
        }
        self.accept(vector, false);
    }
}
