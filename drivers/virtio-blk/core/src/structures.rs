//! Where a device's registers are: [`Structures`], from its function's capabilities ("Virtio
//! Structure PCI Capabilities").
//!
//! Invariant: every structure that is found lies wholly within what is mapped of its BAR.

use crate::fault::Failure;
use crate::registers::Registers;

/// What a block device of virtio 1.0 is called: vendor, device ("PCI Device Discovery").
const IDENTITY: u32 = 0x1042_1af4;
/// In configuration space: status (upper half) with the bit of a list of capabilities, its begin.
const STATUS: u8 = 0x04;
const HAS_LIST: u32 = 1 << 20;
const LIST: u8 = 0x34;
/// Where capabilities can be, and how many of four bytes have room there.
const FIRST: u8 = 0x40;
const CAPABILITIES_MAX: usize = 48;
/// Identifier of a vendor's capability.
const VENDOR: u8 = 0x09;

/// Kinds of structures.
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const DEVICE: u8 = 4;
/// Bytes that each has at least.
const COMMON_BYTES: u32 = 0x38;
const NOTIFY_BYTES: u32 = 2;
const DEVICE_BYTES: u32 = 8;

/// A piece of what is behind a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) bar: u8,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

/// The structures that a driver needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Structures {
    pub(crate) common: Place,
    pub(crate) notify: Place,
    /// Bytes from one doorbell to the next.
    pub(crate) multiplier: u32,
    pub(crate) device: Place,
}

impl Structures {
    /// Walks the list of capabilities, as far as it can be one. Of several structures of a kind the
    /// first that is mapped is used.
    pub(crate) fn find(registers: &impl Registers) -> Result<Structures, Failure> {
        let read = |register: u8| registers.config(register).ok_or(Failure::Structures);
        let status = read(STATUS)?;
        if status == u32::MAX {
            return Err(Failure::Gone);
        }
        if read(0)? != IDENTITY {
            return Err(Failure::Kind);
        }
        if status & HAS_LIST == 0 {
            return Err(Failure::Structures);
        }
        let (mut common, mut notify, mut device) = (None, None, None);
        let [mut at, ..] = read(LIST)?.to_le_bytes();
        for _ in 0..CAPABILITIES_MAX {
            at &= !3;
            if at < FIRST {
                break;
            }
            let [id, next, _, kind] = read(at)?.to_le_bytes();
            match (id, kind) {
                (VENDOR, COMMON) => common = common.or(place(registers, at, COMMON_BYTES)),
                (VENDOR, DEVICE) => device = device.or(place(registers, at, DEVICE_BYTES)),
                (VENDOR, NOTIFY) if notify.is_none() => {
                    let multiplier = at.checked_add(16).and_then(|at| registers.config(at));
                    notify = place(registers, at, NOTIFY_BYTES).zip(multiplier);
                }
                _ => {}
            }
            at = next;
        }
        let (Some(common), Some((notify, multiplier)), Some(device)) = (common, notify, device)
        else {
            return Err(Failure::Structures);
        };
        Ok(Structures { common, notify, multiplier, device })
    }
}

/// The structure of a capability, if it has so many bytes and all of it is mapped.
fn place(registers: &impl Registers, at: u8, least: u32) -> Option<Place> {
    let word = |offset: u8| registers.config(at.checked_add(offset)?);
    let [bar, ..] = word(4)?.to_le_bytes();
    let (offset, len) = (word(8)?, word(12)?);
    let end = u64::from(offset).checked_add(len.into())?;
    let is_mapped = end <= registers.bytes(bar) && offset.is_multiple_of(4);
    (len >= least && is_mapped).then_some(Place { bar, offset, len })
}
