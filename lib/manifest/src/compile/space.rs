//! One task's address space while it is being laid out.
//!
//! Invariant: no two mappings share a page, and what [`Space::place`] puts down has an unmapped
//! page before it, so that running off the end of one region never reaches the next.

use cloister_abi::layout::{GUEST_RAM, GUEST_RAM_END, IMAGE, PAGE, TASK_INFO, USER_END};
use cloister_abi::table::{MAP_EXEC, MAP_READ, MAP_WRITE, Map};

use super::CompileError;

/// Distance between two guests' memories in a worker: room for the largest, and for a mistake.
const GUEST_STRIDE: u64 = 4 << 30;

/// Mappings of one task.
#[derive(Debug)]
pub struct Space {
    task: String,
    /// First and end address of every mapping, and what it is.
    taken: Vec<(u64, u64, String)>,
    maps: Vec<Map>,
    next: u64,
    /// Where the next guest's memory goes.
    next_guest: u64,
}

impl Space {
    /// An empty space.
    pub fn new(task: &str) -> Self {
        Self {
            task: task.to_owned(),
            taken: Vec::new(),
            maps: Vec::new(),
            next: IMAGE,
            next_guest: GUEST_RAM,
        }
    }

    /// Maps a region at an address that the layout or the program chose.
    pub fn fix(
        &mut self,
        va: u64,
        region: u16,
        pages: u64,
        rights: u8,
        what: &str,
    ) -> Result<(), CompileError> {
        let wrong =
            |text: String| CompileError::new(format!("task `{}`: {what} {text}", self.task));
        let end = pages.checked_mul(PAGE).and_then(|len| va.checked_add(len));
        let Some(end) =
            end.filter(|end| va >= TASK_INFO && *end <= USER_END && va.is_multiple_of(PAGE))
        else {
            return Err(wrong(format!(
                "at {va:#x} with {pages} pages is not within {TASK_INFO:#x}..{USER_END:#x}"
            )));
        };
        if rights & MAP_WRITE != 0 && rights & MAP_EXEC != 0 {
            return Err(wrong(format!("at {va:#x} is writable and executable")));
        }
        if let Some((start, stop, other)) = self.taken.iter().find(|t| va < t.1 && t.0 < end) {
            return Err(wrong(format!(
                "at {va:#x}..{end:#x} meets {other} at {start:#x}..{stop:#x}"
            )));
        }
        self.taken.push((va, end, what.to_owned()));
        self.maps.push(Map { va, region, rights: rights | MAP_READ, reserved: [0; 5] });
        if va >= IMAGE {
            self.next = self.next.max(end);
        }
        Ok(())
    }

    /// Maps a region behind everything that is there, with a guard page between.
    pub fn place(
        &mut self,
        region: u16,
        pages: u64,
        rights: u8,
        what: &str,
    ) -> Result<u64, CompileError> {
        let va = self.next + PAGE;
        self.fix(va, region, pages, rights, what)?;
        Ok(va)
    }

    /// Maps a guest's memory, in a part of the address space that has nothing else. `dma` is the
    /// right of the task's devices, or zero.
    pub fn place_guest(&mut self, region: u16, dma: u8) -> Result<u64, CompileError> {
        let va = self.next_guest;
        if va >= GUEST_RAM_END {
            return Err(CompileError::new(format!(
                "task `{}` works for more VMs than its address space has room for",
                self.task
            )));
        }
        self.next_guest += GUEST_STRIDE;
        let rights = MAP_READ | MAP_WRITE | dma;
        self.maps.push(Map { va, region, rights, reserved: [0; 5] });
        Ok(va)
    }

    /// Number of mappings.
    pub fn len(&self) -> usize {
        self.maps.len()
    }

    /// The mappings, by address.
    pub fn into_maps(mut self) -> Vec<Map> {
        self.maps.sort_by_key(|map| map.va);
        self.maps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_placed_with_a_guard_page_between() {
        let mut space = Space::new("t");
        space.fix(IMAGE, 0, 2, MAP_EXEC, "text").expect("free");
        let first = space.place(1, 3, MAP_WRITE, "a").expect("room");
        let second = space.place(2, 1, 0, "b").expect("room");
        assert_eq!(first, IMAGE + 3 * PAGE);
        assert_eq!(second, first + 4 * PAGE);
        assert_eq!(space.into_maps().len(), 3);
    }

    #[test]
    fn overlaps_wrong_rights_and_wrong_places_are_refused() {
        let mut space = Space::new("t");
        space.fix(IMAGE, 0, 2, 0, "a").expect("free");
        let cases = [
            (IMAGE + PAGE, 1, 0, "meets a"),
            (IMAGE + 4 * PAGE, 1, MAP_WRITE | MAP_EXEC, "writable and executable"),
            (IMAGE + 1, 1, 0, "is not within"),
            (0, 1, 0, "is not within"),
            (USER_END - PAGE, 2, 0, "is not within"),
            (IMAGE, u64::MAX / 2, 0, "is not within"),
        ];
        for (va, pages, rights, expected) in cases {
            let error = space.fix(va, 0, pages, rights, "b").expect_err("refused");
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
