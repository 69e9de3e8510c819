//! An interrupt that the vCPU sends itself, up to its handler and its end.

use core::sync::atomic::{AtomicU64, Ordering};

use cloister_guest_rt::{apic, cpu, interrupts, println};

use crate::measure;

const VECTOR: u8 = 0x61;

/// The TSC at the handler's begin.
static ARRIVED: AtomicU64 = AtomicU64::new(0);

/// Measures sending and ending, and the way to the handler.
pub fn run(nothing: u64) {
    let key = if apic::is_x2apic() { "x2apic_self_ipi_eoi" } else { "xapic_self_ipi_eoi" };
    interrupts::set(VECTOR, |_| {
        ARRIVED.store(cpu::tsc(), Ordering::Relaxed);
        apic::eoi();
    });
    cpu::enable_interrupts();
    let (min, max) = measure(nothing, || apic::send_self(VECTOR));
    println!("bench {key} {min} {max}");
    let (mut least, mut most) = (u64::MAX, 0);
    for _ in 0..200 {
        let start = cpu::tsc();
        apic::send_self(VECTOR);
        let took = ARRIVED.load(Ordering::Relaxed).saturating_sub(start + nothing);
        (least, most) = (least.min(took), most.max(took));
    }
    cpu::disable_interrupts();
    println!("bench self_ipi_to_handler {least} {most}");
}
