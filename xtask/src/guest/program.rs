//! Guests that are plain ELFs: unikernels of this workspace and foreign ones.
//!
//! Their loadable segments lie at their physical addresses, the entry is 64-bit code. Such a
//! guest finds the size of its RAM in `rsi` and its stack at the end of RAM.

use anyhow::{Context, Result, bail};

use super::layout::{Entry, Layout, Piece, Start};
use super::pvh;
use crate::image::elf::Elf;

/// The layout of an ELF with a 64-bit entry.
pub fn layout(elf: &Elf, memory: u64) -> Result<Layout> {
    if pvh::entry(&elf.file)?.map(u64::from) == Some(elf.entry) {
        bail!(
            "{}: its e_entry {:#x} is the 32-bit entry of its PVH note; write entry = \"pvh\"",
            elf.name,
            elf.entry
        );
    }
    let entry = Entry::Bits64 { at: elf.entry, stack: memory };
    let start = Start { entry, argument: memory, khz_at: 0 };
    Ok(Layout { memory, pieces: pieces(elf)?, start })
}

/// An ELF's loadable segments, at their physical addresses.
pub fn pieces(elf: &Elf) -> Result<Vec<Piece>> {
    if elf.segments.is_empty() {
        bail!("{} has no loadable segment", elf.name);
    }
    let piece = |segment: &crate::image::elf::Loaded| {
        let what = format!("the segment at {:#x} of {}", segment.pa, elf.name);
        segment.pa.checked_add(segment.len).with_context(|| format!("{what} wraps"))?;
        Ok(Piece {
            what,
            to: segment.pa,
            bytes: segment.bytes.clone(),
            len: segment.len,
            is_executable: segment.is_executable,
        })
    };
    elf.segments.iter().map(piece).collect()
}
