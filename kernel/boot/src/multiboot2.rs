//! The boot information of multiboot2 loaders ("Multiboot2 Specification", "Boot information
//! format"), for BIOS machines that a GRUB image starts.
//!
//! Only the memory map is used: the ACPI root pointer is a copy in ordinary memory, and `init`
//! finds the original in the BIOS area.

use crate::Refusal;
use crate::machine::Machine;
use cloister_abi::boot::{MAX_RANGES, MemRange};

/// Set in the register that `start.s` hands over: the address is that of a multiboot2 information,
/// which is 8-byte aligned.
pub const MARK: u32 = 1;

const TAG_END: u32 = 0;
const TAG_MEMORY_MAP: u32 = 6;
/// A loader's information is a few KiB.
const SIZE_MAX: u32 = 1 << 20;

/// Reads the memory map.
///
/// # Safety
/// `address` came from a multiboot2 loader in `ebx`, and memory below 4 GiB is mapped one to one.
pub unsafe fn read(address: u32) -> Result<Machine, Refusal> {
    let wrong = Refusal::NoStartInfo(address);
    let word = |at: u32| {
        // SAFETY: inside the information's size, which was checked, in mapped memory.
        unsafe { (at as usize as *const u32).read_unaligned() }
    };
    let size = word(address);
    let end = address.checked_add(size).filter(|_| size <= SIZE_MAX).ok_or(wrong)?;
    let mut tag = address.checked_add(8).ok_or(Refusal::NoStartInfo(size))?;
    while tag.checked_add(8).is_some_and(|head| head <= end) {
        let (kind, len) = (word(tag), word(tag + 4));
        let next = tag.checked_add(len.next_multiple_of(8)).filter(|next| *next <= end && len >= 8);
        if kind == TAG_END {
            break;
        }
        let next = next.ok_or(Refusal::NoStartInfo(kind))?;
        if kind == TAG_MEMORY_MAP && len >= 16 {
            return Ok(memory_map(tag + 16, tag + len, word(tag + 8).max(24)));
        }
        tag = next;
    }
    Err(Refusal::NoStartInfo(address))
}

/// The entries between two addresses, which lie inside the information.
fn memory_map(first: u32, end: u32, step: u32) -> Machine {
    let mut machine = Machine { rsdp: 0, count: 0, ranges: [MemRange::default(); MAX_RANGES] };
    let mut at = first;
    while machine.count < MAX_RANGES && at.checked_add(24).is_some_and(|entry| entry <= end) {
        let from = at as usize as *const MemRange;
        // SAFETY: the entry lies inside the information; base, length, type and a zero are what
        // a `MemRange` is made of, and the types are the same numbers.
        machine.ranges[machine.count] = unsafe { from.read_unaligned() };
        machine.count += 1;
        at = at.saturating_add(step);
    }
    machine
}
