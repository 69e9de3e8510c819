//! ELFs with a 32-bit entry by the PVH boot protocol (Xen, "x86/HVM direct boot ABI").
//!
//! Such an ELF names its entry in a note. The start code hands over in 64-bit mode; its second
//! part, `guest_abi::image::START_32`, goes back to 32-bit mode without paging. The guest finds
//! an `hvm_start_info` with the memory map and the ACPI tables, no command line and no modules.

use anyhow::{Context, Result, bail};
use linux_loader::start_info::{hvm_memmap_table_entry, hvm_start_info};
use object::elf::{FileHeader64, NoteType, PT_NOTE};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, elf};
use vm_memory::ByteValued;

use super::layout::{Entry, Layout, Piece, Start};
use super::{Request, acpi, map, program};
use crate::image::elf::Elf;

/// XEN_ELFNOTE_PHYS32_ENTRY.
const NOTE: elf::NoteType = NoteType(18);
/// `hvm_start_info::magic` ("xEn3" with the highest bit set).
const MAGIC: u32 = 0x336e_c578;
/// The first version with a memory map.
const VERSION: u32 = 1;

/// The layout of an ELF with a PVH note.
pub fn layout(elf: &Elf, request: &Request<'_>) -> Result<Layout> {
    let Some(at) = entry(&elf.file)? else {
        bail!("{} has no note XEN_ELFNOTE_PHYS32_ENTRY; without `entry` it is entered at e_entry in \
               64-bit mode", elf.name);
    };
    let mut pieces = program::pieces(elf)?;
    let map = map::memory(request.memory);
    let start_info = hvm_start_info {
        magic: MAGIC,
        version: VERSION,
        rsdp_paddr: acpi::PLACE.start,
        memmap_paddr: map::BEHIND,
        memmap_entries: map.len() as u32,
        ..hvm_start_info::default()
    };
    let list: Vec<u8> = map
        .iter()
        .map(|(range, kind)| hvm_memmap_table_entry {
            addr: range.start,
            size: range.end - range.start,
            type_: *kind as u32,
            reserved: 0,
        })
        .flat_map(|entry| entry.as_slice().to_vec())
        .collect();
    pieces.push(Piece::data("the start info", map::PARAMETERS, start_info.as_slice().to_vec()));
    pieces.push(Piece::data("the memory map", map::BEHIND, list));
    pieces.extend(map::pieces(request));
    let start = Start { entry: Entry::Bits32(at), argument: map::PARAMETERS, khz_at: 0 };
    Ok(Layout { memory: request.memory, pieces, start })
}

/// The entry that the note names.
pub fn entry(file: &[u8]) -> Result<Option<u32>> {
    let header = FileHeader64::<Endianness>::parse(file)?;
    let endian = header.endian()?;
    for segment in header.program_headers(endian, file)? {
        if segment.p_type(endian) != PT_NOTE {
            continue;
        }
        let Some(mut notes) = segment.notes(endian, file).context("a note is damaged")? else {
            continue;
        };
        while let Some(note) = notes.next().context("a note is damaged")? {
            if note.name() != b"Xen" || note.n_type(endian) != NOTE {
                continue;
            }
            // The protocol says 4 bytes; 64-bit kernels write 8.
            let at = match note.desc() {
                [a, b, c, d] | [a, b, c, d, 0, 0, 0, 0] => u32::from_le_bytes([*a, *b, *c, *d]),
                other => bail!(
                    "its note XEN_ELFNOTE_PHYS32_ENTRY holds {other:02x?}; 4 bytes are right, or 8 \
                     of which the last are zero"
                ),
            };
            return Ok(Some(at));
        }
    }
    Ok(None)
}
