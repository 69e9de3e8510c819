//! Page tables in a copy of physical memory: found by what every address space has in common, and
//! walked to their leaves.
//!
//! Key types: [`Memory`], [`Space`], [`Leaf`]. Nothing is judged here beyond what makes a table
//! unreadable: `rules` does that.

use cloister_abi::layout::PAGE;

/// The entry is valid.
const PRESENT: u64 = 1;
/// Writable.
const WRITE: u64 = 1 << 1;
/// Reachable from ring 3.
const USER: u64 = 1 << 2;
/// PWT and PCD: uncached.
const UNCACHED: u64 = 1 << 3 | 1 << 4;
/// A leaf above the lowest level.
const LARGE: u64 = 1 << 7;
/// Not executable.
const NO_EXEC: u64 = 1 << 63;
/// The address in an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Entry of the top table that maps the kernel's half.
pub const KERNEL_SLOT: usize = 511;

/// A copy of physical memory from address 0 on.
#[derive(Clone)]
pub struct Memory(pub Vec<u8>);

impl Memory {
    /// Eight bytes.
    pub fn word(&self, at: u64) -> Option<u64> {
        let at = usize::try_from(at).ok()?;
        let bytes = self.0.get(at..at.checked_add(8)?)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }

    /// Changes eight bytes.
    pub fn set_word(&mut self, at: u64, value: u64) {
        let at = at as usize;
        if let Some(bytes) = self.0.get_mut(at..at + 8) {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// A page.
    pub fn page(&self, at: u64) -> Option<&[u8]> {
        let at = usize::try_from(at).ok()?;
        self.0.get(at..at.checked_add(PAGE as usize)?)
    }

    /// Whether there is memory at an address.
    pub fn holds(&self, at: u64) -> bool {
        at < self.0.len() as u64
    }
}

/// A mapped page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Virtual address, sign-extended.
    pub va: u64,
    /// Physical address.
    pub phys: u64,
    /// Reachable from ring 3: on every level.
    pub is_user: bool,
    /// Writable on every level.
    pub is_writable: bool,
    /// Executable on every level.
    pub is_executable: bool,
    /// Uncached.
    pub is_uncached: bool,
    /// A part of a page of 2 MiB, whose entry it shares with the other parts.
    pub is_large: bool,
    /// Physical address of the entry itself.
    pub entry_at: u64,
}

/// An address space.
#[derive(Clone, Debug)]
pub struct Space {
    /// Its top table.
    pub root: u64,
    /// Every table in use, the top one first.
    pub tables: Vec<u64>,
    /// Every mapped page.
    pub leaves: Vec<Leaf>,
    /// Indices of the top table's entries that are not zero.
    pub top_slots: Vec<usize>,
}

impl Space {
    /// The mapping of an address.
    pub fn leaf(&self, va: u64) -> Option<&Leaf> {
        self.leaves.iter().find(|leaf| leaf.va == va)
    }

    /// Walks a space; the error says which entry cannot be followed.
    pub fn walk(memory: &Memory, root: u64) -> Result<Self, String> {
        let mut space =
            Self { root, tables: Vec::new(), leaves: Vec::new(), top_slots: Vec::new() };
        for slot in 0..512 {
            if memory.word(root + slot * 8) != Some(0) {
                space.top_slots.push(slot as usize);
            }
        }
        let rights = PRESENT | WRITE | USER;
        space.table(memory, root, 3, 0, rights)?;
        Ok(space)
    }

    fn table(
        &mut self,
        memory: &Memory,
        at: u64,
        level: u32,
        base: u64,
        rights: u64,
    ) -> Result<(), String> {
        self.tables.push(at);
        for slot in 0..512 {
            let entry_at = at + slot * 8;
            let here = base + (slot << (12 + 9 * level));
            let va = ((here << 16) as i64 >> 16) as u64;
            let Some(entry) = memory.word(entry_at) else {
                return Err(format!("the page table at {at:#x} is not in memory"));
            };
            if entry & PRESENT == 0 {
                if entry != 0 {
                    return Err(format!("the entry for {va:#x} is absent, but holds {entry:#x}"));
                }
                continue;
            }
            let rights = entry & rights & (WRITE | USER) | (entry | rights) & NO_EXEC;
            let is_large = level > 0 && entry & LARGE != 0;
            if level > 0 && !is_large {
                self.table(memory, entry & ADDRESS, level - 1, here, rights)?;
                continue;
            }
            let parts = if is_large { 512 } else { 1 };
            if level > 1 || !(entry & ADDRESS).is_multiple_of(parts * PAGE) {
                return Err(format!("a large page is mapped at {va:#x}, of 1 GiB or between two"));
            }
            self.leaves.extend((0..parts * PAGE).step_by(PAGE as usize).map(|part| Leaf {
                va: va + part,
                phys: (entry & ADDRESS) + part,
                is_user: rights & USER != 0,
                is_writable: rights & WRITE != 0,
                is_executable: rights & NO_EXEC == 0,
                is_uncached: entry & UNCACHED == UNCACHED,
                is_large,
                entry_at,
            }));
        }
        Ok(())
    }
}

/// Every page of memory that could be a top table of a running kernel: its last entry leads to the
/// table that `known`, one that is in use, has there, and its first entry is present.
pub fn roots(memory: &Memory, known: u64) -> Vec<u64> {
    let last = |root: u64| memory.word(root + KERNEL_SLOT as u64 * 8);
    let Some(kernel) = last(known).filter(|entry| entry & PRESENT != 0) else {
        return Vec::new();
    };
    let fits = |&root: &u64| {
        let same = last(root).is_some_and(|e| e & PRESENT != 0 && (e ^ kernel) & ADDRESS == 0);
        same && memory.word(root).is_some_and(|entry| entry & PRESENT != 0)
    };
    (0..memory.0.len() as u64).step_by(PAGE as usize).filter(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::{Leaf, Memory, NO_EXEC, PRESENT, Space, USER, WRITE, roots};

    /// Four tables at 0x1000 to 0x4000 that map 0x5000 at 0x20_3000.
    fn memory() -> Memory {
        let mut memory = Memory(vec![0; 0x8000]);
        let all = PRESENT | WRITE | USER;
        memory.set_word(0x1000, 0x2000 | all);
        memory.set_word(0x2000, 0x3000 | all);
        memory.set_word(0x3008, 0x4000 | all);
        memory.set_word(0x4018, 0x5000 | PRESENT | USER | NO_EXEC);
        memory.set_word(0x1ff8, 0x7000 | PRESENT);
        memory
    }

    #[test]
    fn rights_are_those_of_the_strictest_level() {
        let mut memory = memory();
        let space = Space::walk(&memory, 0x1000).unwrap();
        let leaf = Leaf {
            va: 0x20_3000,
            phys: 0x5000,
            is_user: true,
            is_writable: false,
            is_executable: false,
            is_uncached: false,
            is_large: false,
            entry_at: 0x4018,
        };
        assert_eq!(space.leaves, [leaf]);
        assert_eq!(space.top_slots, [0, 511]);
        memory.set_word(0x3008, 0x4000 | PRESENT | WRITE);
        assert!(!Space::walk(&memory, 0x1000).unwrap().leaves[0].is_user);
    }

    #[test]
    fn a_large_page_is_its_parts() {
        let mut memory = memory();
        memory.set_word(0x3010, 0x40_0000 | PRESENT | WRITE | USER | 1 << 7);
        let space = Space::walk(&memory, 0x1000).unwrap();
        assert_eq!(space.leaves.len(), 513);
        let last = space.leaf(0x5f_f000).unwrap();
        assert_eq!((last.phys, last.entry_at), (0x5f_f000, 0x3010));
        assert!(last.is_large && last.is_writable && !space.leaf(0x20_3000).unwrap().is_large);
    }

    #[test]
    fn what_cannot_be_followed_is_named() {
        let mut memory = memory();
        memory.set_word(0x3010, 0x40_1000 | PRESENT | 1 << 7);
        assert!(Space::walk(&memory, 0x1000).unwrap_err().contains("large page"));
        memory.set_word(0x3010, 0);
        memory.set_word(0x2008, 0x4000_0000 | PRESENT | 1 << 7);
        assert!(Space::walk(&memory, 0x1000).unwrap_err().contains("large page"));
        memory.set_word(0x2008, 0);
        memory.set_word(0x3010, 0x40_0000 | PRESENT);
        assert!(Space::walk(&memory, 0x1000).unwrap_err().contains("not in memory"));
        memory.set_word(0x3010, 8);
        assert!(Space::walk(&memory, 0x1000).unwrap_err().contains("absent"));
    }

    #[test]
    fn other_spaces_of_the_same_kernel_are_found() {
        let mut memory = memory();
        memory.set_word(0x6000, 0x2000 | PRESENT);
        memory.set_word(0x6ff8, 0x7000 | PRESENT | 1 << 5);
        assert_eq!(roots(&memory, 0x1000), [0x1000, 0x6000]);
        assert!(roots(&memory, 0x5000).is_empty());
    }
}
