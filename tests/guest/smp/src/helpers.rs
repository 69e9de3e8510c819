//! What further vCPUs do: wait, asleep, for a number of a job, and do it.
//!
//! Each vCPU has a word for the job and one for the jobs it has done. A job is given by an
//! interrupt, so waiting vCPUs are halted.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;

use cloister_guest_rt::{apic, clock, cpu, interrupts};
use guest_common::{Failed, Outcome, ensure};

/// The interrupt that wakes a vCPU for a job.
pub const WAKE: u8 = 0x60;
/// Most vCPUs.
pub const MOST: usize = 8;
/// A vCPU that has not answered after this time will not.
const PATIENCE: Duration = Duration::from_secs(20);

/// A job.
pub type Job = fn(u32);

static JOBS: [AtomicUsize; MOST] = [const { AtomicUsize::new(0) }; MOST];
static GIVEN: [AtomicU32; MOST] = [const { AtomicU32::new(0) }; MOST];
static DONE: [AtomicU32; MOST] = [const { AtomicU32::new(0) }; MOST];
/// How often each vCPU has come into [`serve`], and under which identifier.
pub static STARTS: [AtomicU32; MOST] = [const { AtomicU32::new(0) }; MOST];
/// What a job leaves for the case.
pub static RESULTS: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];

/// A further vCPU's life.
pub fn serve(id: u32) {
    let me = id as usize;
    interrupts::set(WAKE, |_| apic::eoi());
    DONE[me].store(GIVEN[me].load(Ordering::Acquire), Ordering::Release);
    STARTS[me].fetch_add(1, Ordering::AcqRel);
    loop {
        interrupts::wait_until(|| {
            GIVEN[me].load(Ordering::Acquire) != DONE[me].load(Ordering::Acquire)
        });
        // SAFETY: `give` stored a function of this very type before it counted.
        let job = unsafe { core::mem::transmute::<usize, Job>(JOBS[me].load(Ordering::Acquire)) };
        job(id);
        DONE[me].fetch_add(1, Ordering::AcqRel);
    }
}

/// Gives a vCPU a job; it has done the one before.
pub fn give(id: u32, job: Job) {
    let me = id as usize;
    JOBS[me].store(job as usize, Ordering::Release);
    GIVEN[me].fetch_add(1, Ordering::AcqRel);
    apic::send(id, WAKE);
}

/// Waits until a vCPU has done its job.
pub fn done(id: u32) -> Outcome {
    let me = id as usize;
    let is_done = || GIVEN[me].load(Ordering::Acquire) == DONE[me].load(Ordering::Acquire);
    until("a vCPU does not finish its job", id.into(), is_done)
}

/// Waits until the condition holds.
pub fn until(what: &'static str, number: u64, condition: impl Fn() -> bool) -> Outcome {
    let end = cpu::tsc() + clock::ticks(PATIENCE);
    while !condition() && cpu::tsc() < end {
        core::hint::spin_loop();
    }
    ensure(what, condition(), number)
}

/// All vCPUs but the first do a job; waits for all.
pub fn all(vcpus: u32, job: Job) -> Result<(), Failed> {
    (1..vcpus).for_each(|id| give(id, job));
    (1..vcpus).try_for_each(done)
}
