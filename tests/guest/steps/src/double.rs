//! What needs a second vCPU: both on one register, and one that changes the other's instruction
//! while it runs.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use cloister_guest_rt::virtio::Table;
use cloister_guest_rt::{apic, cpu, println, smp};
use guest_common::{Cases, Failed, Outcome, ensure, equal};

use crate::page::{DATA, INDEX, PRIORITY, read, write};

/// Turns of each case.
const TURNS: u32 = 3000;
/// A redirection entry: masked, with a vector.
const MASKED: u32 = 1 << 16;
/// What of a redirection entry is compared.
const KEPT: u32 = 0x100ff;

/// What the second vCPU works on, and how.
static ADDRESS: AtomicU64 = AtomicU64::new(0);
static VALUE: AtomicU32 = AtomicU32::new(0);
static STOP: AtomicBool = AtomicBool::new(false);
static STOPPED: AtomicBool = AtomicBool::new(false);
static TURNS_THERE: AtomicU32 = AtomicU32::new(0);

pub fn run(cases: &mut Cases, table: Option<&Table>) {
    cases.run("two vCPUs on one register of the IOAPIC", ioapic);
    if let Some(table) = table {
        cases.run("two vCPUs on one entry of MSI-X", || msix(table));
    } else {
        println!("no virtio device: no case of two vCPUs on MSI-X");
    }
    cases.run("two vCPUs on the same address of their own APICs", own_apics);
    cases.run("another vCPU changes the instruction", swapped);
}

/// Runs a function on the second vCPU while `here` runs on this one.
fn beside(there: smp::Entry, here: impl FnOnce() -> Outcome) -> Outcome {
    STOP.store(false, Ordering::Release);
    STOPPED.store(false, Ordering::Release);
    TURNS_THERE.store(0, Ordering::Release);
    smp::start(1, there).map_err(|_| Failed::Other("no start of vCPU", 1))?;
    while TURNS_THERE.load(Ordering::Acquire) == 0 {
        core::hint::spin_loop();
    }
    let outcome = here();
    let turns = TURNS_THERE.load(Ordering::Acquire);
    STOP.store(true, Ordering::Release);
    while !STOPPED.load(Ordering::Acquire) {
        core::hint::spin_loop();
    }
    outcome?;
    ensure("turns of the other vCPU", turns > 10, turns.into())
}

/// The second vCPU's turns until it is to stop.
fn turns(mut turn: impl FnMut()) {
    while !STOP.load(Ordering::Acquire) {
        turn();
        TURNS_THERE.fetch_add(1, Ordering::AcqRel);
    }
    STOPPED.store(true, Ordering::Release);
}

fn write_again(_: u32) {
    let (at, value) = (ADDRESS.load(Ordering::Acquire), VALUE.load(Ordering::Acquire));
    turns(|| write(at, value));
}

/// Writes `mine` while the other vCPU writes `other`: a read gives one of the two.
fn contended(at: u64, mine: u32, other: u32, mask: u32) -> Outcome {
    ADDRESS.store(at, Ordering::Release);
    VALUE.store(other, Ordering::Release);
    write(at, mine);
    beside(write_again, || {
        let mut others = 0;
        for _ in 0..TURNS {
            write(at, mine);
            let found = read(at) & mask;
            let known = found == mine & mask || found == other & mask;
            ensure("a value that nobody wrote", known, found.into())?;
            others += u32::from(found == other & mask);
        }
        println!("the other vCPU's value was read {others} times of {TURNS}");
        Ok(())
    })?;
    write(at, mine);
    equal("the value at the end", (read(at) & mask).into(), (mine & mask).into())
}

fn ioapic() -> Outcome {
    write(INDEX, 0x10 + 2 * 5);
    contended(DATA, MASKED | 0x3a, MASKED | 0xc5, KEPT)
}

fn msix(table: &Table) -> Outcome {
    write(table.word(0, 3) as u64, 1);
    contended(table.word(0, 2) as u64, 0x3a, 0xc5, u32::MAX)
}

fn own_apics() -> Outcome {
    beside(
        |_| {
            turns(|| {
                write(PRIORITY, 0x50);
                // A value of the other vCPU's APIC would end the turns.
                if read(PRIORITY) != 0x50 {
                    STOP.store(true, Ordering::Release);
                    TURNS_THERE.store(0, Ordering::Release);
                }
            });
        },
        || {
            for _ in 0..TURNS {
                write(PRIORITY, 0x20);
                equal("the task priority", read(PRIORITY).into(), 0x20)?;
                ensure("the other vCPU's priority", !STOP.load(Ordering::Acquire), 0)?;
            }
            write(PRIORITY, 0);
            equal("the identifier", apic::id().into(), 0)
        },
    )
}

/// Two instructions of two bytes: `mov [rcx], edx` and `mov edx, [rcx]`.
const STORE: u16 = 0x1189;
const LOAD: u16 = 0x118b;

/// The other vCPU writes one of them over the other, while this one runs whatever is there: the
/// monitor has seen a fault of one and may run the other alone.
fn swapped() -> Outcome {
    let code: u64;
    // SAFETY: only the address of the label.
    unsafe {
        core::arch::asm!(
            "lea {}, [rip + 8f]", "jmp 9f", ".balign 16",
            "8: mov [rcx], edx", "ret", "9:",
            out(reg) code,
        );
    }
    ADDRESS.store(code, Ordering::Release);
    beside(
        |_| {
            let at = ADDRESS.load(Ordering::Acquire) as *mut u16;
            let mut next = LOAD;
            turns(|| {
                // SAFETY: memory is writable as well as executable, and both values are one
                // instruction of the same length.
                unsafe { at.write_volatile(next) };
                next ^= STORE ^ LOAD;
            });
        },
        || {
            for turn in 0..TURNS {
                let mut edx = 0x30 + (turn & 1) * 0x10;
                // SAFETY: the code writes or reads the task priority and returns.
                unsafe {
                    core::arch::asm!("call {}", in(reg) code, in("rcx") PRIORITY, inout("edx") edx);
                }
                let found = read(PRIORITY);
                let known = [0, 0x30, 0x40].contains(&found) && [0, 0x30, 0x40].contains(&edx);
                ensure(
                    "a value that nobody wrote",
                    known,
                    u64::from(edx) << 32 | u64::from(found),
                )?;
            }
            write(PRIORITY, 0);
            cpu::cpuid(0, 0);
            Ok(())
        },
    )
}
