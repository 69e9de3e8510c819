//! The system table: the compiled manifest, from which the kernel makes every object.
//!
//! One byte string, 8-byte aligned: a [`Header`], then one array per [`Section`] in the order of
//! the head, each at the first multiple of 8 bytes behind the one before. `cloister-core` validates
//! it; the kernel uses it in place, read-only. All numbers are little-endian.
//!
//! Order matters twice. Threads are sorted by core, then by priority (most urgent first), so that a
//! thread's place among its core's threads is its rank. Capabilities, maps and ports of one task
//! are contiguous, each task names its run, and the runs follow in the order of the tasks without
//! gaps (where a run is empty, its first index does not matter). The same holds for the virtual
//! CPUs, guest maps and doorbells of virtual machines.

use crate::NAME_LEN;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, TryFromBytes};

/// `Header::magic`.
pub const MAGIC: u64 = 0x656c_6261_7473_7973;
/// "No such index" in 16-bit index fields.
pub const NONE: u16 = u16::MAX;

/// Where a section lies.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Section {
    /// Offset from the start of the table, in bytes; a multiple of 8.
    pub offset: u32,
    /// Number of records.
    pub count: u32,
}

/// Start of the table.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`crate::API_VERSION`].
    pub version: u32,
    /// Bytes of the whole table.
    pub len: u32,
    /// The appliance's name.
    pub name: [u8; 32],
    /// Cores that the system uses, 1 to [`crate::layout::MAX_CORES`].
    pub cores: u32,
    /// [`FLAG_IOMMU_ABSENT_OK`] and so on.
    pub flags: u32,
    /// I/O port of the UART for the kernel's own last words, 0 for none.
    pub debug_port: u16,
    /// SLP_TYP values of ACPI S5 for PM1a and PM1b, from the board file.
    pub sleep_type: [u8; 2],
    /// Zero.
    pub reserved: u32,
    /// Pages of RAM that regions of the kinds [`RegionKind::Ram`], [`RegionKind::KernelLog`],
    /// [`RegionKind::GuestRam`] and [`RegionKind::Doorbells`] need together.
    pub ram_pages: u32,
    /// [`Task`] records.
    pub tasks: Section,
    /// [`Thread`] records.
    pub threads: Section,
    /// [`Region`] records.
    pub regions: Section,
    /// [`Map`] records.
    pub maps: Section,
    /// [`Cap`] records.
    pub caps: Section,
    /// [`Ports`] records.
    pub ports: Section,
    /// [`Device`] records.
    pub devices: Section,
    /// [`Irq`] records.
    pub irqs: Section,
    /// [`Vm`] records.
    pub vms: Section,
    /// [`Vcpu`] records, by virtual machine.
    pub vcpus: Section,
    /// [`GuestMap`] records, by virtual machine.
    pub guest_maps: Section,
    /// [`Doorbell`] records, by virtual machine and port.
    pub doorbells: Section,
    /// Zero.
    pub reserved2: u32,
}

/// The system may start without an IOMMU.
pub const FLAG_IOMMU_ABSENT_OK: u32 = 1;
/// A laboratory system: `audit` allows what it forbids elsewhere.
pub const FLAG_LAB: u32 = 2;
/// Entropy policy: refuse to seal without RDRAND.
pub const FLAG_NEED_RDRAND: u32 = 4;
/// Entropy policy: refuse to seal without RDSEED.
pub const FLAG_NEED_RDSEED: u32 = 8;

/// An ordinary task.
pub const ROLE_TASK: u8 = 0;
/// `init`: runs alone before the seal and may make the boot-only calls. Exactly one.
pub const ROLE_INIT: u8 = 1;
/// The supervisor: its death reboots the machine. Exactly one.
pub const ROLE_SUPERVISOR: u8 = 2;

/// The task's threads have FPU and SSE state.
pub const TASK_FPU: u8 = 1;

/// A task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Task {
    /// Its name.
    pub name: [u8; NAME_LEN],
    /// First of its capabilities.
    pub first_cap: u32,
    /// First of its maps.
    pub first_map: u32,
    /// First of its port ranges.
    pub first_port: u32,
    /// Number of capabilities.
    pub caps: u16,
    /// Number of maps.
    pub maps: u16,
    /// Number of port ranges.
    pub ports: u16,
    /// The thread that is told of faults and stops, [`NONE`] for the supervisor and `init`.
    pub supervisor: u16,
    /// The bit with which it is told, below [`crate::call::CLIENT_BITS`].
    pub supervisor_bit: u8,
    /// [`ROLE_TASK`] and so on.
    pub role: u8,
    /// [`TASK_FPU`].
    pub flags: u8,
    /// Trust domain: IBPB and the like run when a core changes between different ones.
    pub domain: u8,
}

/// A thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Thread {
    /// First instruction.
    pub entry: u64,
    /// Initial stack pointer.
    pub stack_top: u64,
    /// Lowest address of the stack.
    pub stack_bottom: u64,
    /// CPU time per period, in nanoseconds.
    pub budget_ns: u64,
    /// Length of a period, in nanoseconds.
    pub period_ns: u64,
    /// Its task.
    pub task: u16,
    /// Its core.
    pub core: u16,
    /// Priority, 0 is the most urgent.
    pub priority: u8,
    /// Index within its task; handed to the start code.
    pub index: u8,
    /// Zero.
    pub reserved: u16,
}

/// In place of a BAR's number: the configuration space of a bus master, one page, never writable.
pub const BAR_CONFIG: u64 = 7;

/// What a region consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes)]
#[repr(u8)]
pub enum RegionKind {
    /// Pages of the payload, never writable: `value` is the offset in the payload.
    Payload = 0,
    /// Memory that the kernel sets aside at boot; `value` is zero.
    Ram = 1,
    /// The system page; one page.
    SystemPage = 2,
    /// A device's registers: `value` is the device index, bits 32..40 the BAR for PCI functions, or
    /// [`BAR_CONFIG`]; for platform devices `value2` is the physical address.
    Mmio = 3,
    /// The kernel's log ring of core `value`.
    KernelLog = 4,
    /// The system table itself.
    Table = 5,
    /// Address space that `map_firmware` fills; no memory of its own.
    FirmwareWindow = 6,
    /// RAM of a virtual machine: aligned to 2 MiB, not zeroed at boot (the guest's own start code
    /// does that); `value` is zero.
    GuestRam = 7,
    /// Counters that the kernel writes: the doorbells of a virtual machine; one page.
    Doorbells = 8,
}

/// A piece of memory, mapped where [`Map`] records say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Region {
    /// Depends on the kind.
    pub value: u64,
    /// Depends on the kind.
    pub value2: u64,
    /// Pages.
    pub pages: u32,
    /// [`RegionKind`].
    pub kind: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

impl Region {
    /// The kind; `None` in a table that is not valid.
    pub fn kind(&self) -> Option<RegionKind> {
        RegionKind::try_read_from_bytes(&[self.kind]).ok()
    }
}

/// A mapping is readable (always set).
pub const MAP_READ: u8 = 1;
/// A mapping is writable.
pub const MAP_WRITE: u8 = 2;
/// A mapping is executable.
pub const MAP_EXEC: u8 = 4;
/// The task's bus masters reach the region too, at the same address and with the same rights to
/// read and write, through their IOMMU domain. For [`RegionKind::Ram`] and
/// [`RegionKind::GuestRam`] alone.
pub const MAP_DMA: u8 = 8;

/// A region at an address of a task; always the whole region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Map {
    /// First address, page aligned, between [`crate::layout::TASK_INFO`] and
    /// [`crate::layout::USER_END`]; for [`RegionKind::GuestRam`] a multiple of 2 MiB between
    /// [`crate::layout::GUEST_RAM`] and [`crate::layout::GUEST_RAM_END`].
    pub va: u64,
    /// The region.
    pub region: u16,
    /// [`MAP_READ`], [`MAP_WRITE`], [`MAP_EXEC`]; never write and execute together.
    pub rights: u8,
    /// Zero.
    pub reserved: [u8; 5],
}

/// What a capability names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CapKind {
    /// Nothing.
    Empty = 0,
    /// A bit of a thread's signal word: `object` is the thread.
    Thread = 1,
    /// A task, for its supervisor: `object` is the task.
    Task = 2,
    /// An interrupt, for its owner: `object` is the [`Irq`] record.
    Irq = 3,
    /// Power control.
    Power = 4,
    /// A device function.
    Device = 5,
    /// A virtual CPU.
    Vcpu = 6,
}

/// A capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Cap {
    /// [`CapKind`].
    pub kind: u8,
    /// Rights, `RIGHT_*` of [`crate::call`].
    pub rights: u8,
    /// Signal bit, for threads.
    pub bit: u8,
    /// Zero.
    pub reserved: u8,
    /// The object's index in its section.
    pub object: u32,
}

/// A range of I/O ports that a task may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ports {
    /// First port.
    pub first: u16,
    /// Number of ports; `first + count` is at most 0xfff8.
    pub count: u16,
}

/// A device that is not on a bus: fixed ports, memory and pins.
pub const DEVICE_PLATFORM: u8 = 0;
/// A PCI function at a fixed position: `select` = bus << 8 | device << 3 | function.
pub const DEVICE_PCI_POSITION: u8 = 1;
/// A PCI function by identity: `select` = vendor << 16 | device; the `nth` of its kind.
pub const DEVICE_PCI_ID: u8 = 2;
/// A PCI function by class: `select` = class << 16 | subclass << 8 | interface; the `nth`.
pub const DEVICE_PCI_CLASS: u8 = 3;
/// The SR-IOV virtual function number `nth`, from 1, of the device with the index `select`.
pub const DEVICE_PCI_VIRTUAL: u8 = 4;

/// The device may become a bus master.
pub const DEVICE_BUS_MASTER: u8 = 1;
/// The system runs without this device if it is not there; its task then does not start.
pub const DEVICE_OPTIONAL: u8 = 2;
/// A PCI function: it interrupts by MSI-X, [`Irq::pin`] is the entry of its table.
pub const DEVICE_MSIX: u8 = 4;
/// A PCI function: it interrupts by MSI; it has one [`Irq`], with pin 0.
pub const DEVICE_MSI: u8 = 8;
/// A PCI function with virtual functions in use: they would fall with it, so it is not reset whole.
pub const DEVICE_PHYSICAL: u8 = 16;

/// A device that the manifest grants to a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Device {
    /// Its name in the board file.
    pub name: [u8; NAME_LEN],
    /// What to look for, see `kind`.
    pub select: u32,
    /// Which of several that fit, in order of position.
    pub nth: u8,
    /// [`DEVICE_PLATFORM`] and so on.
    pub kind: u8,
    /// [`DEVICE_BUS_MASTER`], [`DEVICE_OPTIONAL`].
    pub flags: u8,
    /// Zero.
    pub reserved: u8,
    /// The task that owns it.
    pub owner: u16,
    /// Zero.
    pub reserved2: [u16; 3],
}

/// A device interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Irq {
    /// The device.
    pub device: u16,
    /// The thread that is signalled.
    pub thread: u16,
    /// Platform devices: IOAPIC pin as the board file names it (an ISA number, before overrides).
    /// PCI functions: the number of the message, see [`DEVICE_MSIX`].
    pub pin: u16,
    /// The bit, [`crate::call::IRQ_BIT_FIRST`] and up.
    pub bit: u8,
    /// Zero.
    pub reserved: u8,
    /// Interrupts allowed in a second; above it the device is stopped.
    pub rate_max: u32,
    /// Zero.
    pub reserved2: u32,
}

/// A virtual machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Vm {
    /// First of its virtual CPUs.
    pub first_vcpu: u32,
    /// First of its guest maps.
    pub first_map: u32,
    /// First of its doorbells.
    pub first_doorbell: u32,
    /// Number of virtual CPUs, 1 to [`crate::layout::MAX_VM_VCPUS`].
    pub vcpus: u16,
    /// Number of guest maps.
    pub maps: u16,
    /// Number of doorbells.
    pub doorbells: u16,
    /// The task that is its monitor.
    pub task: u16,
    /// The region of kind [`RegionKind::Doorbells`], [`NONE`] without doorbells.
    pub counters: u16,
    /// Zero.
    pub reserved: u16,
}

/// A virtual CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Vcpu {
    /// Its virtual machine.
    pub vm: u16,
    /// The monitor's thread that runs it; no thread runs two.
    pub thread: u16,
    /// The region of its [`crate::vcpu::VcpuState`]: RAM, one page.
    pub state: u16,
    /// The region of its slots: RAM, two pages.
    pub slots: u16,
}

/// A region at a guest-physical address; always the whole region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GuestMap {
    /// First guest-physical address: a multiple of the page size, of 2 MiB for
    /// [`RegionKind::GuestRam`]; below 4 GiB. In the range of device pages
    /// ([`crate::layout::GUEST_DEVICES`]) only pages of kind [`RegionKind::Ram`], read-only.
    pub gpa: u64,
    /// The region.
    pub region: u16,
    /// [`MAP_READ`], [`MAP_WRITE`], [`MAP_EXEC`]; write and execute may be together here.
    pub rights: u8,
    /// Zero.
    pub reserved: [u8; 5],
}

/// An I/O port of a guest: a write to it, of any width, signals a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Doorbell {
    /// The port.
    pub port: u16,
    /// The thread that is signalled.
    pub thread: u16,
    /// The bit, below [`crate::call::CLIENT_BITS`].
    pub bit: u8,
    /// Zero.
    pub reserved: u8,
    /// Index of its 32-bit counter in the page of [`Vm::counters`], which each write increments.
    pub counter: u16,
}
