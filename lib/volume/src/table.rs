//! The partitions that a scan found: [`Table`].
//!
//! Invariant: they lie apart from each other, and inside the bounds that they were added with.

use crate::header::{Broken, u64_at};

/// Most partitions.
pub const PARTITIONS_MAX: usize = 128;
/// UTF-16 code units of a name.
pub const NAME_UNITS: usize = 36;

/// Where a partition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Its first block.
    pub first: u64,
    /// Its blocks.
    pub blocks: u64,
}

/// What [`Table::find`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// One partition of that name.
    One(Extent),
    /// None.
    Nothing,
    /// More than one: which of them is meant nobody can say.
    Several,
}

#[derive(Clone, Copy)]
struct Partition {
    first: u64,
    last: u64,
    name: [u16; NAME_UNITS],
}

/// The partitions of a disk.
pub struct Table {
    partitions: [Partition; PARTITIONS_MAX],
    count: usize,
}

impl Table {
    pub(crate) const EMPTY: Table = Table {
        partitions: [Partition { first: 0, last: 0, name: [0; NAME_UNITS] }; PARTITIONS_MAX],
        count: 0,
    };

    fn used(&self) -> &[Partition] {
        self.partitions.get(..self.count).unwrap_or_default()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The partition of a name.
    pub fn find(&self, name: &str) -> Found {
        let mut named = self.used().iter().filter(|partition| partition.is_named(name));
        match (named.next(), named.next()) {
            (None, _) => Found::Nothing,
            (Some(_), Some(_)) => Found::Several,
            (Some(one), None) => {
                let blocks = one.last.saturating_sub(one.first).saturating_add(1);
                Found::One(Extent { first: one.first, blocks })
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        self.count = 0;
    }

    /// Adds the partition of an entry, if it is one.
    pub(crate) fn add(&mut self, entry: &[u8], usable: [u64; 2]) -> Result<(), Broken> {
        let is_used = entry.iter().take(16).any(|byte| *byte != 0);
        if !is_used {
            return Ok(());
        }
        let new = Partition::parse(entry).ok_or(Broken::Entries)?;
        let [first, last] = usable;
        if new.first > new.last || new.first < first || new.last > last {
            return Err(Broken::Outside);
        }
        if self.used().iter().any(|old| new.first <= old.last && old.first <= new.last) {
            return Err(Broken::Overlap);
        }
        *self.partitions.get_mut(self.count).ok_or(Broken::TooMany)? = new;
        self.count = self.count.saturating_add(1);
        Ok(())
    }
}

impl Partition {
    fn parse(entry: &[u8]) -> Option<Partition> {
        let (first, last) = (u64_at(entry, 32)?, u64_at(entry, 40)?);
        let bytes = entry.get(56..)?.as_chunks::<2>().0;
        let mut name = [0; NAME_UNITS];
        for (unit, bytes) in name.iter_mut().zip(bytes) {
            *unit = u16::from_le_bytes(*bytes);
        }
        Some(Partition { first, last, name })
    }

    /// Names end before the first zero, or with the field.
    fn is_named(&self, name: &str) -> bool {
        let own = self.name.iter().copied().take_while(|unit| *unit != 0);
        !name.is_empty() && own.eq(name.encode_utf16())
    }
}
