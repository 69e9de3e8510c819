//! Guests that are plain ELFs: unikernels of this workspace and foreign ones.
//!
//! Their loadable segments lie at their physical addresses, the entry is 64-bit code. Such a
//! guest finds the size of its RAM in `rsi` and its stack at the end of RAM; a program of the
//! workspace also finds a command line.

use anyhow::{Context, Result, bail};
use cloister_guest_abi::image::{COMMAND_LINE, COMMAND_LINE_MAX};

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

/// The command line as it lies in RAM; nothing for an empty one.
pub fn command_line(text: &str) -> Result<Option<Piece>> {
    if text.len() > COMMAND_LINE_MAX || text.contains('\0') {
        bail!("a command line has at most {COMMAND_LINE_MAX} bytes, none of them zero");
    }
    let piece = || Piece::data("the command line", COMMAND_LINE, text.as_bytes().to_vec());
    Ok((!text.is_empty()).then(piece))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_text_that_fits() {
        assert_eq!(command_line("").expect("none"), None);
        let piece = command_line("depth=32").expect("good").expect("some");
        assert_eq!((piece.to, piece.bytes.as_slice()), (COMMAND_LINE, &b"depth=32"[..]));
        assert!(command_line(&"x".repeat(COMMAND_LINE_MAX)).is_ok());
        for bad in ["x".repeat(COMMAND_LINE_MAX + 1), "a\0b".to_owned()] {
            assert!(command_line(&bad).is_err());
        }
    }
}
