//! The authority that a system table gives: who may touch what, read back from its records.
//!
//! A [`Graph`] is made from the compiled records alone, the ones that the kernel enforces, never
//! from the manifest: what the compiler did wrong would show here. [`crate::policy`] judges it;
//! `print` shows it to people, serde to programs.

mod devices;
mod print;
mod vms;

use std::collections::BTreeMap;

use cloister_abi::call::{
    RIGHT_INFO, RIGHT_POWER_OFF, RIGHT_REBOOT, RIGHT_RESTART, RIGHT_RESUME, RIGHT_STOP,
};
use cloister_abi::info::GRANT_MEMORY;
use cloister_abi::layout::{LOG_RING, PAGE, STACK_TOP, SYSTEM_PAGE, TASK_INFO};
use cloister_abi::name_str;
use cloister_abi::table::{
    self, CapKind, FLAG_IOMMU_ABSENT_OK, FLAG_LAB, MAP_DMA, MAP_EXEC, MAP_WRITE, ROLE_INIT,
    ROLE_SUPERVISOR, RegionKind,
};
use cloister_proto::policy::{FLAG_ESSENTIAL, RestartPolicy, THEN_REBOOT, THEN_STOP};
use serde::Serialize;

use crate::compile::Compiled;
pub use devices::{Device, Volume, Window};
pub use vms::{Vcpu, Vm, VmDevice, VmMap};

/// A whole appliance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Graph {
    /// Its name.
    pub appliance: String,
    /// The manifest says that an absent IOMMU is fine.
    pub iommu_absent_ok: bool,
    /// The manifest says that this is a laboratory system.
    pub lab: bool,
    /// The tasks.
    pub tasks: Vec<Task>,
    /// Memory, and who maps it.
    pub regions: Vec<Region>,
    /// Devices, and whose they are.
    pub devices: Vec<Device>,
    /// Windows, through which tasks read and write disks.
    pub windows: Vec<Window>,
    /// Virtual machines, and what each one sees.
    pub vms: Vec<Vm>,
}

/// What one task may do beside touching memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// `task`, `init` or `supervisor`.
    pub role: String,
    /// Its threads' cores and priorities.
    pub threads: Vec<Thread>,
    /// Signals that it may send: task, thread index, bit.
    pub signals: Vec<Signal>,
    /// Tasks that it controls, and the rights.
    pub controls: Vec<Control>,
    /// `power-off`, `reboot`.
    pub power: Vec<String>,
    /// I/O ports: first and last.
    pub ports: Vec<(u16, u16)>,
    /// Parts of its disk that it offers.
    pub volumes: Vec<Volume>,
    /// What happens after its faults; none for `init` and the supervisor.
    pub restart: Option<Restart>,
}

/// A thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Thread {
    /// Its core.
    pub core: u16,
    /// Its priority.
    pub priority: u8,
    /// CPU time per period, in nanoseconds.
    pub budget_ns: u64,
    /// Length of a period, in nanoseconds.
    pub period_ns: u64,
}

/// The right to wake a thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Signal {
    /// Whose thread.
    pub task: String,
    /// Which of its threads.
    pub thread: u8,
    /// Which bit.
    pub bit: u8,
}

/// Rights over another task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Control {
    /// The other task.
    pub task: String,
    /// `restart`, `stop`, `resume`, `read faults`.
    pub rights: Vec<String>,
}

/// A task's restart policy, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Restart {
    /// Restarts within the window.
    pub tries: u32,
    /// `stop`, `reboot` or `power-off`.
    pub then: String,
    /// The appliance is done when all such tasks are.
    pub essential: bool,
}

/// A piece of memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Region {
    /// `ram`, `payload`, `registers`, `kernel log`, `system page`, `system table`, `firmware`,
    /// `guest ram`, `doorbells`.
    pub kind: String,
    /// Bytes.
    pub bytes: u64,
    /// Physical address, of a platform device's registers alone.
    pub address: Option<u64>,
    /// Device index, of a device's registers alone.
    pub device: Option<usize>,
    /// Who maps it.
    pub maps: Vec<Map>,
}

/// A mapping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Map {
    /// The task.
    pub task: String,
    /// What the task calls it, or what it is for.
    pub name: String,
    /// Its address there.
    pub va: u64,
    /// It may be written.
    pub writable: bool,
    /// It may be executed.
    pub executable: bool,
    /// The task's devices reach it too.
    pub dma: bool,
}

impl Graph {
    /// Reads the authority out of a compiled manifest.
    pub fn new(compiled: &Compiled) -> Self {
        let flags = compiled.header.flags;
        let regions = regions(compiled);
        Self {
            appliance: name_str(&compiled.header.name).to_owned(),
            iommu_absent_ok: flags & FLAG_IOMMU_ABSENT_OK != 0,
            lab: flags & FLAG_LAB != 0,
            tasks: compiled.tasks.iter().enumerate().map(|(i, t)| task(compiled, i, t)).collect(),
            devices: devices::devices(compiled, &regions),
            windows: devices::windows(compiled, &regions),
            vms: vms::vms(compiled),
            regions,
        }
    }
}

fn task_name(compiled: &Compiled, index: usize) -> String {
    compiled.tasks.get(index).map_or("?", |task| name_str(&task.name)).to_owned()
}

/// A run of records that a task names by its first and their number.
fn run<T>(records: &[T], first: u32, count: u16) -> &[T] {
    let first = first as usize;
    records.get(first..first + usize::from(count)).unwrap_or_default()
}

/// Names of the rights that are set.
fn rights(found: u8, names: &[(u8, &str)]) -> Vec<String> {
    names.iter().filter(|(bit, _)| found & bit != 0).map(|(_, name)| (*name).to_owned()).collect()
}

fn task(compiled: &Compiled, index: usize, record: &table::Task) -> Task {
    let caps = run(&compiled.caps, record.first_cap, record.caps);
    let of_kind = |kind: CapKind| caps.iter().filter(move |cap| cap.kind == kind as u8);
    let threads = compiled.threads.iter().filter(|thread| usize::from(thread.task) == index);
    let signal = |cap: &table::Cap| {
        let thread = compiled.threads.get(cap.object as usize)?;
        let task = task_name(compiled, thread.task.into());
        Some(Signal { task, thread: thread.index, bit: cap.bit })
    };
    let control = |cap: &table::Cap| Control {
        task: task_name(compiled, cap.object as usize),
        rights: rights(
            cap.rights,
            &[
                (RIGHT_RESTART, "restart"),
                (RIGHT_STOP, "stop"),
                (RIGHT_RESUME, "resume"),
                (RIGHT_INFO, "read faults"),
            ],
        ),
    };
    let power = |cap: &table::Cap| {
        rights(cap.rights, &[(RIGHT_POWER_OFF, "power-off"), (RIGHT_REBOOT, "reboot")])
    };
    let name = name_str(&record.name);
    Task {
        name: name.to_owned(),
        role: match record.role {
            ROLE_INIT => "init",
            ROLE_SUPERVISOR => "supervisor",
            _ => "task",
        }
        .to_owned(),
        threads: threads
            .map(|thread| Thread {
                core: thread.core,
                priority: thread.priority,
                budget_ns: thread.budget_ns,
                period_ns: thread.period_ns,
            })
            .collect(),
        signals: of_kind(CapKind::Thread).filter_map(signal).collect(),
        controls: of_kind(CapKind::Task).map(control).collect(),
        power: of_kind(CapKind::Power).flat_map(power).collect(),
        ports: run(&compiled.ports, record.first_port, record.ports)
            .iter()
            .map(|ports| (ports.first, ports.first.saturating_add(ports.count.saturating_sub(1))))
            .collect(),
        volumes: devices::volumes(compiled, index),
        restart: compiled.policies.iter().find(|p| name_str(&p.name) == name).map(restart),
    }
}

fn restart(policy: &RestartPolicy) -> Restart {
    let then = match policy.then {
        THEN_STOP => "stop",
        THEN_REBOOT => "reboot",
        _ => "power-off",
    };
    Restart {
        tries: policy.tries,
        then: then.to_owned(),
        essential: policy.flags & FLAG_ESSENTIAL != 0,
    }
}

fn regions(compiled: &Compiled) -> Vec<Region> {
    let mut maps: BTreeMap<u16, Vec<Map>> = BTreeMap::new();
    for (index, task) in compiled.tasks.iter().enumerate() {
        for map in run(&compiled.maps, task.first_map, task.maps) {
            let region = compiled.regions.get(usize::from(map.region));
            let kind = region.map_or(u8::MAX, |region| region.kind);
            maps.entry(map.region).or_default().push(Map {
                task: name_str(&task.name).to_owned(),
                name: map_name(compiled, index, map, kind),
                va: map.va,
                writable: map.rights & MAP_WRITE != 0,
                executable: map.rights & MAP_EXEC != 0,
                dma: map.rights & MAP_DMA != 0,
            });
        }
    }
    let records = compiled.regions.iter().enumerate();
    records
        .map(|(index, region)| Region {
            kind: kind_name(region.kind).to_owned(),
            bytes: u64::from(region.pages) * PAGE,
            address: (region.kind == RegionKind::Mmio as u8 && region.value2 != 0)
                .then_some(region.value2),
            device: (region.kind == RegionKind::Mmio as u8)
                .then_some((region.value & 0xffff_ffff) as usize),
            maps: u16::try_from(index).ok().and_then(|i| maps.remove(&i)).unwrap_or_default(),
        })
        .collect()
}

fn kind_name(kind: u8) -> &'static str {
    const NAMES: [(RegionKind, &str); 9] = [
        (RegionKind::Payload, "payload"),
        (RegionKind::Ram, "ram"),
        (RegionKind::SystemPage, "system page"),
        (RegionKind::Mmio, "registers"),
        (RegionKind::KernelLog, "kernel log"),
        (RegionKind::Table, "system table"),
        (RegionKind::FirmwareWindow, "firmware"),
        (RegionKind::GuestRam, "guest ram"),
        (RegionKind::Doorbells, "doorbells"),
    ];
    NAMES.iter().find(|(known, _)| *known as u8 == kind).map_or("unknown", |(_, name)| name)
}

/// What a task calls a mapping; its own pages have no grant, but a place or rights that tell.
fn map_name(compiled: &Compiled, task: usize, map: &table::Map, kind: u8) -> String {
    let grants = compiled.grants.get(task).into_iter().flatten();
    let mut memory = grants.filter(|grant| grant.kind == GRANT_MEMORY);
    if let Some(grant) = memory.find(|grant| grant.va == map.va) {
        return name_str(&grant.name).to_owned();
    }
    let own = match map.va {
        TASK_INFO => "task information",
        SYSTEM_PAGE => "system page",
        LOG_RING => "log ring",
        va if va < STACK_TOP => "stack",
        _ if map.rights & MAP_EXEC != 0 => "text",
        _ if map.rights & MAP_WRITE != 0 && is_stack(compiled, task, map.va) => "stack",
        _ if map.rights & MAP_WRITE != 0 => "data",
        _ if kind == RegionKind::Payload as u8 => "constants",
        _ => "unnamed",
    };
    format!("({own})")
}

fn is_stack(compiled: &Compiled, task: usize, va: u64) -> bool {
    let mut threads = compiled.threads.iter();
    threads.any(|thread| usize::from(thread.task) == task && thread.stack_bottom == va)
}
