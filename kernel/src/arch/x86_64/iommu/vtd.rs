//! Intel VT-d (Intel Virtualization Technology for Directed I/O, Architecture Specification): legacy
//! mode, second-level tables, queued invalidation, interrupt remapping, primary fault records.
//!
//! All units share one root table, one set of domains and one interrupt table, so it does not matter
//! which unit a function is behind. Everything is built before the seal ([`Tables`]); the registers
//! lie in core 0's window. Every line that a unit reads is written back, for those whose walks are
//! not coherent.
//!
//! Entries only ever change from absent to present, and before the last global invalidation
//! ([`Tables::invalidate`], at the seal), before which no function masters the bus; so it does not
//! matter whether a unit caches absent entries (caching mode). docs/reviews/0003-iommu-flushes.md.

use super::{Mapping, Remap};
use crate::arch::x86_64::paging::{self, ADDRESS, LARGE, LARGE_PAGE, Table};
use crate::arch::x86_64::{apic, cpu, window};
use crate::flush;
use cloister_abi::layout::PAGE;

// Registers ("Register Descriptions").
const CAPABILITY: u64 = 0x08;
const EXTENDED: u64 = 0x10;
const COMMAND: u64 = 0x18;
const STATUS: u64 = 0x1c;
const ROOT: u64 = 0x20;
const FAULT_STATUS: u64 = 0x34;
const FAULT_CONTROL: u64 = 0x38;
const FAULT_DATA: u64 = 0x3c;
const FAULT_ADDRESS: u64 = 0x40;
const FAULT_ADDRESS_HIGH: u64 = 0x44;
const PROTECTED: u64 = 0x64;
const QUEUE_TAIL: u64 = 0x88;
const QUEUE: u64 = 0x90;
const INTERRUPTS: u64 = 0xb8;

// Global command and status.
const TRANSLATE: u32 = 1 << 31;
const SET_ROOT: u32 = 1 << 30;
const FLUSH_BUFFER: u32 = 1 << 27;
const QUEUED: u32 = 1 << 26;
const REMAP: u32 = 1 << 25;
const SET_INTERRUPTS: u32 = 1 << 24;
/// Bits of the status that stay in force, and so are part of each command.
const LASTING: u32 = TRANSLATE | QUEUED | REMAP;

/// Interrupt table entries, as the register wants them: 2^(7 + 1), one page.
const INTERRUPTS_SIZE: u64 = 7;
/// Fault control: masked.
const FAULT_MASKED: u32 = 1 << 31;
/// Fault status: a record was lost; a record is there.
const OVERFLOW: u32 = 1;
const PENDING: u32 = 2;
/// A table entry: read, write.
const READ: u64 = 1;
const WRITE: u64 = 2;

/// Something that a unit has refused.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    /// Who wanted it.
    pub source: u16,
    /// The address.
    pub address: u64,
    /// Why, and whether it was a read; see `cloister_abi::fault`.
    pub reason: u64,
}

fn register<T>(unit: usize, offset: u64) -> *mut T {
    (window::IOMMU + unit as u64 * PAGE + offset) as *mut T
}

fn read(unit: usize, offset: u64) -> u32 {
    // SAFETY: core 0's window maps the unit here, uncached, and `offset` is inside; only core 0
    // runs this.
    unsafe { register::<u32>(unit, offset).read_volatile() }
}

fn write(unit: usize, offset: u64, value: u32) {
    // SAFETY: as for `read`; the callers name only tables and vectors of ours.
    unsafe { register::<u32>(unit, offset).write_volatile(value) };
}

fn read_wide(unit: usize, offset: u64) -> u64 {
    // SAFETY: as for `read`.
    unsafe { register::<u64>(unit, offset).read_volatile() }
}

fn write_wide(unit: usize, offset: u64, value: u64) {
    // SAFETY: as for `write`.
    unsafe { register::<u64>(unit, offset).write_volatile(value) };
}

/// The first fault record and their number.
fn records(capability: u64) -> (u64, u64) {
    ((capability >> 24 & 0x3ff) * 16, (capability >> 40 & 0xff) + 1)
}

/// Invalidations, and the command that waits for them ("Queued Invalidation Interface"): of all
/// context entries, translations, interrupt entries. The type is in the lowest four bits.
const CONTEXTS: u64 = 1 | 1 << 4;
const TRANSLATIONS: u64 = 2 | 1 << 4;
const REMAPS: u64 = 4;
const WAIT: u64 = 5 | 1 << 5 | 1 << 32;

/// Writes an entry that units read, and writes its line back. What they cache of it goes by an
/// invalidation of the type `cached`.
#[inline(never)]
fn put(entry: &mut u64, value: u64, cached: u64) {
    flush::table_changed(cached);
    *entry = value;
    cpu::write_back(entry);
}

/// A fresh table, as absent entries.
#[inline(never)]
fn fresh(carve: &mut dyn FnMut() -> u64) -> u64 {
    let page = carve();
    // SAFETY: just carved.
    let table: &mut Table = unsafe { paging::page(page) };
    table.iter().step_by(8).for_each(cpu::write_back);
    page
}

/// The tables that all units share.
pub struct Tables {
    root: u64,
    interrupts: u64,
    /// Each unit's invalidation queue.
    queues: [u64; window::IOMMUS],
    /// Numbers of levels that every unit walks: bit 1 three, bit 2 four.
    widths: u64,
    /// Every unit has large pages.
    has_large: bool,
    /// Interrupt entries have the form of x2APIC.
    is_extended: bool,
    /// Domains that every unit tells apart, and those in use; number 0 is reserved.
    domains_max: u32,
    domains: u32,
    patience: u64,
}

impl Tables {
    /// Tables that refuse everything.
    pub fn new(patience: u64, carve: &mut dyn FnMut() -> u64) -> Tables {
        Tables {
            root: fresh(carve),
            interrupts: fresh(carve),
            queues: [0; _],
            widths: if cfg!(feature = "iommu-four-levels") { 0b100 } else { 0b110 },
            has_large: true,
            is_extended: false,
            domains_max: u32::from(u16::MAX),
            domains: 0,
            patience,
        }
    }

    /// Whether a unit has all that is needed; narrows what is used to what it has.
    fn admit(&mut self, unit: usize) -> bool {
        let (capability, extended) = (read_wide(unit, CAPABILITY), read_wide(unit, EXTENDED));
        let has = |bit: u32| extended >> bit & 1 != 0;
        let (first, count) = records(capability);
        let is_extended = apic::is_x2apic() && has(4);
        let widths = self.widths & capability >> 8;
        let addresses = (capability >> 16 & 0x3f) + 1;
        // Queued invalidation and interrupt remapping.
        let fits = has(1) && has(3) && widths != 0 && addresses >= 39;
        if !fits || first + count * 16 > PAGE || (unit > 0 && is_extended != self.is_extended) {
            return false;
        }
        (self.widths, self.is_extended) = (widths, is_extended);
        self.has_large &= capability >> 34 & 1 != 0;
        self.domains_max = self.domains_max.min(1 << (4 + 2 * (capability & 7)));
        let (n, cm) = (self.levels(), capability >> 7 & 1);
        defmt::info!("VT-d: {=u32} levels, x2APIC {=bool}, caching {=u64}", n, is_extended, cm);
        true
    }

    /// Makes a unit refuse everything, and report that. `queue`: a zeroed page.
    pub fn take_over(&mut self, unit: usize, queue: u64) -> bool {
        if !self.admit(unit) {
            return false;
        }
        self.queues[unit] = queue;
        // What firmware has left on goes off, the queue last.
        let mut done = [REMAP, TRANSLATE, QUEUED].iter().all(|&bit| self.turn(unit, bit, false));
        write_wide(unit, ROOT, self.root);
        done = done && self.turn(unit, SET_ROOT, true);
        let extended = u64::from(self.is_extended) << 11;
        write_wide(unit, INTERRUPTS, self.interrupts | extended | INTERRUPTS_SIZE);
        done = done && self.turn(unit, SET_INTERRUPTS, true);
        [CONTEXTS, TRANSLATIONS, REMAPS].into_iter().for_each(flush::table_changed);
        write_wide(unit, QUEUE_TAIL, 0);
        write_wide(unit, QUEUE, queue);
        done = done && self.turn(unit, QUEUED, true) && self.invalidate(unit);
        drain(unit, &mut usize::from(u16::MAX), &mut |_| {});
        // The message of a unit itself is not remapped.
        write(unit, FAULT_DATA, u32::from(apic::IOMMU_VECTOR));
        write(unit, FAULT_ADDRESS, apic::PHYSICAL as u32 | apic::id() << 12);
        write(unit, FAULT_ADDRESS_HIGH, 0);
        write(unit, FAULT_CONTROL, 0);
        flush::tables_used(unit..unit + 1);
        done = done && self.turn(unit, TRANSLATE, true) && self.turn(unit, REMAP, true);
        // Firmware's protected ranges, which would also keep out what a domain allows.
        let capability = read_wide(unit, CAPABILITY);
        if done && capability & 3 << 5 != 0 {
            write(unit, PROTECTED, 0);
            return self.wait(|| read(unit, PROTECTED) & 1 == 0);
        }
        done
    }

    fn wait(&self, mut until: impl FnMut() -> bool) -> bool {
        let start = cpu::rdtsc();
        while !until() {
            if cpu::rdtsc() - start > self.patience {
                return false;
            }
            core::hint::spin_loop();
        }
        true
    }

    #[inline(never)]
    fn turn(&self, unit: usize, bit: u32, on: bool) -> bool {
        let wanted = if on { bit } else { 0 };
        write(unit, COMMAND, read(unit, STATUS) & LASTING & !bit | wanted);
        self.wait(|| read(unit, STATUS) & bit == wanted)
    }

    /// Has a unit forget everything: context, translations, interrupts. Called when it is taken over
    /// and at the seal, so the queue never wraps.
    pub fn invalidate(&self, unit: usize) -> bool {
        let capability = read_wide(unit, CAPABILITY);
        if capability >> 4 & 1 != 0 {
            write(unit, COMMAND, read(unit, STATUS) & LASTING | FLUSH_BUFFER);
            if !self.wait(|| read(unit, STATUS) & FLUSH_BUFFER == 0) {
                return false;
            }
        }
        // Writes and reads under way are drained where the unit can.
        let drains = (capability >> 54 & 1) << 6 | (capability >> 55 & 1) << 7;
        let done_at = self.queues[unit] + PAGE - 8;
        let commands = [[CONTEXTS, 0], [TRANSLATIONS | drains, 0], [REMAPS, 0], [WAIT, done_at]];
        let tail = read_wide(unit, QUEUE_TAIL);
        // SAFETY: carved for this; the unit reads it and writes the last word alone.
        let queue: &mut Table = unsafe { paging::page(self.queues[unit]) };
        let [entries @ .., done] = queue;
        *done = 0;
        cpu::write_back(done);
        flush::tables_forgotten(unit, &commands);
        for (to, from) in entries.iter_mut().skip(tail as usize / 8).zip(commands.as_flattened()) {
            *to = *from;
            cpu::write_back(to);
        }
        cpu::fence();
        write_wide(unit, QUEUE_TAIL, tail + size_of_val(&commands) as u64);
        let done: *const u64 = done;
        // SAFETY: the last word of the page, which the unit sets.
        self.wait(|| unsafe { done.read_volatile() } != 0)
    }

    /// A domain without mappings: its top table and number.
    pub fn new_domain(&mut self, carve: &mut dyn FnMut() -> u64) -> Option<(u64, u16)> {
        self.domains += 1;
        (self.domains < self.domains_max).then(|| (fresh(carve), self.domains as u16))
    }

    /// Levels of the domains' tables.
    fn levels(&self) -> u32 {
        if self.widths >> 1 & 1 != 0 { 3 } else { 4 }
    }

    /// Maps into a domain that is not attached yet ("Second-Level Translation").
    pub fn map(&self, domain: u64, mapping: Mapping, carve: &mut dyn FnMut() -> u64) {
        let is_large = mapping.is_large && self.has_large;
        let (size, depth, more) = if is_large { (LARGE_PAGE, 1, LARGE) } else { (PAGE, 0, 0) };
        let rights = READ | if mapping.write { WRITE } else { 0 };
        for done in (0..mapping.len).step_by(size as usize) {
            let at = mapping.at + done;
            let mut table = domain;
            for level in (depth..self.levels()).rev() {
                // SAFETY: a table of this domain, carved here or before; one is looked at.
                let entries: &mut Table = unsafe { paging::page(table) };
                let entry = &mut entries[(at >> (12 + 9 * level)) as usize & 511];
                if level == depth {
                    put(entry, (mapping.phys + done) | rights | more, TRANSLATIONS);
                } else if *entry == 0 {
                    put(entry, fresh(carve) | READ | WRITE, TRANSLATIONS);
                }
                table = *entry & ADDRESS;
            }
        }
    }

    /// Puts a function into a domain ("Root-Table", "Context-Table").
    pub fn attach(&self, function: u16, domain: (u64, u16), carve: &mut dyn FnMut() -> u64) {
        // SAFETY: the root table; one table at a time is looked at.
        let root: &mut Table = unsafe { paging::page(self.root) };
        let entry = &mut root[usize::from(function >> 8) * 2];
        if *entry == 0 {
            put(entry, fresh(carve) | 1, CONTEXTS);
        }
        // SAFETY: as above.
        let contexts: &mut Table = unsafe { paging::page(*entry & ADDRESS) };
        let at = usize::from(function & 0xff) * 2;
        // The width first: the entry is valid with its other half.
        let width = u64::from(self.levels() - 2);
        put(&mut contexts[at + 1], width | u64::from(domain.1) << 8, CONTEXTS);
        put(&mut contexts[at], domain.0 | 1, CONTEXTS);
    }

    /// Writes an interrupt entry ("Interrupt Remapping Table Entry (IRTE) for Remapped Interrupts"):
    /// fixed, physical, from this source alone.
    pub fn remap(&self, index: usize, to: Remap) {
        // SAFETY: the interrupt table; nothing else looks at it.
        let entries: &mut Table = unsafe { paging::page(self.interrupts) };
        let id = u64::from(to.apic_id) << if self.is_extended { 32 } else { 40 };
        put(&mut entries[index * 2 + 1], u64::from(to.source) | 1 << 18, REMAPS);
        let what = 1 | u64::from(to.level) << 4 | u64::from(to.vector) << 16;
        put(&mut entries[index * 2], what | id, REMAPS);
    }
}

/// The address of the message that raises the interrupt of an index ("Interrupt Requests in
/// Remappable Format"): all that it says is the index.
pub fn message_address(index: usize) -> u32 {
    apic::PHYSICAL as u32 | (index as u32) << 5 | 1 << 4
}

/// Reads and clears a unit's fault records, at most `left`. Whether there are more.
#[inline(never)]
pub fn drain(unit: usize, left: &mut usize, each: &mut dyn FnMut(Refused)) -> bool {
    let (first, count) = records(read_wide(unit, CAPABILITY));
    // A record that comes behind the walk tells nobody, as long as one is there.
    while read(unit, FAULT_STATUS) & (PENDING | OVERFLOW) != 0 {
        write(unit, FAULT_STATUS, OVERFLOW);
        for record in (0..count).map(|n| first + n * 16) {
            let high = read_wide(unit, record + 8);
            if high >> 63 == 0 {
                continue;
            }
            let address = read_wide(unit, record);
            write(unit, record + 12, 1 << 31);
            let reason = high >> 32 & 0xff | (high >> 62 & 1) << 32;
            each(Refused { source: high as u16, address, reason });
            *left = left.saturating_sub(1);
        }
        if *left == 0 {
            return true;
        }
        *left -= 1;
    }
    false
}

/// Has a unit report nothing any more.
pub fn silence(unit: usize) {
    write(unit, FAULT_CONTROL, FAULT_MASKED);
}
