//! CPU features, control registers, ports and counters.

use crate::flush;
use core::arch::asm;
use core::arch::x86_64::__cpuid_count;
use x86::controlregs::{self, Cr4};
use x86::msr;

/// Reads a port.
pub fn inb(port: u16) -> u8 {
    // SAFETY: the kernel reads only ports that it drives itself; no memory is touched.
    unsafe { x86::io::inb(port) }
}

/// Writes a port.
pub fn outb(port: u16, value: u8) {
    // SAFETY: the kernel writes only ports that it drives itself; none starts DMA.
    unsafe { x86::io::outb(port, value) }
}

/// Writes a 16-bit port.
pub fn outw(port: u16, value: u16) {
    // SAFETY: as for `outb`.
    unsafe { x86::io::outw(port, value) }
}

/// Reads a 32-bit port.
pub fn inl(port: u16) -> u32 {
    // SAFETY: as for `inb`.
    unsafe { x86::io::inl(port) }
}

/// Writes a 32-bit port.
pub fn outl(port: u16, value: u32) {
    // SAFETY: as for `outb`.
    unsafe { x86::io::outl(port, value) }
}

/// Reads the time stamp counter.
#[inline(always)]
pub fn rdtsc() -> u64 {
    let (low, high): (u64, u64);
    // SAFETY: no memory is touched.
    unsafe { asm!("rdtsc", out("rax") low, out("rdx") high, options(nomem, nostack)) };
    high << 32 | low
}

/// What this CPU has, read once at boot.
#[derive(Clone, Copy, Debug, Default)]
pub struct Features {
    /// x2APIC mode.
    pub x2apic: bool,
    /// Supervisor-mode execution prevention.
    pub smep: bool,
    /// Supervisor-mode access prevention.
    pub smap: bool,
    /// User-mode instruction prevention.
    pub umip: bool,
    /// XSAVE, and the bytes that the enabled state needs.
    pub xsave: bool,
    /// AVX.
    pub avx: bool,
    /// Indirect branch predictor barrier.
    pub ibpb: bool,
    /// VERW clears CPU buffers.
    pub verw: bool,
    /// RDTSCP, and the register that it reads.
    pub rdtscp: bool,
}

impl Features {
    /// The kernel's own XCR0: what XSAVE saves of every thread. 0 without XSAVE.
    pub fn xcr0(&self) -> u64 {
        match (self.xsave, self.avx) {
            (false, _) => 0,
            (true, false) => 3,
            (true, true) => 7,
        }
    }
}

/// CPUID leaf `leaf`, subleaf `sub`.
pub fn cpuid(leaf: u32, sub: u32) -> core::arch::x86_64::CpuidResult {
    __cpuid_count(leaf, sub)
}

/// Reads the feature bits (Intel SDM, "CPUID"; AMD APM, "Obtaining Processor Information").
pub fn features() -> Features {
    let one = cpuid(1, 0);
    let seven = (cpuid(0, 0).eax >= 7).then(|| cpuid(7, 0));
    let [ebx, ecx, edx] = seven.map_or([0; 3], |leaf| [leaf.ebx, leaf.ecx, leaf.edx]);
    let amd = if cpuid(0x8000_0000, 0).eax >= 0x8000_0008 { cpuid(0x8000_0008, 0).ebx } else { 0 };
    let bit = |word: u32, n: u32| word >> n & 1 != 0;
    Features {
        x2apic: bit(one.ecx, 21),
        smep: bit(ebx, 7),
        smap: bit(ebx, 20),
        umip: bit(ecx, 2),
        xsave: bit(one.ecx, 26),
        avx: bit(one.ecx, 28),
        ibpb: bit(edx, 26) || bit(amd, 12),
        verw: bit(edx, 10),
        rdtscp: bit(cpuid(0x8000_0001, 0).edx, 27),
    }
}

/// PE, MP, NE, WP, PG and, so that floating point faults, TS.
const CR0: u64 = 1 | 2 | 1 << 5 | 1 << 16 | 1 << 31 | CR0_TS;
/// Task switched: floating point instructions fault.
const CR0_TS: u64 = 1 << 3;

/// Puts this core's control registers into the state in which the kernel runs.
///
/// # Safety
/// Paging is on with tables that keep supervisor code off user pages.
pub unsafe fn enable(features: &Features) {
    let mut cr4 = Cr4::CR4_ENABLE_PAE | Cr4::CR4_ENABLE_MACHINE_CHECK;
    cr4 |= Cr4::CR4_ENABLE_SSE | Cr4::CR4_UNMASKED_SSE;
    cr4.set(Cr4::CR4_ENABLE_OS_XSAVE, features.xsave);
    cr4.set(Cr4::CR4_ENABLE_SMEP, features.smep);
    cr4.set(Cr4::CR4_ENABLE_SMAP, features.smap);
    cr4.set(Cr4::CR4_ENABLE_UMIP, features.umip);
    // SAFETY: PAE stays on; the added bits only forbid (SMEP, SMAP, UMIP) or enable FPU state.
    unsafe { controlregs::cr4_write(cr4) };
    // SAFETY: paging and protection stay on.
    unsafe { asm!("mov cr0, {}", in(reg) CR0, options(nostack)) };
    set_xcr0(features, features.xcr0());
}

/// Loads XCR0 with some of the bits of [`Features::xcr0`].
pub fn set_xcr0(features: &Features, mask: u64) {
    if features.xsave {
        // SAFETY: x87 and SSE state are always legal in XCR0, AVX where CPUID says so.
        unsafe { asm!("xsetbv", in("ecx") 0, in("eax") mask, in("edx") 0, options(nostack)) };
    }
}

/// Writes the cache line of a word back to memory, for hardware that reads past the caches.
pub fn write_back(word: &u64) {
    // SAFETY: the contents of memory stay the same.
    unsafe { asm!("clflush [{}]", in(reg) word, options(nostack, preserves_flags)) };
}

/// All stores and write-backs before are done before anything behind.
pub fn fence() {
    // SAFETY: a barrier.
    unsafe { asm!("mfence", options(nostack, preserves_flags)) };
}

/// Loads the register that RDTSCP reads.
pub fn set_tsc_aux(features: &Features, value: u32) {
    if features.rdtscp {
        // SAFETY: the register exists where RDTSCP does, and is a plain number.
        unsafe { msr::wrmsr(0xc000_0103, u64::from(value)) };
    }
}

/// The debug address registers.
pub fn debug_registers() -> [u64; 4] {
    let (a, b, c, d);
    // SAFETY: reading them touches no memory.
    unsafe {
        asm!("mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3", out(reg) a, out(reg) b,
            out(reg) c, out(reg) d, options(nomem, nostack));
    }
    [a, b, c, d]
}

/// Loads the debug address registers. DR7, which gives them a meaning, is the guest's own.
pub fn set_debug_registers(values: [u64; 4]) {
    let [a, b, c, d] = values;
    // SAFETY: the kernel's DR7 enables none of them.
    unsafe {
        asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}", in(reg) a, in(reg) b,
            in(reg) c, in(reg) d, options(nomem, nostack));
    }
}

/// DR6, which tells what a debug exception was.
pub fn debug_status() -> u64 {
    let value;
    // SAFETY: reading it touches no memory.
    unsafe { asm!("mov {}, dr6", out(reg) value, options(nomem, nostack)) };
    value
}

/// Loads DR6. Bits that the CPU does not have are cut off.
pub fn set_debug_status(value: u64) {
    let value = value & 0x1_f00f | 0xfffe_0ff0;
    // SAFETY: it enables nothing.
    unsafe { asm!("mov dr6, {}", in(reg) value, options(nomem, nostack)) };
}

/// Lets floating point instructions fault (`false`) or work (`true`) on this core.
pub fn allow_fpu(allow: bool) {
    let cr0 = if allow { CR0 & !CR0_TS } else { CR0 };
    // SAFETY: only the TS bit differs from the value in force.
    unsafe { asm!("mov cr0, {}", in(reg) cr0, options(nostack)) };
}

/// Loads an address space on `core`, this one.
///
/// # Safety
/// `cr3` is a thread's top page table; it maps the kernel and this core's window.
#[inline(always)]
pub unsafe fn load_space(cr3: u64, core: u32) {
    // SAFETY: the caller's condition.
    unsafe { asm!("mov cr3, {}", in(reg) cr3, options(nostack)) };
    flush::loaded(core, cr3);
}

/// The address of the last page fault.
pub fn fault_address() -> u64 {
    // SAFETY: reading CR2 touches no memory.
    unsafe { controlregs::cr2() as u64 }
}

/// Programs the system call registers (Intel SDM, "SYSCALL—Fast System Call").
///
/// # Safety
/// `entry` is the kernel's system call entry.
pub unsafe fn enable_syscall(entry: u64) {
    // Kernel selectors 0x08 and 0x10, user selectors 0x18 and 0x20.
    let star = 0x10_u64 << 48 | 0x08_u64 << 32;
    // Cleared at entry: trap, interrupt, direction, nested task, resume, alignment check.
    let mask = 0x100 | 0x200 | 0x400 | 0x4000 | 0x1_0000 | 0x4_0000;
    // SAFETY: selectors of our own descriptor table.
    unsafe { msr::wrmsr(msr::IA32_STAR, star) };
    // SAFETY: the caller's condition.
    unsafe { msr::wrmsr(msr::IA32_LSTAR, entry) };
    // SAFETY: clearing flags at entry is always safe.
    unsafe { msr::wrmsr(msr::IA32_FMASK, mask) };
    // SAFETY: a null code segment makes SYSENTER a #GP.
    unsafe { msr::wrmsr(msr::IA32_SYSENTER_CS, 0) };
    // SAFETY: reading EFER is always legal in long mode.
    let efer = unsafe { msr::rdmsr(msr::IA32_EFER) };
    // SAFETY: sets SCE and NXE, keeps long mode.
    unsafe { msr::wrmsr(msr::IA32_EFER, efer | 1 | 1 << 11) };
}

/// Flushes what a trust domain left in the predictors and buffers of this core.
#[inline(always)]
pub fn domain_barrier(features: &Features) {
    if features.ibpb {
        // SAFETY: IA32_PRED_CMD exists where IBPB does; bit 0 is a command without state.
        unsafe { msr::wrmsr(0x49, 1) };
    }
    if features.verw {
        static SELECTOR: u16 = 0x10;
        // SAFETY: VERW reads the selector and changes flags only.
        unsafe { asm!("verw word ptr [{}]", sym SELECTOR, options(nostack, readonly)) };
    }
}

/// Stops this core for good.
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: interrupts stay off, so only an NMI or a reset ends the halt.
        unsafe { asm!("cli; hlt", options(nomem, nostack)) };
    }
}
