//! Floating point state: loaded from a seed, held, and looked at byte by byte.
//!
//! State is loaded and read as a whole with XRSTOR and XSAVE in their standard form (Intel SDM,
//! "XSAVE-Managed State"), so that no register is left out: x87, SSE with MXCSR, and the upper
//! halves of the AVX registers. In a task without floating point nothing here may be called.

use core::arch::asm;
use core::arch::x86_64::__cpuid;

use boot_common::page::BEAT;
use boot_common::random::Random;
use cloister_rt::{Instant, grants};

use crate::Boss;

/// Bytes of the area: legacy part, header, AVX.
const BYTES: usize = 832;
const MXCSR: usize = 24;
const X87: core::ops::Range<usize> = 32..160;
const SSE: core::ops::Range<usize> = 160..416;
const HEADER: usize = 512;
const AVX: core::ops::Range<usize> = 576..832;
/// Round to zero, everything masked: not the initial value.
const SEEDED_MXCSR: u32 = 0x7f80;

#[repr(C, align(64))]
#[derive(Clone)]
struct Area([u8; BYTES]);

/// Components that the kernel has switched on.
fn components() -> u32 {
    let mask: u32;
    // SAFETY: the kernel sets CR4.OSXSAVE on every CPU that has XSAVE, and then this may be read.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") mask, out("edx") _, options(nomem, nostack)) };
    mask & 7
}

fn has_fpu() -> bool {
    // CPUID leaf 1, ECX bit 27: the kernel uses XSAVE.
    grants().number("fpu").is_ok() && __cpuid(1).ecx & 1 << 27 != 0
}

fn save() -> Area {
    let mut area = Area([0; BYTES]);
    // SAFETY: the area is 64-byte aligned and as long as the components need.
    unsafe {
        asm!("xsave64 [{}]", in(reg) area.0.as_mut_ptr(), in("eax") components(), in("edx") 0,
             options(nostack));
    }
    area
}

/// A state in which no register is what it is at the start.
fn seeded(seed: u64) -> Area {
    let mut random = Random::new(seed);
    let mut area = Area([0; BYTES]);
    let control = 0x0c7f_u16;
    area.0[..2].copy_from_slice(&control.to_le_bytes());
    // Every x87 register is in use.
    area.0[4] = 0xff;
    area.0[MXCSR..MXCSR + 4].copy_from_slice(&SEEDED_MXCSR.to_le_bytes());
    for range in [X87, SSE, AVX] {
        for byte in &mut area.0[range] {
            *byte = random.draw() as u8 | 1;
        }
    }
    // Only ten bytes of each x87 register exist.
    for register in area.0[X87].chunks_exact_mut(16) {
        register[10..].fill(0);
    }
    area.0[HEADER] = components() as u8;
    area
}

/// Loads the state of a seed.
pub fn load_seed(seed: u64) {
    let area = seeded(seed);
    // SAFETY: the area is aligned, its header names components that exist, and MXCSR has no
    // reserved bit set. The compiler uses none of these registers: the target is soft-float.
    unsafe {
        asm!("xrstor64 [{}]", in(reg) area.0.as_ptr(), in("eax") components(), in("edx") 0,
             options(nostack));
    }
}

/// How many bytes of the registers differ from a seed's state; seed 0 is the initial state.
pub fn differences(seed: u64) -> u64 {
    let now = save();
    let wanted = if seed == 0 { initial() } else { seeded(seed) };
    let mut count = 0;
    // Control word, tag word, MXCSR; what a register in its initial state holds is not stored.
    for range in [0..2, 4..5, MXCSR..MXCSR + 4, X87, SSE, AVX] {
        let stored = range.start < AVX.start || components() & 4 != 0;
        let pairs = now.0[range.clone()].iter().zip(&wanted.0[range]);
        count += pairs.filter(|(a, b)| stored && a != b).count() as u64;
    }
    count
}

fn initial() -> Area {
    let mut area = Area([0; BYTES]);
    area.0[..2].copy_from_slice(&0x037f_u16.to_le_bytes());
    area.0[MXCSR..MXCSR + 4].copy_from_slice(&0x1f80_u32.to_le_bytes());
    area
}

/// Whether this life began with other registers than a new task's.
pub fn is_dirty() -> bool {
    has_fpu() && differences(0) != 0
}

/// Holds a seed's state; see `orders::FPU_HOLD`. Results: how often it looked, how many bytes
/// were wrong, how often it was away from the CPU.
pub fn hold(boss: &Boss, seed: u64, ticks: u64) {
    load_seed(seed);
    let start = Instant::now().tsc();
    let (mut last, mut looks, mut wrong, mut away) = (start, 0, 0, 0);
    let mut usual = u64::MAX;
    while last - start < ticks {
        wrong += differences(seed);
        looks += 1;
        boss.page.add(BEAT, 1);
        let now = Instant::now().tsc();
        usual = usual.min(now - last);
        away += u64::from(now - last > usual.saturating_mul(3));
        last = now;
    }
    for (index, value) in [looks, wrong, away].into_iter().enumerate() {
        boss.result(index, value);
    }
}
