//! VMX and the page of a monitor: what is loaded from it, what is written to it.
//!
//! Both directions translate between the interface's state, which is that of descriptors and
//! registers, and the control structure's. Every word of the page is read once.

use super::setup::entry_controls;
use super::{
    CR0_NE, CR4_VMXE, DEBUG_REGISTERS, NMI_WINDOW, SHADOW, TPR, block, choose, end_shadow, inject,
    read, wait_for_window, write,
};
use crate::arch::x86_64::cpu;
use crate::arch::x86_64::virt::fetch;
use cloister_abi::vcpu::{self, Segment, VcpuState};
use x86::vmx::vmcs::{control, guest};

/// SCE, LME, LMA, NXE: what a guest can have.
const EFER_GUEST: u64 = 0xd01;
/// Segments of the interface, in the order of the fields.
const LDTR: usize = 6;
const TR: usize = 7;

/// Loads what the monitor may always change.
pub fn apply_always(state: &VcpuState) {
    let rip = fetch(&state.rip);
    if rip != read(guest::RIP) {
        // Past an instruction, whatever held interrupts for its sake is over.
        write(guest::RIP, rip);
        end_shadow();
    }
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
        for (field, value) in [
            (guest::GDTR_LIMIT, gdt_limit & 0xffff),
            (guest::GDTR_BASE, gdt),
            (guest::IDTR_LIMIT, idt_limit & 0xffff),
            (guest::IDTR_BASE, idt),
        ] {
            write(field, value);
        }
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
    for (field, value) in [
        (guest::CR0, cr0 | CR0_NE),
        (control::CR0_READ_SHADOW, cr0),
        (guest::CR3, fetch(&state.cr3)),
        (guest::CR4, cr4 | CR4_VMXE),
        (guest::IA32_EFER_FULL, efer),
        (control::VMENTRY_CONTROLS, entry_controls(long)),
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
pub fn load_segment(index: usize, segment: Segment) {
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
