//! Virtual CPUs: the one interface behind which AMD SVM and Intel VMX stand.
//!
//! [`Own`] is what the kernel keeps of a vCPU, in the frame of the thread that runs it, so it is
//! mapped only while that thread's space is loaded. `crate::vcpu` decides when a guest runs; this
//! module loads what the monitor asked for ([`load`]), enters ([`enter`]), and turns the vendor's
//! exits into those of `abi::vcpu`. Page slots, debug registers and extended state are handled
//! here, the same for both vendors.
//!
//! Invariant: a change of a nested entry is followed by a flush before the next entry, which the
//! flush checker watches; docs/reviews/0002-guest-flushes.md has the argument.

pub mod nested;
mod svm;
mod vmx;

use super::cpu::{self, Features};
use super::{descriptors, window};
use crate::core_state::{Core, RESULT};
use crate::flush;
use crate::shared::shared;
use crate::syscall::wake;
use cloister_abi::layout::{FRAME, GUEST_DEVICES, MAX_THREADS, PAGE};
use cloister_abi::table::Doorbell;
use cloister_abi::vcpu::{self as abi, SLOT_WRITE, SLOTS, VcpuState};
use cloister_core::signal::ThreadWord;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Where [`Own`] is: in the frame, between the XSAVE area and the registers.
pub const OWN: u64 = FRAME + 0x400;
/// The kernel's view of the shared page.
pub const STATE: u64 = window::CONTROL + PAGE;
/// Nested tables of the device pages, one behind the other.
const TABLES: u64 = window::CONTROL + 2 * PAGE;
/// The doorbell counters.
const BELLS: u64 = window::CONTROL + 4 * PAGE;
/// Device pages.
const DEVICE_PAGES: usize = ((GUEST_DEVICES.end - GUEST_DEVICES.start) / PAGE) as usize;

/// A step is under way.
const STEPPING: u8 = 1;
/// The next exit writes everything.
const WANT_ALL: u8 = 2;

/// What the kernel keeps of a vCPU.
#[repr(C)]
pub struct Own {
    /// Physical address of the control block; first, where the entry code looks.
    pub control: u64,
    /// Root of the nested tables.
    pub nested: u64,
    /// Physical address of the I/O permission map.
    pub ports: u64,
    /// Physical address of the MSR permission map.
    pub msrs: u64,
    /// Physical addresses of the slots.
    pub slots: [u64; SLOTS],
    /// The virtual machine's doorbells, by port.
    pub bells: &'static [Doorbell],
    /// The first doorbell's port, and what the last one's is above it.
    bell_ports: [u16; 2],
    /// The thread's signal word.
    pub word: &'static ThreadWord,
    /// Its index in the system table.
    pub index: u32,
    /// Address space identifier.
    pub asid: u32,
    /// A flush can name the identifier.
    by_identifier: bool,
    /// The CPU tells the next instruction pointer.
    next_rip: bool,
    /// [`STEPPING`], [`WANT_ALL`].
    flags: u8,
    /// Before the step: the guest's own trap flag.
    step_trap: bool,
    /// The debug registers hold the guest's values.
    debug_live: bool,
    /// A nested entry has changed since the last flush was asked for; for the flush checker.
    stale: bool,
    /// The step holds a waiting interrupt.
    step_holds: bool,
    /// Before the step: DR6.
    step_dr6: u64,
    /// Entries that slots have taken the place of: index and old value, so many of them.
    armed: [(usize, u64); SLOTS],
    armed_count: u32,
    debug: [u64; 4],
    xcr0: u64,
    tsc_aux: u32,
}

const _: () = assert!(size_of::<Own>() <= 0x800);
const _: () = assert!(size_of::<VcpuState>() <= PAGE as usize);

/// What is to be done after a guest's turn; the entry code knows the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Outcome {
    /// The monitor is told.
    Monitor = 0,
    /// A thread is to be chosen anew; the guest goes on later.
    Reschedule = 1,
    /// The guest goes on at once.
    Again = 2,
    /// A host interrupt is pending.
    Interrupt = 3,
}

/// The vCPU of the thread whose address space is loaded.
///
/// # Safety
/// That thread has a vCPU, and no other such reference is in use.
#[inline(always)]
pub unsafe fn own() -> &'static mut Own {
    // SAFETY: the frame is mapped there; `init` has filled it before the thread's first run.
    unsafe { &mut *(OWN as *mut Own) }
}

#[inline(always)]
fn state() -> &'static mut VcpuState {
    // SAFETY: mapped for every thread with a vCPU, whose space is loaded. The monitor's threads
    // can write the page at any time: everything is read once, through `fetch`.
    unsafe { &mut *(STATE as *mut VcpuState) }
}

/// Reads what a monitor may be changing: once, whatever the optimizer thinks.
#[inline(always)]
fn fetch<T: Copy>(at: &T) -> T {
    // SAFETY: a reference is valid and aligned; all types here are plain integers.
    unsafe { core::ptr::from_ref(at).read_volatile() }
}

fn tables() -> &'static mut [u64; DEVICE_PAGES] {
    // SAFETY: two tables, mapped one behind the other for every thread with a vCPU; the one
    // reference is used within a function.
    unsafe { &mut *(TABLES as *mut [u64; DEVICE_PAGES]) }
}

/// The extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// AMD's.
    Svm,
    /// Intel's.
    Vmx,
}

/// Guests run by VMX, not by SVM. Written before there is a guest.
static VMX: AtomicBool = AtomicBool::new(false);

/// Whether guests run by VMX.
#[inline(always)]
fn is_vmx() -> bool {
    VMX.load(Ordering::Relaxed)
}

/// By which extension guests run.
pub fn vendor() -> Vendor {
    if is_vmx() { Vendor::Vmx } else { Vendor::Svm }
}

/// Calls the function of this name of the vendor's module. What happens at every exit is compiled
/// once for each vendor instead: `by VMX` is then a constant.
macro_rules! vendor {
    ($name:ident($($argument:expr),*)) => { vendor!($name($($argument),*) by is_vmx()) };
    ($name:ident($($argument:expr),*) by $vmx:expr) => {
        if $vmx { vmx::$name($($argument),*) } else { svm::$name($($argument),*) }
    };
}

/// Whether this CPU can run guests; decides by which extension.
pub fn is_there() -> bool {
    let is_svm = svm::is_there();
    let is_vmx = !is_svm && vmx::is_there();
    VMX.store(is_vmx, Ordering::Relaxed);
    is_svm || is_vmx
}

/// Address space identifiers, without the host's.
pub fn identifiers() -> u32 {
    // VPIDs have 16 bits (Intel SDM, "Virtual-Processor Identifiers").
    if is_vmx() { 0xffff } else { svm::identifiers() }
}

/// The first word of every page that the CPU keeps for itself.
pub fn page_format() -> u32 {
    if is_vmx() { vmx::page_format() } else { 0 }
}

/// The page that is mapped at [`window::CONTROL`] for a vCPU with this control block: the block
/// itself, or for VMX, whose block only the CPU may touch, one of the kernel's own.
pub fn block_page(control: u64, carve: impl FnOnce() -> u64) -> u64 {
    if is_vmx() { vmx::block_page(carve()) } else { control }
}

/// Fills the MSR permission map.
pub fn fill_permissions(map: &mut [u8; 2 * PAGE as usize], ibpb: bool) {
    vendor!(fill_permissions(map, ibpb));
}

/// Turns the extension on on this core.
///
/// # Safety
/// The core's two pages have [`page_format`] and nobody else uses them; its task register is
/// loaded.
pub unsafe fn enable(core: &Core) {
    if is_vmx() {
        // SAFETY: the caller's condition.
        unsafe { vmx::enable(core.host_save, core.clock.tsc_hz) }
    } else {
        // SAFETY: the caller's condition.
        unsafe { svm::enable(core.host_save, core.host_block) }
    }
}

/// Puts the vCPU of the loaded thread into its state after a reset of the machine.
pub fn reset(own: &mut Own) {
    if is_vmx() {
        disarm::<true>(own)
    } else {
        disarm::<false>(own)
    };
    own.flags = 0;
    own.debug = [0; 4];
    if own.debug_live {
        own.load_debug_registers();
    }
    own.xcr0 = 1;
    own.tsc_aux = 0;
    // An earlier life's translations are as stale as those of a changed entry.
    own.note_change();
    vendor!(reset(own));
}

/// Loads what the monitor asks for, before the guest's turn.
#[inline(always)]
pub fn load<const VMX: bool>(core: &mut Core, own: &mut Own) {
    let state = state();
    let set = fetch(&state.set);
    if set & !abi::SET_INTERRUPT == 0 {
        vendor!(apply_always(state) by VMX);
        if set != 0 {
            state.set = 0;
            if own.is_stepping() {
                end_step(own);
            }
            vendor!(set_interrupt(fetch(&state.interrupt)) by VMX);
        }
    } else {
        state.set = 0;
        if set == abi::STEP && !own.is_stepping() {
            load_step::<VMX>(own, state);
        } else {
            load_groups(core, own, set, state);
        }
    }
}

/// A step and nothing else, as an access to a device page asks for.
#[inline(never)]
fn load_step<const VMX: bool>(own: &mut Own, state: &VcpuState) {
    vendor!(apply_always(state) by VMX);
    step::<VMX>(own, state);
}

#[inline(always)]
fn step<const VMX: bool>(own: &mut Own, state: &VcpuState) {
    let [first, second] = fetch(&state.slots);
    if first | second != 0 {
        arm::<VMX>(own, first, second);
    }
    vendor!(begin_step(own) by VMX);
    own.flags |= STEPPING;
}

#[inline(never)]
fn load_groups(core: &mut Core, own: &mut Own, set: u32, state: &VcpuState) {
    if own.is_stepping() {
        // A step that was interrupted by a signal is begun anew, or given up.
        end_step(own);
    }
    if set & abi::RESET != 0 {
        reset(own);
        arrive(core, own);
    }
    vendor!(apply_always(state));
    vendor!(apply(set, state));
    if set & abi::SET_INTERRUPT != 0 {
        vendor!(set_interrupt(fetch(&state.interrupt)));
    }
    if set & (abi::SET_XCR0 | abi::SET_TSC) != 0 {
        let xcr0 = fetch(&state.xcr0);
        let host = core.features.xcr0();
        // What the architecture allows ("XSETBV": x87 always, AVX needs SSE), within the host's.
        let sane = xcr0 & 1 != 0 && xcr0 & !host == 0 && xcr0 & 6 != 4;
        if set & abi::SET_XCR0 != 0 && sane {
            own.xcr0 = xcr0;
        }
        if set & abi::SET_TSC != 0 {
            own.tsc_aux = fetch(&state.tsc_aux);
        }
        arrive(core, own);
    }
    own.flags = if set & abi::WANT_ALL != 0 { WANT_ALL } else { 0 };
    if set & abi::STEP != 0 {
        if is_vmx() {
            step::<true>(own, state)
        } else {
            step::<false>(own, state)
        };
    }
}

/// Puts the slots in the place of device pages; 0 is no slot.
#[inline(always)]
fn arm<const VMX: bool>(own: &mut Own, first: u64, second: u64) {
    put::<VMX, 0>(own, first);
    own.armed_count = 1;
    if second != 0 {
        put::<VMX, 1>(own, second);
        own.armed_count = 2;
    }
    own.changed::<VMX>();
}

/// Puts slot `N` in the place of a device page. Addresses elsewhere mean nothing.
#[inline(always)]
fn put<const VMX: bool, const N: usize>(own: &mut Own, slot: u64) {
    let index = (slot.wrapping_sub(GUEST_DEVICES.start) / PAGE) as usize;
    own.armed[N].0 = index;
    if let Some(entry) = tables().get_mut(index) {
        own.armed[N].1 = *entry;
        *entry = nested::leaf::<VMX>(own.slots[N], slot & SLOT_WRITE != 0, false);
        own.note_change();
    }
}

/// The opposite of [`put`].
#[inline(always)]
fn take<const N: usize>(own: &mut Own) {
    let (index, old) = own.armed[N];
    if let Some(entry) = tables().get_mut(index) {
        *entry = old;
        own.note_change();
    }
}

/// Gives device pages their own entries back, in the opposite order.
#[inline(always)]
fn disarm<const VMX: bool>(own: &mut Own) {
    if own.armed_count == 0 {
        return;
    }
    if own.armed_count > 1 {
        take::<1>(own);
    }
    take::<0>(own);
    own.armed_count = 0;
    own.changed::<VMX>();
}

impl Own {
    /// A vCPU before its first [`reset`].
    pub fn new(
        control: u64,
        nested: u64,
        [ports, msrs]: [u64; 2],
        slots: [u64; SLOTS],
        asid: u32,
        bells: &'static [Doorbell],
        (index, thread): (u32, u16),
    ) -> Own {
        Own {
            control,
            nested,
            ports,
            msrs,
            slots,
            bells,
            bell_ports: match bells {
                [first, .., last] => [first.port, last.port - first.port],
                [one] => [one.port, 0],
                [] => [0; 2],
            },
            word: shared().thread(usize::from(thread)),
            index,
            asid,
            by_identifier: false,
            next_rip: false,
            flags: 0,
            step_trap: false,
            debug_live: false,
            stale: false,
            step_holds: false,
            step_dr6: 0,
            armed: [(0, 0); SLOTS],
            armed_count: 0,
            debug: [0; 4],
            xcr0: 1,
            tsc_aux: 0,
        }
    }

    /// A step is under way.
    fn is_stepping(&self) -> bool {
        self.flags & STEPPING != 0
    }

    /// A nested entry changes, and [`Own::changed`] follows: for the flush checker.
    #[inline(always)]
    fn note_change(&mut self) {
        self.stale |= flush::ON;
    }

    /// Nested entries have changed: nothing that the CPU remembers of them is used again.
    #[inline(always)]
    fn changed<const VMX: bool>(&mut self) {
        vendor!(flush(self) by VMX);
    }

    /// The doorbell behind a port.
    #[inline(always)]
    fn bell(&self, port: u16) -> Option<&'static Doorbell> {
        let [first, span] = self.bell_ports;
        if port.wrapping_sub(first) > span {
            return None;
        }
        self.bells.iter().find(|bell| bell.port == port)
    }

    /// The guest wants its debug registers.
    fn load_debug_registers(&mut self) {
        cpu::set_debug_registers(self.debug);
        self.debug_live = true;
        vendor!(open_debug_registers(true));
    }
}

/// Enters the guest; what follows is `kernel_svm_exit` or `kernel_vmx_exit`.
///
/// # Safety
/// The thread whose space is loaded has a vCPU on which [`load`] was called since the last exit
/// to the monitor; no reference to the core or the thread's frame is used afterwards.
pub unsafe fn enter() -> ! {
    if is_vmx() {
        // SAFETY: the caller's conditions.
        unsafe { enter_by::<true>() }
    }
    // SAFETY: the caller's conditions.
    unsafe { enter_by::<false>() }
}

/// [`enter`], where the vendor is known.
///
/// # Safety
/// As for [`enter`].
#[inline(always)]
pub unsafe fn enter_by<const VMX: bool>() -> ! {
    if VMX {
        // SAFETY: the caller's conditions.
        unsafe { vmx::enter() }
    }
    // SAFETY: the caller's conditions.
    unsafe { svm::enter() }
}

/// The last look before an entry; only for the flush checker.
#[inline(always)]
pub fn check(own: &mut Own) {
    if flush::ON {
        assert!(
            !own.stale || vendor!(is_flushed()),
            "flush checker: a nested entry without a flush"
        );
        own.stale = false;
    }
}

/// What came of the guest's turn.
#[inline(always)]
pub fn exit<const VMX: bool>(core: &mut Core, own: &mut Own) -> Outcome {
    vendor!(exit(core, own, state()) by VMX)
}

/// Writes what the monitor sees of an exit; [`exit`] has written why it was.
#[inline(always)]
pub fn tell<const VMX: bool>(own: &mut Own) {
    if own.flags == STEPPING {
        end_step_by::<VMX>(own);
    } else if own.flags != 0 {
        complete(own);
    }
    vendor!(save(state()) by VMX);
}

/// An exit at which everything is told.
#[inline(never)]
fn complete(own: &mut Own) {
    if own.is_stepping() {
        end_step(own);
    }
    vendor!(save_all(state()));
    own.flags = 0;
}

/// The guest's turn ends without an exit: what the monitor sees is what the next entry loads.
pub fn save() {
    vendor!(save(state()));
}

fn end_step(own: &mut Own) {
    if is_vmx() {
        end_step_by::<true>(own)
    } else {
        end_step_by::<false>(own)
    };
}

#[inline(never)]
fn end_step_by<const VMX: bool>(own: &mut Own) {
    vendor!(end_step(own) by VMX);
    disarm::<VMX>(own);
    own.flags &= !STEPPING;
}

/// A guest has rung a doorbell.
#[inline(always)]
fn ring(core: &mut Core, bell: &Doorbell) -> Outcome {
    let at = BELLS + u64::from(bell.counter) * 4;
    // SAFETY: the counters' page is mapped for threads whose machine has doorbells, and the table's
    // rules keep the counter inside it. Workers only read it.
    let counter = unsafe { &*(at as *const AtomicU32) };
    counter.fetch_add(1, Ordering::Release);
    let global = usize::from(bell.thread) & (MAX_THREADS - 1);
    if shared().thread(global).post_bit(u32::from(bell.bit)) {
        return wake_worker(core, global);
    }
    Outcome::Again
}

#[inline(never)]
fn wake_worker(core: &mut Core, global: usize) -> Outcome {
    wake(core, global, cpu::rdtsc());
    let current = core.current;
    // A guest may ring for its own monitor's thread: then its turn is over.
    let is_over = core.thread(current).flags & RESULT != 0;
    if is_over || core.must_choose() { Outcome::Reschedule } else { Outcome::Again }
}

/// A thread with a vCPU is about to leave the CPU: what it has in registers goes into its frame.
pub fn leave(features: &Features, own: &mut Own) {
    if own.debug_live {
        own.debug = cpu::debug_registers();
        own.debug_live = false;
        vendor!(open_debug_registers(false));
    }
    if own.xcr0 != features.xcr0() {
        cpu::set_xcr0(features, features.xcr0());
    }
    if is_vmx() {
        descriptors::reload_task_register();
    }
}

/// A thread with a vCPU was put on the CPU, or its registers changed.
pub fn arrive(core: &Core, own: &mut Own) {
    let [a, b, c, d] = own.debug;
    if a | b | c | d != 0 && !own.debug_live {
        // Its DR7 may enable them.
        own.load_debug_registers();
    }
    cpu::set_xcr0(&core.features, own.xcr0);
    cpu::set_tsc_aux(&core.features, own.tsc_aux);
    if is_vmx() {
        vmx::arrive(own);
    }
}
