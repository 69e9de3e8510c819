//! The local APIC of a virtual CPU, as xAPIC and x2APIC (Intel SDM volume 3, "Advanced
//! Programmable Interrupt Controller (APIC)").
//!
//! [`LocalApic`] is a register file that its vCPU's thread owns. Guest accesses come by MSR or by
//! the page of the xAPIC; interrupts come by [`LocalApic::accept`] from whatever was posted; the
//! run loop takes them out with [`LocalApic::highest`] and [`LocalApic::taken`]. What concerns
//! others is returned as an [`Effect`]. Neighbours: [`route`] says whom messages mean, `timer`
//! counts, `ioapic` hears of the ends of level-triggered interrupts.
//!
//! Invariant: no vector below 16 is ever requested or in service, and a switched-off APIC requests
//! none at all.

mod registers;
pub mod route;
mod timer;
mod vectors;

pub use registers::{BASE, BASE_MSR};
pub use route::{Destination, Kind, Message, Route};

use crate::num::{high32, low8, low32};
use registers as reg;
use registers::{ERROR, LINT0, LVT_MASKED, TIMER};
use timer::{Mode as Count, Timer};
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
#[derive(Clone, Debug)]
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
    errors: u32,
    command: u64,
    lvt: [u32; 6],
    timer: Timer,
}

impl LocalApic {
    /// The APIC of vCPU `id` after power-up, on a host whose time stamp counter has `tsc_hz`.
    pub fn new(id: u8, is_boot: bool, x2apic: bool, tsc_hz: u64) -> LocalApic {
        let boot = if is_boot { reg::BASE_BOOT } else { 0 };
        let mode = if x2apic { reg::BASE_X2APIC } else { 0 };
        LocalApic {
            id: u32::from(id),
            base: BASE | reg::BASE_ENABLED | boot | mode,
            tpr: 0,
            spurious: reg::SPURIOUS_RESET,
            requested: Vectors::default(),
            in_service: Vectors::default(),
            level: Vectors::default(),
            logical: 0,
            format: u32::MAX,
            shown: 0,
            errors: 0,
            command: 0,
            lvt: [LVT_MASKED; 6],
            timer: Timer::new(tsc_hz),
        }
    }

    /// INIT: everything as after power-up but for the id and the mode.
    pub fn init(&mut self) {
        let mut timer = self.timer.clone();
        timer.reset();
        let (id, base) = (self.id, self.base);
        *self = LocalApic { id, base, timer, ..LocalApic::new(0, false, false, 1) };
    }

    /// As firmware leaves the boot CPU for a system that has not heard of APICs: enabled, with the
    /// 8259A behind LINT0 and NMIs behind LINT1 (MultiProcessor Specification, "Virtual Wire
    /// Mode").
    pub fn virtual_wire(&mut self) {
        self.spurious |= reg::SPURIOUS_ENABLED;
        self.set_entry(LINT0, reg::LVT_EXTINT);
        self.set_entry(reg::LINT1, reg::LVT_NMI);
    }

    /// The mode that the base MSR has selected.
    #[inline]
    pub fn mode(&self) -> Mode {
        match (self.base & reg::BASE_ENABLED != 0, self.base & reg::BASE_X2APIC != 0) {
            (false, _) => Mode::Off,
            (true, false) => Mode::XApic,
            (true, true) => Mode::X2Apic,
        }
    }

    /// Whether the base MSR has it switched on; CPUID shows this bit.
    pub fn is_enabled(&self) -> bool {
        self.base & reg::BASE_ENABLED != 0
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

    /// Whether a message to `destination` means this APIC.
    pub fn matches(&self, destination: Destination) -> bool {
        self.route().matches(destination)
    }

    /// The base MSR.
    pub fn read_base(&self) -> u64 {
        self.base
    }

    /// Writes the base MSR. Legal are the transitions of Intel SDM volume 3, "x2APIC State
    /// Transitions"; the page does not move and the boot bit keeps its value.
    pub fn write_base(&mut self, value: u64) -> Result<(), Gp> {
        const MODE: u64 = reg::BASE_ENABLED | reg::BASE_X2APIC;
        if value & !(MODE | reg::BASE_BOOT) != BASE {
            return Err(Gp);
        }
        let (is_on, is_x2apic) = (value & reg::BASE_ENABLED != 0, value & reg::BASE_X2APIC != 0);
        let legal = match self.mode() {
            Mode::Off => !is_x2apic,
            Mode::XApic => is_on || !is_x2apic,
            Mode::X2Apic => is_on == is_x2apic,
        };
        if !legal {
            return Err(Gp);
        }
        if !is_on && self.is_enabled() {
            self.init();
        }
        if is_x2apic && self.mode() == Mode::XApic {
            self.command = u64::from(low32(self.command));
        }
        self.base = self.base & !MODE | value & MODE;
        Ok(())
    }

    /// An interrupt arrives. A vector below 16 is an error; an APIC that software has disabled
    /// takes none.
    #[inline]
    pub fn accept(&mut self, vector: u8, is_level: bool) {
        if self.spurious & reg::SPURIOUS_ENABLED == 0 || !self.is_enabled() {
            return;
        }
        if vector < reg::VECTOR_MIN {
            self.error(reg::ERROR_RECEIVED_ILLEGAL);
            return;
        }
        self.requested.set(vector, true);
        self.level.set(vector, is_level);
    }

    /// The requested vector that is to be injected: the highest, if its class is above every one
    /// in service. The task priority is not looked at: the CPU compares it by itself.
    #[inline]
    pub fn highest(&self) -> Option<u8> {
        let requested = self.requested.highest()?;
        match self.in_service.highest() {
            Some(serviced) if requested >> 4 <= serviced >> 4 => None,
            _ => Some(requested),
        }
    }

    /// The CPU has accepted this interrupt.
    #[inline]
    pub fn taken(&mut self, vector: u8) {
        if self.requested.has(vector) {
            self.requested.set(vector, false);
            self.in_service.set(vector, true);
        }
    }

    /// The guest ends the highest interrupt in service.
    #[inline]
    pub fn eoi(&mut self) -> Effect {
        let Some(vector) = self.in_service.highest() else { return Effect::None };
        self.in_service.set(vector, false);
        if self.level.has(vector) { Effect::Eoi(vector) } else { Effect::None }
    }

    /// The guest has written CR8.
    #[inline]
    pub fn set_task_priority(&mut self, cr8: u32) {
        self.tpr = (cr8 & 0xf) << 4;
    }

    /// The task priority as CR8 shows it.
    #[inline]
    pub fn task_priority(&self) -> u32 {
        self.tpr >> 4
    }

    /// When [`LocalApic::tick`] is to be called next, in host ticks.
    #[inline]
    pub fn deadline(&self) -> Option<u64> {
        if self.entry(TIMER) & LVT_MASKED == 0 { self.timer.expiry() } else { None }
    }

    /// It is `now`: the timer may have expired.
    #[inline]
    pub fn tick(&mut self, now: u64) {
        if self.timer.expire(self.count_mode(), now) {
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
        if self.count_mode() == Count::Deadline {
            let left = value.saturating_sub(now.wrapping_add(offset));
            self.timer.set_deadline(value, now.saturating_add(left));
            self.tick(now);
        }
    }

    /// Whether the 8259A's interrupts reach this CPU: by LINT0, or past an APIC that is off.
    pub fn accepts_external(&self) -> bool {
        !self.is_enabled() || self.entry(LINT0) & (LVT_MASKED | reg::LVT_MODE) == reg::LVT_EXTINT
    }

    /// An edge at LINT0 (0) or LINT1 (1). Fixed interrupts are taken here; what is left to do is
    /// returned.
    pub fn lint(&mut self, pin: usize) -> Option<Kind> {
        self.strike(LINT0.wrapping_add(pin & 1))
    }

    /// Reads an MSR of 0x800 to 0x8ff.
    pub fn read_msr(&mut self, msr: u32, now: u64) -> Result<u64, Gp> {
        let register = reg::from_msr(msr).filter(|_| self.mode() == Mode::X2Apic).ok_or(Gp)?;
        match register {
            reg::ID => Ok(u64::from(self.id)),
            reg::LDR => Ok(u64::from(self.id >> 4 << 16 | 1u32 << (self.id & 15))),
            reg::ICR => Ok(self.command),
            reg::ICR_HIGH | reg::DFR | reg::ARBITRATION | reg::REMOTE_READ => Err(Gp),
            _ => self.register(register, now).map(u64::from).ok_or(Gp),
        }
    }

    /// Writes an MSR of 0x800 to 0x8ff. What is reserved must be 0 (Intel SDM volume 3, "x2APIC
    /// Register Availability" and "Reserved Bit Checking").
    #[inline]
    pub fn write_msr(&mut self, msr: u32, value: u64, now: u64) -> Result<Effect, Gp> {
        let register = reg::from_msr(msr).filter(|_| self.mode() == Mode::X2Apic).ok_or(Gp)?;
        match register {
            reg::EOI if value == 0 => Ok(self.eoi()),
            reg::ICR if value & reg::ICR_RESERVED == 0 => {
                self.command = value;
                let is_logical = value & reg::ICR_LOGICAL != 0;
                Ok(self.send(Destination::from_word(high32(value), is_logical)))
            }
            reg::SELF_IPI if value >> 8 == 0 => {
                self.interrupt_self(low8(value));
                Ok(Effect::None)
            }
            reg::EOI | reg::ICR | reg::SELF_IPI => Err(Gp),
            // Only 0 may be written to the error status.
            reg::ESR if value != 0 => Err(Gp),
            reg::ICR_HIGH | reg::LDR | reg::DFR => Err(Gp),
            _ => {
                let (may_be_set, _) = reg::writable(register).ok_or(Gp)?;
                if value & !u64::from(may_be_set) != 0 {
                    return Err(Gp);
                }
                self.set_register(register, low32(value), now);
                Ok(Effect::None)
            }
        }
    }

    /// Reads a register of the page. Off the registers, and when there is no page, it reads 0 and
    /// all ones.
    pub fn read_mmio(&mut self, offset: u32, now: u64) -> u32 {
        if self.mode() != Mode::XApic {
            return u32::MAX;
        }
        let Some(register) = reg::from_offset(offset) else { return 0 };
        match register {
            reg::ID => self.id << 24,
            reg::LDR => self.logical,
            reg::EOI => 0,
            _ => self.register(register, now).unwrap_or_else(|| {
                self.error(reg::ERROR_ADDRESS);
                0
            }),
        }
    }

    /// Writes a register of the page, all 32 bits. Reserved bits are dropped.
    pub fn write_mmio(&mut self, offset: u32, value: u32, now: u64) -> Effect {
        if self.mode() != Mode::XApic {
            return Effect::None;
        }
        let Some(register) = reg::from_offset(offset) else { return Effect::None };
        match register {
            reg::EOI => return self.eoi(),
            reg::ICR => {
                let stored = u64::from(value & !low32(reg::ICR_RESERVED));
                self.command = self.command & !u64::from(u32::MAX) | stored;
                let (id, is_logical) = (low8(self.command >> 56), stored & reg::ICR_LOGICAL != 0);
                return self.send(Destination::from_byte(id, is_logical));
            }
            reg::ICR_HIGH => {
                let high = u64::from(value & 0xff00_0000) << 32;
                self.command = u64::from(low32(self.command)) | high;
            }
            reg::LDR => self.logical = value & 0xff00_0000,
            reg::DFR => self.format = value | 0x0fff_ffff,
            _ => match reg::writable(register) {
                Some((_, stored)) => self.set_register(register, value & stored, now),
                None if self.register(register, now).is_some() => {}
                None => self.error(reg::ERROR_ADDRESS),
            },
        }
        Effect::None
    }

    /// A register that reads the same in both modes; `None` for what cannot be read.
    fn register(&mut self, register: u32, now: u64) -> Option<u32> {
        Some(match register {
            reg::ID => self.id,
            reg::VERSION => reg::VERSION_VALUE,
            reg::TPR => self.tpr,
            reg::ARBITRATION | reg::REMOTE_READ => 0,
            reg::PPR => self.processor_priority(),
            reg::DFR => self.format,
            reg::SVR => self.spurious,
            reg::ISR..reg::TMR => self.in_service.register(register & 7),
            reg::TMR..reg::IRR => self.level.register(register & 7),
            reg::IRR..reg::ESR => self.requested.register(register & 7),
            reg::ESR => self.shown,
            reg::ICR => low32(self.command),
            reg::ICR_HIGH => high32(self.command),
            reg::LVT_TIMER..=reg::LVT_ERROR => self.entry(reg::entry(register)),
            reg::TMICT => self.timer.initial,
            reg::TMCCT => {
                self.tick(now);
                self.timer.current(self.count_mode(), now)
            }
            reg::DIVIDE => self.timer.divide,
            _ => return None,
        })
    }

    /// Writes a register of [`reg::writable`]; `value` has no reserved bit.
    fn set_register(&mut self, register: u32, value: u32, now: u64) {
        match register {
            reg::TPR => self.tpr = value,
            reg::SVR => {
                self.spurious = value;
                if value & reg::SPURIOUS_ENABLED == 0 {
                    self.tick(now);
                    self.lvt.iter_mut().for_each(|entry| *entry |= LVT_MASKED);
                }
            }
            reg::ESR => {
                self.shown = self.errors;
                self.errors = 0;
            }
            reg::LVT_TIMER => self.set_timer_entry(value, now),
            reg::LVT_THERMAL..=reg::LVT_ERROR => self.set_entry(reg::entry(register), value),
            reg::TMICT => self.set_count(value, now),
            reg::DIVIDE => {
                self.tick(now);
                self.timer.set_divide(value, self.count_mode(), now);
            }
            _ => {}
        }
    }

    /// Starts the countdown. In deadline mode the register cannot be written.
    #[inline]
    fn set_count(&mut self, count: u32, now: u64) {
        if matches!(self.count_mode(), Count::OneShot | Count::Periodic) {
            self.tick(now);
            self.timer.start(count, now);
        }
    }

    /// Writes the timer's entry. A change to or from the deadline mode disarms; between one-shot
    /// and periodic the count goes on, as it does on silicon.
    fn set_timer_entry(&mut self, value: u32, now: u64) {
        // What expired while the entry was masked is lost, not late.
        self.tick(now);
        let before = self.count_mode();
        self.set_entry(TIMER, value);
        let counts = |mode| matches!(mode, Count::OneShot | Count::Periodic);
        if before != self.count_mode() && !(counts(before) && counts(self.count_mode())) {
            self.timer.stop();
        }
    }

    /// Writes an entry of the local vector table; the mask stays while software has the APIC
    /// disabled.
    fn set_entry(&mut self, entry: usize, value: u32) {
        let is_on = self.spurious & reg::SPURIOUS_ENABLED != 0;
        if let Some(slot) = self.lvt.get_mut(entry) {
            *slot = (value & !reg::LVT_READ_ONLY) | if is_on { 0 } else { LVT_MASKED };
        }
    }

    #[inline]
    fn entry(&self, entry: usize) -> u32 {
        self.lvt.get(entry).copied().unwrap_or(LVT_MASKED)
    }

    #[inline]
    fn count_mode(&self) -> Count {
        match self.entry(TIMER) >> 17 & 3 {
            0 => Count::OneShot,
            1 => Count::Periodic,
            2 => Count::Deadline,
            _ => Count::Reserved,
        }
    }

    /// A source of the local vector table raises its interrupt; what is not a fixed interrupt is
    /// returned.
    fn strike(&mut self, entry: usize) -> Option<Kind> {
        let entry = self.entry(entry);
        if entry & LVT_MASKED != 0 {
            return None;
        }
        match Kind::from_mode(entry >> 8, low8(u64::from(entry))) {
            Some(Kind::Fixed(vector)) => {
                self.accept(vector, false);
                None
            }
            // An entry has no lowest-priority mode.
            Some(Kind::LowestPriority(_)) => None,
            other => other,
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

    /// Executes the command register (Intel SDM volume 3, "Issuing Interprocessor Interrupts").
    fn send(&mut self, destination: Destination) -> Effect {
        let low = low32(self.command);
        let vector = low8(u64::from(low));
        let kind = match low >> 8 & 7 {
            6 => Kind::Startup(vector),
            // An external interrupt cannot be sent between CPUs.
            7 => return Effect::None,
            // INIT with the level de-asserted only set arbitration ids once, which are gone.
            5 if low & reg::ICR_LEVEL != 0 && low & reg::ICR_ASSERT == 0 => return Effect::None,
            mode => match Kind::from_mode(mode, vector) {
                Some(kind) => kind,
                None => return Effect::None,
            },
        };
        let is_fixed = matches!(kind, Kind::Fixed(_));
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
        if (is_fixed || matches!(kind, Kind::LowestPriority(_))) && vector < reg::VECTOR_MIN {
            self.error(reg::ERROR_SENT_ILLEGAL);
            return Effect::None;
        }
        Effect::Ipi(Message { destination, kind, is_level: false })
    }
}
