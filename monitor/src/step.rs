//! Accesses to device pages, one instruction at a time, without knowing the instruction.
//!
//! A fault on a device page names an address and whether it was written. [`Step`] puts the page
//! into one of the two slots, its owner fills the register's bytes, and the kernel runs that one
//! instruction with the slots mapped. If it touches a further page, or writes where it had only
//! read, it faults again and is begun anew with more. Once it is done, each register that was
//! written has its effect ([`Step::writes`]). Neighbours: `run` drives it, `bus` owns the pages.
//!
//! Invariant: "written" means that a write fault happened at that register, so storing the value
//! that is already there counts, and a read never has the effect of a write. Reading a register of
//! these devices has no effect of its own, so filling a slot twice does no harm.

use crate::num::index;
use cloister_abi::layout::{GUEST_DEVICES, PAGE};
use cloister_abi::vcpu::{SLOT_WRITE, SLOTS};
use core::sync::atomic::{AtomicU64, Ordering};

/// Faults that one instruction can have: a read and a write fault on each of two pages, and
/// between them an exit that had nothing to do with it. More means that the slots do not help.
const FAULTS_MAX: u8 = 8;
/// What an access to an address without an owner reads.
const ONES: [u64; 2] = [u64::MAX; 2];
/// Words of a slot.
const SLOT_WORDS: usize = 512;

/// Why an instruction cannot be stepped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stuck {
    /// It touches more than two device pages.
    Pages,
    /// It faults again and again.
    Faults,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Guest-physical address of the page, 0 if the slot is free.
    page: u64,
    /// Address of the write fault, 0 if there was none.
    written: u64,
}

/// The step of one virtual CPU.
#[derive(Debug, Default)]
pub struct Step {
    slots: [Slot; SLOTS],
    faults: u8,
}

/// Whether the kernel can put a slot at this guest-physical address.
pub fn is_device(address: u64) -> bool {
    GUEST_DEVICES.contains(&address)
}

impl Step {
    /// Whether an instruction is being stepped.
    #[inline(always)]
    pub fn is_active(&self) -> bool {
        self.faults != 0
    }

    /// Begins the step of an instruction for another reason than a device page.
    pub fn begin(&mut self) {
        self.faults = 1;
    }

    /// A fault on a device page. Returns the number of the slot, whose register is to be filled.
    pub fn fault(&mut self, address: u64, write: bool) -> Result<usize, Stuck> {
        if self.faults >= FAULTS_MAX {
            return Err(Stuck::Faults);
        }
        self.faults = self.faults.saturating_add(1);
        let page = page_of(address);
        let is_usable = |slot: &Slot| slot.page == page || slot.page == 0;
        let number = self.slots.iter().position(is_usable).ok_or(Stuck::Pages)?;
        if let Some(slot) = self.slots.get_mut(number) {
            slot.page = page;
            if write {
                slot.written = address;
            }
        }
        Ok(number)
    }

    /// Where the slots go, as the kernel wants to know it.
    pub fn addresses(&self) -> [u64; SLOTS] {
        self.slots.map(|slot| slot.page | if slot.written == 0 { 0 } else { SLOT_WRITE })
    }

    /// Ends the step; the slots in which a register was written, with the address of each.
    pub fn writes(&mut self) -> [Option<u64>; SLOTS] {
        let written = self.slots.map(|slot| (slot.written != 0).then_some(slot.written));
        *self = Step::default();
        written
    }

    /// Ends the step without effects.
    pub fn cancel(&mut self) {
        if self.is_active() {
            *self = Step::default();
        }
    }
}

/// The pages of the slots, as words that the guest may change during a step.
pub struct Pages<'a>(pub &'a [AtomicU64]);

impl Pages<'_> {
    /// Puts 16 bytes where an address lies in a slot.
    pub fn fill(&self, slot: usize, address: u64, values: [u64; 2]) {
        for (word, value) in self.at(slot, address & !0xf, 2).iter().zip(values) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Fills what the widest access from an address on can reach, up to the end of the page, with
    /// ones: two lines of 64 bytes.
    pub fn fill_ones(&self, slot: usize, address: u64) {
        let parts = (0..128).step_by(16).map(|part| (address & !0x3f).wrapping_add(part));
        for part in parts.filter(|part| page_of(*part) == page_of(address)) {
            self.fill(slot, part, ONES);
        }
    }

    /// The 16 bytes where an address lies in a slot.
    pub fn read(&self, slot: usize, address: u64) -> [u64; 2] {
        let mut values = [0; 2];
        for (value, word) in values.iter_mut().zip(self.at(slot, address & !0xf, 2)) {
            *value = word.load(Ordering::Relaxed);
        }
        values
    }

    fn at(&self, slot: usize, address: u64, words: usize) -> &[AtomicU64] {
        let first = index((address & (PAGE - 1)) / 8);
        let start = slot.saturating_mul(SLOT_WORDS).saturating_add(first);
        self.0.get(start..start.saturating_add(words)).unwrap_or(&[])
    }
}

fn page_of(address: u64) -> u64 {
    address & !(PAGE - 1)
}
