//! The bootable file: an ELF with the boot stub, the payload and the PVH note.
//!
//! QEMU's `-kernel` and other PVH loaders copy the two loadable segments to their physical
//! addresses and jump to the entry that the note names. The note stays where it is in the stub;
//! only a program header points at it.

use anyhow::{Context, Result, anyhow, bail};
use cloister_abi::payload::{PAYLOAD_BASE, STUB_BASE, STUB_MAX};
use object::Endianness;
use object::elf;
use object::write::elf::{FileHeader, ProgramHeader, Writer};

use crate::image::elf::Elf;

/// Alignment of what lies in the file.
const ALIGN: u64 = 4096;

/// The stub as one piece of memory at [`STUB_BASE`].
struct Flat {
    bytes: Vec<u8>,
    len: u64,
}

/// Writes the bootable file.
pub fn image(stub: &Elf, payload: &[u8]) -> Result<Vec<u8>> {
    let flat = flatten(stub)?;
    let (note, note_len) = stub.pvh_note.with_context(|| {
        format!("{} has no PVH note, so no loader would find its entry", stub.name)
    })?;
    let held = STUB_BASE..=STUB_BASE + flat.bytes.len() as u64;
    if !held.contains(&note) || !held.contains(&(note + note_len)) {
        bail!("{}: the PVH note at {note:#x} is not in the stub's bytes", stub.name);
    }
    let mut file = Vec::new();
    let mut writer = Writer::new(Endianness::Little, true, &mut file);
    writer.reserve_file_header();
    writer.reserve_program_headers(3);
    let stub_at = writer.reserve(flat.bytes.len() as u64, ALIGN);
    let payload_at = writer.reserve(payload.len() as u64, ALIGN);
    let header = FileHeader {
        os_abi: elf::ELFOSABI_NONE,
        abi_version: 0,
        e_type: elf::ET_EXEC,
        e_machine: elf::EM_X86_64,
        e_entry: stub.entry,
        e_flags: elf::FileFlags(0),
    };
    writer.write_file_header(&header).map_err(|error| anyhow!("cannot write the ELF: {error}"))?;
    writer.write_align_program_headers();
    let stub_len = flat.bytes.len() as u64;
    let payload_len = payload.len() as u64;
    let all = elf::PF_R | elf::PF_W | elf::PF_X;
    let mut part = |p_type, p_flags, p_offset, va, p_filesz, p_memsz| {
        writer.write_program_header(&ProgramHeader {
            p_type,
            p_flags,
            p_offset,
            p_vaddr: va,
            p_paddr: va,
            p_filesz,
            p_memsz,
            // A note's own alignment is what readers take from its program header.
            p_align: if p_type == elf::PT_NOTE { 4 } else { ALIGN },
        });
    };
    part(elf::PT_LOAD, all, stub_at, STUB_BASE, stub_len, flat.len);
    part(elf::PT_LOAD, elf::PF_R, payload_at, PAYLOAD_BASE, payload_len, payload_len);
    part(elf::PT_NOTE, elf::PF_R, stub_at + (note - STUB_BASE), note, note_len, note_len);
    writer.pad_until(stub_at);
    writer.write(&flat.bytes);
    writer.pad_until(payload_at);
    writer.write(payload);
    Ok(file)
}

/// The stub's segments in one; its zeroed memory ends below the payload.
fn flatten(stub: &Elf) -> Result<Flat> {
    let mut flat = Flat { bytes: Vec::new(), len: 0 };
    for segment in &stub.segments {
        let Some(offset) = segment.va.checked_sub(STUB_BASE) else {
            bail!("{}: a segment at {:#x} lies below {STUB_BASE:#x}", stub.name, segment.va);
        };
        let end = offset + segment.len;
        if STUB_BASE + end > PAYLOAD_BASE {
            bail!(
                "{} reaches {:#x}, the payload begins at {PAYLOAD_BASE:#x}",
                stub.name,
                STUB_BASE + end
            );
        }
        let file_end = offset + segment.bytes.len() as u64;
        if file_end > STUB_MAX && !segment.bytes.is_empty() {
            bail!(
                "the boot stub {} has {file_end} bytes, at most {STUB_MAX} are possible, as no \
                 checksum covers them",
                stub.name
            );
        }
        flat.len = flat.len.max(end);
        if !segment.bytes.is_empty() {
            let place = offset as usize..file_end as usize;
            flat.bytes.resize(flat.bytes.len().max(place.end), 0);
            flat.bytes[place].copy_from_slice(&segment.bytes);
        }
    }
    if flat.bytes.is_empty() {
        bail!("{} has no loadable segment", stub.name);
    }
    Ok(flat)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::sample;

    fn stub() -> Elf {
        Elf::parse("stub", sample::stub()).expect("a good stub")
    }

    #[test]
    fn an_image_reads_back_as_stub_and_payload() {
        let payload = sample::payload().bytes;
        let file = image(&stub(), &payload).expect("an image");
        let read = Elf::parse("image", file.clone()).expect("an ELF");
        let [stub_segment, payload_segment] = read.segments.as_slice() else {
            panic!("two segments")
        };
        assert_eq!((stub_segment.pa, payload_segment.pa), (STUB_BASE, PAYLOAD_BASE));
        assert_eq!(payload_segment.bytes, payload);
        assert_eq!(stub_segment.bytes, stub().segments[0].bytes);
        assert_eq!(
            (read.entry, read.pvh_note),
            (sample::STUB_ENTRY, Some((sample::STUB_NOTE, 24)))
        );
        assert_eq!(image(&stub(), &payload).expect("an image"), file);
    }

    #[test]
    fn stubs_that_do_not_fit_are_refused() {
        type Spoil = fn(&mut Elf);
        let cases: [(Spoil, &str); 5] = [
            (|s| s.segments[0].bytes.resize(STUB_MAX as usize + 1, 0), "has 32769 bytes"),
            (|s| s.segments[0].len = PAYLOAD_BASE, "the payload begins at 0x200000"),
            (|s| s.segments[0].va = 0, "lies below 0x100000"),
            (|s| s.pvh_note = None, "has no PVH note"),
            (|s| s.pvh_note = Some((PAYLOAD_BASE, 24)), "is not in the stub's bytes"),
        ];
        for (spoil, expected) in cases {
            let mut wrong = stub();
            spoil(&mut wrong);
            let error = image(&wrong, &[0; 4096]).expect_err("refused");
            assert!(format!("{error:#}").contains(expected), "{error:#}");
        }
    }
}
