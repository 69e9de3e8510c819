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
    /// The source ids with which they raise interrupts, as far as firmware names them.
    sources: [Option<u16>; IOAPICS],
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
    pub fn add(&mut self, gsi_base: u32, source: Option<u16>) {
        let unit = self.count;
        let pins = (read(unit, 1) >> 16 & 0xff) + 1;
        self.pins[unit] = (gsi_base, pins);
        self.sources[unit] = source;
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

    /// Whether the source of every unit is known.
    pub fn has_sources(&self) -> bool {
        self.sources.iter().take(self.count).all(Option::is_some)
    }

    /// The source id of the unit of a pin, 0 if it is not known; `None`: no such pin.
    pub fn source(&self, route: Route) -> Option<u16> {
        self.find(route.gsi).map(|(unit, _)| self.sources[unit].unwrap_or(0))
    }

    /// Sends a pin to `vector` of the core with `apic_id`, still masked; or, if interrupts are
    /// remapped, to that entry of the table, which says the same (Intel VT-d, "I/OxAPIC
    /// Programming"). There is such a pin.
    pub fn route(&self, route: Route, vector: u8, apic_id: u32, remapped: Option<u32>) {
        let Some((unit, index)) = self.find(route.gsi) else { return };
        let high = remapped.map_or(apic_id << 24, |entry| entry << 17 | 1 << 16);
        write(unit, index + 1, high);
        write(unit, index, MASKED | self.entry(route, vector));
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
