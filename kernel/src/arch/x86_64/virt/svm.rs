//! AMD SVM (AMD APM volume 2, "Secure Virtual Machine").
//!
//! The control block ([`Vmcb`]) of the loaded vCPU is mapped at [`window::CONTROL`]. Nothing in
//! it is ever taken from a monitor but what [`apply`] loads; intercepts, address space identifier
//! and nested tables are the kernel's. Whatever combination of guest state the CPU cannot enter
//! it refuses by itself (VMEXIT_INVALID), and that VM stops.

use super::{Outcome, Own, fetch};
use crate::arch::x86_64::{cpu, window};
use crate::core_state::Core;
use cloister_abi::layout::PAGE;
use cloister_abi::vcpu::{self, Exit, Segment, VcpuState};
use core::arch::{asm, global_asm};
use x86::msr;

global_asm!(
    include_str!("svm.s"),
    STACK_TOP = const window::STACK_TOP,
    CONTROL = const super::OWN,
    STATE = const super::STATE,
    HOST = const window::CORE + crate::core_state::HOST_BLOCK_OFFSET,
);

/// Enters the guest.
///
/// # Safety
/// As for [`super::enter`].
#[inline(always)]
pub unsafe fn enter() -> ! {
    // SAFETY: the caller's conditions; the entry begins on an empty stack.
    unsafe { asm!("jmp svm_enter", options(noreturn)) }
}

const VM_CR: u32 = 0xc001_0114;
const VM_HSAVE_PA: u32 = 0xc001_0117;
const EFER_SVME: u64 = 1 << 12;
/// SCE, LME, LMA, NXE: what a guest can have.
const EFER_GUEST: u64 = 0xd01;

/// The control block: control area and state save area.
#[repr(C)]
struct Vmcb {
    intercept_cr: u32,
    intercept_dr: u32,
    intercept_exceptions: u32,
    intercept_1: u32,
    intercept_2: u32,
    intercept_3: u32,
    reserved1: [u32; 10],
    iopm: u64,
    msrpm: u64,
    tsc_offset: u64,
    asid: u32,
    tlb_control: u32,
    virtual_interrupt: u64,
    interrupt_shadow: u64,
    exit_code: u64,
    exit_info: [u64; 2],
    exit_event: u64,
    nested: u64,
    reserved2: [u64; 2],
    event: u64,
    nested_cr3: u64,
    lbr: u64,
    clean: u64,
    next_rip: u64,
    reserved3: [u64; 102],
    /// es, cs, ss, ds, fs, gs, gdtr, ldtr, idtr, tr.
    segments: [Segment; 10],
    reserved4: [u8; 0x4cb - 0x4a0],
    cpl: u8,
    reserved5: u32,
    efer: u64,
    reserved6: [u64; 14],
    cr4: u64,
    cr3: u64,
    cr0: u64,
    dr7: u64,
    dr6: u64,
    rflags: u64,
    rip: u64,
    reserved7: [u64; 11],
    rsp: u64,
    reserved8: [u64; 3],
    rax: u64,
    star: [u64; 8],
    cr2: u64,
    reserved9: [u64; 4],
    pat: u64,
    debug_control: u64,
}

const _: () = {
    use core::mem::offset_of;
    assert!(offset_of!(Vmcb, iopm) == 0x40 && offset_of!(Vmcb, event) == 0xa8);
    assert!(offset_of!(Vmcb, segments) == 0x400 && offset_of!(Vmcb, efer) == 0x4d0);
    assert!(offset_of!(Vmcb, cr4) == 0x548 && offset_of!(Vmcb, rsp) == 0x5d8);
    // The interface's bits are where the CPU has them, or as far apart ("Nested Page Faults",
    // "IOIO Intercept").
    assert!(vcpu::MEMORY_WRITE == 1 << 1 && vcpu::MEMORY_FETCH == 1 << 4);
    assert!(vcpu::MEMORY_WALK == 1 << 33 >> 31 && vcpu::PORT_STRING == vcpu::PORT_IN << 2);
    assert!(offset_of!(Vmcb, rax) == 0x5f8 && offset_of!(Vmcb, pat) == 0x668);
};

/// Where each of the interface's segments is in the block.
const SEGMENTS: [usize; 8] = [0, 1, 2, 3, 4, 5, 7, 9];
const GDTR: usize = 6;
const IDTR: usize = 8;

/// INTR, NMI, SMI, INIT, RDPMC, CPUID, INVD, HLT, INVLPGA, ports, MSRs, FERR_FREEZE, shutdown.
const INTERCEPT_1: u32 = 0xf | 1 << 15 | 1 << 18 | 1 << 22 | 1 << 24 | 7 << 26 | 3 << 30;
const INTERCEPT_IRET: u32 = 1 << 20;
/// VMRUN to SKINIT, WBINVD, MONITOR, MWAIT (both), XSETBV, RDPRU.
const INTERCEPT_2: u32 = 0x7f | 1 << 9 | 1 << 10 | 3 << 11 | 1 << 13 | 1 << 14;
/// INVLPGB (both), MCOMMIT, TLBSYNC.
const INTERCEPT_3: u32 = 3 | 1 << 3 | 1 << 4;
/// #DB and #AC, whose endless streams would hold the core for ever, and #MC.
const EXCEPTIONS: u32 = 1 << 1 | 1 << 17 | 1 << 18;
const CR8_WRITE: u32 = 1 << 24;
const DEBUG_REGISTERS: u32 = u32::MAX;

const V_TPR: u64 = 0xf;
const V_IRQ: u64 = 1 << 8;
const V_PRIORITY: u64 = 0xf << 16;
const V_INTR_MASKING: u64 = 1 << 24;
const V_INTERRUPT: u64 = V_IRQ | V_PRIORITY | 1 << 20 | 0xff << 32;

const FLAG_TF: u64 = 1 << 8;
const DR6_BS: u64 = 1 << 14;

const FLUSH_ALL: u32 = 1;
const FLUSH_ASID: u32 = 3;

/// The loaded vCPU's block.
#[inline(always)]
fn vmcb() -> &'static mut Vmcb {
    // SAFETY: mapped in the address space of every thread with a vCPU, which is loaded when these
    // functions run; one such reference at a time is in use, by the function that made it.
    unsafe { &mut *(window::CONTROL as *mut Vmcb) }
}

/// Whether this CPU has what is needed: SVM with nested paging, not locked away by firmware.
pub fn is_there() -> bool {
    let has = |leaf| cpu::cpuid(0x8000_0000, 0).eax >= leaf;
    if !has(0x8000_000a) || cpu::cpuid(0x8000_0001, 0).ecx & 4 == 0 {
        return false;
    }
    // SAFETY: the register exists where SVM does.
    let locked = unsafe { msr::rdmsr(VM_CR) } & 1 << 4 != 0;
    cpu::cpuid(0x8000_000a, 0).edx & 1 != 0 && !locked
}

/// Address space identifiers, without the host's.
pub fn identifiers() -> u32 {
    cpu::cpuid(0x8000_000a, 0).ebx - 1
}

/// What the CPU offers beyond the minimum: bits of CPUID leaf 0x8000_000a EDX.
fn offers() -> u32 {
    cpu::cpuid(0x8000_000a, 0).edx
}

/// Turns SVM on on this core and keeps the kernel's own state for VMLOAD.
///
/// # Safety
/// `save` and `host` are physical pages that nobody else uses; the task register is loaded.
pub unsafe fn enable(save: u64, host: u64) {
    // SAFETY: reading EFER is always legal in long mode.
    let efer = unsafe { msr::rdmsr(msr::IA32_EFER) };
    // SAFETY: SVM is there; the bit changes nothing else.
    unsafe { msr::wrmsr(msr::IA32_EFER, efer | EFER_SVME) };
    // SAFETY: the caller's condition.
    unsafe { msr::wrmsr(VM_HSAVE_PA, save) };
    // SAFETY: the caller's condition; VMSAVE writes that page alone.
    unsafe { asm!("vmsave rax", in("rax") host, options(nostack)) };
}

/// The MSR permission map: everything is intercepted but what VMLOAD and VMSAVE switch, and the
/// barrier command, which has no state.
pub fn fill_permissions(map: &mut [u8; 2 * PAGE as usize], ibpb: bool) {
    map.fill(0xff);
    let mut pass = |msr: u32, bits: u8| {
        let (base, first) = if msr >= 0xc000_0000 { (0x800, 0xc000_0000) } else { (0, 0) };
        let at = (msr - first) as usize;
        map[base + at / 4] &= !(bits << (at % 4 * 2));
    };
    for msr in (0x174..=0x176).chain(0xc000_0081..=0xc000_0084).chain(0xc000_0100..=0xc000_0102) {
        pass(msr, 3);
    }
    if ibpb {
        pass(0x49, 2);
    }
}

/// The state after INIT, with everything intercepted and nothing cached.
pub fn reset(own: &mut Own) {
    let block = vmcb();
    // SAFETY: plain integers; zero is a value of each.
    *block = unsafe { core::mem::zeroed() };
    block.intercept_cr = 0;
    block.intercept_dr = DEBUG_REGISTERS;
    block.intercept_exceptions = EXCEPTIONS;
    (block.intercept_1, block.intercept_2) = (INTERCEPT_1, INTERCEPT_2);
    block.intercept_3 = INTERCEPT_3;
    (block.iopm, block.msrpm) = (own.ports, own.msrs);
    (block.asid, block.nested, block.nested_cr3) = (own.asid, 1, own.nested);
    block.virtual_interrupt = V_INTR_MASKING;
    (block.efer, block.pat) = (EFER_SVME, 0x0007_0406_0007_0406);
    (block.cr0, block.dr6, block.dr7) = (0x10, 0xffff_0ff0, 0x400);
    block.rflags = 2;
    own.by_identifier = offers() & 1 << 6 != 0;
    own.next_rip = offers() & 1 << 3 != 0;
    flush(own);
}

/// Empties this vCPU's translation caches before its next instruction.
#[inline(always)]
pub fn flush(own: &mut Own) {
    vmcb().tlb_control = if own.by_identifier { FLUSH_ASID } else { FLUSH_ALL };
}

/// Whether a flush is asked for.
pub fn is_flushed() -> bool {
    vmcb().tlb_control != 0
}

/// Loads what the monitor may always change.
#[inline(always)]
pub fn apply_always(state: &VcpuState) {
    let block = vmcb();
    let rip = fetch(&state.rip);
    if rip != block.rip {
        advance(rip);
    }
    block.rax = fetch(&state.registers[vcpu::RAX]);
}

/// The guest single-steps itself, and we were the CPU for this instruction (AMD APM
/// volume 2, "Debug Exception": a single step traps behind the instruction).
#[cold]
fn trap_step(block: &mut Vmcb) {
    if block.event == 0 {
        block.dr6 |= DR6_BS;
        block.event = vcpu::EVENT_EXCEPTION | 1;
    }
}

/// Goes on behind an instruction that was carried out for the guest: whatever held interrupts for
/// its sake is over, and a guest that steps itself gets its trap.
#[inline(always)]
fn advance(rip: u64) {
    let block = vmcb();
    (block.rip, block.interrupt_shadow) = (rip, 0);
    if block.rflags & FLAG_TF != 0 {
        trap_step(block);
    }
}

/// Withdraws the waiting interrupt or replaces it.
#[inline(always)]
pub fn set_interrupt(vector: u32) {
    let block = vmcb();
    let vector = u64::from(vector & 0xff);
    let waits = if vector != 0 { V_IRQ | vector << 32 } else { 0 };
    block.virtual_interrupt = ranked(block.virtual_interrupt & !V_INTERRUPT | waits);
    block.intercept_cr = if vector != 0 { CR8_WRITE } else { 0 };
}

/// Gives the waiting interrupt the highest priority if its class is above the task's, else the
/// lowest. The CPU's own comparison then comes to the same also where equal is taken for above
/// (QEMU), and the task's priority does not change while an interrupt waits without the monitor.
#[inline(always)]
fn ranked(waiting: u64) -> u64 {
    let priority = if waiting >> 36 & 0xf > waiting & V_TPR { V_PRIORITY } else { 0 };
    waiting & !V_PRIORITY | priority
}

/// Loads the groups that are not in [`apply_always`] and not the interface's own business.
pub fn apply(set: u32, state: &VcpuState) {
    let block = vmcb();
    if set & vcpu::SET_FLAGS != 0 {
        block.rsp = fetch(&state.registers[vcpu::RSP]);
        block.rflags = fetch(&state.rflags) & 0x3f_7fd5 | 2;
        block.interrupt_shadow = 0;
    }
    if set & (vcpu::SET_CR2 | vcpu::SET_CONTROL) != 0 {
        block.cr2 = fetch(&state.cr2);
    }
    if set & vcpu::SET_CONTROL != 0 {
        (block.cr0, block.cr3) = (fetch(&state.cr0), fetch(&state.cr3));
        (block.cr4, block.pat) = (fetch(&state.cr4), fetch(&state.pat));
        block.efer = fetch(&state.efer) & EFER_GUEST | EFER_SVME;
        (block.dr6, block.dr7) = (fetch(&state.dr6), fetch(&state.dr7));
    }
    if set & vcpu::SET_SEGMENTS != 0 {
        for (index, segment) in SEGMENTS.into_iter().zip(fetch(&state.segments)) {
            block.segments[index] = segment;
        }
        block.cpl = (block.segments[2].attributes >> 5 & 3) as u8;
        for (index, [limit, base]) in [(GDTR, fetch(&state.gdtr)), (IDTR, fetch(&state.idtr))] {
            block.segments[index] = Segment { limit: limit as u32, base, ..Segment::default() };
        }
    }
    if set & vcpu::SET_TSC != 0 {
        block.tsc_offset = fetch(&state.tsc_offset);
    }
    if set & vcpu::SET_TPR != 0 {
        let tpr = u64::from(fetch(&state.tpr)) & V_TPR;
        block.virtual_interrupt = ranked(block.virtual_interrupt & !0xff | tpr);
    }
    if set & vcpu::SET_EVENT != 0 {
        let event = fetch(&state.event);
        // Software interrupts need an instruction's length, so nobody injects them.
        let known = matches!(event >> 8 & 7, 0 | 2 | 3) && event & 1 << 31 != 0;
        block.event = if known { event & 0xffff_ffff_8000_0fff } else { 0 };
    }
    block.intercept_1 &= !INTERCEPT_IRET;
    if set & vcpu::SET_NMI_WINDOW != 0 {
        block.intercept_1 |= INTERCEPT_IRET;
    }
}

/// Prepares a single step: every exception ends it, no interrupt begins.
#[inline(always)]
pub fn begin_step(own: &mut Own) {
    let block = vmcb();
    own.step_holds = block.virtual_interrupt & V_IRQ != 0;
    if own.step_holds {
        block.virtual_interrupt &= !V_IRQ;
    }
    block.intercept_cr = 0;
    block.intercept_1 &= !INTERCEPT_IRET;
    own.step_trap = block.rflags & FLAG_TF != 0;
    own.step_dr6 = block.dr6;
    block.rflags |= FLAG_TF;
    block.intercept_exceptions = u32::MAX;
}

/// Ends a single step, whatever came of it.
#[inline(always)]
pub fn end_step(own: &mut Own) {
    let block = vmcb();
    if !own.step_trap {
        block.rflags &= !FLAG_TF;
    }
    block.intercept_exceptions = EXCEPTIONS;
    if own.step_holds {
        // Everything else of the interrupt has stayed where it was.
        block.virtual_interrupt = ranked(block.virtual_interrupt | V_IRQ);
        block.intercept_cr = CR8_WRITE;
    }
}

/// After the trap of a step: whether the guest itself is to get a debug exception.
#[inline(always)]
fn is_guests_trap(own: &Own) -> bool {
    let block = vmcb();
    if !own.step_trap {
        block.dr6 = block.dr6 & !DR6_BS | own.step_dr6 & DR6_BS;
    }
    own.step_trap || block.dr6 & 0xf != 0 && is_breakpoint(block)
}

/// Whether DR6 tells of a breakpoint that DR7 enables, for the local or the global bit.
#[cold]
fn is_breakpoint(block: &Vmcb) -> bool {
    (0..4).any(|n| block.dr6 >> n & 1 != 0 && block.dr7 >> (2 * n) & 3 != 0)
}

/// Lets the guest reach the debug registers, which are the kernel's until it asks for them.
pub fn open_debug_registers(open: bool) {
    vmcb().intercept_dr = if open { 0 } else { DEBUG_REGISTERS };
}

/// Writes what every exit tells.
#[inline(always)]
pub fn save(state: &mut VcpuState) {
    let block = vmcb();
    state.registers[vcpu::RAX] = block.rax;
    (state.rip, state.rflags) = (block.rip, block.rflags);
    // What an interrupt that was accepted leaves behind does not count.
    let waits = block.virtual_interrupt & (V_IRQ | V_TPR);
    let odd = waits | block.interrupt_shadow | block.event;
    (state.interrupt, state.flags, state.tpr) = (0, 0, 0);
    if odd != 0 {
        save_events(block, state);
    }
}

/// What waits, holds or is under way.
#[inline(never)]
fn save_events(block: &Vmcb, state: &mut VcpuState) {
    let waits = block.virtual_interrupt & V_IRQ != 0;
    state.interrupt = if waits { (block.virtual_interrupt >> 32) as u32 & 0xff } else { 0 };
    state.tpr = (block.virtual_interrupt & V_TPR) as u32;
    state.flags = block.interrupt_shadow as u32 & vcpu::FLAG_SHADOW;
    if block.event != 0 {
        state.flags |= vcpu::FLAG_EVENT;
        state.event = block.event;
    }
}

/// Writes the rest.
pub fn save_all(state: &mut VcpuState) {
    let block = vmcb();
    state.registers[vcpu::RSP] = block.rsp;
    (state.cr0, state.cr2, state.cr3) = (block.cr0, block.cr2, block.cr3);
    (state.cr4, state.efer) = (block.cr4, block.efer & !EFER_SVME);
    (state.dr6, state.dr7, state.pat) = (block.dr6, block.dr7, block.pat);
    for (to, index) in state.segments.iter_mut().zip(SEGMENTS) {
        *to = block.segments[index];
    }
    state.gdtr = [u64::from(block.segments[GDTR].limit), block.segments[GDTR].base];
    state.idtr = [u64::from(block.segments[IDTR].limit), block.segments[IDTR].base];
}

/// What came of the guest's turn.
#[inline(always)]
pub fn exit(core: &mut Core, own: &mut Own, state: &mut VcpuState) -> Outcome {
    let block = vmcb();
    // Done by the entry that has just ended.
    block.tlb_control = 0;
    block.event = unfinished(block.exit_event);
    let [info, info2] = block.exit_info;
    // Emulators write 32 bits of it (docs/caveats.md).
    let code = block.exit_code as u32;
    match code {
        0x72 => {
            state.info[0] = block.cr4;
            tell(own, state, Exit::Cpuid, 2);
        }
        0x7b => {
            let port = info >> 16 & 0xffff;
            if info & 5 == 0
                && let Some(bell) = own.bell(port as u16)
            {
                advance(info2);
                return super::ring(core, bell);
            }
            let kind = (info & 5) * vcpu::PORT_IN;
            state.info[0] = port | (info & 0x70) << 12 | kind;
            state.exit = Exit::Port as u32;
            state.next_rip = info2;
        }
        0x7c if info == 0 => tell(own, state, Exit::MsrRead, 2),
        0x7c => tell(own, state, Exit::MsrWrite, 2),
        0x400 => {
            let access = info & (vcpu::MEMORY_WRITE | vcpu::MEMORY_FETCH);
            (state.info[0], state.info[1]) = (info2, access | info >> 31 & vcpu::MEMORY_WALK);
            tell(own, state, Exit::Memory, 0);
        }
        0x41 if own.is_stepping() => {
            state.info[0] = if is_guests_trap(own) { vcpu::STEP_TRAP } else { 0 };
            tell(own, state, Exit::Stepped, 0);
        }
        _ => return other(own, state, code),
    }
    Outcome::Monitor
}

/// Notes an exit and where the instruction behind it is; `len` is that of the instruction without
/// prefixes.
#[inline(always)]
fn tell(own: &Own, state: &mut VcpuState, exit: Exit, len: u64) {
    let block = vmcb();
    state.exit = exit as u32;
    state.next_rip =
        if own.next_rip && len != 0 { block.next_rip } else { block.rip.wrapping_add(len) };
}

/// The exits that are not frequent, and those that the monitor does not see.
#[inline(never)]
fn other(own: &mut Own, state: &mut VcpuState, code: u32) -> Outcome {
    let (exit, len, info) = match code {
        0x60 | 0x61 => return Outcome::Interrupt,
        0x78 => (Exit::Halt, 1, 0),
        0x18 => (Exit::TaskPriority, 0, 0),
        0x20..=0x3f => {
            own.load_debug_registers();
            return Outcome::Again;
        }
        0x40..=0x5f => return exception(own, state, code - 0x40),
        // SMI and INIT are the machine's business.
        0x62 | 0x63 => return Outcome::Again,
        0x6f => (Exit::Forbidden, 0, 13),
        0x74 => (Exit::Iret, 0, 0),
        0x76 | 0x89 => (Exit::Cache, 2, 0),
        0x7f => (Exit::Shutdown, 0, 0),
        0x81 => (Exit::Hypercall, 3, 0),
        0x7a | 0x80 | 0x82..=0x86 | 0x8a..=0x8c | 0x8e | 0xa0..=0xa4 => (Exit::Forbidden, 0, 6),
        0x8d => (Exit::Xsetbv, 3, 0),
        _ => (Exit::Invalid, 0, u64::from(code)),
    };
    if matches!(exit, Exit::Shutdown | Exit::Invalid) {
        own.flags |= super::WANT_ALL;
    }
    state.info[0] = info;
    tell(own, state, exit, len);
    Outcome::Monitor
}

/// An event whose delivery the exit cut short is delivered again. Those of instructions come back
/// by themselves, since the instruction is executed again.
#[inline(always)]
fn unfinished(event: u64) -> u64 {
    if event & 1 << 31 == 0 {
        return 0;
    }
    match (event >> 8 & 7, event & 0xff) {
        (0 | 2, _) => event,
        (3, vector) if vector != 3 && vector != 4 => event,
        _ => 0,
    }
}

/// An exception that is intercepted, but a step's end.
fn exception(own: &mut Own, state: &mut VcpuState, vector: u32) -> Outcome {
    let info = vmcb().exit_info;
    let has_error = matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30);
    if own.is_stepping() {
        let code = u64::from(vector) | if has_error { vcpu::EXCEPTION_ERROR } else { 0 };
        state.info = [code, info[0], info[1]];
        own.flags |= super::WANT_ALL;
        tell(own, state, Exit::Exception, 0);
        return Outcome::Monitor;
    }
    assert!(vector != 18, "machine check in a guest");
    // The guest's own; DR6 and DR7 are set as its handler expects.
    let error = if has_error { vcpu::EVENT_ERROR | info[0] << 32 } else { 0 };
    vmcb().event = vcpu::EVENT_EXCEPTION | u64::from(vector) | error;
    Outcome::Again
}
