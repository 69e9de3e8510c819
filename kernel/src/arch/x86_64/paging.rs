//! Page tables: building them at boot, changing a few leaves before the seal.
//!
//! Tables are reached through the map of physical memory that exists until the seal; afterwards
//! no function of this module can be used, and none is. A page is writable or executable, never
//! both; user addresses end at 1 GiB, so each space has one page directory, and one more for each
//! GiB of a guest's RAM that its task works on.

use super::window;
use cloister_abi::layout::{CORE_WINDOW, GUEST_RAM, GUEST_RAM_END, PAGE, USER_END};
use cloister_abi::table::{MAP_EXEC, MAP_WRITE};

/// A page table.
pub type Table = [u64; 512];

/// The entry is valid.
pub const PRESENT: u64 = 1;
/// Writable.
pub const WRITE: u64 = 1 << 1;
/// Reachable from ring 3.
pub const USER: u64 = 1 << 2;
/// Uncached: PWT and PCD (page attribute 3 of the power-up PAT).
pub const UNCACHED: u64 = 1 << 3 | 1 << 4;
/// Not executable.
pub const NO_EXEC: u64 = 1 << 63;
/// A page of [`LARGE_PAGE`] bytes, in an entry of a directory.
pub const LARGE: u64 = 1 << 7;
/// Bytes of a large page.
pub const LARGE_PAGE: u64 = 2 << 20;
/// A mapping of kernel data.
pub const KERNEL_DATA: u64 = PRESENT | WRITE | NO_EXEC;
/// A mapping of kernel constants.
pub const KERNEL_CONST: u64 = PRESENT | NO_EXEC;
/// The physical address in an entry.
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Flags of a user page with the rights of a [`cloister_abi::table::Map`].
pub fn user_flags(rights: u8) -> u64 {
    let write = if rights & MAP_WRITE != 0 { WRITE } else { 0 };
    let exec = if rights & MAP_EXEC != 0 { 0 } else { NO_EXEC };
    PRESENT | USER | write | exec
}

/// The bytes of a physical page, before the seal.
///
/// # Safety
/// Physical memory is mapped, `phys` is below 4 GiB, and nothing else refers to the page.
pub unsafe fn page<'a, T>(phys: u64) -> &'a mut T {
    const { assert!(size_of::<T>() <= PAGE as usize) };
    // SAFETY: the caller's conditions; every byte pattern of memory is a valid T for the plain
    // tables and structs with which this is used.
    unsafe { &mut *((window::PHYSICAL + phys) as *mut T) }
}

/// An address space under construction or before the seal.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// Physical address of the top page table.
    pub root: u64,
}

impl Space {
    /// A space that maps the kernel and a core's window.
    ///
    /// # Safety
    /// As for [`page`]; `high` is the kernel's table for entry 511, `core_window` a page table.
    pub unsafe fn new(mut carve: impl FnMut() -> u64, high: u64, core_window: u64) -> Space {
        let [root, pointers, directory] = [carve(), carve(), carve()];
        // SAFETY: the pages were just carved.
        let top: &mut Table = unsafe { page(root) };
        top[511] = high | PRESENT | WRITE;
        top[0] = pointers | PRESENT | WRITE | USER;
        // SAFETY: as above.
        let table: &mut Table = unsafe { page(pointers) };
        table[0] = directory | PRESENT | WRITE | USER;
        // Without the user bit here, nothing in the window is reachable from ring 3.
        let slot = (CORE_WINDOW >> 21) as usize;
        // SAFETY: as above.
        let table: &mut Table = unsafe { page(directory) };
        table[slot] = core_window | PRESENT | WRITE;
        Space { root }
    }

    /// The leaf entry for a user address: of a page, or of a large page in the part for the RAM of
    /// guests. The last table on the way is made with `carve` if it is missing.
    ///
    /// # Safety
    /// As for [`page`], and no other leaf of this space is borrowed.
    #[inline(never)]
    pub unsafe fn leaf<'a>(self, va: u64, carve: impl FnOnce() -> u64) -> &'a mut u64 {
        let is_large = (GUEST_RAM..GUEST_RAM_END).contains(&va);
        assert!(is_large || va < USER_END, "a mapping beyond the user's addresses");
        let (path, shift): (&[usize], u32) = if is_large { (&[0], 21) } else { (&[0, 0], 12) };
        // SAFETY: the caller's conditions; tables of a space are pages of their own.
        let above = unsafe { walk(self.root, path) };
        let entry = &mut above[(va >> (shift + 9)) as usize & 511];
        if *entry == 0 {
            *entry = carve() | PRESENT | WRITE | USER;
        }
        // SAFETY: as above.
        let table: &mut Table = unsafe { page(*entry & ADDRESS) };
        &mut table[(va >> shift) as usize & 511]
    }
}

/// The page table behind the first entry `slots` deep: follows one entry a level.
///
/// # Safety
/// As for [`page`]; every entry on the way is present and a table.
pub unsafe fn walk<'a>(root: u64, slots: &[usize]) -> &'a mut Table {
    let mut at = root;
    for &slot in slots {
        // SAFETY: the caller's conditions.
        let table: &Table = unsafe { page(at) };
        at = table[slot] & ADDRESS;
    }
    // SAFETY: the caller's conditions.
    unsafe { page(at) }
}
