//! Micro-guest: measures exits with its own TSC.
//!
//! Each line `bench KEY MIN MAX` is what [`ROUNDS`] runs took, less what two readings of the TSC
//! take by themselves. With instructions counted the TSC counts instructions (docs/promises.md).

#![no_std]
#![no_main]

mod completion;
mod interrupt;
mod memory;

use cloister_guest_rt::abi::{image, platform};
use cloister_guest_rt::virtio::{self, Table};
use cloister_guest_rt::{apic, cpu, port, println};
use core::arch::asm;

cloister_guest_rt::entry!(main);

/// Runs of each measurement; those before them warm up what is cached.
const ROUNDS: u32 = 200;
const WARM_UP: u32 = 20;
/// A port that no device has.
const ABSENT: u16 = 0x5000;

fn main() {
    let entered = cpu::tsc();
    // SAFETY: the start code has written this word, and nothing uses its page yet.
    let started = unsafe { (image::STARTED as *const u64).read_volatile() };
    println!("bench started {started} {started}");
    println!("bench entered {entered} {entered}");
    apic::start();
    let nothing = measure(0, || {}).0;
    let print = |key: &str, (min, max): (u64, u64)| println!("bench {key} {min} {max}");
    print("nothing", (nothing, nothing));
    // SAFETY: the instruction changes registers only; RBX is restored.
    let cpuid = || unsafe {
        asm!("mov r8, rbx", "cpuid", "mov rbx, r8", inout("eax") 0 => _, inout("ecx") 0 => _,
             out("edx") _, out("r8") _, options(nostack));
    };
    print("exit_cpuid", measure(nothing, cpuid));
    // SAFETY: no device is there.
    print("exit_port", measure(nothing, || unsafe { port::write8(ABSENT, 0) }));
    print("exit_port_read", measure(nothing, || discard(port::read8(ABSENT))));
    print("exit_msr_read", measure(nothing, || discard(cpu::msr(0x1b))));
    if virtio::devices().next().is_some() {
        let bell = platform::VIRTIO + platform::VIRTIO_NOTIFY;
        // SAFETY: the device is not live: its worker is woken and finds nothing to do.
        print("doorbell", measure(nothing, || unsafe { port::write16(bell, 0) }));
    } else {
        println!("no virtio device: no doorbell");
    }
    let table = virtio::devices().next().and_then(|device| Table::open(device.function).ok());
    memory::run(nothing, table.as_ref());
    interrupt::run(nothing);
    completion::run(nothing);
    println!("bench done");
}

/// Keeps a value that is read for the sake of reading.
fn discard<T>(value: T) {
    core::hint::black_box(value);
}

/// The least and the most ticks that `what` took, less `nothing`.
fn measure(nothing: u64, mut what: impl FnMut()) -> (u64, u64) {
    let (mut least, mut most) = (u64::MAX, 0);
    for round in 0..WARM_UP + ROUNDS {
        let start = cpu::tsc();
        what();
        let took = (cpu::tsc() - start).saturating_sub(nothing);
        if round >= WARM_UP {
            (least, most) = (least.min(took), most.max(took));
        }
    }
    (least, most)
}
