//! The table as bytes: head, then one array per section, each aligned to 8 bytes.

use std::collections::BTreeSet;

use cloister_abi::API_VERSION;
use cloister_abi::layout::PAGE;
use cloister_abi::table::{
    self, FLAG_IOMMU_ABSENT_OK, FLAG_LAB, FLAG_NEED_RDRAND, FLAG_NEED_RDSEED, Header, MAP_READ,
    RegionKind, Section,
};
use zerocopy::{Immutable, IntoBytes};

use super::{Builder, CompileError, Compiled, index16, name_field, pages_of};
use crate::system::Role;

impl Builder<'_> {
    /// Maps the table for `init`, large enough for what it will be.
    pub(super) fn place_table(&mut self, init: usize, region: u16) -> Result<(), CompileError> {
        // Still to come: the map of the table itself, and each task's information (a region, a
        // map and a blob).
        let tasks = self.system.tasks.len();
        let maps: usize = self.parts.iter().map(|part| part.space.len()).sum::<usize>() + 1 + tasks;
        let caps = self.parts.iter().map(|part| part.caps.len()).sum();
        let ports = self.parts.iter().map(|part| part.ports.len()).sum();
        let len = table_len([
            tasks,
            self.threads.len(),
            self.regions.len() + tasks,
            maps,
            caps,
            ports,
            self.devices.len(),
            self.irqs.len(),
            self.vms.len(),
            self.vcpus.len(),
            self.guest_maps.len(),
            self.doorbells.len(),
        ]);
        let pages = pages_of(len as u64);
        self.regions[usize::from(region)].pages = pages as u32;
        self.share(init, "table", region, MAP_READ, Some(len as u64))
    }

    /// Adds the task information, concatenates what the tasks gathered.
    pub(super) fn finish(mut self) -> Result<Compiled, CompileError> {
        for index in 0..self.system.tasks.len() {
            self.task_info(index)?;
        }
        let mut compiled = Compiled {
            header: self.header(),
            tasks: Vec::new(),
            threads: self.threads,
            regions: self.regions,
            maps: Vec::new(),
            caps: Vec::new(),
            ports: Vec::new(),
            devices: self.devices,
            irqs: self.irqs,
            vms: self.vms,
            vcpus: self.vcpus,
            guest_maps: self.guest_maps,
            doorbells: self.doorbells,
            blobs: self.blobs,
            grants: Vec::new(),
            policies: self.policies,
            configs: self.configs,
            volumes: self.volumes,
            guests: self.system.vms().map(|(_, _, vm)| vm.guest_shown.clone()).collect(),
        };
        let supervisor = self.system.tasks.iter().position(|t| t.role == Role::Supervisor);
        let supervisor = supervisor.map_or(table::NONE, |index| self.thread_index[index][0]);
        for (index, parts) in self.parts.into_iter().enumerate() {
            let task = &self.system.tasks[index];
            let maps = parts.space.into_maps();
            let bit = self.supervisor_bits[index];
            let (role, domain) = match task.role {
                Role::Task => (table::ROLE_TASK, index as u8 + 1),
                Role::Init => (table::ROLE_INIT, 0),
                Role::Supervisor => (table::ROLE_SUPERVISOR, 0),
            };
            compiled.tasks.push(table::Task {
                name: name_field(task.name()),
                first_cap: compiled.caps.len() as u32,
                first_map: compiled.maps.len() as u32,
                first_port: compiled.ports.len() as u32,
                caps: index16(parts.caps.len(), "capabilities")?,
                maps: index16(maps.len(), "maps")?,
                ports: index16(parts.ports.len(), "port ranges")?,
                supervisor: if bit.is_some() { supervisor } else { table::NONE },
                supervisor_bit: bit.unwrap_or(0),
                role,
                flags: if task.has_fpu { table::TASK_FPU } else { 0 },
                domain,
            });
            compiled.caps.extend(parts.caps);
            compiled.maps.extend(maps);
            compiled.ports.extend(parts.ports);
            compiled.grants.push(parts.grants);
        }
        Ok(compiled)
    }

    fn header(&self) -> Header {
        let system = self.system;
        let flags = [
            (system.iommu_absent_ok.is_some(), FLAG_IOMMU_ABSENT_OK),
            (system.is_lab, FLAG_LAB),
            (system.needs_rdrand, FLAG_NEED_RDRAND),
            (system.needs_rdseed, FLAG_NEED_RDSEED),
        ];
        let of_ram =
            [RegionKind::Ram, RegionKind::KernelLog, RegionKind::GuestRam, RegionKind::Doorbells];
        let is_ram = |kind: u8| of_ram.iter().any(|ram| *ram as u8 == kind);
        Header {
            magic: table::MAGIC,
            version: API_VERSION,
            len: 0,
            name: name_field(&system.name),
            cores: system.cores,
            flags: flags.iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag).sum(),
            debug_port: system.board.debug_port,
            sleep_type: system.board.sleep_type,
            reserved: 0,
            reserved2: 0,
            ram_pages: self.regions.iter().filter(|r| is_ram(r.kind)).map(|r| r.pages).sum(),
            tasks: Section::default(),
            threads: Section::default(),
            regions: Section::default(),
            maps: Section::default(),
            caps: Section::default(),
            ports: Section::default(),
            devices: Section::default(),
            irqs: Section::default(),
            vms: Section::default(),
            vcpus: Section::default(),
            guest_maps: Section::default(),
            doorbells: Section::default(),
        }
    }
}

/// Bytes of the records of each section, in the order of the head.
const RECORDS: [usize; 12] = [
    size_of::<table::Task>(),
    size_of::<table::Thread>(),
    size_of::<table::Region>(),
    size_of::<table::Map>(),
    size_of::<table::Cap>(),
    size_of::<table::Ports>(),
    size_of::<table::Device>(),
    size_of::<table::Irq>(),
    size_of::<table::Vm>(),
    size_of::<table::Vcpu>(),
    size_of::<table::GuestMap>(),
    size_of::<table::Doorbell>(),
];

/// Bytes of a table with so many records in its sections.
fn table_len(counts: [usize; RECORDS.len()]) -> usize {
    counts
        .iter()
        .zip(RECORDS)
        .fold(size_of::<Header>(), |end, (count, size)| end.next_multiple_of(8) + count * size)
        .next_multiple_of(8)
}

impl Compiled {
    /// Bytes of the encoded table.
    pub fn table_len(&self) -> usize {
        table_len([
            self.tasks.len(),
            self.threads.len(),
            self.regions.len(),
            self.maps.len(),
            self.caps.len(),
            self.ports.len(),
            self.devices.len(),
            self.irqs.len(),
            self.vms.len(),
            self.vcpus.len(),
            self.guest_maps.len(),
            self.doorbells.len(),
        ])
    }

    /// Pages of all blobs together.
    pub fn blob_pages(&self) -> u64 {
        self.blobs.iter().map(|blob| pages_of(blob.len() as u64)).sum()
    }

    /// Pages of those blobs that are guests' images.
    pub fn guest_pages(&self) -> u64 {
        let of_guests: BTreeSet<u16> = self.guest_maps.iter().map(|map| map.region).collect();
        let regions = of_guests.iter().filter_map(|region| self.regions.get(usize::from(*region)));
        let images = regions.filter(|region| region.kind == RegionKind::Payload as u8);
        images.map(|region| u64::from(region.pages)).sum()
    }

    /// The table, for blobs that lie one after the other from `first_blob` in the payload.
    pub fn encode(&self, first_blob: u64) -> Vec<u8> {
        let mut offset = first_blob;
        let mut offsets = Vec::with_capacity(self.blobs.len());
        for blob in &self.blobs {
            offsets.push(offset);
            offset += pages_of(blob.len() as u64) * PAGE;
        }
        let mut regions = self.regions.clone();
        for region in regions.iter_mut().filter(|r| r.kind == RegionKind::Payload as u8) {
            region.value = offsets[region.value as usize];
        }
        let mut header = self.header;
        let mut bytes = vec![0; size_of::<Header>()];
        header.tasks = section(&mut bytes, &self.tasks);
        header.threads = section(&mut bytes, &self.threads);
        header.regions = section(&mut bytes, &regions);
        header.maps = section(&mut bytes, &self.maps);
        header.caps = section(&mut bytes, &self.caps);
        header.ports = section(&mut bytes, &self.ports);
        header.devices = section(&mut bytes, &self.devices);
        header.irqs = section(&mut bytes, &self.irqs);
        header.vms = section(&mut bytes, &self.vms);
        header.vcpus = section(&mut bytes, &self.vcpus);
        header.guest_maps = section(&mut bytes, &self.guest_maps);
        header.doorbells = section(&mut bytes, &self.doorbells);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        header.len = bytes.len() as u32;
        bytes[..size_of::<Header>()].copy_from_slice(header.as_bytes());
        bytes
    }
}

fn section<T: IntoBytes + Immutable>(bytes: &mut Vec<u8>, records: &[T]) -> Section {
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    let offset = bytes.len() as u32;
    bytes.extend_from_slice(records.as_bytes());
    Section { offset, count: records.len() as u32 }
}
