//! Vector and x87 registers: filled from a seed, and compared.

use core::arch::asm;

use guest_common::rng::Rng;
use guest_common::{Outcome, ensure, equal, registers};

/// Bytes of 16 registers of 32 bytes.
const BYTES: usize = 512;
/// MXCSR and the x87 control word after FNINIT and XRSTOR of the initial state.
const MXCSR: u32 = 0x1f80;
const CONTROL: u16 = 0x37f;

#[repr(C, align(64))]
struct Image([u8; BYTES]);

/// Turns AVX on; false where the CPU does not have it.
pub fn enable_wide() -> bool {
    let has_avx = cloister_guest_rt::cpu::cpuid(1, 0)[2] & 1 << 28 != 0;
    if has_avx && registers::enable_xsave() {
        // SAFETY: x87, SSE and AVX, all of which CPUID offers.
        unsafe { asm!("xsetbv", in("ecx") 0, in("eax") 7, in("edx") 0) };
        return true;
    }
    false
}

fn image(seed: u64, wide: bool) -> Image {
    let (mut rng, mut image) = (Rng::new(seed), Image([0; BYTES]));
    for chunk in image.0.chunks_exact_mut(8) {
        chunk.copy_from_slice(&rng.number().to_le_bytes());
    }
    if !wide {
        for upper in image.0.chunks_exact_mut(32) {
            upper[16..].fill(0);
        }
    }
    image
}

/// Fills the registers.
pub fn fill(seed: u64, wide: bool) {
    let image = image(seed, wide);
    let at = image.0.as_ptr();
    if wide {
        // SAFETY: reads the image alone.
        unsafe {
            asm!(
                "vmovups ymm0, [{0}]", "vmovups ymm1, [{0} + 32]",
                "vmovups ymm2, [{0} + 64]", "vmovups ymm3, [{0} + 96]",
                "vmovups ymm4, [{0} + 128]", "vmovups ymm5, [{0} + 160]",
                "vmovups ymm6, [{0} + 192]", "vmovups ymm7, [{0} + 224]",
                "vmovups ymm8, [{0} + 256]", "vmovups ymm9, [{0} + 288]",
                "vmovups ymm10, [{0} + 320]", "vmovups ymm11, [{0} + 352]",
                "vmovups ymm12, [{0} + 384]", "vmovups ymm13, [{0} + 416]",
                "vmovups ymm14, [{0} + 448]", "vmovups ymm15, [{0} + 480]",
                in(reg) at, options(readonly, nostack),
            );
        }
    } else {
        // SAFETY: reads the image alone.
        unsafe {
            asm!(
                "movups xmm0, [{0}]", "movups xmm1, [{0} + 32]",
                "movups xmm2, [{0} + 64]", "movups xmm3, [{0} + 96]",
                "movups xmm4, [{0} + 128]", "movups xmm5, [{0} + 160]",
                "movups xmm6, [{0} + 192]", "movups xmm7, [{0} + 224]",
                "movups xmm8, [{0} + 256]", "movups xmm9, [{0} + 288]",
                "movups xmm10, [{0} + 320]", "movups xmm11, [{0} + 352]",
                "movups xmm12, [{0} + 384]", "movups xmm13, [{0} + 416]",
                "movups xmm14, [{0} + 448]", "movups xmm15, [{0} + 480]",
                in(reg) at, options(readonly, nostack),
            );
        }
    }
    let (mxcsr, control) = words(seed);
    // SAFETY: all exceptions stay masked.
    unsafe { asm!("ldmxcsr [{}]", in(reg) &mxcsr, options(readonly, nostack)) };
    // SAFETY: as above; and one value on the x87 stack.
    unsafe { asm!("fninit", "fldcw [{}]", "fldpi", in(reg) &control, options(readonly, nostack)) };
}

/// Rounding of SSE and of x87, from the seed, exceptions masked.
fn words(seed: u64) -> (u32, u16) {
    (MXCSR | (seed as u32 & 3) << 13, CONTROL & !0xc00 | (seed as u16 >> 2 & 3) << 10)
}

fn read(wide: bool) -> Image {
    let mut image = Image([0; BYTES]);
    let at = image.0.as_mut_ptr();
    if wide {
        // SAFETY: writes the image alone.
        unsafe {
            asm!(
                "vmovups [{0}], ymm0", "vmovups [{0} + 32], ymm1",
                "vmovups [{0} + 64], ymm2", "vmovups [{0} + 96], ymm3",
                "vmovups [{0} + 128], ymm4", "vmovups [{0} + 160], ymm5",
                "vmovups [{0} + 192], ymm6", "vmovups [{0} + 224], ymm7",
                "vmovups [{0} + 256], ymm8", "vmovups [{0} + 288], ymm9",
                "vmovups [{0} + 320], ymm10", "vmovups [{0} + 352], ymm11",
                "vmovups [{0} + 384], ymm12", "vmovups [{0} + 416], ymm13",
                "vmovups [{0} + 448], ymm14", "vmovups [{0} + 480], ymm15",
                in(reg) at, options(nostack),
            );
        }
    } else {
        // SAFETY: writes the image alone.
        unsafe {
            asm!(
                "movups [{0}], xmm0", "movups [{0} + 32], xmm1",
                "movups [{0} + 64], xmm2", "movups [{0} + 96], xmm3",
                "movups [{0} + 128], xmm4", "movups [{0} + 160], xmm5",
                "movups [{0} + 192], xmm6", "movups [{0} + 224], xmm7",
                "movups [{0} + 256], xmm8", "movups [{0} + 288], xmm9",
                "movups [{0} + 320], xmm10", "movups [{0} + 352], xmm11",
                "movups [{0} + 384], xmm12", "movups [{0} + 416], xmm13",
                "movups [{0} + 448], xmm14", "movups [{0} + 480], xmm15",
                in(reg) at, options(nostack),
            );
        }
    }
    image
}

fn control_words() -> (u32, u16) {
    let (mut mxcsr, mut control) = (0u32, 0u16);
    // SAFETY: writes the variable alone.
    unsafe { asm!("stmxcsr [{}]", in(reg) &mut mxcsr, options(nostack)) };
    // SAFETY: writes the variable alone.
    unsafe { asm!("fnstcw [{}]", in(reg) &mut control, options(nostack)) };
    (mxcsr, control)
}

/// The registers hold what [`fill`] put there.
pub fn check(seed: u64, wide: bool) -> Outcome {
    let (found, wanted) = (read(wide), image(seed, wide));
    let (mxcsr, control) = control_words();
    let places = found.0.chunks_exact(8).zip(wanted.0.chunks_exact(8));
    for (place, (found, wanted)) in places.enumerate() {
        ensure("eight bytes of the vector registers", found == wanted, place as u64)?;
    }
    let (wanted_mxcsr, wanted_control) = words(seed);
    equal("MXCSR", mxcsr.into(), wanted_mxcsr.into())?;
    equal("the x87 control word", control.into(), wanted_control.into())?;
    let (mut top, pi) = (0u64, core::f64::consts::PI.to_bits());
    // SAFETY: takes the value off the x87 stack into the variable.
    unsafe { asm!("fstp qword ptr [{}]", in(reg) &mut top, options(nostack)) };
    // How the constant is rounded follows the control word.
    ensure("the top of the x87 stack", top.abs_diff(pi) <= 1, top)
}

/// Nothing of an earlier life or of another guest is in the registers.
pub fn are_initial(wide: bool) -> Outcome {
    let image = read(wide);
    let place = image.0.iter().position(|&byte| byte != 0);
    ensure("a byte of the vector registers", place.is_none(), place.unwrap_or(0) as u64)?;
    let (mxcsr, control) = control_words();
    equal("MXCSR", mxcsr.into(), MXCSR.into())?;
    equal("the x87 control word", control.into(), CONTROL.into())
}
