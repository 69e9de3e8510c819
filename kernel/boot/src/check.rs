//! The payload check: header, checksum table, every block (see `cloister_abi::payload`).

use crate::Refusal;
use cloister_abi::payload::{BLOCK, Header, MAGIC, PAYLOAD_BASE, PAYLOAD_MAX, VERSION};
use zerocopy::FromBytes;

unsafe extern "C" {
    fn stub_crc32c(start: *const u8, groups: u64, seed: u32) -> u32;
}

const _: () = assert!(size_of::<Header>() <= BLOCK as usize);

/// CRC-32C of `bytes`, whose length is a multiple of 64.
fn crc32c(bytes: &[u8]) -> u32 {
    // SAFETY: (1) the slice is readable; (2) the length is a whole number of 64-byte groups and
    // not zero (callers pass blocks); (3) the CPU has the instruction (checked in `payload`).
    !unsafe { stub_crc32c(bytes.as_ptr(), bytes.len() as u64 / 64, !0) }
}

fn has_crc32() -> bool {
    // SSE4.2, CPUID.1:ECX bit 20.
    core::arch::x86_64::__cpuid(1).ecx & (1 << 20) != 0
}

fn header_crc_ok(block: &[u8; BLOCK as usize], header: &Header) -> bool {
    let mut copy = *block;
    let at = core::mem::offset_of!(Header, header_crc);
    copy[at..at + 4].fill(0);
    crc32c(&copy) == header.header_crc
}

/// Checks the whole payload and returns its header.
///
/// # Safety
/// `has_ram(base, len)` tells the truth about physical memory, which is mapped one to one, and
/// nobody else writes the payload.
pub unsafe fn payload(has_ram: impl Fn(u64, u64) -> bool) -> Result<Header, Refusal> {
    if !has_crc32() {
        return Err(Refusal::NoCrc32);
    }
    if !has_ram(PAYLOAD_BASE, BLOCK) {
        return Err(Refusal::NoMemory { need: BLOCK });
    }
    // SAFETY: block 0 lies in memory, checked above.
    let first = unsafe { &*(PAYLOAD_BASE as *const [u8; BLOCK as usize]) };
    let (header, _) = Header::read_from_prefix(first).map_err(|_| Refusal::NotAHeader)?;
    if header.magic != MAGIC || header.version != VERSION {
        return Err(Refusal::NotAHeader);
    }
    if !header_crc_ok(first, &header) {
        return Err(Refusal::HeaderDamaged);
    }
    let len = header.payload_len;
    let table_len = u64::from(header.table_blocks) * BLOCK;
    if len % BLOCK != 0 || len > PAYLOAD_MAX || table_len + BLOCK > len {
        return Err(Refusal::BadLayout("its lengths"));
    }
    if !has_ram(PAYLOAD_BASE, len) {
        return Err(Refusal::NoMemory { need: len });
    }
    // SAFETY: the payload lies in memory, checked above.
    let payload = unsafe { core::slice::from_raw_parts(PAYLOAD_BASE as *const u8, len as usize) };
    let (table, content) = payload[BLOCK as usize..].split_at(table_len as usize);
    if crc32c(table) != header.table_crc {
        return Err(Refusal::TableDamaged);
    }
    if (table.len() / 4) < content.len() / BLOCK as usize {
        return Err(Refusal::BadLayout("its checksum table is too short"));
    }
    let sums = table.as_chunks::<4>().0;
    let first_block = 1 + u64::from(header.table_blocks);
    for (index, (block, sum)) in content.chunks_exact(BLOCK as usize).zip(sums).enumerate() {
        if crc32c(block) != u32::from_le_bytes(*sum) {
            return Err(Refusal::BlockDamaged(first_block + index as u64));
        }
    }
    Ok(header)
}
