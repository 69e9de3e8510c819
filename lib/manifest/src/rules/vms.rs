//! Virtual machines: how many, how much memory, and which devices are whose.

use cloister_abi::NAME_LEN;
use cloister_abi::layout::{MAX_VCPUS, MAX_VMS};
use cloister_proto::vm::MAX_VM_DEVICES;

use crate::quantity::shown_bytes;
use crate::report::{Problem, Problems};
use crate::system::{Grant, Role, System, Task};

/// Judges virtual machines, and exports that are devices for them.
pub fn judge(system: &System, problems: &mut Problems) {
    for task in &system.tasks {
        served_by_tasks(system, problems, task);
        for grant in &task.grants {
            devices_are_for_vms(system, problems, task, grant);
            names_fit(system, problems, task, grant);
        }
    }
    for (_, task, _) in system.vms() {
        few_devices(system, problems, task);
    }
    few_vms(system, problems);
    memory(system, problems);
}

/// The supervisor sees no guest: whoever could write its memory would have all its rights.
fn served_by_tasks(system: &System, problems: &mut Problems, task: &Task) {
    let device = task.exports.iter().find(|export| export.served().is_some());
    if let (Role::Supervisor, Some(export)) = (task.role, device) {
        problems.push(Problem::new(
            &system.source,
            export.name.span(),
            format!(
                "{} is the supervisor and exports the device `{}`",
                task.key(),
                export.name.get_ref()
            ),
            "a device of a VM",
            "its worker reads and writes the guest's memory: give the export to an ordinary task",
        ));
    }
}

fn devices_are_for_vms(system: &System, problems: &mut Problems, task: &Task, grant: &Grant) {
    let device = system.export(grant).and_then(|export| export.device);
    let (Some(device), None) = (device, &task.vm) else {
        return;
    };
    problems.push(Problem::new(
        &system.source,
        grant.at.clone(),
        format!(
            "{}: grant `{}` names a virtio {} device, which only a VM can have",
            task.key(),
            grant.name.get_ref(),
            device.name
        ),
        "a device of a VM",
        "grant it to a VM, or remove `device` from the export to make it a mailbox",
    ));
}

/// The worker finds the guest's memory as `EXPORT/VM/ram` and so on; the names have fixed fields.
fn names_fit(system: &System, problems: &mut Problems, task: &Task, grant: &Grant) {
    let Some((export, kind)) =
        system.export(grant).and_then(|export| Some((export, export.served()?)))
    else {
        return;
    };
    let (last, what) = match kind.is_block() {
        true => ("inflight", "in-flight records"),
        false => ("bells", "doorbells"),
    };
    let longest = format!("{}/{}/{last}", export.name.get_ref(), task.name());
    if longest.len() <= NAME_LEN {
        return;
    }
    problems.push(Problem::new(
        &system.source,
        grant.at.clone(),
        format!(
            "{}: the worker would find its {what} as `{longest}`, a name of {} characters",
            task.key(),
            longest.len()
        ),
        format!("longer than {NAME_LEN}"),
        format!(
            "the names of {} and export have {} characters together, {} fit: shorten one",
            if task.vm.is_some() { "VM" } else { "task" },
            export.name.get_ref().len() + task.name().len(),
            NAME_LEN - "//".len() - last.len()
        ),
    ));
}

fn few_devices(system: &System, problems: &mut Problems, vm: &Task) {
    let devices = system.vm_devices(vm);
    let Some((_, grant, _)) = devices.get(MAX_VM_DEVICES) else {
        return;
    };
    problems.push(Problem::new(
        &system.source,
        grant.at.clone(),
        format!("{} has {} devices, at most {MAX_VM_DEVICES} fit", vm.key(), devices.len()),
        "one too many",
        "remove a device",
    ));
}

fn few_vms(system: &System, problems: &mut Problems) {
    if let Some((_, task, _)) = system.vms().nth(MAX_VMS) {
        problems.push(Problem::new(
            &system.source,
            task.name.span(),
            format!("{} VMs, at most {MAX_VMS} are possible", system.vms().count()),
            "one too many",
            "remove VMs",
        ));
    }
    let threads = || system.vms().flat_map(|(_, task, _)| &task.threads);
    if let Some(thread) = threads().nth(MAX_VCPUS) {
        problems.push(Problem::new(
            &system.source,
            thread.core.span(),
            format!("{} virtual CPUs, at most {MAX_VCPUS} are possible", threads().count()),
            "one too many",
            "list fewer cores in some VMs",
        ));
    }
}

/// Guests' memory is set aside at boot: what the board does not have cannot be promised.
fn memory(system: &System, problems: &mut Problems) {
    let board = u64::from(system.board.memory_mib) << 20;
    let mut sum = 0;
    for (_, task, vm) in system.vms() {
        sum += vm.memory.get_ref();
        if sum < board {
            continue;
        }
        problems.push(Problem::new(
            &system.source,
            vm.memory.span(),
            format!(
                "{}: the VMs up to this one have {} of memory, the board has {} for all",
                task.key(),
                shown_bytes(sum),
                shown_bytes(board)
            ),
            "more than there is",
            format!("lower `memory` of a VM, or raise it in {}", system.board.source.name()),
        ));
        return;
    }
}
