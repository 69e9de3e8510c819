//! Intel VMX (Intel SDM volume 3, "Virtual Machine Extensions").
//!
//! The control structure of the loaded vCPU is current on its core and reached by VMREAD and
//! VMWRITE ([`read`], [`write`]); what the CPU keeps nowhere is in [`Block`], mapped at
//! [`window::CONTROL`], which is also the virtual-APIC page. Of a monitor's words only what
//! [`apply`] loads reaches the structure; controls, identifier and nested tables are the kernel's.
//!
//! Invariant: whenever a thread with a vCPU is loaded on a core, its control structure is the
//! current one there ([`arrive`]), so no field access can fail.

mod setup;
mod state;

use super::{Outcome, Own, fetch};
use crate::arch::x86_64::{cpu, window};
use crate::core_state::Core;
use cloister_abi::layout::PAGE;
use cloister_abi::vcpu::{self, Exit, VcpuState};
use core::arch::{asm, global_asm};
use core::mem::offset_of;
use x86::vmx::vmcs::{control, guest, ro};

pub use setup::{
    arrive, block_page, enable, fill_permissions, flush, is_there, page_format, reset,
};
pub use state::{apply, apply_always, save, save_all};

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

const INTERRUPT_WINDOW: u64 = 1 << 2;
const NMI_WINDOW: u64 = 1 << 22;
const DEBUG_REGISTERS: u64 = 1 << 23;

/// #DB and #AC, whose endless streams would hold the core for ever, and #MC.
const EXCEPTIONS: u64 = 1 << 1 | 1 << 17 | 1 << 18;
const CR0_NE: u64 = 1 << 5;
const CR4_VMXE: u64 = 1 << 13;
/// STI's and MOV SS's.
const SHADOW: u64 = 3;
const FLAG_TF: u64 = 1 << 8;
const DR6_BS: u64 = 1 << 14;
const NMI_BLOCKED: u64 = 1 << 3;
/// Registers without fields of their own, which entries and exits swap.
const SWAPPED: usize = 5;
/// In the virtual-APIC page, in words.
const TPR: usize = 0x80 / 4;

/// What the kernel keeps of a vCPU beside the control structure. All zero before the first reset,
/// but `physical`.
#[repr(C)]
pub struct Block {
    /// The virtual-APIC page, as far as the CPU uses it.
    apic: [u32; 0x40],
    /// Number and value of each register that is swapped: the guest's, and the kernel's.
    guest_msrs: [[u64; 2]; SWAPPED],
    host_msrs: [[u64; 2]; SWAPPED],
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

/// Whether the caches were emptied since the last exit.
pub fn is_flushed() -> bool {
    block().flushed
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

/// Prepares a single step: every exception ends it, no interrupt begins. By the trap flag: not
/// every CPU has the monitor's, and Bochs 2.7 has none.
pub fn begin_step(own: &mut Own) {
    let block = block();
    block.held = core::mem::take(&mut block.waiting);
    wait_for_window();
    choose(NMI_WINDOW, false);
    let flags = read(guest::RFLAGS);
    own.step_trap = flags & FLAG_TF != 0;
    write(guest::RFLAGS, flags | FLAG_TF);
    // An entry refuses the trap flag beside a shadow; with interrupts held none is needed.
    end_shadow();
    // Bochs notes the trap before the instruction, and leaves one behind when that exits instead.
    write(guest::PENDING_DBG_EXCEPTIONS, 0);
    write(control::EXCEPTION_BITMAP, 0xffff_ffff);
}

/// Ends a single step, whatever came of it.
pub fn end_step(own: &mut Own) {
    if !own.step_trap {
        write(guest::RFLAGS, read(guest::RFLAGS) & !FLAG_TF);
    }
    write(control::EXCEPTION_BITMAP, EXCEPTIONS);
    let block = block();
    block.waiting = core::mem::take(&mut block.held);
    wait_for_window();
}

/// After the trap of a step: whether the guest itself is to get a debug exception.
fn is_guests_trap(own: &Own, qualification: u64) -> bool {
    let enabled = read(guest::DR7);
    // Breakpoints that DR7 enables, for the local or the global bit.
    let is_hit = (0..4).any(|n| qualification >> n & 1 != 0 && enabled >> (2 * n) & 3 != 0);
    if own.step_trap || is_hit {
        note_debug_exception(if own.step_trap { qualification } else { qualification & !DR6_BS });
        return true;
    }
    false
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

/// What came of the guest's turn.
pub fn exit(core: &mut Core, own: &mut Own, state: &mut VcpuState) -> Outcome {
    let block = block();
    block.flushed = false;
    let reason = read(ro::EXIT_REASON);
    let refused = core::mem::take(&mut block.refused);
    if refused || reason >> 31 & 1 != 0 {
        // Controls make the instruction fail, with a number; guest state makes the entry fail.
        let why = if refused { read(ro::VM_INSTRUCTION_ERROR) << 32 } else { reason };
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
            let fetch = (qualification >> 2 & 1) * vcpu::MEMORY_FETCH;
            state.info[1] = qualification & vcpu::MEMORY_WRITE | fetch | walk;
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
    let error =
        if what & vcpu::EVENT_ERROR != 0 { read(ro::VMEXIT_INTERRUPTION_ERR_CODE) } else { 0 };
    if vector == 1 && own.is_stepping() {
        let trap = if is_guests_trap(own, qualification) { vcpu::STEP_TRAP } else { 0 };
        return tell(state, Exit::Stepped, trap, 0);
    }
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
