//! The system table as typed arrays.
//!
//! [`Table::new`] is the only way to one: it views each section in place (no copy, no unsafe) and
//! then has `crate::validate` check every rule. So whoever holds a [`Table`] may rely on all of
//! them: indices name existing records, and each task's runs of capabilities, maps and ports lie
//! within their sections.

use crate::validate;
use cloister_abi::layout::{
    MAX_CAPS, MAX_DEVICES, MAX_DOORBELLS, MAX_GUEST_MAPS, MAX_IRQS, MAX_MAPS, MAX_PORTS,
    MAX_REGIONS, MAX_TASKS, MAX_THREADS, MAX_VCPUS, MAX_VMS,
};
use cloister_abi::table::{
    Cap, Device, Doorbell, GuestMap, Header, Irq, Map, Ports, Region, Section, Task, Thread, Vcpu,
    Vm,
};
use core::ops::Range;
use zerocopy::{FromBytes, Immutable, KnownLayout};

pub use crate::validate::{Rule, TableError};

/// A valid system table.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    /// Its head.
    pub header: &'a Header,
    /// The tasks.
    pub tasks: &'a [Task],
    /// The threads, sorted by core and then by priority.
    pub threads: &'a [Thread],
    /// The regions.
    pub regions: &'a [Region],
    /// The maps of all tasks.
    pub maps: &'a [Map],
    /// The capabilities of all tasks.
    pub caps: &'a [Cap],
    /// The port ranges of all tasks.
    pub ports: &'a [Ports],
    /// The devices.
    pub devices: &'a [Device],
    /// The device interrupts.
    pub irqs: &'a [Irq],
    /// The virtual machines.
    pub vms: &'a [Vm],
    /// The virtual CPUs of all virtual machines.
    pub vcpus: &'a [Vcpu],
    /// The guest maps of all virtual machines.
    pub guest_maps: &'a [GuestMap],
    /// The doorbells of all virtual machines.
    pub doorbells: &'a [Doorbell],
}

impl<'a> Table<'a> {
    /// Views and checks a table; `bytes` is 8-byte aligned and exactly as long as the table.
    /// `payload_pages` is the length of the payload that `RegionKind::Payload` regions lie in.
    pub fn new(bytes: &'a [u8], payload_pages: u32) -> Result<Table<'a>, TableError> {
        let table = Table::view(bytes)?;
        validate::check(&table, payload_pages)?;
        Ok(table)
    }

    fn view(bytes: &'a [u8]) -> Result<Table<'a>, TableError> {
        let (header, _) = Header::ref_from_prefix(bytes).map_err(|_| Rule::Header.at(0))?;
        validate::header(header, bytes.len())?;
        let mut sections = Sections { bytes, end: size_of::<Header>(), index: 0 };
        Ok(Table {
            header,
            tasks: sections.next(header.tasks, MAX_TASKS)?,
            threads: sections.next(header.threads, MAX_THREADS)?,
            regions: sections.next(header.regions, MAX_REGIONS)?,
            maps: sections.next(header.maps, MAX_MAPS)?,
            caps: sections.next(header.caps, MAX_CAPS)?,
            ports: sections.next(header.ports, MAX_PORTS)?,
            devices: sections.next(header.devices, MAX_DEVICES)?,
            irqs: sections.next(header.irqs, MAX_IRQS)?,
            vms: sections.next(header.vms, MAX_VMS)?,
            vcpus: sections.next(header.vcpus, MAX_VCPUS)?,
            guest_maps: sections.next(header.guest_maps, MAX_GUEST_MAPS)?,
            doorbells: sections.next(header.doorbells, MAX_DOORBELLS)?,
        })
    }

    /// The capabilities of a task of this table; a slot is an index into them.
    pub fn caps_of(&self, task: &Task) -> &'a [Cap] {
        self.caps.get(run(task.first_cap, task.caps)).unwrap_or_default()
    }

    /// The maps of a task of this table.
    pub fn maps_of(&self, task: &Task) -> &'a [Map] {
        self.maps.get(run(task.first_map, task.maps)).unwrap_or_default()
    }

    /// The port ranges of a task of this table.
    pub fn ports_of(&self, task: &Task) -> &'a [Ports] {
        self.ports.get(run(task.first_port, task.ports)).unwrap_or_default()
    }

    /// The virtual CPUs of a virtual machine of this table.
    pub fn vcpus_of(&self, vm: &Vm) -> &'a [Vcpu] {
        self.vcpus.get(run(vm.first_vcpu, vm.vcpus)).unwrap_or_default()
    }

    /// The guest maps of a virtual machine of this table.
    pub fn guest_maps_of(&self, vm: &Vm) -> &'a [GuestMap] {
        self.guest_maps.get(run(vm.first_map, vm.maps)).unwrap_or_default()
    }

    /// The doorbells of a virtual machine of this table, by port.
    pub fn doorbells_of(&self, vm: &Vm) -> &'a [Doorbell] {
        self.doorbells.get(run(vm.first_doorbell, vm.doorbells)).unwrap_or_default()
    }

    /// The indices of a core's threads; a thread's place in the range is its rank.
    pub fn threads_on(&self, core: u16) -> Range<usize> {
        let first = self.threads.partition_point(|thread| thread.core < core);
        let end = self.threads.partition_point(|thread| thread.core <= core);
        first..end
    }
}

/// A run of records, as indices. Its end cannot overflow: 32 bits plus 16 bits.
pub(crate) fn run(first: u32, count: u16) -> Range<usize> {
    let first = usize::try_from(first).unwrap_or(usize::MAX);
    first..first.saturating_add(usize::from(count))
}

/// A walk through the sections, which lie one behind the other.
struct Sections<'a> {
    bytes: &'a [u8],
    /// Where the section before ends.
    end: usize,
    index: usize,
}

impl<'a> Sections<'a> {
    /// The next section, of at most `most` records.
    fn next<T: FromBytes + Immutable + KnownLayout>(
        &mut self,
        section: Section,
        most: usize,
    ) -> Result<&'a [T], TableError> {
        let (wrong, start) = (Rule::Section.at(self.index), self.end.next_multiple_of(8));
        let count = usize::try_from(section.count).unwrap_or(usize::MAX);
        Rule::Count.when(count <= most, self.index)?;
        Rule::Section.when(usize::try_from(section.offset) == Ok(start), self.index)?;
        let rest = self.bytes.get(start..).ok_or(wrong)?;
        let (records, rest) = <[T]>::ref_from_prefix_with_elems(rest, count).map_err(|_| wrong)?;
        self.end = self.bytes.len().saturating_sub(rest.len());
        self.index = self.index.saturating_add(1);
        Ok(records)
    }
}
