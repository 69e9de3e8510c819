//! How a guest's image lies in memory before the guest starts.
//!
//! The image is read-only at [`crate::platform::SEGMENTS`]. Its first page is the start code,
//! which vCPU 0 enters in 32-bit protected mode without paging, flat segments, `rip` =
//! [`START`], everything else zero. The second page begins with an [`ImageHeader`], followed by
//! [`Segment`] records; the bytes of the segments follow, each page aligned.
//!
//! The start code zeroes all RAM, builds an identity map of the first 4 GiB in the pages at
//! [`PAGE_TABLES`], copies each segment, writes the TSC frequency in decimal digits where
//! `khz_at` says (left-aligned, spaces behind it), and jumps to `entry` in 64-bit mode with `rsi`
//! = `argument`, `rdi` = the TSC frequency in kHz and interrupts off. A program finds the size of
//! its RAM in `rsi`, Linux its boot parameters.
//!
//! With `entry` = [`START_32`] it goes on in the start code itself, which leaves 64-bit mode and
//! jumps to 32-bit code at `stack` without paging, with `ebx` = `argument`.

use crate::platform;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// First instruction of vCPU 0.
pub const START: u64 = platform::SEGMENTS;
/// The part of the start code that goes back to 32-bit mode, for `ImageHeader::entry`.
pub const START_32: u64 = START + 0x800;
/// Where the header is.
pub const HEADER: u64 = platform::SEGMENTS + 0x1000;
/// `ImageHeader::magic`.
pub const MAGIC: u64 = 0x7473_6575_675f_6c63;
/// Six pages that the start code makes page tables of: top table, pointers, four directories.
pub const PAGE_TABLES: u64 = 0x8_0000;
/// The global descriptor table that the start code leaves: null, unused, code at 0x10, data at
/// 0x18; behind the page tables.
pub const GDT: u64 = 0x8_6000;
/// Eight bytes behind the descriptors: the TSC at vCPU 0's first instruction.
pub const STARTED: u64 = GDT + 0x20;
/// Where a program finds its command line: text, at most [`COMMAND_LINE_MAX`] bytes, then a zero.
/// A program without one finds a zero.
pub const COMMAND_LINE: u64 = 0x1_1000;
/// Most bytes of a program's command line.
pub const COMMAND_LINE_MAX: usize = 2047;
/// Digits that `khz_at` has room for.
pub const KHZ_DIGITS: usize = 10;

/// Head of an image.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct ImageHeader {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`crate::VERSION`].
    pub version: u32,
    /// Number of [`Segment`] records behind the header.
    pub segments: u32,
    /// Bytes of RAM to be zeroed, from 0 upwards.
    pub memory: u64,
    /// Where the guest goes on, in 64-bit mode.
    pub entry: u64,
    /// What it finds in `rsi`.
    pub argument: u64,
    /// What it finds in `rsp`.
    pub stack: u64,
    /// Address of [`KHZ_DIGITS`] digits in RAM; 0 for none.
    pub khz_at: u64,
}

/// A piece of RAM that is not zero at the start.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Segment {
    /// Where its bytes lie, at or above [`platform::SEGMENTS`]; a multiple of 8.
    pub from: u64,
    /// Where they belong in RAM; a multiple of 8.
    pub to: u64,
    /// How many bytes; a multiple of 8.
    pub len: u64,
}
