//! What firmware would leave for a guest: the memory map, the ACPI tables, the code at the reset
//! vector, and the places below 1 MiB where all of it lies. docs/guests.md has the picture.

use std::ops::Range;

use cloister_guest_abi::platform;

use super::Request;
use super::acpi::{self, Platform};
use super::layout::Piece;

/// Where the boot parameters of any protocol lie: one page.
pub const PARAMETERS: u64 = 0x1_0000;
/// Where the command line or the list behind the parameters lies: one page.
pub const BEHIND: u64 = 0x1_1000;
/// RAM below 1 MiB that a guest may use: page 0 and what a PC keeps behind 0x9f000 apart.
const LOW: Range<u64> = 0x1000..0x9_f000;
/// RAM from here on.
const HIGH: u64 = 0x10_0000;

/// Where a real-mode reset begins to execute: F000:FFF0.
const RESET_VECTOR: u64 = 0xf_fff0;
/// `mov al, RESET_VALUE; mov dx, RESET; out dx, al; hlt`. A hardware-reduced Linux without EFI
/// jumps there to reboot, unless its command line says otherwise.
const RESET_CODE: [u8; 7] = {
    let [low, high] = platform::RESET.to_le_bytes();
    [0xb0, platform::RESET_VALUE, 0xba, low, high, 0xee, 0xf4]
};

/// Kinds of memory (ACPI 6.5, "INT 15H, E820H - Query System Address Map").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// RAM.
    Ram = 1,
    /// Not to be used.
    Reserved = 2,
    /// RAM with ACPI tables.
    Tables = 3,
}

/// The memory map. The image is not RAM, and no device may be put over it.
pub fn memory(memory: u64) -> [(Range<u64>, Kind); 4] {
    [
        (LOW, Kind::Ram),
        (acpi::PLACE, Kind::Tables),
        (HIGH..memory, Kind::Ram),
        (platform::SEGMENTS..platform::SEGMENTS_END, Kind::Reserved),
    ]
}

/// Tables and reset code for this guest.
pub fn pieces(request: &Request<'_>) -> [Piece; 2] {
    let platform = Platform {
        vcpus: request.vcpus,
        legacy: request.legacy,
        ioapic: request.ioapic,
        xapic: request.xapic,
    };
    [
        Piece::data("the ACPI tables", acpi::PLACE.start, acpi::tables(&platform)),
        Piece::data("the reset code", RESET_VECTOR, RESET_CODE.to_vec()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reset_code_writes_the_reset_register() {
        // mov al, 6; mov dx, 0xcf9; out dx, al; hlt (AMD64 Architecture Programmer's Manual,
        // volume 3, "MOV", "OUT", "HLT").
        assert_eq!(RESET_CODE, [0xb0, 0x06, 0xba, 0xf9, 0x0c, 0xee, 0xf4]);
        assert_eq!(RESET_VECTOR, (0xf000 << 4) + 0xfff0);
    }

    #[test]
    fn the_memory_map_is_sorted_and_ends_with_ram_below_the_image() {
        for size in [platform::MEMORY_MIN, platform::MEMORY_MAX] {
            let map = memory(size);
            assert!(map.windows(2).all(|pair| pair[0].0.end <= pair[1].0.start), "{map:x?}");
            assert!(map.iter().all(|(range, _)| !range.is_empty()));
            let last = map.iter().filter(|(_, kind)| *kind == Kind::Ram).map(|(r, _)| r.end).max();
            assert_eq!(last, Some(size));
        }
    }
}
