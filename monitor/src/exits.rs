//! The answers to exits: CPUID, ports, MSRs, HLT and the rare ones.
//!
//! [`Cpu::exit`] is called after each turn that ended with an exit. What needs a device is in
//! `access`; policy is in `cpuid` and `msr`. Neighbour: `abi::vcpu` tells what each exit says.
//!
//! Invariant: an exit either moves `rip` to the next instruction, or sets an event, or leaves both
//! for the instruction to be executed again, or ends the virtual machine.

use crate::apic::{Effect, Mode, PPR, TPR};
use crate::msr::{self, Gp, Policy};
use crate::num::{low8, low16, low32};
use crate::run::{Activity, Cpu, Host};
use cloister_abi::vcpu::{self, Exit};
use cloister_proto::stopped::{STOPPED_INVALID, STOPPED_TRIPLE_FAULT};

/// Exceptions that are injected.
const DB: u64 = 1;
const UD: u64 = 6;
const GP: u64 = 13;
const PF: u64 = 14;
/// CR0.PG.
const PAGING: u64 = 1 << 31;

impl<H: Host> Cpu<'_, '_, H> {
    /// Answers an exit.
    pub(crate) fn exit(&mut self) {
        let exit = Exit::from_code(self.host.state().exit);
        if self.step.is_active() && !self.goes_on(exit) {
            return;
        }
        match exit {
            Some(Exit::Cpuid) => self.cpuid(),
            Some(Exit::Port) => self.port(),
            Some(Exit::MsrWrite) => self.write_msr(),
            Some(Exit::MsrRead) => self.read_msr(),
            Some(Exit::Halt) => {
                self.skip();
                self.activity = Activity::Halted;
                self.attention = true;
            }
            Some(Exit::Memory) => self.memory(),
            other => self.rare(other),
        }
    }

    /// The exits that are not frequent.
    #[inline(never)]
    fn rare(&mut self, exit: Option<Exit>) {
        match exit {
            Some(Exit::TaskPriority) => {
                // The interrupt is withdrawn: the comparison with the new priority is the CPU's.
                self.tell_interrupt(0);
                self.step_alone();
            }
            Some(Exit::Iret) => {
                // The next one may come after the IRET, not before.
                self.nmi_blocked = false;
                self.step_alone();
            }
            Some(Exit::Xsetbv) => self.xsetbv(),
            // Caches are coherent with everything that a guest can reach.
            Some(Exit::Cache) => self.skip(),
            // There are no hypercalls.
            Some(Exit::Hypercall) => self.inject(UD, None),
            Some(Exit::Forbidden) => match self.host.state().info {
                [GP, ..] => self.refuse(),
                _ => self.inject(UD, None),
            },
            Some(Exit::Shutdown) => self.stopped(STOPPED_TRIPLE_FAULT, 0),
            // A step ends where there was none: this monitor and the kernel disagree.
            _ => {
                let [code, ..] = self.host.state().info;
                self.stopped(STOPPED_INVALID, low8(code));
            }
        }
    }

    /// Has the next turn run one instruction for another reason than a device page; afterwards
    /// interrupts are to be settled.
    fn step_alone(&mut self) {
        self.attention = true;
        self.step.begin();
        self.arm_step();
    }

    /// An exit during a step. Whether it is to be answered as any other.
    #[inline(never)]
    fn goes_on(&mut self, exit: Option<Exit>) -> bool {
        match exit {
            Some(Exit::Memory) => return true,
            Some(Exit::Stepped) => self.stepped(),
            Some(Exit::Exception) => self.excepted(),
            _ => {
                self.step.cancel();
                return true;
            }
        }
        false
    }

    /// The instruction is done: what it wrote has its effect, and the guest's own trap comes.
    fn stepped(&mut self) {
        let state = self.host.state();
        let [trap, ..] = state.info;
        self.store_task_priority();
        self.finish_step();
        if trap & vcpu::STEP_TRAP != 0 {
            self.inject(DB, None);
        }
    }

    /// The instruction raised an exception and did nothing else.
    fn excepted(&mut self) {
        self.step.cancel();
        let state = self.host.state();
        let [what, error, address] = state.info;
        if state.flags & vcpu::FLAG_EVENT != 0 {
            // Raised while another event was delivered: without a step the CPU delivers that one
            // again and makes of the two what they make.
            return;
        }
        let vector = u64::from(low8(what));
        if vector == PF {
            state.cr2 = address;
            state.set |= vcpu::SET_CR2;
        }
        self.inject(vector, (what & vcpu::EXCEPTION_ERROR != 0).then_some(low32(error)));
    }

    /// Goes past the instruction.
    #[inline(always)]
    fn skip(&mut self) {
        let state = self.host.state();
        state.rip = state.next_rip;
    }

    /// Injects an exception.
    pub(crate) fn inject(&mut self, vector: u64, error: Option<u32>) {
        let code = error.map_or(0, |error| vcpu::EVENT_ERROR | u64::from(error) << 32);
        let state = self.host.state();
        state.event = vcpu::EVENT_EXCEPTION | vector | code;
        state.set |= vcpu::SET_EVENT;
    }

    /// A general protection fault.
    #[inline(never)]
    pub(crate) fn refuse(&mut self) {
        self.inject(GP, Some(0));
    }

    fn cpuid(&mut self) {
        let state = self.host.state();
        let [cr4, ..] = state.info;
        let [a, c, d, b, ..] = &mut state.registers;
        self.inputs.cr4 = cr4;
        let (leaf, sub) = (low32(*a), low32(*c));
        let answer = self.cpuid.answer(leaf, sub, &self.inputs);
        [*a, *b, *c, *d] = answer.map(u64::from);
        state.rip = state.next_rip;
    }

    fn port(&mut self) {
        let state = self.host.state();
        let [info, ..] = state.info;
        let [rax, ..] = state.registers;
        let (port, width) = (low16(info), low8(info >> 16) & 7);
        if info & vcpu::PORT_STRING != 0 {
            // Its memory cannot be reached from here.
            return self.refuse();
        }
        if info & vcpu::PORT_IN == 0 {
            self.port_out(port, width, low32(rax));
        } else {
            let value = u64::from(self.port_in(port, width));
            let [rax, ..] = &mut self.host.state().registers;
            *rax = match width {
                1 => *rax & !0xff | value & 0xff,
                2 => *rax & !0xffff | value & 0xffff,
                // A write of 32 bits clears the upper half.
                _ => value,
            };
        }
        self.skip();
    }

    /// The instruction is done, or to be executed again for another exit, or refused.
    #[inline(always)]
    fn conclude(&mut self, done: Result<bool, Gp>) {
        match done {
            Ok(true) => self.skip(),
            Ok(false) => {}
            Err(Gp) => self.refuse(),
        }
    }

    fn write_msr(&mut self) {
        let state = self.host.state();
        let [rax, rcx, rdx, ..] = state.registers;
        let (msr, value) = (low32(rcx), u64::from(low32(rax)) | rdx << 32);
        if msr == msr::X2APIC_EOI && self.apic.mode() == Mode::X2Apic && value == 0 {
            return self.end_interrupt();
        }
        let done = match msr {
            msr::X2APIC_ICR | msr::X2APIC_TIMER => self.write_apic(msr, value),
            msr::TSC_DEADLINE => {
                let offset = state.tsc_offset;
                self.apic.write_tsc_deadline(value, offset, self.host.now());
                self.attention = true;
                Ok(true)
            }
            _ => self.write_other_msr(msr, value),
        };
        self.conclude(done);
    }

    #[inline(always)]
    fn write_apic(&mut self, msr: u32, value: u64) -> Result<bool, Gp> {
        let effect = self.apic.write_msr(msr, value, self.host.now())?;
        self.effect(effect);
        Ok(true)
    }

    /// The guest ends an interrupt: another one can come of it only if one is requested, or if the
    /// I/O APIC sends it again.
    fn end_interrupt(&mut self) {
        if let Effect::Eoi(vector) = self.apic.eoi() {
            self.end_of_interrupt(vector);
        }
        self.attention |= self.apic.has_requests();
        self.skip();
    }

    /// What a write to the APIC has done.
    #[inline(always)]
    pub(crate) fn effect(&mut self, effect: Effect) {
        self.attention = true;
        match effect {
            Effect::None => {}
            Effect::Eoi(vector) => self.end_of_interrupt(vector),
            Effect::Ipi(message) => self.send(&message),
        }
    }

    /// Whether it is done: some registers need an exit with the whole state.
    #[inline(never)]
    fn write_other_msr(&mut self, msr: u32, value: u64) -> Result<bool, Gp> {
        match msr::policy(self.config.identity, msr) {
            Policy::Absent => return Err(Gp),
            Policy::Apic(register) => {
                self.write_apic(msr, value)?;
                if register == TPR {
                    self.load_task_priority();
                }
            }
            Policy::ApicBase => {
                self.apic.write_base(value)?;
                self.publish_route();
                self.attention = true;
            }
            Policy::Efer | Policy::Pat if !self.is_whole() => return Ok(false),
            Policy::Efer => {
                let state = self.host.state();
                state.efer = msr::efer(value, state.efer, state.cr0 & PAGING != 0)?;
                state.set |= vcpu::SET_CONTROL;
            }
            Policy::Pat => {
                let state = self.host.state();
                state.pat = msr::pat(value)?;
                state.set |= vcpu::SET_CONTROL;
            }
            Policy::TscAux => {
                let state = self.host.state();
                state.tsc_aux = msr::tsc_aux(value)?;
                state.set |= vcpu::SET_TSC;
            }
            Policy::TscDeadline => {}
            Policy::Tsc => {
                let by = value.wrapping_sub(self.guest_time());
                self.move_time(by);
            }
            Policy::TscAdjust => self.move_time(value.wrapping_sub(self.tsc_adjust)),
            Policy::Fixed(there, write) => msr::fixed(there, write, value)?,
        }
        Ok(true)
    }

    #[inline(never)]
    fn read_msr(&mut self) {
        let [_, rcx, ..] = self.host.state().registers;
        let done = self.msr_value(low32(rcx)).map(|value| {
            let [rax, _, rdx, ..] = &mut self.host.state().registers;
            if let Some(value) = value {
                (*rax, *rdx) = (u64::from(low32(value)), value >> 32);
            }
            value.is_some()
        });
        self.conclude(done);
    }

    /// The value of an MSR; `None` if the whole state is needed for it.
    fn msr_value(&mut self, msr: u32) -> Result<Option<u64>, Gp> {
        Ok(Some(match msr::policy(self.config.identity, msr) {
            Policy::Absent => return Err(Gp),
            Policy::Apic(register) => {
                if matches!(register, TPR | PPR) {
                    self.store_task_priority();
                }
                self.apic.read_msr(msr, self.host.now())?
            }
            Policy::ApicBase => self.apic.read_base(),
            Policy::Efer | Policy::Pat if !self.is_whole() => return Ok(None),
            Policy::Efer => self.host.state().efer,
            Policy::Pat => self.host.state().pat,
            Policy::TscAux => u64::from(self.host.state().tsc_aux),
            Policy::TscDeadline => self.apic.read_tsc_deadline(),
            Policy::Tsc => self.guest_time(),
            Policy::TscAdjust => self.tsc_adjust,
            Policy::Fixed(value, _) => value,
        }))
    }

    /// Whether this exit has the whole state. If not, the next one will.
    fn is_whole(&mut self) -> bool {
        if !self.has_all {
            (self.wants_all, self.attention) = (true, true);
            self.host.state().set |= vcpu::WANT_ALL;
        }
        self.has_all
    }

    fn guest_time(&mut self) -> u64 {
        self.host.now().wrapping_add(self.host.state().tsc_offset)
    }

    /// Moves the guest's time on this virtual CPU, as a write of its counter or of its adjustment
    /// does (Intel SDM volume 3, "Time-Stamp Counter Adjustment").
    fn move_time(&mut self, by: u64) {
        self.tsc_adjust = self.tsc_adjust.wrapping_add(by);
        let state = self.host.state();
        state.tsc_offset = state.tsc_offset.wrapping_add(by);
        state.set |= vcpu::SET_TSC;
    }

    fn xsetbv(&mut self) {
        let supported = self.cpuid.xcr0_supported();
        let state = self.host.state();
        let [rax, rcx, rdx, ..] = state.registers;
        let checked = msr::xcr0(low32(rcx), u64::from(low32(rax)) | rdx << 32, supported);
        let done = checked.map(|value| {
            (state.xcr0, self.inputs.xcr0) = (value, value);
            state.set |= vcpu::SET_XCR0;
            true
        });
        self.conclude(done);
    }

    /// Takes the task priority over from the CPU.
    pub(crate) fn store_task_priority(&mut self) {
        let tpr = self.host.state().tpr;
        if tpr != self.apic.task_priority() {
            self.apic.set_task_priority(tpr);
        }
    }

    /// Gives the task priority to the CPU.
    pub(crate) fn load_task_priority(&mut self) {
        let tpr = self.apic.task_priority();
        let state = self.host.state();
        if state.tpr != tpr {
            state.tpr = tpr;
            state.set |= vcpu::SET_TPR;
        }
    }
}
