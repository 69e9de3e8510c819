//! Typed capabilities: a slot in the task's capability table, with its kind and right as types.
//!
//! A [`Cap`] is not `Copy` and no public function makes one from a number: the only source is
//! [`crate::grants`], by the name that the manifest gives.

use core::marker::PhantomData;

use cloister_abi::call::{Call, PowerOp, ResetPhase};

use crate::syscall::{Refused, call, checked};
use crate::wait::Bits;

/// A capability of kind `K` with right `R`.
pub struct Cap<K, R> {
    slot: u32,
    _kind: PhantomData<fn() -> (K, R)>,
}

impl<K, R> Cap<K, R> {
    pub(crate) const fn at(slot: u32) -> Self {
        Cap { slot, _kind: PhantomData }
    }

    pub(crate) fn slot(&self) -> u64 {
        u64::from(self.slot)
    }
}

/// Kinds of objects.
pub mod kind {
    /// A thread of some task.
    pub enum Thread {}
    /// A task.
    pub enum Task {}
    /// An interrupt.
    pub enum Irq {}
    /// The machine's power.
    pub enum Power {}
    /// A function on the PCI bus.
    pub enum Device {}
}

/// Rights.
pub mod right {
    /// To set the capability's bit.
    pub enum Signal {}
    /// To stop, restart, resume and inspect.
    pub enum Control {}
    /// To acknowledge.
    pub enum Ack {}
    /// To power off or reboot; the kernel knows which of the two.
    pub enum Switch {}
    /// To take a function off the bus and to bring it back.
    pub enum Reset {}
}

/// The right to set one bit of one thread's signal word.
pub type Signal = Cap<kind::Thread, right::Signal>;

impl Signal {
    /// Sets the bit. A bit that is already set stays set: signals are hints, not counts.
    pub fn send(&self) -> Result<(), Refused> {
        checked(call(Call::Signal, self.slot(), 0, 0)).map(drop)
    }

    /// As [`Signal::send`], for wakes that nobody depends on alone: a refusal, which only a wrong
    /// system table can cause, leaves the peer to its deadline.
    pub fn wake(&self) {
        call(Call::Signal, self.slot(), 0, 0);
    }
}

/// An interrupt of a device that this task owns.
pub struct Irq {
    cap: Cap<kind::Irq, right::Ack>,
    bits: Bits,
}

impl Irq {
    pub(crate) fn new(slot: u32, bits: Bits) -> Self {
        Irq { cap: Cap::at(slot), bits }
    }

    /// The bit of the own signal word that the interrupt sets.
    pub fn bits(&self) -> Bits {
        self.bits
    }

    /// Unmasks the interrupt again; it is masked from its delivery until here.
    pub fn ack(&self) -> Result<(), Refused> {
        checked(call(Call::IrqAck, self.cap.slot(), 0, 0)).map(drop)
    }
}

/// The right to reset a PCI function that this task owns.
pub type PciDevice = Cap<kind::Device, right::Reset>;

impl PciDevice {
    /// Takes the function off the bus: it masters no more, and its interrupts are masked. With
    /// `function_level` the function is also told to reset itself, which a function that cannot do
    /// refuses; it then has 100 ms before its registers answer again (PCI Express Base
    /// Specification, "Function Level Reset (FLR)"). Without it the registers can be used at once,
    /// for the controller's own reset.
    pub fn begin_reset(&self, function_level: bool) -> Result<(), Refused> {
        self.reset(if function_level { ResetPhase::BeginFunction } else { ResetPhase::Begin })
    }

    /// Puts the function back on the bus: its configuration is written anew, then it is a bus
    /// master. Its interrupts come once each has been acknowledged. The kernel starts no task's function by itself, so a driver
    /// calls this once in each of its lives, when the controller is at rest.
    pub fn finish_reset(&self) -> Result<(), Refused> {
        self.reset(ResetPhase::Finish)
    }

    fn reset(&self, phase: ResetPhase) -> Result<(), Refused> {
        checked(call(Call::DeviceReset, self.slot(), phase as u64, 0)).map(drop)
    }
}

/// The right to switch the machine off or to reset it.
pub type Power = Cap<kind::Power, right::Switch>;

impl Power {
    /// Switches the machine off. Returns only if refused.
    pub fn off(&self) -> Refused {
        self.switch(PowerOp::Off)
    }

    /// Resets the machine. Returns only if refused.
    pub fn reboot(&self) -> Refused {
        self.switch(PowerOp::Reboot)
    }

    fn switch(&self, op: PowerOp) -> Refused {
        match checked(call(Call::Power, self.slot(), op as u64, 0)) {
            // The call was accepted and yet the machine is still on: the register that should do
            // it did nothing.
            Ok(_) => Refused::WrongState,
            Err(refused) => refused,
        }
    }
}
