//! What a sealed system with virtual machines must look like beyond its address spaces: the kernel's
//! pages of each virtual CPU, the nested tables behind its control block, and who sees a guest.
//!
//! [`judge`] follows each control block to its nested tables, as the CPU does, and holds them
//! against the table's guest maps. Nothing else may be reachable, save a page slot while a step is
//! under way. [`damages`] are the ways to break each of these rules; AMD's layout of the block is
//! spelled out here (AMD APM volume 2, "Layout of VMCB"), since the emulated machine has SVM.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use cloister_abi::layout::{GUEST_DEVICES, PAGE, STACK_TOP, VCPU};
use cloister_abi::table::{GuestMap, MAP_EXEC, MAP_WRITE, NONE, ROLE_TASK, RegionKind, Vcpu, Vm};

use super::rules::{Findings, Judge, System, Use};
use super::spaces::{Leaf, Memory, Space};
use super::{Damage, NO_EXEC};

/// Pages of the kernel at [`VCPU`].
pub const VCPU_PAGES: u64 = 5;
/// Fields of the control block: I/O map, MSR map, address space identifier, nested paging, root.
const PORTS: u64 = 0x40;
const MSRS: u64 = 0x48;
const ASID: u64 = 0x58;
const NESTED: u64 = 0x90;
const NESTED_ROOT: u64 = 0xb0;
/// What a device page's table covers.
const TABLE_SPAN: u64 = 512 * PAGE;

/// Judges every virtual CPU, and who has a guest's pages; all spaces were judged before.
pub fn judge(system: &System, memory: &Memory, roots: &[u64], findings: &mut Findings) {
    let mut identifiers = BTreeSet::new();
    for (number, vm) in (0..).zip(system.table.vms) {
        for vcpu in system.table.vcpus_of(vm) {
            let thread = usize::from(vcpu.thread);
            let mut judge = Judge { system, memory, thread, findings };
            let Ok(space) = Space::walk(memory, roots[thread]) else { continue };
            judge.vcpu(&space, (number, vm), vcpu, &mut identifiers);
        }
    }
    blindness(system, memory, roots, findings);
}

/// Pages of guests: their RAM and their images, but not the pages of their devices.
fn is_guests_own(map: &GuestMap) -> bool {
    !GUEST_DEVICES.contains(&map.gpa)
}

/// Who must not see a page of a guest does not, wherever it is mapped: monitors, init and the
/// supervisor see none, others what the table gives them.
fn blindness(system: &System, memory: &Memory, roots: &[u64], findings: &mut Findings) {
    let table = &system.table;
    let own: BTreeSet<u16> =
        table.guest_maps.iter().filter(|m| is_guests_own(m)).map(|m| m.region).collect();
    let pages: BTreeMap<u64, u16> = findings
        .uses
        .iter()
        .filter_map(|(phys, what)| match what {
            Use::Region(region, _) if own.contains(region) => Some((*phys, *region)),
            _ => None,
        })
        .collect();
    for (thread, &root) in roots.iter().enumerate() {
        let Ok(space) = Space::walk(memory, root) else { continue };
        let index = table.threads[thread].task;
        let task = table.tasks[usize::from(index)];
        let is_blind = task.role != ROLE_TASK || table.vms.iter().any(|vm| vm.task == index);
        let may =
            |region: u16| !is_blind && table.maps_of(&task).iter().any(|map| map.region == region);
        let seen = space.leaves.iter().find(|leaf| pages.get(&leaf.phys).is_some_and(|r| !may(*r)));
        if let Some(leaf) = seen {
            let (phys, va) = (leaf.phys, leaf.va);
            findings.complain(format!("thread {thread} sees a guest's page {phys:#x} at {va:#x}"));
        }
    }
}

impl Judge<'_> {
    /// The virtual CPU of this thread.
    fn own_vcpu(&self) -> Option<(u16, Vm, Vcpu)> {
        let table = &self.system.table;
        let vcpu = table.vcpus.iter().find(|vcpu| usize::from(vcpu.thread) == self.thread)?;
        Some((vcpu.vm, *table.vms.get(usize::from(vcpu.vm))?, *vcpu))
    }

    /// A page of the kernel at [`VCPU`].
    pub fn vcpu_page(&mut self, leaf: &Leaf) {
        let Some((_, vm, vcpu)) = self.own_vcpu() else {
            return self.complain("it has pages of a virtual CPU, and none");
        };
        if leaf.is_executable || !leaf.is_writable || leaf.is_uncached {
            self.complain(&format!("{:#x} of its virtual CPU has other rights", leaf.va));
        }
        match (leaf.va - VCPU) / PAGE {
            0 => self.claim(leaf.phys, Use::Control(self.thread)),
            1 => self.region_page(vcpu.state, 0, leaf),
            page @ (2 | 3) => self.claim(leaf.phys, Use::DeviceTable(self.thread, page - 2)),
            _ if vm.counters != NONE => self.region_page(vm.counters, 0, leaf),
            _ => self.complain("it has doorbells, and its machine has none"),
        }
    }

    /// All of a virtual CPU that is not in its thread's space alone.
    fn vcpu(
        &mut self,
        space: &Space,
        (number, vm): (u16, &Vm),
        vcpu: &Vcpu,
        identifiers: &mut BTreeSet<(u16, u32)>,
    ) {
        let pages = if vm.counters == NONE { VCPU_PAGES - 1 } else { VCPU_PAGES };
        let there: Vec<Leaf> = (0..pages)
            .filter_map(|page| space.leaf(VCPU + page * PAGE).filter(|leaf| !leaf.is_user).copied())
            .collect();
        let [control, _, first, second, ..] = there.as_slice() else {
            return self.complain("pages of its virtual CPU are missing");
        };
        if there.len() as u64 != pages {
            return self.complain("the doorbells of its virtual CPU are missing");
        }
        let word = |at: u64| self.memory.word(control.phys + at).unwrap_or_default();
        let [ports, msrs, nested, root] = [PORTS, MSRS, NESTED, NESTED_ROOT].map(word);
        let identifier = word(ASID) as u32;
        let core = self.system.table.threads[self.thread].core;
        if nested & 1 == 0 {
            self.complain("its virtual CPU runs without nested paging");
        }
        if identifier == 0 || !identifiers.insert((core, identifier)) {
            self.complain(&format!("the identifier {identifier} is the host's or another's"));
        }
        self.permissions(ports, msrs);
        match Space::walk(self.memory, root) {
            Ok(nested) => {
                self.nested(&nested, number, [first.phys, second.phys]);
                self.guest(&nested, vm, vcpu);
            }
            Err(why) => self.complain(&format!("its nested tables: {why}")),
        }
    }

    /// Every port leads to an exit; the two maps are those of all virtual CPUs.
    fn permissions(&mut self, ports: u64, msrs: u64) {
        for page in 0..3 {
            let at = ports + page * PAGE;
            if self.memory.page(at).is_none_or(|page| page.iter().any(|byte| *byte != 0xff)) {
                self.complain("a port reaches the machine's own devices");
            }
            self.claim(at, Use::Permissions(true, page));
        }
        for page in 0..2 {
            self.claim(msrs + page * PAGE, Use::Permissions(false, page));
        }
    }

    /// The tables: one path to the device pages for each virtual CPU, the rest for the machine.
    fn nested(&mut self, nested: &Space, number: u16, devices: [u64; 2]) {
        if nested.top_slots != [0] {
            self.complain("its nested tables reach above 512 GiB");
        }
        for table in &nested.tables {
            if !devices.contains(table) {
                self.claim(*table, Use::Nested(number));
            }
        }
        for (place, wanted) in (0..).zip(devices) {
            let start = GUEST_DEVICES.start + place * TABLE_SPAN;
            let span = start..start + TABLE_SPAN;
            let leads = |leaf: &&Leaf| span.contains(&leaf.va);
            let stray = nested
                .leaves
                .iter()
                .filter(leads)
                .find(|leaf| leaf.is_large || leaf.entry_at & !(PAGE - 1) != wanted);
            if stray.is_some() || !nested.tables.contains(&wanted) {
                self.complain("its device pages lie in tables that are not its own");
            }
        }
    }

    /// Exactly the guest maps of the table, and a slot where a step is under way.
    fn guest(&mut self, nested: &Space, vm: &Vm, vcpu: &Vcpu) {
        let mut left: BTreeMap<u64, Leaf> =
            nested.leaves.iter().map(|leaf| (leaf.va, *leaf)).collect();
        for map in self.system.table.guest_maps_of(vm) {
            let region = self.system.table.regions[usize::from(map.region)];
            for page in 0..u64::from(region.pages) {
                let at = map.gpa + page * PAGE;
                let Some(leaf) = left.get(&at).copied() else {
                    self.complain(&format!("its guest has nothing at {at:#x}"));
                    continue;
                };
                if self.is_slot(vcpu, &leaf) {
                    continue;
                }
                left.remove(&at);
                let wanted = (true, map.rights & MAP_WRITE != 0, map.rights & MAP_EXEC != 0);
                if (leaf.is_user, leaf.is_writable, leaf.is_executable) != wanted {
                    self.complain(&format!("its guest has other rights at {at:#x}"));
                }
                self.region_page(map.region, page, &leaf);
            }
        }
        for leaf in left.values() {
            if !self.is_slot(vcpu, leaf) {
                let (phys, at) = (leaf.phys, leaf.va);
                self.complain(&format!("its guest reaches {phys:#x} at {at:#x}"));
            }
        }
    }

    /// Whether a device page is one of this virtual CPU's slots.
    fn is_slot(&self, vcpu: &Vcpu, leaf: &Leaf) -> bool {
        let slots = (0..2).map(|page| Use::Region(vcpu.slots, page));
        let known = self.findings.uses.get(&leaf.phys);
        let is_one = known.is_some_and(|known| slots.into_iter().any(|slot| slot == *known));
        is_one && GUEST_DEVICES.contains(&leaf.va) && !leaf.is_executable && !leaf.is_large
    }
}

/// A virtual CPU as it is found in memory.
struct Found<'a> {
    space: &'a Space,
    control: u64,
    nested: Space,
}

/// Ways to spoil a system with at least two virtual machines, of which one has a worker.
pub fn damages(system: &System, memory: &Memory, spaces: &[Space]) -> Result<Vec<Damage>> {
    let found = |vm: &Vm| -> Result<Found<'_>> {
        let vcpu = system.table.vcpus_of(vm).first().context("a machine without a CPU")?;
        let space = &spaces[usize::from(vcpu.thread)];
        let control = space.leaf(VCPU).context("no control block is mapped")?.phys;
        let root = memory.word(control + NESTED_ROOT).unwrap_or_default();
        let nested = Space::walk(memory, root).map_err(anyhow::Error::msg)?;
        Ok(Found { space, control, nested })
    };
    let [first, second, ..] = system.table.vms else { return Ok(Vec::new()) };
    let (one, two) = (found(first)?, found(second)?);
    let mut ways = of_spaces(system, memory, spaces, first, [&one, &two])?;
    ways.extend(of_nested(system, memory, first, [&one, &two])?);
    Ok(ways)
}

/// The leaf of an address, and what its entry holds.
fn entry(memory: &Memory, space: &Space, va: u64) -> Result<(Leaf, u64)> {
    let leaf = *space.leaf(va).with_context(|| format!("nothing is mapped at {va:#x}"))?;
    Ok((leaf, memory.word(leaf.entry_at).context("an entry lies outside memory")?))
}

/// The guest's map of its RAM, or of its image.
fn own_map<'a>(system: &System<'a>, vm: &Vm, is_ram: bool) -> Result<&'a GuestMap> {
    let kind = |map: &&GuestMap| {
        let region = system.table.regions[usize::from(map.region)];
        (region.kind == RegionKind::GuestRam as u8) == is_ram && is_guests_own(map)
    };
    system.table.guest_maps_of(vm).iter().find(kind).context("the guest has no such map")
}

fn of_spaces(
    system: &System,
    memory: &Memory,
    spaces: &[Space],
    vm: &Vm,
    [one, two]: [&Found<'_>; 2],
) -> Result<Vec<Damage>> {
    let page_of = |is_ram| -> Result<u64> {
        let map = own_map(system, vm, is_ram)?;
        Ok(entry(memory, &one.nested, map.gpa)?.0.phys)
    };
    let (ram, image) = (page_of(true)?, page_of(false)?);
    let stack = |space: &Space| entry(memory, space, STACK_TOP - PAGE);
    let holder = |is_it: &dyn Fn(u8) -> bool| {
        let of = |thread: &cloister_abi::table::Thread| {
            is_it(system.table.tasks[usize::from(thread.task)].role)
        };
        system.table.threads.iter().position(of).map(|thread| &spaces[thread])
    };
    let moved = |(leaf, entry): (Leaf, u64), to: u64| (leaf.entry_at, entry & !leaf.phys | to);
    let into = |what: &'static str, space: &Space, to: u64| -> Result<Damage> {
        let (at, value) = moved(stack(space)?, to);
        Ok((what, at, value))
    };
    let supervisor = holder(&|role| role == cloister_abi::table::ROLE_SUPERVISOR);
    let init = holder(&|role| role == cloister_abi::table::ROLE_INIT);
    let worker = spaces.iter().find_map(|space| space.leaves.iter().find(|leaf| leaf.is_large));
    let worker = *worker.context("no worker maps a guest's memory")?;
    let worker_entry = memory.word(worker.entry_at).context("an entry lies outside memory")?;
    let (control, control_entry) = entry(memory, one.space, VCPU)?;
    let (state, state_entry) = entry(memory, one.space, VCPU + PAGE)?;
    let (tables, tables_entry) = entry(memory, one.space, VCPU + 2 * PAGE)?;
    let other = |page: u64| entry(memory, two.space, VCPU + page * PAGE).map(|(leaf, _)| leaf.phys);
    Ok(vec![
        into("a guest's memory in its monitor", one.space, ram)?,
        into("a guest's memory in another's monitor", two.space, ram)?,
        into("a guest's memory in the supervisor", supervisor.context("no supervisor")?, ram)?,
        into("a guest's memory in init", init.context("no init")?, ram)?,
        into("a guest's image in its monitor", one.space, image)?,
        into("a control block in its monitor", one.space, control.phys)?,
        into("a nested table in its monitor", one.space, one.nested.root)?,
        ("a worker that maps other memory", worker.entry_at, worker_entry ^ 0x20_0000),
        ("a worker that may execute a guest's memory", worker.entry_at, worker_entry & !NO_EXEC),
        ("a control block that ring 3 can reach", control.entry_at, control_entry | 4),
        ("a control block that is missing", control.entry_at, 0),
        ("a control block that is read-only", control.entry_at, control_entry & !2),
        ("another's control block", control.entry_at, control_entry & !control.phys | other(0)?),
        ("another's shared page", state.entry_at, state_entry & !state.phys | other(1)?),
        ("another's device tables", tables.entry_at, tables_entry & !tables.phys | other(2)?),
    ])
}

fn of_nested(
    system: &System,
    memory: &Memory,
    vm: &Vm,
    [one, two]: [&Found<'_>; 2],
) -> Result<Vec<Damage>> {
    const PRESENT_WRITE_USER: u64 = 7;
    let ram = own_map(system, vm, true)?;
    let image = own_map(system, vm, false)?;
    let (ram, ram_entry) = entry(memory, &one.nested, ram.gpa)?;
    let (image, image_entry) = entry(memory, &one.nested, image.gpa)?;
    let (other, _) = entry(memory, &two.nested, 0)?;
    let word = |at: u64| memory.word(one.control + at).unwrap_or_default();
    let (ports, kernel) = (word(PORTS), one.space.root);
    // The last page of the device range, which no machine has.
    let device_table = entry(memory, one.space, VCPU + 3 * PAGE)?.0.phys;
    let unused = device_table + 511 * 8;
    let own_slot = system.table.vcpus_of(vm).first().context("no CPU")?.slots;
    Ok(vec![
        ("a guest that has another's memory", ram.entry_at, ram_entry & !ram.phys | other.phys),
        ("a guest without its memory", ram.entry_at, 0),
        ("a guest that may not write its memory", ram.entry_at, ram_entry & !2),
        ("a guest whose memory no walk reaches", ram.entry_at, ram_entry & !4),
        ("a guest that may write its image", image.entry_at, image_entry | 2),
        ("a guest that maps page tables", image.entry_at, image_entry & !image.phys | kernel),
        ("a device page that nobody meant", unused, ram.phys | PRESENT_WRITE_USER | NO_EXEC),
        ("a device page of the kernel", unused, one.control | PRESENT_WRITE_USER | NO_EXEC),
        ("memory where none is", one.nested.root + 8, one.nested.tables[1] | PRESENT_WRITE_USER),
        ("another's nested tables", one.control + NESTED_ROOT, two.nested.root),
        ("no nested paging", one.control + NESTED, word(NESTED) & !1),
        ("the host's identifier", one.control + ASID, word(ASID) & !0xffff_ffff),
        ("a port that no exit watches", ports + 8, u64::MAX << 1),
        ("another map of ports", one.control + PORTS, ports + PAGE),
        ("another map of MSRs", one.control + MSRS, ports),
    ]
    .into_iter()
    .chain(executable_slot(system, memory, own_slot, one, unused))
    .collect())
}

/// A slot as a step puts it, but executable; without a mapping of the slot there is no such way.
fn executable_slot(
    system: &System,
    memory: &Memory,
    slots: u16,
    one: &Found<'_>,
    unused: u64,
) -> Option<Damage> {
    let map = system.table.maps.iter().find(|map| map.region == slots)?;
    let (leaf, _) = entry(memory, one.space, map.va).ok()?;
    Some(("a slot that is executable", unused, leaf.phys | 7))
}
