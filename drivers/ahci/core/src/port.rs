//! A port's registers ("Port Registers"): [`Port`] starts and stops it and looks at its state.
//!
//! Invariant: a port that was stopped touches no memory.

use cloister_block::{Pause, Registers, ms, wait_for};
use cloister_dma::Memory;

use crate::fault::Failure;
use crate::plan::Plan;
use crate::registers::{GONE, port as at};

/// Registers of the first port, and bytes from one to the next.
const FIRST: u64 = 0x100;
const STRIDE: u64 = 0x80;

/// In [`at::CMD`]: work on commands, spin up, power, receive, both that go on; link active.
const START: u32 = 1;
const SPIN_UP: u32 = 1 << 1;
const POWER: u32 = 1 << 2;
const RECEIVE: u32 = 1 << 4;
const RECEIVING: u32 = 1 << 14;
const WORKING: u32 = 1 << 15;
const ACTIVE: u32 = 1 << 28;
/// In [`at::TFD`]: the disk has an error, wants data, is busy.
const ERROR: u32 = 1;
const WANTS_DATA: u32 = 1 << 3;
const BUSY: u32 = 1 << 7;
/// In [`at::SCTL`]: reset the link, or let it be; no low-power states.
const LINK_RESET: u32 = 1;
const LINK_AWAKE: u32 = 3 << 8;
/// What the link is like if a disk is there and talks.
const LINK_UP: u32 = 3;
/// The signature of a disk.
const DISK: u32 = 0x0000_0101;

/// What a port interrupts for: register, PIO, DMA and device-bits structures; connection changed;
/// link state changed; overflow; link, host data, host bus and task file errors.
const CAUSES: u32 = CHANGED | ENDED | RECOVERABLE | FATAL;
const ENDED: u32 = 0b1111;
/// The disk was pulled out or put in, or the link went down.
const CHANGED: u32 = 1 << 6 | 1 << 22;
/// A command failed, or its transfer did.
const RECOVERABLE: u32 = 1 << 24 | 1 << 26 | 1 << 27 | 1 << 30;
/// The controller's own accesses to memory failed.
const FATAL: u32 = 1 << 28 | 1 << 29;

/// How long a port may take to stop, a link to come up once something is there, and a disk to be
/// ready afterwards.
const STOP_NS: u64 = ms(500);
const PRESENT_NS: u64 = ms(20);
const LINK_NS: u64 = ms(1000);
const READY_NS: u64 = ms(30_000);
/// How long the link is held in reset.
const RESET_NS: u64 = ms(1);

/// What happened at a port since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Events {
    pub(crate) has_error: bool,
    pub(crate) is_fatal: bool,
    pub(crate) has_changed: bool,
}

/// A port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    number: u8,
}

impl Port {
    pub(crate) fn new(number: u8) -> Port {
        Port { number }
    }

    pub(crate) fn number(self) -> u8 {
        self.number
    }

    fn place(self, register: u64) -> u64 {
        u64::from(self.number).saturating_mul(STRIDE).saturating_add(FIRST).saturating_add(register)
    }

    pub(crate) fn read(self, registers: &impl Registers, register: u64) -> Result<u32, Failure> {
        registers.read(self.place(register)).ok_or(Failure::Memory)
    }

    fn write(self, registers: &impl Registers, register: u64, value: u32) -> Result<(), Failure> {
        registers.write(self.place(register), value).ok_or(Failure::Memory)
    }

    /// Waits until some bits of a register are 0.
    fn wait_clear(
        self,
        registers: &impl Registers,
        pause: &impl Pause,
        (register, bits): (u64, u32),
        ns: u64,
    ) -> Result<(), Failure> {
        let found = wait_for(pause, ns, || match self.read(registers, register) {
            Ok(GONE) => Some(Err(Failure::Gone)),
            Ok(value) if value & bits == 0 => Some(Ok(())),
            Ok(_) => None,
            Err(failure) => Some(Err(failure)),
        });
        found.unwrap_or(Err(Failure::NotReady))
    }

    /// Has the port work on no command any more. It still receives.
    pub(crate) fn pause(
        self,
        registers: &impl Registers,
        pause: &impl Pause,
    ) -> Result<(), Failure> {
        let command = self.read(registers, at::CMD)?;
        if command == GONE {
            return Err(Failure::Gone);
        }
        self.write(registers, at::CMD, command & !START)?;
        self.wait_clear(registers, pause, (at::CMD, WORKING), STOP_NS)
    }

    /// Stops the port.
    pub(crate) fn stop(
        self,
        registers: &impl Registers,
        pause: &impl Pause,
    ) -> Result<(), Failure> {
        self.write(registers, at::IE, 0)?;
        self.pause(registers, pause)?;
        let command = self.read(registers, at::CMD)?;
        self.write(registers, at::CMD, command & !RECEIVE)?;
        self.wait_clear(registers, pause, (at::CMD, RECEIVING), STOP_NS)
    }

    /// Has the port receive, and resets its link; whether there is a disk.
    pub(crate) fn connect(
        self,
        registers: &impl Registers,
        memory: &impl Memory,
        pause: &impl Pause,
    ) -> Result<bool, Failure> {
        for (register, place) in [(at::CLB, Plan::HEADS), (at::FB, Plan::RECEIVED)] {
            let [low, high] = halves(memory.address(place));
            self.write(registers, register, low)?;
            self.write(registers, register.saturating_add(4), high)?;
        }
        self.write(registers, at::CMD, RECEIVE | POWER | SPIN_UP)?;
        self.reset_link(registers, pause)
    }

    /// Resets the link of a port that works on no command ("Software Reset", COMRESET): the disk
    /// forgets all commands. Whether there is a disk afterwards.
    pub(crate) fn reset_link(
        self,
        registers: &impl Registers,
        pause: &impl Pause,
    ) -> Result<bool, Failure> {
        self.write(registers, at::SCTL, LINK_AWAKE | LINK_RESET)?;
        pause.sleep(RESET_NS);
        self.write(registers, at::SCTL, LINK_AWAKE)?;
        let link = || self.link(registers).ok();
        if wait_for(pause, PRESENT_NS, || link().filter(|link| *link != 0)).is_none()
            || wait_for(pause, LINK_NS, || link().filter(|link| *link == LINK_UP)).is_none()
        {
            return Ok(false);
        }
        self.write(registers, at::SERR, u32::MAX)?;
        let command = self.read(registers, at::CMD)?;
        self.write(registers, at::CMD, command & !START | ACTIVE)?;
        self.wait_clear(registers, pause, (at::TFD, BUSY | WANTS_DATA), READY_NS)?;
        Ok(self.read(registers, at::SIG)? == DISK)
    }

    /// Has the port work on commands.
    pub(crate) fn start(self, registers: &impl Registers) -> Result<(), Failure> {
        self.write(registers, at::SERR, u32::MAX)?;
        self.write(registers, at::IS, u32::MAX)?;
        let command = self.read(registers, at::CMD)?;
        self.write(registers, at::CMD, command | START)
    }

    /// Has the port interrupt.
    pub(crate) fn listen(self, registers: &impl Registers) -> Result<(), Failure> {
        self.write(registers, at::IE, CAUSES)
    }

    /// Takes what happened since the last look. What happens afterwards interrupts anew.
    pub(crate) fn take_events(self, registers: &impl Registers) -> Option<Events> {
        let causes = self.read(registers, at::IS).ok()?;
        if causes & CHANGED != 0 {
            // These two are seen through this register, which alone clears them.
            self.write(registers, at::SERR, u32::MAX).ok()?;
        }
        if causes != 0 {
            self.write(registers, at::IS, causes).ok()?;
            registers.write(crate::registers::IS, 1u32.checked_shl(self.number.into())?)?;
        }
        Some(Events {
            has_error: causes & RECOVERABLE != 0,
            is_fatal: causes & FATAL != 0,
            has_changed: causes & CHANGED != 0,
        })
    }

    /// Whether an error came since the events were taken.
    pub(crate) fn has_error(self, registers: &impl Registers) -> bool {
        self.read(registers, at::IS).is_ok_and(|causes| causes & RECOVERABLE != 0)
    }

    /// What the link is like: 0 with nothing behind it, [`LINK_UP`] if it can be used.
    fn link(self, registers: &impl Registers) -> Result<u32, Failure> {
        self.read(registers, at::SSTS).map(|status| status & 0xf)
    }

    /// Whether there is a disk and the controller.
    pub(crate) fn is_connected(self, registers: &impl Registers) -> bool {
        let status = self.read(registers, at::SSTS);
        status.is_ok_and(|status| status != GONE && status & 0xf == LINK_UP)
    }

    /// Whether the disk still has something to do though the port does not work on commands.
    pub(crate) fn is_busy(self, registers: &impl Registers) -> bool {
        self.read(registers, at::TFD).is_ok_and(|task| task & (BUSY | WANTS_DATA) != 0)
    }

    /// The disk's error register, if it says that it has an error.
    pub(crate) fn error(self, registers: &impl Registers) -> Option<u8> {
        let task = self.read(registers, at::TFD).ok()?;
        let [_, error, ..] = task.to_le_bytes();
        (task & ERROR != 0).then_some(error)
    }

    /// Issues commands, of which `queued` belong to the disk's queue.
    pub(crate) fn issue(self, registers: &impl Registers, slots: u32, queued: u32) {
        if queued != 0 {
            let _ = self.write(registers, at::SACT, queued);
        }
        let _ = self.write(registers, at::CI, slots);
    }

    /// The slots whose commands have not ended.
    pub(crate) fn busy_slots(self, registers: &impl Registers) -> Option<u32> {
        // A command of the queue is in both at first, and in the second until it ends. Read in this
        // order it is in one of them.
        let issued = self.read(registers, at::CI).ok()?;
        let active = self.read(registers, at::SACT).ok()?;
        Some(issued | active)
    }
}

/// The halves of a word, the lower first.
pub(crate) fn halves(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}
