//! The virtio devices that this task serves: one [`DeviceExport`] for each export with a client.
//!
//! The task information names, for an export `EXPORT` that virtual machine `VM` holds, the mailbox
//! `EXPORT/VM`, the guest's RAM `EXPORT/VM/ram`, the doorbell counters `EXPORT/VM/bells` and the
//! number `EXPORT/VM/bell` of the first of them; for a block device also the in-flight records
//! `EXPORT/VM/inflight`. A task that serves any number of guests finds them here without knowing
//! their names.
//!
//! A *window* looks the same, with a task in place of the VM and a piece of memory of its own in
//! place of the guest's RAM. That task, its client, finds it as a [`Window`]: `GRANT` and
//! `GRANT/ram`.
//!
//! Invariant: this is the only place that makes a [`GuestMemory`]; entries named `…/ram` are the
//! image builder's alone, and nothing else in this crate gives a view of such an entry.

use core::ptr;

use cloister_abi::info::{GRANT_MEMORY, GRANT_NUMBER, Grant};
use cloister_abi::layout::{GUEST_RAM, GUEST_RAM_END, IMAGE, PAGE, USER_END};
use cloister_abi::name_str;
use cloister_abi::table::MAP_WRITE;
use cloister_guestmem::GuestMemory;
use cloister_proto::volume::INFLIGHT_BYTES;

use crate::cpu::copy_words;
use crate::grants::{Grants, Mailbox, Missing, What, is_dma};
use crate::memory::Shared;

/// What the name of a guest's RAM, or of a window's memory, ends with.
pub(crate) const RAM: &str = "/ram";

/// A virtio device of a virtual machine, or of a window's client, as the task that works its rings
/// is granted it.
pub struct DeviceExport {
    /// The name of the grants, `EXPORT/VM`.
    pub name: &'static str,
    /// The page that the monitor shares, the right to signal the monitor, and the bit that monitor
    /// and doorbells set.
    pub mailbox: Mailbox,
    /// The guest's RAM, or the window's memory.
    pub ram: GuestMemory,
    /// Where this task's own devices reach the first byte of `ram`; `None` if they do not.
    pub device_address: Option<u64>,
    /// The page of doorbell counters.
    pub bells: Shared,
    /// Number of this device's first counter in it.
    pub first_bell: usize,
    /// In-flight records of a block device, which no restart wipes.
    pub inflight: Option<Shared>,
}

/// The client's end of a window: it is the driver of the virtio device that the server works.
pub struct Window {
    /// The page that the two share, the right to signal the server, and the bit that it sets.
    pub mailbox: Mailbox,
    /// The window's memory: rings and payload.
    pub ram: GuestMemory,
}

impl Grants {
    /// The virtio devices that this task serves, in the order of the task information. One with a
    /// grant missing is returned as the error.
    pub fn device_exports(&self) -> impl Iterator<Item = Result<DeviceExport, Missing>> + use<> {
        let grants = *self;
        let memories = self.entries().iter().filter(|entry| entry.kind == GRANT_MEMORY);
        memories.filter_map(move |entry| {
            let name = name_str(&entry.name).strip_suffix(RAM)?;
            // A name without a client is that of a window which this task holds itself.
            name.contains('/').then(|| grants.device_export(name, entry))
        })
    }

    /// The client's end of a window that this task was granted.
    pub fn window(&self, name: &'static str) -> Result<Window, Missing> {
        let missing = Missing { name, what: What::Memory };
        let ram = self.beside(name, RAM, GRANT_MEMORY).ok_or(missing)?;
        let ram = ram_view(ram).ok_or(missing)?;
        Ok(Window { mailbox: self.mailbox(name)?, ram })
    }

    fn device_export(&self, name: &'static str, ram: &Grant) -> Result<DeviceExport, Missing> {
        let bells = self.beside(name, "/bells", GRANT_MEMORY);
        let bells = bells.ok_or(Missing { name, what: What::Memory })?;
        let first = self.beside(name, "/bell", GRANT_NUMBER);
        let first = first.and_then(|entry| usize::try_from(entry.va).ok());
        let inflight = self.beside(name, "/inflight", GRANT_MEMORY);
        let inflight = inflight.filter(|entry| entry.len >= INFLIGHT_BYTES);
        Ok(DeviceExport {
            name,
            mailbox: self.mailbox(name)?,
            ram: ram_view(ram).ok_or(Missing { name, what: What::Memory })?,
            device_address: is_dma(ram).then_some(ram.va),
            inflight: inflight.map(|entry| self.shared(name_str(&entry.name))).transpose()?,
            bells: self.shared(name_str(&bells.name))?,
            first_bell: first.ok_or(Missing { name, what: What::Number })?,
        })
    }

    /// The entry of a name with something behind it.
    pub(crate) fn beside(&self, name: &str, suffix: &str, kind: u8) -> Option<&'static Grant> {
        let mut entries = self.entries().iter().filter(|entry| entry.kind == kind);
        entries.find(|entry| name_str(&entry.name).strip_prefix(name) == Some(suffix))
    }
}

/// The RAM of a guest, or a window's memory; `None` if the entry is for another kind of memory, or
/// read-only.
fn ram_view(entry: &Grant) -> Option<GuestMemory> {
    let end = entry.va.checked_add(entry.len)?;
    let is_guests = entry.va >= GUEST_RAM && end <= GUEST_RAM_END;
    let is_window = entry.va >= IMAGE && end <= USER_END;
    let is_whole = entry.va.is_multiple_of(PAGE);
    if !(is_guests || is_window) || !is_whole || entry.rights & MAP_WRITE == 0 {
        return None;
    }
    let base = ptr::with_exposed_provenance_mut(usize::try_from(entry.va).ok()?);
    // SAFETY: (1) the image builder made the entry for a region that the kernel maps writable for
    // the task's whole life; its name ends with `/ram`, which is so for guests' RAM and windows
    // alone: the manifest allows no slash in a name. (2) Page aligned, checked above. (3) Neither
    // image nor stack lies in a region that has a name, and no other function of this crate makes
    // a reference to memory of such a name but to atomic words.
    let memory = unsafe { GuestMemory::at(base, usize::try_from(entry.len).ok()?) };
    // SAFETY: the instruction copies words, each once, and touches nothing else.
    Some(unsafe { memory.copying_by(copy_words) })
}

#[cfg(test)]
mod tests {
    use super::ram_view;
    use crate::grants::tests::{entry, leaked_grants};
    use crate::grants::{Missing, What};
    use cloister_abi::info::{GRANT_BIT, GRANT_CAP, GRANT_MEMORY, GRANT_NUMBER, Grant};
    use cloister_abi::layout::{GUEST_RAM, GUEST_RAM_END, IMAGE, USER_END};
    use cloister_abi::table::{CapKind, MAP_DMA, MAP_READ, MAP_WRITE};
    use cloister_guestmem::Ram;
    use cloister_proto::volume::INFLIGHT_BYTES;

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
    fn a_disks_export_has_records_and_the_address_that_devices_use() {
        let rights = MAP_READ | MAP_WRITE;
        let mut entries = device("web/vm", 0);
        entries[3].rights |= MAP_DMA;
        let inflight = entry("web/vm/inflight", GRANT_MEMORY);
        entries.push(Grant { va: 0x60_0000, len: INFLIGHT_BYTES, rights, ..inflight });
        let mut found = leaked_grants(&entries).device_exports();
        let export = found.next().unwrap().unwrap();
        assert_eq!(export.device_address, Some(GUEST_RAM));
        let words = export.inflight.unwrap().words().len();
        assert_eq!(words as u64 * 8, INFLIGHT_BYTES);
        entries[3].rights = rights;
        entries[6].len = INFLIGHT_BYTES - 4096;
        let export = leaked_grants(&entries).device_exports().next().unwrap().unwrap();
        assert!(export.device_address.is_none() && export.inflight.is_none());
    }

    #[test]
    fn a_window_has_two_ends_and_each_finds_its_own() {
        let rights = MAP_READ | MAP_WRITE;
        let at = |name, va| Grant { va, len: 0x4_0000, rights, ..entry(name, GRANT_MEMORY) };
        let mut server = device("web/broker", 0);
        server[3] = at("web/broker/ram", 0x60_0000);
        let export = leaked_grants(&server).device_exports().next().unwrap().unwrap();
        assert_eq!((export.name, export.ram.size()), ("web/broker", 0x4_0000));
        let client = vec![
            Grant { va: 0x50_0000, len: 4096, rights, ..entry("disk", GRANT_MEMORY) },
            Grant { cap_kind: CapKind::Thread as u8, slot: 3, ..entry("disk", GRANT_CAP) },
            Grant { bit: 5, ..entry("disk", GRANT_BIT) },
            at("disk/ram", 0x60_0000),
        ];
        let grants = leaked_grants(&client);
        assert_eq!(grants.device_exports().count(), 0, "the client serves nobody");
        assert_eq!(grants.window("disk").unwrap().ram.size(), 0x4_0000);
        for left_out in 0..4 {
            let mut entries = client.clone();
            entries.remove(left_out);
            assert!(leaked_grants(&entries).window("disk").is_err(), "{left_out}");
        }
    }

    #[test]
    fn only_writable_memory_at_its_place_is_a_guests() {
        let rights = MAP_READ | MAP_WRITE;
        let at = |va, len, rights| {
            ram_view(&Grant { va, len, rights, ..entry("a/vm/ram", GRANT_MEMORY) }).is_some()
        };
        assert!(at(GUEST_RAM, GUEST_RAM_END - GUEST_RAM, rights));
        assert!(!at(GUEST_RAM, 4096, MAP_READ));
        assert!(at(IMAGE, USER_END - IMAGE, rights));
        assert!(!at(USER_END, 4096, rights));
        assert!(!at(USER_END - 4096, 8192, rights));
        assert!(!at(IMAGE - 4096, 8192, rights));
        assert!(!at(GUEST_RAM + 8, 4096, rights));
        assert!(!at(GUEST_RAM - 4096, 8192, rights));
        assert!(!at(GUEST_RAM_END - 4096, 8192, rights));
        assert!(!at(GUEST_RAM_END - 4096, u64::MAX, rights));
    }
}
