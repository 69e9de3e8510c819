//! What a monitor is told of its virtual machine: one [`VmConfig`], in a read-only region that is
//! named `vm` in the monitor's task information.
//!
//! Beside it the information names, for each vCPU `N`: memory `vcpuN/state` (a page of
//! [`cloister_abi::vcpu::VcpuState`]), memory `vcpuN/slots` (two pages) and the capability `vcpuN`; for
//! each other thread of the monitor a signal capability `thread/N` with its bit in that thread's
//! word; for each device of the table below the mailbox grant `NAME` (memory, capability, bit) and
//! memory `NAME/msix`; the mailbox grant `console` where the manifest has one.

use cloister_abi::NAME_LEN;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Most virtual CPUs of a virtual machine.
pub const MAX_VCPUS: usize = cloister_abi::layout::MAX_VM_VCPUS;
/// Most virtio devices of a virtual machine.
pub const MAX_VM_DEVICES: usize = 8;
/// Most queues of a virtio device.
pub const MAX_QUEUES: usize = 8;

/// PIC, PIT and PM timer are there.
pub const VM_LEGACY: u32 = 1;
/// The IOAPIC is there.
pub const VM_IOAPIC: u32 = 2;
/// The CPU baseline is x86-64-v3, else x86-64-v2.
pub const VM_V3: u32 = 4;
/// The guest begins with its APICs in xAPIC mode.
pub const VM_XAPIC: u32 = 8;

pub use cloister_guest_abi::cpuid::{IDENTITY_AMD, IDENTITY_INTEL, IDENTITY_NEUTRAL};

/// A virtio device of a virtual machine.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct VmDevice {
    /// Name of the monitor's grant; all zero ends the list.
    pub name: [u8; NAME_LEN],
    /// Virtio device type (virtio 1.3, "Device Types").
    pub kind: u16,
    /// Number of queues.
    pub queues: u16,
    /// Zero.
    pub reserved: u32,
}

/// A virtual machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VmConfig {
    /// [`cloister_abi::API_VERSION`].
    pub version: u32,
    /// Number of virtual CPUs; vCPU `n` belongs to the monitor's thread `n`.
    pub vcpus: u32,
    /// Bytes of RAM, from guest-physical 0 upwards.
    pub memory: u64,
    /// [`VM_LEGACY`] and so on.
    pub flags: u32,
    /// [`IDENTITY_AMD`] and so on.
    pub identity: u32,
    /// The devices.
    pub devices: [VmDevice; MAX_VM_DEVICES],
}
