//! What the supervisor is told: one [`RestartPolicy`] per task, in a read-only region that is
//! named `policy` in the supervisor's task information.

use cloister_abi::NAME_LEN;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Word of a virtio device's page that the supervisor sets when the device's worker is gone for
/// good: `wire::GONE` of `lib/virtio`, which holds this equal.
pub const DEVICE_GONE: usize = 70;
/// Word of such a page with the order, which the supervisor gives in a stopped monitor's place:
/// `wire::ORDER`.
pub const DEVICE_ORDER: usize = 0;
/// Word with the last order that the worker has followed: `wire::ANSWER`.
pub const DEVICE_ANSWER: usize = 64;
/// What an order to reset has not set: `wire::LIVE`.
pub const DEVICE_LIVE: u64 = 1;

/// When the tries run out: leave the task stopped and go on.
pub const THEN_STOP: u8 = 0;
/// When the tries run out: reboot the machine.
pub const THEN_REBOOT: u8 = 1;
/// When the tries run out: power the machine off.
pub const THEN_POWER_OFF: u8 = 2;

/// The appliance powers off in order once every task with this flag has left with status 0.
pub const FLAG_ESSENTIAL: u8 = 1;
/// The task is the monitor of a virtual machine, which has the task's name.
pub const FLAG_VM: u8 = 2;
/// The task owns a device that reads and writes memory by itself.
pub const FLAG_DMA: u8 = 4;

/// How one task is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RestartPolicy {
    /// The task's name.
    pub name: [u8; NAME_LEN],
    /// Slot of the supervisor's `Task` capability.
    pub cap: u32,
    /// Restarts allowed within the window.
    pub tries: u32,
    /// Length of the window, in nanoseconds.
    pub within_ns: u64,
    /// First delay before a restart; it doubles with each try.
    pub delay_ns: u64,
    /// Largest delay.
    pub delay_max_ns: u64,
    /// How long it may not answer before it counts as one that hangs; 0: it is not watched.
    pub watchdog_ns: u64,
    /// Bit of the supervisor's signal word that tells of this task.
    pub bit: u8,
    /// [`THEN_STOP`] and so on.
    pub then: u8,
    /// [`FLAG_ESSENTIAL`], [`FLAG_VM`], [`FLAG_DMA`].
    pub flags: u8,
    /// Zero.
    pub reserved: [u8; 5],
}
