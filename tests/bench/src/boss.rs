//! The boss: supervisor of the bench system, runs the measurements and powers off.

use crate::median::{SAMPLES, median};
use crate::{ANSWER, MARK, ORDER, STARTED};
use cloister_ring::orders::{FLUSH, FLUSHED};
use cloister_ring::{Link, Message, Side};
use cloister_rt::{
    Deadline, Duration, Instant, Mailbox, Supervised, generation, grants, system, wait,
};
use core::sync::atomic::Ordering;

/// Order to the caller: a call that changes nothing.
pub const CALL_NULL: u64 = 1;
/// Order to the caller: wake a more urgent thread of the same core.
pub const CALL_SIGNAL: u64 = 2;
/// Order to the caller: look for gaps.
pub const CALL_SPIN: u64 = 3;
/// Order to the caller: wake a thread of another core.
pub const CALL_FAR: u64 = 4;

/// Everybody who shares a page with the boss.
const PARTS: [&str; 12] =
    ["near", "victim", "far", "still", "caller", "t5", "t6", "t7", "t8", "t9", "ta", "tb"];

const PATIENCE: Duration = Duration::from_secs(5);

fn ask(caller: &Mailbox, order: u64) -> u64 {
    let words = caller.memory.words();
    words[ORDER].store(order, Ordering::Release);
    caller.peer.wake();
    wait(caller.bits, Deadline::Never);
    words[MARK].load(Ordering::Acquire)
}

fn report(key: &str, value: u64, unit: &str) {
    defmt::info!("bench {=str} {=u64} {=str}", key, value, unit);
}

/// Measures everything.
pub fn run(_now: u64) -> u32 {
    let grants = grants();
    let (Ok(caller), Ok(victim)) = (grants.served("caller"), grants.served("victim")) else {
        return 5;
    };
    let Ok(mut supervised) = grants.supervised() else { return 6 };
    let Some(ward) = supervised.find(|s| s.policy.name.starts_with(b"victim\0")) else { return 7 };

    // The victim's first life has begun when it says so; the others are looked for.
    wait(victim.bits, Deadline::Never);
    while starts().any(|start| start == 0) {
        cloister_rt::sleep_until(Instant::now() + Duration::from_micros(100));
    }
    boot_times();
    report("null_syscall", ask(&caller, CALL_NULL), "instructions");
    report("signal_same_core", ask(&caller, CALL_SIGNAL), "instructions");
    report("signal_cross_core", ask(&caller, CALL_FAR), "instructions");
    faults(&victim, &ward);
    report("longest_kernel_path", longest(&caller, &ward), "instructions");
    report("kernel_memory_bytes", system().kernel_bytes, "bytes");
    flush();
    match grants.power("power") {
        Ok(power) => drop(power.off()),
        Err(_) => return 8,
    }
    9
}

/// When each part began, 0 for not yet.
fn starts() -> impl Iterator<Item = u64> {
    PARTS.into_iter().filter_map(|part| {
        let part = grants().served(part).ok()?;
        Some(part.memory.words()[STARTED].load(Ordering::Acquire))
    })
}

/// From the kernel's first instruction to the last task's first one.
fn boot_times() {
    let last = starts().max().unwrap_or(0);
    let page = system();
    for (part, start) in PARTS.into_iter().zip(starts()) {
        defmt::info!("{=str} began after {=u64}", part, start.saturating_sub(page.tsc_kernel));
    }
    report("boot_to_tasks_4_cores", last.saturating_sub(page.tsc_kernel), "instructions");
    let mib = page.payload_len.max(1);
    let ticks = page.tsc_checked.saturating_sub(page.tsc_start);
    report("boot_check_per_mib", (ticks << 20) / mib, "instructions");
}

/// The fault of a task of this core until its supervisor runs, and its restart.
fn faults(victim: &Mailbox, ward: &Supervised) {
    let words = victim.memory.words();
    let mut restarts = [0; SAMPLES];
    let mut restart = restarts.iter_mut();
    let to_supervisor = median(|| {
        victim.peer.wake();
        wait(ward.bits, Deadline::Never);
        let woken = Instant::now().tsc();
        let fault = woken - words[STARTED].load(Ordering::Acquire);
        let start = Instant::now().tsc();
        if ward.control.restart().is_err() {
            defmt::error!("the victim cannot be restarted");
        }
        wait(victim.bits, Deadline::Never);
        if let Some(slot) = restart.next() {
            *slot = words[MARK].load(Ordering::Acquire) - start;
        }
        if words[ANSWER].load(Ordering::Acquire) & 1 != 0 {
            defmt::error!("the victim found used memory in its new life");
        }
        fault
    });
    restarts.sort_unstable();
    report("fault_to_supervisor", to_supervisor, "instructions");
    report("task_restart_256k", restarts[SAMPLES / 2], "instructions");
}

/// The longest of: each system call of a supervisor that returns to it at once, and whatever keeps
/// an idle-minded thread from its core (timer, interrupts of others, replenishments).
fn longest(caller: &Mailbox, ward: &Supervised) -> u64 {
    let mut longest = ask(caller, CALL_SPIN);
    let mut time = |what: &str, call: &mut dyn FnMut()| {
        let start = Instant::now().tsc();
        call();
        let took = Instant::now().tsc() - start;
        defmt::info!("{=str}: {=u64}", what, took);
        longest = longest.max(took);
    };
    time("fault_info", &mut || {
        let _ = ward.control.state();
    });
    time("stop", &mut || {
        let _ = ward.control.stop();
    });
    wait(ward.bits, Deadline::Never);
    time("stop again", &mut || {
        let _ = ward.control.stop();
    });
    time("resume", &mut || {
        let _ = ward.control.resume();
    });
    time("stop", &mut || {
        let _ = ward.control.stop();
    });
    wait(ward.bits, Deadline::Never);
    time("restart", &mut || {
        let _ = ward.control.restart();
    });
    time("deadline", &mut || {
        let _ = wait(ward.bits, Deadline::At(Instant::from_tsc(1)));
    });
    longest
}

/// Has the console ship everything that was logged.
fn flush() {
    let Ok(mailbox) = grants().served("flush") else { return };
    let Ok(mut link) = Link::new(mailbox.memory.words(), Side::Server, generation()) else {
        return;
    };
    let wake = || mailbox.peer.wake();
    let end = Instant::now() + PATIENCE;
    let mut asked = false;
    while Instant::now() < end {
        link.meet(wake);
        if !asked {
            asked = link.send(&Message([FLUSH, 0, 0, 0, 0, 0, 0, 0]), wake).is_ok();
        }
        if link.receive(wake).is_ok_and(|got| got.is_some_and(|got| got.0[0] == FLUSHED)) {
            return;
        }
        wait(mailbox.bits, Deadline::At(end));
    }
}
