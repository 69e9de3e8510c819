//! What the manifest grants to this task, by name.
//!
//! [`Grants`] reads the task information that the image builder made and turns names into typed
//! handles. A name that is not there is a [`Missing`], which says the name and what was wanted.
//! Invariant: this is the only place that makes handles from slots, addresses and port numbers.

use cloister_abi::info::{
    GRANT_BIT, GRANT_CAP, GRANT_MEMORY, GRANT_NUMBER, GRANT_PORTS, Grant, TASK_INFO_MAGIC, TaskInfo,
};
use cloister_abi::table::{CapKind, MAP_DMA, MAP_WRITE};
use cloister_abi::{API_VERSION, layout, name_str};
use cloister_proto::policy::RestartPolicy;
use cloister_proto::vm::VmConfig;
use cloister_proto::volume::Volume;
use zerocopy::FromBytes;

use crate::cap::{Cap, Irq, PciDevice, Power, Signal};
use crate::dma::{self, DmaRegion};
use crate::memory::{self, Shared};
use crate::ports::PortRange;
use crate::registers::Registers;
use crate::task::Supervised;
use crate::wait::Bits;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, defmt::Format)]
pub enum What {
    /// The right to signal a thread.
    Signal,
    /// An interrupt.
    Irq,
    /// Power control.
    Power,
    /// I/O ports.
    Ports,
    /// A bit of the own signal word.
    Bit,
    /// A number.
    Number,
    /// Shared memory.
    Memory,
    /// A constant region of the payload.
    Constant,
    /// A virtual CPU.
    Vcpu,
    /// A PCI function.
    Device,
    /// Memory that the own devices reach.
    Dma,
    /// The configuration space of a PCI function.
    Config,
}

/// The manifest grants nothing of that name and kind to this task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, defmt::Format)]
pub struct Missing {
    /// The name.
    pub name: &'static str,
    /// The kind.
    pub what: What,
}

/// One end of a mailbox: the memory, the right to signal the peer, and the bit that the peer sets.
pub struct Mailbox {
    /// The memory that both ends map.
    pub memory: Shared,
    /// Wakes the peer.
    pub peer: Signal,
    /// What the peer's signal sets here.
    pub bits: Bits,
}

/// All grants of this task.
#[derive(Clone, Copy)]
pub struct Grants {
    info: &'static TaskInfo,
    entries: &'static [Grant],
}

/// The grants of this task. A task information of another version is an empty one.
pub fn grants() -> Grants {
    let head = size_of::<TaskInfo>() as u64;
    // SAFETY: the image builder makes the task information, the kernel maps its pages read-only
    // before the task starts; a whole page is there at least.
    let first = unsafe { memory::constant(layout::TASK_INFO, head) };
    let count = TaskInfo::read_from_bytes(first).map_or(0, |info| info.count);
    let len = head + u64::from(count) * size_of::<Grant>() as u64;
    let len = len.min(layout::TASK_INFO_PAGES * layout::PAGE);
    // SAFETY: as above; the head says how many entries the builder wrote, and the bound is the
    // most that the layout has room for.
    let all = unsafe { memory::constant(layout::TASK_INFO, len) };
    Grants::parse(all).unwrap_or(Grants::NONE)
}

impl Grants {
    const NONE: Grants = Grants {
        info: &TaskInfo {
            magic: TASK_INFO_MAGIC,
            version: API_VERSION,
            name: [0; cloister_abi::NAME_LEN],
            task: u16::MAX,
            count: 0,
            log_bytes: 0,
            core: 0,
            reserved: [0; 3],
        },
        entries: &[],
    };

    /// Reads the information; `None` if it is of another version or cut short.
    fn parse(bytes: &'static [u8]) -> Option<Grants> {
        let (info, rest) = TaskInfo::ref_from_prefix(bytes).ok()?;
        if info.magic != TASK_INFO_MAGIC || info.version != API_VERSION {
            return None;
        }
        let (entries, _) = <[Grant]>::ref_from_prefix_with_elems(rest, info.count.into()).ok()?;
        Some(Grants { info, entries })
    }

    /// This task's index in the system table.
    pub fn task(&self) -> u16 {
        self.info.task
    }

    /// The core of this task's first thread.
    pub fn core(&self) -> u16 {
        self.info.core
    }

    /// Bytes of this task's log ring, 0 for none.
    pub(crate) fn log_bytes(&self) -> u32 {
        self.info.log_bytes
    }

    /// The right to signal the thread behind a grant.
    pub fn signal(&self, name: &'static str) -> Result<Signal, Missing> {
        self.cap(name, CapKind::Thread, What::Signal).map(|entry| Cap::at(entry.slot))
    }

    /// The interrupt of a device.
    pub fn irq(&self, name: &'static str) -> Result<Irq, Missing> {
        let slot = self.cap(name, CapKind::Irq, What::Irq)?.slot;
        Ok(Irq::new(slot, self.bit(name)?))
    }

    /// Control over the machine's power.
    pub fn power(&self, name: &'static str) -> Result<Power, Missing> {
        self.cap(name, CapKind::Power, What::Power).map(|entry| Cap::at(entry.slot))
    }

    /// The right to reset a PCI function that this task owns.
    pub fn device(&self, name: &'static str) -> Result<PciDevice, Missing> {
        self.cap(name, CapKind::Device, What::Device).map(|entry| Cap::at(entry.slot))
    }

    /// Memory that this task shares with its own devices. There is one value for each region in
    /// the task's life: a second one is missing.
    pub fn dma(&self, name: &'static str) -> Result<DmaRegion, Missing> {
        let missing = Missing { name, what: What::Dma };
        // A name with a slash is a guest's RAM or a window, which `exports` gives views of.
        if name.contains('/') {
            return Err(missing);
        }
        let is_it = |entry: &&Grant| {
            entry.kind == GRANT_MEMORY && is_dma(entry) && name_str(&entry.name) == name
        };
        let entry = self.entries.iter().find(is_it).ok_or(missing)?;
        dma::take(entry).ok_or(missing)
    }

    /// I/O ports.
    pub fn ports(&self, name: &'static str) -> Result<PortRange, Missing> {
        let entry = self.find(name, GRANT_PORTS, What::Ports)?;
        match (u16::try_from(entry.va), u16::try_from(entry.len)) {
            (Ok(first), Ok(count)) => Ok(PortRange::new(first, count)),
            _ => Err(Missing { name, what: What::Ports }),
        }
    }

    /// The bit that somebody may set in this task's signal word.
    pub fn bit(&self, name: &'static str) -> Result<Bits, Missing> {
        self.find(name, GRANT_BIT, What::Bit)?;
        let of_name = |entry: &&Grant| entry.kind == GRANT_BIT && name_str(&entry.name) == name;
        let bits = self.entries.iter().filter(of_name);
        Ok(bits.fold(Bits::NONE, |all, entry| all | Bits::single(entry.bit)))
    }

    /// A number from the manifest.
    pub fn number(&self, name: &'static str) -> Result<u64, Missing> {
        self.find(name, GRANT_NUMBER, What::Number).map(|entry| entry.va)
    }

    /// All entries, in the order of the task information.
    pub(crate) fn entries(&self) -> &'static [Grant] {
        self.entries
    }

    /// The entry of a piece of memory.
    pub(crate) fn memory_entry(&self, name: &'static str) -> Result<&'static Grant, Missing> {
        self.find(name, GRANT_MEMORY, What::Memory)
    }

    /// Memory that is shared with another task or with the kernel.
    pub fn shared(&self, name: &'static str) -> Result<Shared, Missing> {
        let entry = self.find(name, GRANT_MEMORY, What::Memory)?;
        // What devices reach is for `dma`, which hands it out once, and for the views of guests.
        if is_dma(entry) { Err(Missing { name, what: What::Memory }) } else { Ok(shared(entry)) }
    }

    /// The registers in memory of a device that this task owns.
    pub fn registers(&self, name: &'static str) -> Result<Registers, Missing> {
        let entry = self.find(name, GRANT_MEMORY, What::Memory)?;
        if entry.rights & MAP_WRITE == 0 || is_dma(entry) {
            return Err(Missing { name, what: What::Memory });
        }
        Ok(registers(entry))
    }

    /// One end of a mailbox.
    pub fn mailbox(&self, name: &'static str) -> Result<Mailbox, Missing> {
        let (memory, peer) = (self.shared(name)?, self.signal(name)?);
        Ok(Mailbox { memory, peer, bits: self.bit(name)? })
    }

    /// The serving end of an export's mailbox: an export has one client.
    pub fn served(&self, export: &'static str) -> Result<Mailbox, Missing> {
        let mut names = self.entries.iter().map(|entry| name_str(&entry.name));
        let of_export = |name: &&str| name.split_once('/').is_some_and(|(head, _)| head == export);
        let name = names.find(of_export).ok_or(Missing { name: export, what: What::Memory })?;
        self.mailbox(name)
    }

    /// Every mailbox that this task serves: the export's name, its client's, the serving end.
    pub fn clients(&self) -> impl Iterator<Item = (&'static str, &'static str, Mailbox)> + use<> {
        let grants = *self;
        let memories = self.entries.iter().filter(|entry| entry.kind == GRANT_MEMORY);
        memories.filter_map(move |entry| {
            // What else has such a name (log rings, a device's memory) has no peer to signal.
            let name = name_str(&entry.name);
            let (export, client) = name.split_once('/')?;
            Some((export, client, grants.mailbox(name).ok()?))
        })
    }

    /// All log rings that this task may read, each with the source that its frames should have:
    /// the index of the task that writes it, or 65535 less the core for the kernel's.
    pub fn log_rings(&self) -> impl Iterator<Item = (u16, Shared)> + use<> {
        let memories = self.entries.iter().filter(|entry| entry.kind == GRANT_MEMORY);
        let rings =
            memories.filter_map(|entry| Some((name_str(&entry.name).strip_prefix("log/")?, entry)));
        let mut tasks = 0..u16::MAX;
        rings.filter_map(move |(name, entry)| {
            let core = name.strip_prefix("kernel").and_then(|core| core.parse::<u16>().ok());
            let source =
                core.map_or_else(|| tasks.next(), |core| Some(u16::MAX.saturating_sub(core)));
            Some((source?, shared(entry)))
        })
    }

    /// The keys that the manifest seals into the image, each with the export that it is for.
    pub fn sealed_keys(&self) -> impl Iterator<Item = (&'static str, Shared)> + use<> {
        let memories = self.entries.iter().filter(|entry| entry.kind == GRANT_MEMORY);
        memories.filter_map(|entry| {
            Some((name_str(&entry.name).strip_prefix("sealed/")?, shared(entry)))
        })
    }

    /// The system table, for `init`.
    pub fn system_table(&self) -> Result<&'static [u8], Missing> {
        self.payload("table")
    }

    /// What a monitor is told of its virtual machine.
    pub fn vm(&self) -> Result<&'static VmConfig, Missing> {
        let missing = Missing { name: "vm", what: What::Constant };
        let bytes = self.payload("vm")?;
        VmConfig::ref_from_prefix(bytes).map(|(config, _)| config).map_err(|_| missing)
    }

    /// The volumes that a disk's driver exports; none if it exports none.
    pub fn volumes(&self) -> impl Iterator<Item = &'static Volume> + use<> {
        let bytes = self.payload("volumes").unwrap_or_default();
        let records = bytes.chunks_exact(size_of::<Volume>());
        let records = records.filter_map(|record| Volume::ref_from_bytes(record).ok());
        // The region is whole pages; a record without a name is padding.
        records.filter(|volume| volume.export[0] != 0)
    }

    /// The tasks that this task supervises, each with what the manifest says of it.
    pub fn supervised(&self) -> Result<impl Iterator<Item = Supervised> + use<>, Missing> {
        let bytes = self.payload("policy")?;
        let record = size_of::<RestartPolicy>();
        let records =
            bytes.chunks_exact(record).filter_map(|r| RestartPolicy::ref_from_bytes(r).ok());
        // The region is whole pages; a record without a name is padding.
        Ok(records.filter(|policy| policy.name[0] != 0).map(Supervised::new))
    }

    /// The page with which the supervisor watches a task, and the right to wake that task.
    pub fn watch(&self, task: &str) -> Option<(Shared, Signal)> {
        let memories = self.entries.iter().filter(|entry| entry.kind == GRANT_MEMORY);
        let mut names = memories.map(|entry| name_str(&entry.name));
        let name = names.find(|name| name.strip_prefix("watch/") == Some(task))?;
        Some((self.shared(name).ok()?, self.signal(name).ok()?))
    }

    /// The pages of the virtio devices that a task works, each with the right to signal the monitor
    /// at the other end: for the supervisor, when the task is gone for good.
    pub fn devices_of(&self, task: &'static str) -> impl Iterator<Item = (Shared, Signal)> + use<> {
        self.pages("gone/", task)
    }

    /// The pages of the virtio devices of a virtual machine, each with the right to signal the worker
    /// in the monitor's place: for the supervisor, when the monitor was stopped.
    pub fn devices_for(&self, vm: &'static str) -> impl Iterator<Item = (Shared, Signal)> + use<> {
        self.pages("halted/", vm)
    }

    fn pages(
        &self,
        prefix: &'static str,
        task: &'static str,
    ) -> impl Iterator<Item = (Shared, Signal)> + use<> {
        let is_it = move |entry: &&Grant| {
            name_str(&entry.name).strip_prefix(prefix).is_some_and(|of| of == task)
        };
        let of = |kind| self.entries.iter().filter(move |entry| entry.kind == kind).filter(is_it);
        let pages = of(GRANT_MEMORY).map(shared);
        pages.zip(of(GRANT_CAP).map(|entry| Cap::at(entry.slot)))
    }

    /// What tells a monitor that a worker of one of its devices is gone for good.
    pub fn gone(&self) -> Bits {
        let bits = self.entries.iter().filter(|entry| entry.kind == GRANT_BIT);
        let bits = bits.filter(|entry| name_str(&entry.name) == "gone");
        bits.fold(Bits::NONE, |all, entry| all | Bits::single(entry.bit))
    }

    /// The task's end of that, if the manifest has it watched: the page, and the bit that asks.
    pub fn watchdog(&self) -> Option<(Shared, Bits)> {
        Some((self.shared("watchdog").ok()?, self.bit("watchdog").ok()?))
    }

    /// A region whose content is part of the payload. Only the names that the image builder fills
    /// so are asked for: [`Grants::system_table`], [`Grants::supervised`], [`Grants::volumes`].
    fn payload(&self, name: &'static str) -> Result<&'static [u8], Missing> {
        let entry = self.find(name, GRANT_MEMORY, What::Constant)?;
        // SAFETY: regions of this name are payload pages, which the kernel maps for ever and never
        // writable (`RegionKind::Payload` and `RegionKind::Table`).
        Ok(unsafe { memory::constant(entry.va, entry.len) })
    }

    pub(crate) fn cap(
        &self,
        name: &'static str,
        kind: CapKind,
        what: What,
    ) -> Result<&'static Grant, Missing> {
        let mut entries = self.entries.iter().filter(|e| e.kind == GRANT_CAP);
        entries
            .find(|e| e.cap_kind == kind as u8 && name_str(&e.name) == name)
            .ok_or(Missing { name, what })
    }

    fn find(&self, name: &'static str, kind: u8, what: What) -> Result<&'static Grant, Missing> {
        let mut entries = self.entries.iter().filter(|e| e.kind == kind);
        entries.find(|e| name_str(&e.name) == name).ok_or(Missing { name, what })
    }
}

/// Whether this task's devices reach a piece of memory.
pub(crate) fn is_dma(entry: &Grant) -> bool {
    entry.rights & MAP_DMA != 0
}

/// What devices do not reach, as registers.
pub(crate) fn registers(entry: &Grant) -> Registers {
    let is_writable = entry.rights & MAP_WRITE != 0;
    // SAFETY: the image builder made the entry for a region that is mapped for the task's whole
    // life, with these rights. Other views of what is writable are of atomic words, which allow any
    // change; what is not may be a part of the payload, which never changes.
    unsafe { Registers::at(entry.va, entry.len, is_writable) }
}

fn shared(entry: &Grant) -> Shared {
    // SAFETY: (1) the image builder lists what the kernel maps, with its rights, for the life of
    // the task. (2) Mappings begin at page boundaries. (3) Regions that are not part of the payload
    // are only seen through this type; those of the payload never change.
    unsafe { Shared::at(entry.va, entry.len, entry.rights) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Bits, Grants, Missing, What};
    use cloister_abi::info::{
        GRANT_BIT, GRANT_CAP, GRANT_MEMORY, GRANT_NUMBER, GRANT_PORTS, Grant, TASK_INFO_MAGIC,
        TaskInfo,
    };
    use cloister_abi::table::CapKind;
    use cloister_abi::{API_VERSION, NAME_LEN};
    use zerocopy::IntoBytes;

    fn named(name: &str) -> [u8; NAME_LEN] {
        let mut field = [0; NAME_LEN];
        field[..name.len()].copy_from_slice(name.as_bytes());
        field
    }

    pub(crate) fn entry(name: &str, kind: u8) -> Grant {
        let name = named(name);
        Grant { name, kind, cap_kind: 0, rights: 0, bit: 0, slot: 0, va: 0, len: 0 }
    }

    fn info(count: u16) -> TaskInfo {
        TaskInfo {
            magic: TASK_INFO_MAGIC,
            version: API_VERSION,
            name: named("ping"),
            task: 3,
            count,
            log_bytes: 0,
            core: 1,
            reserved: [0; 3],
        }
    }

    /// The bytes in words, so that they are aligned as the real page is.
    fn leaked(info: &TaskInfo, entries: &[Grant]) -> &'static [u8] {
        let bytes = [info.as_bytes(), entries.as_bytes()].concat();
        let mut words = vec![0u64; bytes.len().div_ceil(8)];
        words.as_mut_bytes()[..bytes.len()].copy_from_slice(&bytes);
        &words.leak().as_bytes()[..bytes.len()]
    }

    pub(crate) fn leaked_grants(entries: &[Grant]) -> Grants {
        Grants::parse(leaked(&info(entries.len() as u16), entries)).unwrap()
    }

    #[test]
    fn clients_are_what_is_at_the_other_end_of_an_export() {
        let mut entries = Vec::new();
        for (name, bit) in [("web/one", 3), ("db/two", 4)] {
            let signal = Grant { cap_kind: CapKind::Thread as u8, ..entry(name, GRANT_CAP) };
            let wake = Grant { bit, ..entry(name, GRANT_BIT) };
            entries.extend([entry(name, GRANT_MEMORY), signal, wake]);
        }
        // A log ring, a thread of its own, and an export without its capability.
        entries.push(entry("log/ping", GRANT_MEMORY));
        entries.push(Grant { bit: 5, ..entry("thread/main", GRANT_BIT) });
        entries.extend([entry("odd/three", GRANT_MEMORY), entry("odd/three", GRANT_BIT)]);
        let grants = leaked_grants(&entries);
        let clients: Vec<_> = grants.clients().map(|(e, c, m)| (e, c, m.bits)).collect();
        let bits = |bit| Bits::single(bit);
        assert_eq!(clients, [("web", "one", bits(3)), ("db", "two", bits(4))]);
    }

    fn sample() -> Vec<Grant> {
        let signal = Grant { cap_kind: CapKind::Thread as u8, slot: 7, ..entry("peer", GRANT_CAP) };
        let irq = Grant { cap_kind: CapKind::Irq as u8, slot: 9, ..entry("uart0", GRANT_CAP) };
        vec![
            signal,
            irq,
            Grant { bit: 48, ..entry("uart0", GRANT_BIT) },
            Grant { va: 0x3f8, len: 8, ..entry("uart0", GRANT_PORTS) },
            Grant { va: 0x1_0000, len: 8, ..entry("far", GRANT_PORTS) },
            Grant { va: 42, ..entry("count", GRANT_NUMBER) },
        ]
    }

    #[test]
    fn names_are_found_by_kind() {
        let entries = sample();
        let grants = Grants::parse(leaked(&info(entries.len() as u16), &entries)).unwrap();
        assert_eq!(grants.signal("peer").map(|s| s.slot()), Ok(7));
        assert_eq!(grants.number("count"), Ok(42));
        assert!(grants.ports("uart0").unwrap().port::<u8>(7).is_ok());
        assert!(!grants.irq("uart0").unwrap().bits().is_empty());
        assert_eq!((grants.task(), grants.core()), (3, 1));
    }

    #[test]
    fn both_ends_of_a_mailbox_are_found() {
        let page = |name| Grant { va: 0x50_0000, len: 4096, ..entry(name, GRANT_MEMORY) };
        let entries = ["peer", "box/ping"].map(|name| {
            let cap = Grant { cap_kind: CapKind::Thread as u8, slot: 3, ..entry(name, GRANT_CAP) };
            [page(name), cap, Grant { bit: 5, ..entry(name, GRANT_BIT) }]
        });
        let entries = entries.as_flattened();
        let grants = Grants::parse(leaked(&info(entries.len() as u16), entries)).unwrap();
        assert_eq!(grants.mailbox("peer").unwrap().bits, Bits::single(5));
        assert_eq!(grants.served("box").unwrap().peer.slot(), 3);
        assert_eq!(grants.served("bo").err(), Some(Missing { name: "bo", what: What::Memory }));
        assert!(grants.served("peer").is_err(), "a grant is no export");
    }

    #[test]
    fn log_rings_are_numbered_by_their_place_and_core() {
        let names = ["log/init", "data", "log/kernels", "log/kernel0", "log/ping", "log/kernel2"];
        let entries = names.map(|name| Grant { va: 4096, ..entry(name, GRANT_MEMORY) });
        let grants = Grants::parse(leaked(&info(6), &entries)).unwrap();
        let sources: Vec<u16> = grants.log_rings().map(|(source, _)| source).collect();
        assert_eq!(sources, [0, 1, 65535, 2, 65533]);
    }

    #[test]
    fn what_is_not_granted_is_missing_by_name_and_kind() {
        let entries = sample();
        let grants = Grants::parse(leaked(&info(entries.len() as u16), &entries)).unwrap();
        let missing = |name, what| Some(Missing { name, what });
        assert_eq!(grants.signal("uart0").err(), missing("uart0", What::Signal));
        assert_eq!(grants.number("peer").err(), missing("peer", What::Number));
        assert_eq!(grants.ports("far").err(), missing("far", What::Ports));
        assert_eq!(grants.irq("peer").err(), missing("peer", What::Irq));
    }

    #[test]
    fn information_that_is_cut_short_or_of_another_version_is_refused() {
        let entries = sample();
        let count = entries.len() as u16;
        for len in 0..leaked(&info(count), &entries).len() {
            assert!(Grants::parse(&leaked(&info(count), &entries)[..len]).is_none(), "{len}");
        }
        let other = TaskInfo { version: API_VERSION + 1, ..info(count) };
        assert!(Grants::parse(leaked(&other, &entries)).is_none());
        assert!(Grants::parse(leaked(&info(count + 1), &entries)).is_none());
    }
}
