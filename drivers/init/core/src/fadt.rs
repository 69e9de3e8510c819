//! The FADT: how the machine is powered off and reset, and where the clock keeps its century.
//!
//! ACPI Specification 6.5, "Fixed ACPI Description Table (FADT)" and "Generic Address Structure
//! (GAS)". Only registers in I/O space are of use: the kernel writes them without a mapping.

use crate::acpi::{Damaged, Table};
use crate::bytes::{u8_at, u32_at, u64_at};

const PM1A_CONTROL: usize = 64;
const PM1B_CONTROL: usize = 68;
const CENTURY: usize = 108;
const FLAGS: usize = 112;
const RESET_REGISTER: usize = 116;
const RESET_VALUE: usize = 128;
const X_PM1A_CONTROL: usize = 172;
const X_PM1B_CONTROL: usize = 184;
/// Flag: the reset register exists.
const FLAG_RESET: u32 = 1 << 10;
/// Address space of a generic address: I/O ports.
const SPACE_IO: u8 = 1;

/// What the table says of the machine's power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Power {
    /// Port of PM1a_CNT, if it is a port.
    pub pm1a: Option<u16>,
    /// Port of PM1b_CNT, if there is one.
    pub pm1b: Option<u16>,
    /// Port of the reset register, and what resets.
    pub reset: Option<(u16, u8)>,
    /// The clock's register with the century.
    pub century: Option<u8>,
}

/// Reads the table.
pub fn power(table: &Table<'_>) -> Result<Power, Damaged> {
    let bytes = table.bytes;
    // Everything up to the flags was there from the first version on.
    let flags = u32_at(bytes, FLAGS).ok_or(Damaged(table.signature))?;
    let reset = (flags & FLAG_RESET != 0)
        .then(|| Some((io_port(bytes, RESET_REGISTER)?, u8_at(bytes, RESET_VALUE)?)))
        .flatten();
    Ok(Power {
        pm1a: control(bytes, X_PM1A_CONTROL, PM1A_CONTROL),
        pm1b: control(bytes, X_PM1B_CONTROL, PM1B_CONTROL),
        reset,
        century: u8_at(bytes, CENTURY).filter(|register| *register != 0),
    })
}

/// The extended field if it is used, else the old one.
fn control(bytes: &[u8], extended: usize, old: usize) -> Option<u16> {
    let plain = || u32_at(bytes, old).and_then(|port| u16::try_from(port).ok());
    io_port(bytes, extended).or_else(plain).filter(|port| *port != 0)
}

/// The port of a generic address; `None` for another space or no address.
fn io_port(bytes: &[u8], at: usize) -> Option<u16> {
    let address = u64_at(bytes, at.checked_add(4)?)?;
    let is_io = u8_at(bytes, at)? == SPACE_IO;
    u16::try_from(address).ok().filter(|port| is_io && *port != 0)
}
