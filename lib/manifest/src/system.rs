//! The manifest after reading: names resolved, units converted, every value with its place.
//!
//! [`System`] is what the rules of [`crate::rules`] judge and what [`crate::compile`] turns into
//! the system table. Tasks, threads and devices are named by their index here, which is also
//! their order in the file. A virtual machine is its monitor's task, with a [`Vm`] in it.

use std::path::PathBuf;

use toml::Spanned;

use crate::board::Board;
use crate::report::{Source, Span};

/// Name of a task's first thread.
pub const MAIN: &str = "main";

/// One appliance.
#[derive(Clone, Debug)]
pub struct System {
    /// The appliance's file.
    pub source: Source,
    /// Its name.
    pub name: String,
    /// What exists.
    pub board: Board,
    /// Cores in use: 0 to `cores - 1`.
    pub cores: u32,
    /// The role of each core.
    pub core_roles: Vec<Option<CoreRole>>,
    /// `iommu = "absent-ok"` and its place.
    pub iommu_absent_ok: Option<Span>,
    /// `lab = true`.
    pub is_lab: bool,
    /// The CPU must have RDRAND.
    pub needs_rdrand: bool,
    /// The CPU must have RDSEED.
    pub needs_rdseed: bool,
    /// The tasks and the monitors of virtual machines, in the order of the file.
    pub tasks: Vec<Task>,
}

impl System {
    /// The virtual machines, each with the task that is its monitor.
    pub fn vms(&self) -> impl Iterator<Item = (usize, &Task, &Vm)> {
        let tasks = self.tasks.iter().enumerate();
        tasks.filter_map(|(index, task)| Some((index, task, task.vm.as_ref()?)))
    }

    /// Whether a task owns a device that reads and writes memory by itself.
    pub fn has_bus_master(&self, task: &Task) -> bool {
        let mut devices = task.devices.iter();
        let device = |index: &Spanned<usize>| self.board.devices.get(*index.get_ref());
        devices.any(|index| device(index).is_some_and(|device| device.is_bus_master))
    }

    /// The export that a grant names.
    pub fn export(&self, grant: &Grant) -> Option<&Export> {
        self.tasks.get(grant.server)?.exports.get(grant.export)
    }

    /// The virtio devices of a virtual machine by number: its grants that are devices, sorted by
    /// name, each with the grant's place in the list of grants.
    pub fn vm_devices<'a>(&'a self, vm: &'a Task) -> Vec<(usize, &'a Grant, DeviceKind)> {
        let grants = vm.grants.iter().enumerate();
        let mut devices: Vec<_> = grants
            .filter_map(|(place, grant)| Some((place, grant, self.export(grant)?.device?)))
            .collect();
        devices.sort_by_key(|(_, grant, _)| grant.name.get_ref());
        devices
    }
}

/// What a core is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoreRole {
    /// `init`, the supervisor and other tasks.
    System,
    /// Tasks.
    Drivers,
    /// Virtual machines; tasks only if they say `share`.
    Guests,
}

impl CoreRole {
    /// The key of the manifest.
    pub fn name(self) -> &'static str {
        match self {
            CoreRole::System => "system",
            CoreRole::Drivers => "drivers",
            CoreRole::Guests => "guests",
        }
    }
}

/// What a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// An ordinary task.
    Task,
    /// Runs alone before the seal.
    Init,
    /// Restarts the others.
    Supervisor,
}

/// A task.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its name.
    pub name: Spanned<String>,
    /// The package whose program it runs.
    pub program: Spanned<String>,
    /// What it is.
    pub role: Role,
    /// Where the role stands, or the task's name.
    pub role_at: Span,
    /// Its threads; the first one is called [`MAIN`].
    pub threads: Vec<Thread>,
    /// Bytes of its log ring.
    pub log_bytes: u64,
    /// Wrapping keys of volumes that lie in the image.
    pub sealed_keys: Vec<SealedKey>,
    /// Its threads have FPU state.
    pub has_fpu: bool,
    /// Indices into the board's devices, with the place of each.
    pub devices: Vec<Spanned<usize>>,
    /// It maps every log ring.
    pub reads_logs: bool,
    /// What it offers.
    pub exports: Vec<Export>,
    /// What it was granted.
    pub grants: Vec<Grant>,
    /// Private memory.
    pub memory: Vec<Memory>,
    /// Numbers for the program.
    pub numbers: Vec<(Spanned<String>, u64)>,
    /// The appliance is done when all such tasks are.
    pub is_essential: bool,
    /// What happens after a fault.
    pub restart: Restart,
    /// How long it may not answer the supervisor before it counts as one that hangs.
    pub watchdog_ns: Option<u64>,
    /// The virtual machine that it is the monitor of.
    pub vm: Option<Vm>,
}

impl Task {
    /// Its name.
    pub fn name(&self) -> &str {
        self.name.get_ref()
    }

    /// Its table of the manifest, for messages.
    pub fn key(&self) -> String {
        let table = if self.vm.is_some() { "vms" } else { "tasks" };
        format!("{table}.{}", self.name())
    }
}

/// A key in the image, for development.
#[derive(Clone)]
pub struct SealedKey {
    /// The export that it is released through.
    pub name: Spanned<String>,
    /// The file, as the manifest says it.
    pub file: Spanned<String>,
    /// The key that the file holds.
    pub bytes: [u8; 32],
}

impl std::fmt::Debug for SealedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SealedKey({} from {})", self.name.get_ref(), self.file.get_ref())
    }
}

/// A virtual machine, beside what is its monitor's.
#[derive(Clone, Debug)]
pub struct Vm {
    /// What it boots, as the manifest names it.
    pub guest: Spanned<String>,
    /// The guest file.
    pub guest_file: PathBuf,
    /// The guest file as messages name it.
    pub guest_shown: String,
    /// Bytes of RAM.
    pub memory: Spanned<u64>,
    /// `VM_LEGACY` and so on of `cloister_proto::vm`.
    pub flags: u32,
    /// `IDENTITY_AMD` and so on of `cloister_proto::vm`.
    pub identity: u32,
}

/// A thread.
#[derive(Clone, Debug)]
pub struct Thread {
    /// [`MAIN`] or its key.
    pub name: String,
    /// Its core, and where that stands.
    pub core: Spanned<u32>,
    /// Its priority, 0 is the most urgent.
    pub priority: Spanned<u8>,
    /// CPU time per period.
    pub budget_ns: Spanned<u64>,
    /// Length of a period.
    pub period_ns: Spanned<u64>,
    /// Bytes of its stack.
    pub stack_bytes: u64,
    /// It may share a core that is meant for another role.
    pub shares: bool,
}

/// Something that a task offers to one client.
#[derive(Clone, Debug)]
pub struct Export {
    /// Its name.
    pub name: Spanned<String>,
    /// Pages of memory that both sides share.
    pub pages: u32,
    /// The virtio device that a virtual machine gets by it.
    pub device: Option<DeviceKind>,
    /// Pages of the window that a task gets by it, through which it drives a block device.
    pub window: Option<u32>,
    /// The part of a disk behind a block device or a window.
    pub volume: Option<Volume>,
}

impl Export {
    /// The virtio device that this is to the task which works its rings: a window's client drives
    /// a disk, as a guest does.
    pub fn served(&self) -> Option<DeviceKind> {
        self.device.or(self.window.map(|_| DeviceKind::BLOCK))
    }

    /// A disk moves payload by itself to and from the client's memory: the driver reaches it by
    /// DMA, unless the payload is enciphered on its way.
    pub fn moves_by_dma(&self) -> bool {
        let is_plain = self.volume.as_ref().is_none_or(|volume| volume.key.is_none());
        self.served().is_some_and(DeviceKind::is_block) && is_plain
    }
}

/// A part of a disk.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Where it is.
    pub extent: Extent,
    /// The client may write.
    pub is_writable: bool,
    /// Blocks that it has at least, 0 for any number.
    pub blocks_min: u64,
    /// Requests in a second at most, 0 for any number.
    pub iops: u64,
    /// Bytes in a second at most, 0 for any number.
    pub bytes_per_second: u64,
    /// It is encrypted, with a key from this grant.
    pub key: Option<Spanned<String>>,
}

/// Where on a disk a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The GPT partition of this name.
    Partition(String),
    /// Blocks of [`cloister_proto::volume::BLOCK_BYTES`].
    Blocks {
        /// The first one.
        first: u64,
        /// Their number.
        blocks: u64,
    },
}

/// Private memory of a task.
#[derive(Clone, Debug)]
pub struct Memory {
    /// Its name.
    pub name: Spanned<String>,
    /// Its pages.
    pub pages: u32,
    /// The task's devices reach it.
    pub is_dma: bool,
}

/// A kind of virtio device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceKind {
    /// The word of the manifest.
    pub name: &'static str,
    /// Virtio device type (virtio 1.3, "Device Types").
    pub number: u16,
    /// Its queues.
    pub queues: u16,
}

impl DeviceKind {
    /// All that tasks of this version can be.
    pub const ALL: [DeviceKind; 3] = [
        DeviceKind::BLOCK,
        DeviceKind { name: "console", number: 3, queues: 2 },
        DeviceKind { name: "entropy", number: 4, queues: 1 },
    ];

    /// A disk.
    pub const BLOCK: DeviceKind =
        DeviceKind { name: "block", number: 2, queues: cloister_proto::volume::QUEUES };

    /// Whether it is a disk.
    pub fn is_block(self) -> bool {
        self == DeviceKind::BLOCK
    }
}

/// Something that a task was granted.
#[derive(Clone, Debug)]
pub struct Grant {
    /// What this task calls it.
    pub name: Spanned<String>,
    /// The task that exports it.
    pub server: usize,
    /// Which of its exports.
    pub export: usize,
    /// Where "server/export" stands.
    pub at: Span,
}

/// What happens when the tries run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The task stays stopped.
    Stop,
    /// The machine reboots.
    Reboot,
    /// The machine powers off.
    PowerOff,
}

impl Then {
    /// All of them.
    pub const ALL: [Then; 3] = [Then::Stop, Then::Reboot, Then::PowerOff];

    /// The word of the manifest.
    pub fn name(self) -> &'static str {
        match self {
            Then::Stop => "stop",
            Then::Reboot => "reboot",
            Then::PowerOff => "power-off",
        }
    }
}

/// How often a task is restarted, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restart {
    /// Restarts within the window.
    pub tries: u32,
    /// The window.
    pub within_ns: u64,
    /// First delay; doubles with each try.
    pub delay_ns: u64,
    /// Largest delay.
    pub delay_max_ns: u64,
    /// What then.
    pub then: Then,
}

impl Restart {
    /// What an ordinary task gets when nothing else is said.
    pub const TASKS: Restart = Restart {
        tries: 8,
        within_ns: 60_000_000_000,
        delay_ns: 10_000_000,
        delay_max_ns: 2_000_000_000,
        then: Then::Stop,
    };
    /// What a virtual machine gets when nothing else is said.
    pub const VMS: Restart = Restart {
        tries: 5,
        within_ns: 600_000_000_000,
        delay_ns: 1_000_000_000,
        delay_max_ns: 60_000_000_000,
        then: Then::Stop,
    };
    /// The supervisor's only policy: its death reboots the machine.
    pub const SUPERVISOR: Restart =
        Restart { tries: 0, within_ns: 0, delay_ns: 0, delay_max_ns: 0, then: Then::Reboot };
}
