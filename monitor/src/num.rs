//! Parts of numbers, without conversions that could go wrong unseen.
//!
//! `as` truncates silently and is denied in the monitor; these functions truncate by name.

/// The low 8 bits.
pub const fn low8(value: u64) -> u8 {
    let [a, ..] = value.to_le_bytes();
    a
}

/// The low 16 bits.
pub const fn low16(value: u64) -> u16 {
    let [a, b, ..] = value.to_le_bytes();
    u16::from_le_bytes([a, b])
}

/// The low 32 bits.
pub const fn low32(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// The high 32 bits.
pub const fn high32(value: u64) -> u32 {
    low32(value >> 32)
}

/// An index; `usize` has 64 bits on the only architecture there is.
pub const fn index(value: u64) -> usize {
    usize::from_le_bytes(value.to_le_bytes())
}
