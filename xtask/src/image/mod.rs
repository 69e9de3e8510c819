//! From ELFs and a compiled manifest to one bootable file.
//!
//! `elf` reads what the compiler made, `payload` lays out and checksums what the boot stub checks,
//! `pack` writes the bootable ELF, `archive` keeps what a log decoder and a debugger need. All of
//! it works on bytes in memory; only `archive` touches files. Invariant: equal inputs give equal
//! bytes.

pub mod archive;
pub mod elf;
pub mod pack;
pub mod payload;
#[cfg(test)]
pub mod sample;
