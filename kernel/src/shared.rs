//! The words that all cores share: signal words, core bitmaps, parking words, fault records.
//!
//! They lie at a fixed address of the kernel's half, one array after the other, each element on
//! cache lines of its own. Everything in here is atomic; nothing in here is a pointer.

use crate::arch::x86_64::window;
use cloister_abi::fault::{BACKTRACE_LEN, FaultRecord};
use cloister_abi::layout::{MAX_CORES, MAX_TASKS, MAX_THREADS, PAGE};
use cloister_core::park::ParkWord;
use cloister_core::signal::{CoreWord, ThreadWord};
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

const RECORD_WORDS: usize = 10 + BACKTRACE_LEN;

/// A core, as the others see it.
#[repr(C, align(64))]
pub struct CoreShared {
    /// Threads to look at.
    pub word: CoreWord,
    /// Where to send an IPI.
    pub apic_id: AtomicU32,
    /// The core runs and takes interrupts.
    pub online: AtomicBool,
}

/// A task, as the cores see it.
#[repr(C, align(64))]
pub struct TaskShared {
    /// Whether its threads run.
    pub park: ParkWord,
    record: [AtomicU64; RECORD_WORDS],
}

/// All shared words. Each part begins on a page of its own, and only the pages that a system
/// needs have memory behind them.
#[repr(C)]
pub struct Shared {
    /// The cores.
    pub cores: [CoreShared; MAX_CORES],
    /// The system is sealed: cores start their threads.
    pub sealed: AtomicBool,
    threads: PageAligned<[ThreadWord; MAX_THREADS]>,
    tasks: PageAligned<[TaskShared; MAX_TASKS]>,
}

#[repr(C, align(4096))]
struct PageAligned<T>(T);

impl Shared {
    /// The signal words of the threads.
    #[inline(always)]
    pub fn threads(&self) -> &[ThreadWord; MAX_THREADS] {
        &self.threads.0
    }

    /// The tasks.
    #[inline(always)]
    pub fn tasks(&self) -> &[TaskShared; MAX_TASKS] {
        &self.tasks.0
    }
}

/// The pages, counted from [`window::SHARED`], that a system of this size needs.
pub fn pages(threads: usize, tasks: usize) -> impl Iterator<Item = u64> {
    let parts = [
        (0, size_of::<[CoreShared; MAX_CORES]>() + 1),
        (offset_of!(Shared, threads), threads * size_of::<ThreadWord>()),
        (offset_of!(Shared, tasks), tasks * size_of::<TaskShared>()),
    ];
    parts.into_iter().flat_map(|(offset, len)| {
        let first = offset as u64 / PAGE;
        first..first + (len as u64).div_ceil(PAGE)
    })
}

const _: () = assert!(size_of::<Shared>() as u64 <= window::SHARED_PAGES_MAX * PAGE);

/// The shared words. Indices come from the validated system table, so only words with memory
/// behind them are ever touched.
#[inline(always)]
pub fn shared() -> &'static Shared {
    // SAFETY: mapped and initialised at boot before the first use; all contents are atomic.
    unsafe { &*(window::SHARED as *const Shared) }
}

/// Initialises the words.
///
/// # Safety
/// The zeroed pages of [`pages`] are mapped; only the boot core runs.
pub unsafe fn init(threads: usize, tasks: usize) {
    let shared = window::SHARED as *mut Shared;
    for index in 0..tasks {
        // SAFETY: inside the mapped pages; everything else is right as zeros.
        let park = unsafe { &raw mut (*shared).tasks.0[index].park };
        // SAFETY: as above.
        unsafe { park.write(ParkWord::new()) };
    }
    for index in 0..threads {
        // SAFETY: inside the mapped pages.
        let word = unsafe { &raw mut (*shared).threads.0[index] };
        // SAFETY: as above.
        unsafe { word.write(ThreadWord::new()) };
    }
}

impl TaskShared {
    /// Stores a fault record; the parking word publishes it.
    pub fn set_record(&self, record: &FaultRecord) {
        let head = [
            record.kind,
            record.thread,
            record.rip,
            record.address,
            record.error,
            record.rsp,
            record.reason,
            record.detail,
            record.core,
            record.tsc,
        ];
        let words = head.iter().chain(&record.backtrace);
        for (to, from) in self.record.iter().zip(words) {
            to.store(*from, Ordering::Relaxed);
        }
    }

    fn word(&self, index: usize) -> u64 {
        self.record.get(index).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// The four words of `fault_info` with this index, `None` beyond the record.
    pub fn info(&self, index: u64) -> Option<[u64; 4]> {
        Some(match index {
            0 => {
                let state = self.park.state() as u64;
                [state, self.word(0), self.word(1), u64::from(self.park.generation())]
            }
            1 => [self.word(2), self.word(3), self.word(4), self.word(5)],
            2 => [self.word(6), self.word(7), self.word(8), self.word(9)],
            3..=6 => {
                let first = 10 + (index as usize - 3) * 4;
                core::array::from_fn(|n| self.word(first + n))
            }
            _ => return None,
        })
    }
}
