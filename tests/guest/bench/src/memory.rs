//! Accesses to device pages: the APIC's in xAPIC mode, an MSI-X table's.

use cloister_guest_rt::abi::platform;
use cloister_guest_rt::virtio::Table;
use cloister_guest_rt::{apic, println};

use crate::{discard, measure};

/// The APIC's task priority, a register without effects here.
const PRIORITY: usize = platform::APIC as usize + 0x80;

/// Measures what is there.
pub fn run(nothing: u64, table: Option<&Table>) {
    if apic::is_x2apic() {
        println!("x2APIC mode: no page of the APIC");
    } else {
        let at = PRIORITY as *mut u32;
        // SAFETY: reading the register changes nothing.
        let (min, max) = measure(nothing, || discard(unsafe { at.read_volatile() }));
        println!("bench mmio_read {min} {max}");
        // SAFETY: the priority stays what it is.
        let (min, max) = measure(nothing, || unsafe { at.write_volatile(0) });
        println!("bench mmio_write {min} {max}");
    }
    if let Some(table) = table {
        let at = table.word(0, 2);
        // SAFETY: reading the table changes nothing.
        let (min, max) = measure(nothing, || discard(unsafe { at.read_volatile() }));
        println!("bench msix_read {min} {max}");
        // SAFETY: the entry is masked, so its data goes nowhere.
        let (min, max) = measure(nothing, || unsafe { at.write_volatile(0x40) });
        println!("bench msix_write {min} {max}");
    }
}
