//! A device's completion: what it costs to interrupt for it, on the worker's own core.
//!
//! The worker is more urgent than this guest, so a doorbell's OUT ends with its work done. The
//! same round with interrupts suppressed is what doorbell, worker and switches take; what a round
//! with its interrupt takes more is the worker's signal, the monitor's turn and the delivery. The
//! guest's own way to the handler, measured with INT, is taken off, and the end of the interrupt
//! is added. docs/promises.md has the definition.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use cloister_guest_rt::abi::platform;
use cloister_guest_rt::virtio::transport::IoTransport;
use cloister_guest_rt::virtio::{self, Device, Failure, Memory};
use cloister_guest_rt::{apic, cpu, interrupts, port, println};
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;

use crate::{ROUNDS, WARM_UP};

const VECTOR: u8 = 0x62;
/// Descriptors of the queue.
const SIZE: usize = 4;

type Queue = VirtQueue<Memory, SIZE>;

/// The TSC at the handler's begin.
static ARRIVED: AtomicU64 = AtomicU64::new(0);
/// What the end of the last interrupt took.
static ENDED: AtomicU64 = AtomicU64::new(0);

/// Measures with the entropy device, if there is one whose worker runs on this core.
pub fn run(nothing: u64) {
    let Some(device) = virtio::devices().find(|device| device.kind == virtio::ENTROPY) else {
        println!("no entropy device: no completion");
        return;
    };
    if let Err(failure) = measure(device, nothing) {
        println!("FAILED completion: {failure}");
    }
}

fn measure(device: Device, nothing: u64) -> Result<(), Failure> {
    let mut transport = IoTransport::open(device)?;
    transport.negotiate(0)?;
    interrupts::set(VECTOR, |_| {
        ARRIVED.store(cpu::tsc(), Ordering::Relaxed);
        let start = cpu::tsc();
        apic::eoi();
        ENDED.store(cpu::tsc() - start, Ordering::Relaxed);
    });
    transport.table().enable(false);
    transport.table().route(0, 0, VECTOR);
    transport.set_vector(Some(0));
    let mut queue = Queue::new(&mut transport, 0, false, false)?;
    transport.finish_init();
    transport.check()?;

    let (mut silent, mut arrival, mut end) = (u64::MAX, u64::MAX, u64::MAX);
    let mut own = u64::MAX;
    let mut buffer = [0];
    for round in 0..WARM_UP + ROUNDS {
        queue.set_dev_notify(false);
        let without = request(&mut queue, &mut buffer, false)?;
        queue.set_dev_notify(true);
        let with = request(&mut queue, &mut buffer, true)?;
        let ended = ENDED.load(Ordering::Relaxed).saturating_sub(nothing);
        let before = interrupt_myself();
        if round >= WARM_UP {
            silent = silent.min(without.saturating_sub(nothing));
            arrival = arrival.min(with);
            end = end.min(ended);
            own = own.min(before);
        }
    }
    transport.reset();
    if silent.max(arrival) == u64::MAX {
        println!("the worker is on another core: no completion");
        return Ok(());
    }
    println!("bench silent_round {silent} {silent}");
    println!("bench completion_arrival {arrival} {arrival}");
    println!("bench own_entry {own} {own}");
    println!("bench end_of_interrupt {end} {end}");
    let sum = (arrival + end).saturating_sub(own + silent);
    println!("bench completion_interrupt {sum} {sum}");
    Ok(())
}

/// Asks for one byte. The ticks from before the OUT to behind it, with an interrupt to its handler;
/// as many as can be if the worker was not done by then, for its budget was used up or it is on
/// another core.
fn request(queue: &mut Queue, buffer: &mut [u8; 1], interrupt: bool) -> Result<u64, Failure> {
    let bell = platform::VIRTIO + platform::VIRTIO_NOTIFY;
    // SAFETY: the buffer is not touched until `pop_used` below.
    let token = unsafe { queue.add(&[], &mut [&mut buffer[..]]) }?;
    ARRIVED.store(0, Ordering::Relaxed);
    if interrupt {
        cpu::enable_interrupts();
    }
    let start = cpu::tsc();
    // SAFETY: the device works on the ring, which owns its memory.
    unsafe { port::write16(bell, 0) };
    let after = cpu::tsc();
    let is_done = queue.can_pop();
    while !queue.can_pop() || interrupt && ARRIVED.load(Ordering::Relaxed) == 0 {
        core::hint::spin_loop();
    }
    cpu::disable_interrupts();
    // SAFETY: this is what was added under this token.
    unsafe { queue.pop_used(token, &[], &mut [&mut buffer[..]]) }?;
    let end = if interrupt { ARRIVED.load(Ordering::Relaxed) } else { after };
    Ok(if is_done { end - start } else { u64::MAX })
}

/// The ticks to the handler for an interrupt that no host has a part in. Its end finds nothing in
/// service.
fn interrupt_myself() -> u64 {
    let start = cpu::tsc();
    // SAFETY: the vector has a handler that returns.
    unsafe { asm!("int {vector}", vector = const VECTOR) };
    ARRIVED.load(Ordering::Relaxed) - start
}
