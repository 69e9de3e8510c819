//! Virtual machines of the authority graph: what a guest sees, which tasks its doorbells wake.
//!
//! Names of devices come from what the monitor is told; everything else from the kernel's records.

use cloister_abi::layout::PAGE;
use cloister_abi::name_str;
use cloister_abi::table::{self, MAP_EXEC, MAP_READ, MAP_WRITE, RegionKind};
use cloister_proto::vm::MAX_QUEUES;
use serde::Serialize;

use super::{kind_name, run, task_name};
use crate::compile::Compiled;
use crate::system::DeviceKind;

/// A virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Vm {
    /// The task that is its monitor; the virtual machine has the same name.
    pub monitor: String,
    /// The guest file.
    pub guest: String,
    /// Index of the region that is its memory.
    pub memory: usize,
    /// Its virtual CPUs.
    pub vcpus: Vec<Vcpu>,
    /// What the guest sees, by guest-physical address.
    pub maps: Vec<VmMap>,
    /// Its virtio devices.
    pub devices: Vec<VmDevice>,
}

/// A virtual CPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Vcpu {
    /// The monitor's thread that runs it.
    pub thread: u8,
    /// The core of that thread.
    pub core: u16,
}

/// A piece of memory that a guest sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VmMap {
    /// Guest-physical address.
    pub at: u64,
    /// Bytes.
    pub bytes: u64,
    /// "rwx" with dashes for what is missing.
    pub rights: String,
    /// What it consists of, as in `Region::kind`.
    pub kind: String,
}

/// A virtio device of a virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VmDevice {
    /// What the monitor calls it.
    pub name: String,
    /// `console` and so on.
    pub kind: String,
    /// The task that its doorbells wake.
    pub worker: String,
    /// The bit of the worker's signal word that they set.
    pub bit: u8,
    /// Ports whose writing wakes the worker.
    pub doorbells: Vec<u16>,
}

/// The virtual machines of a compiled manifest.
pub(super) fn vms(compiled: &Compiled) -> Vec<Vm> {
    compiled.vms.iter().enumerate().map(|(index, record)| vm(compiled, index, record)).collect()
}

fn vm(compiled: &Compiled, index: usize, record: &table::Vm) -> Vm {
    let maps = run(&compiled.guest_maps, record.first_map, record.maps);
    let is_ram = |map: &&table::GuestMap| {
        let region = compiled.regions.get(usize::from(map.region));
        region.is_some_and(|region| region.kind == RegionKind::GuestRam as u8)
    };
    let vcpu = |vcpu: &table::Vcpu| {
        let thread = compiled.threads.get(usize::from(vcpu.thread))?;
        Some(Vcpu { thread: thread.index, core: thread.core })
    };
    let vcpus = run(&compiled.vcpus, record.first_vcpu, record.vcpus);
    Vm {
        monitor: task_name(compiled, record.task.into()),
        guest: compiled.guests.get(index).cloned().unwrap_or_default(),
        memory: maps.iter().find(is_ram).map_or(usize::MAX, |map| map.region.into()),
        vcpus: vcpus.iter().filter_map(vcpu).collect(),
        maps: maps.iter().map(|map| guest_map(compiled, map)).collect(),
        devices: devices(compiled, index, record),
    }
}

fn guest_map(compiled: &Compiled, map: &table::GuestMap) -> VmMap {
    let region = compiled.regions.get(usize::from(map.region));
    let letters = [(MAP_READ, 'r'), (MAP_WRITE, 'w'), (MAP_EXEC, 'x')];
    let letter = |(right, letter): (u8, char)| if map.rights & right != 0 { letter } else { '-' };
    VmMap {
        at: map.gpa,
        bytes: region.map_or(0, |region| u64::from(region.pages) * PAGE),
        rights: letters.map(letter).iter().collect(),
        kind: region.map_or("nothing", |region| kind_name(region.kind)).to_owned(),
    }
}

fn devices(compiled: &Compiled, index: usize, record: &table::Vm) -> Vec<VmDevice> {
    let told = compiled.configs.get(index).map(|config| config.devices);
    let told = told.iter().flatten().take_while(|device| device.queues > 0).enumerate();
    let doorbells = run(&compiled.doorbells, record.first_doorbell, record.doorbells);
    told.map(|(number, device)| {
        let own = doorbells.iter().filter(|bell| usize::from(bell.counter) / MAX_QUEUES == number);
        let first = own.clone().next();
        let thread = first.and_then(|bell| compiled.threads.get(usize::from(bell.thread)));
        let kind = DeviceKind::ALL.iter().find(|kind| kind.number == device.kind);
        VmDevice {
            name: name_str(&device.name).to_owned(),
            kind: kind.map_or_else(|| device.kind.to_string(), |kind| kind.name.to_owned()),
            worker: thread.map_or_else(String::new, |t| task_name(compiled, t.task.into())),
            bit: first.map_or(0, |bell| bell.bit),
            doorbells: own.map(|bell| bell.port).collect(),
        }
    })
    .collect()
}
