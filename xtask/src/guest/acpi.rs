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
use cloister_abi::vm::MAX_VM_DEVICES;
use cloister_guest_abi::platform;

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
    let device =
        Device::new("PCI0".into(), vec![&identity, unique, bus, segment, &resources]);
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
