//! INIT and start-up (Intel SDM volume 3, "Multiple-Processor (MP) Initialization").

use core::sync::atomic::Ordering;
use core::time::Duration;

use cloister_guest_rt::{apic, clock, cpu, smp};
use guest_common::{Cases, Failed, Outcome, ensure, equal};

use crate::helpers::{MOST, RESULTS, STARTS, all, give, serve, until};

pub fn run(cases: &mut Cases, vcpus: u32) {
    cases.run("the first vCPU is number 0", first);
    cases.run("further vCPUs wait until they are started", || waiting(vcpus));
    cases.run("every vCPU starts", || started(vcpus));
    cases.run("a vCPU that does not exist does not start", || absent(vcpus));
    if vcpus > 1 {
        cases.run("each vCPU knows its number", || numbers(vcpus));
        cases.run("start-up without INIT does nothing to one that runs", || running(vcpus));
        cases.run("INIT and start-up begin a busy vCPU anew", || anew(vcpus));
    }
}

fn starts(id: u32) -> u64 {
    STARTS[id as usize].load(Ordering::Acquire).into()
}

fn first() -> Outcome {
    equal("the APIC's identifier", apic::id().into(), 0)?;
    equal("CPUID leaf 1", u64::from(cpu::cpuid(1, 0)[1] >> 24), 0)?;
    let base = cpu::msr(apic::BASE).unwrap_or(0);
    ensure("the boot processor's bit", base & 1 << 8 != 0, base)
}

fn waiting(vcpus: u32) -> Outcome {
    let end = cpu::tsc() + clock::ticks(Duration::from_millis(20));
    while cpu::tsc() < end {
        core::hint::spin_loop();
    }
    (1..vcpus).try_for_each(|id| equal("starts of a vCPU", starts(id), 0))
}

fn started(vcpus: u32) -> Outcome {
    ensure("the number of vCPUs", (1..=MOST as u32).contains(&vcpus), vcpus.into())?;
    for id in 1..vcpus {
        smp::start(id, serve).map_err(|_| Failed::Other("no start of vCPU", id.into()))?;
        until("a vCPU does not serve", id.into(), || starts(id) == 1)?;
    }
    Ok(())
}

fn absent(vcpus: u32) -> Outcome {
    if vcpus as usize == MOST {
        return Ok(());
    }
    // SAFETY: nobody is there to be started.
    unsafe { apic::command(vcpus, apic::INIT) };
    // SAFETY: nobody is there; if somebody were, the page would hold the runtime's code or zeros.
    unsafe { apic::command(vcpus, apic::STARTUP | 8) };
    let end = cpu::tsc() + clock::ticks(Duration::from_millis(5));
    while cpu::tsc() < end {
        core::hint::spin_loop();
    }
    equal("starts", starts(vcpus), 0)
}

fn numbers(vcpus: u32) -> Outcome {
    all(vcpus, |id| {
        let leaf = u64::from(cpu::cpuid(1, 0)[1] >> 24);
        let topology = u64::from(cpu::cpuid(0xb, 0)[3]);
        let base = cpu::msr(apic::BASE).unwrap_or(0) >> 8 & 1;
        let all = u64::from(apic::id()) | leaf << 16 | topology << 32 | base << 48;
        RESULTS[id as usize].store(all, Ordering::Release);
    })?;
    for id in 1..vcpus {
        let n = u64::from(id);
        let found = RESULTS[id as usize].load(Ordering::Acquire);
        equal("identifiers and the boot processor's bit", found, n | n << 16 | n << 32)?;
    }
    Ok(())
}

fn running(vcpus: u32) -> Outcome {
    for id in 1..vcpus {
        let before = starts(id);
        // SAFETY: a vCPU that runs ignores it.
        unsafe { apic::command(id, apic::STARTUP | 8) };
        // If the vCPU had been reset it could not do this.
        give(id, |_| {});
        crate::helpers::done(id)?;
        equal("starts", starts(id), before)?;
    }
    Ok(())
}

fn anew(vcpus: u32) -> Outcome {
    for id in 1..vcpus {
        let before = starts(id);
        give(id, |_| {
            cpu::disable_interrupts();
            loop {
                core::hint::spin_loop();
            }
        });
        smp::start(id, serve).map_err(|_| Failed::Other("no start of vCPU", id.into()))?;
        until("a vCPU does not serve", id.into(), || starts(id) == before + 1)?;
        give(id, |id| RESULTS[id as usize].store(77, Ordering::Release));
        crate::helpers::done(id)?;
        equal("what it left", RESULTS[id as usize].load(Ordering::Acquire), 77)?;
    }
    Ok(())
}
