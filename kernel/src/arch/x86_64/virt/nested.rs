//! Nested page tables: guest-physical to host-physical.
//!
//! Built before the seal from the table's guest maps. A machine's vCPUs share all tables but the
//! path to the device pages: each has its own, because page slots change entries there.

use crate::arch::x86_64::paging::{self, NO_EXEC, PRESENT, Table, USER, WRITE};
use cloister_abi::layout::{GUEST_DEVICES, PAGE};

/// Intel's entries (Intel SDM volume 3, "The Extended Page Table Mechanism"): read, write, execute,
/// and write-back memory in leaves.
const EPT_READ: u64 = 1;
const EPT_WRITE: u64 = 2;
const EPT_EXECUTE: u64 = 4;
const EPT_WRITE_BACK: u64 = 6 << 3;

const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Nested walks are those of a user; what may be done is said in the leaves.
const TABLE: u64 = PRESENT | WRITE | USER | ACCESSED;

/// What an entry says that names a table.
fn table() -> u64 {
    if super::is_vmx() { EPT_READ | EPT_WRITE | EPT_EXECUTE } else { TABLE }
}
const MIB2: u64 = 2 << 20;
const GIB: u64 = 1 << 30;

/// The entry of a page.
#[inline(always)]
pub fn leaf<const VMX: bool>(phys: u64, write: bool, exec: bool) -> u64 {
    if VMX {
        let write = if write { EPT_WRITE } else { 0 };
        let exec = if exec { EPT_EXECUTE } else { 0 };
        return phys | EPT_READ | EPT_WRITE_BACK | write | exec;
    }
    let write = if write { WRITE } else { 0 };
    let exec = if exec { 0 } else { NO_EXEC };
    phys | PRESENT | USER | ACCESSED | DIRTY | write | exec
}

/// The entry of a page, by the CPU's extension.
fn leaf_here(phys: u64, write: bool, exec: bool) -> u64 {
    if super::is_vmx() { leaf::<true>(phys, write, exec) } else { leaf::<false>(phys, write, exec) }
}

/// The nested tables of one virtual machine under construction: one entry for each GiB below
/// 4 GiB. Further vCPUs get copies of the last one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tables {
    gib: [u64; 4],
}

impl Tables {
    /// Maps `len` bytes, with the largest pages that fit.
    ///
    /// # Safety
    /// As for [`paging::page`], for every page that `carve` returns.
    pub unsafe fn map(
        &mut self,
        gpa: u64,
        phys: u64,
        len: u64,
        rights: (bool, bool),
        mut carve: impl FnMut() -> u64,
    ) {
        let (write, exec) = rights;
        let mut done = 0;
        while done < len {
            let (at, from) = (gpa + done, phys + done);
            let fits = |size: u64| (at | from).is_multiple_of(size) && len - done >= size;
            let slot = &mut self.gib[(at / GIB) as usize & 3];
            if fits(GIB) {
                *slot = leaf_here(from, write, exec) | LARGE;
                done += GIB;
                continue;
            }
            if *slot == 0 {
                *slot = carve() | table();
            }
            // SAFETY: the caller's condition; carved here or before.
            let directory: &mut Table = unsafe { paging::page(*slot & ADDRESS) };
            let entry = &mut directory[(at / MIB2) as usize & 511];
            if fits(MIB2) {
                *entry = leaf_here(from, write, exec) | LARGE;
                done += MIB2;
                continue;
            }
            if *entry == 0 {
                *entry = carve() | table();
            }
            // SAFETY: as above.
            let table: &mut Table = unsafe { paging::page(*entry & ADDRESS) };
            table[(at / PAGE) as usize & 511] = leaf_here(from, write, exec);
            done += PAGE;
        }
    }

    /// A vCPU's own root, and its two tables of device pages, which begin as copies.
    ///
    /// # Safety
    /// As for [`Tables::map`]; everything is mapped.
    pub unsafe fn finish(&self, mut carve: impl FnMut() -> u64) -> (u64, [u64; 2]) {
        let [root, pointers, directory, first, second] = core::array::from_fn(|_| carve());
        // SAFETY: just carved; the others were carved by `map`, and are only read.
        let [top, gibs, last, a, b]: [&mut Table; 5] =
            [root, pointers, directory, first, second].map(|phys| unsafe { paging::page(phys) });
        top[0] = pointers | table();
        gibs[..3].copy_from_slice(&self.gib[..3]);
        gibs[3] = directory | table();
        let slot = (GUEST_DEVICES.start / MIB2) as usize & 511;
        if self.gib[3] != 0 {
            // SAFETY: as above.
            let shared: &Table = unsafe { paging::page(self.gib[3] & ADDRESS) };
            last.copy_from_slice(shared);
            for (own, entry) in [(a, shared[slot]), (b, shared[slot + 1])] {
                if entry != 0 {
                    // SAFETY: as above; device pages are never mapped by large pages.
                    own.copy_from_slice(unsafe { paging::page::<Table>(entry & ADDRESS) });
                }
            }
        }
        (last[slot], last[slot + 1]) = (first | table(), second | table());
        (root, [first, second])
    }
}
