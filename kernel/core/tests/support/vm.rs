//! The sample with a virtual machine, and what can be wrong with that.
//!
//! Its monitor is task 4 with a vCPU on each of its two threads; the client, task 3, is the worker
//! of its one device. The constants name the records by their place.

use super::{Build, PAYLOAD_PAGES, cap, map, region};
use cloister_abi::call::{RIGHT_RUN, RIGHT_SIGNAL};
use cloister_abi::layout::{GUEST_DEVICES, GUEST_RAM, GUEST_RAM_END, GUEST_SEGMENTS, IMAGE, PAGE};
use cloister_abi::table::*;
use cloister_core::table::Rule;

/// Regions.
const RAM: u16 = 29;
const BELLS: u16 = 31;
const MSIX: u16 = 32;
const STATE0: u16 = 33;
const STATE1: u16 = 35;
/// Maps of the worker: the guest's RAM and the counters.
const RAM_MAP: usize = 33;
const BELLS_MAP: usize = 34;
/// Maps of the monitor.
const STATE_MAP: usize = 42;
const MSIX_MAP: usize = 46;
/// The first vCPU's capability.
const VCPU_CAP: usize = 8;
/// The client's first thread.
const WORKER: u16 = 4;
/// 2 MiB in pages.
const LARGE_PAGES: u32 = 512;

impl Build {
    /// [`Build::sample`] and a virtual machine.
    pub fn with_vm() -> Build {
        let mut build = Build::sample();
        let grants = IMAGE + 4 * PAGE;
        let read_write = MAP_READ | MAP_WRITE;
        let ram = build.region(region(RegionKind::GuestRam, 0, LARGE_PAGES));
        let segments = u64::from(PAYLOAD_PAGES - 2) * PAGE;
        let segments = build.region(region(RegionKind::Payload, segments, 2));
        let bells = build.region(region(RegionKind::Doorbells, 0, 1));
        let [msix, state0, slots0, state1, slots1, stack] =
            [1, 1, 2, 1, 2, 2].map(|pages| build.region(region(RegionKind::Ram, 0, pages)));
        build.maps.push(map(GUEST_RAM, ram, read_write));
        build.maps.push(map(grants + 13 * PAGE, bells, MAP_READ));
        build.tasks[3].maps += 2;
        let maps = [
            map(grants + 2 * PAGE, stack, read_write),
            map(grants + 5 * PAGE, state0, read_write),
            map(grants + 7 * PAGE, slots0, read_write),
            map(grants + 10 * PAGE, state1, read_write),
            map(grants + 12 * PAGE, slots1, read_write),
            map(grants + 15 * PAGE, msix, read_write),
        ];
        let vcpu = |index| cap(CapKind::Vcpu, RIGHT_RUN, 0, index);
        let caps = [vcpu(0), vcpu(1), cap(CapKind::Thread, RIGHT_SIGNAL, 1, WORKER.into())];
        build.task("guest", ROLE_TASK, &maps, &caps, &[]);
        build.thread(4, 1, 5, 0);
        build.thread(4, 1, 6, 1);
        let vcpu = |thread, state: usize, slots: usize| Vcpu {
            vm: 0,
            thread,
            state: state as u16,
            slots: slots as u16,
        };
        build.vcpus = vec![vcpu(5, state0, slots0), vcpu(6, state1, slots1)];
        let all = read_write | MAP_EXEC;
        build.guest_maps = vec![
            guest_map(0, ram, all),
            guest_map(GUEST_SEGMENTS, segments, MAP_READ | MAP_EXEC),
            guest_map(GUEST_DEVICES.start, msix, MAP_READ),
        ];
        let doorbell =
            |port, counter| Doorbell { port, thread: WORKER, bit: 1, reserved: 0, counter };
        build.doorbells = vec![doorbell(0x10c0, 0), doorbell(0x10c2, 1)];
        build.vms = vec![Vm {
            first_vcpu: 0,
            first_map: 0,
            first_doorbell: 0,
            vcpus: 2,
            maps: 3,
            doorbells: 2,
            task: 4,
            counters: bells as u16,
            reserved: 0,
        }];
        build.count_ram();
        build
    }

    /// A second virtual machine, of this task.
    fn second_vm(&mut self, task: u16) {
        let vcpu = Vcpu { vm: 1, ..self.vcpus[0] };
        let doorbell = self.doorbells[0];
        let (first_vcpu, first_map, first_doorbell) = (2, 3, 2);
        let counts = Vm { vcpus: 1, maps: 0, doorbells: 1, task, ..self.vms[0] };
        self.vms.push(Vm { first_vcpu, first_map, first_doorbell, ..counts });
        self.vcpus.push(vcpu);
        self.doorbells.push(doorbell);
    }
}

fn guest_map(gpa: u64, region: usize, rights: u8) -> GuestMap {
    GuestMap { gpa, region: region as u16, rights, reserved: [0; 5] }
}

/// A rule, the record that breaks it, and how it was made wrong.
pub type Wrong = (Rule, u32, fn(&mut Build));

/// Wrong records of a sample with a virtual machine, and the answer that they must get.
pub const WRONG_VM: &[Wrong] = &[
    (Rule::Count, 8, |b| b.vms = vec![b.vms[0]; 17]),
    (Rule::Count, 9, |b| b.vcpus = vec![b.vcpus[0]; 65]),
    (Rule::Count, 10, |b| b.guest_maps = vec![b.guest_maps[0]; 513]),
    (Rule::Count, 11, |b| b.doorbells = vec![b.doorbells[0]; 257]),
    (Rule::Region, RAM as u32, |b| b.regions[usize::from(RAM)].pages = 511),
    (Rule::Region, RAM as u32, |b| b.regions[usize::from(RAM)].pages = 1537 * LARGE_PAGES),
    (Rule::Region, BELLS as u32, |b| b.regions[usize::from(BELLS)].pages = 2),
    (Rule::RegionValue, RAM as u32, |b| b.regions[usize::from(RAM)].value = 1),
    (Rule::RamPages, 0, |b| b.header.ram_pages -= LARGE_PAGES),
    (Rule::RamPages, 0, |b| b.header.ram_pages -= 1),
    (Rule::MapRights, RAM_MAP as u32, |b| b.maps[RAM_MAP].rights = 7),
    (Rule::MapKind, RAM_MAP as u32, |b| b.maps[RAM_MAP].rights = MAP_READ | MAP_EXEC),
    (Rule::MapKind, BELLS_MAP as u32, |b| b.maps[BELLS_MAP].rights = MAP_READ | MAP_WRITE),
    (Rule::MapOwner, 7, |b| b.maps[7].region = RAM),
    (Rule::MapRange, RAM_MAP as u32, |b| b.maps[RAM_MAP].va = 0x100_0000),
    (Rule::MapRange, RAM_MAP as u32, |b| b.maps[RAM_MAP].va += PAGE),
    (Rule::MapRange, RAM_MAP as u32, |b| b.maps[RAM_MAP].va = GUEST_RAM_END),
    (Rule::MapRange, BELLS_MAP as u32, |b| b.maps[BELLS_MAP].va = GUEST_RAM + 0x20_0000),
    (Rule::Reserved, 0, |b| b.vms[0].reserved = 1),
    (Rule::VmRun, 0, |b| b.vms[0].first_vcpu = 1),
    (Rule::VmRun, 0, |b| b.vms[0].first_map = 1),
    (Rule::VmRun, 0, |b| b.vms[0].first_doorbell = 1),
    (Rule::VmRun, 1, |b| b.vms[0].maps = 2),
    (Rule::VmRun, 1, |b| b.vms[0].vcpus = 1),
    (Rule::VmRun, 1, |b| b.vms[0].doorbells = u16::MAX),
    (Rule::VmVcpus, 0, |b| b.vms[0].vcpus = 0),
    (Rule::VmVcpus, 0, |b| b.vms[0].vcpus = 9),
    (Rule::VmTask, 0, |b| b.vms[0].task = NONE),
    (Rule::VmTask, 0, |b| b.vms[0].task = 0),
    (Rule::VmTask, 1, |b| b.second_vm(4)),
    (Rule::VmCounters, 0, |b| b.vms[0].counters = NONE),
    (Rule::VmCounters, 0, |b| b.vms[0].counters = NONE - 1),
    (Rule::VmCounters, 0, |b| b.vms[0].counters = MSIX),
    (Rule::VmCounters, 0, |b| (b.vms[0].doorbells, b.doorbells) = (0, vec![])),
    (Rule::VmCounters, 1, |b| b.second_vm(2)),
    (Rule::VcpuVm, 1, |b| b.vcpus[1].vm = 1),
    (Rule::VcpuThread, 0, |b| b.vcpus[0].thread = NONE),
    (Rule::VcpuThread, 1, |b| b.vcpus[1].thread = WORKER),
    (Rule::VcpuThread, 1, |b| b.vcpus[1].thread = b.vcpus[0].thread),
    (Rule::VcpuPages, 0, |b| b.vcpus[0].state = NONE),
    (Rule::VcpuPages, 0, |b| b.vcpus[0].state = b.vcpus[0].slots),
    (Rule::VcpuPages, 0, |b| b.vcpus[0].slots = MSIX),
    (Rule::VcpuPages, 0, |b| b.vcpus[0].state = BELLS),
    (Rule::VcpuPages, 1, |b| b.vcpus[1].state = STATE0),
    (Rule::VcpuPages, 1, |b| b.vcpus[1].slots = b.vcpus[0].slots),
    (Rule::VcpuPages, 0, |b| b.maps[STATE_MAP].rights = MAP_READ),
    (Rule::VcpuPages, 0, |b| b.maps[STATE_MAP].region = MSIX),
    (Rule::VcpuPages, 1, |b| b.maps[BELLS_MAP].region = STATE1),
    (Rule::Reserved, 1, |b| b.guest_maps[1].reserved[4] = 1),
    (Rule::GuestMapRegion, 1, |b| b.guest_maps[1].region = NONE),
    (Rule::GuestMapKind, 0, |b| b.guest_maps[0].rights = MAP_WRITE),
    (Rule::GuestMapKind, 0, |b| b.guest_maps[0].rights = 15),
    (Rule::GuestMapKind, 1, |b| b.guest_maps[1].rights = MAP_READ | MAP_WRITE),
    (Rule::GuestMapKind, 2, |b| b.guest_maps[2].rights = MAP_READ | MAP_WRITE),
    (Rule::GuestMapKind, 2, |b| b.guest_maps[2].rights = MAP_READ | MAP_EXEC),
    (Rule::GuestMapKind, 2, |b| b.guest_maps[2].region = BELLS),
    (Rule::GuestMapKind, 2, |b| b.guest_maps[2].region = 6),
    (Rule::GuestMapRange, 0, |b| b.guest_maps[0].gpa = PAGE),
    (Rule::GuestMapRange, 0, |b| b.guest_maps[0].gpa = 1 << 32),
    (Rule::GuestMapRange, 0, |b| b.guest_maps[0].gpa = u64::MAX - 0x1f_ffff),
    (Rule::GuestMapRange, 0, |b| b.guest_maps[0].gpa = GUEST_DEVICES.start),
    (Rule::GuestMapRange, 1, |b| b.guest_maps[1].gpa += 8),
    (Rule::GuestMapRange, 1, |b| b.guest_maps[1].gpa = GUEST_DEVICES.start - PAGE),
    (Rule::GuestMapRange, 1, |b| b.guest_maps[1].gpa = GUEST_DEVICES.end - PAGE),
    (Rule::GuestMapRange, 2, |b| b.guest_maps[2].gpa = GUEST_DEVICES.end),
    (Rule::GuestMapRange, 2, |b| b.guest_maps[2].gpa = GUEST_DEVICES.start - PAGE),
    (Rule::GuestMapOverlap, 0, |b| b.guest_maps[1].gpa = 0x1f_f000),
    (Rule::GuestMapShared, 0, |b| {
        b.guest_maps.push(guest_map(0x20_0000, RAM.into(), MAP_READ));
        b.vms[0].maps = 4;
    }),
    (Rule::GuestMapOwner, 0, |b| b.maps[MSIX_MAP] = map(GUEST_RAM, RAM.into(), MAP_READ)),
    (Rule::GuestMapOwner, 2, |b| b.maps[BELLS_MAP].region = MSIX),
    (Rule::Reserved, 1, |b| b.doorbells[1].reserved = 1),
    (Rule::DoorbellThread, 1, |b| b.doorbells[1].thread = 7),
    (Rule::DoorbellThread, 0, |b| b.doorbells[0].bit = 48),
    (Rule::DoorbellCounter, 0, |b| b.doorbells[0].counter = 1024),
    (Rule::DoorbellOrder, 1, |b| b.doorbells[1].port = 0x10c0),
    (Rule::DoorbellOrder, 1, |b| b.doorbells.swap(0, 1)),
    (Rule::DoorbellBitTwice, 0, |b| (b.doorbells[0].thread, b.doorbells[0].bit) = (2, 5)),
    (Rule::DoorbellBitTwice, 1, |b| (b.doorbells[1].thread, b.doorbells[1].bit) = (1, 2)),
    (Rule::CapBitTwice, 10, |b| (b.caps[5].object, b.caps[5].bit) = (WORKER.into(), 1)),
    (Rule::CapBitTwice, VCPU_CAP as u32 + 3, |b| {
        let theirs = cap(CapKind::Thread, RIGHT_SIGNAL, 1, WORKER.into());
        b.caps[10] = cap(CapKind::Empty, 0, 0, 0);
        b.task("late", ROLE_TASK, &[], &[theirs], &[]);
        b.count_ram();
        let last = b.threads[6];
        b.threads.push(Thread { task: 5, index: 0, stack_top: b.threads[5].stack_top, ..last });
        b.threads[7].stack_bottom = b.threads[5].stack_bottom;
    }),
    (Rule::CapRights, VCPU_CAP as u32, |b| b.caps[VCPU_CAP].rights = 2),
    (Rule::CapBit, VCPU_CAP as u32, |b| b.caps[VCPU_CAP].bit = 1),
    (Rule::CapObject, VCPU_CAP as u32, |b| b.caps[VCPU_CAP].object = 2),
    (Rule::CapObject, 5, |b| b.caps[5] = cap(CapKind::Vcpu, RIGHT_RUN, 0, 0)),
];
