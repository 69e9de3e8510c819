//! The Cloister microkernel: the only privileged code of a running system.
//!
//! At boot it makes every object of the system table, runs `init` alone, and seals itself; from
//! then on it creates nothing, allocates nothing and changes no mapping. `arch/` holds all that is
//! specific to x86-64, `start/` all that happens before the seal; the other files are the running
//! kernel: `syscall`, `interrupts` and `fault` are the ways in, `switch` is the way out,
//! `core_state` what one core owns, `device` its PCI functions, `shared` what all cores share. Pure logic is in
//! `cloister-core`, the contract with everybody else in `cloister-abi`.

#![no_std]
#![no_main]

mod arch;
mod core_state;
mod device;
mod fault;
mod flush;
mod interrupts;
mod klog;
mod power;
mod shared;
mod start;
mod switch;
mod syscall;
mod vcpu;

use arch::x86_64::clock::{Calibration, Clock};
use arch::x86_64::cpu::Features;
use arch::x86_64::{apic, cpu, descriptors, entry, paging, pci, smp, virt, window};
use cloister_abi::API_VERSION;
use cloister_abi::boot::{BOOT_MAGIC, BootInfo, RANGE_RAM};
use cloister_abi::info::{CPU_SMAP, CPU_SMEP, CPU_UMIP, CPU_X2APIC};
use cloister_abi::layout::{KERNEL_BASE, PAGE};
use cloister_abi::payload::Header;
use cloister_core::table::Table;
use core::fmt::Write;
use core::sync::atomic::Ordering;
use start::build::{Boot, map_table};
use zerocopy::FromBytes;

unsafe extern "C" {
    static __kernel_end: u8;
}

/// Pages of the kernel's image in memory, with its zeroed data.
fn image_pages() -> u64 {
    ((&raw const __kernel_end) as u64 - KERNEL_BASE).div_ceil(PAGE)
}

/// The boot core, on the boot stub's stack and page tables.
#[unsafe(no_mangle)]
extern "C" fn kernel_main(info: *const BootInfo) -> ! {
    let tsc_kernel = cpu::rdtsc();
    // SAFETY: the stub passes its information, mapped one to one as long as its tables are loaded.
    let info = unsafe { &*info };
    assert!(info.magic == BOOT_MAGIC, "the boot stub is of another version");
    // SAFETY: the stub's top table is mapped one to one, and this core is the only one.
    let top = unsafe { &mut *(info.pml4 as *mut paging::Table) };
    top[window::PHYSICAL_SLOT] = top[0] | paging::NO_EXEC;
    pci::quiesce();
    apic::silence_legacy();
    let features = cpu::features();
    apic::use_firmware_mode();
    // SAFETY: the map of physical memory was just made.
    unsafe { apic::enable() };
    let calibration = Calibration::start();

    // SAFETY: the payload's first block was checked by the stub; nobody writes it.
    let block: &[u8; PAGE as usize] = unsafe { paging::page(info.payload) };
    let (header, _) = Header::read_from_prefix(block).expect("a block holds a header");
    let bytes = map_table(info, header.system_table, header.system_table_len);
    let pages = (info.payload_len / PAGE) as u32;
    let table = match Table::new(bytes, pages) {
        Ok(table) => table,
        Err(error) => panic!("the system table is wrong: {:?} at {}", error.rule, error.index),
    };
    power::DEBUG_PORT.store(table.header.debug_port, Ordering::Relaxed);
    let mut boot = Boot::new(info, table);
    let clock = build(&mut boot, header.system_table, &features, calibration);

    apic::choose_mode(features.x2apic || apic::is_x2apic());
    for core in 0..table.header.cores as usize {
        if boot.is_used(core) {
            boot.build_core(core, clock, features);
        }
    }
    let flags = [
        (apic::is_x2apic(), CPU_X2APIC),
        (features.smep, CPU_SMEP),
        (features.smap, CPU_SMAP),
        (features.umip, CPU_UMIP),
    ];
    let page = boot.system_page();
    page.version = API_VERSION;
    page.cores = table.header.cores;
    page.tsc_hz = clock.tsc_hz;
    (page.rsdp, page.payload_len) = (info.rsdp, info.payload_len);
    (page.tsc_start, page.tsc_checked) = (info.tsc_start, info.tsc_checked);
    page.tsc_kernel = tsc_kernel;
    page.cpu = flags.iter().filter(|(set, _)| *set).fold(0, |all, (_, bit)| all | bit);
    page.kernel_build_id = header.kernel_build_id;
    let cr3 = boot.first_space(0);
    start::calls::keep(&mut boot);
    // SAFETY: the space of a thread of core 0, whose window is filled.
    unsafe { entry::first_entry(cr3, 0) }
}

/// Makes all objects but the cores'; `table` is where the payload has the system table.
fn build(boot: &mut Boot, table: u64, features: &Features, calibration: Calibration) -> Clock {
    boot.check_memory();
    boot.build_shared();
    for core in 0..boot.table.header.cores as usize {
        boot.build_window(core, features.x2apic);
    }
    // Before the memory of tasks is zeroed, which may take longer than the PIT counts.
    let clock = calibration.finish().expect("the PIT counts and the TSC fits it");
    boot.build_regions(table);
    for thread in 0..boot.table.threads.len() {
        boot.build_space(thread);
    }
    boot.build_guests(features.ibpb);
    boot.map_physical();
    let low = |r: &cloister_abi::boot::MemRange| {
        r.kind == RANGE_RAM && r.base <= smp::TRAMPOLINE && smp::TRAMPOLINE + PAGE <= r.base + r.len
    };
    let is_there = boot.info.ranges.iter().any(low);
    assert!(is_there, "no memory at {:#x} to start cores from", smp::TRAMPOLINE);
    // SAFETY: the page is memory, checked, and below the image; nothing else uses it.
    unsafe { smp::prepare(boot.info.pml4) };
    clock
}

/// Every core: on its kernel stack, in the address space of its first thread.
#[unsafe(no_mangle)]
extern "C" fn kernel_core(index: u32) -> ! {
    // SAFETY: the core's first entry; the boot core has filled its objects.
    let core = unsafe { core_state::this_core() };
    // `first_entry` has loaded it.
    flush::loaded(index, core.thread(core.loaded).cr3);
    // SAFETY: paging is on with the kernel's own tables.
    unsafe { cpu::enable(&core.features) };
    // SAFETY: a thread's space is loaded, the table is this core's own.
    unsafe { descriptors::load(&raw mut core.gdt) };
    // SAFETY: the entry of entry.s.
    unsafe { cpu::enable_syscall(entry::syscall_entry as *const () as u64) };
    if core.host_block != 0 {
        // SAFETY: the pages were carved for this; the task register was loaded just now.
        unsafe { virt::enable(core) };
    }
    // SAFETY: the core's window is loaded.
    core.apic_id = unsafe { apic::enable() };
    apic::open();
    let word = &shared::shared().cores[index as usize];
    word.apic_id.store(core.apic_id, Ordering::Relaxed);
    shared::ONLINE.fetch_or(1 << index, Ordering::Release);
    if index == 0 {
        // `init` runs alone; everybody else begins at the seal.
        core.sched.ready(core.loaded, cpu::rdtsc());
    }
    // SAFETY: as for `entry::first_entry`: the core is ready to choose a thread.
    unsafe { entry::reschedule() }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    let mut uart = power::last_words();
    let _ = write!(uart, "cloister: kernel panic: {}", info.message());
    if let Some(at) = info.location() {
        let _ = write!(uart, " (at {}:{})", at.file(), at.line());
    }
    let _ = writeln!(uart);
    let _ = uart.write_str("bt: kernel");
    entry::backtrace(|address| {
        let _ = write!(uart, " {address:#x}");
    });
    let _ = writeln!(uart);
    uart.drain();
    arch::x86_64::power::reset()
}
