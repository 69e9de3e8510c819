//! What the image builder needs of an ELF: loadable segments, entry, build id, the PVH note.
//!
//! The files come from our own compiler, but a truncated or foreign one must end in a message
//! that names it, never in a panic.

use std::path::Path;

use anyhow::{Context, Result, bail};
use cloister_manifest::program::{Program, Segment};
use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, Object};

/// Type of the Xen note that names the PVH entry (XEN_ELFNOTE_PHYS32_ENTRY).
const NOTE_PHYS32_ENTRY: u32 = 18;

/// An ELF that was read.
#[derive(Clone, Debug)]
pub struct Elf {
    /// What messages call it.
    pub name: String,
    /// The whole file.
    pub file: Vec<u8>,
    /// First instruction.
    pub entry: u64,
    /// Its loadable segments that have a size, by address.
    pub segments: Vec<Loaded>,
    /// GNU build id, if it has one.
    pub build_id: Option<[u8; 20]>,
    /// Virtual address and length of the segment with the PVH note.
    pub pvh_note: Option<(u64, u64)>,
}

/// A loadable segment.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Virtual address.
    pub va: u64,
    /// Physical address.
    pub pa: u64,
    /// Its bytes in the file.
    pub bytes: Vec<u8>,
    /// Its bytes in memory.
    pub len: u64,
    /// It holds instructions.
    pub is_executable: bool,
    /// It is written.
    pub is_writable: bool,
}

impl Elf {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self> {
        let file =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&path.display().to_string(), file)
    }

    /// Reads the bytes of a file; `name` is for messages.
    pub fn parse(name: &str, file: Vec<u8>) -> Result<Self> {
        let mut read = Self {
            name: name.to_owned(),
            file: Vec::new(),
            entry: 0,
            segments: Vec::new(),
            build_id: None,
            pvh_note: None,
        };
        read.fill(&file).with_context(|| format!("{name} is no program that can be used"))?;
        read.file = file;
        Ok(read)
    }

    fn fill(&mut self, file: &[u8]) -> Result<()> {
        let header = FileHeader64::<Endianness>::parse(file)?;
        let endian = header.endian()?;
        if header.e_type(endian) != elf::ET_EXEC || header.e_machine(endian) != elf::EM_X86_64 {
            bail!("it is not a statically linked x86-64 executable");
        }
        self.entry = header.e_entry(endian);
        for segment in header.program_headers(endian, file)? {
            match segment.p_type(endian) {
                elf::PT_LOAD if segment.p_memsz(endian) > 0 => {
                    self.segments.push(loaded(segment, endian, file)?);
                }
                elf::PT_NOTE => self.note(segment, endian, file)?,
                elf::PT_DYNAMIC | elf::PT_INTERP => bail!("it needs a dynamic linker"),
                _ => {}
            }
        }
        self.segments.sort_by_key(|segment| segment.va);
        let parsed = object::read::elf::ElfFile64::<Endianness>::parse(file)?;
        self.build_id = parsed.build_id()?.and_then(|id| id.try_into().ok());
        Ok(())
    }

    fn note(
        &mut self,
        segment: &elf::ProgramHeader64<Endianness>,
        endian: Endianness,
        file: &[u8],
    ) -> Result<()> {
        let Some(mut notes) = segment.notes(endian, file)? else {
            return Ok(());
        };
        while let Some(note) = notes.next()? {
            if note.name() == b"Xen" && note.n_type(endian) == elf::NoteType(NOTE_PHYS32_ENTRY) {
                self.pvh_note = Some((segment.p_vaddr(endian), segment.p_filesz(endian)));
            }
        }
        Ok(())
    }

    /// The ELF as a task program.
    pub fn program(&self) -> Program {
        let segment = |loaded: &Loaded| Segment {
            va: loaded.va,
            pristine_va: loaded.pa,
            bytes: loaded.bytes.clone(),
            len: loaded.len,
            is_executable: loaded.is_executable,
            is_writable: loaded.is_writable,
        };
        Program {
            entry: self.entry,
            segments: self.segments.iter().map(segment).collect(),
            build_id: self.build_id.unwrap_or_default(),
        }
    }

    /// The build id in hexadecimal, empty if there is none.
    pub fn build_id_text(&self) -> String {
        self.build_id.iter().flatten().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn loaded(
    segment: &elf::ProgramHeader64<Endianness>,
    endian: Endianness,
    file: &[u8],
) -> Result<Loaded> {
    let va = segment.p_vaddr(endian);
    let bytes = segment.data(endian, file).ok();
    let bytes = bytes.with_context(|| format!("the segment at {va:#x} reaches beyond the file"))?;
    let (len, flags) = (segment.p_memsz(endian), segment.p_flags(endian));
    if bytes.len() as u64 > len || va.checked_add(len).is_none() {
        bail!("the segment at {va:#x} has an impossible size");
    }
    Ok(Loaded {
        va,
        pa: segment.p_paddr(endian),
        bytes: bytes.to_vec(),
        len,
        is_executable: flags.0 & elf::PF_X.0 != 0,
        is_writable: flags.0 & elf::PF_W.0 != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::Elf;
    use crate::image::sample;

    #[test]
    fn a_program_is_read_with_its_segments_and_its_note() {
        let elf = Elf::parse("stub", sample::stub()).expect("a good ELF");
        assert_eq!((elf.entry, elf.segments.len()), (sample::STUB_ENTRY, 1));
        assert_eq!(elf.pvh_note, Some((sample::STUB_NOTE, 24)));
    }

    #[test]
    fn truncated_and_foreign_files_are_refused_without_a_panic() {
        let good = sample::stub();
        for len in 0..good.len() {
            // Cutting bytes that no segment covers does no harm; nothing may panic.
            let read = Elf::parse("cut", good[..len].to_vec());
            assert!(read.is_err() || len >= sample::STUB_FILE_END, "{len}");
        }
        for at in 0..good.len().min(400) {
            let mut flipped = good.clone();
            flipped[at] ^= 0x80;
            let _ = Elf::parse("flipped", flipped);
        }
        let error = Elf::parse("x.elf", b"#!/bin/sh".to_vec()).expect_err("no ELF");
        assert!(format!("{error:#}").starts_with("x.elf is no program"), "{error:#}");
    }
}
