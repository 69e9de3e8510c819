//! IOMMUs: which memory a PCI function reaches, and which interrupts it raises.
//!
//! [`Iommu`] is the boot core's, until the seal: it takes units over, builds domains and puts
//! functions into them. After the seal nothing of that changes any more; what is left is the form of
//! a message ([`message`]) and the records of what was refused, which core 0 reads ([`drain`]).
//! `vtd` is Intel's.
//!
//! Invariant, default deny: a unit translates from the moment when it is taken over, and a
//! function that was not attached reaches nothing and raises nothing.

mod vtd;

use super::descriptors::DEVICE_VECTOR;
use super::{apic, window};
use cloister_abi::layout::MAX_TASKS;
use core::sync::atomic::{AtomicUsize, Ordering};
pub use vtd::Refused;
use vtd::Tables;

/// Units in use. The boot core writes it before the seal.
static UNITS: AtomicUsize = AtomicUsize::new(0);

/// What a device address is to stand for.
#[derive(Clone, Copy, Debug)]
pub struct Mapping {
    /// The device address.
    pub at: u64,
    /// The physical address.
    pub phys: u64,
    /// Bytes; everything is aligned to pages, or to large pages if `is_large`.
    pub len: u64,
    /// Devices may write.
    pub write: bool,
    /// Everything is aligned to large pages.
    pub is_large: bool,
}

/// Whose interrupts go where.
#[derive(Clone, Copy, Debug)]
pub struct Remap {
    /// The source that may raise it.
    pub source: u16,
    /// The vector.
    pub vector: u8,
    /// APIC id of the core.
    pub apic_id: u32,
    /// Level triggered.
    pub level: bool,
}

/// The machine's IOMMU under construction.
pub struct Iommu {
    tables: Option<Tables>,
    /// The domain of each task: the top table and the number, 0 without one.
    domains: [(u64, u16); MAX_TASKS],
    /// A unit could not be taken over, so functions behind it are not confined.
    is_broken: bool,
}

impl Default for Iommu {
    /// A machine without units, so far.
    fn default() -> Iommu {
        Iommu { tables: None, domains: [(0, 0); _], is_broken: false }
    }
}

impl Iommu {
    /// Whether every unit of the machine is in use, and there is one.
    pub fn is_usable(&self) -> bool {
        self.tables.is_some() && !self.is_broken
    }

    /// Whether functions can be bound as the manifest's `iommu = "absent-ok"` allows: with all of
    /// the units or with none.
    pub fn is_whole(&self) -> bool {
        !self.is_broken || units() == 0
    }

    /// Takes over the VT-d unit that was just mapped at the next page: from now on it refuses
    /// everything. `false`: it lacks something, or does not answer within `patience` TSC ticks.
    pub fn add_vtd(&mut self, patience: u64, carve: &mut dyn FnMut() -> u64) -> bool {
        let unit = units();
        let tables = self.tables.get_or_insert_with(|| Tables::new(patience, carve));
        let done = tables.take_over(unit, carve());
        if done {
            UNITS.store(unit + 1, Ordering::Relaxed);
        } else {
            self.is_broken = true;
        }
        done
    }

    /// Puts a function into the domain of its owner, which is built from `maps` if it has none yet.
    /// `false`: the units tell fewer domains apart.
    pub fn attach(
        &mut self,
        function: u16,
        task: usize,
        maps: impl Iterator<Item = Mapping>,
        carve: &mut dyn FnMut() -> u64,
    ) -> bool {
        let Some(tables) = &mut self.tables else { return true };
        if self.domains[task].1 == 0 {
            let Some(domain) = tables.new_domain(carve) else { return false };
            maps.for_each(|mapping| tables.map(domain.0, mapping, carve));
            self.domains[task] = domain;
        }
        tables.attach(function, self.domains[task], carve);
        true
    }

    /// Lets a source raise the interrupt of an index.
    pub fn remap(&self, index: usize, to: Remap) {
        self.tables.iter().for_each(|tables| tables.remap(index, to));
    }

    /// The last act before the seal: what the units have cached is forgotten. `false`: one does not
    /// answer.
    pub fn finish(&self) -> bool {
        self.tables.as_ref().is_none_or(|tables| (0..units()).all(|unit| tables.invalidate(unit)))
    }
}

/// Units in use, after the seal too.
pub fn units() -> usize {
    UNITS.load(Ordering::Relaxed)
}

/// Address and data of the message that raises the interrupt of an index on a core.
pub fn message(index: usize, apic_id: u32) -> (u32, u32) {
    if units() > 0 {
        return (vtd::message_address(index), 0);
    }
    (apic::PHYSICAL as u32 | apic_id << 12, u32::from(DEVICE_VECTOR) + index as u32)
}

/// Core 0: reads and clears what the units have refused, at most `most` records in all. Whether
/// more are left.
pub fn drain(most: usize, each: &mut dyn FnMut(Refused)) -> bool {
    let mut left = most;
    (0..units()).fold(false, |more, unit| vtd::drain(unit, &mut left, each) | more)
}

/// Core 0: has the units report nothing any more. They go on refusing.
pub fn silence() {
    (0..units()).for_each(vtd::silence);
}

const _: () = assert!(window::IOMMUS <= 8);
