//! Test task: has QEMU's `edu` copy memory, where its IOMMU domain lets it and where not, and
//! interrupt by a message (QEMU, "EDU device": 0x60 raises and 0x64 ends an interrupt, 0x80 is the
//! source, 0x88 the target, 0x90 the length, 0x98 the command of a copy; its own memory is at
//! 0x40000).
//!
//! What was refused is for the kernel to say; this task sees that memory stayed what it was.

#![no_std]
#![no_main]

use cloister_rt::{
    Deadline, DmaRegion, Duration, Instant, Irq, PciDevice, Registers, Woken, grants, sleep_until,
    wait,
};

cloister_rt::entry!(main);

/// The device's own memory.
const INSIDE: u32 = 0x4_0000;
/// Bytes of a copy.
const LEN: u32 = 256;
/// A copy takes a tenth of a second.
const PATIENCE: Duration = Duration::from_millis(600);
/// Words of memory that are in nobody's domain: where the kernel is, and where firmware is.
const FOREIGN: [u32; 4] = [0x10_0000, 0x20_0000, 0xf_0000, 0x7000_0000];

struct Edu {
    registers: Registers,
    function: PciDevice,
    irq: Irq,
    buffer: DmaRegion,
}

impl Edu {
    fn find() -> Option<Edu> {
        Some(Edu {
            registers: grants().registers("edu.bar0").ok()?,
            function: grants().device("edu").ok()?,
            irq: grants().irq("edu").ok()?,
            buffer: grants().dma("buffer").ok()?,
        })
    }

    fn word(&self, index: u64) -> *mut u32 {
        core::ptr::with_exposed_provenance_mut((self.buffer.address() + index * 4) as usize)
    }

    fn set(&self, index: u64, value: u32) {
        // SAFETY: a word of the buffer, which is mapped and of which no reference exists.
        unsafe { self.word(index).write_volatile(value) };
    }

    fn get(&self, index: u64) -> u32 {
        // SAFETY: as for `set`.
        unsafe { self.word(index).read_volatile() }
    }

    /// Copies; false if the device does not come to an end.
    fn copy(&self, from: u32, to: u32, out: bool) -> bool {
        for (register, value) in [(0x80, from), (0x88, to), (0x90, LEN)] {
            self.registers.write(register, value);
        }
        self.registers.write(0x98, if out { 3 } else { 1 });
        let end = Instant::now() + PATIENCE;
        while self.registers.read(0x98).is_some_and(|command| command & 1 != 0) {
            if Instant::now() > end {
                return false;
            }
            sleep_until(Instant::now() + Duration::from_millis(5));
        }
        true
    }

    fn at(&self, offset: u32) -> u32 {
        self.buffer.address() as u32 + offset
    }

    /// Sends a pattern into the device and back to the second half of the page; whether it came.
    fn goes_round(&self, seed: u32) -> bool {
        for index in 0..u64::from(LEN / 4) {
            self.set(index, seed + index as u32);
            self.set(512 + index, 0);
        }
        self.copy(self.at(0), INSIDE, false);
        self.copy(INSIDE, self.at(2048), true);
        (0..u64::from(LEN / 4)).all(|index| self.get(512 + index) == seed + index as u32)
    }

    /// Raises an interrupt; whether it comes.
    fn interrupts(&self) -> bool {
        self.registers.write(0x60, 1);
        let deadline = Deadline::At(Instant::now() + PATIENCE);
        let came = matches!(wait(self.irq.bits(), deadline), Woken::Bits(_));
        self.registers.write(0x64, 1);
        came
    }
}

fn say(what: &'static str, is_right: bool) -> bool {
    if is_right {
        defmt::info!("{=str}: ok", what);
    } else {
        defmt::error!("{=str}: FAILED", what);
    }
    is_right
}

fn main() -> u32 {
    let Some(edu) = Edu::find() else { return 2 };
    let mut right = say("before its first reset a function reaches nothing", !edu.goes_round(1));
    right &= say("a reset ends", edu.function.finish_reset().is_ok());
    right &= say("a granted page is reached", edu.goes_round(0x100));
    right &= say("an interrupt is acknowledged", edu.irq.ack().is_ok());
    right &= say("a message comes", edu.interrupts());
    right &= say("it is acknowledged", edu.irq.ack().is_ok());
    right &= say("another one comes", edu.interrupts());
    let secret: u32 = 0x5ec2_e700;
    let at = &raw const secret;
    let mut copied = true;
    for target in FOREIGN.into_iter().chain([at.addr() as u32, edu.at(4096)]) {
        copied &= edu.copy(INSIDE, target, true) && edu.copy(target, INSIDE, false);
    }
    right &= say("copies to other memory end", copied);
    // SAFETY: a local, of which no mutable reference exists.
    right &= say("a stack stays what it was", unsafe { at.read_volatile() } == 0x5ec2_e700);
    right &= say("a granted page is reached still", edu.goes_round(0x200));
    right &= say("a reset begins", edu.function.begin_reset(false).is_ok());
    right &= say("in a reset a function reaches nothing", !edu.goes_round(0x300));
    right &= say("a function-level reset is refused", edu.function.begin_reset(true).is_err());
    right &= say("it ends again", edu.function.finish_reset().is_ok());
    right &= say("and again a granted page is reached", edu.goes_round(0x400));
    u32::from(!right)
}
