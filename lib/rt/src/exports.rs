//! The virtio devices that this task serves: one [`DeviceExport`] for each export with a client.
//!
//! The task information names, for an export `EXPORT` that virtual machine `VM` holds, the mailbox
//! `EXPORT/VM`, the guest's RAM `EXPORT/VM/ram`, the doorbell counters `EXPORT/VM/bells` and the
//! number `EXPORT/VM/bell` of the first of them. A task that serves any number of guests finds them
//! here without knowing their names.
//!
//! Invariant: this is the only place that makes a [`GuestMemory`], once for each mapping.

use core::ptr;

use cloister_abi::info::{GRANT_MEMORY, GRANT_NUMBER, Grant};
use cloister_abi::layout::{GUEST_RAM, GUEST_RAM_END};
use cloister_abi::name_str;
use cloister_abi::table::MAP_WRITE;
use cloister_guestmem::GuestMemory;

use crate::grants::{Grants, Mailbox, Missing, What};
use crate::memory::Shared;

/// A virtio device of a virtual machine, as the task that works its rings is granted it.
pub struct DeviceExport {
    /// The name of the grants, `EXPORT/VM`.
    pub name: &'static str,
    /// The page that the monitor shares, the right to signal the monitor, and the bit that monitor
    /// and doorbells set.
    pub mailbox: Mailbox,
    /// The guest's RAM.
    pub ram: GuestMemory,
    /// The page of doorbell counters.
    pub bells: Shared,
    /// Number of this device's first counter in it.
    pub first_bell: usize,
}

impl Grants {
    /// The virtio devices that this task serves, in the order of the task information. One with a
    /// grant missing is returned as the error.
    pub fn device_exports(&self) -> impl Iterator<Item = Result<DeviceExport, Missing>> + use<> {
        let grants = *self;
        let memories = self.entries().iter().filter(|entry| entry.kind == GRANT_MEMORY);
        memories.filter_map(move |entry| {
            let name = name_str(&entry.name).strip_suffix("/ram")?;
            Some(grants.device_export(name, entry))
        })
    }

    fn device_export(&self, name: &'static str, ram: &Grant) -> Result<DeviceExport, Missing> {
        let bells = self.beside(name, "/bells", GRANT_MEMORY);
        let bells = bells.ok_or(Missing { name, what: What::Memory })?;
        let first = self.beside(name, "/bell", GRANT_NUMBER);
        let first = first.and_then(|entry| usize::try_from(entry.va).ok());
        Ok(DeviceExport {
            name,
            mailbox: self.mailbox(name)?,
            ram: guest_ram(ram).ok_or(Missing { name, what: What::Memory })?,
            bells: self.shared(name_str(&bells.name))?,
            first_bell: first.ok_or(Missing { name, what: What::Number })?,
        })
    }

    /// The entry of a name with something behind it.
    fn beside(&self, name: &str, suffix: &str, kind: u8) -> Option<&'static Grant> {
        let mut entries = self.entries().iter().filter(|entry| entry.kind == kind);
        entries.find(|entry| name_str(&entry.name).strip_prefix(name) == Some(suffix))
    }
}

/// The RAM of a guest; `None` if the entry is for another kind of memory, or read-only.
fn guest_ram(entry: &Grant) -> Option<GuestMemory> {
    let end = entry.va.checked_add(entry.len)?;
    if entry.va < GUEST_RAM || end > GUEST_RAM_END || entry.rights & MAP_WRITE == 0 {
        return None;
    }
    let base = ptr::with_exposed_provenance_mut(usize::try_from(entry.va).ok()?);
    // SAFETY: (1) the image builder made the entry for a region that the kernel maps writable for
    // the task's whole life. (2) Mappings begin at page boundaries. (3) Addresses from `GUEST_RAM`
    // up are for guests' RAM alone: image, stack and shared regions lie below, and no other
    // function of this crate makes a reference there but to atomic words of an entry that
    // the task asks for by the same name.
    Some(unsafe { GuestMemory::at(base, usize::try_from(entry.len).ok()?) })
}

#[cfg(test)]
mod tests {
    use super::guest_ram;
    use crate::grants::tests::{entry, leaked_grants};
    use crate::grants::{Missing, What};
    use cloister_abi::info::{GRANT_BIT, GRANT_CAP, GRANT_MEMORY, GRANT_NUMBER, Grant};
    use cloister_abi::layout::{GUEST_RAM, GUEST_RAM_END, USER_END};
    use cloister_abi::table::{CapKind, MAP_READ, MAP_WRITE};
    use cloister_guestmem::Ram;

    fn device(export: &str, at: u64) -> Vec<Grant> {
        let named = |suffix: &str, kind| entry(&format!("{export}{suffix}"), kind);
        let (rights, len) = (MAP_READ | MAP_WRITE, 4096);
        vec![
            Grant { va: 0x50_0000, len, rights, ..named("", GRANT_MEMORY) },
            Grant { cap_kind: CapKind::Thread as u8, slot: 3, ..named("", GRANT_CAP) },
            Grant { bit: 5, ..named("", GRANT_BIT) },
            Grant { va: GUEST_RAM + at, len: 2 << 20, rights, ..named("/ram", GRANT_MEMORY) },
            Grant { va: 0x51_0000, len, rights: MAP_READ, ..named("/bells", GRANT_MEMORY) },
            Grant { va: 6, ..named("/bell", GRANT_NUMBER) },
        ]
    }

    #[test]
    fn every_export_is_found_with_all_its_grants() {
        let entries = [device("b/left", 0), device("a/right", 2 << 20)].concat();
        let grants = leaked_grants(&entries);
        let found: Vec<_> = grants.device_exports().map(Result::unwrap).collect();
        assert_eq!(found.iter().map(|e| e.name).collect::<Vec<_>>(), ["b/left", "a/right"]);
        assert!(found.iter().all(|e| e.first_bell == 6 && e.ram.size() == 2 << 20));
        assert!(found.iter().all(|e| !e.bells.is_writable() && e.mailbox.memory.is_writable()));
    }

    #[test]
    fn an_export_without_one_of_its_grants_is_missing_by_name() {
        let whole = device("a/vm", 0);
        for (left_out, what) in [
            (0, What::Memory),
            (1, What::Signal),
            (2, What::Bit),
            (4, What::Memory),
            (5, What::Number),
        ] {
            let mut entries = whole.clone();
            entries.remove(left_out);
            let grants = leaked_grants(&entries);
            let found: Vec<_> = grants.device_exports().map(Result::err).collect();
            assert_eq!(found, [Some(Missing { name: "a/vm", what })], "{left_out}");
        }
        let mut entries = whole;
        entries.remove(3);
        assert_eq!(leaked_grants(&entries).device_exports().count(), 0);
    }

    #[test]
    fn only_writable_memory_at_its_place_is_a_guests() {
        let rights = MAP_READ | MAP_WRITE;
        let at = |va, len, rights| {
            guest_ram(&Grant { va, len, rights, ..entry("a/vm/ram", GRANT_MEMORY) }).is_some()
        };
        assert!(at(GUEST_RAM, GUEST_RAM_END - GUEST_RAM, rights));
        assert!(!at(GUEST_RAM, 4096, MAP_READ));
        assert!(!at(USER_END, 4096, rights));
        assert!(!at(GUEST_RAM - 4096, 8192, rights));
        assert!(!at(GUEST_RAM_END - 4096, 8192, rights));
        assert!(!at(GUEST_RAM_END - 4096, u64::MAX, rights));
    }
}
