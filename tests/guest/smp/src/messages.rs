//! Interrupts between vCPUs: to one, to all, to all others, by logical destination, NMIs.

use core::sync::atomic::{AtomicU64, Ordering};

use cloister_guest_rt::{apic, cpu, interrupts};
use guest_common::{Cases, Outcome, equal};

use crate::helpers::{self, MOST, all, done, give, until};

const VECTOR: u8 = 0x75;
const PING: u8 = 0x76;
const NMI: u8 = 2;
/// Interrupts of each case.
const ROUNDS: u64 = 200;
/// To all vCPUs, to all but the sender (Intel SDM, "Interrupt Command Register").
const TO_ALL: u32 = 2 << 18;
const TO_OTHERS: u32 = 3 << 18;
/// The destination is a logical one.
const LOGICAL: u32 = 1 << 11;
const ASSERT: u32 = 1 << 14;
/// The logical destination register.
const LOGICAL_ID: u32 = 0x0d;
/// Every vCPU.
const BROADCAST: u32 = u32::MAX;

static CAME: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];
/// The vCPU that is to get an NMI has turned interrupts off.
static BUSY: AtomicU64 = AtomicU64::new(0);
static PINGS: AtomicU64 = AtomicU64::new(0);

pub fn run(cases: &mut Cases, vcpus: u32) {
    interrupts::set(VECTOR, |_| {
        count();
        apic::eoi();
    });
    interrupts::set(NMI, |_| count());
    cases.run("an interrupt reaches the vCPU it names", || one(vcpus));
    cases.run("an interrupt to all, to all others, to oneself", || shorthands(vcpus));
    cases.run("an interrupt to a logical destination", || logical(vcpus));
    cases.run("an NMI reaches the vCPU it names", || nmi(vcpus));
    cases.run("two vCPUs wake each other in turn", || ping_pong(vcpus));
    cases.run("all vCPUs interrupt all at once", || storm(vcpus));
}

fn count() {
    CAME[apic::id() as usize % MOST].fetch_add(1, Ordering::AcqRel);
}

fn came(id: u32) -> u64 {
    CAME[id as usize].load(Ordering::Acquire)
}

fn send(destination: u32, command: u32) {
    // SAFETY: the vector has a handler.
    unsafe { apic::command(destination, command | ASSERT) };
}

/// Does something and looks how many interrupts came at each vCPU; each comes before the next is
/// sent, because requests for one vector are one request.
fn expect(vcpus: u32, action: impl Fn(), wanted: impl Fn(u32) -> u64) -> Outcome {
    cpu::enable_interrupts();
    for _ in 0..ROUNDS {
        let before: [u64; MOST] = core::array::from_fn(|id| came(id as u32));
        action();
        for id in 0..vcpus {
            let aim = before[id as usize] + wanted(id);
            until("interrupts do not come to vCPU", id.into(), || came(id) >= aim)?;
        }
        for id in 0..vcpus {
            equal("interrupts", came(id) - before[id as usize], wanted(id))?;
        }
    }
    cpu::disable_interrupts();
    Ok(())
}

fn one(vcpus: u32) -> Outcome {
    for target in 0..vcpus {
        expect(vcpus, || apic::send(target, VECTOR), |id| u64::from(id == target))?;
    }
    Ok(())
}

fn shorthands(vcpus: u32) -> Outcome {
    let vector = u32::from(VECTOR);
    expect(vcpus, || send(0, TO_ALL | vector), |_| 1)?;
    expect(vcpus, || send(0, TO_OTHERS | vector), |id| u64::from(id != 0))?;
    expect(vcpus, || send(0, apic::TO_SELF | vector), |id| u64::from(id == 0))?;
    expect(vcpus, || send(BROADCAST, vector), |_| 1)
}

/// In x2APIC mode the logical identifier follows from the identifier: a cluster of 16 in the
/// upper half, one bit in the lower.
fn logical(vcpus: u32) -> Outcome {
    if !apic::is_x2apic() {
        return Ok(());
    }
    equal("the logical identifier", apic::read(LOGICAL_ID).into(), 1)?;
    let vector = u32::from(VECTOR) | LOGICAL;
    for mask in 1..1u32 << vcpus.min(4) {
        let is_meant = |id: u32| u64::from(mask & 1u32 << id != 0);
        expect(vcpus, || send(mask, vector), is_meant)?;
    }
    Ok(())
}

fn nmi(vcpus: u32) -> Outcome {
    for target in 1..vcpus {
        expect(vcpus, || apic::send_nmi(target), |id| u64::from(id == target))?;
    }
    // Also if the vCPU takes no interrupts and is busy.
    BUSY.store(0, Ordering::Release);
    give(1, |id| {
        cpu::disable_interrupts();
        let before = came(id);
        BUSY.store(1, Ordering::Release);
        while came(id) == before {
            core::hint::spin_loop();
        }
    });
    until("a vCPU does not begin its job", 1, || BUSY.load(Ordering::Acquire) == 1)?;
    apic::send_nmi(1);
    done(1)
}

fn ping_pong(vcpus: u32) -> Outcome {
    PINGS.store(0, Ordering::Release);
    interrupts::set(PING, |_| {
        apic::eoi();
        let turn = PINGS.fetch_add(1, Ordering::AcqRel) + 1;
        if turn < 2 * ROUNDS {
            apic::send(u32::from(apic::id() == 0), PING);
        }
    });
    cpu::enable_interrupts();
    apic::send(1, PING);
    interrupts::wait_until(|| PINGS.load(Ordering::Acquire) >= 2 * ROUNDS - 1);
    helpers::until("the last turn", vcpus.into(), || PINGS.load(Ordering::Acquire) == 2 * ROUNDS)?;
    cpu::disable_interrupts();
    Ok(())
}

fn storm(vcpus: u32) -> Outcome {
    fn shout() {
        for _ in 0..ROUNDS {
            send(0, TO_ALL | u32::from(VECTOR));
            cpu::enable_interrupts();
        }
    }
    let before: [u64; MOST] = core::array::from_fn(|id| came(id as u32));
    (1..vcpus).for_each(|id| give(id, |_| shout()));
    shout();
    (1..vcpus).try_for_each(done)?;
    // Requests merge, so the number is not known; but the last one of each came.
    for id in 0..vcpus {
        until("no interrupt at all", id.into(), || came(id) > before[id as usize])?;
    }
    cpu::disable_interrupts();
    all(vcpus, |_| {})
}
