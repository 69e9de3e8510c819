//! A virtual CPU and the loop that runs it.
//!
//! [`Cpu`] belongs to one thread. It publishes the interrupt that waits, runs the guest until it
//! exits, a bit arrives or a timer is due, and answers. Its impl is spread: here is the loop and
//! what concerns interrupts, `exits` has the answers to exits, `access` those that need a device.
//! Neighbours: `apic` says which interrupt, `bus` has the devices of thread 0, [`Host`] is the
//! kernel as `monitor/task` reaches it, or a script in tests.
//!
//! Invariants: [`Cpu::offered`] is what the kernel has been told, and it is compared with what the
//! kernel says after each turn before anything else, so no interrupt is lost or taken twice. A turn
//! begins with one look at [`Cpu::attention`], so whatever makes a turn other than plain sets it.

use crate::apic::{LocalApic, Message};
use crate::bus::{Bus, Env};
use crate::cpuid::{CpuidInputs, CpuidTable};
use crate::machine::Machine;
use crate::num::low8;
use crate::posted::{INIT, NMI, STARTUP, STARTUP_PAGE, Taken};
use crate::start::{self, Start};
use crate::step::Step;
use cloister_abi::vcpu::{self, VcpuState};
use cloister_proto::stopped::Stopped;
use cloister_proto::vm::{VM_LEGACY, VM_XAPIC, VmConfig};
use core::sync::atomic::AtomicU64;

/// No deadline.
pub const NEVER: u64 = u64::MAX;
/// How long a non-maskable interrupt waits, in host ticks, before it is tried again because the
/// guest was in the middle of another event.
const NMI_RETRY: u64 = 20_000;
/// RFLAGS.IF.
const FLAG_IF: u64 = 1 << 9;

/// Why [`Host::run`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ran {
    /// The guest stopped; the state says why.
    Exit,
    /// These bits of the signal word were pending and have been taken.
    Bits(u64),
    /// The deadline passed.
    Deadline,
}

/// What the kernel does for a virtual CPU's thread.
pub trait Host {
    /// The page that is shared with the kernel.
    fn state(&mut self) -> &mut VcpuState;
    /// The two pages of a step.
    fn slots(&self) -> &[AtomicU64];
    /// Runs the guest.
    fn run(&mut self, deadline: u64) -> Ran;
    /// Waits for any of the thread's bits; [`Ran::Exit`] never comes.
    fn wait(&mut self, deadline: u64) -> Ran;
    /// The machine's TSC.
    fn now(&self) -> u64;
    /// Signals the threads, workers and the console of [`Env::signals`].
    fn signal(&mut self, signals: u64);
}

/// Why a virtual machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The guest has switched itself off.
    PowerOff,
    /// The guest wants to begin anew.
    Reset,
    /// It cannot go on.
    Stopped(Stopped),
}

/// What a virtual CPU is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activity {
    /// Instructions.
    Running,
    /// HLT; an interrupt ends it.
    Halted,
    /// After INIT; a start-up message ends it.
    Waiting,
}

/// A virtual CPU.
pub struct Cpu<'a, 'b, H> {
    pub(crate) host: H,
    pub(crate) machine: &'a Machine,
    pub(crate) config: &'a VmConfig,
    pub(crate) cpuid: &'a CpuidTable,
    /// Its number, which is its thread's and its APIC's.
    pub(crate) number: usize,
    pub(crate) inputs: CpuidInputs,
    pub(crate) apic: LocalApic,
    /// The devices, on thread 0.
    pub(crate) bus: Option<&'a mut Bus<'b>>,
    pub(crate) step: Step,
    pub(crate) activity: Activity,
    /// The next turn is not a plain one: interrupts, events or deadlines may have changed, the
    /// guest rests, IRET is waited for, the whole state was asked for, or there is a `stop`.
    pub(crate) attention: bool,
    stop: Option<Stop>,
    /// The next exit has the whole state.
    pub(crate) wants_all: bool,
    /// This exit has it.
    pub(crate) has_all: bool,
    /// What the guest has moved its time by.
    pub(crate) tsc_adjust: u64,
    /// A non-maskable interrupt is to be injected.
    nmi_pending: bool,
    /// One is being handled: IRET ends that.
    pub(crate) nmi_blocked: bool,
    /// The vector that the kernel was told, 0 for none.
    offered: u32,
    /// It is the 8259A's.
    offered_external: bool,
    deadline: u64,
}

impl<'a, 'b, H: Host> Cpu<'a, 'b, H> {
    /// Virtual CPU `number`; number 0 has the devices and begins to run, the others wait for a
    /// start-up message.
    pub fn new(
        host: H,
        number: u8,
        machine: &'a Machine,
        config: &'a VmConfig,
        cpuid: &'a CpuidTable,
        tsc_hz: u64,
        bus: Option<&'a mut Bus<'b>>,
    ) -> Cpu<'a, 'b, H> {
        let x2apic = config.flags & VM_XAPIC == 0;
        let is_boot = number == 0;
        let mut cpu = Cpu {
            host,
            machine,
            config,
            cpuid,
            number: usize::from(number),
            inputs: CpuidInputs { apic_id: u32::from(number), ..CpuidInputs::default() },
            apic: LocalApic::new(number, is_boot, x2apic, tsc_hz),
            bus,
            step: Step::default(),
            activity: Activity::Waiting,
            attention: true,
            stop: None,
            wants_all: false,
            has_all: false,
            tsc_adjust: 0,
            nmi_pending: false,
            nmi_blocked: false,
            offered: 0,
            offered_external: false,
            deadline: NEVER,
        };
        if is_boot {
            if config.flags & VM_LEGACY != 0 {
                cpu.apic.virtual_wire();
            }
            cpu.begin(Start::Image);
        }
        cpu
    }

    /// Runs until the virtual machine ends.
    #[inline(never)]
    pub fn run(&mut self) -> Stop {
        loop {
            if let Some(stop) = self.turn() {
                return stop;
            }
        }
    }

    /// One turn of the guest, and the answer to what ended it.
    pub fn turn(&mut self) -> Option<Stop> {
        if self.attention && !self.attend() {
            return self.stop;
        }
        match self.host.run(self.deadline) {
            Ran::Exit => {
                self.look_at_interrupt();
                self.exit();
            }
            Ran::Bits(bits) => {
                self.look_at_interrupt();
                self.wake(bits);
            }
            Ran::Deadline => {
                self.look_at_interrupt();
                self.tick();
            }
        }
        None
    }

    /// Begins a turn that is not plain. Whether the guest runs in it; else it has rested, or the
    /// virtual machine ends.
    #[inline(never)]
    fn attend(&mut self) -> bool {
        // Only the exit of the turn for which the whole state was asked has it.
        self.has_all = core::mem::take(&mut self.wants_all);
        self.settle();
        let (is_over, rests) = (self.stop.is_some(), self.activity != Activity::Running);
        if rests && !is_over {
            match self.host.wait(self.deadline) {
                Ran::Bits(bits) => self.wake(bits),
                Ran::Deadline => self.tick(),
                Ran::Exit => {}
            }
        }
        if self.nmi_blocked && self.host.state().set & !vcpu::SET_INTERRUPT != 0 {
            // With each group that it loads the kernel forgets that IRET is waited for.
            self.host.state().set |= vcpu::SET_NMI_WINDOW;
        }
        self.attention |= is_over || rests || self.nmi_blocked || self.has_all;
        !is_over && !rests
    }

    /// The instruction pointer, for the report of a stop.
    pub fn rip(&mut self) -> u64 {
        self.host.state().rip
    }

    /// Ends the virtual machine.
    pub(crate) fn end(&mut self, stop: Stop) {
        (self.stop, self.attention) = (Some(stop), true);
    }

    /// Ends it for a reason of [`cloister_proto::stopped`].
    #[cold]
    pub(crate) fn stopped(&mut self, code: u8, byte: u8) {
        let rip = self.rip();
        self.end(Stop::Stopped(Stopped { code, byte, rip }));
    }

    /// The guest may have accepted the interrupt that waited. None is offered in its place: it was
    /// the highest, so the others wait for its end.
    #[inline(always)]
    fn look_at_interrupt(&mut self) {
        if self.offered == 0 || self.host.state().interrupt != 0 {
            return;
        }
        if self.offered_external {
            self.acknowledge();
        } else {
            self.apic.taken(low8(u64::from(self.offered)));
        }
        self.offered = 0;
    }

    /// It was the 8259A's, which may have another one.
    #[inline(never)]
    fn acknowledge(&mut self) {
        self.bus.as_mut().into_iter().for_each(|bus| bus.acknowledge());
        self.attention = true;
    }

    /// Bits have come. Mostly one says that a device is done with something for which the guest
    /// wants an interrupt; where nothing else is to be done, that is offered at once.
    #[inline(always)]
    fn wake(&mut self, bits: u64) {
        if !self.attention
            && let Some(vector) = self.bus.as_mut().and_then(|bus| bus.completion(bits))
        {
            // What is offered was right before, so this one or nothing takes its place.
            if self.apic.accept(vector, false)
                && u32::from(vector) > self.offered
                && !self.offered_external
                && self.apic.can_deliver(vector)
            {
                self.tell_interrupt(u32::from(vector));
            }
        } else {
            self.wake_oddly(bits);
        }
    }

    /// A bit is only a hint, so everything that could have set one is looked at.
    #[inline(never)]
    fn wake_oddly(&mut self, bits: u64) {
        self.attention = true;
        self.serve();
        self.with_bus(|bus, env| bus.poll(bits, env));
    }

    /// Carries out what other virtual CPUs ask of the devices.
    fn serve(&mut self) {
        while self.bus.is_some()
            && let Some((vcpu, request)) = self.machine.requests.next()
        {
            let values = self.carry_out(&request).unwrap_or_default();
            self.machine.requests.reply(vcpu, values);
            self.host.signal(1u64.unbounded_shl(u32::try_from(vcpu).unwrap_or(u32::MAX)));
        }
    }

    /// A timer is due.
    #[inline(never)]
    fn tick(&mut self) {
        self.attention = true;
        self.apic.tick(self.host.now());
        self.with_bus(|bus, env| bus.tick(env));
    }

    /// Lets the devices do something, and passes on the signals that come of it.
    #[inline(always)]
    pub(crate) fn with_bus<R>(
        &mut self,
        act: impl FnOnce(&mut Bus<'b>, &mut Env<'_>) -> R,
    ) -> Option<R> {
        let bus = self.bus.as_mut()?;
        let mut env = Env { machine: self.machine, now: self.host.now(), signals: 0 };
        let result = act(bus, &mut env);
        let signals = env.signals;
        self.attention |= bus.has_changed();
        if signals != 0 {
            self.pass_on(signals);
        }
        Some(result)
    }

    /// Signals others; what is for this thread itself it looks at before its next turn.
    pub(crate) fn pass_on(&mut self, signals: u64) {
        let own = 1u64 << (self.number & 7);
        self.attention |= signals & own != 0;
        if signals & !own != 0 {
            self.host.signal(signals & !own);
        }
    }

    /// Sends a message of this virtual CPU.
    pub(crate) fn send(&mut self, message: &Message) {
        let threads = self.machine.post(message, Some(self.number));
        self.pass_on(u64::from(threads));
    }

    /// Takes in what was posted and tells the kernel which interrupt waits.
    fn settle(&mut self) {
        self.attention = false;
        if let Some(taken) = self.machine.posted.get(self.number).and_then(|own| own.drain()) {
            self.take(&taken);
        }
        let bus = self.bus.as_ref().map_or(NEVER, |bus| bus.deadline());
        self.deadline = self.apic.deadline().map_or(bus, |apic| apic.min(bus));
        if self.activity == Activity::Waiting {
            return;
        }
        if self.step.is_active() {
            // Interrupts are held; the turn after the step settles.
            self.attention = true;
            return;
        }
        if self.nmi_pending && !self.nmi_blocked {
            self.inject_nmi();
        }
        self.offer();
        if self.activity == Activity::Halted && self.has_work() {
            self.activity = Activity::Running;
        }
    }

    /// Tells the kernel of the interrupt that waits, if it is another than before.
    fn offer(&mut self) {
        let external = match &self.bus {
            Some(bus) if self.apic.accepts_external() => bus.external(),
            _ => None,
        };
        let vector = external.or_else(|| self.apic.highest()).map_or(0, u32::from);
        self.offered_external = external.is_some();
        if vector != self.offered {
            self.tell_interrupt(vector);
        }
    }

    /// Tells the kernel of an interrupt; 0 for none.
    #[inline(always)]
    pub(crate) fn tell_interrupt(&mut self, vector: u32) {
        self.offered = vector;
        let state = self.host.state();
        state.interrupt = vector;
        state.set |= vcpu::SET_INTERRUPT;
    }

    /// Whether something ends a HLT.
    fn has_work(&mut self) -> bool {
        let offered = self.offered;
        let state = self.host.state();
        let is_accepted = state.rflags & FLAG_IF != 0 && offered >> 4 > state.tpr & 0xf;
        state.set & vcpu::SET_EVENT != 0 || offered != 0 && is_accepted
    }

    /// A non-maskable interrupt goes in where no other event is being delivered and no instruction
    /// holds interrupts; elsewhere it is tried again soon.
    fn inject_nmi(&mut self) {
        let now = self.host.now();
        let state = self.host.state();
        let is_busy = state.flags & (vcpu::FLAG_EVENT | vcpu::FLAG_SHADOW) != 0;
        if state.set & vcpu::SET_EVENT != 0 || is_busy && self.activity == Activity::Running {
            self.deadline = self.deadline.min(now.saturating_add(NMI_RETRY));
            return;
        }
        state.event = vcpu::EVENT_NMI;
        state.set |= vcpu::SET_EVENT;
        (self.nmi_pending, self.nmi_blocked) = (false, true);
    }

    /// Takes in what others have posted.
    fn take(&mut self, taken: &Taken) {
        let words = taken.vectors.iter().zip(&taken.levels).zip([0u8, 64, 128, 192]);
        for ((vectors, levels), base) in words {
            let mut left = *vectors;
            while left != 0 {
                let bit = left.trailing_zeros();
                left &= left.wrapping_sub(1);
                let is_level = levels >> (bit & 63) & 1 != 0;
                self.apic.accept(base | low8(u64::from(bit)), is_level);
            }
        }
        if taken.events & INIT != 0 {
            self.init();
        }
        if taken.events & STARTUP != 0 && self.activity == Activity::Waiting {
            self.begin(Start::Page(low8(taken.events >> STARTUP_PAGE)));
        }
        self.nmi_pending |= taken.events & NMI != 0;
    }

    /// INIT. The boot CPU would go on in firmware, which a virtual machine has none of: what
    /// firmware does then is a reset.
    fn init(&mut self) {
        if self.number == 0 {
            self.end(Stop::Reset);
        }
        self.apic.init();
        self.step.cancel();
        self.activity = Activity::Waiting;
        (self.nmi_pending, self.nmi_blocked) = (false, false);
        self.offered = 0;
        self.publish_route();
    }

    /// Starts with a state of its own.
    fn begin(&mut self, start: Start) {
        let [signature, ..] = self.cpuid.answer(1, 0, &self.inputs);
        let offset = self.machine.tsc_offset().wrapping_add(self.tsc_adjust);
        start::fill(self.host.state(), start, signature, offset);
        self.inputs.xcr0 = self.host.state().xcr0;
        self.wants_all = false;
        self.activity = Activity::Running;
    }

    /// Tells others how the APIC is addressed.
    pub(crate) fn publish_route(&mut self) {
        if let Some(own) = self.machine.posted.get(self.number) {
            own.set_route(self.apic.route());
        }
    }
}
