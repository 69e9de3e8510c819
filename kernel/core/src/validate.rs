//! The rules of the system table, one [`Rule`] each, and the checks for them.
//!
//! The table comes from our own build and is covered by the payload's checksum; it is checked all
//! the same, because the kernel hands out authority by it. This file has the rules, the head,
//! tasks and threads; `memory` has regions and maps, `authority` has capabilities, ports, devices
//! and interrupts, `vm` has virtual machines. Counts are bounded first, so that the quadratic
//! checks stay cheap.

mod authority;
mod memory;
mod vm;

use crate::table::Table;
use cloister_abi::call::CLIENT_BITS;
use cloister_abi::layout::{MAX_CORES, MAX_THREADS_PER_CORE, PAGE};
use cloister_abi::table::{
    FLAG_IOMMU_ABSENT_OK, FLAG_LAB, FLAG_NEED_RDRAND, FLAG_NEED_RDSEED, Header, MAGIC, MAP_EXEC,
    MAP_WRITE, NONE, ROLE_INIT, ROLE_SUPERVISOR, ROLE_TASK, TASK_FPU, Task, Thread,
};

/// Which rule a table breaks. The index of the [`TableError`] counts records of the section that
/// the rule is about, in the order of the table's head where it is about sections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The head is cut short, misaligned, or has another magic number or version.
    Header,
    /// The head's length is not that of the table.
    Length,
    /// An unknown flag is set, in the head or a record of any section.
    Flags,
    /// A reserved field is not zero, in the head or a record of any section.
    Reserved,
    /// The head's number of cores or a sleep type is out of range.
    Board,
    /// A section does not begin at the first multiple of 8 behind the one before, or reaches
    /// beyond the table.
    Section,
    /// A section holds more records than `cloister_abi::layout` allows.
    Count,
    /// A name (head, task, device) is empty, not UTF-8, or not padded with zeros.
    Name,
    /// Two tasks or two devices have the same name; the index is that of the second.
    NameTwice,
    /// A task's runs of capabilities, maps and ports do not follow those of the task before, or a
    /// record belongs to no task (the index is then the number of tasks).
    Run,
    /// A task has an unknown role.
    Role,
    /// There is not exactly one `init`, or it does not consist of one thread on core 0.
    Init,
    /// There is not exactly one supervisor.
    Supervisor,
    /// A task is told on by a thread that is not the supervisor's, or by a bit out of range.
    SupervisorBit,
    /// A task's threads are not numbered 0, 1, 2, …; or it has none.
    ThreadIndex,
    /// A thread's task does not exist.
    ThreadTask,
    /// A thread's core does not exist, or has too many threads.
    ThreadCore,
    /// Threads are not sorted by core and priority.
    ThreadOrder,
    /// A budget is zero or larger than its period.
    Budget,
    /// A thread's first instruction is not in an executable map of its task.
    Entry,
    /// A thread's stack is not in a writable map of its task with an unmapped page below it.
    Stack,
    /// A region has an unknown kind, no pages, or more than can be mapped.
    Region,
    /// A region's value does not fit its kind (alignment, device, core, or not zero).
    RegionValue,
    /// A payload region reaches beyond the payload.
    PayloadRange,
    /// Two regions are the log ring of one core.
    KernelLogTwice,
    /// The head's `ram_pages` is not the sum of the regions.
    RamPages,
    /// A map's region does not exist.
    MapRegion,
    /// A map's rights are unknown, not readable, or both writable and executable.
    MapRights,
    /// A map is writable or executable though its region's kind may not be.
    MapKind,
    /// A map is misaligned or out of bounds.
    MapRange,
    /// A map lies in the fixed area below the image, but not where its kind belongs.
    MapFixed,
    /// A map reaches into the IOMMU domain though its region's kind or place may not be, or its
    /// task owns no bus master.
    MapDma,
    /// Two maps of a task overlap; the index is that of the first.
    MapOverlap,
    /// Device registers are mapped by a task that does not own the device, or what only `init` may
    /// map by another task.
    MapOwner,
    /// A capability has an unknown kind, or rights that its kind does not have.
    CapRights,
    /// A capability's object does not exist or belongs to another task.
    CapObject,
    /// A capability's signal bit is out of range.
    CapBit,
    /// A capability's signal bit belongs to another client, or tells of a task.
    CapBitTwice,
    /// A task's supervisor bit tells of another task too.
    SupervisorBitTwice,
    /// A port range is empty or reaches beyond the last port.
    PortRange,
    /// Two tasks have the same port; the index is that of the first range.
    PortOverlap,
    /// A task other than `init` has the PCI configuration ports.
    PortConfig,
    /// A device has an unknown kind or a selector that its kind does not have.
    Device,
    /// A bus master belongs to a system task; or a device has messages without being one, or two
    /// kinds of messages.
    DeviceMaster,
    /// Two device records select the same function; the index is that of the second.
    DeviceTwice,
    /// A device's owner does not exist.
    DeviceOwner,
    /// An interrupt's device or thread does not exist, or they belong to different tasks.
    IrqOwner,
    /// An interrupt's thread is not on core 0, or that of a PCI function not on the core of its
    /// task's first thread.
    IrqCore,
    /// An interrupt's bit is out of range.
    IrqBit,
    /// An interrupt's bit tells its thread of another interrupt too.
    IrqBitTwice,
    /// Two interrupts have the same pin, or are the same message of a function; the index is that
    /// of the second.
    IrqPin,
    /// An interrupt of a PCI function is not one of its messages.
    IrqMessage,
    /// An interrupt's allowed rate is zero.
    IrqRate,
    /// A virtual machine's runs of vCPUs, guest maps and doorbells do not follow those of the one
    /// before, or a record belongs to none (the index is then the number of virtual machines).
    VmRun,
    /// A virtual machine has no vCPU, or too many.
    VmVcpus,
    /// A virtual machine's task does not exist, is a system task, or has another one already.
    VmTask,
    /// A virtual machine has doorbells and no region of counters of its own, or the reverse.
    VmCounters,
    /// A vCPU names another virtual machine than the one that it belongs to.
    VcpuVm,
    /// A vCPU's thread does not exist, is not its monitor's, or runs another vCPU.
    VcpuThread,
    /// A vCPU's state or slots are not RAM of the right size, not mapped writable by its monitor,
    /// mapped by another task, or those of another vCPU.
    VcpuPages,
    /// A guest map's region does not exist.
    GuestMapRegion,
    /// A guest map's kind or rights are none that a guest may have.
    GuestMapKind,
    /// A guest map is misaligned, out of bounds, or on the wrong side of the device pages.
    GuestMapRange,
    /// Two guest maps of a virtual machine overlap; the index is that of the first.
    GuestMapOverlap,
    /// A guest map's RAM is in another guest map too.
    GuestMapShared,
    /// A monitor maps its guest's RAM, or another task maps a guest's device page.
    GuestMapOwner,
    /// A doorbell's thread does not exist, or its bit is out of range.
    DoorbellThread,
    /// A doorbell's counter is out of range.
    DoorbellCounter,
    /// A virtual machine's doorbells are not sorted by port, or two have the same port.
    DoorbellOrder,
    /// A doorbell's bit belongs to another client than its monitor, or tells of a task.
    DoorbellBitTwice,
}

/// A broken rule and the index of the record where it broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableError {
    /// The rule.
    pub rule: Rule,
    /// The record's index in its section.
    pub index: u32,
}

impl Rule {
    /// How many rules there are.
    pub const COUNT: usize = 70;

    /// The error of a record that breaks this rule.
    pub(crate) fn at(self, index: usize) -> TableError {
        TableError { rule: self, index: u32::try_from(index).unwrap_or(u32::MAX) }
    }

    /// Fails at a record unless the rule `holds` there.
    pub(crate) fn when(self, holds: bool, index: usize) -> Result<(), TableError> {
        if holds { Ok(()) } else { Err(self.at(index)) }
    }
}

/// Checks every rule but those of the head and the sections, which come first. The first broken one
/// is the answer.
pub(crate) fn check(table: &Table, payload_pages: u32) -> Result<(), TableError> {
    tasks(table)?;
    threads(table)?;
    authority::devices(table)?;
    memory::regions(table, payload_pages)?;
    memory::maps(table)?;
    vm::vms(table)?;
    starts(table)?;
    authority::irqs(table)?;
    authority::caps(table)?;
    authority::ports(table)
}

/// Checks the rules of the head.
pub(crate) fn header(header: &Header, len: usize) -> Result<(), TableError> {
    let known = FLAG_IOMMU_ABSENT_OK | FLAG_LAB | FLAG_NEED_RDRAND | FLAG_NEED_RDSEED;
    let cores = usize::try_from(header.cores).unwrap_or(usize::MAX);
    let current = header.magic == MAGIC && header.version == cloister_abi::API_VERSION;
    Rule::Header.when(current, 0)?;
    Rule::Length.when(usize::try_from(header.len) == Ok(len), 0)?;
    Rule::Flags.when(header.flags & !known == 0, 0)?;
    Rule::Reserved.when(header.reserved == 0 && header.reserved2 == 0, 0)?;
    let sleep_types = header.sleep_type.iter().all(|&sleep_type| sleep_type < 8);
    Rule::Board.when((1..=MAX_CORES).contains(&cores) && sleep_types, 0)?;
    Rule::Name.when(is_name(&header.name), 0)
}

/// Whether a name is UTF-8, not empty, and padded with zeros.
fn is_name(name: &[u8]) -> bool {
    let len = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    let (text, padding) = name.split_at_checked(len).unwrap_or_default();
    len > 0 && core::str::from_utf8(text).is_ok() && padding.iter().all(|&byte| byte == 0)
}

fn tasks(table: &Table) -> Result<(), TableError> {
    let (mut caps, mut maps, mut ports) = (0, 0, 0);
    for (index, task) in table.tasks.iter().enumerate() {
        Rule::Name.when(is_name(&task.name), index)?;
        let unique = table.tasks.iter().take(index).all(|other| other.name != task.name);
        Rule::NameTwice.when(unique, index)?;
        Rule::Flags.when(task.flags & !TASK_FPU == 0, index)?;
        let follows = follows(&mut caps, task.first_cap, task.caps)
            & follows(&mut maps, task.first_map, task.maps)
            & follows(&mut ports, task.first_port, task.ports);
        Rule::Run.when(follows, index)?;
        Rule::Role.when(matches!(task.role, ROLE_TASK | ROLE_INIT | ROLE_SUPERVISOR), index)?;
        if task.role == ROLE_TASK {
            let teller = table.threads.get(usize::from(task.supervisor));
            let told = teller.and_then(|thread| table.tasks.get(usize::from(thread.task)));
            let right = told.is_some_and(|told| told.role == ROLE_SUPERVISOR);
            let in_range = u32::from(task.supervisor_bit) < CLIENT_BITS;
            Rule::SupervisorBit.when(right && in_range, index)?;
        } else {
            Rule::SupervisorBit.when(task.supervisor == NONE, index)?;
        }
        thread_indices(table, index, task)?;
    }
    let all = caps == table.caps.len() && maps == table.maps.len() && ports == table.ports.len();
    Rule::Run.when(all, table.tasks.len())?;
    let count = |role| table.tasks.iter().filter(|task| task.role == role).count();
    Rule::Init.when(count(ROLE_INIT) == 1, 0)?;
    Rule::Supervisor.when(count(ROLE_SUPERVISOR) == 1, 0)
}

/// Whether a task's run begins where the last one ended; `next` then is where this one ends.
fn follows(next: &mut usize, first: u32, count: u16) -> bool {
    let right = count == 0 || usize::try_from(first) == Ok(*next);
    *next = next.saturating_add(usize::from(count));
    right
}

/// The threads of a task are numbered from 0 without gaps; those of `init` are one, on core 0.
fn thread_indices(table: &Table, index: usize, task: &Task) -> Result<(), TableError> {
    let mine = || table.threads.iter().filter(|thread| usize::from(thread.task) == index);
    let seen = mine().fold(0u128, |seen, thread| {
        seen | 1u128.checked_shl(u32::from(thread.index)).unwrap_or_default()
    });
    let count = mine().count();
    let numbered = count > 0 && usize::try_from(seen.trailing_ones()) == Ok(count);
    Rule::ThreadIndex.when(numbered, index)?;
    let alone = count == 1 && mine().all(|thread| thread.core == 0);
    Rule::Init.when(task.role != ROLE_INIT || alone, index)
}

fn threads(table: &Table) -> Result<(), TableError> {
    let mut before: Option<&Thread> = None;
    let mut on_core = 0usize;
    for (index, thread) in table.threads.iter().enumerate() {
        Rule::Reserved.when(thread.reserved == 0, index)?;
        Rule::ThreadTask.when(usize::from(thread.task) < table.tasks.len(), index)?;
        on_core = match before {
            Some(before) if before.core == thread.core => on_core.saturating_add(1),
            _ => 1,
        };
        let exists = u32::from(thread.core) < table.header.cores;
        Rule::ThreadCore.when(exists && on_core <= MAX_THREADS_PER_CORE, index)?;
        let rank = |thread: &Thread| (thread.core, thread.priority);
        let sorted = before.is_none_or(|before| rank(before) <= rank(thread));
        Rule::ThreadOrder.when(sorted, index)?;
        let budget = 0 < thread.budget_ns && thread.budget_ns <= thread.period_ns;
        Rule::Budget.when(budget, index)?;
        before = Some(thread);
    }
    Ok(())
}

/// Where threads begin: their first instruction and their stack. Needs valid maps.
fn starts(table: &Table) -> Result<(), TableError> {
    for (index, thread) in table.threads.iter().enumerate() {
        let task = table.tasks.get(usize::from(thread.task)).ok_or(Rule::ThreadTask.at(index))?;
        let holds = |rights: u8, first: u64, end: u64| {
            table.maps_of(task).iter().any(|map| {
                let range = memory::range(table, map);
                map.rights & rights == rights && range.start <= first && end <= range.end
            })
        };
        let entry = thread.entry;
        Rule::Entry.when(holds(MAP_EXEC, entry, entry.saturating_add(1)), index)?;
        let (bottom, top) = (thread.stack_bottom, thread.stack_top);
        let shape = bottom < top && bottom.is_multiple_of(PAGE) && top.is_multiple_of(16);
        let guarded = !holds(0, bottom.wrapping_sub(1), bottom);
        Rule::Stack.when(shape && guarded && holds(MAP_WRITE, bottom, top), index)?;
    }
    Ok(())
}
