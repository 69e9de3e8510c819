//! The ACPI tables of a guest: hardware-reduced, and nothing in them that is not there.
//!
//! RSDP, XSDT, FADT, MADT and DSDT lie in one block below 1 MiB ([`PLACE`]); the FADT names
//! the ports of `guest_abi::platform`, the DSDT the PCI bus with its windows and the UART. By
//! ACPI 6.5, "ACPI Hardware Specification", a hardware-reduced platform has no event blocks and
//! no SCI; the interrupt of a UART exists only beside an IOAPIC. Invariant: the tables are a
//! function of [`Platform`] alone, and every checksum is right.

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Name, Package,
    ResourceTemplate, Scope,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace as Space, GAS};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml};
use cloister_guest_abi::platform;
use cloister_proto::vm::MAX_VM_DEVICES;

/// Where the tables lie; the RSDP first, where a guest that scans for it looks as well
/// (ACPI 6.5, "Finding the RSDP on IA-PC Systems").
pub const PLACE: std::ops::Range<u64> = 0xe_0000..0xf_0000;

const OEM: [u8; 6] = *b"CLSTER";
const OEM_TABLE: [u8; 8] = *b"CLOISTER";
const OEM_REVISION: u32 = 1;

/// `IAPC_BOOT_ARCH` (ACPI 6.5, "IA-PC Boot Architecture Flags"): no VGA, no CMOS RTC to be
/// driven with interrupts. Neither legacy devices nor an 8042 are announced.
const BOOT_ARCHITECTURE: u16 = 1 << 2 | 1 << 5;
/// MADT `Flags`: there are two 8259 beside the APICs.
const PCAT_COMPAT: u32 = 1;
/// Interrupt pin of the UART, if there is an IOAPIC.
const UART_PIN: u32 = platform::UART_PIN as u32;
/// The UART has eight ports.
const UART_PORTS: u8 = 8;
/// The PCI memory window: a page for each device that a virtual machine can have.
const MSIX_WINDOW: u32 = MAX_VM_DEVICES as u32 * 0x1000;

/// What the tables depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Platform {
    /// Number of virtual CPUs; their APIC ids are 0 and so on.
    pub vcpus: u32,
    /// PIC, PIT and PM timer are there.
    pub legacy: bool,
    /// The IOAPIC is there.
    pub ioapic: bool,
    /// APICs begin in xAPIC mode.
    pub xapic: bool,
}

/// The bytes for [`PLACE`].
pub fn tables(platform: &Platform) -> Vec<u8> {
    let mut block = vec![0; Rsdp::len().next_multiple_of(64)];
    let dsdt = put(&mut block, dsdt(platform).as_slice());
    let fadt = put(&mut block, &bytes(&fadt(platform, dsdt).finalize()));
    let madt = put(&mut block, madt(platform).as_slice());
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = put(&mut block, &bytes(&xsdt));
    let rsdp = bytes(&Rsdp::new(OEM, xsdt));
    block[..rsdp.len()].copy_from_slice(&rsdp);
    block
}

/// Appends a table and tells where it will lie.
fn put(block: &mut Vec<u8>, table: &[u8]) -> u64 {
    let at = PLACE.start + block.len() as u64;
    block.extend_from_slice(table);
    block.resize(block.len().next_multiple_of(64), 0);
    at
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// A register of one byte at a port.
fn port(port: u16) -> GAS {
    GAS::new(Space::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(port))
}

fn fadt(platform: &Platform, dsdt: u64) -> FADTBuilder {
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::Wbinvd)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup)
        .flag(Flags::HwReducedAcpi);
    fadt.iapc_boot_arch = BOOT_ARCHITECTURE.into();
    fadt.reset_reg = port(platform::RESET);
    fadt.reset_value = platform::RESET_VALUE;
    fadt.sleep_control_reg = port(platform::SLEEP_CONTROL);
    fadt.sleep_status_reg = port(platform::SLEEP_STATUS);
    if platform.legacy {
        fadt.pm_tmr_blk = u32::from(platform::PM_TIMER).into();
        fadt.pm_tmr_len = 4;
        let timer = u64::from(platform::PM_TIMER);
        fadt.x_pm_tmr_blk = GAS::new(Space::SystemIo, 32, 0, AccessSize::DwordAccess, timer);
        fadt = fadt.flag(Flags::TmrValExt);
    }
    fadt
}

/// By ACPI 6.5, "Multiple APIC Description Table (MADT)". The crate's own has neither the flags
/// nor the structure for x2APICs.
fn madt(platform: &Platform) -> Sdt {
    let mut madt = Sdt::new(*b"APIC", 36, 5, OEM, OEM_TABLE, OEM_REVISION);
    madt.append(platform::APIC as u32);
    madt.append(if platform.legacy { PCAT_COMPAT } else { 0 });
    for id in 0..platform.vcpus {
        let enabled = 1u32;
        if platform.xapic {
            madt.append_slice(&[0, 8, id as u8, id as u8]);
            madt.append(enabled);
        } else {
            madt.append_slice(&[9, 16, 0, 0]);
            madt.append(id);
            madt.append(enabled);
            madt.append(id);
        }
    }
    if platform.ioapic {
        madt.append_slice(&[1, 12, 0, 0]);
        madt.append(platform::IOAPIC as u32);
        madt.append(0u32);
    }
    madt
}

fn dsdt(platform: &Platform) -> Sdt {
    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM, OEM_TABLE, OEM_REVISION);
    let off = Package::new(vec![&platform::SLEEP_TYPE_OFF, &aml::ZERO, &aml::ZERO, &aml::ZERO]);
    Name::new("_S5_".into(), &off).to_aml_bytes(&mut dsdt);
    pci(&mut dsdt);
    uart(&mut dsdt, platform.ioapic);
    dsdt
}

/// The PCI bus: one bus, its I/O window for the devices' structures, its memory window for their
/// MSI-X pages. Without `_PRT`: devices interrupt by messages alone.
fn pci(dsdt: &mut Sdt) {
    let msix = platform::MSIX as u32;
    let resources = Name::new(
        "_CRS".into(),
        &ResourceTemplate::new(vec![
            &AddressSpace::<u16>::new_bus_number(0, 0),
            &IO::new(platform::PCI_ADDRESS, platform::PCI_ADDRESS, 1, 8),
            &AddressSpace::<u16>::new_io(platform::VIRTIO, 0xffff, None),
            &AddressSpace::<u32>::new_memory(
                AddressSpaceCacheable::NotCacheable,
                true,
                msix,
                msix + (MSIX_WINDOW - 1),
                None,
            ),
        ]),
    );
    let identity = Name::new("_HID".into(), &EISAName::new("PNP0A03"));
    let zeros = ["_UID", "_BBN", "_SEG"].map(|name| Name::new(name.into(), &aml::ZERO));
    let [unique, bus, segment] = &zeros;
    let device = Device::new("PCI0".into(), vec![&identity, unique, bus, segment, &resources]);
    Scope::new("_SB_".into(), vec![&device]).to_aml_bytes(dsdt);
}

/// The UART. Without this object Linux would take the interrupt of a PC's first serial port,
/// which a device's message may have.
fn uart(dsdt: &mut Sdt, has_interrupt: bool) {
    let ports = IO::new(platform::UART, platform::UART, 1, UART_PORTS);
    let interrupt = Interrupt::new(true, true, false, false, UART_PIN);
    let mut resources: Vec<&dyn Aml> = vec![&ports];
    if has_interrupt {
        resources.push(&interrupt);
    }
    let identity = Name::new("_HID".into(), &EISAName::new("PNP0501"));
    let unique = Name::new("_UID".into(), &aml::ONE);
    let resources = Name::new("_CRS".into(), &ResourceTemplate::new(resources));
    let device = Device::new("COM1".into(), vec![&identity, &unique, &resources]);
    Scope::new("_SB_".into(), vec![&device]).to_aml_bytes(dsdt);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Platform = Platform { vcpus: 2, legacy: false, ioapic: false, xapic: false };

    fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
        bytes[at..at + len].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    /// A table at a guest's address, with its length and checksum judged.
    fn table(block: &[u8], at: u64) -> &[u8] {
        let table = &block[(at - PLACE.start) as usize..];
        let table = &table[..number(table, 4, 4) as usize];
        assert_eq!(sum(table), 0, "checksum of {:?}", str::from_utf8(&table[..4]));
        assert_eq!((&table[10..16], &table[16..24]), (&OEM[..], &OEM_TABLE[..]));
        table
    }

    /// FADT, MADT and DSDT, found as a guest finds them.
    fn walk(block: &[u8]) -> [&[u8]; 3] {
        // "Root System Description Pointer (RSDP) Structure"
        assert_eq!((&block[..8], block[15]), (b"RSD PTR ".as_slice(), 2));
        assert_eq!((sum(&block[..20]), sum(&block[..36])), (0, 0));
        assert_eq!((number(block, 16, 4), number(block, 20, 4)), (0, 36), "no RSDT");
        let xsdt = table(block, number(block, 24, 8));
        assert_eq!((&xsdt[..4], xsdt.len()), (b"XSDT".as_slice(), 36 + 2 * 8));
        let fadt = table(block, number(xsdt, 36, 8));
        let madt = table(block, number(xsdt, 44, 8));
        assert_eq!((&fadt[..4], &madt[..4]), (b"FACP".as_slice(), b"APIC".as_slice()));
        let dsdt = table(block, number(fadt, 140, 8));
        assert_eq!(&dsdt[..4], b"DSDT");
        [fadt, madt, dsdt]
    }

    #[test]
    fn the_tables_fit_their_place_and_depend_on_the_platform_alone() {
        for vcpus in 1..=8 {
            for bits in 0..8 {
                let [legacy, ioapic, xapic] = [1, 2, 4].map(|bit| bits & bit != 0);
                let block = tables(&Platform { vcpus, legacy, ioapic, xapic });
                assert!(block.len() as u64 <= PLACE.end - PLACE.start);
                walk(&block);
                assert_eq!(block, tables(&Platform { vcpus, legacy, ioapic, xapic }));
            }
        }
    }

    #[test]
    fn the_fadt_names_the_platforms_ports_and_nothing_else() {
        // Offsets by ACPI 6.5, "FADT Format".
        let block = tables(&PLAIN);
        let [fadt, ..] = walk(&block);
        assert_eq!((fadt.len(), fadt[8], fadt[131]), (276, 6, 5), "6.5");
        assert_eq!(number(fadt, 109, 2), 0x24, "no VGA, no CMOS RTC");
        // WBINVD, no buttons of fixed hardware, RESET_REG_SUP, HW_REDUCED.
        assert_eq!(number(fadt, 112, 4), 1 | 1 << 4 | 1 << 5 | 1 << 10 | 1 << 20);
        let port = |at| (fadt[at], fadt[at + 1], fadt[at + 3], number(fadt, at + 4, 8));
        assert_eq!((port(116), fadt[128]), ((1, 8, 1, 0xcf9), 6), "RESET_REG");
        assert_eq!(port(244), (1, 8, 1, 0x501), "SLEEP_CONTROL_REG");
        assert_eq!(port(256), (1, 8, 1, 0x502), "SLEEP_STATUS_REG");
        assert_eq!(number(fadt, 40, 4), 0, "the DSDT is named once, by X_DSDT");
        for range in [36..40, 44..109, 132..140, 148..244] {
            assert!(fadt[range.clone()].iter().all(|byte| *byte == 0), "{range:?}");
        }
        let block = tables(&Platform { legacy: true, ..PLAIN });
        let [fadt, ..] = walk(&block);
        assert_eq!((number(fadt, 76, 4), fadt[91]), (0x508, 4), "PM_TMR_BLK");
        assert_eq!((fadt[208], fadt[209], number(fadt, 212, 8)), (1, 32, 0x508), "X_PM_TMR_BLK");
        assert_eq!(number(fadt, 112, 4) & 1 << 8, 1 << 8, "TMR_VAL_EXT");
    }

    #[test]
    fn the_madt_lists_each_apic_once() {
        // "Processor Local x2APIC Structure"
        let block = tables(&PLAIN);
        let [_, madt, _] = walk(&block);
        assert_eq!((madt[8], number(madt, 36, 4), number(madt, 40, 4)), (5, 0xfee0_0000, 0));
        let x2apic = |id: u8| [9, 16, 0, 0, id, 0, 0, 0, 1, 0, 0, 0, id, 0, 0, 0];
        assert_eq!(&madt[44..], [x2apic(0), x2apic(1)].concat());
        // "Processor Local APIC Structure", "I/O APIC Structure"
        let platform = Platform { vcpus: 3, legacy: true, ioapic: true, xapic: true };
        let block = tables(&platform);
        let [_, madt, _] = walk(&block);
        assert_eq!(number(madt, 40, 4), 1, "PCAT_COMPAT");
        let apic = |id: u8| [0, 8, id, id, 1, 0, 0, 0];
        let ioapic = [1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0];
        assert_eq!(&madt[44..], [apic(0).as_slice(), &apic(1), &apic(2), &ioapic].concat());
    }

    /// Where a piece of AML stands in the DSDT.
    fn find(dsdt: &[u8], aml: &[u8]) -> Option<usize> {
        dsdt.windows(aml.len()).position(|window| window == aml)
    }

    #[test]
    fn the_dsdt_has_the_bus_the_uart_and_the_way_to_power_off() {
        let block = tables(&PLAIN);
        let [_, _, dsdt] = walk(&block);
        // Name (\_S5, Package () { 5, 0, 0, 0 }): "\_Sx (System States)".
        let off = [b"\x08_S5_\x12\x07\x04".as_slice(), &[0x0a, 5, 0, 0, 0]].concat();
        assert_eq!(find(dsdt, &off), Some(36));
        // _HID PNP0A03 and PNP0501 as compressed EISA ids.
        let bus = find(dsdt, b"\x08_HID\x0c\x41\xd0\x0a\x03").expect("PCI0");
        let uart = find(dsdt, b"\x08_HID\x0c\x41\xd0\x05\x01").expect("COM1");
        assert!(bus < uart && find(dsdt, b"_PRT").is_none());
        // "Word Address Space Descriptor": bus 0 alone; I/O from 0x1000, fixed, decoded positively.
        let resource = |aml: &[u8]| find(&dsdt[bus..uart], aml).is_some();
        assert!(resource(&[0x88, 13, 0, 2, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]), "bus");
        assert!(resource(&[0x88, 13, 0, 1, 12, 3, 0, 0, 0, 0x10, 0xff, 0xff, 0, 0, 0, 0xf0]));
        assert!(resource(&[0x47, 1, 0xf8, 0x0c, 0xf8, 0x0c, 1, 8]), "configuration ports");
        // "DWord Address Space Descriptor": the pages of MSI-X, not cacheable, writable.
        let [first, last, len] = [0xfed0_0000u32, 0xfed0_7fff, 0x8000].map(u32::to_le_bytes);
        let memory =
            [[0x87, 23, 0, 0, 12, 1].as_slice(), &[0; 4], &first, &last, &[0; 4], &len].concat();
        assert!(resource(&memory), "memory");
        // "I/O Port Descriptor" and the end tag: no interrupt behind it.
        let ports = [0x47, 1, 0xf8, 0x03, 0xf8, 0x03, 1, 8, 0x79, 0];
        assert!(find(&dsdt[uart..], &ports).is_some());
        let block = tables(&Platform { ioapic: true, ..PLAIN });
        let [_, _, dsdt] = walk(&block);
        // "Extended Interrupt Descriptor": consumer, edge, active high, pin 4.
        let interrupt = [1, 8, 0x89, 6, 0, 3, 1, 4, 0, 0, 0, 0x79, 0];
        assert!(find(&dsdt[uart..], &interrupt).is_some());
    }
}
