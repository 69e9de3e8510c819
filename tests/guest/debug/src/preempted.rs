//! A breakpoint while another virtual machine has the core in between.
//!
//! Two guests of this program share a core: the one that tests, and [`neighbour`], which does the
//! same for ever. Both are linked alike, so what one watches the other one can write: a debug
//! register that came along with the core would be seen. Neither leaves the guest by itself
//! between setting a breakpoint and meeting it: its budget ends its turns, which it sees as gaps
//! in the time.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use cloister_guest_rt::{clock, cpu, interrupts, power, println};
use guest_common::{Cases, Failed, Outcome, equal, is_old_emulator, log};

use crate::breakpoints::{self, CLEAR, DB, DR6, HIT_0, OFF, ON, WRITE_1};

const ROUNDS: u32 = 20;
/// How often the other one has the core in a round, and for how long at least: more than a host
/// that is busy keeps the emulator waiting as a rule, less than the neighbour's budget.
const GAPS: u64 = 3;
const GAP: Duration = Duration::from_millis(3);
/// Fails a round in which the core is never shared.
const PATIENCE: Duration = Duration::from_secs(10);

/// What each of the two watches.
static WATCHED: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

pub fn run(cases: &mut Cases) {
    interrupts::set(DB, breakpoints::note);
    cases.run("a watchpoint after another guest had the core", || {
        if is_old_emulator() {
            println!("left out on QEMU 7.2: breakpoints of two guests at once, which end it");
            return Ok(());
        }
        (0..ROUNDS).try_for_each(|_| round(0))
    });
    breakpoints::set(0, OFF);
}

/// The other guest: never ends, and tells of a failure.
pub fn neighbour() -> ! {
    interrupts::set(DB, breakpoints::note);
    println!("watches its own");
    if is_old_emulator() {
        cpu::disable_interrupts();
        loop {
            cpu::halt();
        }
    }
    loop {
        if let Err(failed) = round(1) {
            println!("FAILED beside the other guest: {failed}");
            power::panic(3)
        }
    }
}

fn round(own: usize) -> Outcome {
    let [mine, other] = [own, 1 - own].map(|index| &WATCHED[index]);
    breakpoints::arm(mine.as_ptr() as u64, ON | WRITE_1);
    wait_for_gaps()?;
    other.store(1, Ordering::Relaxed);
    equal("exceptions where the other guest watches", log::len() as u64, 0)?;
    mine.store(1, Ordering::Relaxed);
    equal("exceptions at the own watchpoint", log::len() as u64, 1)?;
    equal("DR6", DR6.load(Ordering::Acquire), CLEAR | HIT_0)
}

/// Spins until somebody else has had the core.
fn wait_for_gaps() -> Outcome {
    let (gap, start) = (clock::ticks(GAP), cpu::tsc());
    let end = start.saturating_add(clock::ticks(PATIENCE));
    let (mut last, mut seen) = (start, 0);
    while seen < GAPS {
        let now = cpu::tsc();
        seen += u64::from(now.saturating_sub(last) >= gap);
        if now > end {
            return Err(Failed::Other("nobody else had the core long enough", seen));
        }
        last = now;
    }
    Ok(())
}
