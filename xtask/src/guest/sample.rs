//! Small ELFs, kernels and requests for the tests of this folder, and the start code in Rust.

use std::path::Path;

use cloister_guest_abi::image::{
    GDT, HEADER, ImageHeader, KHZ_DIGITS, MAGIC, PAGE_TABLES, Segment,
};
use cloister_guest_abi::{VERSION, platform};
use object::Endianness;
use object::elf;
use object::write::elf::{FileHeader, ProgramHeader, Writer};
use zerocopy::FromBytes;

use super::Request;
use super::layout::PAGE;
use crate::install::Install;

/// Where the sample's code lies.
pub const CODE: u64 = 0x10_0000;
/// Where its data lies, with zeros behind it.
pub const DATA: u64 = 0x10_3000;
/// Entry of the sample.
pub const ENTRY: u64 = CODE + 0x10;
/// The entry that its PVH note names.
pub const ENTRY_32: u64 = CODE + 0x20;
/// A frequency.
pub const KHZ: u32 = 2_250_006;

/// A request for a machine with 2 MiB and two virtual CPUs.
pub fn request() -> Request<'static> {
    Request {
        vm: "test",
        guest_file: Path::new("test.toml"),
        memory: platform::MEMORY_MIN,
        vcpus: 2,
        legacy: false,
        ioapic: false,
        xapic: false,
        devices: 0,
        install: Install::Forbidden,
    }
}

/// A program header: type, flags, address, bytes and length in memory.
pub struct Part {
    pub p_type: elf::ProgramType,
    pub flags: elf::ProgramFlags,
    pub at: u64,
    pub bytes: Vec<u8>,
    pub len: u64,
}

/// An ELF of these parts.
pub fn elf(entry: u64, parts: &[Part]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut writer = Writer::new(Endianness::Little, true, &mut file);
    writer.reserve_file_header();
    writer.reserve_program_headers(parts.len() as u32);
    let offsets: Vec<_> =
        parts.iter().map(|part| writer.reserve(part.bytes.len() as u64, 16)).collect();
    let header = FileHeader {
        os_abi: elf::ELFOSABI_NONE,
        abi_version: 0,
        e_type: elf::ET_EXEC,
        e_machine: elf::EM_X86_64,
        e_entry: entry,
        e_flags: elf::FileFlags(0),
    };
    writer.write_file_header(&header).expect("a header");
    writer.write_align_program_headers();
    for (part, offset) in parts.iter().zip(&offsets) {
        writer.write_program_header(&ProgramHeader {
            p_type: part.p_type,
            p_flags: part.flags,
            p_offset: *offset,
            p_vaddr: part.at,
            p_paddr: part.at,
            p_filesz: part.bytes.len() as u64,
            p_memsz: part.len,
            p_align: 4,
        });
    }
    for (part, offset) in parts.iter().zip(&offsets) {
        writer.pad_until(*offset);
        writer.write(&part.bytes);
    }
    file
}

/// A note with the PVH entry.
pub fn note(entry: u64) -> Vec<u8> {
    let mut note: Vec<u8> = [4u32, 8, 18].into_iter().flat_map(u32::to_le_bytes).collect();
    note.extend_from_slice(b"Xen\0");
    note.extend_from_slice(&entry.to_le_bytes());
    note
}

/// The parts of the sample program.
pub fn parts() -> Vec<Part> {
    vec![
        Part {
            p_type: elf::PT_LOAD,
            flags: elf::PF_R | elf::PF_X,
            at: CODE,
            bytes: (0..0x1234u32).map(|n| n as u8 | 1).collect(),
            len: 0x1234,
        },
        Part {
            p_type: elf::PT_LOAD,
            flags: elf::PF_R | elf::PF_W,
            at: DATA,
            bytes: vec![7; 100],
            len: 0x2000,
        },
    ]
}

/// The sample with a PVH note.
pub fn program() -> Vec<u8> {
    build(ENTRY, note(ENTRY_32))
}

/// The sample with another entry.
pub fn elf_with_entry(entry: u64) -> Vec<u8> {
    build(entry, note(ENTRY_32))
}

/// The sample with another note.
pub fn with_note(note: Vec<u8>) -> Vec<u8> {
    build(ENTRY, note)
}

fn build(entry: u64, bytes: Vec<u8>) -> Vec<u8> {
    let mut parts = parts();
    let len = bytes.len() as u64;
    parts.push(Part { p_type: elf::PT_NOTE, flags: elf::PF_R, at: 0x20_0000, bytes, len });
    elf(entry, &parts)
}

/// What the start code makes of an image: the header and RAM, which held something else before.
/// It goes by the documentation of `guest_abi::image` alone and fails where an image breaks it.
pub fn started(image: &[u8]) -> (ImageHeader, Vec<u8>) {
    assert!((image.len() as u64).is_multiple_of(PAGE), "whole pages");
    let end = platform::SEGMENTS + image.len() as u64;
    assert!(end <= platform::SEGMENTS_END);
    let at = (HEADER - platform::SEGMENTS) as usize;
    let (header, mut rest) = ImageHeader::read_from_prefix(&image[at..]).expect("a header");
    assert_eq!((header.magic, header.version), (MAGIC, VERSION));
    let mut ram = vec![0xaa; header.memory as usize];
    let built = PAGE_TABLES as usize..(GDT + PAGE) as usize;
    ram[..built.start].fill(0);
    ram[built.end..].fill(0);
    for _ in 0..header.segments {
        let (segment, behind) = Segment::read_from_prefix(rest).expect("a record");
        rest = behind;
        let Segment { from, to, len } = segment;
        assert!([from, to, len].iter().all(|n| n.is_multiple_of(8)), "{segment:x?}");
        assert!(from >= HEADER && from + len <= end, "{segment:x?}");
        let to = to as usize..(to + len) as usize;
        assert!(to.end <= built.start || built.end <= to.start, "{segment:x?}");
        let from = (from - platform::SEGMENTS) as usize;
        ram[to.clone()].copy_from_slice(&image[from..from + to.len()]);
    }
    if header.khz_at != 0 {
        let digits = format!("{KHZ:<KHZ_DIGITS$}");
        let at = header.khz_at as usize;
        ram[at..at + KHZ_DIGITS].copy_from_slice(digits.as_bytes());
    }
    (header, ram)
}
