//! The controllers of virtual functions as their physical one lists them: [`Secondary`] ("Secondary
//! Controller List").
//!
//! Invariant: what is found is one entry of at most [`ENTRIES_MAX`], whatever the list claims.

use cloister_dma::Memory;

use crate::fault::Failure;

/// Most entries of a list.
const ENTRIES_MAX: u64 = 127;
/// Bytes of an entry, and of what comes before the first.
const ENTRY: u64 = 32;

/// The controller of a virtual function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Secondary {
    /// Its identifier.
    pub id: u16,
    /// It was given what it needs, and works or may be started.
    pub is_online: bool,
    /// The number of its virtual function.
    pub function: u16,
}

impl Secondary {
    /// The controller of the virtual function of that number.
    pub(crate) fn find(memory: &impl Memory, at: u64, function: u16) -> Result<Secondary, Failure> {
        let mut count = [0];
        memory.read(at, &mut count).ok_or(Failure::Memory)?;
        let [count] = count;
        for number in 1..=u64::from(count).min(ENTRIES_MAX) {
            let place = at.saturating_add(number.saturating_mul(ENTRY));
            let mut entry = [0; 10];
            memory.read(place, &mut entry).ok_or(Failure::Memory)?;
            let [id_low, id_high, _, _, state, _, _, _, low, high] = entry;
            if u16::from_le_bytes([low, high]) == function && function != 0 {
                let (id, is_online) = (u16::from_le_bytes([id_low, id_high]), state & 1 != 0);
                return Ok(Secondary { id, is_online, function });
            }
        }
        Err(Failure::NoFunction { number: function })
    }
}
