//! From a checked payload to the kernel's first instruction.

use crate::{Refusal, check, machine::Machine};
use cloister_abi::boot::{BOOT_MAGIC, BootInfo};
use cloister_abi::layout::{KERNEL_BASE, KERNEL_MAX, PAGE};
use cloister_abi::payload::{Header, PAYLOAD_BASE, SEGMENT_EXEC, SEGMENT_WRITE};
use cloister_boot::Damage;
use core::arch::asm;
use core::convert::Infallible;

unsafe extern "C" {
    static mut stub_pml4: [u64; 512];
    /// Page-directory-pointer table, page directory and page table of the kernel's half.
    static mut stub_high_tables: [[u64; 512]; 3];
    static stub_tsc: u64;
}

const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const NO_EXEC: u64 = 1 << 63;

/// What the header asks for cannot be.
fn refused(what: &'static str) -> Refusal {
    Refusal::Damaged(Damage::Layout(what))
}

fn rdtsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading the time stamp counter touches no memory.
    unsafe { asm!("rdtsc", out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Checks the payload and starts the kernel; returns only with a reason not to.
///
/// # Safety
/// As for `stub_main`.
pub unsafe fn run(start_info: u32) -> Result<Infallible, Refusal> {
    // SAFETY: the caller passes on the loader's register.
    let machine = unsafe { Machine::read(start_info) }?;
    // SAFETY: the memory map is the loader's, and only this CPU runs.
    let header = unsafe { check::payload(|base, len| machine.has_ram(base, len)) }?;
    let tsc_checked = rdtsc();
    let zero_pages: u64 = header.kernel.iter().map(|s| u64::from(s.zero_pages)).sum();
    let free = PAYLOAD_BASE + header.payload_len + zero_pages * PAGE;
    if !machine.has_ram(PAYLOAD_BASE, free - PAYLOAD_BASE) {
        return Err(Refusal::NoMemory { need: free - PAYLOAD_BASE });
    }
    // SAFETY: the tables are the stub's own and not in use yet; the memory was checked above.
    unsafe { map_kernel(&header) }?;
    let info = BootInfo {
        magic: BOOT_MAGIC,
        rsdp: machine.rsdp,
        payload: PAYLOAD_BASE,
        payload_len: header.payload_len,
        free,
        pml4: (&raw const stub_pml4) as u64,
        // SAFETY: written once by start.s, before this code ran.
        tsc_start: unsafe { (&raw const stub_tsc).read() },
        tsc_checked,
        range_count: machine.count as u64,
        ranges: machine.ranges,
    };
    // SAFETY: (1) the kernel is mapped at its addresses; (2) `info` and this stack stay mapped one
    // to one until the kernel has left them; (3) the entry never returns.
    unsafe {
        asm!("call {}", "ud2", in(reg) header.kernel_entry, in("rdi") &raw const info,
            options(noreturn))
    }
}

/// Maps the kernel's segments in pages of 4 KiB, writable or executable, never both.
///
/// # Safety
/// The payload is checked and lies in memory together with the zeroed pages behind it.
unsafe fn map_kernel(header: &Header) -> Result<(), Refusal> {
    let tables = &raw mut stub_high_tables;
    let base = tables as u64;
    let mut zero = PAYLOAD_BASE + header.payload_len;
    for segment in &header.kernel {
        let pages = u64::from(segment.pages) + u64::from(segment.zero_pages);
        let end = segment.va.wrapping_add(pages * PAGE);
        let inside = segment.va >= KERNEL_BASE && end <= KERNEL_BASE + KERNEL_MAX;
        if pages != 0 && (!inside || segment.va % PAGE != 0) {
            return Err(refused("a kernel segment's address"));
        }
        let (exec, write) = (segment.flags & SEGMENT_EXEC != 0, segment.flags & SEGMENT_WRITE != 0);
        if exec && write {
            return Err(refused("a kernel segment is writable and executable"));
        }
        let flags = PRESENT | if write { WRITE } else { 0 } | if exec { 0 } else { NO_EXEC };
        for page in 0..pages {
            let frame = if page < u64::from(segment.pages) {
                PAYLOAD_BASE + segment.offset + page * PAGE
            } else {
                // SAFETY: the page is free memory, checked by the caller.
                unsafe { (zero as *mut [u64; 512]).write([0; 512]) };
                zero += PAGE;
                zero - PAGE
            };
            let slot = ((segment.va - KERNEL_BASE) / PAGE + page) as usize;
            // SAFETY: `slot` is below 512 because the segment ends inside KERNEL_MAX.
            unsafe { (*tables)[2][slot] = frame | flags };
        }
    }
    // SAFETY: the directory has 512 entries; it maps the first 2 MiB of the kernel's half.
    unsafe { (*tables)[1][0] = (base + 2 * PAGE) | PRESENT | WRITE };
    // SAFETY: KERNEL_BASE is the last but one GiB: entry 510 of the last table.
    unsafe { (*tables)[0][510] = (base + PAGE) | PRESENT | WRITE };
    // SAFETY: entry 511 was empty: the stub maps only the first 4 GiB besides.
    unsafe { stub_pml4[511] = base | PRESENT | WRITE };
    Ok(())
}
