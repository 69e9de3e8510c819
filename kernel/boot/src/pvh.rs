//! The PVH start info (Xen, "x86/HVM direct boot ABI", `hvm_start_info` version 1).

use crate::Refusal;
use crate::machine::Machine;
use cloister_abi::boot::{MAX_RANGES, MemRange};

const MAGIC: u32 = 0x336e_c578;

#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    command_line: u64,
    rsdp: u64,
    map: u64,
    map_entries: u32,
    reserved: u32,
}

/// Reads the start info.
///
/// # Safety
/// `address` came from a PVH loader in `ebx`, and memory below 4 GiB is mapped one to one.
pub unsafe fn read(address: u32) -> Result<Machine, Refusal> {
    if address == 0 || !address.is_multiple_of(4) {
        return Err(Refusal::NoStartInfo(address));
    }
    let pointer = address as usize as *const StartInfo;
    // SAFETY: the loader's structure lies in mapped memory (this function's condition).
    let info = unsafe { pointer.read_unaligned() };
    let usable = info.magic == MAGIC && info.version >= 1 && info.map != 0;
    if !usable || info.map >> 32 != 0 {
        return Err(Refusal::NoStartInfo(info.magic));
    }
    let count = (info.map_entries as usize).min(MAX_RANGES);
    let mut ranges = [MemRange::default(); MAX_RANGES];
    for (index, range) in ranges.iter_mut().take(count).enumerate() {
        let entry = (info.map as usize + index * size_of::<MemRange>()) as *const MemRange;
        // SAFETY: the table has `map_entries` entries of this layout in mapped memory.
        *range = unsafe { entry.read_unaligned() };
    }
    Ok(Machine { rsdp: info.rsdp, count, ranges })
}
