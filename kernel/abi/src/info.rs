//! What a task can read about itself and the machine.
//!
//! [`SystemPage`] is one page, mapped read-only into every task; the kernel fills it before the
//! seal and never writes it again. [`TaskInfo`] is made at build time: the names of the task's
//! grants and what they stand for. `lib/rt` turns names into typed capabilities.

use crate::NAME_LEN;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Facts about the machine and its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SystemPage {
    /// [`crate::API_VERSION`].
    pub version: u32,
    /// Cores in use.
    pub cores: u32,
    /// Ticks of the time stamp counter in a second.
    pub tsc_hz: u64,
    /// TSC when the boot stub began.
    pub tsc_start: u64,
    /// TSC when the payload check was done.
    pub tsc_checked: u64,
    /// TSC when the kernel began.
    pub tsc_kernel: u64,
    /// TSC at the seal.
    pub tsc_sealed: u64,
    /// Wall clock at the seal, in seconds since 1970-01-01T00:00:00Z; 0 if unknown.
    pub unix_seconds: u64,
    /// Bytes that were checked.
    pub payload_len: u64,
    /// Bytes of memory that the kernel uses, as docs/promises.md defines them.
    pub kernel_bytes: u64,
    /// Physical address of the ACPI root pointer, 0 if the loader did not say.
    pub rsdp: u64,
    /// Bits: [`ENTROPY_RDRAND`], [`ENTROPY_RDSEED`].
    pub entropy: u32,
    /// Bits: [`CPU_X2APIC`] and so on.
    pub cpu: u32,
    /// GNU build id of the kernel.
    pub kernel_build_id: [u8; 20],
    /// Zero.
    pub reserved: u32,
}

/// RDRAND works.
pub const ENTROPY_RDRAND: u32 = 1;
/// RDSEED works.
pub const ENTROPY_RDSEED: u32 = 2;

/// The local APICs run in x2APIC mode.
pub const CPU_X2APIC: u32 = 1;
/// SMEP is on.
pub const CPU_SMEP: u32 = 2;
/// SMAP is on.
pub const CPU_SMAP: u32 = 4;
/// UMIP is on.
pub const CPU_UMIP: u32 = 8;
/// The machine has no IOMMU in use.
pub const NO_IOMMU: u32 = 16;

/// `TaskInfo::magic`.
pub const TASK_INFO_MAGIC: u32 = 0x6b73_6174;

/// Head of a task's information; `count` entries of [`Grant`] follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TaskInfo {
    /// [`TASK_INFO_MAGIC`].
    pub magic: u32,
    /// [`crate::API_VERSION`].
    pub version: u32,
    /// The task's name.
    pub name: [u8; NAME_LEN],
    /// The task's index in the system table; its log frames carry it as their source.
    pub task: u16,
    /// Entries that follow.
    pub count: u16,
    /// Bytes of the log ring at [`crate::layout::LOG_RING`], 0 for none.
    pub log_bytes: u32,
    /// The core of the task's first thread; its log frames carry it.
    pub core: u16,
    /// Zero.
    pub reserved: [u16; 3],
}

/// A [`Grant`] of memory: `va`, `len` and `rights` (bits of [`crate::table::MAP_READ`] …) are valid.
pub const GRANT_MEMORY: u8 = 1;
/// A [`Grant`] of a capability: `slot`, `cap_kind`, `rights` are valid.
pub const GRANT_CAP: u8 = 2;
/// A [`Grant`] of I/O ports: `va` is the first port, `len` their number.
pub const GRANT_PORTS: u8 = 3;
/// A [`Grant`] of a bit in the own signal word that somebody may set: `bit` is valid.
pub const GRANT_BIT: u8 = 4;
/// A number from the manifest: `va` holds it.
pub const GRANT_NUMBER: u8 = 5;

/// One named thing that a task holds. Names repeat only with different `kind`s: the grant
/// `pong/box` of a mailbox is one memory entry, one capability entry and one bit entry.
///
/// The client finds a mailbox under its own name for the grant, the server under `EXPORT/CLIENT`.
/// A task that reads logs has memory entries `log/TASK`, one for each task and in the order of the
/// system table's tasks, and `log/kernel0` and so on for the cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Grant {
    /// Its name in the manifest, as this task calls it.
    pub name: [u8; NAME_LEN],
    /// [`GRANT_MEMORY`] and so on.
    pub kind: u8,
    /// Kind of capability, [`crate::table::CapKind`].
    pub cap_kind: u8,
    /// Rights of the mapping or the capability.
    pub rights: u8,
    /// Signal bit.
    pub bit: u8,
    /// Capability slot.
    pub slot: u32,
    /// Address, first port or number.
    pub va: u64,
    /// Bytes or ports.
    pub len: u64,
}
