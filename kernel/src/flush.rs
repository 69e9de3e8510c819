//! The flush checker (feature `flush-checker`): every change of a mapping is followed by a flush
//! before the next use, which no emulator shows. Without the feature every function here is empty.
//!
//! The rule is stricter than the CPU's (docs/reviews/0001-flushes.md): before the seal the boot
//! core alone changes mappings, any change makes its translations stale, and the next load of an
//! address space makes them fresh. Each core's loaded space is followed too.

use crate::arch::x86_64::window::IOMMUS;
use cloister_abi::layout::MAX_CORES;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The checker is built in.
pub const ON: bool = cfg!(feature = "flush-checker");

/// The boot core has changed a mapping since it last loaded a space.
static STALE: AtomicBool = AtomicBool::new(false);
/// Each core's space: its top page table.
static LOADED: [AtomicU64; MAX_CORES] = [const { AtomicU64::new(0) }; MAX_CORES];
/// Each IOMMU's caches that may hold what was changed since: a bit for each type of invalidation.
static UNITS: [AtomicU64; IOMMUS] = [const { AtomicU64::new(0) }; IOMMUS];

/// The boot core changes an entry. One that is present would need a flush on other cores as well
/// if they may have it; only `init`'s space, loaded on this core alone, has such changes.
#[inline(always)]
pub fn changed(old: u64, is_own_space: impl FnOnce() -> bool) {
    if ON {
        let is_replaced = old & 1 != 0 && !is_own_space();
        assert!(!is_replaced, "flush checker: a present entry changes in a space of other cores");
        STALE.store(true, Ordering::Relaxed);
    }
}

/// `core` has loaded the space `root`.
#[inline(always)]
pub fn loaded(core: u32, root: u64) {
    if ON {
        LOADED[core as usize].store(root, Ordering::Relaxed);
        if core == 0 {
            STALE.store(false, Ordering::Relaxed);
        }
    }
}

/// `core` is about to use the space `root`: to return to ring 3 in it, or to reach registers that
/// were just mapped.
#[inline(always)]
pub fn used(core: u32, root: u64) {
    if ON {
        let loaded = LOADED[core as usize].load(Ordering::Relaxed);
        assert!(loaded == root, "flush checker: {root:#x} is used, but {loaded:#x} is loaded");
        let is_stale = core == 0 && STALE.load(Ordering::Relaxed);
        assert!(!is_stale, "flush checker: a mapping has changed without a flush");
    }
}

/// The boot core changes a table that IOMMUs read, and that an invalidation of this type is for.
#[inline(always)]
pub fn table_changed(cached: u64) {
    if ON {
        UNITS.iter().for_each(|unit| _ = unit.fetch_or(1 << (cached & 15), Ordering::Relaxed));
    }
}

/// An IOMMU is told to forget what it has cached, by commands that begin with their type.
#[inline(always)]
pub fn tables_forgotten(unit: usize, commands: &[[u64; 2]]) {
    for [command, _] in commands.iter().filter(|_| ON) {
        UNITS[unit].fetch_and(!(1 << (command & 15)), Ordering::Relaxed);
    }
}

/// IOMMUs are about to be used: one is switched on, a function becomes a bus master.
#[inline(always)]
pub fn tables_used(mut units: core::ops::Range<usize>) {
    let is_fresh = !ON || units.all(|unit| UNITS[unit].load(Ordering::Relaxed) == 0);
    assert!(is_fresh, "flush checker: an IOMMU's table has changed without an invalidation");
}
