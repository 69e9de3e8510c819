//! The words that all cores share: signal words, core bitmaps, parking words, fault records.
//!
//! They lie at a fixed address of the kernel's half, one array after the other, each element on
//! cache lines of its own. Everything in here is atomic; nothing in here is a pointer.

use crate::arch::x86_64::window;
use cloister_abi::fault::{BACKTRACE_LEN, DMA_INDEX};
use cloister_abi::layout::{MAX_CORES, MAX_DEVICES, MAX_TASKS, MAX_THREADS, PAGE};
use cloister_core::park::ParkWord;
use cloister_core::signal::{CoreWord, ThreadWord};
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use zerocopy::{Immutable, IntoBytes};

/// Words of a [`Fault`].
const HEAD: usize = size_of::<Fault>() / 8;
/// The head of the record, the return addresses, and a zero that ends them.
const RECORD_WORDS: usize = HEAD + BACKTRACE_LEN + 1;

/// What stopped a task, without its return addresses; see `cloister_abi::fault`.
#[derive(Clone, Copy, Debug, Default, IntoBytes, Immutable)]
#[repr(C)]
pub struct Fault {
    /// [`cloister_abi::fault::FaultKind`] code, exception vector in bits 8..16.
    pub kind: u64,
    /// Index of the thread within its task.
    pub thread: u64,
    /// Instruction pointer.
    pub rip: u64,
    /// Address of a page fault, or the word that the kind defines.
    pub address: u64,
    /// Error code of the exception.
    pub error: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// `leave`: the reason.
    pub reason: u64,
    /// `leave`: the detail.
    pub detail: u64,
    /// Core on which it happened.
    pub core: u64,
    /// TSC at the fault.
    pub tsc: u64,
}

/// A core, as the others see it.
#[repr(C, align(64))]
pub struct CoreShared {
    /// Threads to look at.
    pub word: CoreWord,
    /// Where to send an IPI.
    pub apic_id: AtomicU32,
    /// Its bus masters, by device record. Written at boot.
    pub functions: AtomicU64,
}

/// The cores that run and take interrupts, a bit each. While there are none, the words of
/// [`Shared`] may not be mapped yet.
pub static ONLINE: AtomicU32 = AtomicU32::new(0);

/// Whether this core is one of them.
pub fn is_online(core: usize) -> bool {
    ONLINE.load(Ordering::Acquire) >> core & 1 != 0
}

/// The PCI function of a device record. Written at boot.
pub struct FunctionShared(AtomicU32);

impl FunctionShared {
    /// It was bound as a bus master.
    pub fn set(&self, source: u16, owner: usize) {
        self.0.store(1 << 31 | (owner as u32) << 16 | u32::from(source), Ordering::Relaxed);
    }

    /// The task that owns it, `None` if it is no bus master that was bound.
    pub fn owner(&self) -> Option<usize> {
        let word = self.0.load(Ordering::Relaxed);
        (word >> 31 != 0).then_some((word >> 16 & 0x7fff) as usize)
    }

    /// Its source id: bus << 8 | device << 3 | function.
    pub fn source(&self) -> Option<u16> {
        let word = self.0.load(Ordering::Relaxed);
        (word >> 31 != 0).then_some(word as u16)
    }
}

/// A task, as the cores see it.
#[repr(C, align(64))]
pub struct TaskShared {
    /// Whether its threads run.
    pub park: ParkWord,
    /// Its first thread; `Core::places` has the chain of the others. Written at boot.
    pub first: AtomicU8,
    /// How many threads it has. Written at boot.
    pub threads: AtomicU8,
    record: [AtomicU64; RECORD_WORDS],
    /// What the IOMMU has refused its functions; core 0 alone writes it.
    refused: [AtomicU64; 4],
}

/// All shared words. Only the pages that a system needs have memory behind them.
#[repr(C)]
pub struct Shared {
    /// The cores.
    pub cores: [CoreShared; MAX_CORES],
    /// The bus masters.
    pub functions: [FunctionShared; MAX_DEVICES],
    /// The system is sealed: cores start their threads.
    pub sealed: AtomicBool,
    threads: [ThreadWord; MAX_THREADS],
    tasks: PageAligned<[TaskShared; MAX_TASKS]>,
}

#[repr(C, align(4096))]
struct PageAligned<T>(T);

impl Shared {
    /// The signal word of the thread of a valid index.
    #[inline(always)]
    pub fn thread(&self, index: usize) -> &ThreadWord {
        &self.threads[index & (MAX_THREADS - 1)]
    }

    /// The tasks.
    #[inline(always)]
    pub fn tasks(&self) -> &[TaskShared; MAX_TASKS] {
        &self.tasks.0
    }

    /// The task of a valid index.
    #[inline(always)]
    pub fn task(&self, index: usize) -> &TaskShared {
        &self.tasks.0[index & (MAX_TASKS - 1)]
    }
}

/// The pages, counted from [`window::SHARED`], that a system of this size needs.
pub fn pages(threads: usize, tasks: usize) -> impl Iterator<Item = u64> {
    let parts = [
        (0, offset_of!(Shared, sealed) + 1),
        (offset_of!(Shared, threads), threads * size_of::<ThreadWord>()),
        (offset_of!(Shared, tasks), tasks * size_of::<TaskShared>()),
    ];
    let mut next = 0;
    parts.into_iter().flat_map(move |(offset, len)| {
        // The first words of a part may share the last page of the one before.
        let first = next.max(offset as u64 / PAGE);
        next = ((offset + len) as u64).div_ceil(PAGE);
        first..next
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
        let word = unsafe { &raw mut (*shared).threads[index] };
        // SAFETY: as above.
        unsafe { word.write(ThreadWord::new()) };
    }
}

impl TaskShared {
    /// Stores a fault record, return addresses and all; the parking word publishes it.
    #[inline]
    pub fn set_record(&self, fault: &Fault, backtrace: impl Iterator<Item = u64>) {
        let [kind, thread, rip, address, error, rsp, reason, detail, core, tsc, rest @ ..] =
            &self.record;
        kind.store(fault.kind, Ordering::Relaxed);
        thread.store(fault.thread, Ordering::Relaxed);
        rip.store(fault.rip, Ordering::Relaxed);
        address.store(fault.address, Ordering::Relaxed);
        error.store(fault.error, Ordering::Relaxed);
        rsp.store(fault.rsp, Ordering::Relaxed);
        reason.store(fault.reason, Ordering::Relaxed);
        detail.store(fault.detail, Ordering::Relaxed);
        core.store(fault.core, Ordering::Relaxed);
        tsc.store(fault.tsc, Ordering::Relaxed);
        let mut rest = rest.iter();
        // The addresses come first in the pair: a chain that ends must not use up a word.
        let pairs = backtrace.zip(rest.by_ref().take(BACKTRACE_LEN));
        pairs.for_each(|(from, to)| to.store(from, Ordering::Relaxed));
        rest.take(1).for_each(|end| end.store(0, Ordering::Relaxed));
    }

    /// Counts what the IOMMU has refused: its source, address and reason. How often it has.
    pub fn set_refused(&self, what: [u64; 3]) -> u64 {
        let [count, words @ ..] = &self.refused;
        words.iter().zip(what).for_each(|(to, from)| to.store(from, Ordering::Relaxed));
        count.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn word(&self, index: usize) -> u64 {
        self.record.get(index).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Four return addresses; behind the zero that ends them only zeros.
    fn addresses(&self, group: usize) -> [u64; 4] {
        let chain = (HEAD..RECORD_WORDS).map(|n| self.word(n)).take_while(|&word| word != 0);
        let mut chain = chain.skip(group * 4);
        core::array::from_fn(|_| chain.next().unwrap_or(0))
    }

    /// The four words of `fault_info` with this index, `None` beyond the record.
    pub fn info(&self, index: u64) -> Option<[u64; 4]> {
        Some(match index {
            0 => {
                let state = self.park.state() as u64;
                [state, self.word(0), self.word(1), u64::from(self.park.generation())]
            }
            1 | 2 => core::array::from_fn(|word| self.word(index as usize * 4 - 2 + word)),
            3..=6 => self.addresses(index as usize - 3),
            DMA_INDEX => core::array::from_fn(|word| self.refused[word].load(Ordering::Relaxed)),
            _ => return None,
        })
    }
}
