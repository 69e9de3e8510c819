//! The states in which virtual CPUs start: vCPU 0 in the start code of the guest's image, the
//! others where a start-up message sends them.
//!
//! Neighbours: `guest_abi::image` promises the first state to the start code; the second is the one
//! after INIT and a start-up message (AMD APM volume 2, "Processor Initialization State"; Intel SDM
//! volume 3, "IA-32 Processor States Following Power-up, Reset, or INIT").
//!
//! Invariant: every group is set, so nothing of an earlier life is left.

use cloister_abi::vcpu::{self, Segment, VcpuState};
use cloister_guest_abi::image;

/// Everything that a start defines; the address of a page fault is among the control registers.
const SET_ALL: u32 = vcpu::RESET
    | (vcpu::SET_FLAGS | vcpu::SET_CONTROL | vcpu::SET_SEGMENTS | vcpu::SET_XCR0)
    | (vcpu::SET_TSC | vcpu::SET_TPR | vcpu::SET_INTERRUPT);

/// CR0 with the coprocessor type bit. The bits that turn caches off are clear: INIT leaves them as
/// they are, and at the VM's start they are clear.
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const CR0_PROTECTION: u64 = 1;
const DR6: u64 = 0xffff_0ff0;
const DR7: u64 = 0x400;
/// Write-back, write-through, uncached minus, uncached; twice.
const PAT: u64 = 0x0007_0406_0007_0406;
/// Bit 1 of the flags is always set.
const RFLAGS: u64 = 2;
/// The x87 state.
const XCR0: u64 = 1;

/// Present, code or data, writable or readable, accessed.
const DATA: u16 = 0x93;
const CODE: u16 = 0x9b;
const LDT: u16 = 0x82;
const TASK_STATE: u16 = 0x8b;
/// 32-bit operands, limit in pages.
const FLAT: u16 = 0xc00;

/// Which state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The image's first instruction: 32-bit protected mode, flat segments, no paging.
    Image,
    /// Real mode at this page.
    Page(u8),
}

/// Fills the state. `signature` is the CPU's, as CPUID leaf 1 tells it in EAX; `tsc_offset` is the
/// one of the whole VM.
pub fn fill(state: &mut VcpuState, start: Start, signature: u32, tsc_offset: u64) {
    let flat = matches!(start, Start::Image);
    let (limit, wide) = if flat { (u32::MAX, FLAT) } else { (0xffff, 0) };
    let data = Segment { selector: 0, attributes: DATA | wide, limit, base: 0 };
    let mut segments = [data; 8];
    let [_, cs, _, _, _, _, ldt, task] = &mut segments;
    cs.attributes = CODE | wide;
    *ldt = Segment { attributes: LDT, limit: 0xffff, ..Segment::default() };
    *task = Segment { attributes: TASK_STATE, ..*ldt };
    let (rip, cr0) = match start {
        Start::Image => (image::START, CR0_EXTENSION_TYPE | CR0_PROTECTION),
        Start::Page(page) => {
            (cs.selector, cs.base) = (u16::from(page) << 8, u64::from(page) << 12);
            (0, CR0_EXTENSION_TYPE)
        }
    };
    *state = VcpuState {
        rip,
        rflags: RFLAGS,
        set: SET_ALL,
        tsc_offset,
        xcr0: XCR0,
        cr0,
        dr6: DR6,
        dr7: DR7,
        pat: PAT,
        segments,
        gdtr: [0xffff, 0],
        idtr: [0xffff, 0],
        ..VcpuState::default()
    };
    let [_, _, rdx, ..] = &mut state.registers;
    *rdx = if flat { 0 } else { u64::from(signature) };
}

#[cfg(test)]
mod tests {
    use super::{Start, fill};
    use cloister_abi::vcpu::{CS, RDX, RESET, VcpuState};

    fn dirty() -> VcpuState {
        VcpuState { registers: [7; 16], cr3: 9, efer: 1, event: 3, ..VcpuState::default() }
    }

    #[test]
    fn the_image_starts_in_flat_protected_mode_with_empty_registers() {
        let mut state = dirty();
        fill(&mut state, Start::Image, 0x800f12, 5);
        assert_eq!(state.rip, 0xc000_0000);
        assert_eq!((state.cr0, state.efer, state.cr3, state.cr4), (0x11, 0, 0, 0));
        assert_eq!(state.registers, [0; 16]);
        assert_eq!((state.segments[CS].attributes, state.segments[0].attributes), (0xc9b, 0xc93));
        assert_eq!((state.tsc_offset, state.xcr0, state.rflags), (5, 1, 2));
        assert_ne!(state.set & RESET, 0);
    }

    #[test]
    fn a_started_cpu_is_in_real_mode_at_its_page() {
        let mut state = dirty();
        fill(&mut state, Start::Page(0x99), 0x800f12, 0);
        let cs = state.segments[CS];
        assert_eq!((state.rip, cs.selector, cs.base), (0, 0x9900, 0x9_9000));
        assert_eq!((cs.limit, cs.attributes, state.cr0), (0xffff, 0x9b, 0x10));
        assert_eq!(state.registers[RDX], 0x800f12);
        assert!(state.registers.iter().enumerate().all(|(n, r)| n == RDX || *r == 0));
    }
}
