//! Control and debug registers, which only micro-guests touch.

use core::arch::asm;

/// CR4: SSE is on.
pub const CR4_FXSR: u64 = 1 << 9;
/// CR4: XSAVE and XGETBV are on.
pub const CR4_XSAVE: u64 = 1 << 18;
/// CR0: wait for the coprocessor.
const CR0_MP: u64 = 1 << 1;
/// CR0: emulate it.
const CR0_EM: u64 = 1 << 2;

macro_rules! register {
    ($read:ident, $write:ident, $name:literal) => {
        #[doc = concat!("Reads ", $name, ".")]
        #[inline(always)]
        pub fn $read() -> u64 {
            let value: u64;
            // SAFETY: reading the register changes nothing.
            unsafe { asm!(concat!("mov {}, ", $name), out(reg) value, options(nostack)) };
            value
        }

        #[doc = concat!("Writes ", $name, ".")]
        ///
        /// # Safety
        ///
        /// The program must still find its memory and its handlers.
        #[inline(always)]
        pub unsafe fn $write(value: u64) {
            // SAFETY: the caller answers for the effect.
            unsafe { asm!(concat!("mov ", $name, ", {}"), in(reg) value, options(nostack)) };
        }
    };
}

register!(cr0, set_cr0, "cr0");
register!(cr2, set_cr2, "cr2");
register!(cr3, set_cr3, "cr3");
register!(cr4, set_cr4, "cr4");
register!(cr8, set_cr8, "cr8");
register!(dr0, set_dr0, "dr0");
register!(dr1, set_dr1, "dr1");
register!(dr2, set_dr2, "dr2");
register!(dr3, set_dr3, "dr3");
register!(dr6, set_dr6, "dr6");
register!(dr7, set_dr7, "dr7");

/// Turns SSE on.
pub fn enable_sse() {
    // SAFETY: the bits are about floating point alone.
    unsafe { set_cr0(cr0() & !CR0_EM | CR0_MP) };
    // SAFETY: as above.
    unsafe { set_cr4(cr4() | CR4_FXSR | 1 << 10) };
}

/// Turns XSAVE on; false where the CPU does not have it.
pub fn enable_xsave() -> bool {
    let there = cloister_guest_rt::cpu::cpuid(1, 0)[2] & 1 << 26 != 0;
    if there {
        // SAFETY: the bit is about extended states alone.
        unsafe { set_cr4(cr4() | CR4_XSAVE) };
    }
    there
}
