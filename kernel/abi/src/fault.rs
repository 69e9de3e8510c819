//! Why a task stopped: the record that `fault_info` reads word by word.
//!
//! `fault_info(cap, index)` returns four words. Index 0: state, kind, thread, generation. Index 1:
//! instruction pointer, address, error code, stack pointer. Index 2: reason and detail of `leave`,
//! core, TSC of the fault. Index 3 and up: four return addresses each, zero where the chain ended.
//!
//! Index [`DMA_INDEX`] is of its own: what the IOMMU refused the task's functions, in whatever state
//! the task is: how often, source id (bus << 8 | device << 3 | function) of the last one, its
//! address, and its reason (VT-d: fault reason encodings) | 1 << 32 for a read.

use zerocopy::TryFromBytes;

/// What state a task is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes)]
#[repr(u32)]
pub enum TaskState {
    /// At least one thread may run.
    Running = 0,
    /// A stop or a fault was seen, some threads are not parked yet.
    Parking = 1,
    /// Parked by `stop`; `resume` and `restart` are possible.
    Stopped = 2,
    /// Parked by a fault or by `leave`; only `restart` is possible.
    Faulted = 3,
}

impl TaskState {
    /// The state for a code.
    pub fn from_code(code: u64) -> Option<TaskState> {
        let code = u32::try_from(code).ok()?;
        TaskState::try_read_from_bytes(&code.to_ne_bytes()).ok()
    }
}

/// What stopped a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes)]
#[repr(u32)]
pub enum FaultKind {
    /// Nothing yet.
    None = 0,
    /// A CPU exception; the vector is in the low byte of [`FaultKind`]'s word shifted by 8.
    Exception = 1,
    /// The task called `leave`.
    Leave = 2,
    /// Unknown call number, or a boot-only call after the seal; the number is the address word.
    BadCall = 3,
    /// An interrupt came more often than the manifest allows; the interrupt's index is the
    /// address word.
    InterruptStorm = 4,
    /// DMA of its functions was refused more often than the kernel takes; the error code is the
    /// source id, the address word the last address.
    DmaStorm = 5,
}

impl FaultKind {
    /// The kind for a code.
    pub fn from_code(code: u64) -> Option<FaultKind> {
        let code = u32::try_from(code).ok()?;
        FaultKind::try_read_from_bytes(&code.to_ne_bytes()).ok()
    }
}

/// The first argument of `leave`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum LeaveReason {
    /// Done; the detail is an exit status, 0 for success.
    Exit = 0,
    /// The program panicked; its last log frame says where. The detail is the line.
    Panic = 1,
    /// A monitor: the guest asked for a reset. Start me anew; this is no fault.
    Reset = 2,
    /// A monitor: this virtual machine cannot go on. The detail is a
    /// `Stopped` of `lib/proto`.
    Stopped = 3,
}

/// Index of `fault_info` for refused DMA.
pub const DMA_INDEX: u64 = 0x100;

/// How many return addresses a fault record holds.
pub const BACKTRACE_LEN: usize = 16;

/// What a boot failure means: `init` leaves with `Exit` and a detail of code | value << 32.
pub const fn init_error_text(code: u32) -> &'static str {
    match code {
        1 => "no ACPI tables were found; is this machine's firmware ACPI 2.0 or later?",
        2 => "an ACPI table is damaged; its signature is the value",
        3 => "the machine has fewer cores than the appliance uses; it found the value",
        4 => "a core did not start; its number is the value",
        5 => "a device of the appliance is not there; its index is the value",
        6 => "a device could not be bound; its index is the value",
        7 => "a device shares its isolation group with another owner; its index is the value",
        8 => "no usable IOMMU; the manifest does not say iommu = \"absent-ok\"",
        9 => "the entropy source that the manifest asks for is missing or stuck",
        10 => "a machine part could not be handed over to the kernel; its kind is the value",
        11 => "the kernel refused to seal; its status is the value",
        12 => "the system table is of another version than init",
        13 => "a device is on PCI, and init was not granted pci-config",
        _ => "for a reason that this kernel does not know",
    }
}
