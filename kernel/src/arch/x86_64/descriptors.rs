//! Segment descriptors and the interrupt descriptor table.
//!
//! The interrupt table is built once, mapped read-only and shared by all cores. Each core has its
//! own segment table in its window, because loading the task register writes to it; its contents
//! are the same everywhere, since every thread frame has its task state segment at one address.

use super::{apic, frame, window};
use cloister_abi::layout::FRAME;
use core::arch::asm;
use x86::dtables::{self, DescriptorTablePointer as Pointer};

/// The segment table: null, kernel code and data, user data and code, the task state segment.
pub type Gdt = [u64; 8];

/// First vector of device interrupts.
pub const DEVICE_VECTOR: u8 = 0x40;
/// Number of device vectors.
pub const DEVICE_VECTORS: u8 = cloister_abi::layout::MAX_IRQS as u8;

/// Selector of the task state segment.
pub const TSS_SELECTOR: u16 = 0x28;

unsafe extern "C" {
    /// One 16-byte stub per vector, see entry.s.
    static interrupt_stubs: [u8; 0];
    fn nmi_entry();
    fn debug_entry();
    fn double_fault_entry();
    fn machine_check_entry();
}

/// The contents of every core's segment table.
pub const fn gdt() -> Gdt {
    let tss = FRAME + frame::TSS;
    let low = frame::TSS_LIMIT & 0xffff
        | (tss & 0xff_ffff) << 16
        | 0x89 << 40
        | (frame::TSS_LIMIT >> 16 & 0xf) << 48
        | (tss >> 24 & 0xff) << 56;
    [
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
        low,
        tss >> 32,
        0,
    ]
}

fn gate(handler: u64, ist: u64) -> [u64; 2] {
    let low =
        handler & 0xffff | 0x08 << 16 | ist << 32 | 0x8e << 40 | (handler >> 16 & 0xffff) << 48;
    [low, handler >> 32]
}

/// Fills the interrupt descriptor table. Every gate is closed to `int n` from ring 3.
pub fn fill_idt(idt: &mut [[u64; 2]; 256]) {
    let stubs = (&raw const interrupt_stubs) as u64;
    let devices = DEVICE_VECTOR..DEVICE_VECTOR + DEVICE_VECTORS;
    let ours = apic::IPI_VECTOR..=apic::IOMMU_VECTOR;
    for vector in (0..32).chain(devices).chain(ours).chain([apic::SPURIOUS_VECTOR]) {
        idt[usize::from(vector)] = gate(stubs + u64::from(vector) * 16, 0);
    }
    idt[2] = gate(nmi_entry as *const () as u64, 1);
    idt[18] = gate(machine_check_entry as *const () as u64, 2);
    idt[8] = gate(double_fault_entry as *const () as u64, 3);
    idt[1] = gate(debug_entry as *const () as u64, 4);
}

/// Loads the tables on this core.
///
/// # Safety
/// A thread's address space is loaded (its frame holds the task state segment), `gdt` is the
/// core's own table in its window and filled by [`gdt`], and the interrupt table is mapped.
pub unsafe fn load(gdt: *mut Gdt) {
    // SAFETY: the selectors in use (0x08, 0x10) mean the same in this table.
    unsafe { dtables::lgdt(&Pointer { limit: 8 * 8 - 1, base: gdt.cast::<u64>() }) };
    // SAFETY: the table is filled and stays mapped.
    unsafe { dtables::lidt(&Pointer { limit: 256 * 16 - 1, base: window::IDT as *const u64 }) };
    // SAFETY: the code segment of the new table is the one in use; null data selectors are fine
    // in 64-bit mode, the stack selector must be a writable data segment.
    unsafe {
        asm!(
            "mov ds, {zero:x}", "mov es, {zero:x}", "mov fs, {zero:x}", "mov gs, {zero:x}",
            "mov ss, {data:x}", "push 8", "lea {scratch}, [rip + 2f]", "push {scratch}", "retfq",
            "2:", zero = in(reg) 0, data = in(reg) 0x10, scratch = out(reg) _,
        );
    }
    // SAFETY: no local descriptor table.
    unsafe { asm!("lldt {0:x}", in(reg) 0, options(nostack)) };
    // SAFETY: the descriptor is available and its segment mapped.
    unsafe { asm!("ltr {0:x}", in(reg) TSS_SELECTOR, options(nostack)) };
}

/// Loads the task register anew: VMX cuts its segment off behind the fields that the CPU needs, and
/// the next thread may have ports in the map behind them.
pub fn reload_task_register() {
    let entry = (window::CORE + u64::from(TSS_SELECTOR)) as *mut u64;
    // SAFETY: the core's own table lies at the start of its objects, and nobody refers to it.
    let descriptor = unsafe { entry.read() };
    // SAFETY: as above; the busy bit is all that differs, and only LTR minds it.
    unsafe { entry.write(descriptor & !(2 << 40)) };
    // SAFETY: the descriptor is available and its segment mapped.
    unsafe { asm!("ltr {0:x}", in(reg) TSS_SELECTOR, options(nostack)) };
}

/// Gives every data segment register its null value: selectors are not part of a thread's state.
#[inline(always)]
pub fn clear_selectors() {
    // SAFETY: null data selectors are legal in 64-bit mode at every privilege level.
    unsafe {
        asm!("mov ds, {0:x}", "mov es, {0:x}", "mov fs, {0:x}", "mov gs, {0:x}", in(reg) 0,
            options(nostack));
    }
}

/// Resets the machine the hard way.
pub fn triple_fault() -> ! {
    // SAFETY: nothing runs after this.
    unsafe { dtables::lidt::<u64>(&Pointer { limit: 0, base: core::ptr::null() }) };
    // SAFETY: the exception finds no gate.
    unsafe { asm!("ud2", options(noreturn)) }
}
