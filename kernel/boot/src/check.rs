//! The payload check on memory: the check of `cloister_boot`, with the CPU's own CRC-32C.

use crate::Refusal;
use cloister_abi::payload::{BLOCK, Header, PAYLOAD_BASE};
use cloister_boot::{check_header, check_table};

unsafe extern "C" {
    fn stub_crc32c(start: *const u8, groups: u64, seed: u32) -> u32;
}

const _: () = assert!(size_of::<Header>() <= BLOCK as usize);

/// CRC-32C of `bytes`, whose length is a multiple of 64.
fn crc32c(bytes: &[u8]) -> u32 {
    // SAFETY: (1) the slice is readable; (2) the length is a whole number of 64-byte groups and
    // not zero (the checks pass whole blocks); (3) the CPU has the instruction (see `payload`).
    !unsafe { stub_crc32c(bytes.as_ptr(), bytes.len() as u64 / 64, !0) }
}

fn has_crc32() -> bool {
    // SSE4.2, CPUID.1:ECX bit 20.
    core::arch::x86_64::__cpuid(1).ecx & (1 << 20) != 0
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
    let header = check_header(first, crc32c).map_err(Refusal::Damaged)?;
    let len = header.payload_len;
    if !has_ram(PAYLOAD_BASE, len) {
        return Err(Refusal::NoMemory { need: len });
    }
    // SAFETY: the payload lies in memory, checked above.
    let payload = unsafe { core::slice::from_raw_parts(PAYLOAD_BASE as *const u8, len as usize) };
    let blocks = check_table(payload, &header, crc32c).map_err(Refusal::Damaged)?;
    blocks.check(crc32c).map_err(Refusal::Damaged)?;
    Ok(header)
}
