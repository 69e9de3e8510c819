//! Virtual machines: their records, what their monitors hold, and what the workers of their devices
//! hold of them.
//!
//! Invariant: a monitor never gets its guest's RAM mapped; only tasks whose device exports the
//! virtual machine was granted do, and each of them once.

use std::collections::BTreeMap;

use cloister_abi::API_VERSION;
use cloister_abi::call::RIGHT_RUN;
use cloister_abi::info::{GRANT_MEMORY, GRANT_NUMBER, Grant};
use cloister_abi::layout::PAGE;
use cloister_abi::table::{
    self, CapKind, Doorbell, GuestMap, MAP_EXEC, MAP_READ, MAP_WRITE, RegionKind, Vcpu,
};
use cloister_guest_abi::platform::{
    MSIX, SEGMENTS, SEGMENTS_END, VIRTIO, VIRTIO_LEN, VIRTIO_NOTIFY,
};
use cloister_proto::vm::{MAX_QUEUES, MAX_VM_DEVICES, VmConfig, VmDevice};
use zerocopy::{FromZeros, IntoBytes};

use super::wires::entry;
use super::{Builder, CompileError, index16, name_field, pages_of};
use crate::system::{DeviceKind, Grant as Granted, Task, Vm};

/// Regions of guests' images: equal images share one.
type Shared<'a> = BTreeMap<&'a [u8], u16>;

/// What a worker holds of one virtual machine.
struct Held {
    ram_va: u64,
    /// Rights to the memory, the devices' included.
    rights: u8,
    bells_va: u64,
}

/// A virtual machine while its devices are laid out.
struct Making<'a> {
    /// The monitor's task.
    task: usize,
    monitor: &'a Task,
    ram: u16,
    bells: u16,
    /// What each worker holds of it already.
    workers: BTreeMap<usize, Held>,
}

impl Builder<'_> {
    /// Every virtual machine. The mailboxes of its grants are there already.
    pub(super) fn vms(&mut self, images: &BTreeMap<String, Vec<u8>>) -> Result<(), CompileError> {
        let system = self.system;
        let mut shared = Shared::new();
        for (task, monitor, vm) in system.vms() {
            let image = checked(monitor, images.get(monitor.name()))?;
            let pages = self.image(image, &mut shared)?;
            self.vm(task, monitor, vm, pages)?;
        }
        Ok(())
    }

    fn image<'a>(&mut self, image: &'a [u8], shared: &mut Shared<'a>) -> Result<u16, CompileError> {
        if let Some(region) = shared.get(image) {
            return Ok(*region);
        }
        let region = self.payload(image.to_vec())?;
        shared.insert(image, region);
        Ok(region)
    }

    fn vm(&mut self, task: usize, monitor: &Task, vm: &Vm, image: u16) -> Result<(), CompileError> {
        let (first_vcpu, first_map) = (self.vcpus.len(), self.guest_maps.len());
        let first_doorbell = self.doorbells.len();
        let memory = *vm.memory.get_ref();
        self.vcpus(task, monitor)?;
        let ram = self.region(RegionKind::GuestRam, 0, 0, pages_of(memory))?;
        self.guest_map(0, ram, MAP_READ | MAP_WRITE | MAP_EXEC);
        self.guest_map(SEGMENTS, image, MAP_READ | MAP_EXEC);
        let devices = self.system.vm_devices(monitor);
        let has_devices = !devices.is_empty();
        let bells = match has_devices {
            true => self.region(RegionKind::Doorbells, 0, 0, 1)?,
            false => table::NONE,
        };
        let mut config = VmConfig {
            version: API_VERSION,
            vcpus: monitor.threads.len() as u32,
            memory,
            flags: vm.flags,
            identity: vm.identity,
            devices: [VmDevice::new_zeroed(); MAX_VM_DEVICES],
        };
        let mut making = Making { task, monitor, ram, bells, workers: BTreeMap::new() };
        for (number, (place, grant, kind)) in devices.into_iter().enumerate() {
            let name = grant.name.get_ref();
            // The manifest's rules allow as many devices as there are slots.
            if let Some(device) = config.devices.get_mut(number) {
                let (kind, queues) = (kind.number, kind.queues);
                *device = VmDevice { name: name_field(name), kind, queues, reserved: 0 };
            }
            self.msix(task, name, number)?;
            self.doorbells(&making, number, (place, grant), kind.queues)?;
            self.worker(&mut making, number, grant)?;
        }
        let region = self.payload(config.as_bytes().to_vec())?;
        self.share(task, "vm", region, MAP_READ, Some(size_of::<VmConfig>() as u64))?;
        self.configs.push(config);
        self.vms.push(table::Vm {
            first_vcpu: first_vcpu as u32,
            first_map: first_map as u32,
            first_doorbell: first_doorbell as u32,
            vcpus: index16(self.vcpus.len() - first_vcpu, "virtual CPUs")?,
            maps: index16(self.guest_maps.len() - first_map, "guest maps")?,
            doorbells: index16(self.doorbells.len() - first_doorbell, "doorbells")?,
            task: index16(task, "tasks")?,
            counters: bells,
            reserved: 0,
        });
        Ok(())
    }

    /// Each virtual CPU with its pages, and the right of the monitor's threads to wake each other.
    fn vcpus(&mut self, task: usize, monitor: &Task) -> Result<(), CompileError> {
        let vm = index16(self.vms.len(), "virtual machines")?;
        for number in 0..monitor.threads.len() {
            let name = format!("vcpu{number}");
            let state = self.region(RegionKind::Ram, 0, 0, 1)?;
            let slots = self.region(RegionKind::Ram, 0, 0, 2)?;
            self.share(task, &format!("{name}/state"), state, MAP_WRITE, None)?;
            self.share(task, &format!("{name}/slots"), slots, MAP_WRITE, None)?;
            let object = u32::from(index16(self.vcpus.len(), "virtual CPUs")?);
            let thread = self.thread_index[task][number];
            self.vcpus.push(Vcpu { vm, thread, state, slots });
            let slot = self.cap(task, CapKind::Vcpu, RIGHT_RUN, 0, object);
            self.tell_cap(task, &name, CapKind::Vcpu, RIGHT_RUN, slot);
        }
        for number in 0..monitor.threads.len() {
            let name = format!("thread/{number}");
            let bit = self.wake(task, &name, (task, number))?;
            self.tell_bit(task, &name, bit);
        }
        Ok(())
    }

    fn guest_map(&mut self, gpa: u64, region: u16, rights: u8) {
        self.guest_maps.push(GuestMap { gpa, region, rights, reserved: [0; 5] });
    }

    /// The MSI-X page of device `number`: the monitor writes it, the guest reads it.
    fn msix(&mut self, task: usize, name: &str, number: usize) -> Result<(), CompileError> {
        let region = self.region(RegionKind::Ram, 0, 0, 1)?;
        self.share(task, &format!("{name}/msix"), region, MAP_WRITE, None)?;
        self.guest_map(MSIX + number as u64 * PAGE, region, MAP_READ);
        Ok(())
    }

    /// The ports of device `number` that wake its worker, with the bit of the mailbox.
    fn doorbells(
        &mut self,
        making: &Making<'_>,
        number: usize,
        (place, grant): (usize, &Granted),
        queues: u16,
    ) -> Result<(), CompileError> {
        let thread = self.main_thread(grant.server);
        let bit = self.wire_bits.get(&(making.task, place)).copied().ok_or_else(|| {
            CompileError::new(format!(
                "{}: grant `{}` has no mailbox",
                making.monitor.key(),
                grant.name.get_ref()
            ))
        })?;
        let number = index16(number, "devices")?;
        let base = VIRTIO + number * VIRTIO_LEN + VIRTIO_NOTIFY;
        for queue in 0..queues {
            let (port, counter) = (base + 2 * queue, number * MAX_QUEUES as u16 + queue);
            self.doorbells.push(Doorbell { port, thread, bit, reserved: 0, counter });
        }
        Ok(())
    }

    /// What a worker finds beside the mailbox: the guest's memory, the counters, the first counter.
    fn worker(
        &mut self,
        making: &mut Making<'_>,
        number: usize,
        grant: &Granted,
    ) -> Result<(), CompileError> {
        let worker = grant.server;
        let export = &self.system.tasks[worker].exports[grant.export];
        let name = |what: &str| -> Result<String, CompileError> {
            let name = format!("{}/{}/{what}", export.name.get_ref(), making.monitor.name());
            if name.len() > cloister_abi::NAME_LEN {
                return Err(CompileError::new(format!("the name `{name}` is too long")));
            }
            Ok(name)
        };
        let [ram, bells, bell] = [name("ram")?, name("bells")?, name("bell")?];
        if !making.workers.contains_key(&worker) {
            let served = making.monitor.grants.iter().filter(|grant| grant.server == worker);
            let dma = self.dma(worker, served.filter_map(|grant| self.system.export(grant)));
            let space = &mut self.part(worker).space;
            let ram_va = space.place_guest(making.ram, dma)?;
            let bells_va = space.place(making.bells, 1, MAP_READ, &bells)?;
            let rights = MAP_READ | MAP_WRITE | dma;
            making.workers.insert(worker, Held { ram_va, rights, bells_va });
        }
        let held = &making.workers[&worker];
        let pages = self.regions[usize::from(making.ram)].pages;
        let (ram_va, bells_va, len) = (held.ram_va, held.bells_va, u64::from(pages) * PAGE);
        let rights = held.rights;
        self.tell(worker, Grant { rights, va: ram_va, len, ..entry(&ram, GRANT_MEMORY) });
        let (va, len) = (bells_va, PAGE);
        self.tell(worker, Grant { rights: MAP_READ, va, len, ..entry(&bells, GRANT_MEMORY) });
        let va = (number * MAX_QUEUES) as u64;
        self.tell(worker, Grant { va, ..entry(&bell, GRANT_NUMBER) });
        if export.device.is_some_and(DeviceKind::is_block) {
            let name = format!("{}/{}", export.name.get_ref(), making.monitor.name());
            self.inflight(worker, &name)?;
        }
        Ok(())
    }
}

/// A guest's image, if it is whole pages that fit between the memory and the devices.
fn checked<'a>(monitor: &Task, image: Option<&'a Vec<u8>>) -> Result<&'a [u8], CompileError> {
    let key = monitor.key();
    let image =
        image.ok_or_else(|| CompileError::new(format!("{key}: the guest's image is missing")))?;
    let (len, most) = (image.len() as u64, SEGMENTS_END - SEGMENTS);
    if len == 0 || !len.is_multiple_of(PAGE) || len > most {
        return Err(CompileError::new(format!(
            "{key}: the guest's image has {len} bytes, it must be whole pages up to {most} bytes"
        )));
    }
    Ok(image)
}
