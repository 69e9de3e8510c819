//! Which interrupts devices raise, as the IOMMU looks them up: the table of remapped interrupts.
//!
//! [`judge`] wants one entry for each interrupt of the system table, and no other: a fixed interrupt
//! with the kernel's vector for it, to the core of its owner, from one source that is checked in
//! full. A function's interrupts have the source of a function with a domain, another device another
//! one; those of IOAPIC pins have none of these (Intel VT-d, "Interrupt Remapping Table Entry (IRTE)
//! for Remapped Interrupts").
//!
//! Invariant: an entry that is absent is zero.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use cloister_abi::table::DEVICE_PLATFORM;

use super::Damage;
use super::rules::{Findings, System};
use super::spaces::Memory;

/// Entries of the table, which is a page.
const ENTRIES: u64 = 256;
/// The kernel's first vector for devices.
const VECTOR: u64 = 0x40;
/// Of the lower half: present; the trigger mode, which is the device's; vector and destination.
const PRESENT: u64 = 1;
const LEVEL: u64 = 1 << 4;
/// Of the upper half: the whole source is compared.
const CHECKED: u64 = 1 << 18;
const SOURCE: u64 = 0xffff;

/// Judges the table at `at`; `functions` are the sources with a domain. How many entries there are.
pub fn judge(
    system: &System,
    memory: &Memory,
    at: u64,
    functions: &[u16],
    findings: &mut Findings,
) -> usize {
    let word = |at: u64| memory.word(at).unwrap_or(u64::MAX);
    let mut sources = BTreeMap::new();
    let mut count = 0;
    for index in 0..ENTRIES {
        let (low, high) = (word(at + index * 16), word(at + index * 16 + 8));
        if low == 0 && high == 0 {
            continue;
        }
        count += 1;
        let complaint = match expected(system, index) {
            None => Some("belongs to no interrupt".to_owned()),
            Some((device, core)) => entry(low, high, index, core).err().or_else(|| {
                let is_pin = system.table.devices[device].kind == DEVICE_PLATFORM;
                // All pins are those of one IOAPIC here.
                let owner = if is_pin { usize::MAX } else { device };
                let source = (high & SOURCE) as u16;
                let known = *sources.entry(source).or_insert(owner);
                let is_function = functions.contains(&source);
                (known != owner || is_function == is_pin)
                    .then(|| format!("is for the source {source:#06x}"))
            }),
        };
        if let Some(complaint) = complaint {
            findings.complain(format!("interrupt entry {index}, {high:#x} {low:#x}, {complaint}"));
        }
    }
    let wanted = system.table.irqs.len();
    if count != wanted {
        findings.complain(format!("{count} interrupt entries for {wanted} interrupts"));
    }
    count
}

/// The device and the core of an interrupt. Pins are the business of core 0.
fn expected(system: &System, index: u64) -> Option<(usize, u64)> {
    let irq = system.table.irqs.get(usize::try_from(index).ok()?)?;
    let device = usize::from(irq.device);
    let is_pin = system.table.devices[device].kind == DEVICE_PLATFORM;
    let thread = &system.table.threads[usize::from(irq.thread)];
    Some((device, if is_pin { 0 } else { thread.core.into() }))
}

/// Whether an entry is for this core; the two forms of the table have its number in two places.
fn entry(low: u64, high: u64, index: u64, core: u64) -> Result<(), String> {
    let what = low & !LEVEL & 0xffff_ffff;
    let to = low >> 32;
    if what != PRESENT | (VECTOR + index) << 16 {
        return Err("is of another kind or vector".to_owned());
    }
    if to != core && to != core << 8 {
        return Err(format!("is not for core {core}"));
    }
    if high & !SOURCE != CHECKED { Err("does not check its source".to_owned()) } else { Ok(()) }
}

/// Ways to let a device raise too much or too little.
pub fn damages(system: &System, memory: &Memory, at: u64) -> Result<Vec<Damage>> {
    let word = |at: u64| memory.word(at).context("the interrupt table lies outside memory");
    let (low, high) = (word(at)?, word(at + 8)?);
    let free = at + system.table.irqs.len() as u64 * 16;
    let mut ways = vec![
        ("an interrupt of any source", at + 8, high & !CHECKED),
        ("an interrupt of a source that is checked in part", at + 8, high | 1 << 16),
        ("an interrupt with another vector", at, low + (1 << 16)),
        ("a non-maskable interrupt", at, low | 4 << 5),
        ("an interrupt of another core", at, low ^ 1 << 32 ^ 1 << 40),
        ("an interrupt that is missing", at, 0),
        ("an interrupt that nobody has", free, low),
    ];
    let irqs = system.table.irqs.iter();
    let kind = |device: u16| system.table.devices[usize::from(device)].kind;
    let mut functions = (0..).zip(irqs).filter(|(_, irq)| kind(irq.device) != DEVICE_PLATFORM);
    if let Some((index, _)) = functions.next() {
        let place = at + index * 16 + 8;
        ways.push(("a function's interrupt that a stranger raises", place, word(place)? ^ 1 << 3));
    }
    Ok(ways)
}

#[cfg(test)]
mod tests {
    use super::{CHECKED, entry};

    #[test]
    fn an_entry_is_for_one_vector_one_core_and_one_source() {
        for low in [0x0042_0001 | 3 << 32, 0x0042_0011 | 3 << 40] {
            assert_eq!(entry(low, CHECKED | 0x100, 2, 3), Ok(()));
        }
        let low = 0x0042_0001 | 3 << 32;
        for (low, high) in [
            (low, 0x100),
            (low, CHECKED | 1 << 16 | 0x100),
            (low, CHECKED | 1 << 19 | 0x100),
            (low | 1 << 2, CHECKED),
            (low | 4 << 5, CHECKED),
            (low | 1 << 15, CHECKED),
            (low + (1 << 16), CHECKED),
            (low + (1 << 32), CHECKED),
        ] {
            assert!(entry(low, high, 2, 3).is_err(), "{low:#x} {high:#x}");
        }
    }
}
