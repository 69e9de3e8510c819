//! Capability lookup: one bounds check, one compare of the kind, one test of the rights.
//!
//! Capabilities are the system table's own records, used in place; `crate::validate` has seen to
//! it that every object they name exists.

use cloister_abi::call::Status;
use cloister_abi::table::{Cap, CapKind};

/// The capability in `slot` of a task's table, if it is of this kind and has all of `rights`.
#[inline]
pub fn lookup(caps: &[Cap], slot: u64, kind: CapKind, rights: u8) -> Result<&Cap, Status> {
    let slot = usize::try_from(slot).map_err(|_| Status::NoCap)?;
    let cap = caps.get(slot).ok_or(Status::NoCap)?;
    if cap.kind != code(kind) {
        return Err(Status::WrongKind);
    }
    if cap.rights & rights != rights {
        return Err(Status::NoRight);
    }
    Ok(cap)
}

/// The byte that stands for a kind in the table.
#[inline]
#[expect(clippy::as_conversions, reason = "reads the discriminant of a repr(u8) enum")]
pub const fn code(kind: CapKind) -> u8 {
    kind as u8
}
