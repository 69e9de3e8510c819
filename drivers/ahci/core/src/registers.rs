//! The registers of a controller and of its ports ("HBA Memory Registers"), as a driver's core sees
//! them: [`Registers`].

/// What a device that is not there reads as.
pub(crate) const GONE: u32 = u32::MAX;

/// Capabilities, control, pending interrupts, ports that there are, more capabilities, handoff.
pub(crate) const CAP: u64 = 0x00;
pub(crate) const GHC: u64 = 0x04;
pub(crate) const IS: u64 = 0x08;
pub(crate) const PI: u64 = 0x0c;
pub(crate) const CAP2: u64 = 0x24;
pub(crate) const BOHC: u64 = 0x28;

/// Of a port, from its first register on.
pub(crate) mod port {
    pub(crate) const CLB: u64 = 0x00;
    pub(crate) const FB: u64 = 0x08;
    pub(crate) const IS: u64 = 0x10;
    pub(crate) const IE: u64 = 0x14;
    pub(crate) const CMD: u64 = 0x18;
    pub(crate) const TFD: u64 = 0x20;
    pub(crate) const SIG: u64 = 0x24;
    pub(crate) const SSTS: u64 = 0x28;
    pub(crate) const SCTL: u64 = 0x2c;
    pub(crate) const SERR: u64 = 0x30;
    pub(crate) const SACT: u64 = 0x34;
    pub(crate) const CI: u64 = 0x38;
}
