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
        bail!(
            "{} has no note XEN_ELFNOTE_PHYS32_ENTRY; without `entry` it is entered at e_entry in \
               64-bit mode",
            elf.name
        );
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::sample::{self, ENTRY_32};

    fn u32_at(ram: &[u8], at: u64) -> u32 {
        let at = at as usize;
        u32::from_le_bytes(ram[at..at + 4].try_into().expect("four bytes"))
    }

    #[test]
    fn the_guest_finds_its_start_info() {
        let elf = Elf::parse("x.elf", sample::program()).expect("a good ELF");
        let layout = layout(&elf, &sample::request()).expect("a good layout");
        let (header, ram) = sample::started(&layout.render(&[]).expect("an image"));
        assert_eq!(header.stack, ENTRY_32);
        // Offsets by Xen's "x86/HVM direct boot ABI", the table of `hvm_start_info`.
        let info = header.argument;
        assert_eq!(u32_at(&ram, info), 0x336e_c578, "magic");
        assert_eq!(u32_at(&ram, info + 4), 1, "version");
        assert_eq!(u32_at(&ram, info + 12), 0, "modules");
        assert_eq!(u32_at(&ram, info + 24), 0, "command line");
        assert_eq!(u64::from(u32_at(&ram, info + 32)), acpi::PLACE.start, "RSDP");
        let (map, entries) = (u32_at(&ram, info + 40), u32_at(&ram, info + 48));
        assert_eq!(entries, 4);
        let last = u64::from(map) + 24 * 2;
        assert_eq!((u32_at(&ram, last), u32_at(&ram, last + 8)), (0x10_0000, 1 << 20));
        assert_eq!(u32_at(&ram, last + 16), 1, "RAM");
        assert_eq!(&ram[0xe_0000..0xe_0008], b"RSD PTR ");
    }

    #[test]
    fn notes_are_found_and_judged() {
        assert_eq!(entry(&sample::program()).expect("good"), Some(ENTRY_32 as u32));
        let without = sample::elf(sample::ENTRY, &sample::parts());
        assert_eq!(entry(&without).expect("good"), None);
        let elf = Elf::parse("x.elf", without).expect("a good ELF");
        let error = layout(&elf, &sample::request()).expect_err("no note");
        assert!(error.to_string().starts_with("x.elf has no note XEN_ELFNOTE_PHYS32_ENTRY"));
        let high = sample::with_note(sample::note(1 << 32));
        let error = entry(&high).expect_err("an entry above 4 GiB");
        assert!(error.to_string().contains("[00, 00, 00, 00, 01, 00, 00, 00]"), "{error}");
        let mut cut = sample::note(ENTRY_32);
        cut[4] = 200;
        assert!(entry(&sample::with_note(cut)).is_err(), "a note longer than its segment");
    }

    #[test]
    fn a_32_bit_entry_is_not_taken_for_a_64_bit_one() {
        let file = sample::elf_with_entry(ENTRY_32);
        let elf = Elf::parse("x.elf", file).expect("a good ELF");
        let error = program::layout(&elf, 2 << 20).expect_err("32-bit code");
        assert!(error.to_string().contains("write entry = \"pvh\""), "{error}");
    }

    #[test]
    fn damaged_elves_are_refused_or_laid_out_but_never_harm() {
        let good = sample::program();
        let head = 64 + 3 * 56;
        let mut refused = 0;
        for at in 0..head {
            for bit in 0..8 {
                let mut file = good.clone();
                file[at] ^= 1 << bit;
                let Ok(elf) = Elf::parse("x.elf", file) else {
                    refused += 1;
                    continue;
                };
                let layouts = [layout(&elf, &sample::request()), program::layout(&elf, 2 << 20)];
                for layout in layouts.into_iter().flatten() {
                    match layout.render(&[]) {
                        Ok(image) => drop(sample::started(&image)),
                        Err(_) => refused += 1,
                    }
                }
            }
        }
        for len in 0..good.len() {
            let cut = Elf::parse("x.elf", good[..len].to_vec());
            let laid = cut.and_then(|elf| layout(&elf, &sample::request()));
            assert!(laid.is_err(), "cut to {len} bytes");
        }
        assert!(refused > head, "only {refused} refused");
    }
}
