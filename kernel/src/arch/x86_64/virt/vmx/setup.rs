//! VMX before the first entry: what the CPU can do, switching it on, and a vCPU's state after INIT.
//!
//! The controls here are what keeps a guest in: `vmx.rs` changes only the few that follow an
//! interrupt, a step or the debug registers. Invariant: every field that an entry looks at is
//! written by [`reset`], so nothing of the page's earlier use is ever loaded.

use super::state::load_segment;
use super::{
    Block, CR0_NE, CR4_VMXE, EXCEPTIONS, INTERRUPT_WINDOW, NMI_WINDOW, block, vmx_exit, write,
};
use crate::arch::x86_64::virt::Own;
use crate::arch::x86_64::{cpu, descriptors, frame, paging, window};
use cloister_abi::layout::FRAME;
use cloister_abi::vcpu::Segment;
use core::arch::asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering};
use x86::controlregs;
use x86::msr::{rdmsr, wrmsr};
use x86::vmx::vmcs::{control, guest, host};

const FEATURE_CONTROL: u32 = 0x3a;
/// The first of the MSRs that say what controls can be (SDM, "VMX Capability Reporting Facility").
const BASIC: u32 = 0x480;
const MISC: u32 = 0x485;
const SECONDARY_CAN: u32 = 0x48b;
const EPT_CAN: u32 = 0x48c;
const PIN_CAN: u32 = 0x48d;
const PRIMARY_CAN: u32 = 0x48e;
const EXIT_CAN: u32 = 0x48f;
const ENTRY_CAN: u32 = 0x490;

/// Interrupts and NMIs leave the guest, whose own NMIs are virtual.
const PIN: u64 = 1 | 1 << 3 | 1 << 5;
/// The timer is a backstop: Bochs lets no interrupt end the turn of a guest with interrupts off.
const PIN_TIMER: u64 = 1 << 6;
/// TSC offset, HLT, MWAIT, RDPMC, TPR shadow, debug registers, ports, MSR bitmaps, MONITOR, and
/// the second word.
const PRIMARY: u64 = 1 << 3 | 1 << 7 | 1 << 10 | 1 << 11 | 1 << 21 | 1 << 23 | 1 << 24 | 11 << 28;
/// Nested tables, RDTSCP, identifiers, WBINVD, real mode.
const SECONDARY: u64 = 1 << 1 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7;
/// Debug controls, 64-bit host, PAT and EFER both ways.
const EXIT: u64 = 1 << 2 | 1 << 9 | 0xf << 18;
const ENTRY: u64 = 1 << 2 | 1 << 14 | 1 << 15;
const ENTRY_LONG_MODE: u64 = 1 << 9;
/// Walks of four levels, write-back, 2 MiB and 1 GiB pages; INVEPT and INVVPID of one context.
const EPT_NEEDS: u64 = 1 << 6 | 1 << 14 | 3 << 16 | 1 << 20 | 1 << 25 | 1 << 32 | 1 << 41;
/// STAR, LSTAR, CSTAR, SFMASK, KernelGSbase: they have no fields of their own.
const SWAPPED: [u32; super::SWAPPED] =
    [0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084, 0xc000_0102];
/// How long a guest may run before the backstop, in the timer's own units.
static TURN: AtomicU32 = AtomicU32::new(0);

/// Reads a register that says what VMX can do.
fn capability(register: u32) -> u64 {
    // SAFETY: exists where CPUID offers VMX, which `is_there` looks at first.
    unsafe { rdmsr(register) }
}

/// The controls that are wanted, those that must be, none that cannot be.
fn possible(register: u32, wanted: u64) -> u64 {
    let can = capability(register);
    (wanted | can & 0xffff_ffff) & can >> 32
}

/// The entry's controls. It is told whether the guest is in long mode beside CR0 and EFER.
pub fn entry_controls(long: bool) -> u64 {
    possible(ENTRY_CAN, if long { ENTRY | ENTRY_LONG_MODE } else { ENTRY })
}

/// Whether this CPU has all that is needed, and the firmware has not locked it away.
pub fn is_there() -> bool {
    if cpu::cpuid(1, 0).ecx & 1 << 5 == 0 {
        return false;
    }
    let all = |register, wanted| possible(register, wanted) & wanted == wanted;
    // Locked without the bit for VMX outside SMX.
    capability(FEATURE_CONTROL) & 5 != 1
        && capability(BASIC) >> 55 & 1 != 0
        && all(PIN_CAN, PIN)
        && all(PRIMARY_CAN, PRIMARY | INTERRUPT_WINDOW | NMI_WINDOW)
        && all(SECONDARY_CAN, SECONDARY)
        && all(EXIT_CAN, EXIT)
        && all(ENTRY_CAN, ENTRY)
        && capability(EPT_CAN) & EPT_NEEDS == EPT_NEEDS
}

/// The first word of the pages that belong to the CPU.
pub fn page_format() -> u32 {
    capability(BASIC) as u32 & 0x7fff_ffff
}

/// Prepares the page of a [`Block`], which is just carved.
pub fn block_page(page: u64) -> u64 {
    // SAFETY: the boot code's map of physical memory; nobody else uses the page.
    unsafe { paging::page::<Block>(page) }.physical = page;
    page
}

/// Turns VMX on on this core.
///
/// # Safety
/// `page` is a physical page with [`page_format`] that nobody else uses.
pub unsafe fn enable(page: u64, tsc_hz: u64) {
    let control = capability(FEATURE_CONTROL);
    if control & 1 == 0 {
        // SAFETY: the register exists with VMX and is not locked.
        unsafe { wrmsr(FEATURE_CONTROL, control | 5) };
    }
    // SAFETY: the kernel runs in ring 0.
    let cr4 = unsafe { controlregs::cr4() };
    // SAFETY: VMX is there; the other bits stay.
    unsafe { controlregs::cr4_write(cr4 | controlregs::Cr4::CR4_ENABLE_VMX) };
    // SAFETY: the caller's condition.
    let result = unsafe { x86::bits64::vmx::vmxon(page) };
    assert!(result.is_ok(), "this core refuses VMXON");
    // Seldom enough to cost nothing, often enough to be harmless where it is needed.
    let millisecond = tsc_hz / 1000;
    TURN.store((millisecond >> (capability(MISC) & 31)) as u32, Ordering::Relaxed);
}

/// The MSR bitmap: everything is intercepted but what is switched, and the barrier command.
pub fn fill_permissions(map: &mut [u8], ibpb: bool) {
    map.fill(0xff);
    let mut pass = |msr: u32, write_only: bool| {
        let high = if msr >= 0xc000_0000 { 0x400 } else { 0 };
        let (at, bit) = ((msr & 0x1fff) as usize / 8, 1 << (msr % 8));
        if !write_only {
            map[high + at] &= !bit;
        }
        map[0x800 + high + at] &= !bit;
    };
    for msr in (0x174..=0x176).chain(SWAPPED).chain([0xc000_0100, 0xc000_0101]) {
        pass(msr, false);
    }
    if ibpb {
        pass(0x49, true);
    }
}

/// Makes the loaded vCPU's control structure the current one.
pub fn arrive(own: &Own) {
    // SAFETY: the page has the CPU's format and belongs to this vCPU, which never leaves its core.
    let result = unsafe { x86::bits64::vmx::vmptrld(own.control) };
    assert!(result.is_ok(), "the control structure at {:#x} is damaged", own.control);
}

/// The state after INIT, with everything intercepted and nothing cached.
pub fn reset(own: &mut Own) {
    // SAFETY: as in `arrive`.
    let result = unsafe { x86::bits64::vmx::vmclear(own.control) };
    assert!(result.is_ok(), "the control structure at {:#x} cannot be cleared", own.control);
    arrive(own);
    let block = block();
    (block.launched, block.refused) = (false, false);
    (block.apic, block.cr2, block.dr6) = ([0; _], 0, 0xffff_0ff0);
    (block.event, block.held, block.waiting) = (0, 0, 0);
    block.primary = possible(PRIMARY_CAN, PRIMARY);
    reset_controls(own, block);
    reset_host(block);
    for (index, at) in (0..8).map(|index| (index, 2 * index as u32)) {
        for field in [guest::ES_SELECTOR, guest::ES_LIMIT, guest::ES_BASE] {
            write(field + at, 0);
        }
        load_segment(index, Segment::default());
    }
    for field in [
        guest::GDTR_LIMIT,
        guest::IDTR_LIMIT,
        guest::GDTR_BASE,
        guest::IDTR_BASE,
        guest::CR3,
        guest::RSP,
        guest::RIP,
        guest::INTERRUPTIBILITY_STATE,
        guest::ACTIVITY_STATE,
        guest::PENDING_DBG_EXCEPTIONS,
        guest::IA32_DEBUGCTL_FULL,
        guest::IA32_SYSENTER_CS,
        guest::IA32_SYSENTER_ESP,
        guest::IA32_SYSENTER_EIP,
        guest::IA32_EFER_FULL,
        control::CR0_READ_SHADOW,
        control::CR4_READ_SHADOW,
    ] {
        write(field, 0);
    }
    for (field, value) in [
        (guest::LINK_PTR_FULL, u64::MAX),
        (guest::CR0, 0x10 | CR0_NE),
        (guest::CR4, CR4_VMXE),
        (guest::DR7, 0x400),
        (guest::RFLAGS, 2),
        (guest::IA32_PAT_FULL, 0x0007_0406_0007_0406),
    ] {
        write(field, value);
    }
    flush(own);
}

/// What the guest does by itself, and what not.
fn reset_controls(own: &Own, block: &mut Block) {
    let at = |offset: usize| block.physical + offset as u64;
    let count = SWAPPED.len() as u64;
    let (ours, theirs) = (at(offset_of!(Block, host_msrs)), at(offset_of!(Block, guest_msrs)));
    for (field, value) in [
        (control::VPID, u64::from(own.asid)),
        (control::EPTP_FULL, pointer(own)),
        (control::MSR_BITMAPS_ADDR_FULL, own.msrs),
        (control::VIRT_APIC_ADDR_FULL, block.physical),
        (control::TSC_OFFSET_FULL, 0),
        (control::PINBASED_EXEC_CONTROLS, possible(PIN_CAN, PIN | PIN_TIMER)),
        (control::PRIMARY_PROCBASED_EXEC_CONTROLS, block.primary),
        (control::SECONDARY_PROCBASED_EXEC_CONTROLS, possible(SECONDARY_CAN, SECONDARY)),
        (control::VMEXIT_CONTROLS, possible(EXIT_CAN, EXIT)),
        (control::VMENTRY_CONTROLS, entry_controls(false)),
        (control::EXCEPTION_BITMAP, EXCEPTIONS),
        (control::PAGE_FAULT_ERR_CODE_MASK, 0),
        (control::PAGE_FAULT_ERR_CODE_MATCH, 0),
        (control::CR3_TARGET_COUNT, 0),
        (control::TPR_THRESHOLD, 0),
        (control::VMENTRY_INTERRUPTION_INFO_FIELD, 0),
        (control::CR0_GUEST_HOST_MASK, CR0_NE),
        (control::CR4_GUEST_HOST_MASK, CR4_VMXE),
        (control::VMEXIT_MSR_STORE_ADDR_FULL, theirs),
        (control::VMEXIT_MSR_STORE_COUNT, count),
        (control::VMENTRY_MSR_LOAD_ADDR_FULL, theirs),
        (control::VMENTRY_MSR_LOAD_COUNT, count),
        (control::VMEXIT_MSR_LOAD_ADDR_FULL, ours),
        (control::VMEXIT_MSR_LOAD_COUNT, count),
        (guest::VMX_PREEMPTION_TIMER_VALUE, u64::from(TURN.load(Ordering::Relaxed))),
    ] {
        write(field, value);
    }
}

/// The kernel as every exit finds it: as it is now, in the thread's own space.
fn reset_host(block: &mut Block) {
    for (index, register) in SWAPPED.into_iter().enumerate() {
        block.guest_msrs[index] = [u64::from(register), 0];
        // SAFETY: long mode has these registers.
        block.host_msrs[index] = [u64::from(register), unsafe { rdmsr(register) }];
    }
    block.gdt_pointer = [(size_of::<descriptors::Gdt>() as u64 - 1) << 48, window::CORE];
    // SAFETY: the kernel runs in ring 0.
    let cr0 = unsafe { controlregs::cr0() };
    // SAFETY: as above.
    let cr3 = unsafe { controlregs::cr3() };
    // SAFETY: as above.
    let cr4 = unsafe { controlregs::cr4() };
    // SAFETY: exists in long mode.
    let efer = unsafe { rdmsr(x86::msr::IA32_EFER) };
    // SAFETY: every CPU with VMX has it.
    let pat = unsafe { rdmsr(x86::msr::IA32_PAT) };
    let exit: unsafe extern "C" fn() = vmx_exit;
    for (field, value) in [
        (host::CR0, cr0.bits() as u64),
        (host::CR3, cr3),
        (host::CR4, cr4.bits() as u64),
        (host::IA32_EFER_FULL, efer),
        (host::IA32_PAT_FULL, pat),
        (host::CS_SELECTOR, 0x08),
        (host::SS_SELECTOR, 0x10),
        (host::DS_SELECTOR, 0),
        (host::ES_SELECTOR, 0),
        (host::FS_SELECTOR, 0),
        (host::GS_SELECTOR, 0),
        (host::TR_SELECTOR, u64::from(descriptors::TSS_SELECTOR)),
        (host::FS_BASE, 0),
        (host::GS_BASE, 0),
        (host::TR_BASE, FRAME + frame::TSS),
        (host::GDTR_BASE, window::CORE),
        (host::IDTR_BASE, window::IDT),
        (host::IA32_SYSENTER_CS, 0),
        (host::IA32_SYSENTER_ESP, 0),
        (host::IA32_SYSENTER_EIP, 0),
        (host::RSP, window::STACK_TOP),
        (host::RIP, exit as *const () as u64),
    ] {
        write(field, value);
    }
}

/// The nested tables' root: write-back, four levels.
fn pointer(own: &Own) -> u64 {
    own.nested | 3 << 3 | 6
}

/// Empties this vCPU's translation caches at once: it never runs on another core.
pub fn flush(own: &mut Own) {
    let tables = [pointer(own), 0];
    // SAFETY: one context, of the type that `is_there` has seen; nothing but caches changes.
    unsafe { asm!("invept {}, [{}]", in(reg) 1_u64, in(reg) &tables, options(nostack)) };
    let identifier = [u64::from(own.asid), 0];
    // SAFETY: as above.
    unsafe { asm!("invvpid {}, [{}]", in(reg) 1_u64, in(reg) &identifier, options(nostack)) };
    block().flushed = true;
}
