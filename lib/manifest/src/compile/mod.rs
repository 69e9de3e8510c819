//! From a judged manifest and its task programs to the system table and the pages around it.
//!
//! [`compile`] makes [`Compiled`]: every record of the table, and the *blobs*, page-aligned bytes
//! that the payload carries for tasks (text, constants, pristine data, task information, restart
//! policies) and for guests (their images). [`Compiled::encode`] writes the table once it is known
//! where in the payload the blobs will lie. Everything is in the order of the manifest, so equal
//! inputs give equal bytes.

mod disks;
mod encode;
mod space;
mod tasks;
mod vms;
mod wires;

use std::collections::BTreeMap;
use std::fmt;

use cloister_abi::info::Grant;
use cloister_abi::layout::PAGE;
use cloister_abi::table::{self, RegionKind};
use cloister_proto::policy::RestartPolicy;
use cloister_proto::vm::VmConfig;
use cloister_proto::volume::Volume;

use crate::program::Program;
use crate::system::{Role, System};
use space::Space;

/// Pages of a core's kernel log ring.
pub const KERNEL_LOG_PAGES: u32 = 4;
/// Pages of the window through which `init` sees firmware tables.
pub const FIRMWARE_PAGES: u32 = 256;

/// Why a manifest and its programs do not fit together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileError(String);

impl CompileError {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for CompileError {}

/// The records of a system table and the pages that belong to it.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The head; its sections are filled in by [`Compiled::encode`].
    pub header: table::Header,
    /// The tasks.
    pub tasks: Vec<table::Task>,
    /// The threads, by core and priority.
    pub threads: Vec<table::Thread>,
    /// The regions. The value of a payload region is the index of its blob.
    pub regions: Vec<table::Region>,
    /// The maps, by task.
    pub maps: Vec<table::Map>,
    /// The capabilities, by task.
    pub caps: Vec<table::Cap>,
    /// The port ranges, by task.
    pub ports: Vec<table::Ports>,
    /// The devices.
    pub devices: Vec<table::Device>,
    /// The device interrupts.
    pub irqs: Vec<table::Irq>,
    /// The virtual machines.
    pub vms: Vec<table::Vm>,
    /// The virtual CPUs, by virtual machine.
    pub vcpus: Vec<table::Vcpu>,
    /// The guest maps, by virtual machine.
    pub guest_maps: Vec<table::GuestMap>,
    /// The doorbells, by virtual machine and port.
    pub doorbells: Vec<table::Doorbell>,
    /// Whole pages of bytes for the payload.
    pub blobs: Vec<Vec<u8>>,
    /// What each task's information says, by task.
    pub grants: Vec<Vec<Grant>>,
    /// What the supervisor is told.
    pub policies: Vec<RestartPolicy>,
    /// What each monitor is told, by virtual machine.
    pub configs: Vec<VmConfig>,
    /// What drivers are told of the parts of their disks, each with the driver's task.
    pub volumes: Vec<(usize, Volume)>,
    /// The guest file of each virtual machine, as messages name it.
    pub guests: Vec<String>,
}

/// Lays out every task and makes all records. `programs` are by package, `images` (whole pages for
/// a guest's segments) by virtual machine.
pub fn compile(
    system: &System,
    programs: &BTreeMap<String, Program>,
    images: &BTreeMap<String, Vec<u8>>,
) -> Result<Compiled, CompileError> {
    let mut builder = Builder::new(system)?;
    builder.images(programs)?;
    builder.stacks()?;
    builder.wires()?;
    builder.vms(images)?;
    builder.private_memory()?;
    builder.volumes()?;
    builder.devices()?;
    builder.logs()?;
    builder.supervision()?;
    builder.init()?;
    builder.finish()
}

/// What one task has gathered so far.
#[derive(Debug)]
struct Parts {
    space: Space,
    caps: Vec<table::Cap>,
    ports: Vec<table::Ports>,
    grants: Vec<Grant>,
    /// The next free signal bit of each of its threads.
    bits: Vec<u8>,
    /// The next free interrupt bit of its first thread.
    irq_bit: u8,
}

struct Builder<'a> {
    system: &'a System,
    parts: Vec<Parts>,
    threads: Vec<table::Thread>,
    /// Index of each task's threads in `threads`.
    thread_index: Vec<Vec<u16>>,
    regions: Vec<table::Region>,
    blobs: Vec<Vec<u8>>,
    devices: Vec<table::Device>,
    irqs: Vec<table::Irq>,
    vms: Vec<table::Vm>,
    vcpus: Vec<table::Vcpu>,
    guest_maps: Vec<table::GuestMap>,
    doorbells: Vec<table::Doorbell>,
    policies: Vec<RestartPolicy>,
    configs: Vec<VmConfig>,
    volumes: Vec<(usize, Volume)>,
    /// The bit with which a client wakes its server, by client and place of the grant.
    wire_bits: BTreeMap<(usize, usize), u8>,
    /// By worker of devices: the supervisor's bit at it, and the slot of the right to set it.
    still_signals: BTreeMap<usize, (u8, u32)>,
    /// The supervisor's bit for each task.
    supervisor_bits: Vec<Option<u8>>,
    /// The log ring of each task.
    log_regions: Vec<u16>,
    /// The one region of the system page.
    system_page: u16,
}

/// An index as the table stores it; more would not fit the format.
fn index16(index: usize, what: &str) -> Result<u16, CompileError> {
    u16::try_from(index)
        .ok()
        .filter(|index| *index != table::NONE)
        .ok_or_else(|| CompileError::new(format!("the system has too many {what}: {index}")))
}

/// Pages that hold so many bytes.
fn pages_of(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE)
}

/// A zero-padded name field; the manifest's rules keep names short enough.
fn name_field<const LEN: usize>(name: &str) -> [u8; LEN] {
    let mut field = [0; LEN];
    for (to, from) in field.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    field
}

impl<'a> Builder<'a> {
    fn new(system: &'a System) -> Result<Self, CompileError> {
        let parts = system
            .tasks
            .iter()
            .map(|task| Parts {
                space: Space::new(task.name()),
                caps: Vec::new(),
                ports: Vec::new(),
                grants: Vec::new(),
                bits: vec![0; task.threads.len()],
                irq_bit: 0,
            })
            .collect();
        let mut builder = Self {
            system,
            parts,
            threads: Vec::new(),
            thread_index: Vec::new(),
            regions: Vec::new(),
            blobs: Vec::new(),
            devices: Vec::new(),
            irqs: Vec::new(),
            vms: Vec::new(),
            vcpus: Vec::new(),
            guest_maps: Vec::new(),
            doorbells: Vec::new(),
            policies: Vec::new(),
            configs: Vec::new(),
            volumes: Vec::new(),
            wire_bits: BTreeMap::new(),
            still_signals: BTreeMap::new(),
            supervisor_bits: vec![None; system.tasks.len()],
            log_regions: Vec::new(),
            system_page: 0,
        };
        builder.threads()?;
        builder.system_page = builder.region(RegionKind::SystemPage, 0, 0, 1)?;
        Ok(builder)
    }

    /// The records of the threads, sorted as the table wants them.
    fn threads(&mut self) -> Result<(), CompileError> {
        let mut order: Vec<(u32, u8, usize, usize)> = Vec::new();
        for (task, record) in self.system.tasks.iter().enumerate() {
            for (index, thread) in record.threads.iter().enumerate() {
                order.push((*thread.core.get_ref(), *thread.priority.get_ref(), task, index));
            }
        }
        order.sort_unstable();
        self.thread_index =
            self.system.tasks.iter().map(|task| vec![0; task.threads.len()]).collect();
        for (place, (core, priority, task, index)) in order.into_iter().enumerate() {
            let Some(thread) = self.system.tasks.get(task).and_then(|t| t.threads.get(index))
            else {
                continue;
            };
            self.threads.push(table::Thread {
                entry: 0,
                stack_top: 0,
                stack_bottom: 0,
                budget_ns: *thread.budget_ns.get_ref(),
                period_ns: *thread.period_ns.get_ref(),
                task: index16(task, "tasks")?,
                core: index16(usize::try_from(core).unwrap_or(usize::MAX), "cores")?,
                priority,
                index: u8::try_from(index)
                    .map_err(|_| CompileError::new("a task has more than 256 threads"))?,
                reserved: 0,
            });
            if let Some(slot) = self.thread_index.get_mut(task).and_then(|t| t.get_mut(index)) {
                *slot = index16(place, "threads")?;
            }
        }
        Ok(())
    }

    fn region(
        &mut self,
        kind: RegionKind,
        value: u64,
        value2: u64,
        pages: u64,
    ) -> Result<u16, CompileError> {
        let pages = u32::try_from(pages)
            .map_err(|_| CompileError::new(format!("a region has too many pages: {pages}")))?;
        // `as` is the way from a fieldless enum to its number.
        self.regions.push(table::Region {
            value,
            value2,
            pages,
            kind: kind as u8,
            reserved: [0; 3],
        });
        index16(self.regions.len() - 1, "regions")
    }

    /// Bytes for the payload, padded to whole pages, and their region.
    fn payload(&mut self, mut bytes: Vec<u8>) -> Result<u16, CompileError> {
        let pages = pages_of(bytes.len() as u64);
        bytes.resize(usize::try_from(pages * PAGE).unwrap_or(usize::MAX), 0);
        self.blobs.push(bytes);
        self.region(RegionKind::Payload, self.blobs.len() as u64 - 1, 0, pages)
    }

    fn part(&mut self, task: usize) -> &mut Parts {
        // Task indices come from the one list of tasks that `parts` was made from.
        &mut self.parts[task]
    }

    /// A capability for a task: its slot.
    fn cap(&mut self, task: usize, kind: table::CapKind, rights: u8, bit: u8, object: u32) -> u32 {
        let caps = &mut self.part(task).caps;
        caps.push(table::Cap { kind: kind as u8, rights, bit, reserved: 0, object });
        caps.len() as u32 - 1
    }

    /// A fresh bit of a thread's signal word; the manifest's rules keep their number small.
    fn bit(&mut self, task: usize, thread: usize) -> Result<u8, CompileError> {
        let name = self.system.tasks.get(task).map_or("?", |task| task.name()).to_owned();
        let next = self.part(task).bits.get_mut(thread);
        let next = next.filter(|bit| u32::from(**bit) < cloister_abi::call::CLIENT_BITS);
        let Some(next) = next else {
            return Err(CompileError::new(format!("task `{name}` has no signal bit left")));
        };
        *next += 1;
        Ok(*next - 1)
    }

    fn main_thread(&self, task: usize) -> u16 {
        self.thread_index
            .get(task)
            .and_then(|threads| threads.first())
            .copied()
            .unwrap_or(table::NONE)
    }

    fn supervisor(&self) -> Result<usize, CompileError> {
        let mut tasks = self.system.tasks.iter();
        let place = tasks.position(|task| task.role == Role::Supervisor);
        place.ok_or_else(|| CompileError::new("no task has the role `supervisor`"))
    }
}
