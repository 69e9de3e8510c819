//! Why a boot fails: one line for the log, one code for the kernel's last words.
//!
//! The detail of `leave` is code | value << 32; `cloister_abi::fault::init_error_text` has the
//! text of each code. Invariant: the codes here and there are the same.

use cloister_init_core::acpi::{Damaged, Signature};
use cloister_rt::abi::fault::{LeaveReason, init_error_text};
use cloister_rt::{Entropy, Refused, leave};

/// Why the system cannot be brought up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No root pointer, or a table that is needed is not there; its name is zero for the root.
    NoTables(Signature),
    /// A table is damaged, or cannot be mapped.
    Damaged(Signature),
    /// The machine has fewer cores than the appliance uses.
    FewCores(u32),
    /// A core did not start.
    CoreSilent(u32),
    /// A device is not there.
    NoDevice(u32),
    /// A device could not be bound.
    Bind(u32),
    /// A device shares its isolation group with another owner.
    SharedGroup(u32),
    /// There is no IOMMU in use, and the manifest does not allow that.
    NoIommu,
    /// A source of entropy that the manifest needs does not work.
    Entropy(Entropy),
    /// The kernel did not take a machine part; its kind.
    HandOver(u32),
    /// The kernel did not seal.
    Seal(Refused),
    /// The system table cannot be read.
    SystemTable,
    /// A device is on PCI, whose configuration space was not granted.
    NoConfig,
}

impl From<Damaged> for Failure {
    fn from(Damaged(signature): Damaged) -> Self {
        Failure::Damaged(signature)
    }
}

impl Failure {
    /// Code and value for the kernel.
    fn detail(self) -> (u32, u32) {
        match self {
            Failure::NoTables(signature) => (1, u32::from_le_bytes(signature)),
            Failure::Damaged(signature) => (2, u32::from_le_bytes(signature)),
            Failure::FewCores(found) => (3, found),
            Failure::CoreSilent(core) => (4, core),
            Failure::NoDevice(index) => (5, index),
            Failure::Bind(index) => (6, index),
            Failure::SharedGroup(index) => (7, index),
            Failure::NoIommu => (8, 0),
            Failure::Entropy(source) => (9, source as u32),
            Failure::HandOver(kind) => (10, kind),
            Failure::Seal(refused) => (11, refused.status() as u32),
            Failure::SystemTable => (12, 0),
            Failure::NoConfig => (13, 0),
        }
    }

    /// Says it and ends the boot.
    pub fn leave(self) -> ! {
        let (code, value) = self.detail();
        defmt::error!("boot failed: {=str} ({=u32:#x})", init_error_text(code), value);
        leave(LeaveReason::Exit, u64::from(code) | u64::from(value) << 32)
    }
}
