//! What tasks hold of each other, of devices and of the machine: the named entries of their
//! task information, and the capabilities, ports and mappings behind them.

use cloister_abi::call::{
    IRQ_BIT_FIRST, RIGHT_ACK, RIGHT_INFO, RIGHT_POWER_OFF, RIGHT_REBOOT, RIGHT_RESET,
    RIGHT_RESTART, RIGHT_RESUME, RIGHT_SIGNAL, RIGHT_STOP,
};
use cloister_abi::info::{GRANT_BIT, GRANT_CAP, GRANT_MEMORY, GRANT_NUMBER, GRANT_PORTS, Grant};
use cloister_abi::layout::PAGE;
use cloister_abi::table::{
    BAR_CONFIG, CapKind, DEVICE_BUS_MASTER, DEVICE_MSI, DEVICE_MSIX, DEVICE_OPTIONAL,
    DEVICE_PCI_CLASS, DEVICE_PCI_ID, DEVICE_PCI_POSITION, DEVICE_PCI_VIRTUAL, DEVICE_PHYSICAL,
    DEVICE_PLATFORM, Device, Irq, MAP_DMA, MAP_READ, MAP_WRITE, Ports, RegionKind,
};
use cloister_proto::policy::{
    FLAG_DMA, FLAG_ESSENTIAL, FLAG_VM, RestartPolicy, THEN_POWER_OFF, THEN_REBOOT, THEN_STOP,
};
use zerocopy::IntoBytes;

use super::{Builder, CompileError, KERNEL_LOG_PAGES, index16, name_field};
use crate::board::{self, Interrupts, Place};
use crate::system::{Role, Then};

/// An entry of a task's information with nothing but name and kind.
pub(super) fn entry(name: &str, kind: u8) -> Grant {
    Grant { name: name_field(name), kind, cap_kind: 0, rights: 0, bit: 0, slot: 0, va: 0, len: 0 }
}

impl<'a> Builder<'a> {
    pub(super) fn tell(&mut self, task: usize, grant: Grant) {
        self.part(task).grants.push(grant);
    }

    pub(super) fn tell_cap(
        &mut self,
        task: usize,
        name: &str,
        kind: CapKind,
        rights: u8,
        slot: u32,
    ) {
        let cap_kind = kind as u8;
        self.tell(task, Grant { cap_kind, rights, slot, ..entry(name, GRANT_CAP) });
    }

    pub(super) fn tell_bit(&mut self, task: usize, name: &str, bit: u8) {
        self.tell(task, Grant { bit, ..entry(name, GRANT_BIT) });
    }

    /// Maps a region behind what the task has, under a name. `len` is what the task is told, for
    /// regions whose last page is only partly used.
    pub(super) fn share(
        &mut self,
        task: usize,
        name: &str,
        region: u16,
        rights: u8,
        len: Option<u64>,
    ) -> Result<(), CompileError> {
        let pages = self.regions.get(usize::from(region)).map_or(0, |region| region.pages);
        let va = self.part(task).space.place(region, pages.into(), rights, name)?;
        let len = len.unwrap_or(u64::from(pages) * PAGE);
        self.tell(task, Grant { rights: rights | MAP_READ, va, len, ..entry(name, GRANT_MEMORY) });
        Ok(())
    }

    /// Every grant: one region of shared memory, and a signal bit for each direction.
    pub(super) fn wires(&mut self) -> Result<(), CompileError> {
        let system = self.system;
        for (client, task) in system.tasks.iter().enumerate() {
            for (place, grant) in task.grants.iter().enumerate() {
                let export = &system.tasks[grant.server].exports[grant.export];
                let here = grant.name.get_ref().as_str();
                let there = format!("{}/{}", export.name.get_ref(), task.name());
                let region = self.region(RegionKind::Ram, 0, 0, export.pages.into())?;
                self.share(client, here, region, MAP_WRITE, None)?;
                self.share(grant.server, &there, region, MAP_WRITE, None)?;
                let to_server = self.wake(client, here, (grant.server, 0))?;
                let to_client = self.wake(grant.server, &there, (client, 0))?;
                self.wire_bits.insert((client, place), to_server);
                self.tell_bit(client, here, to_client);
                self.tell_bit(grant.server, &there, to_server);
                if export.device.is_some() {
                    self.obituary(client, grant.server, region)?;
                    self.stillness(client, grant.server, region, &there)?;
                }
            }
            self.windows(client)?;
            self.own_threads(client)?;
        }
        Ok(())
    }

    /// The supervisor's means to tell a monitor that a device's worker is gone for good: the page of
    /// the device, and a signal.
    fn obituary(&mut self, client: usize, worker: usize, page: u16) -> Result<(), CompileError> {
        let Ok(supervisor) = self.supervisor() else {
            return Ok(());
        };
        let name = format!("gone/{}", self.system.tasks[worker].name());
        self.share(supervisor, &name, page, MAP_WRITE, None)?;
        let bit = self.wake(supervisor, &name, (client, 0))?;
        self.tell_bit(client, "gone", bit);
        Ok(())
    }

    /// The supervisor's means to have a stopped machine's memory left alone: the page of the device,
    /// in which it gives an order in the monitor's place, and a signal, one for all devices of a
    /// worker. To the worker it is one more bit of the mailbox `there`.
    fn stillness(
        &mut self,
        client: usize,
        worker: usize,
        page: u16,
        there: &str,
    ) -> Result<(), CompileError> {
        let Ok(supervisor) = self.supervisor() else {
            return Ok(());
        };
        let name = format!("halted/{}", self.system.tasks[client].name());
        self.share(supervisor, &name, page, MAP_WRITE, None)?;
        let (bit, slot) = match self.still_signals.get(&worker) {
            Some(signal) => *signal,
            None => {
                let bit = self.bit(worker, 0)?;
                let object = self.thread_index[worker][0].into();
                let slot = self.cap(supervisor, CapKind::Thread, RIGHT_SIGNAL, bit, object);
                self.still_signals.insert(worker, (bit, slot));
                (bit, slot)
            }
        };
        self.tell_cap(supervisor, &name, CapKind::Thread, RIGHT_SIGNAL, slot);
        self.tell_bit(worker, there, bit);
        Ok(())
    }

    /// A task with further threads can wake each of them, the first one too. Monitors have their
    /// own way, see `vms`.
    fn own_threads(&mut self, task: usize) -> Result<(), CompileError> {
        let system = self.system;
        let (threads, vm) = (&system.tasks[task].threads, &system.tasks[task].vm);
        let several = threads.len() > 1 && vm.is_none();
        for (index, thread) in threads.iter().enumerate().filter(|_| several) {
            let name = format!("thread/{}", thread.name);
            let bit = self.wake(task, &name, (task, index))?;
            self.tell_bit(task, &name, bit);
            self.tell(task, Grant { va: index as u64, ..entry(&name, GRANT_NUMBER) });
        }
        Ok(())
    }

    /// Gives `task` the right to signal a thread with a bit that nobody else sets; the bit.
    pub(super) fn wake(
        &mut self,
        task: usize,
        name: &str,
        (target, thread): (usize, usize),
    ) -> Result<u8, CompileError> {
        let bit = self.bit(target, thread)?;
        let object = self.thread_index[target][thread].into();
        let slot = self.cap(task, CapKind::Thread, RIGHT_SIGNAL, bit, object);
        self.tell_cap(task, name, CapKind::Thread, RIGHT_SIGNAL, slot);
        Ok(bit)
    }

    /// Memory of a task's own, and the numbers and keys of the manifest.
    pub(super) fn private_memory(&mut self) -> Result<(), CompileError> {
        let system = self.system;
        for (index, task) in system.tasks.iter().enumerate() {
            for memory in &task.memory {
                let region = self.region(RegionKind::Ram, 0, 0, memory.pages.into())?;
                let dma = if memory.is_dma { MAP_DMA } else { 0 };
                self.share(index, memory.name.get_ref(), region, MAP_WRITE | dma, None)?;
            }
            for (name, number) in &task.numbers {
                self.tell(index, Grant { va: *number, ..entry(name.get_ref(), GRANT_NUMBER) });
            }
            for key in &task.sealed_keys {
                let region = self.payload(key.bytes.to_vec())?;
                let name = format!("sealed/{}", key.name.get_ref());
                self.share(index, &name, region, MAP_READ, Some(key.bytes.len() as u64))?;
            }
        }
        Ok(())
    }

    /// The devices that tasks own: ports, registers, interrupts, resets.
    pub(super) fn devices(&mut self) -> Result<(), CompileError> {
        let system = self.system;
        for (task, record) in system.tasks.iter().enumerate() {
            for index in &record.devices {
                self.device(task, *index.get_ref())?;
            }
        }
        Ok(())
    }

    /// The boards' devices that are in use, in the order of their records.
    fn devices_in_use(&self) -> impl Iterator<Item = usize> + use<'a> {
        let tasks = self.system.tasks.iter();
        tasks.flat_map(|task| task.devices.iter().map(|index| *index.get_ref()))
    }

    fn device(&mut self, task: usize, at: usize) -> Result<(), CompileError> {
        let device: &board::Device = &self.system.board.devices[at];
        let name = device.name.get_ref().as_str();
        let board = &self.system.board.devices;
        let functions = self.devices_in_use().map(|other| &board[other]);
        let functions = functions.filter(|other| other.place == Place::Virtual(at));
        let functions = functions.map(|other| other.nth).max();
        let (kind, select) = match device.place {
            Place::Platform => (DEVICE_PLATFORM, 0),
            Place::Position(select) => (DEVICE_PCI_POSITION, select),
            Place::Identity(select) => (DEVICE_PCI_ID, select),
            Place::Class(select) => (DEVICE_PCI_CLASS, select),
            Place::Virtual(physical) => {
                let record = self.devices_in_use().position(|other| other == physical);
                let record = index16(record.unwrap_or(usize::MAX), "devices")?;
                (DEVICE_PCI_VIRTUAL, record.into())
            }
        };
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        let number = index16(self.devices.len(), "devices")?;
        self.devices.push(Device {
            name: name_field(name),
            select,
            nth: device.nth,
            kind,
            flags: flag(device.is_bus_master, DEVICE_BUS_MASTER)
                | flag(device.is_optional, DEVICE_OPTIONAL)
                | flag(functions.is_some(), DEVICE_PHYSICAL)
                | flag(matches!(device.interrupts, Interrupts::Msix(_)), DEVICE_MSIX)
                | flag(device.interrupts == Interrupts::Msi, DEVICE_MSI),
            reserved: 0,
            owner: index16(task, "tasks")?,
            reserved2: [0; 3],
        });
        if let Some((first, count)) = device.ports {
            self.part(task).ports.push(Ports { first, count });
            let (va, len) = (first.into(), count.into());
            self.tell(task, Grant { va, len, ..entry(name, GRANT_PORTS) });
        }
        if let Some((address, pages)) = device.mmio {
            let region = self.region(RegionKind::Mmio, number.into(), address, pages.into())?;
            self.share(task, name, region, MAP_WRITE, None)?;
        }
        for (bar, pages) in &device.bars {
            let value = u64::from(number) | u64::from(*bar) << 32;
            let region = self.region(RegionKind::Mmio, value, 0, u64::from(*pages))?;
            self.share(task, &format!("{name}.bar{bar}"), region, MAP_WRITE, None)?;
        }
        if device.shows_config {
            let value = u64::from(number) | BAR_CONFIG << 32;
            let region = self.region(RegionKind::Mmio, value, 0, 1)?;
            self.share(task, &format!("{name}.config"), region, MAP_READ, None)?;
        }
        if device.place != Place::Platform {
            let slot = self.cap(task, CapKind::Device, RIGHT_RESET, 0, number.into());
            self.tell_cap(task, name, CapKind::Device, RIGHT_RESET, slot);
        }
        if let Some(functions) = functions {
            let (name, va) = (format!("{name}.functions"), functions.into());
            self.tell(task, Grant { va, ..entry(&name, GRANT_NUMBER) });
        }
        for (nth, pin) in device.interrupts.numbers().into_iter().enumerate() {
            let name = if nth == 0 { name.to_owned() } else { format!("{name}.{nth}") };
            self.interrupt(task, &name, number, pin, device.rate_max)?;
        }
        Ok(())
    }

    fn interrupt(
        &mut self,
        task: usize,
        name: &str,
        device: u16,
        pin: u16,
        rate_max: u32,
    ) -> Result<(), CompileError> {
        // The manifest's rules allow as many interrupts for a task as there are bits.
        let bit = IRQ_BIT_FIRST as u8 + self.part(task).irq_bit;
        self.part(task).irq_bit += 1;
        let thread = self.main_thread(task);
        self.irqs.push(Irq { device, thread, pin, bit, reserved: 0, rate_max, reserved2: 0 });
        let object = index16(self.irqs.len() - 1, "interrupts")?.into();
        let slot = self.cap(task, CapKind::Irq, RIGHT_ACK, 0, object);
        self.tell_cap(task, name, CapKind::Irq, RIGHT_ACK, slot);
        self.tell_bit(task, name, bit);
        Ok(())
    }

    /// The kernel's log rings, and every ring for the tasks that read logs.
    pub(super) fn logs(&mut self) -> Result<(), CompileError> {
        let system = self.system;
        let kernel_logs = (0..u64::from(system.cores))
            .map(|core| self.region(RegionKind::KernelLog, core, 0, KERNEL_LOG_PAGES.into()))
            .collect::<Result<Vec<u16>, _>>()?;
        let readers = system.tasks.iter().enumerate().filter(|(_, task)| task.reads_logs);
        for (reader, _) in readers {
            for (index, task) in system.tasks.iter().enumerate() {
                let region = self.log_regions[index];
                self.share(reader, &format!("log/{}", task.name()), region, MAP_READ, None)?;
            }
            for (core, region) in kernel_logs.iter().enumerate() {
                self.share(reader, &format!("log/kernel{core}"), *region, MAP_READ, None)?;
            }
        }
        Ok(())
    }

    /// The supervisor's rights over the other tasks, and what it is to do with them.
    pub(super) fn supervision(&mut self) -> Result<(), CompileError> {
        let system = self.system;
        let supervisor = self.supervisor()?;
        let rights = RIGHT_RESTART | RIGHT_STOP | RIGHT_RESUME | RIGHT_INFO;
        for (index, task) in system.tasks.iter().enumerate() {
            if task.role != Role::Task {
                continue;
            }
            let bit = self.bit(supervisor, 0)?;
            self.supervisor_bits[index] = Some(bit);
            let object = index16(index, "tasks")?.into();
            let cap = self.cap(supervisor, CapKind::Task, rights, 0, object);
            let name = format!("task/{}", task.name());
            self.tell_cap(supervisor, &name, CapKind::Task, rights, cap);
            self.tell_bit(supervisor, &name, bit);
            if task.watchdog_ns.is_some() {
                let region = self.region(RegionKind::Ram, 0, 0, 1)?;
                let watch = format!("watch/{}", task.name());
                self.share(supervisor, &watch, region, MAP_WRITE, None)?;
                self.share(index, "watchdog", region, MAP_WRITE, None)?;
                let bit = self.wake(supervisor, &watch, (index, 0))?;
                self.tell_bit(index, "watchdog", bit);
            }
            self.policies.push(RestartPolicy {
                name: name_field(task.name()),
                cap,
                tries: task.restart.tries,
                within_ns: task.restart.within_ns,
                delay_ns: task.restart.delay_ns,
                delay_max_ns: task.restart.delay_max_ns,
                watchdog_ns: task.watchdog_ns.unwrap_or(0),
                bit,
                then: match task.restart.then {
                    Then::Stop => THEN_STOP,
                    Then::Reboot => THEN_REBOOT,
                    Then::PowerOff => THEN_POWER_OFF,
                },
                flags: if task.is_essential { FLAG_ESSENTIAL } else { 0 }
                    | if task.vm.is_some() { FLAG_VM } else { 0 }
                    | if system.has_bus_master(task) { FLAG_DMA } else { 0 },
                reserved: [0; 5],
            });
        }
        let power = RIGHT_POWER_OFF | RIGHT_REBOOT;
        let slot = self.cap(supervisor, CapKind::Power, power, 0, 0);
        self.tell_cap(supervisor, "power", CapKind::Power, power, slot);
        let mut bytes = self.policies.as_bytes().to_vec();
        let len = bytes.len() as u64;
        if bytes.is_empty() {
            // A system of the two system tasks alone still has the region, with no record in it.
            bytes.resize(1, 0);
        }
        let region = self.payload(bytes)?;
        self.share(supervisor, "policy", region, MAP_READ, Some(len))
    }
}
