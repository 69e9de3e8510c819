//! Further vCPUs: INIT, start-up, and a way into Rust.
//!
//! A vCPU starts in real mode at a page below 1 MiB. The code there takes the page tables of
//! vCPU 0, goes straight to 64-bit mode (Intel SDM, "Initializing IA-32e Mode"), takes a stack of
//! its own and calls the function. Vcpus are started one after the other, so one page serves all.

use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use core::time::Duration;

use cloister_guest_abi::image::PAGE_TABLES;

use crate::descriptors::{self, MAX_VCPUS};
use crate::{Lock, apic, clock, cpu, memory};

/// The page in which further vCPUs start.
const START_PAGE: usize = 0x8000;
/// Pages of a vCPU's stack.
const STACK_PAGES: usize = 8;
/// A vCPU that has not arrived after this time will not.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a vCPU runs. It gets the vCPU's APIC identifier.
pub type Entry = fn(u32);

/// Why a vCPU did not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The identifier is not below the number of vCPUs that the runtime serves.
    TooMany,
    /// No memory for a stack.
    NoMemory,
    /// It did not arrive; most likely the virtual machine does not have it.
    Absent,
}

/// Serialises starts: there is one page for them.
static STARTING: Lock<()> = Lock::new(());
/// The identifier of the vCPU that is being started, and what it runs.
static NUMBER: AtomicU32 = AtomicU32::new(0);
static ENTRY: AtomicUsize = AtomicUsize::new(0);
/// How many have arrived.
static ARRIVED: AtomicU32 = AtomicU32::new(0);

core::arch::global_asm!(
    ".section .rodata.smp, \"a\"",
    ".code16",
    "cloister_guest_smp:",
    "cli",
    "mov ax, cs",
    "mov ds, ax",
    // LGDT with a 16-bit address, which the assembler cannot make of a difference of labels.
    ".byte 0x0f, 0x01, 0x16",
    ".word smp_gdt_pointer - cloister_guest_smp",
    // Physical address extension, then the page tables.
    "mov eax, 0x20",
    "mov cr4, eax",
    "mov eax, {tables}",
    "mov cr3, eax",
    // Long mode as soon as paging is on.
    "mov ecx, 0xc0000080",
    "xor edx, edx",
    "mov eax, 0x100",
    "wrmsr",
    // Paging, write protection, protection, extension type.
    "mov eax, 0x80010011",
    "mov cr0, eax",
    // A far jump to 64-bit code: operand size prefix, opcode, offset, selector.
    ".byte 0x66, 0xea",
    ".long {page} + smp_long - cloister_guest_smp",
    ".word 0x10",
    ".balign 8",
    "smp_gdt:",
    ".quad 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff",
    "smp_gdt_pointer:",
    ".word smp_gdt_pointer - smp_gdt - 1",
    ".long {page} + smp_gdt - cloister_guest_smp",
    ".code64",
    "smp_long:",
    "mov eax, 0x18",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "xor eax, eax",
    "mov fs, eax",
    "mov gs, eax",
    "mov rsp, [rip + cloister_guest_smp_stack]",
    "mov rax, [rip + smp_entry]",
    "xor ebp, ebp",
    "call rax",
    "ud2",
    ".balign 8",
    "smp_entry:",
    ".quad {arrive}",
    "cloister_guest_smp_stack:",
    ".quad 0",
    "cloister_guest_smp_end:",
    ".previous",
    tables = const PAGE_TABLES,
    page = const START_PAGE,
    arrive = sym arrive,
);

unsafe extern "C" {
    static cloister_guest_smp: u8;
    static cloister_guest_smp_stack: u8;
    static cloister_guest_smp_end: u8;
}

/// How many vCPUs the virtual machine has (CPUID leaf 0xb, "Extended Topology Enumeration": the
/// logical processors of the last level); 1 where the platform has no such leaf.
pub fn vcpus() -> u32 {
    let mut most = 1;
    if cpu::cpuid(0, 0)[0] >= 0xb {
        for level in 0..8 {
            let [_, count, kind, _] = cpu::cpuid(0xb, level);
            if kind >> 8 & 0xff == 0 {
                break;
            }
            most = most.max(count & 0xffff);
        }
    }
    most
}

/// Starts the vCPU with this identifier; it runs `entry` and then sleeps for good. Returns when
/// it has arrived in `entry`'s vCPU, or never will.
pub fn start(id: u32, entry: Entry) -> Result<(), Failure> {
    if id == 0 || id as usize >= MAX_VCPUS {
        return Err(Failure::TooMany);
    }
    let stack = memory::leak_pages(STACK_PAGES).ok_or(Failure::NoMemory)?;
    let top = stack.as_mut_ptr_range().end as u64;
    let _held = STARTING.lock();
    let before = ARRIVED.load(Ordering::Acquire);
    NUMBER.store(id, Ordering::Release);
    ENTRY.store(entry as usize, Ordering::Release);
    write_page(top);
    apic::start();
    // SAFETY: the vCPU does not run yet, or the caller starts it anew, which costs memory only.
    unsafe { apic::command(id, apic::INIT) };
    for _ in 0..2 {
        // SAFETY: the page holds the code above.
        unsafe { apic::command(id, apic::STARTUP | (START_PAGE >> 12) as u32) };
        let end = cpu::tsc().saturating_add(clock::ticks(PATIENCE) / 2);
        while cpu::tsc() < end {
            if ARRIVED.load(Ordering::Acquire) != before {
                return Ok(());
            }
            core::hint::spin_loop();
        }
    }
    Err(Failure::Absent)
}

/// Copies the code to its page, with the stack for the next vCPU.
fn write_page(stack: u64) {
    let code = &raw const cloister_guest_smp;
    let len = &raw const cloister_guest_smp_end as usize - code as usize;
    let slot = &raw const cloister_guest_smp_stack as usize - code as usize;
    // SAFETY: the page is RAM that the layout leaves to the runtime (guest.ld), and no vCPU runs
    // in it: starts are one after the other.
    unsafe { core::ptr::copy_nonoverlapping(code, START_PAGE as *mut u8, len) };
    // SAFETY: as above; the slot is a word of the copied code, aligned to 8.
    unsafe { ((START_PAGE + slot) as *mut u64).write_volatile(stack) };
}

/// A further vCPU's first Rust function.
extern "C" fn arrive() -> ! {
    let id = NUMBER.load(Ordering::Acquire);
    let entry = ENTRY.load(Ordering::Acquire);
    descriptors::load(id as usize);
    follow_mode();
    apic::start();
    // SAFETY: `start` stored a function of this very type.
    let entry = unsafe { core::mem::transmute::<usize, Entry>(entry) };
    ARRIVED.fetch_add(1, Ordering::AcqRel);
    entry(id);
    cpu::disable_interrupts();
    loop {
        cpu::halt();
    }
}

/// Brings the APIC into the mode that vCPU 0 uses.
fn follow_mode() {
    let base = cpu::msr(apic::BASE).unwrap_or(0);
    if apic::is_x2apic() && base & apic::BASE_X2APIC == 0 {
        // SAFETY: the mode changes how registers are reached, no memory.
        let _ = unsafe { cpu::set_msr(apic::BASE, base | apic::BASE_X2APIC) };
    }
}
