//! Rules of capabilities, ports, devices and interrupts: who may do what to whom.

use super::memory::overlaps;
use super::{Rule, TableError};
use crate::caps::code;
use crate::table::Table;
use cloister_abi::call::{
    CLIENT_BITS, IRQ_BIT_FIRST, IRQ_BITS, RIGHT_ACK, RIGHT_INFO, RIGHT_POWER_OFF, RIGHT_REBOOT,
    RIGHT_RESET, RIGHT_RESTART, RIGHT_RESUME, RIGHT_RUN, RIGHT_SIGNAL, RIGHT_STOP,
};
use cloister_abi::layout::MAX_THREADS;
use cloister_abi::table::{
    Cap, CapKind, DEVICE_BUS_MASTER, DEVICE_MSI, DEVICE_MSIX, DEVICE_OPTIONAL, DEVICE_PCI_CLASS,
    DEVICE_PCI_ID, DEVICE_PCI_POSITION, DEVICE_PCI_VIRTUAL, DEVICE_PHYSICAL, DEVICE_PLATFORM,
    Device, Irq, Ports, ROLE_INIT, ROLE_TASK,
};
use core::ops::Range;

/// Ports of the PCI configuration mechanism, with the reset register between them.
const CONFIG_PORTS: Range<u32> = 0xcf8..0xd00;
/// One above the last port that a task can be given: the bitmap's end.
const PORT_END: u32 = 0xfff8;
/// Messages of a function that the kernel reaches: the entries of a page.
const MESSAGES: u16 = 256;

pub(super) fn devices(table: &Table) -> Result<(), TableError> {
    for (index, device) in table.devices.iter().enumerate() {
        Rule::Reserved.when(device.reserved == 0 && device.reserved2 == [0; 3], index)?;
        Rule::Name.when(super::is_name(&device.name), index)?;
        let known =
            DEVICE_BUS_MASTER | DEVICE_OPTIONAL | DEVICE_MSIX | DEVICE_MSI | DEVICE_PHYSICAL;
        Rule::Flags.when(device.flags & !known == 0, index)?;
        Rule::Device.when(selects(table, device), index)?;
        let owner = table.tasks.get(usize::from(device.owner));
        let owner = owner.ok_or(Rule::DeviceOwner.at(index))?;
        Rule::DeviceMaster.when(is_master_right(device, owner.role), index)?;
        let mut before = table.devices.iter().take(index);
        Rule::NameTwice.when(before.clone().all(|other| other.name != device.name), index)?;
        let same = |other: &Device| {
            let what = |device: &Device| (device.kind, device.select, device.nth);
            device.kind != DEVICE_PLATFORM && what(other) == what(device)
        };
        Rule::DeviceTwice.when(!before.any(same), index)?;
    }
    Ok(())
}

/// Whether a device's selector is one that its kind has. Platform devices do no DMA.
fn selects(table: &Table, device: &Device) -> bool {
    match device.kind {
        DEVICE_PLATFORM => device.select == 0 && device.flags & DEVICE_BUS_MASTER == 0,
        DEVICE_PCI_POSITION => device.select <= 0xffff && device.nth == 0,
        DEVICE_PCI_ID => true,
        DEVICE_PCI_CLASS => device.select <= 0xff_ffff,
        // A virtual function lives by its physical one, which a driver has to set up.
        DEVICE_PCI_VIRTUAL => {
            let both = DEVICE_BUS_MASTER | DEVICE_PHYSICAL;
            let index = usize::try_from(device.select).unwrap_or(usize::MAX);
            let is_one = device.nth != 0 && device.flags & both == DEVICE_BUS_MASTER;
            is_one && table.devices.get(index).is_some_and(|of| of.flags & both == both)
        }
        _ => false,
    }
}

/// System tasks have no bus masters: nobody is told of what theirs does. Messages are writes of a
/// bus master, in one way.
fn is_master_right(device: &Device, role: u8) -> bool {
    let messages = device.flags & (DEVICE_MSIX | DEVICE_MSI);
    if device.flags & DEVICE_BUS_MASTER == 0 {
        return messages == 0;
    }
    role == ROLE_TASK && messages != DEVICE_MSIX | DEVICE_MSI
}

/// Whether an interrupt's number is one that its device has; the kernel reaches one page of a
/// function's table of messages.
fn is_message_right(device: &Device, irq: &Irq) -> bool {
    match (device.kind, device.flags & (DEVICE_MSIX | DEVICE_MSI)) {
        (DEVICE_PLATFORM, _) => true,
        (_, DEVICE_MSIX) => irq.pin < MESSAGES,
        (_, DEVICE_MSI) => irq.pin == 0,
        _ => false,
    }
}

pub(super) fn irqs(table: &Table) -> Result<(), TableError> {
    for (index, irq) in table.irqs.iter().enumerate() {
        Rule::Reserved.when(irq.reserved == 0 && irq.reserved2 == 0, index)?;
        let device = table.devices.get(usize::from(irq.device));
        let thread = table.threads.get(usize::from(irq.thread));
        let (Some(device), Some(thread)) = (device, thread) else {
            return Err(Rule::IrqOwner.at(index));
        };
        Rule::IrqOwner.when(device.owner == thread.task, index)?;
        let is_on_bus = device.kind != DEVICE_PLATFORM;
        let first = table.threads.iter().find(|first| first.task == thread.task);
        let core = if is_on_bus { first.map_or(0, |first| first.core) } else { 0 };
        Rule::IrqCore.when(thread.core == core, index)?;
        Rule::IrqMessage.when(is_message_right(device, irq), index)?;
        let bits = IRQ_BIT_FIRST..IRQ_BIT_FIRST.saturating_add(IRQ_BITS);
        Rule::IrqBit.when(bits.contains(&u32::from(irq.bit)), index)?;
        Rule::IrqRate.when(irq.rate_max > 0, index)?;
        let same_bit = |other: &Irq| (other.thread, other.bit) == (irq.thread, irq.bit);
        Rule::IrqBitTwice.when(!table.irqs.iter().take(index).any(same_bit), index)?;
        let same_pin = |other: &Irq| {
            let of = table.devices.get(usize::from(other.device));
            let is_on_bus_too = of.is_some_and(|device| device.kind != DEVICE_PLATFORM);
            let same = if is_on_bus { other.device == irq.device } else { !is_on_bus_too };
            same && other.pin == irq.pin
        };
        Rule::IrqPin.when(!table.irqs.iter().take(index).any(same_pin), index)?;
    }
    Ok(())
}

/// The bits of every thread's signal word that somebody sets already.
struct Taken([u64; MAX_THREADS]);

impl Taken {
    fn has(&self, thread: usize, bit: u8) -> bool {
        self.0.get(thread).is_some_and(|bits| bits & mask(bit) != 0)
    }

    fn add(&mut self, thread: usize, bit: u8) {
        if let Some(bits) = self.0.get_mut(thread) {
            *bits |= mask(bit);
        }
    }
}

fn mask(bit: u8) -> u64 {
    1u64.checked_shl(u32::from(bit)).unwrap_or_default()
}

pub(super) fn caps(table: &Table) -> Result<(), TableError> {
    let mut taken = Taken([0; MAX_THREADS]);
    for (index, task) in table.tasks.iter().enumerate().filter(|(_, task)| task.role == ROLE_TASK) {
        let (thread, bit) = (usize::from(task.supervisor), task.supervisor_bit);
        Rule::SupervisorBitTwice.when(!taken.has(thread, bit), index)?;
        taken.add(thread, bit);
    }
    let signal = |cap: &&Cap| cap.kind == code(CapKind::Thread);
    for (task_index, task) in table.tasks.iter().enumerate() {
        let first = usize::try_from(task.first_cap).unwrap_or(usize::MAX);
        for (place, cap) in table.caps_of(task).iter().enumerate() {
            let index = first.saturating_add(place);
            Rule::Reserved.when(cap.reserved == 0, index)?;
            self::cap(table, task_index, cap, index)?;
            let free = !signal(&cap) || !taken.has(object(cap), cap.bit);
            Rule::CapBitTwice.when(free, index)?;
        }
        // A monitor's guest rings the doorbells, so their bits are the monitor's.
        let vm = table.vms.iter().find(|vm| usize::from(vm.task) == task_index);
        let doorbells = vm.map(|vm| table.doorbells_of(vm)).unwrap_or_default();
        for (doorbell, index) in doorbells.iter().zip(vm.map_or(0, |vm| vm.first_doorbell)..) {
            let free = !taken.has(usize::from(doorbell.thread), doorbell.bit);
            Rule::DoorbellBitTwice.when(free, usize::try_from(index).unwrap_or(usize::MAX))?;
        }
        for doorbell in doorbells {
            taken.add(usize::from(doorbell.thread), doorbell.bit);
        }
        // One client may hold its bit in several slots; another client may not.
        for cap in table.caps_of(task).iter().filter(signal) {
            taken.add(object(cap), cap.bit);
        }
    }
    Ok(())
}

fn object(cap: &Cap) -> usize {
    usize::try_from(cap.object).unwrap_or(usize::MAX)
}

/// The rules of one capability, held by `task`.
fn cap(table: &Table, task: usize, cap: &Cap, index: usize) -> Result<(), TableError> {
    let (object, nothing) = (object(cap), cap.object == 0);
    let task_rights = RIGHT_RESTART | RIGHT_STOP | RIGHT_RESUME | RIGHT_INFO;
    let owns = |owner: Option<u16>| owner.is_some_and(|owner| usize::from(owner) == task);
    let irq_owner = || {
        let thread = table.irqs.get(object).map(|irq| usize::from(irq.thread));
        thread.and_then(|thread| table.threads.get(thread)).map(|thread| thread.task)
    };
    let monitor = || {
        let vcpu = table.vcpus.get(object)?;
        table.vms.get(usize::from(vcpu.vm)).map(|vm| vm.task)
    };
    let kinds = [
        (CapKind::Empty, 0, nothing),
        (CapKind::Thread, RIGHT_SIGNAL, object < table.threads.len()),
        // Not `init`: it is gone after the seal, and must not come back.
        (CapKind::Task, task_rights, table.tasks.get(object).is_some_and(|t| t.role != ROLE_INIT)),
        (CapKind::Irq, RIGHT_ACK, owns(irq_owner())),
        (CapKind::Power, RIGHT_POWER_OFF | RIGHT_REBOOT, nothing),
        (CapKind::Device, RIGHT_RESET, owns(table.devices.get(object).map(|d| d.owner))),
        (CapKind::Vcpu, RIGHT_RUN, owns(monitor())),
    ];
    let found = kinds.iter().find(|(kind, _, _)| code(*kind) == cap.kind);
    let &(kind, rights, exists) = found.ok_or(Rule::CapRights.at(index))?;
    let some = cap.rights != 0 || kind == CapKind::Empty;
    Rule::CapRights.when(some && cap.rights & !rights == 0, index)?;
    Rule::CapObject.when(exists, index)?;
    let bit = u32::from(cap.bit);
    let in_range = if kind == CapKind::Thread { bit < CLIENT_BITS } else { bit == 0 };
    Rule::CapBit.when(in_range, index)
}

fn span(ports: &Ports) -> Range<u32> {
    let first = u32::from(ports.first);
    first..first.saturating_add(u32::from(ports.count))
}

/// `init` runs alone and is gone before the others start, so it may share ports with them.
pub(super) fn ports(table: &Table) -> Result<(), TableError> {
    let others = |after| table.tasks.iter().skip(after).filter(|task| task.role != ROLE_INIT);
    for (task_index, task) in table.tasks.iter().enumerate() {
        let first = usize::try_from(task.first_port).unwrap_or(usize::MAX);
        for (place, ports) in table.ports_of(task).iter().enumerate() {
            let (index, mine) = (first.saturating_add(place), span(ports));
            Rule::PortRange.when(!mine.is_empty() && mine.end <= PORT_END, index)?;
            if task.role == ROLE_INIT {
                continue;
            }
            Rule::PortConfig.when(!overlaps(&mine, &CONFIG_PORTS), index)?;
            let after = task_index.saturating_add(1);
            let mut rest = others(after).flat_map(|other| table.ports_of(other));
            Rule::PortOverlap.when(!rest.any(|other| overlaps(&mine, &span(other))), index)?;
        }
    }
    Ok(())
}
