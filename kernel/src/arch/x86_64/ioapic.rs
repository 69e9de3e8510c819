//! IOAPICs: they belong to core 0, which alone reads and writes them (Intel 82093AA datasheet).

use super::window::{IOAPIC, IOAPICS};
use cloister_abi::layout::PAGE;

const MASKED: u32 = 1 << 16;

/// How a pin of a device reaches an IOAPIC.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Global interrupt number.
    pub gsi: u16,
    /// Active low.
    pub low: bool,
    /// Level triggered.
    pub level: bool,
}

/// The machine's IOAPICs.
#[derive(Debug, Default)]
pub struct IoApics {
    /// First global interrupt and number of pins of each.
    pins: [(u32, u32); IOAPICS],
    count: usize,
}

fn register(unit: usize, index: u32) -> *mut u32 {
    let base = IOAPIC + unit as u64 * PAGE;
    let select = base as *mut u32;
    // SAFETY: core 0's window maps the unit here, uncached; only core 0 runs this.
    unsafe { select.write_volatile(index) };
    (base + 0x10) as *mut u32
}

fn read(unit: usize, index: u32) -> u32 {
    // SAFETY: `register` returned the data window of a mapped unit.
    unsafe { register(unit, index).read_volatile() }
}

fn write(unit: usize, index: u32, value: u32) {
    // SAFETY: `register` returned the data window of a mapped unit; entries name only vectors
    // and cores of ours.
    unsafe { register(unit, index).write_volatile(value) };
}

impl IoApics {
    /// Takes over the unit that was just mapped at the next page, with every pin masked.
    /// There is room for it.
    pub fn add(&mut self, gsi_base: u32) {
        let unit = self.count;
        let pins = (read(unit, 1) >> 16 & 0xff) + 1;
        self.pins[unit] = (gsi_base, pins);
        self.count += 1;
        for pin in 0..pins {
            write(unit, 0x10 + pin * 2, MASKED);
        }
    }

    /// How many units there are.
    pub fn count(&self) -> usize {
        self.count
    }

    fn find(&self, gsi: u16) -> Option<(usize, u32)> {
        let gsi = u32::from(gsi);
        self.pins.iter().take(self.count).enumerate().find_map(|(unit, &(base, pins))| {
            (gsi >= base && gsi - base < pins).then(|| (unit, 0x10 + (gsi - base) * 2))
        })
    }

    /// Sends a pin to `vector` of the core with `apic_id`, still masked. `false`: no such pin.
    pub fn route(&self, route: Route, vector: u8, apic_id: u32) -> bool {
        let Some((unit, index)) = self.find(route.gsi) else { return false };
        write(unit, index + 1, apic_id << 24);
        write(unit, index, MASKED | self.entry(route, vector));
        true
    }

    fn entry(&self, route: Route, vector: u8) -> u32 {
        u32::from(vector) | u32::from(route.low) << 13 | u32::from(route.level) << 15
    }

    /// Masks or unmasks a routed pin.
    pub fn set_masked(&self, route: Route, vector: u8, masked: bool) {
        if let Some((unit, index)) = self.find(route.gsi) {
            write(unit, index, self.entry(route, vector) | if masked { MASKED } else { 0 });
        }
    }
}
