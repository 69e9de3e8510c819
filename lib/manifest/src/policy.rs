//! What of a system's authority must not ship: the rules that `audit` fails on.
//!
//! The rules look at the [`Graph`], that is at what the kernel will enforce, and do not trust that
//! the manifest's own rules were applied. Each breach names the parts and the way out.

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::{Graph, Region, Vm};

/// `Region::kind` of guests' memory: each worker of a guest maps it, so [`guest`] judges it.
const GUEST_RAM: &str = "guest ram";

/// Every breach, as a sentence; empty for a system that may ship.
pub fn breaches(graph: &Graph) -> Vec<String> {
    let mut found = Vec::new();
    iommu(graph, &mut found);
    for region in &graph.regions {
        memory(region, &mut found);
        dma(graph, region, &mut found);
        sealed_key(graph, region, &mut found);
    }
    windows(graph, &mut found);
    ports(graph, &mut found);
    registers(graph, &mut found);
    for vm in &graph.vms {
        guest(graph, vm, &mut found);
    }
    for task in &graph.tasks {
        let (name, role) = (&task.name, &task.role);
        if role != "supervisor" && !task.controls.is_empty() {
            let whom: Vec<&str> = task.controls.iter().map(|c| c.task.as_str()).collect();
            found.push(format!(
                "task `{name}` controls {}: only the supervisor restarts and stops tasks",
                whom.join(", ")
            ));
        }
        if role != "supervisor" && !task.power.is_empty() {
            found.push(format!(
                "task `{name}` may {}: only the supervisor has power control",
                task.power.join(" and ")
            ));
        }
        if task.restart.as_ref().is_some_and(|r| r.essential && r.then == "stop") {
            found.push(format!(
                "task `{name}` is essential and stays stopped when its tries run out, so the \
                 appliance would never end: write restart = {{ then = \"reboot\" }} or \
                 \"power-off\""
            ));
        }
    }
    found
}

fn iommu(graph: &Graph, found: &mut Vec<String>) {
    if graph.iommu_absent_ok && !graph.lab {
        found.push(
            "iommu = \"absent-ok\" lets the system run without an IOMMU: only a laboratory system \
             may, which says lab = true"
                .to_owned(),
        );
    }
    for device in graph.devices.iter().filter(|device| device.bus_master) {
        if graph.iommu_absent_ok && !graph.lab {
            found.push(format!(
                "device `{}` of task `{}` may write all memory where there is no IOMMU",
                device.name, device.owner
            ));
        }
        let owner = graph.tasks.iter().find(|task| task.name == device.owner);
        if owner.is_none_or(|owner| owner.role != "task") {
            found.push(format!(
                "device `{}` of `{}` reads and writes memory by itself: only the devices of \
                 ordinary tasks may",
                device.name, device.owner
            ));
        }
    }
}

/// Devices reach what their owner uses for its own work, and the memory of clients whose disk it
/// is; the manifest compiler makes nothing else.
fn dma(graph: &Graph, region: &Region, found: &mut Vec<String>) {
    for map in &region.maps {
        let inflight = map.name.ends_with("/inflight");
        if inflight && (map.dma || region.maps.len() > 1) {
            found.push(format!(
                "in-flight records `{}` of task `{}` are reached by others",
                map.name, map.task
            ));
        }
        let owns = graph.devices.iter().any(|d| d.bus_master && d.owner == map.task);
        if map.dma && !owns {
            found.push(format!(
                "task `{}` maps `{}` for devices and owns none that reads or writes memory",
                map.task, map.name
            ));
        }
    }
    if region.kind != GUEST_RAM {
        return;
    }
    for map in region.maps.iter().filter(|map| map.dma) {
        let vm = graph.vms.iter().find(|vm| {
            graph.regions.get(vm.memory).is_some_and(|memory| core::ptr::eq(memory, region))
        });
        let serves = vm.is_some_and(|vm| {
            vm.devices.iter().any(|device| device.worker == map.task && device.kind == "block")
        });
        if !serves {
            found.push(format!(
                "devices of task `{}` reach a guest's memory, and the task serves no disk of it",
                map.task
            ));
        }
    }
}

/// A window is for a task that copies through it. A monitor that had one would be no longer blind,
/// and a server that maps the guest behind it as well has no use for one.
fn windows(graph: &Graph, found: &mut Vec<String>) {
    for window in &graph.windows {
        if let Some(monitor) = window.client.strip_prefix("monitor ") {
            found.push(format!(
                "monitor `{monitor}` has window `{}` of task `{}`: monitors map no payload",
                window.name, window.server
            ));
        }
        let maps = |region: &Region, task| region.maps.iter().any(|map| map.task == task);
        let both = |region: &&Region| {
            region.kind == GUEST_RAM
                && maps(region, window.client.as_str())
                && maps(region, window.server.as_str())
        };
        if graph.regions.iter().any(|region| both(&region)) {
            found.push(format!(
                "task `{}` maps the memory of a guest from which window `{}` is to keep it away: give \
                 the guest its other disks by windows too",
                window.server, window.name
            ));
        }
    }
}

fn memory(region: &Region, found: &mut Vec<String>) {
    for map in region.maps.iter().filter(|map| map.writable && map.executable) {
        found.push(format!(
            "task `{}` may write and execute {} at {:#x}",
            map.task, map.name, map.va
        ));
    }
    if region.kind == GUEST_RAM {
        return;
    }
    // By names that only the build gives, the supervisor tells a monitor in the page of a device that
    // its worker is gone, and a worker that the machine was stopped. Both ends distrust that page
    // anyway.
    let is_supervisors = |name: &str| name.starts_with("gone/") || name.starts_with("halted/");
    let maps = region.maps.iter().filter(|map| !is_supervisors(&map.name));
    let tasks: BTreeSet<&str> = maps.clone().map(|map| map.task.as_str()).collect();
    let Some(writer) = maps.clone().find(|map| map.writable) else {
        return;
    };
    // A log ring has one writer and any number of readers; that is its purpose.
    let is_log = |name: &str| name == "(log ring)" || name.starts_with("log/");
    let writers = region.maps.iter().filter(|map| map.writable).count();
    let readers_only = writers == 1 && region.maps.iter().all(|map| is_log(&map.name));
    if tasks.len() > 2 && !readers_only {
        let names: Vec<&str> = tasks.into_iter().collect();
        found.push(format!(
            "memory `{}` that task `{}` may write is shared by {} tasks ({}), at most 2 may: give \
             each pair an export of its own",
            writer.name,
            writer.task,
            names.len(),
            names.join(", ")
        ));
    }
}

/// Whoever has the image has the keys that are sealed into it.
fn sealed_key(graph: &Graph, region: &Region, found: &mut Vec<String>) {
    for map in region.maps.iter().filter(|map| map.name.starts_with("sealed/") && !graph.lab) {
        found.push(format!(
            "`{}` of task `{}` is a key that everybody with the image can read: only a laboratory \
             system may have one, which says lab = true",
            map.name, map.task
        ));
    }
}

/// A guest's memory is its own and its workers'. The manifest compiler maps it nowhere else, and
/// the kernel refuses a monitor that maps it; so a breach here is a bug of the compiler.
fn guest(graph: &Graph, vm: &Vm, found: &mut Vec<String>) {
    let name = &vm.monitor;
    let Some(memory) = graph.regions.get(vm.memory) else {
        found.push(format!("VM `{name}` has no memory"));
        return;
    };
    for map in &memory.maps {
        let serves = vm.devices.iter().any(|device| device.worker == map.task);
        if map.task == *name {
            found.push(format!("monitor `{name}` maps its guest's memory: monitors are blind"));
        } else if !serves {
            found.push(format!(
                "task `{}` maps the memory of VM `{name}` and serves none of its devices",
                map.task
            ));
        }
    }
    for map in vm.maps.iter().filter(|map| map.rights.contains('w') && map.kind != GUEST_RAM) {
        found.push(format!(
            "VM `{name}` may write {} at {:#x}: a guest writes its own memory alone",
            map.kind, map.at
        ));
    }
}

/// Ports belong to one task. `init` is gone before the others start, but what it configured stays,
/// so its ports count too.
fn ports(graph: &Graph, found: &mut Vec<String>) {
    let all: Vec<(&str, (u16, u16))> = graph
        .tasks
        .iter()
        .flat_map(|task| task.ports.iter().map(move |range| (task.name.as_str(), *range)))
        .collect();
    for (place, (owner, (first, last))) in all.iter().enumerate() {
        for (other, (from, to)) in all.iter().take(place) {
            if first <= to && from <= last {
                found.push(format!(
                    "tasks `{other}` and `{owner}` share I/O ports {:#x} to {:#x}",
                    first.max(from),
                    last.min(to)
                ));
            }
        }
    }
}

/// Registers belong to one task, however many regions show them.
fn registers(graph: &Graph, found: &mut Vec<String>) {
    let mut owners: BTreeMap<(u64, u64), BTreeSet<&str>> = BTreeMap::new();
    for region in graph.regions.iter().filter(|region| region.kind == "registers") {
        let tasks: BTreeSet<&str> = region.maps.iter().map(|map| map.task.as_str()).collect();
        if tasks.len() > 1 {
            let names: Vec<&str> = tasks.iter().copied().collect();
            found.push(format!("tasks {} share the same device registers", names.join(", ")));
        }
        let Some(first) = region.address else {
            continue;
        };
        let end = first + region.bytes;
        for ((from, to), others) in &owners {
            if first < *to && *from < end && others.is_disjoint(&tasks) {
                let at = first.max(*from);
                let names: Vec<&str> = others.union(&tasks).copied().collect();
                found.push(format!("tasks {} share device registers at {at:#x}", names.join(", ")));
            }
        }
        owners.entry((first, end)).or_default().extend(tasks);
    }
}
