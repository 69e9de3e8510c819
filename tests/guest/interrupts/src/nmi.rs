//! Non-maskable interrupts: taken with interrupts off, masked until IRET, one waiting.

use core::sync::atomic::{AtomicU64, Ordering};

use cloister_guest_rt::interrupts::Frame;
use cloister_guest_rt::{apic, cpu, interrupts};
use guest_common::{Cases, Outcome, equal, let_in, log};

/// The vector of NMIs.
const NMI: u8 = 2;
const VECTOR: u8 = 0x70;
/// How often each case runs.
const ROUNDS: u64 = 200;

/// How many NMIs the handler still sends while it runs.
static TO_SEND: AtomicU64 = AtomicU64::new(0);
/// NMI handlers that run now, and the most that ever ran at once.
static DEPTH: AtomicU64 = AtomicU64::new(0);
static DEEPEST: AtomicU64 = AtomicU64::new(0);

pub fn run(cases: &mut Cases) {
    interrupts::set(VECTOR, log::take);
    interrupts::set(NMI, handler);
    cases.run("an NMI comes although interrupts are off", off);
    cases.run("an NMI in an NMI waits for IRET", nested);
    cases.run("NMIs in an NMI are one", merged);
    cases.run("an interrupt and an NMI, NMI first", both);
    cases.run("an interrupt in an NMI handler", interrupt_inside);
    cases.run("an exception in an NMI handler unmasks", unmasked_by_iret);
    interrupts::clear(NMI);
}

fn handler(frame: &mut Frame) {
    let depth = DEPTH.fetch_add(1, Ordering::AcqRel) + 1;
    DEEPEST.fetch_max(depth, Ordering::AcqRel);
    log::note(frame);
    // One handler sends all there is to send; those that these make come find nothing to do.
    for _ in 0..TO_SEND.swap(0, Ordering::AcqRel) {
        apic::send_nmi(apic::id());
        core::hint::spin_loop();
    }
    DEPTH.fetch_sub(1, Ordering::AcqRel);
}

fn after(to_send: u64) {
    log::clear();
    DEEPEST.store(0, Ordering::Release);
    TO_SEND.store(to_send, Ordering::Release);
    apic::send_nmi(apic::id());
    // The write may be done before the NMI comes, but an exit is behind it.
    cpu::cpuid(0, 0);
}

fn off() -> Outcome {
    cpu::disable_interrupts();
    for _ in 0..ROUNDS {
        after(0);
        equal("the number of NMIs", log::len() as u64, 1)?;
    }
    Ok(())
}

fn nested() -> Outcome {
    for _ in 0..ROUNDS {
        after(1);
        equal("the number of NMIs", log::len() as u64, 2)?;
        equal("handlers at once", DEEPEST.load(Ordering::Acquire), 1)?;
    }
    Ok(())
}

fn merged() -> Outcome {
    for _ in 0..ROUNDS {
        after(3);
        equal("the number of NMIs", log::len() as u64, 2)?;
        equal("handlers at once", DEEPEST.load(Ordering::Acquire), 1)?;
    }
    Ok(())
}

fn both() -> Outcome {
    cpu::disable_interrupts();
    for _ in 0..ROUNDS {
        log::clear();
        apic::send_self(VECTOR);
        apic::send_nmi(apic::id());
        cpu::cpuid(0, 0);
        equal("the number so far", log::len() as u64, 1)?;
        let_in();
        equal("the number at the end", log::len() as u64, 2)?;
        equal("the first", log::entry(0).0, NMI.into())?;
        equal("the second", log::entry(1).0, VECTOR.into())?;
    }
    Ok(())
}

/// NMIs mask NMIs alone: an interrupt may come if the handler lets it. Its IRET unmasks NMIs
/// (Intel SDM, "Handling Multiple NMIs").
fn interrupt_inside() -> Outcome {
    interrupts::set(NMI, |frame| {
        log::note(frame);
        apic::send_self(VECTOR);
        let_in();
        log::note(frame);
    });
    log::clear();
    apic::send_nmi(apic::id());
    cpu::cpuid(0, 0);
    interrupts::set(NMI, handler);
    equal("the number", log::len() as u64, 3)?;
    equal("the one in the middle", log::entry(1).0, VECTOR.into())
}

fn unmasked_by_iret() -> Outcome {
    interrupts::set(NMI, |frame| {
        let first = log::len() == 0;
        log::note(frame);
        if first {
            apic::send_nmi(apic::id());
            cpu::cpuid(0, 0);
            log::note(&Frame { vector: 0x100, ..*frame });
            // The way back from an exception's handler is an IRET.
            guest_common::attempt!("ud2");
            cpu::cpuid(0, 0);
            log::note(&Frame { vector: 0x101, ..*frame });
        }
    });
    log::clear();
    apic::send_nmi(apic::id());
    cpu::cpuid(0, 0);
    interrupts::set(NMI, handler);
    equal("the number", log::len() as u64, 4)?;
    equal("before the exception", log::entry(1).0, 0x100)?;
    equal("behind the exception", log::entry(2).0, NMI.into())
}
