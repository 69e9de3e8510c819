//! The calling vCPU's APIC timer: once, periodic, or at a value of the TSC.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use cloister_guest_abi::cpuid;

use crate::{apic, clock, cpu, interrupts};

/// The timer's vector.
pub const VECTOR: u8 = 0x40;
/// MSR of the TSC deadline.
pub const DEADLINE: u32 = 0x6e0;
/// Timer entry: does not fire.
pub const MASKED: u32 = 1 << 16;
/// Timer entry: periodic.
pub const PERIODIC: u32 = 1 << 17;
/// Timer entry: at a value of the TSC.
pub const AT_DEADLINE: u32 = 2 << 17;
/// CPUID leaf 1, ECX: the TSC deadline exists.
const HAS_DEADLINE: u32 = 1 << 24;

/// Dividers that the timer knows: how far the frequency is shifted, and their code (Intel SDM,
/// "APIC Timer"), finest first.
const DIVIDERS: [(u32, u32); 8] = [
    (0, 0b1011),
    (1, 0b0000),
    (2, 0b0001),
    (3, 0b0010),
    (4, 0b0011),
    (5, 0b1000),
    (6, 0b1001),
    (7, 0b1010),
];

static INTERRUPTS: AtomicU64 = AtomicU64::new(0);

/// Interrupts of the timer so far, on all vCPUs.
pub fn interrupts() -> u64 {
    INTERRUPTS.load(Ordering::Acquire)
}

/// Frequency of the timer before its divider, in Hz.
pub fn frequency() -> u64 {
    let ours = cpu::cpuid(cpuid::SIGNATURE_LEAF, 0)[0] >= cpuid::TIMING_LEAF;
    let khz = if ours { cpu::cpuid(cpuid::TIMING_LEAF, 0)[1] } else { 0 };
    if khz == 0 { cpuid::APIC_TIMER_HZ } else { u64::from(khz) * 1000 }
}

/// The timer can fire at a value of the TSC.
pub fn has_deadline() -> bool {
    cpu::cpuid(1, 0)[2] & HAS_DEADLINE != 0
}

fn start(mode: u32) {
    apic::start();
    interrupts::set(VECTOR, |_| {
        INTERRUPTS.fetch_add(1, Ordering::AcqRel);
        apic::eoi();
    });
    // SAFETY: the vector has a handler.
    unsafe { apic::write(apic::TIMER, mode | u32::from(VECTOR)) };
}

fn count(mode: u32, time: Duration) {
    let ticks = time.as_nanos() * u128::from(frequency()) / 1_000_000_000;
    let (shift, divider) = DIVIDERS
        .into_iter()
        .find(|(shift, _)| ticks >> shift <= u128::from(u32::MAX))
        .unwrap_or(DIVIDERS[DIVIDERS.len() - 1]);
    let initial = u32::try_from(ticks >> shift).unwrap_or(u32::MAX).max(1);
    start(mode);
    // SAFETY: a divider makes nothing arrive.
    unsafe { apic::write(apic::DIVIDER, divider) };
    // SAFETY: the vector has a handler.
    unsafe { apic::write(apic::INITIAL, initial) };
}

/// Fires once, after this time.
pub fn once(time: Duration) {
    count(0, time);
}

/// Fires again and again.
pub fn periodic(period: Duration) {
    count(PERIODIC, period);
}

/// Fires when the TSC has reached this value. A platform without it gets the same by counting.
pub fn at(tsc: u64) {
    if !has_deadline() {
        return once(clock::duration(tsc.saturating_sub(cpu::tsc())));
    }
    start(AT_DEADLINE);
    // The mode must be set before the deadline (Intel SDM, "TSC-Deadline Mode"), and a write to
    // the deadline is not ordered behind one to the APIC's page.
    // SAFETY: fences change nothing.
    unsafe { core::arch::asm!("mfence", options(nostack, preserves_flags)) };
    // SAFETY: the vector has a handler.
    let _ = unsafe { cpu::set_msr(DEADLINE, tsc) };
}

/// Does not fire any more.
pub fn stop() {
    // SAFETY: this makes nothing arrive.
    unsafe { apic::write(apic::TIMER, MASKED | u32::from(VECTOR)) };
    // SAFETY: as above.
    unsafe { apic::write(apic::INITIAL, 0) };
}

/// Waits, asleep. Interrupts are on afterwards.
pub fn wait(time: Duration) {
    let end = cpu::tsc().saturating_add(clock::ticks(time));
    wait_until(end, || false);
}

/// Waits, asleep, until the condition holds (true) or the TSC has reached `end` (false).
/// Interrupts are on afterwards.
pub fn wait_until(end: u64, mut condition: impl FnMut() -> bool) -> bool {
    let mut held = false;
    at(end);
    interrupts::wait_until(|| {
        held = condition();
        // A timer that counts in other units than the TSC may fire a little early.
        let early = !held && cpu::tsc() < end;
        if early && apic::read(apic::CURRENT) == 0 && !has_deadline() {
            at(end);
        }
        !early
    });
    stop();
    held
}
