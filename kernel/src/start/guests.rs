//! Virtual machines: nested tables, control blocks, and the kernel's pages of each vCPU.

use super::build::Boot;
use crate::arch::x86_64::paging::{self, KERNEL_DATA};
use crate::arch::x86_64::virt::nested::Tables;
use crate::arch::x86_64::virt::{self, Own};
use crate::arch::x86_64::window;
use cloister_abi::layout::PAGE;
use cloister_abi::table::{MAP_EXEC, MAP_WRITE, NONE, Vcpu, Vm};

impl Boot {
    /// Builds every virtual machine; the address spaces of the monitors are there.
    pub fn build_guests(&mut self, ibpb: bool) {
        if self.table.vms.is_empty() {
            return;
        }
        assert!(
            virt::is_there(),
            "this appliance has virtual machines, and this CPU offers none: it needs AMD SVM or Intel \
             VMX with nested paging, switched on in the firmware"
        );
        let (ports, msrs) = (self.carver.pages(3), self.carver.pages(2));
        for page in 0..3 {
            // SAFETY: just carved.
            unsafe { paging::page::<[u8; PAGE as usize]>(ports + page * PAGE) }.fill(0xff);
        }
        let mut map = [0; 2 * PAGE as usize];
        virt::fill_permissions(&mut map, ibpb);
        for (page, bytes) in (0..).zip(map.as_chunks().0) {
            // SAFETY: just carved.
            *unsafe { paging::page::<[u8; PAGE as usize]>(msrs + page * PAGE) } = *bytes;
        }
        for core in 0..self.table.header.cores as usize {
            if self.has_guests(core) {
                self.virtual_pages[core] = [self.carver.page(), self.cpu_page()];
            }
        }
        for vm in self.table.vms {
            let tables = self.build_nested(vm);
            for vcpu in self.table.vcpus_of(vm) {
                self.build_vcpu(vm, vcpu, &tables, [ports, msrs]);
            }
        }
    }

    /// A page that the CPU keeps for itself.
    fn cpu_page(&mut self) -> u64 {
        let page = self.carver.page();
        // SAFETY: just carved.
        *unsafe { paging::page::<u32>(page) } = virt::page_format();
        page
    }

    fn has_guests(&self, core: usize) -> bool {
        let on_core =
            |v: &Vcpu| usize::from(self.table.threads[usize::from(v.thread)].core) == core;
        self.table.vcpus.iter().any(on_core)
    }

    fn build_nested(&mut self, vm: &Vm) -> Tables {
        let mut tables = Tables::default();
        for map in self.table.guest_maps_of(vm) {
            let len = u64::from(self.table.regions[usize::from(map.region)].pages) * PAGE;
            let phys = self.regions[usize::from(map.region)];
            let rights = (map.rights & MAP_WRITE != 0, map.rights & MAP_EXEC != 0);
            let carve = || {
                self.nested_pages += 1;
                self.carver.page()
            };
            // SAFETY: physical memory is mapped, and the pages are fresh.
            unsafe { tables.map(map.gpa, phys, len, rights, carve) };
        }
        tables
    }

    fn build_vcpu(&mut self, vm: &Vm, vcpu: &Vcpu, tables: &Tables, maps: [u64; 2]) {
        let carve = || {
            self.nested_pages += 1;
            self.carver.page()
        };
        // SAFETY: as above.
        let (nested, devices) = unsafe { tables.finish(carve) };
        let control = self.cpu_page();
        let block = virt::block_page(control, || self.carver.page());
        let space = self.spaces[usize::from(vcpu.thread)];
        let region = |index: u16| self.regions[usize::from(index)];
        let slots = region(vcpu.slots);
        let mut pages = [block, region(vcpu.state), devices[0], devices[1], 0];
        if vm.counters != NONE {
            pages[4] = region(vm.counters);
        }
        for (page, phys) in (0..).zip(pages) {
            if phys != 0 {
                self.map_leaf(space, window::CONTROL + page * PAGE, phys | KERNEL_DATA);
            }
        }
        let range = self.table.threads_on(self.table.threads[usize::from(vcpu.thread)].core);
        let before = self.table.vcpus.iter().filter(|other| {
            range.contains(&usize::from(other.thread)) && other.thread < vcpu.thread
        });
        let asid = before.count() as u32 + 1;
        assert!(asid <= virt::identifiers(), "more vCPUs on one core than the CPU tells apart");
        let same = |other: &Vcpu| other.thread == vcpu.thread;
        let index = self.table.vcpus.iter().position(same).unwrap_or_default();
        let who = (index as u32, vcpu.thread);
        let bells = self.table.doorbells_of(vm);
        let own = Own::new(control, nested, maps, [slots, slots + PAGE], asid, bells, who);
        // SAFETY: the frame was carved by `build_space`; `Own` lies in a part that nothing else uses.
        unsafe { self.frame_at::<Own>(usize::from(vcpu.thread), virt::OWN).write(own) };
    }
}
