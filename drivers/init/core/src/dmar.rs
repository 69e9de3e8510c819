//! The DMAR: which VT-d units there are, which source ids interrupt controllers have, and which
//! functions firmware wants to reach memory.
//!
//! Intel Virtualization Technology for Directed I/O 4.1, "DMA Remapping Reporting Structure",
//! "DMA Remapping Hardware Unit Definition Structure", "Device Scope Structure" and "Reserved
//! Memory Region Reporting Structure". [`structures`] reads the records one after the other;
//! [`Summary`] is what of them matters for PCI segment 0. Records of other kinds (ATSR, RHSA and
//! later ones) are stepped over: address translation services are never used.
//!
//! Invariant: a record or a scope that lies about its length is damage, and ends the reading.

use crate::acpi::{Damaged, Table};
use crate::bytes::{u8_at, u16_at, u64_at};
use crate::pci::{Address, Config, Functions};

/// Bytes between header and records: address width, flags, reserved.
const FIXED: usize = 12;
/// Bytes of a unit's record before its scopes.
const UNIT_LEN: usize = 16;
/// Bytes of a reserved region's record before its scopes.
const RESERVED_LEN: usize = 24;
/// Bytes of a scope before its path.
const SCOPE_LEN: usize = 6;
/// Size of a page; a unit's registers begin at one.
const PAGE: u64 = 4096;

/// Most units of a machine.
pub const UNITS_MAX: usize = 16;
/// Most interrupt controllers of a machine.
pub const IOAPICS_MAX: usize = 16;
/// Most functions that firmware wants to reach memory.
pub const RESERVED_MAX: usize = 32;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A remapping unit (DRHD).
    Unit {
        /// Physical address of its registers.
        base: u64,
        /// It is responsible for every function of the segment that no other unit lists.
        covers_rest: bool,
    },
    /// Memory that firmware wants the listed functions to reach (RMRR).
    Reserved {
        /// Its first address.
        base: u64,
        /// Its last address.
        limit: u64,
    },
    /// Anything else.
    Other,
}

/// A record.
#[derive(Clone, Copy, Debug)]
pub struct Structure<'a> {
    /// What it is about.
    pub kind: Kind,
    /// The PCI segment of its functions.
    pub segment: u16,
    scopes: &'a [u8],
}

impl<'a> Structure<'a> {
    /// The functions and controllers that it is about.
    pub fn scopes(&self) -> Scopes<'a> {
        Scopes { rest: self.scopes }
    }
}

/// What a scope names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoped {
    /// One function.
    Endpoint,
    /// A bridge and everything behind it.
    Hierarchy,
    /// An IOAPIC.
    IoApic,
    /// An HPET that sends messages.
    Hpet,
    /// Anything else: devices of the ACPI name space, and what later revisions add.
    Other,
}

/// A function or a controller, by its path from a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope<'a> {
    /// What it names.
    pub kind: Scoped,
    /// For interrupt controllers: the id that the MADT gives it.
    pub id: u8,
    bus: u8,
    path: &'a [u8],
}

impl Scope<'_> {
    /// The function at the end of the path, which leads through bridges that firmware has set up.
    /// `None` if a number is out of its range or a bridge leads nowhere.
    pub fn function(&self, config: &mut impl Config) -> Option<Address> {
        let mut bus = self.bus;
        let mut hops = self.path.chunks_exact(2).peekable();
        while let Some([device, function]) = hops.next() {
            if *device > 31 || *function > 7 {
                return None;
            }
            let at = u16::from(bus) << 8 | u16::from(*device) << 3 | u16::from(*function);
            if hops.peek().is_none() {
                return Some(at);
            }
            // PCI-to-PCI Bridge Architecture 1.2, "Secondary Bus Number Register".
            let next = (config.read(at, 0x18) >> 8) as u8;
            if next == 0 || next == 0xff {
                return None;
            }
            bus = next;
        }
        None
    }
}

/// The records of a DMAR. After a damaged one there are no more.
#[derive(Clone, Copy, Debug)]
pub struct Structures<'a> {
    rest: &'a [u8],
}

/// The records of a DMAR.
pub fn structures<'a>(table: &Table<'a>) -> Result<Structures<'a>, Damaged> {
    let rest = table.body().get(FIXED..).ok_or(Damaged(table.signature))?;
    Ok(Structures { rest })
}

/// Whether the platform says that it can remap interrupts.
pub fn remaps_interrupts(table: &Table<'_>) -> bool {
    u8_at(table.body(), 1).is_some_and(|flags| flags & 1 != 0)
}

impl<'a> Iterator for Structures<'a> {
    type Item = Result<Structure<'a>, Damaged>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let len = u16_at(self.rest, 2).map(usize::from).filter(|len| *len >= 4);
        let parts = len.and_then(|len| self.rest.split_at_checked(len));
        let (record, rest) = parts.unwrap_or((&[], &[]));
        let parsed = structure(record);
        self.rest = if parsed.is_some() { rest } else { &[] };
        Some(parsed.ok_or(Damaged(*b"DMAR")))
    }
}

fn structure(record: &[u8]) -> Option<Structure<'_>> {
    let (kind, segment, scopes) = match u16_at(record, 0)? {
        0 => {
            let base = u64_at(record, 8)?;
            if base == 0 || !base.is_multiple_of(PAGE) {
                return None;
            }
            let covers_rest = u8_at(record, 4)? & 1 != 0;
            (Kind::Unit { base, covers_rest }, u16_at(record, 6)?, record.get(UNIT_LEN..)?)
        }
        1 => {
            let (base, limit) = (u64_at(record, 8)?, u64_at(record, 16)?);
            (Kind::Reserved { base, limit }, u16_at(record, 6)?, record.get(RESERVED_LEN..)?)
        }
        _ => (Kind::Other, 0, [].as_slice()),
    };
    // What cannot be read to its end must not be believed from its start.
    let structure = Structure { kind, segment, scopes };
    structure.scopes().all(|scope| scope.is_ok()).then_some(structure)
}

/// The scopes of a record. After a damaged one there are no more.
#[derive(Clone, Copy, Debug)]
pub struct Scopes<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Scopes<'a> {
    type Item = Result<Scope<'a>, Damaged>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let len = u8_at(self.rest, 1).map(usize::from);
        let len = len.filter(|len| *len >= SCOPE_LEN + 2 && len.is_multiple_of(2));
        let parts = len.and_then(|len| self.rest.split_at_checked(len));
        let (scope, rest) = parts.unwrap_or((&[], &[]));
        self.rest = rest;
        Some(self::scope(scope).ok_or(Damaged(*b"DMAR")))
    }
}

fn scope(bytes: &[u8]) -> Option<Scope<'_>> {
    let kind = match u8_at(bytes, 0)? {
        1 => Scoped::Endpoint,
        2 => Scoped::Hierarchy,
        3 => Scoped::IoApic,
        4 => Scoped::Hpet,
        _ => Scoped::Other,
    };
    let (id, bus) = (u8_at(bytes, 4)?, u8_at(bytes, 5)?);
    Some(Scope { kind, id, bus, path: bytes.get(SCOPE_LEN..)? })
}

/// A list of at most `N` values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List<T, const N: usize> {
    values: [T; N],
    count: usize,
}

impl<T: Copy + Default + PartialEq, const N: usize> Default for List<T, N> {
    fn default() -> Self {
        List { values: [T::default(); N], count: 0 }
    }
}

impl<T: Copy + PartialEq, const N: usize> List<T, N> {
    /// Its values.
    pub fn values(&self) -> &[T] {
        self.values.get(..self.count).unwrap_or_default()
    }

    /// Adds a value that is not there yet; `false` if there is no room.
    fn add(&mut self, value: T) -> bool {
        if self.values().contains(&value) {
            return true;
        }
        let Some(place) = self.values.get_mut(self.count) else {
            return false;
        };
        *place = value;
        self.count += 1;
        true
    }
}

/// What a DMAR says of segment 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The units' registers.
    pub units: List<u64, UNITS_MAX>,
    /// Interrupt controllers: id and source id.
    pub ioapics: List<(u8, Address), IOAPICS_MAX>,
    /// Functions that firmware wants to reach memory, as far as they exist.
    pub reserved: List<Address, RESERVED_MAX>,
    /// There is more than the lists can hold, or a path that leads nowhere: what is here is not
    /// all, so nothing may rely on it.
    pub is_partial: bool,
}

impl Summary {
    /// Reads the whole table.
    pub fn read(
        table: &Table<'_>,
        functions: &Functions,
        config: &mut impl Config,
    ) -> Result<Summary, Damaged> {
        let mut summary = Summary::default();
        for structure in structures(table)? {
            let structure = structure?;
            if structure.segment != 0 {
                continue;
            }
            match structure.kind {
                Kind::Unit { base, .. } => {
                    summary.is_partial |= !summary.units.add(base);
                    for scope in structure.scopes() {
                        summary.controller(&scope?, config);
                    }
                }
                Kind::Reserved { .. } => {
                    for scope in structure.scopes() {
                        summary.reserve(&scope?, functions, config);
                    }
                }
                Kind::Other => {}
            }
        }
        Ok(summary)
    }

    /// The source id of the interrupt controller that the MADT calls `id`.
    pub fn source(&self, id: u8) -> Option<Address> {
        self.ioapics.values().iter().find(|(known, _)| *known == id).map(|(_, source)| *source)
    }

    fn controller(&mut self, scope: &Scope<'_>, config: &mut impl Config) {
        if scope.kind != Scoped::IoApic {
            return;
        }
        let added = scope.function(config).is_some_and(|at| self.ioapics.add((scope.id, at)));
        self.is_partial |= !added;
    }

    fn reserve(&mut self, scope: &Scope<'_>, functions: &Functions, config: &mut impl Config) {
        if !matches!(scope.kind, Scoped::Endpoint | Scoped::Hierarchy) {
            return;
        }
        let Some(at) = scope.function(config) else {
            self.is_partial = true;
            return;
        };
        let is_behind = |function: &Address| {
            scope.kind == Scoped::Hierarchy && functions.is_behind(at, *function)
        };
        let all = functions.iter().map(|function| function.address);
        for function in all.filter(|function| *function == at || is_behind(function)) {
            self.is_partial |= !self.reserved.add(function);
        }
    }
}
