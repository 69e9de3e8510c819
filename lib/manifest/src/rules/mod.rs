//! The rules between parts of a system: what no single key can be judged for.
//!
//! Each file judges one aspect of a resolved [`System`] and pushes every breach it finds; none
//! changes the system.

mod cores;
mod devices;
mod disks;
mod roles;
mod vms;
mod wires;

use crate::report::Problems;
use crate::system::System;

/// Judges everything. What a task may have depends on its role, so wrong roles are told alone.
pub fn judge(system: &System, problems: &mut Problems) {
    roles::judge(system, problems);
    if !problems.is_empty() {
        return;
    }
    cores::judge(system, problems);
    wires::judge(system, problems);
    devices::judge(system, problems);
    disks::judge(system, problems);
    vms::judge(system, problems);
}
