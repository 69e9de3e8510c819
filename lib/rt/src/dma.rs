//! Memory that a task shares with its own devices: [`DmaRegion`].
//!
//! The kernel maps such a region in the task and, at the same address, in the IOMMU domain of the
//! task's devices. A device writes without asking anybody, so no plain reference may ever be made
//! to such memory; `lib/dma` has the accesses, see [`DmaRegion::memory`].
//!
//! Invariant: in a life of the task, each region is handed out once, and no other function of this
//! crate makes a view of it.

use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use cloister_abi::info::Grant;
use cloister_abi::layout::{PAGE, USER_END};
use cloister_abi::table::MAP_WRITE;
use cloister_dma::Region;

/// Most regions that one task can take.
const REGIONS_MAX: usize = 64;

/// First addresses of the regions that were taken, 0 for a free place.
static TAKEN: [AtomicU64; REGIONS_MAX] = [const { AtomicU64::new(0) }; REGIONS_MAX];

/// Memory that the task's devices reach at the same address as the task. Whoever has the value is
/// the only one in the program who knows the memory: it is not `Clone`.
#[derive(Debug, PartialEq, Eq)]
pub struct DmaRegion {
    address: u64,
    len: u64,
}

impl DmaRegion {
    /// Its first address, for the task and for the devices; a multiple of the page size.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Its bytes, whole pages. All of them are mapped for the task's whole life, readable and
    /// writable.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The memory, to be used.
    pub fn memory(self) -> Region {
        let base = ptr::with_exposed_provenance_mut(self.address as usize);
        // SAFETY: (1) `take` checked that the entry is one of writable memory, which the kernel
        // maps for the task's whole life. (2) The address is a multiple of the page size. (3) The
        // value is given up, there is one for each region, and no other function of this crate
        // makes a view of an entry that devices reach and that has no slash in its name.
        unsafe { Region::at(base, self.len as usize) }
    }

    /// Whether it has no bytes, which no region of the manifest has.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// The region of an entry, if it is writable memory of the task's own and was not taken before.
pub(crate) fn take(entry: &Grant) -> Option<DmaRegion> {
    let end = entry.va.checked_add(entry.len)?;
    let is_whole = entry.va.is_multiple_of(PAGE) && entry.len.is_multiple_of(PAGE);
    // Guests' memory lies higher up, and has views of its own.
    if end > USER_END || entry.va == 0 || !is_whole || entry.rights & MAP_WRITE == 0 {
        return None;
    }
    for place in &TAKEN {
        match place.compare_exchange(0, entry.va, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return Some(DmaRegion { address: entry.va, len: entry.len }),
            Err(known) if known == entry.va => return None,
            Err(_) => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use crate::grants::tests::{entry, leaked_grants};
    use crate::grants::{Missing, What};
    use cloister_abi::info::{GRANT_MEMORY, Grant};
    use cloister_abi::layout::{GUEST_RAM, USER_END};
    use cloister_abi::table::{MAP_DMA, MAP_READ, MAP_WRITE};

    const RIGHTS: u8 = MAP_READ | MAP_WRITE | MAP_DMA;

    fn region(name: &str, va: u64, len: u64, rights: u8) -> Grant {
        Grant { va, len, rights, ..entry(name, GRANT_MEMORY) }
    }

    #[test]
    fn a_region_is_handed_out_once_and_only_as_what_it_is() {
        let entries = [
            region("queues", 0x60_0000, 8192, RIGHTS),
            region("heap", 0x70_0000, 4096, MAP_READ | MAP_WRITE),
        ];
        let window = region("web/broker/ram", 0x90_0000, 4096, RIGHTS);
        assert!(leaked_grants(&[window]).dma("web/broker/ram").is_err(), "others see it too");
        let grants = leaked_grants(&entries);
        let first = grants.dma("queues").unwrap();
        assert_eq!((first.address(), first.len(), first.is_empty()), (0x60_0000, 8192, false));
        let missing = |name, what| Some(Missing { name, what });
        assert_eq!(grants.dma("queues").err(), missing("queues", What::Dma), "a second view");
        assert_eq!(grants.dma("heap").err(), missing("heap", What::Dma), "no device reaches it");
        assert_eq!(grants.shared("queues").err(), missing("queues", What::Memory));
        assert!(grants.registers("queues").is_err() && grants.shared("heap").is_ok());
    }

    #[test]
    fn what_is_not_the_tasks_own_writable_pages_is_no_region() {
        for (name, va, len, rights) in [
            ("guest", GUEST_RAM, 4096, RIGHTS),
            ("end", USER_END - 4096, 8192, RIGHTS),
            ("constant", 0x80_0000, 4096, MAP_READ | MAP_DMA),
            ("part", 0x80_0000, 4000, RIGHTS),
            ("odd", 0x80_0008, 4096, RIGHTS),
            ("wrap", u64::MAX - 4095, 4096, RIGHTS),
        ] {
            let grants = leaked_grants(&[region(name, va, len, rights)]);
            assert!(grants.dma(name).is_err(), "{name}");
        }
    }
}
