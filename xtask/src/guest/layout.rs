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
use cloister_guest_abi::image::{
    GDT, ImageHeader, KHZ_DIGITS, MAGIC, PAGE_TABLES, START_32, Segment,
};
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::sample;
    use proptest::prelude::*;

    const MEMORY: u64 = 2 << 20;

    fn code(to: u64, bytes: Vec<u8>) -> Piece {
        Piece { is_executable: true, ..Piece::data("the code", to, bytes) }
    }

    fn layout(pieces: Vec<Piece>) -> Layout {
        let entry = Entry::Bits64 { at: 0x10_0000, stack: MEMORY };
        let pieces = [vec![code(0x10_0000, vec![0x90; 16])], pieces].concat();
        Layout { memory: MEMORY, pieces, start: Start { entry, argument: 7, khz_at: 0 } }
    }

    /// RAM as it should be: everything zero but the pieces.
    fn expected(layout: &Layout) -> Vec<u8> {
        let mut ram = vec![0; layout.memory as usize];
        ram[BUILT.start as usize..BUILT.end as usize].fill(0xaa);
        for piece in &layout.pieces {
            let at = piece.to as usize;
            ram[at..at + piece.bytes.len()].copy_from_slice(&piece.bytes);
        }
        ram
    }

    #[test]
    fn a_rendered_image_starts_as_the_layout_says() {
        let digits = Piece::data("a line", 0x9001, b"khz=0000000000 x\0".to_vec());
        let mut layout = layout(vec![digits]);
        layout.start.khz_at = 0x9005;
        let image = layout.render(&[1, 2, 3]).expect("a good layout");
        assert_eq!((&image[..4], image.len()), ([1, 2, 3, 0].as_slice(), 4 * PAGE as usize));
        let (header, ram) = sample::started(&image);
        assert_eq!((header.entry, header.stack, header.argument), (0x10_0000, MEMORY, 7));
        assert_eq!(&ram[0x9001..0x9012], b"khz=2250006    x\0");
        assert_eq!(image, layout.render(&[1, 2, 3]).expect("again"), "equal bytes");
        layout.start.entry = Entry::Bits32(0x10_0008);
        let (header, _) = sample::started(&layout.render(&[]).expect("a good layout"));
        assert_eq!((header.entry, header.stack), (START_32, 0x10_0008));
    }

    #[test]
    fn records_that_need_more_than_a_page_push_the_bytes_back() {
        let pieces = (0..300).map(|n| Piece::data("a page", 0x18_0000 + n * 0x2000, vec![9; 8]));
        let layout = Layout { memory: 16 << 20, ..layout(pieces.collect()) };
        let image = layout.render(&[]).expect("a good layout");
        let (header, ram) = sample::started(&image);
        assert_eq!((header.segments, image.len()), (301, (1 + 2 + 301) * PAGE as usize));
        assert_eq!(ram, expected(&layout));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        type Spoil = fn(&mut Layout);
        let cases: [(Spoil, &str); 12] = [
            (|l| l.memory += 4096, "its memory is 0x201000 bytes"),
            (|l| l.memory = platform::MEMORY_MAX + platform::MEMORY_STEP, "0xc0200000 bytes"),
            (|l| l.memory = 0, "its memory is 0x0 bytes"),
            (|l| l.pieces.push(Piece::data("x", MEMORY - 1, vec![1, 1])), "x needs 0x2 bytes"),
            (|l| l.pieces.push(Piece::data("x", u64::MAX, vec![1, 1])), "x needs 0x2 bytes"),
            (|l| l.pieces.push(Piece::data("x", BUILT.end - 1, vec![1])), "page tables"),
            (|l| l.pieces.push(Piece::data("x", 0x10_000f, vec![1])), "lie over each other"),
            (|l| l.start.entry = Entry::Bits64 { at: 0x10_0010, stack: 16 }, "is in no segment"),
            (|l| l.pieces[0].is_executable = false, "which is not executable"),
            (|l| l.start.entry = Entry::Bits64 { at: 0x10_0000, stack: 8 }, "its stack 0x8"),
            (|l| l.start.entry = Entry::Bits64 { at: 0x10_0000, stack: MEMORY + 16 }, "its stack"),
            (|l| l.start.khz_at = 0x10_0007, "the place 0x100007 for the frequency"),
        ];
        for (spoil, expected) in cases {
            let mut layout = layout(Vec::new());
            spoil(&mut layout);
            let error = layout.render(&[]).expect_err(expected);
            assert!(error.to_string().contains(expected), "{error}");
        }
        let error = layout(Vec::new()).render(&[0; 4097]).expect_err("too large");
        assert!(error.to_string().contains("the start code has 4097 bytes"), "{error}");
    }

    fn pieces() -> impl Strategy<Value = Vec<Piece>> {
        let bytes = prop_oneof![
            proptest::collection::vec(0u8..=2, 0..40),
            (0usize..20_000, 0u8..=2).prop_map(|(len, byte)| vec![byte; len]),
        ];
        let piece = (0..MEMORY + 0x2000, bytes, 0..0x3000u64).prop_map(|(to, bytes, more)| {
            let len = bytes.len() as u64 + more;
            Piece { len, ..Piece::data("a piece", to, bytes) }
        });
        proptest::collection::vec(piece, 0..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 300,
            max_shrink_iters: 200,
            ..ProptestConfig::default()
        })]

        /// A slow model compares each piece with each; a good layout gives exactly the RAM that
        /// it describes.
        #[test]
        fn layouts_are_refused_exactly_when_something_lies_over_something(pieces in pieces()) {
            let layout = layout(pieces);
            let mut ranges: Vec<Range<u64>> =
                layout.pieces.iter().map(|piece| piece.to..piece.to + piece.len).collect();
            let mut is_good = ranges.iter().all(|range| range.end <= MEMORY);
            ranges.push(BUILT);
            for (index, one) in ranges.iter().enumerate() {
                for other in &ranges[..index] {
                    let common = one.start.max(other.start)..one.end.min(other.end);
                    is_good &= common.is_empty() || one.is_empty() || other.is_empty();
                }
            }
            let image = layout.render(&[]);
            prop_assert_eq!(image.is_ok(), is_good, "{:?}", image.err());
            if let Ok(image) = image {
                prop_assert!(sample::started(&image).1 == expected(&layout), "another RAM");
            }
        }
    }
}
