//! The boot-only system calls of `init`. They end with the seal: the map of physical memory goes,
//! and with it everything that could change a page table.

use super::build::Boot;
use crate::arch::x86_64::ioapic::Route;
use crate::arch::x86_64::paging::{self, UNCACHED};
use crate::arch::x86_64::{apic, cpu, iommu, power, smp, window};
use crate::core_state::Core;
use crate::fault;
use crate::flush;
use crate::shared::{is_online, shared};
use crate::syscall::Return;
use cloister_abi::boot::{MemRange, RANGE_RAM};
use cloister_abi::call::{Call, Part, Status};
use cloister_abi::info::NO_IOMMU;
use cloister_abi::layout::PAGE;
use cloister_abi::table::{DEVICE_PLATFORM, Device, MAP_READ, Map, ROLE_INIT, RegionKind};
use core::sync::atomic::{AtomicU64, Ordering};

type Answer = Result<Return, Status>;

/// Where the boot core's [`Boot`] lies in the map of physical memory; 0 after the seal.
static BOOT: AtomicU64 = AtomicU64::new(0);

/// Keeps what the calls need. It stays where it is, on the boot stub's stack, which is mapped one
/// to one now, which nobody uses any more, and which the map of physical memory reaches.
pub fn keep(boot: &mut Boot) {
    BOOT.store(window::PHYSICAL + boot as *mut Boot as u64, Ordering::Relaxed);
}

fn boot() -> Option<&'static mut Boot> {
    let at = BOOT.load(Ordering::Relaxed) as *mut Boot;
    // SAFETY: not null only before the seal, when `init`'s space maps physical memory; one call
    // at a time runs, on the boot core, and keeps the reference to itself.
    (!at.is_null()).then(|| unsafe { &mut *at })
}

/// A boot-only call: a fault for everybody but `init`, and after the seal.
pub fn serve(core: &mut Core, number: u32, arguments: [u64; 3]) -> Return {
    let current = core.current;
    let task = usize::from(core.thread(current).task);
    let is_init = core.table.tasks[task].role == ROLE_INIT;
    let Some(boot) = boot().filter(|_| is_init) else {
        return fault::bad_call(core, number);
    };
    let [a, b, c] = arguments;
    let result = match number {
        n if n == Call::Bind as u32 => bind(boot, a, b, c),
        n if n == Call::HandOver as u32 => hand_over(core, boot, a, b, c),
        n if n == Call::StartCore as u32 => start_core(boot, a, b),
        n if n == Call::MapFirmware as u32 => map_firmware(boot, task, a, b),
        _ => seal(core, boot, a, b),
    };
    flush::used(core.index, core.thread(current).cr3);
    result.into()
}

fn start_core(boot: &mut Boot, core: u64, apic_id: u64) -> Answer {
    let cores = u64::from(boot.table.header.cores);
    if core == 0 || core >= cores || apic_id > 0xfe {
        return Err(Status::BadArgument);
    }
    let used = boot.is_used(core as usize);
    let online = !used || is_online(core as usize);
    let space = if used { boot.first_space(core as usize) } else { 0 };
    if !online && !smp::start(core as usize, apic_id as u32, space) {
        return Err(Status::BadArgument);
    }
    Ok(Return::value(u64::from(online)))
}

fn map_firmware(boot: &mut Boot, task: usize, phys: u64, len: u64) -> Answer {
    let regions = boot.table.regions;
    let kind = |map: &Map| regions[usize::from(map.region)].kind();
    let mut maps = boot.table.maps_of(&boot.table.tasks[task]).iter();
    let map = maps.find(|map| kind(map) == Some(RegionKind::FirmwareWindow));
    let map = map.ok_or(Status::WrongState)?;
    let end = phys.checked_add(len).ok_or(Status::BadArgument)?;
    let covers = |r: &&MemRange| r.base <= phys && end <= r.base.saturating_add(r.len);
    let ranges = &boot.info.ranges[..boot.info.range_count as usize];
    let firmware = ranges.iter().filter(|r| r.kind != RANGE_RAM).any(|r| covers(&r));
    // The BIOS area and the pointer to the extended BIOS data area, where the root pointer can be.
    let legacy = phys >= 0xe_0000 && end <= 0x10_0000 || phys >= 0x400 && end <= 0x500;
    if len == 0 || end >= 1 << 52 || !(firmware || legacy) {
        return Err(Status::BadArgument);
    }
    let pages = (end.div_ceil(PAGE)) - phys / PAGE;
    let size = u64::from(regions[usize::from(map.region)].pages);
    if pages > size {
        return Err(Status::BadArgument);
    }
    if boot.firmware_used + pages > size {
        boot.firmware_used = 0;
    }
    let first = map.va + boot.firmware_used * PAGE;
    for page in 0..pages {
        let entry = ((phys / PAGE + page) * PAGE) | paging::user_flags(MAP_READ);
        boot.map_leaf(boot.init_space(), first + page * PAGE, entry);
    }
    boot.firmware_used += pages;
    boot.flush();
    Ok(Return::value(first + phys % PAGE))
}

/// A number that has to fit a narrower type.
fn narrow<T: TryFrom<u64>>(value: u64) -> Result<T, Status> {
    T::try_from(value).map_err(|_| Status::BadArgument)
}

fn bind(boot: &mut Boot, device: u64, function: u64, place: u64) -> Answer {
    boot.bind(narrow(device)?, narrow(function)?, place)?;
    Ok(Return::status(Status::Ok))
}

fn hand_over(core: &mut Core, boot: &mut Boot, kind: u64, a: u64, b: u64) -> Answer {
    match kind {
        n if n == Part::IoApic as u64 => add_ioapic(core, boot, a, b)?,
        n if n == Part::PinRoute as u64 => {
            let route = Route { gsi: b as u16, low: b >> 16 & 1 != 0, level: b >> 17 & 1 != 0 };
            // That of a PCI function is the number of a message; its route is never asked for.
            for (record, state) in core.table.irqs.iter().zip(&mut core.irqs) {
                if u64::from(record.pin) == a {
                    state.route = Some(route);
                }
            }
        }
        n if n == Part::PowerOff as u64 => power::set_sleep_ports(narrow(a)?, narrow(b)?),
        n if n == Part::Reset as u64 => power::set_reset(narrow(a)?, narrow(b)?),
        n if n == Part::Ecam as u64 => boot.add_ecam(a, b)?,
        n if n == Part::VtdUnit as u64 && b == 0 => boot.add_vtd(core, a)?,
        n if n == Part::Reserved as u64 && b == 0 => boot.add_reserved(narrow(a)?)?,
        _ => return Err(Status::BadArgument),
    }
    Ok(Return::status(Status::Ok))
}

fn add_ioapic(core: &mut Core, boot: &mut Boot, phys: u64, about: u64) -> Result<(), Status> {
    // A source id comes with the bit that says so, and nothing stands above it.
    let source = (about >> 48 == 1).then_some((about >> 32) as u16);
    if source.is_none() && about >> 32 != 0 {
        return Err(Status::BadArgument);
    }
    if !phys.is_multiple_of(PAGE) || phys >= 1 << 52 || !boot.is_free_for_device(phys, PAGE) {
        return Err(Status::BadArgument);
    }
    let unit = core.ioapics.count();
    // After a unit was taken over it would be too late to ask for sources.
    if unit == window::IOAPICS || iommu::units() > 0 {
        return Err(Status::WrongState);
    }
    boot.set_window(0, window::IOAPIC + unit as u64 * PAGE, phys | UNCACHED);
    boot.flush();
    let current = core.current;
    flush::used(core.index, core.thread(current).cr3);
    core.ioapics.add(about as u32, source);
    Ok(())
}

/// Whether a task has all its devices; one whose optional device is absent never starts.
fn is_equipped(boot: &Boot, task: usize) -> bool {
    let own = |d: &Device| usize::from(d.owner) == task && d.kind != DEVICE_PLATFORM;
    let mut devices = boot.table.devices.iter().enumerate();
    devices.all(|(index, d)| !own(d) || boot.bound[index / 64] >> (index % 64) & 1 != 0)
}

fn seal(core: &mut Core, boot: &mut Boot, unix_seconds: u64, entropy: u64) -> Answer {
    let cores = boot.table.header.cores as usize;
    if !(0..cores).filter(|&core| boot.is_used(core)).all(is_online) {
        return Err(Status::WrongState);
    }
    boot.route(core)?;
    let kernel_bytes = boot.kernel_bytes();
    let no_iommu = if boot.pci.iommu.is_usable() { 0 } else { NO_IOMMU };
    // Not before: `init` has read the page, and was promised that it does not change.
    let page = boot.system_page();
    page.cpu |= no_iommu;
    page.unix_seconds = unix_seconds;
    page.entropy = entropy as u32;
    page.kernel_bytes = kernel_bytes;
    let now = cpu::rdtsc();
    page.tsc_sealed = now;
    defmt::info!(
        "sealed: {=u64} bytes for the kernel, {=u64} KiB of memory left over",
        kernel_bytes,
        boot.carver.left() * 4
    );
    for (index, task) in core.table.tasks.iter().enumerate() {
        if task.role != ROLE_INIT && is_equipped(boot, index) {
            shared().task(index).park.resume();
        }
    }
    BOOT.store(0, Ordering::Relaxed);
    // SAFETY: `boot` was the only reference, and the address of it is forgotten.
    unsafe { boot.end() };
    let current = core.current;
    core.sched.park(current);
    // A locked instruction: the other cores see the seal before they see the interrupt.
    shared().sealed.swap(true, Ordering::SeqCst);
    for other in (1..cores).filter(|&core| is_online(core)) {
        apic::send(shared().cores[other].apic_id.load(Ordering::Relaxed), apic::WORD);
    }
    core.look(now);
    Ok(Return::SWITCH)
}
