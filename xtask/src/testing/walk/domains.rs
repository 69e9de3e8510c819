//! What PCI functions reach, as the IOMMU walks it: every context entry and every second-level table
//! behind it.
//!
//! [`judge`] starts at the unit's own registers and holds each domain against the address space of
//! the task that owns the function: exactly the maps that the table gives devices, at the same
//! addresses, with the same pages and rights. A function that nobody owns has no entry. The layouts
//! are those of Intel VT-d ("Root Entry", "Context Entry", "Second-Stage Paging Entries").
//!
//! Invariant: a page of these tables has no other use.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use cloister_abi::layout::PAGE;
use cloister_abi::name_str;
use cloister_abi::table::{DEVICE_BUS_MASTER, MAP_DMA, MAP_WRITE, RegionKind};

use super::rules::{Findings, System, Use};
use super::spaces::{Memory, Space};
use super::{Damage, remaps};
use crate::testing::inspect::Session;

/// What a function reaches, by device address: the physical page, and whether it may write.
type Granted = BTreeMap<u64, (u64, bool)>;

/// Where the emulated machine has its unit, and the registers that name tables.
const UNIT: u64 = 0xfed9_0000;
const ROOT: u64 = 0x20;
const QUEUE: u64 = 0x90;
const INTERRUPTS: u64 = 0xb8;
/// Entries.
const READ: u64 = 1;
const WRITE: u64 = 2;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Of a context entry: what is not the top table and presence; it has to be 0.
const KIND: u64 = 0xffe;

/// The tables that the unit's registers name.
#[derive(Clone, Copy, Debug)]
pub struct Unit {
    root: u64,
    queue: u64,
    /// The table of remapped interrupts.
    pub interrupts: u64,
}

impl Unit {
    /// Reads the registers of a machine that is stopped.
    pub fn read(session: &mut Session) -> Result<Unit> {
        let mut register = |offset: u64| -> Result<u64> {
            let bytes = session.memory(UNIT + offset, 8)?;
            let bytes = bytes.try_into().ok().context("a register has 8 bytes")?;
            Ok(u64::from_le_bytes(bytes) & ADDRESS)
        };
        Ok(Unit {
            root: register(ROOT)?,
            queue: register(QUEUE)?,
            interrupts: register(INTERRUPTS)?,
        })
    }
}

/// A device address: the page behind it, whether devices may write, the entry that says so.
type Reached = BTreeMap<u64, (u64, bool, u64)>;

/// What one function reaches.
struct Domain {
    source: u16,
    context_at: u64,
    reached: Reached,
    /// Entries for 2 MiB.
    large: usize,
}

/// What all functions reach together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Functions with a domain.
    pub functions: usize,
    /// Pages in their domains.
    pub pages: usize,
    /// Of these, pages of guests' memory.
    pub guests: usize,
    /// Entries for 2 MiB.
    pub large: usize,
    /// Pages of guests' memory that their owners map.
    pub mapped: usize,
    /// Interrupts that devices raise.
    pub interrupts: usize,
}

/// What is expected of guests' memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guests {
    /// Nothing.
    Any,
    /// Functions and their owners reach all of it, by entries for 2 MiB.
    Whole,
    /// Neither functions nor their owners reach any of it.
    Apart,
}

impl Reach {
    /// Nothing, or why it is not what was expected; guests have `all` pages.
    pub fn check(self, guests: Guests, all: usize) -> Result<()> {
        let right = match guests {
            Guests::Any => return Ok(()),
            // Other memory has pages of 4 KiB.
            Guests::Whole => {
                let is_whole = (self.guests, self.mapped) == (all, all);
                is_whole && self.large * 512 == all && self.pages > all
            }
            Guests::Apart => {
                (self.guests, self.mapped, self.large) == (0, 0, 0) && self.functions > 0
            }
        };
        ensure!(right && all > 0, "guests have {all} pages, expected is {guests:?}: {self:?}");
        Ok(())
    }
}

/// The pages of guests' memory.
pub fn guest_pages(system: &System, findings: &Findings) -> BTreeSet<u64> {
    let is_ram = |region: u16| {
        let kind = system.table.regions[usize::from(region)].kind();
        let mut maps = system.table.guest_maps.iter();
        kind == Some(RegionKind::GuestRam) && maps.any(|map| map.region == region)
    };
    let uses = findings.uses.iter();
    let of_guests = uses.filter(|(_, what)| matches!(what, Use::Region(r, _) if is_ram(*r)));
    of_guests.map(|(phys, _)| *phys).collect()
}

/// Every function with a context entry, and the pages of all tables.
fn domains(memory: &Memory, unit: Unit) -> Result<(Vec<Domain>, Vec<u64>), String> {
    let word = |at: u64| memory.word(at).ok_or_else(|| format!("no memory at {at:#x}"));
    let (mut all, mut tables) = (Vec::new(), vec![unit.root, unit.queue, unit.interrupts]);
    for bus in 0..256 {
        let (entry, upper) = (word(unit.root + bus * 16)?, word(unit.root + bus * 16 + 8)?);
        if upper != 0 || entry & 1 == 0 && entry != 0 {
            return Err(format!("the root entry of bus {bus:#x} is {upper:#x}, {entry:#x}"));
        }
        if entry == 0 {
            continue;
        }
        tables.push(entry & ADDRESS);
        for function in 0..256 {
            let context_at = (entry & ADDRESS) + function * 16;
            let (low, high) = (word(context_at)?, word(context_at + 8)?);
            if low == 0 && high == 0 {
                continue;
            }
            let source = (bus << 8 | function) as u16;
            if low & 1 == 0 || low & KIND != 0 || high & 7 == 0 || high & 7 > 3 {
                return Err(format!("the context entry of {source:04x} is {high:#x}, {low:#x}"));
            }
            let mut domain = Domain { source, context_at, reached: Reached::new(), large: 0 };
            let level = (high & 7) as u32 + 1;
            second_level(memory, low & ADDRESS, level, 0, READ | WRITE, &mut domain, &mut tables)?;
            all.push(domain);
        }
    }
    Ok((all, tables))
}

fn second_level(
    memory: &Memory,
    table: u64,
    level: u32,
    base: u64,
    rights: u64,
    domain: &mut Domain,
    tables: &mut Vec<u64>,
) -> Result<(), String> {
    tables.push(table);
    for slot in 0..512 {
        let (entry_at, at) = (table + slot * 8, base + (slot << (12 + 9 * level)));
        let source = domain.source;
        let entry = memory.word(entry_at);
        let entry = entry.ok_or_else(|| format!("a table of {source:04x} is not in memory"))?;
        if entry & (READ | WRITE) == 0 {
            if entry != 0 {
                return Err(format!("{source:04x}: {at:#x} is absent, but holds {entry:#x}"));
            }
            continue;
        }
        let rights = rights & entry;
        let is_large = level == 1 && entry & LARGE != 0;
        if level > 0 && !is_large {
            second_level(memory, entry & ADDRESS, level - 1, at, rights, domain, tables)?;
            continue;
        }
        domain.large += usize::from(is_large);
        for part in (0..if is_large { 512 } else { 1 }).map(|part| part * PAGE) {
            let page = ((entry & ADDRESS) + part, rights & WRITE != 0, entry_at);
            domain.reached.insert(at + part, page);
        }
    }
    Ok(())
}

/// What the devices of a task may reach: its own view of the maps that devices get.
fn granted(system: &System, space: &Space, task: u16) -> Granted {
    let record = system.table.tasks[usize::from(task)];
    let maps = system.table.maps_of(&record).iter().filter(|map| map.rights & MAP_DMA != 0);
    let pages = maps.flat_map(|map| {
        let count = u64::from(system.table.regions[usize::from(map.region)].pages);
        let write = map.rights & MAP_WRITE != 0;
        (0..count).map(move |page| (map.va + page * PAGE, write))
    });
    // A page that is not mapped is complained of elsewhere.
    let phys = |va: u64| space.leaf(va).map_or(u64::MAX, |leaf| leaf.phys);
    pages.map(|(va, write)| (va, (phys(va), write))).collect()
}

/// The owners of bus masters that are there, with the first of their threads.
fn owners<'a>(system: &'a System) -> impl Iterator<Item = (u16, usize)> + 'a {
    let masters = system.table.devices.iter().filter(|d| d.flags & DEVICE_BUS_MASTER != 0);
    masters.filter_map(|device| {
        let thread = system.table.threads.iter().position(|t| t.task == device.owner)?;
        Some((device.owner, thread))
    })
}

/// Judges all domains; all spaces were judged before. What functions reach.
pub fn judge(
    system: &System,
    memory: &Memory,
    roots: &[u64],
    unit: Unit,
    findings: &mut Findings,
) -> Reach {
    let (domains, tables) = match domains(memory, unit) {
        Ok(found) => found,
        Err(complaint) => {
            findings.complaints.push(complaint);
            return Reach::default();
        }
    };
    for table in tables {
        if let Some(known) = findings.uses.insert(table, Use::Unit)
            && known != Use::Unit
        {
            findings.complaints.push(format!("a table of the IOMMU, {table:#x}, is {known:?}"));
        }
    }
    let of_guests = guest_pages(system, findings);
    let sources: Vec<u16> = domains.iter().map(|domain| domain.source).collect();
    let interrupts = remaps::judge(system, memory, unit.interrupts, &sources, findings);
    let mut reach = Reach { functions: domains.len(), interrupts, ..Reach::default() };
    let mut left: Vec<(u16, Granted)> = owners(system)
        .filter_map(|(task, thread)| {
            let space = Space::walk(memory, *roots.get(thread)?).ok()?;
            let leaves = space.leaves.iter().filter(|leaf| leaf.is_user);
            reach.mapped += leaves.filter(|leaf| of_guests.contains(&leaf.phys)).count();
            Some((task, granted(system, &space, task)))
        })
        .collect();
    for domain in &domains {
        let reached: Granted =
            domain.reached.iter().map(|(at, (phys, write, _))| (*at, (*phys, *write))).collect();
        reach.pages += reached.len();
        reach.guests += reached.values().filter(|(phys, _)| of_guests.contains(phys)).count();
        reach.large += domain.large;
        match left.iter().position(|(_, granted)| *granted == reached) {
            Some(at) => drop(left.remove(at)),
            None => findings.complaints.push(format!(
                "function {:04x} reaches {} pages, which are those of no owner of a function",
                domain.source,
                reached.len()
            )),
        }
    }
    for (task, _) in left {
        let name = name_str(&system.table.tasks[usize::from(task)].name);
        findings.complaints.push(format!("no function reaches what those of task {name} may"));
    }
    reach
}

/// Ways to let a function reach too much or too little.
pub fn damages(
    memory: &Memory,
    roots: &[u64],
    unit: Unit,
    of_guests: &BTreeSet<u64>,
) -> Result<Vec<Damage>> {
    let (domains, _) = domains(memory, unit).map_err(anyhow::Error::msg)?;
    let Some(domain) = domains.first() else { return Ok(Vec::new()) };
    let (_, (_, _, first)) = domain.reached.first_key_value().context("an empty domain")?;
    let value = memory.word(*first).context("an entry lies outside memory")?;
    let context = memory.word(domain.context_at).context("a context entry outside memory")?;
    let free = (*first & !(PAGE - 1)..).step_by(8).take(512);
    let free = free.into_iter().find(|&at| memory.word(at) == Some(0));
    let free = free.context("a table of a domain has no free entry")?;
    let stranger = roots.first().context("there is no space")?;
    let sibling = domain.context_at ^ 16;
    let strange = |page: &&u64| domain.reached.values().all(|(phys, _, _)| phys != *page);
    let mut ways = Vec::new();
    if let Some(page) = of_guests.iter().find(strange) {
        ways.push(("a device that reaches a guest's page", free, page | READ | WRITE));
    }
    ways.extend([
        ("a device that reaches a page table", *first, value & !ADDRESS | stranger),
        ("a device that reaches the next page", *first, value + PAGE),
        ("a device that may not write its own memory", *first, value & !WRITE),
        ("a device that does not reach its own memory", *first, 0),
        ("a device that reaches one page more", free, stranger | READ),
        ("a device that reaches one page of its owner twice", free, value),
        ("an absent entry of a domain with a value", free, stranger & ADDRESS),
        ("a device that is not translated", domain.context_at, context | 2 << 2),
        ("a device that reaches nothing", domain.context_at, 0),
        ("a second function with the same domain", sibling, context),
    ]);
    Ok(ways)
}

#[cfg(test)]
mod tests {
    use super::{Guests, Reach};

    #[test]
    fn a_guest_is_reached_wholly_or_not_at_all() {
        let all = 2048;
        let whole = Reach { guests: all, large: 4, mapped: all, ..Reach::default() };
        let whole = Reach { functions: 1, pages: all + 64, ..whole };
        assert!(whole.check(Guests::Whole, all).is_ok());
        for less in [
            Reach { guests: all - 1, ..whole },
            Reach { large: 3, ..whole },
            Reach { mapped: all - 1, ..whole },
        ] {
            assert!(less.check(Guests::Whole, all).is_err(), "{less:?}");
        }
        let apart = Reach { functions: 1, pages: 128, ..Reach::default() };
        assert!(apart.check(Guests::Apart, all).is_ok());
        for more in [
            Reach { guests: 1, ..apart },
            Reach { mapped: 1, ..apart },
            Reach { large: 1, ..apart },
            Reach { functions: 0, ..apart },
        ] {
            assert!(more.check(Guests::Apart, all).is_err(), "{more:?}");
        }
        assert!(apart.check(Guests::Apart, 0).is_err(), "no guest was found");
    }
}
