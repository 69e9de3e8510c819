//! Micro-guest: one way to end a virtual machine per life.
//!
//! Which one follows from the size of memory: 16 MiB is the first, every 2 MiB more the next. The
//! guest says what it is going to do; that it is ended, and how that is reported, is for the boot
//! test to see. If it is still there afterwards it says so and panics with its own code.

#![no_std]
#![no_main]

use cloister_guest_rt::abi::platform;
use cloister_guest_rt::{cpu, memory, power, println};
use guest_common::registers;

cloister_guest_rt::entry!(main);

/// Memory of the first way, and how much more the next one has.
const FIRST: u64 = 16 << 20;
const STEP: u64 = 2 << 20;
/// The panic's code when the guest is still there.
const STILL_HERE: u8 = 99;

/// A way to end.
type Way = (&'static str, fn());

const WAYS: [Way; 12] = [
    ("power-off", || power::off()),
    ("panic with code 7", || power::panic(7)),
    ("triple fault", triple_fault),
    ("fetch from the page of the APIC", || call(platform::APIC)),
    ("fetch from where no memory is", || call(platform::SEGMENTS - 0x1000)),
    ("page tables in the page of the APIC", || page_tables(platform::APIC)),
    ("page tables where no memory is", || page_tables(platform::SEGMENTS - 0x1000)),
    ("a reserved bit of CR4", reserved_cr4),
    ("a reserved bit of CR3", reserved_cr3),
    ("an interrupt table where no memory is", interrupt_table),
    ("a stack where no memory is", stack),
    ("sleep for ever", sleep),
];

fn main() {
    let number = memory::size().saturating_sub(FIRST) / STEP;
    let way = usize::try_from(number).ok().and_then(|number| WAYS.get(number));
    let Some((name, end)) = way else {
        println!("no way has number {number}; there are {}", WAYS.len());
        power::panic(STILL_HERE);
    };
    println!("way {number}: {name}");
    end();
    println!("FAILED still here after {name}");
    power::panic(STILL_HERE);
}

/// What LIDT takes.
#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

fn load_table(pointer: &Pointer) {
    // SAFETY: the guest means to end.
    unsafe { core::arch::asm!("lidt [{}]", in(reg) pointer, options(nostack)) };
}

fn triple_fault() {
    load_table(&Pointer { limit: 0, base: 0 });
    // SAFETY: the guest means to end.
    unsafe { core::arch::asm!("ud2") };
}

fn interrupt_table() {
    load_table(&Pointer { limit: 0xfff, base: platform::SEGMENTS - 0x1000 });
    // SAFETY: the guest means to end.
    unsafe { core::arch::asm!("int3") };
}

fn call(at: u64) {
    // SAFETY: the guest means to end.
    unsafe { core::arch::asm!("call {}", in(reg) at) };
}

fn page_tables(at: u64) {
    // SAFETY: the guest means to end.
    unsafe { registers::set_cr3(at) };
}

/// On a CPU that checks it this is a #GP, which nobody handles here: a panic. Emulated SVM leaves
/// it to the next entry.
fn reserved_cr4() {
    // SAFETY: the guest means to end.
    unsafe { registers::set_cr4(registers::cr4() | 1 << 31) };
    cpu::cpuid(0, 0);
}

fn reserved_cr3() {
    // SAFETY: the guest means to end.
    unsafe { registers::set_cr3(registers::cr3() | 1 << 55) };
    cpu::cpuid(0, 0);
}

fn stack() {
    let at = platform::SEGMENTS - 0x1000;
    // SAFETY: the guest means to end.
    unsafe { core::arch::asm!("mov rsp, {}", "ud2", in(reg) at, options(noreturn)) };
}

/// Nothing wakes it: the boot test sees that others go on and that it uses no time.
fn sleep() {
    cpu::disable_interrupts();
    loop {
        cpu::halt();
    }
}
