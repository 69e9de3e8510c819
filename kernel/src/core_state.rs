//! What one core owns: its scheduler, its threads, its clock.
//!
//! [`Core`] lies at a fixed address of the core's window, so the entry code finds it without a
//! register. Only its own core ever touches it after the seal; the boot core fills all of them.

use crate::arch::x86_64::clock::Clock;
use crate::arch::x86_64::cpu::Features;
use crate::arch::x86_64::descriptors::Gdt;
use crate::arch::x86_64::ioapic::{IoApics, Route};
use crate::arch::x86_64::virt::Vendor;
use crate::arch::x86_64::window;
use cloister_abi::call::Status;
use cloister_abi::layout::{MAX_IRQS, MAX_THREADS, MAX_THREADS_PER_CORE};
use cloister_abi::table::Cap;
use cloister_core::park::ThreadPark;
use cloister_core::sched::Sched;
use cloister_core::table::Table;
use core::mem::offset_of;
use core::sync::atomic::AtomicU64;

/// "No thread" among a core's threads.
pub const NOBODY: u32 = u32::MAX;

/// In [`Thread::flags`]: it sleeps in a wait; `deadline` and `mask` are valid until it has a result.
pub const WAITS: u8 = 1;
/// In [`Thread::flags`]: the wait is over, `status` and `value` are valid.
pub const RESULT: u8 = 2;
/// In [`Thread::flags`]: its registers are to be set to the start state when it runs next.
pub const RESET: u8 = 4;
/// In [`Thread::flags`]: it is in its guest and goes on there and not in ring 3, unless it has a
/// result.
pub const GUEST: u8 = 8;

/// In [`Thread::kind`]: it has extended state, of its own or of its guest.
pub const EXTENDED: u16 = 1 << 8;

/// A thread, as its core knows it. Its registers are in its frame, in its own address space. The
/// alignment makes an index one shift.
#[derive(Clone, Copy, Default)]
#[repr(align(128))]
pub struct Thread {
    /// Top page table of its address space.
    pub cr3: u64,
    /// Its capabilities.
    pub caps: &'static [Cap],
    /// Value of the system call in which it sleeps, valid together with [`Thread::status`].
    pub value: u64,
    /// The deadline of the wait in which it sleeps, for a `resume` in the middle of it.
    pub deadline: u64,
    /// The mask of that wait; 0 is a mask too, of a plain sleep.
    pub mask: u64,
    /// Its part in the parking protocol.
    pub park: ThreadPark,
    /// Its index in the system table.
    pub global: u16,
    /// Its task's index in the system table.
    pub task: u16,
    /// Status of the system call in which it sleeps, written to its frame when it runs again.
    pub status: Status,
    /// What becomes of it when it runs next: [`WAITS`], [`RESULT`], [`RESET`], [`GUEST`]. In one
    /// word, so that the switch has one test for what is ordinary.
    pub flags: u8,
    /// Its task's role.
    pub role: u8,
    /// Its trust domain and [`EXTENDED`]: a switch between threads of one kind without extended
    /// state changes the address space and nothing else.
    pub kind: u16,
    /// Its virtual CPU's index in the system table, `NONE` without one.
    pub vcpu: u16,
    /// By which extension it runs its virtual CPU, once a call with `run_slot` was found right.
    pub runs: Option<Vendor>,
    /// The capability slot of that call. Capabilities never change.
    pub run_slot: u64,
}

impl Thread {
    /// Sets what its system call returns.
    #[inline]
    pub fn set_result(&mut self, status: Status, value: u64) {
        (self.status, self.value) = (status, value);
        self.flags |= RESULT;
    }
}

/// A thread's core and its rank there, and the next thread of its task. The alignment makes it one
/// word to read.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(4))]
pub struct Place {
    /// The core.
    pub core: u8,
    /// The rank.
    pub rank: u8,
    /// Another thread of the same task, [`LAST`] for none.
    pub next: u8,
}

/// Ends the chain of a task's threads.
pub const LAST: u8 = u8::MAX;

const _: () = assert!(MAX_THREADS <= LAST as usize);

/// The flow of one interrupt, on the core that gets it.
#[derive(Clone, Copy, Debug, Default)]
pub struct IrqState {
    /// How its pin is wired, once it is known; on core 0.
    pub route: Option<Route>,
    /// Start of the current second of counting, in TSC ticks.
    pub window: u64,
    /// Interrupts in it.
    pub count: u32,
    /// Came too often: masked for good until its owner is restarted.
    pub stopped: bool,
}

/// One core's objects.
#[repr(C)]
pub struct Core {
    /// The segment table; first, so that it is aligned.
    pub gdt: Gdt,
    /// Non-maskable interrupts seen; written by their handler alone.
    pub nmi_count: AtomicU64,
    /// Physical address of what VMLOAD restores of the kernel's own state; 0 without guests.
    pub host_block: u64,
    /// Physical address of the page where VMRUN saves the kernel's state.
    pub host_save: u64,
    /// The thread that runs, as a rank; [`NOBODY`] while the core idles.
    pub current: u32,
    /// The current thread's capabilities.
    pub caps: &'static [Cap],
    /// The thread whose address space is loaded.
    pub loaded: u32,
    /// When the current thread was put on the CPU.
    pub since: u64,
    /// When the timer will fire; `NEVER` if it is not armed.
    pub armed: u64,
    /// The scheduler.
    pub sched: Sched,
    /// Number of threads.
    pub count: u32,
    /// This core's index.
    pub index: u32,
    /// Where each thread of the system lives.
    pub places: [Place; MAX_THREADS],
    /// This core's APIC id.
    pub apic_id: u32,
    /// The threads have been started: the seal was seen.
    pub started: bool,
    /// The clock's ratios.
    pub clock: Clock,
    /// CPU features.
    pub features: Features,
    /// Switches between trust domains, for which the barriers ran.
    pub barriers: u64,
    /// NMIs already reported.
    pub nmi_reported: u64,
    /// The system table.
    pub table: Table<'static>,
    /// The threads, by rank.
    pub threads: [Thread; MAX_THREADS_PER_CORE],
    /// The IOAPICs; core 0 only.
    pub ioapics: IoApics,
    /// The interrupts, as far as this core gets them.
    pub irqs: [IrqState; MAX_IRQS],
}

/// Where the NMI handler counts.
pub const NMI_COUNT_OFFSET: u64 = offset_of!(Core, nmi_count) as u64;
/// Where it finds out who it is.
pub const APIC_ID_OFFSET: u64 = offset_of!(Core, apic_id) as u64;

/// Where the entry code finds [`Core::host_block`].
pub const HOST_BLOCK_OFFSET: u64 = offset_of!(Core, host_block) as u64;

const _: () = assert!(window::CORE + size_of::<Core>() as u64 <= crate::klog::LOG_STATE);

/// This core's objects.
///
/// # Safety
/// Called once per kernel entry, by the entry function, which passes the reference on; a thread's
/// address space is loaded.
#[inline(always)]
pub unsafe fn this_core() -> &'static mut Core {
    // SAFETY: the window maps this core's initialised objects here; interrupts are off, and
    // nothing is left of the entry before, so no other reference is alive.
    unsafe { &mut *(window::CORE as *mut Core) }
}

impl Core {
    /// How the pin of a platform device's interrupt is wired: an ISA pin without an override by the
    /// same number, edge triggered, active high.
    pub fn route_of(&mut self, index: usize) -> Route {
        let gsi = self.table.irqs[index].pin;
        *self.irqs[index].route.get_or_insert(Route { gsi, low: false, level: false })
    }

    /// The thread of a rank; ranks come from the scheduler or from [`Core::places`].
    #[inline(always)]
    pub fn thread(&mut self, rank: u32) -> &mut Thread {
        &mut self.threads[rank as usize & (MAX_THREADS_PER_CORE - 1)]
    }

    /// Where a thread lives.
    #[inline(always)]
    pub fn place(&self, global: usize) -> Place {
        self.places[global & (MAX_THREADS - 1)]
    }
}
