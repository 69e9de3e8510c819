//! Each vCPU's descriptor table and task state segment, and the one interrupt descriptor table.
//!
//! Selectors are those that the start code leaves: code at 0x10, data at 0x18. Double faults have
//! a stack of their own, so that a broken stack pointer still ends in words on the console.

use core::arch::asm;
use core::cell::UnsafeCell;

use cloister_guest_abi::image::GDT;

use crate::interrupts;

/// Most vCPUs of a guest.
pub(crate) const MAX_VCPUS: usize = 8;
/// Selector of the code segment.
const CODE: u16 = 0x10;
/// Selector of the task state segment.
const TASK: u16 = 0x20;
/// 64-bit code, present, ring 0.
const CODE_DESCRIPTOR: u64 = 0x00af_9b00_0000_ffff;
/// Data, present, ring 0, flat.
const DATA_DESCRIPTOR: u64 = 0x00cf_9300_0000_ffff;
/// Available 64-bit task state segment, present.
const TASK_TYPE: u64 = 0x89;
/// Bytes of a task state segment.
const TASK_LEN: usize = 104;
/// Offset of the first interrupt stack (Intel SDM, "Task Management in 64-bit Mode").
const TASK_STACK: usize = 0x24;
/// The I/O map lies behind the segment: there is none.
const TASK_IO_MAP: usize = 0x66;
/// Bytes of the stack for double faults.
const STACK: usize = 4096;
/// The interrupt stack that double faults use.
const DOUBLE_FAULT_STACK: u64 = 1;
/// Vector of the double fault.
const DOUBLE_FAULT: usize = 8;
/// Interrupt gate, present, ring 0.
const GATE: u64 = 0x8e;

const _: () = assert!(GDT < 0x10_0000, "the start code's table lies below every program");

/// What one vCPU has.
#[repr(C, align(4096))]
struct Area {
    stack: [u8; STACK],
    gdt: [u64; 6],
    task: [u8; TASK_LEN],
}

struct Areas(UnsafeCell<[Area; MAX_VCPUS]>);

// SAFETY: each vCPU writes its own area, once, in `load`.
unsafe impl Sync for Areas {}

static AREAS: Areas = Areas(UnsafeCell::new(
    [const { Area { stack: [0; STACK], gdt: [0; 6], task: [0; TASK_LEN] } }; MAX_VCPUS],
));

#[repr(C, align(16))]
struct Idt(UnsafeCell<[[u64; 2]; 256]>);

// SAFETY: vCPU 0 writes it in `load`, before any other vCPU runs; then only CPUs read it.
unsafe impl Sync for Idt {}

static IDT: Idt = Idt(UnsafeCell::new([[0; 2]; 256]));

/// What LGDT and LIDT take.
#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// Loads the tables of the vCPU with this number, which must be the calling one, once.
#[cfg_attr(test, allow(dead_code))]
pub(crate) fn load(vcpu: usize) {
    assert!(vcpu < MAX_VCPUS, "vCPU {vcpu}: the runtime serves {MAX_VCPUS}");
    // SAFETY: the index is below the length.
    let area = unsafe { AREAS.0.get().cast::<Area>().add(vcpu) };
    // SAFETY: no other vCPU uses this area, and this one has no other reference to it.
    let area = unsafe { &mut *area };
    let top = (&raw const area.stack) as u64 + STACK as u64;
    area.task[TASK_STACK..TASK_STACK + 8].copy_from_slice(&top.to_le_bytes());
    area.task[TASK_IO_MAP..].copy_from_slice(&(TASK_LEN as u16).to_le_bytes());
    let task = (&raw const area.task) as u64;
    let low = (task & 0xff_ffff) << 16 | (task >> 24 & 0xff) << 56 | TASK_TYPE << 40;
    area.gdt = [0, 0, CODE_DESCRIPTOR, DATA_DESCRIPTOR, low | (TASK_LEN as u64 - 1), task >> 32];
    let gdt =
        Pointer { limit: size_of_val(&area.gdt) as u16 - 1, base: (&raw const area.gdt) as u64 };
    // SAFETY: the table holds the selectors in use with the meaning they have now, and is never
    // moved or changed.
    unsafe { asm!("lgdt [{}]", in(reg) &gdt, options(nostack, preserves_flags)) };
    // SAFETY: the selector is that of a task state segment that is never moved.
    unsafe { asm!("ltr {:x}", in(reg) TASK, options(nostack, preserves_flags)) };
    if vcpu == 0 {
        fill_idt();
    }
    let idt = Pointer { limit: size_of::<Idt>() as u16 - 1, base: IDT.0.get() as u64 };
    // SAFETY: every gate leads to the entry code of its vector.
    unsafe { asm!("lidt [{}]", in(reg) &idt, options(nostack, preserves_flags)) };
}

fn fill_idt() {
    // SAFETY: only vCPU 0 comes here, before it starts others.
    let idt = unsafe { &mut *IDT.0.get() };
    for (vector, gate) in idt.iter_mut().enumerate() {
        let at = interrupts::entry(vector);
        let stack = if vector == DOUBLE_FAULT { DOUBLE_FAULT_STACK } else { 0 };
        let low = at & 0xffff | u64::from(CODE) << 16 | stack << 32 | GATE << 40;
        *gate = [low | (at >> 16 & 0xffff) << 48, at >> 32];
    }
}
