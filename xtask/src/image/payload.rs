//! The payload: header block, checksum table, kernel, system table, task pages.
//!
//! The format is `cloister_abi::payload`. Invariant: every byte is covered by a checksum, either
//! its own block's or that of header or table; the test at the end flips each one.

use anyhow::{Context, Result, anyhow, bail};
use cloister_abi::layout::{KERNEL_BASE, KERNEL_MAX, PAGE};
use cloister_abi::payload::{
    BLOCK, Header, KernelSegment, MAGIC, PAYLOAD_MAX, SEGMENT_EXEC, SEGMENT_WRITE, VERSION,
};
use cloister_boot::{Damage, check_header, check_table};
use cloister_manifest::compile::Compiled;
use crc::{CRC_32_ISCSI, Crc};
use zerocopy::IntoBytes;

use crate::image::elf::{Elf, Loaded};

/// CRC-32C, the one that `crc32` instructions compute.
const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
/// Checksums that fit a block of the table.
const SUMS_PER_BLOCK: u64 = BLOCK / 4;

/// How many kernel segments a header has room for.
const KERNEL_SEGMENTS_MAX: usize = 4;

/// A payload and where its parts are.
#[derive(Clone, Debug)]
pub struct Payload {
    /// All of it.
    pub bytes: Vec<u8>,
    /// The system table.
    pub table: Vec<u8>,
    /// Bytes by part, for people.
    pub parts: Vec<(&'static str, u64)>,
}

/// Lays out and checksums a payload.
pub fn build(name: &str, kernel: &Elf, compiled: &Compiled) -> Result<Payload> {
    let segments = kernel_segments(kernel)?;
    let kernel_pages: u64 = segments.iter().map(|(s, _)| u64::from(s.pages)).sum();
    let table_pages = (compiled.table_len() as u64).div_ceil(PAGE);
    let content_pages = kernel_pages + table_pages + compiled.blob_pages();
    let table_blocks = content_pages.div_ceil(SUMS_PER_BLOCK);
    let len = (1 + table_blocks + content_pages) * BLOCK;
    if len > PAYLOAD_MAX {
        bail!("the payload has {len} bytes, the boot stub takes at most {PAYLOAD_MAX}");
    }
    let mut bytes = vec![0; ((1 + table_blocks) * BLOCK) as usize];
    let mut header = header(name, kernel, len, table_blocks);
    for (slot, (mut segment, content)) in header.kernel.iter_mut().zip(segments) {
        segment.offset = bytes.len() as u64;
        bytes.extend_from_slice(&content);
        pad(&mut bytes);
        *slot = segment;
    }
    header.system_table = bytes.len() as u64;
    header.system_table_len = compiled.table_len() as u64;
    let table = compiled.encode(header.system_table + table_pages * PAGE);
    bytes.extend_from_slice(&table);
    pad(&mut bytes);
    for blob in &compiled.blobs {
        bytes.extend_from_slice(blob);
    }
    debug_assert_eq!(bytes.len() as u64, len);
    seal(&mut bytes, header, table_blocks);
    let guest_pages = compiled.guest_pages();
    let mut parts = vec![
        ("header and checksums", (1 + table_blocks) * BLOCK),
        ("kernel", kernel_pages * PAGE),
        ("system table", table_pages * PAGE),
        ("tasks", (compiled.blob_pages() - guest_pages) * PAGE),
    ];
    if guest_pages > 0 {
        parts.push(("guests", guest_pages * PAGE));
    }
    Ok(Payload { bytes, table, parts })
}

/// The checksum of the payload's blocks.
pub fn crc32c(bytes: &[u8]) -> u32 {
    CRC32C.checksum(bytes)
}

/// The boot stub's check of a whole payload, by the code that the stub runs.
pub fn check(bytes: &[u8]) -> Result<Header, Damage> {
    let first = bytes.first_chunk().ok_or(Damage::NotAHeader)?;
    let header = check_header(first, crc32c)?;
    check_table(bytes, &header, crc32c)?.check(crc32c)?;
    Ok(header)
}

/// What the check says of a payload in which only this block may be damaged: the check of the
/// block alone, or of the header or the table that it belongs to.
pub fn check_block(bytes: &[u8], header: &Header, block: u64) -> Result<(), Damage> {
    if block == 0 {
        let first = bytes.first_chunk().ok_or(Damage::NotAHeader)?;
        return check_header(first, crc32c).map(drop);
    }
    // The table's own checksum is computed only where its blocks are what may be damaged.
    let is_table = block <= u64::from(header.table_blocks);
    let sum = |table: &[u8]| if is_table { crc32c(table) } else { header.table_crc };
    let blocks = check_table(bytes, header, sum)?;
    blocks.only(block).map_or(Ok(()), |one| one.check(crc32c))
}

/// Checks the finished payload with the code by which boot stub and kernel check it.
pub fn validate(payload: &Payload) -> Result<()> {
    if let Err(damage) = check(&payload.bytes) {
        bail!("the finished payload fails its own check: {damage}; this is a bug of xtask");
    }
    let pages = u32::try_from(payload.bytes.len() as u64 / PAGE).context("too large a payload")?;
    // Words are aligned as the kernel's view of the table is.
    let mut words = vec![0u64; payload.table.len().div_ceil(8)];
    words.as_mut_bytes()[..payload.table.len()].copy_from_slice(&payload.table);
    let bytes = &words.as_bytes()[..payload.table.len()];
    cloister_core::table::Table::new(bytes, pages).map(|_| ()).map_err(|error| {
        anyhow!(
            "the compiled table breaks the kernel's rule {:?} at record {}; this is a bug of the \
             manifest compiler, please report it with the manifest",
            error.rule,
            error.index
        )
    })
}

fn header(name: &str, kernel: &Elf, len: u64, table_blocks: u64) -> Header {
    let mut field = [0; 32];
    for (to, from) in field.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    Header {
        magic: MAGIC,
        version: VERSION,
        header_crc: 0,
        payload_len: len,
        table_blocks: table_blocks as u32,
        table_crc: 0,
        kernel_entry: kernel.entry,
        kernel: [KernelSegment::default(); KERNEL_SEGMENTS_MAX],
        system_table: 0,
        system_table_len: 0,
        kernel_build_id: kernel.build_id.unwrap_or_default(),
        reserved: 0,
        name: field,
    }
}

/// Fills in the checksum table and the header block.
fn seal(bytes: &mut [u8], mut header: Header, table_blocks: u64) {
    let (head, content) = bytes.split_at_mut(((1 + table_blocks) * BLOCK) as usize);
    let (first, table) = head.split_at_mut(BLOCK as usize);
    for (sum, block) in table.chunks_exact_mut(4).zip(content.chunks_exact(BLOCK as usize)) {
        sum.copy_from_slice(&CRC32C.checksum(block).to_le_bytes());
    }
    header.table_crc = CRC32C.checksum(table);
    first[..size_of::<Header>()].copy_from_slice(header.as_bytes());
    header.header_crc = CRC32C.checksum(first);
    first[..size_of::<Header>()].copy_from_slice(header.as_bytes());
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(PAGE as usize), 0);
}

/// The kernel's segments without their offsets, each with its bytes.
fn kernel_segments(kernel: &Elf) -> Result<Vec<(KernelSegment, Vec<u8>)>> {
    let most = KERNEL_SEGMENTS_MAX;
    if kernel.segments.len() > most || kernel.segments.is_empty() {
        bail!("{} has {} segments, 1 to {most} fit", kernel.name, kernel.segments.len());
    }
    let holds = |s: &Loaded| s.is_executable && (s.va..s.va + s.len).contains(&kernel.entry);
    if !kernel.segments.iter().any(holds) {
        bail!("{}: the entry {:#x} is in no executable segment", kernel.name, kernel.entry);
    }
    let mut previous_end = KERNEL_BASE;
    let mut segments = Vec::new();
    for segment in &kernel.segments {
        let record = kernel_segment(segment).with_context(|| kernel.name.clone())?;
        if segment.va < previous_end {
            bail!("{}: segments overlap at {:#x}", kernel.name, segment.va);
        }
        previous_end = segment.va + segment.len.next_multiple_of(PAGE);
        segments.push((record, segment.bytes.clone()));
    }
    Ok(segments)
}

fn kernel_segment(segment: &Loaded) -> Result<KernelSegment> {
    let (va, end) = (segment.va, segment.va.checked_add(segment.len.next_multiple_of(PAGE)));
    let inside = end.is_some_and(|end| end <= KERNEL_BASE + KERNEL_MAX);
    if va % PAGE != 0 || va < KERNEL_BASE || !inside {
        bail!(
            "the segment at {va:#x} is not whole pages within the kernel's {KERNEL_MAX:#x} bytes"
        );
    }
    if segment.is_executable && segment.is_writable {
        bail!("the segment at {va:#x} is writable and executable");
    }
    let pages = (segment.bytes.len() as u64).div_ceil(PAGE);
    let exec = if segment.is_executable { SEGMENT_EXEC } else { 0 };
    let write = if segment.is_writable { SEGMENT_WRITE } else { 0 };
    Ok(KernelSegment {
        va,
        offset: 0,
        pages: pages as u32,
        zero_pages: (segment.len.div_ceil(PAGE) - pages) as u32,
        flags: exec | write,
        reserved: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::sample;
    use zerocopy::FromBytes;

    #[test]
    fn segments_lie_where_the_header_says() {
        let payload = sample::payload();
        let (header, _) = Header::read_from_prefix(&payload.bytes).expect("a header");
        assert_eq!(check(&payload.bytes), Ok(header));
        validate(&payload).expect("the kernel's own check passes");
        let [text, data, ..] = header.kernel;
        assert_eq!((text.va, text.pages, text.zero_pages), (KERNEL_BASE, 2, 0));
        assert_eq!((data.pages, data.zero_pages, data.flags), (1, 2, SEGMENT_WRITE));
        let at = text.offset as usize;
        assert_eq!(payload.bytes[at..at + 5000], sample::kernel_text());
        let table = header.system_table as usize;
        assert_eq!(payload.bytes[table..table + payload.table.len()], payload.table);
    }

    #[test]
    fn every_flipped_byte_is_noticed_by_its_own_block() {
        let mut bytes = sample::payload().bytes;
        let header = check(&bytes).expect("whole");
        for at in 0..bytes.len() {
            bytes[at] ^= 1 << (at % 8);
            let found = check_block(&bytes, &header, at as u64 / BLOCK);
            assert!(found.is_err(), "byte {at}");
            if at % 97 == 0 {
                assert_eq!(check(&bytes).map(drop), found, "byte {at}: the whole check differs");
            }
            bytes[at] ^= 1 << (at % 8);
        }
        assert_eq!(check(&bytes), Ok(header));
    }

    #[test]
    fn payloads_that_are_cut_short_are_refused() {
        let bytes = sample::payload().bytes;
        for len in (0..bytes.len()).step_by(97) {
            assert!(check(&bytes[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn wrong_kernels_are_refused() {
        let good = sample::kernel();
        type Spoil = fn(&mut Elf);
        let cases: [(Spoil, &str); 6] = [
            (|k| k.segments.clear(), "has 0 segments"),
            (|k| k.entry = 0, "in no executable segment"),
            (|k| k.segments[0].is_writable = true, "writable and executable"),
            (|k| k.segments[1].va += 8, "not whole pages"),
            (|k| k.segments[1].len = KERNEL_MAX, "not whole pages within"),
            (|k| k.segments[1].va = KERNEL_BASE, "overlap"),
        ];
        for (spoil, expected) in cases {
            let mut kernel = good.clone();
            spoil(&mut kernel);
            let error = build("x", &kernel, &sample::compiled()).expect_err("refused");
            assert!(format!("{error:#}").contains(expected), "{error:#}");
        }
    }
}
