//! Starting the other cores (Intel SDM, "MP Initialization Protocol Algorithm").

use super::{apic, window};
use crate::arch::x86_64::entry;
use cloister_abi::layout::MAX_CORES;
use core::arch::global_asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Where the real-mode code is copied to: below 1 MiB, page aligned.
pub const TRAMPOLINE: u64 = 0x8000;

global_asm!(include_str!("trampoline.s"));

unsafe extern "C" {
    static trampoline: [u8; 0];
    static trampoline_end: [u8; 0];
}

/// What a starting core looks itself up in; `entry.s` knows the layout.
#[repr(C)]
struct Start {
    asked: AtomicU32,
    apic_id: AtomicU32,
    cr3: AtomicU64,
}

#[unsafe(export_name = "AP_LIST")]
static AP_LIST: [Start; MAX_CORES] = [const {
    Start { asked: AtomicU32::new(0), apic_id: AtomicU32::new(0), cr3: AtomicU64::new(0) }
}; MAX_CORES];

/// Copies the trampoline to its place.
///
/// # Safety
/// The page at [`TRAMPOLINE`] is ordinary memory that nobody uses, physical memory is mapped at
/// [`window::PHYSICAL`], and `pml4` is the boot stub's top table, below 4 GiB.
pub unsafe fn prepare(pml4: u64) {
    let to = (window::PHYSICAL + TRAMPOLINE) as *mut u8;
    let from = &raw const trampoline;
    let len = (&raw const trampoline_end) as usize - from as usize;
    assert!(len <= 4096, "the trampoline is longer than its page");
    // SAFETY: the code fits the page, which is free memory (this function's condition).
    unsafe { core::ptr::copy_nonoverlapping(from.cast(), to, len) };
    let parameters = (window::PHYSICAL + TRAMPOLINE + 8) as *mut [u64; 2];
    // SAFETY: the two words behind the jump are parameters, see trampoline.s; they are aligned.
    unsafe { parameters.write([pml4, entry::ap_entry as *const () as u64]) };
}

/// Asks a core to start on the address space `cr3`: INIT at the first call, then a start-up IPI
/// at every call (a core that runs ignores it). `false`: the APIC id is another core's, or was
/// another one at the first call.
pub fn start(core: usize, apic_id: u32, cr3: u64) -> bool {
    let Some(slot) = AP_LIST.get(core) else { return false };
    let asked = |slot: &Start| slot.asked.load(Ordering::Relaxed) != 0;
    let taken = AP_LIST.iter().enumerate().any(|(other, slot)| {
        let same_id = slot.apic_id.load(Ordering::Relaxed) == apic_id;
        asked(slot) && same_id != (other == core) && (same_id || other == core)
    });
    if taken || apic_id == apic::id() {
        return false;
    }
    slot.apic_id.store(apic_id, Ordering::Relaxed);
    slot.cr3.store(cr3, Ordering::Relaxed);
    if slot.asked.swap(1, Ordering::Release) == 0 {
        apic::send(apic_id, apic::INIT);
    }
    apic::send(apic_id, apic::STARTUP | (TRAMPOLINE >> 12) as u32);
    true
}
