//! Intel VMX (Intel SDM volume 3, "Virtual Machine Extensions").
//!
//! The control structure of the loaded vCPU is current on its core and reached by VMREAD and
//! VMWRITE ([`read`], [`write`]); what the CPU keeps nowhere is in [`Block`], mapped at
//! [`window::CONTROL`], which is also the virtual-APIC page. Of a monitor's words only what
//! [`apply`] loads reaches the structure; controls, identifier and nested tables are the kernel's.
//!
//! Invariant: whenever a thread with a vCPU is loaded on a core, its control structure is the
//! current one there ([`arrive`]), so no field access can fail.

use super::{Outcome, Own, fetch};
use crate::arch::x86_64::{cpu, descriptors, frame, paging, window};
use crate::core_state::Core;
use cloister_abi::layout::{FRAME, PAGE};
use cloister_abi::vcpu::{self, Exit, Segment, VcpuState};
use core::arch::{asm, global_asm};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering};
use x86::controlregs;
use x86::msr::{rdmsr, wrmsr};
use x86::vmx::vmcs::{control, guest, host, ro};

global_asm!(
    include_str!("vmx.s"),
    STACK_TOP = const window::STACK_TOP,
    STATE = const super::STATE,
    CR2 = const window::CONTROL + offset_of!(Block, cr2) as u64,
    LAUNCHED = const window::CONTROL + offset_of!(Block, launched) as u64,
    REFUSED = const window::CONTROL + offset_of!(Block, refused) as u64,
    GDT_POINTER = const window::CONTROL + offset_of!(Block, gdt_pointer) as u64 + 6,
);

unsafe extern "C" {
    fn vmx_exit();
}

/// Enters the guest.
///
/// # Safety
/// As for [`super::enter`].
#[inline(always)]
pub unsafe fn enter() -> ! {
    // SAFETY: the caller's conditions; the entry begins on an empty stack.
    unsafe { asm!("jmp vmx_enter", options(noreturn)) }
}

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
const PRIMARY: u64 = 1 << 3 | 1 << 7 | 1 << 10 | 1 << 11 | 1 << 21 | 1 << 23 | 1 << 24 | 13 << 28;
const INTERRUPT_WINDOW: u64 = 1 << 2;
const NMI_WINDOW: u64 = 1 << 22;
const DEBUG_REGISTERS: u64 = 1 << 23;
const MONITOR_TRAP: u64 = 1 << 27;
/// Nested tables, RDTSCP, identifiers, WBINVD, real mode.
const SECONDARY: u64 = 1 << 1 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7;
/// Debug controls, 64-bit host, PAT and EFER both ways.
const EXIT: u64 = 1 << 2 | 1 << 9 | 0xf << 18;
const ENTRY: u64 = 1 << 2 | 1 << 14 | 1 << 15;
const ENTRY_LONG_MODE: u64 = 1 << 9;
/// Walks of four levels, write-back, 2 MiB and 1 GiB pages; INVEPT and INVVPID of one context.
const EPT_NEEDS: u64 = 1 << 6 | 1 << 14 | 3 << 16 | 1 << 20 | 1 << 25 | 1 << 32 | 1 << 41;

/// #DB and #AC, whose endless streams would hold the core for ever, and #MC.
const EXCEPTIONS: u64 = 1 << 1 | 1 << 17 | 1 << 18;
const CR0_NE: u64 = 1 << 5;
const CR4_VMXE: u64 = 1 << 13;
/// SCE, LME, LMA, NXE: what a guest can have.
const EFER_GUEST: u64 = 0xd01;
/// STI's and MOV SS's.
const SHADOW: u64 = 3;
const NMI_BLOCKED: u64 = 1 << 3;
/// In the virtual-APIC page, in words.
const TPR: usize = 0x80 / 4;
/// Segments of the interface, in the order of the fields.
const LDTR: usize = 6;
const TR: usize = 7;
/// STAR, LSTAR, CSTAR, SFMASK, KernelGSbase: they have no fields of their own.
const SWAPPED: [u32; 5] = [0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084, 0xc000_0102];

/// How long a guest may run before the backstop, in the timer's own units.
static TURN: AtomicU32 = AtomicU32::new(0);

/// What the kernel keeps of a vCPU beside the control structure. All zero before the first reset,
/// but `physical`.
#[repr(C)]
pub struct Block {
    /// The virtual-APIC page, as far as the CPU uses it.
    apic: [u32; 0x40],
    /// Number and value of each of [`SWAPPED`]: the guest's, and the kernel's.
    guest_msrs: [[u64; 2]; SWAPPED.len()],
    host_msrs: [[u64; 2]; SWAPPED.len()],
    /// Where this is.
    physical: u64,
    cr2: u64,
    /// While the registers are not the guest's.
    dr6: u64,
    /// What the next entry injects.
    event: u64,
    /// The primary controls.
    primary: u64,
    /// Before the step: the waiting interrupt.
    held: u32,
    /// The waiting interrupt.
    waiting: u32,
    /// Limit in the last two bytes of the first word, then the base.
    gdt_pointer: [u64; 2],
    launched: bool,
    refused: bool,
    flushed: bool,
}

const _: () = assert!(size_of::<Block>() <= PAGE as usize);
const _: () = assert!(offset_of!(Block, guest_msrs) % 16 == 0);

/// The loaded vCPU's block.
#[inline(always)]
fn block() -> &'static mut Block {
    // SAFETY: mapped for every thread with a vCPU, whose space is loaded; each function here uses
    // one reference at a time, and the CPU writes only while a guest runs.
    unsafe { &mut *(window::CONTROL as *mut Block) }
}

#[inline(always)]
fn read(field: u32) -> u64 {
    let value: u64;
    let field = u64::from(field);
    // SAFETY: a control structure is current (the module's invariant), and reading changes nothing.
    unsafe { asm!("vmread {}, {}", out(reg) value, in(reg) field, options(nomem, nostack)) };
    value
}

#[inline(always)]
fn write(field: u32, value: u64) {
    let field = u64::from(field);
    // SAFETY: as for `read`; what the guest's and the controls' fields may hold the entry checks,
    // and the host's are written by `reset` alone.
    unsafe { asm!("vmwrite {}, {}", in(reg) field, in(reg) value, options(nomem, nostack)) };
}

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
        && all(PRIMARY_CAN, PRIMARY | INTERRUPT_WINDOW | NMI_WINDOW | MONITOR_TRAP)
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
    // A millisecond: seldom enough to cost nothing, often enough to be harmless where it is needed.
    TURN.store((tsc_hz / 1000 >> (capability(MISC) & 31)) as u32, Ordering::Relaxed);
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
        guest::GDTR_LIMIT, guest::IDTR_LIMIT, guest::GDTR_BASE, guest::IDTR_BASE, guest::CR3,
        guest::RSP, guest::RIP, guest::INTERRUPTIBILITY_STATE, guest::ACTIVITY_STATE,
        guest::PENDING_DBG_EXCEPTIONS, guest::IA32_DEBUGCTL_FULL, guest::IA32_SYSENTER_CS,
        guest::IA32_SYSENTER_ESP, guest::IA32_SYSENTER_EIP, guest::IA32_EFER_FULL,
        control::CR0_READ_SHADOW, control::CR4_READ_SHADOW,
    ] {
        write(field, 0);
    }
    for (field, value) in [
        (guest::LINK_PTR_FULL, u64::MAX), (guest::CR0, 0x10 | CR0_NE), (guest::CR4, CR4_VMXE),
        (guest::DR7, 0x400), (guest::RFLAGS, 2), (guest::IA32_PAT_FULL, 0x0007_0406_0007_0406),
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
        (control::VMENTRY_CONTROLS, possible(ENTRY_CAN, ENTRY)),
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
        (host::CR0, cr0.bits() as u64), (host::CR3, cr3), (host::CR4, cr4.bits() as u64),
        (host::IA32_EFER_FULL, efer), (host::IA32_PAT_FULL, pat),
        (host::CS_SELECTOR, 0x08), (host::SS_SELECTOR, 0x10), (host::DS_SELECTOR, 0),
        (host::ES_SELECTOR, 0), (host::FS_SELECTOR, 0), (host::GS_SELECTOR, 0),
        (host::TR_SELECTOR, u64::from(descriptors::TSS_SELECTOR)),
        (host::FS_BASE, 0), (host::GS_BASE, 0), (host::TR_BASE, FRAME + frame::TSS),
        (host::GDTR_BASE, window::CORE), (host::IDTR_BASE, window::IDT),
        (host::IA32_SYSENTER_CS, 0), (host::IA32_SYSENTER_ESP, 0), (host::IA32_SYSENTER_EIP, 0),
        (host::RSP, window::STACK_TOP), (host::RIP, exit as *const () as u64),
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

/// Whether the caches were emptied since the last exit.
pub fn is_flushed() -> bool {
    block().flushed
}

/// Loads what the monitor may always change.
pub fn apply_always(state: &VcpuState) {
    let rip = fetch(&state.rip);
    if rip != read(guest::RIP) {
        // Past an instruction, whatever held interrupts for its sake is over.
        write(guest::RIP, rip);
        end_shadow();
    }
}

fn end_shadow() {
    write(guest::INTERRUPTIBILITY_STATE, read(guest::INTERRUPTIBILITY_STATE) & !SHADOW);
}

/// Turns bits of the primary controls on or off.
fn choose(bits: u64, on: bool) {
    let block = block();
    let primary = if on { block.primary | bits } else { block.primary & !bits };
    if primary != block.primary {
        block.primary = primary;
        write(control::PRIMARY_PROCBASED_EXEC_CONTROLS, primary);
    }
}

/// Withdraws the waiting interrupt or replaces it.
pub fn set_interrupt(vector: u32) {
    block().waiting = vector & 0xff;
    wait_for_window();
}

/// Whether the waiting interrupt is more urgent than what the guest does.
fn is_urgent(block: &Block) -> bool {
    block.waiting >> 4 > block.apic[TPR] >> 4 & 0xf
}

/// Asks for an exit when the guest can take the waiting interrupt: when it accepts interrupts, or
/// first when it lowers its priority.
fn wait_for_window() {
    let block = block();
    let (waits, urgent) = (block.waiting != 0, is_urgent(block));
    let threshold = if waits && !urgent { block.waiting >> 4 } else { 0 };
    write(control::TPR_THRESHOLD, u64::from(threshold));
    choose(INTERRUPT_WINDOW, waits && urgent);
}

/// Has an event delivered by the next entry.
fn inject(event: u64) {
    block().event = event;
    write(control::VMENTRY_INTERRUPTION_INFO_FIELD, event & 0xffff_ffff);
    write(control::VMENTRY_EXCEPTION_ERR_CODE, event >> 32);
}

/// Loads the groups that are not in [`apply_always`] and not the interface's own business.
pub fn apply(set: u32, state: &VcpuState) {
    if set & vcpu::SET_FLAGS != 0 {
        write(guest::RSP, fetch(&state.registers[vcpu::RSP]));
        write(guest::RFLAGS, fetch(&state.rflags) & 0x3f_7fd5 | 2);
        end_shadow();
    }
    if set & (vcpu::SET_CR2 | vcpu::SET_CONTROL) != 0 {
        block().cr2 = fetch(&state.cr2);
    }
    if set & vcpu::SET_CONTROL != 0 {
        load_control(state);
    }
    if set & vcpu::SET_SEGMENTS != 0 {
        for (index, segment) in fetch(&state.segments).into_iter().enumerate() {
            load_segment(index, segment);
        }
        let ([gdt_limit, gdt], [idt_limit, idt]) = (fetch(&state.gdtr), fetch(&state.idtr));
        (write(guest::GDTR_LIMIT, gdt_limit & 0xffff), write(guest::GDTR_BASE, gdt));
        (write(guest::IDTR_LIMIT, idt_limit & 0xffff), write(guest::IDTR_BASE, idt));
    }
    if set & vcpu::SET_TSC != 0 {
        write(control::TSC_OFFSET_FULL, fetch(&state.tsc_offset));
    }
    if set & vcpu::SET_TPR != 0 {
        block().apic[TPR] = (fetch(&state.tpr) & 0xf) << 4;
        wait_for_window();
    }
    if set & vcpu::SET_EVENT != 0 {
        let event = fetch(&state.event);
        // Software interrupts need an instruction's length, so nobody injects them.
        let known = matches!(event >> 8 & 7, 0 | 2 | 3) && event & 1 << 31 != 0;
        inject(if known { event & 0xffff_ffff_8000_0fff } else { 0 });
    }
    choose(NMI_WINDOW, set & vcpu::SET_NMI_WINDOW != 0);
}

/// The control registers. Long mode is said three times: in CR0 and EFER, and to the entry.
fn load_control(state: &VcpuState) {
    let (cr0, cr4) = (fetch(&state.cr0), fetch(&state.cr4));
    let mut efer = fetch(&state.efer) & EFER_GUEST & !(1 << 10);
    let long = cr0 >> 31 & 1 != 0 && efer >> 8 & 1 != 0;
    efer |= u64::from(long) << 10;
    let entry = if long { ENTRY | ENTRY_LONG_MODE } else { ENTRY };
    for (field, value) in [
        (guest::CR0, cr0 | CR0_NE),
        (control::CR0_READ_SHADOW, cr0),
        (guest::CR3, fetch(&state.cr3)),
        (guest::CR4, cr4 | CR4_VMXE),
        (guest::IA32_EFER_FULL, efer),
        (control::VMENTRY_CONTROLS, possible(ENTRY_CAN, entry)),
        (guest::IA32_PAT_FULL, fetch(&state.pat)),
        (guest::DR7, fetch(&state.dr7) & 0xffff_ffff),
    ] {
        write(field, value);
    }
    let block = block();
    block.dr6 = fetch(&state.dr6);
    if block.primary & DEBUG_REGISTERS == 0 {
        cpu::set_debug_status(block.dr6);
    }
}

/// A segment in the form that the entry check wants (SDM, "Checks on Guest Segment Registers"):
/// it is stricter than descriptors, and AMD's check, have to be.
fn load_segment(index: usize, segment: Segment) {
    let (attributes, at) = (u64::from(segment.attributes), 2 * index as u32);
    let mut rights = attributes & 0xff | (attributes & 0xf00) << 4;
    let is_present = attributes & 0x80 != 0;
    match index {
        // A task register is always there, and busy.
        TR => rights = 0x83 | if rights & 8 != 0 || !is_present { 8 } else { 0 },
        _ if !is_present => rights = 1 << 16,
        LDTR => rights = 0x82,
        _ => rights |= 1,
    }
    // The granularity that the limit allows.
    let limit = u64::from(segment.limit);
    if limit & 0xfff != 0xfff {
        rights &= !(1 << 15);
    } else if limit >> 20 != 0 {
        rights |= 1 << 15;
    }
    write(guest::ES_SELECTOR + at, u64::from(segment.selector));
    write(guest::ES_LIMIT + at, limit);
    write(guest::ES_BASE + at, segment.base);
    write(guest::ES_ACCESS_RIGHTS + at, rights);
}

fn segment(index: usize) -> Segment {
    let at = 2 * index as u32;
    let rights = read(guest::ES_ACCESS_RIGHTS + at);
    let mut attributes = rights & 0xff | rights >> 4 & 0xf00;
    if rights >> 16 & 1 != 0 {
        attributes &= !0x80;
    }
    Segment {
        selector: read(guest::ES_SELECTOR + at) as u16,
        attributes: attributes as u16,
        limit: read(guest::ES_LIMIT + at) as u32,
        base: read(guest::ES_BASE + at),
    }
}

/// Prepares a single step: every exception ends it, no interrupt begins.
pub fn begin_step(_: &mut Own) {
    let block = block();
    block.held = core::mem::take(&mut block.waiting);
    wait_for_window();
    choose(MONITOR_TRAP, true);
    write(control::EXCEPTION_BITMAP, 0xffff_ffff);
}

/// Ends a single step, whatever came of it.
pub fn end_step(_: &mut Own) {
    choose(MONITOR_TRAP, false);
    write(control::EXCEPTION_BITMAP, EXCEPTIONS);
    let block = block();
    block.waiting = core::mem::take(&mut block.held);
    wait_for_window();
}

/// Lets the guest reach the debug registers, which are the kernel's until it asks for them.
pub fn open_debug_registers(open: bool) {
    let block = block();
    if open {
        cpu::set_debug_status(block.dr6);
    } else if block.primary & DEBUG_REGISTERS == 0 {
        block.dr6 = cpu::debug_status();
    }
    choose(DEBUG_REGISTERS, !open);
}

/// Writes what every exit tells; the general registers are in the page already.
pub fn save(state: &mut VcpuState) {
    let block = block();
    (state.rip, state.rflags) = (read(guest::RIP), read(guest::RFLAGS));
    (state.interrupt, state.tpr) = (block.waiting, block.apic[TPR] >> 4 & 0xf);
    let shadow = read(guest::INTERRUPTIBILITY_STATE) & SHADOW != 0;
    state.flags = if shadow { vcpu::FLAG_SHADOW } else { 0 };
    if block.event != 0 {
        state.flags |= vcpu::FLAG_EVENT;
        state.event = block.event;
    }
}

/// Writes the rest.
pub fn save_all(state: &mut VcpuState) {
    let block = block();
    state.registers[vcpu::RSP] = read(guest::RSP);
    let shadow = read(control::CR0_READ_SHADOW) & CR0_NE;
    state.cr0 = read(guest::CR0) & !CR0_NE | shadow;
    (state.cr2, state.cr3) = (block.cr2, read(guest::CR3));
    (state.cr4, state.efer) = (read(guest::CR4) & !CR4_VMXE, read(guest::IA32_EFER_FULL));
    let is_open = block.primary & DEBUG_REGISTERS == 0;
    state.dr6 = if is_open { cpu::debug_status() } else { block.dr6 };
    (state.dr7, state.pat) = (read(guest::DR7), read(guest::IA32_PAT_FULL));
    for (index, to) in state.segments.iter_mut().enumerate() {
        *to = segment(index);
    }
    state.gdtr = [read(guest::GDTR_LIMIT), read(guest::GDTR_BASE)];
    state.idtr = [read(guest::IDTR_LIMIT), read(guest::IDTR_BASE)];
}

/// What came of the guest's turn.
pub fn exit(core: &mut Core, own: &mut Own, state: &mut VcpuState) -> Outcome {
    let block = block();
    block.flushed = false;
    let reason = read(ro::EXIT_REASON);
    if core::mem::take(&mut block.refused) || reason >> 31 & 1 != 0 {
        // The number of the instruction's error, if it was the instruction.
        let why = if block.launched { reason } else { read(ro::VM_INSTRUCTION_ERROR) << 32 };
        own.flags |= super::WANT_ALL;
        return tell(state, Exit::Invalid, why, 0);
    }
    block.launched = true;
    match unfinished() {
        0 => block.event = 0,
        event => inject(event),
    }
    let qualification = read(ro::EXIT_QUALIFICATION);
    match reason as u32 & 0xffff {
        0 => exception(own, state, qualification),
        1 | 52 => Outcome::Interrupt,
        7 => {
            if is_urgent(block) {
                inject(vcpu::EVENT_INTERRUPT | u64::from(core::mem::take(&mut block.waiting)));
            }
            wait_for_window();
            Outcome::Again
        }
        10 => tell(state, Exit::Cpuid, read(guest::CR4) & !CR4_VMXE, 1),
        30 => {
            let port = qualification >> 16 & 0xffff;
            if qualification & 0x18 == 0
                && let Some(bell) = own.bell(port as u16)
            {
                write(guest::RIP, next_rip());
                end_shadow();
                return super::ring(core, bell);
            }
            let is_in = (qualification >> 3 & 1) * vcpu::PORT_IN;
            let is_string = (qualification >> 4 & 1) * vcpu::PORT_STRING;
            let size = (qualification & 7) + 1;
            tell(state, Exit::Port, port | size << 16 | is_in | is_string, 1)
        }
        48 => {
            let walk = if qualification >> 7 & 3 == 1 { vcpu::MEMORY_WALK } else { 0 };
            state.info[1] =
                qualification >> 1 & 1 | qualification >> 1 & vcpu::MEMORY_FETCH | walk;
            tell(state, Exit::Memory, read(ro::GUEST_PHYSICAL_ADDR_FULL), 0)
        }
        basic => other(own, state, basic, qualification),
    }
}

fn next_rip() -> u64 {
    read(guest::RIP).wrapping_add(read(ro::VMEXIT_INSTRUCTION_LEN))
}

/// Tells the monitor of an exit. `is_behind`: 1 for an instruction, which the exit gives the
/// length of.
fn tell(state: &mut VcpuState, exit: Exit, info: u64, is_behind: u64) -> Outcome {
    state.exit = exit as u32;
    state.info[0] = info;
    state.next_rip = if is_behind != 0 { next_rip() } else { read(guest::RIP) };
    save(state);
    Outcome::Monitor
}

/// The exits that are not frequent (SDM, appendix "VMX Basic Exit Reasons").
fn other(own: &mut Own, state: &mut VcpuState, reason: u32, qualification: u64) -> Outcome {
    let (exit, info, is_behind) = match reason {
        // INIT and start-up messages are the machine's business.
        3 | 4 => return Outcome::Again,
        8 => (Exit::Iret, 0, 0),
        12 => (Exit::Halt, 0, 1),
        13 | 54 => (Exit::Cache, 0, 1),
        15 => (Exit::Forbidden, 13, 0),
        18 => (Exit::Hypercall, 0, 1),
        19..=27 | 36 | 39 | 50 | 53 | 59 => (Exit::Forbidden, 6, 0),
        28 => {
            control_register(state, qualification);
            return Outcome::Again;
        }
        29 => {
            own.load_debug_registers();
            return Outcome::Again;
        }
        31 => (Exit::MsrRead, 0, 1),
        32 => (Exit::MsrWrite, 0, 1),
        37 => (Exit::Stepped, 0, 0),
        43 => {
            wait_for_window();
            return Outcome::Again;
        }
        55 => (Exit::Xsetbv, 0, 1),
        2 => (Exit::Shutdown, 0, 0),
        _ => (Exit::Invalid, u64::from(reason), 0),
    };
    assert!(reason != 41, "machine check at the entry of a guest");
    if matches!(exit, Exit::Shutdown | Exit::Invalid) {
        own.flags |= super::WANT_ALL;
    }
    tell(state, exit, info, is_behind)
}

/// A write of a bit that VMX holds at 1. NE becomes what the guest sees of it, and the instruction,
/// executed again, differs from that no more; VMXE is a bit that this guest's CPU does not have.
fn control_register(state: &VcpuState, qualification: u64) {
    let register = (qualification >> 8 & 15) as usize;
    let value = match register {
        vcpu::RSP => read(guest::RSP),
        _ => fetch(&state.registers[register]),
    };
    if qualification & 0x3f == 0 {
        write(control::CR0_READ_SHADOW, value);
    } else {
        inject(vcpu::EVENT_EXCEPTION | vcpu::EVENT_ERROR | 13);
    }
}

/// An event whose delivery the exit cut short is delivered again. Those of instructions come back
/// by themselves, since the instruction is executed again.
fn unfinished() -> u64 {
    let event = read(ro::IDT_VECTORING_INFO) & 0x8000_0fff;
    if event >> 31 == 0 {
        return 0;
    }
    match event >> 8 & 7 {
        0 => event,
        2 => {
            let state = read(guest::INTERRUPTIBILITY_STATE);
            write(guest::INTERRUPTIBILITY_STATE, state & !NMI_BLOCKED);
            event
        }
        3 if event & vcpu::EVENT_ERROR != 0 => event | read(ro::IDT_VECTORING_ERR_CODE) << 32,
        3 => event,
        _ => 0,
    }
}

/// An exception that is intercepted, or a non-maskable interrupt of the machine.
fn exception(own: &mut Own, state: &mut VcpuState, qualification: u64) -> Outcome {
    let what = read(ro::VMEXIT_INTERRUPTION_INFO);
    if what >> 8 & 7 == 2 {
        // The exit has taken it; the handler's IRET opens the way for the next.
        // SAFETY: gate 2 is the kernel's own handler, on a stack of its own.
        unsafe { asm!("int 2") };
        return Outcome::Interrupt;
    }
    let vector = what & 0xff;
    let error = if what & vcpu::EVENT_ERROR != 0 { read(ro::VMEXIT_INTERRUPTION_ERR_CODE) } else { 0 };
    if vector == 1 {
        note_debug_exception(qualification);
        // INT1 is an instruction: its exception comes behind it.
        if what >> 8 & 7 == 5 {
            write(guest::RIP, next_rip());
        }
    }
    if own.is_stepping() {
        let has_error = if what & vcpu::EVENT_ERROR != 0 { vcpu::EXCEPTION_ERROR } else { 0 };
        (state.info[1], state.info[2]) = (error, qualification);
        own.flags |= super::WANT_ALL;
        return tell(state, Exit::Exception, vector | has_error, 0);
    }
    assert!(vector != 18, "machine check in a guest");
    inject(vcpu::EVENT_EXCEPTION | what & vcpu::EVENT_ERROR | vector | error << 32);
    Outcome::Again
}

/// What a debug exception does to DR6 and DR7, which the exit has left alone.
fn note_debug_exception(qualification: u64) {
    let block = block();
    let is_open = block.primary & DEBUG_REGISTERS == 0;
    let old = if is_open { cpu::debug_status() } else { block.dr6 };
    block.dr6 = old & !0xf | qualification & 0x600f;
    if is_open {
        cpu::set_debug_status(block.dr6);
    }
    write(guest::DR7, read(guest::DR7) & !(1 << 13));
}
