//! What lies where in a guest's RAM, checked, and the image that the start code puts there.
//!
//! A [`Layout`] is a list of [`Piece`]s and a [`Start`]; [`Layout::render`] makes of it what
//! `cloister_guest_abi::image` describes: the start code's page, the header with its records, the
//! pages. Neighbours: `program` and `linux` make layouts. Invariant: in a rendered image no page
//! lies over another, over what the start code builds, or outside RAM, and equal layouts give
//! equal bytes.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Result, bail};
use cloister_guest_abi::image::{GDT, ImageHeader, KHZ_DIGITS, MAGIC, PAGE_TABLES, START_32, Segment};
use cloister_guest_abi::{VERSION, platform};
use zerocopy::IntoBytes;

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// What the start code builds in RAM: page tables and descriptors.
pub const BUILT: Range<u64> = PAGE_TABLES..GDT + PAGE;

/// Something that lies in RAM when the guest goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// What messages call it.
    pub what: String,
    /// Where it lies.
    pub to: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its length in RAM; behind its bytes there are zeros.
    pub len: u64,
    /// The guest may begin in it.
    pub is_executable: bool,
}

impl Piece {
    /// Data without zeros behind it.
    pub fn data(what: &str, to: u64, bytes: Vec<u8>) -> Self {
        let len = bytes.len() as u64;
        Self { what: what.to_owned(), to, bytes, len, is_executable: false }
    }

    /// The addresses, or none if they wrap.
    fn range(&self) -> Option<Range<u64>> {
        let len = self.len.max(self.bytes.len() as u64);
        Some(self.to..self.to.checked_add(len)?)
    }
}

/// Where and in which mode the guest goes on after the start code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// In 64-bit mode: first instruction, content of `rsp`.
    Bits64 {
        /// First instruction.
        at: u64,
        /// Content of `rsp`.
        stack: u64,
    },
    /// In 32-bit mode without paging.
    Bits32(u32),
}

/// How the guest goes on after the start code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Where and in which mode.
    pub entry: Entry,
    /// Content of `rsi`; in 32-bit mode of `ebx`.
    pub argument: u64,
    /// Where the frequency of the TSC is written, 0 for nowhere.
    pub khz_at: u64,
}

/// A guest's RAM at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of RAM.
    pub memory: u64,
    /// What is not zero, in any order.
    pub pieces: Vec<Piece>,
    /// How it goes on.
    pub start: Start,
}

impl Layout {
    /// The image: whole pages, with the start code in the first.
    pub fn render(&self, start_code: &[u8]) -> Result<Vec<u8>> {
        self.check()?;
        if start_code.len() as u64 > PAGE {
            bail!("the start code has {} bytes, its page has {PAGE}", start_code.len());
        }
        let runs = self.runs();
        let head = size_of::<ImageHeader>() + runs.len() * size_of::<Segment>();
        let first = PAGE + (head as u64).next_multiple_of(PAGE);
        let bytes: u64 = runs.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        let room = platform::SEGMENTS_END - platform::SEGMENTS;
        if first + bytes > room {
            bail!(
                "its image has {} bytes, the place for images has {room}; make it smaller",
                first + bytes
            );
        }
        let mut image = start_code.to_vec();
        image.resize(PAGE as usize, 0);
        image.extend_from_slice(self.header(runs.len()).as_bytes());
        let mut from = platform::SEGMENTS + first;
        for (to, bytes) in &runs {
            let len = bytes.len() as u64;
            image.extend_from_slice(Segment { from, to: *to, len }.as_bytes());
            from += len;
        }
        image.resize(first as usize, 0);
        for (_, bytes) in runs {
            image.extend_from_slice(&bytes);
        }
        Ok(image)
    }

    fn header(&self, segments: usize) -> ImageHeader {
        let (entry, stack) = match self.start.entry {
            Entry::Bits64 { at, stack } => (at, stack),
            Entry::Bits32(at) => (START_32, u64::from(at)),
        };
        ImageHeader {
            magic: MAGIC,
            version: VERSION,
            segments: segments as u32,
            memory: self.memory,
            entry,
            argument: self.start.argument,
            stack,
            khz_at: self.start.khz_at,
        }
    }

    /// The pages that are not zero, as runs of adjacent ones: address and bytes. Pages of zeros
    /// are left out, because RAM is zeroed before anything is copied.
    fn runs(&self) -> Vec<(u64, Vec<u8>)> {
        let mut pages: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for piece in &self.pieces {
            let mut at = piece.to;
            let mut rest = piece.bytes.as_slice();
            while !rest.is_empty() {
                let offset = (at % PAGE) as usize;
                let (now, later) = rest.split_at(rest.len().min(PAGE as usize - offset));
                if now.iter().any(|byte| *byte != 0) {
                    let page =
                        pages.entry(at - offset as u64).or_insert_with(|| vec![0; PAGE as usize]);
                    page[offset..offset + now.len()].copy_from_slice(now);
                }
                at += now.len() as u64;
                rest = later;
            }
        }
        let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
        for (at, page) in pages {
            match runs.last_mut() {
                Some((to, bytes)) if *to + bytes.len() as u64 == at => bytes.extend(page),
                _ => runs.push((at, page)),
            }
        }
        runs
    }

    /// Everything that the start code and the guest rely on.
    fn check(&self) -> Result<()> {
        check_memory(self.memory)?;
        let mut ranges = vec![("the start code's page tables", BUILT)];
        for piece in &self.pieces {
            let end = self.memory;
            match piece.range() {
                Some(range) if range.end <= end => ranges.push((&piece.what, range)),
                _ => bail!(
                    "{} needs {:#x} bytes at {:#x}, and RAM ends at {end:#x}; give it more memory",
                    piece.what,
                    piece.len,
                    piece.to
                ),
            }
        }
        ranges.retain(|(_, range)| !range.is_empty());
        ranges.sort_by_key(|(_, range)| (range.start, range.end));
        for pair in ranges.windows(2) {
            if let [(below, one), (above, other)] = pair
                && one.end > other.start
            {
                bail!(
                    "{below} at {:#x}..{:#x} and {above} at {:#x}..{:#x} lie over each other",
                    one.start,
                    one.end,
                    other.start,
                    other.end
                );
            }
        }
        self.check_start()
    }

    fn check_start(&self) -> Result<()> {
        let khz_at = self.start.khz_at;
        let (entry, stack) = match self.start.entry {
            Entry::Bits64 { at, stack } => (at, stack),
            Entry::Bits32(at) => (u64::from(at), 0),
        };
        let holds = |piece: &&Piece| {
            (piece.to..piece.to.saturating_add(piece.bytes.len() as u64)).contains(&entry)
        };
        match self.pieces.iter().find(holds) {
            None => bail!("its entry {entry:#x} is in no segment"),
            Some(piece) if !piece.is_executable => {
                bail!("its entry {entry:#x} is in {}, which is not executable", piece.what)
            }
            Some(_) => {}
        }
        if stack > self.memory || !stack.is_multiple_of(16) {
            bail!("its stack {stack:#x} is no multiple of 16 inside RAM");
        }
        let digits = khz_at..khz_at.saturating_add(KHZ_DIGITS as u64);
        let whole = |piece: &Piece| {
            piece.range().is_some_and(|r| r.start <= digits.start && digits.end <= r.end)
        };
        if khz_at != 0 && !self.pieces.iter().any(whole) {
            bail!("the place {khz_at:#x} for the frequency is in nothing that is loaded");
        }
        Ok(())
    }
}

/// Judges the size of a guest's RAM.
fn check_memory(memory: u64) -> Result<()> {
    let (min, max) = (platform::MEMORY_MIN, platform::MEMORY_MAX);
    if !(min..=max).contains(&memory) || !memory.is_multiple_of(platform::MEMORY_STEP) {
        bail!(
            "its memory is {memory:#x} bytes; {min:#x} to {max:#x} are possible, in steps of {:#x}",
            platform::MEMORY_STEP
        );
    }
    Ok(())
}
