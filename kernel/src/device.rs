//! The PCI functions of a running system: bus masters, their configuration, their messages.
//!
//! A function belongs to one core, that of its owner's first thread (in the order of the system
//! table), which alone touches its configuration space, its MSI-X table and its [`Function`]; all
//! three lie in that core's window. `start::devices` makes them at `bind`. A task never maps
//! either: it resets its function by `device_reset`, and masks by not acknowledging.
//!
//! Invariant: a function masters the bus only between a `Finish` and its next `Begin`, and only
//! while its owner's first thread is not parked.

use crate::arch::x86_64::pci::{self, BARS, BUS_MASTER, MEMORY_SPACE};
use crate::arch::x86_64::{iommu, window};
use crate::core_state::Core;
use crate::flush;
use crate::shared::shared;
use crate::syscall::Return;
use cloister_abi::call::{RIGHT_RESET, ResetPhase, Status};
use cloister_abi::layout::PAGE;
use cloister_abi::table::{CapKind, DEVICE_MSI, DEVICE_MSIX, Irq};
use cloister_core::caps::lookup;
use core::sync::atomic::Ordering;

const COMMAND: u16 = pci::COMMAND as u16;
/// Bytes of an entry of an MSI-X table.
pub const ENTRY: u64 = 16;

/// In the upper half of the head of an MSI-X capability: on, all masked.
const MSIX_ON: u32 = 1 << 31;
const MSIX_MASKED: u32 = 1 << 30;
/// In the upper half of the head of an MSI capability: on, 64 bits, has masks; number of messages.
const MSI_ON: u32 = 1 << 16;
const MSI_WIDE: u32 = 1 << 23;
const MSI_MASKS: u32 = 1 << 24;
const MSI_COUNT: u32 = 7 << 20;
/// Device control of PCI Express: start a function-level reset.
const START_RESET: u32 = 1 << 15;

/// What `bind` recorded of a function, and whether its driver has set it going.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Function {
    /// The base address registers.
    pub bars: [u32; 6],
    /// The command register, without bus mastering.
    pub command: u16,
    /// Where its capabilities lie, 0 for none: PCI Express, MSI, MSI-X.
    pub express: u8,
    /// See `express`.
    pub msi: u8,
    /// See `express`.
    pub msix: u8,
    /// It has a function-level reset.
    pub has_reset: bool,
    /// Device control of PCI Express.
    pub express_control: u16,
    /// Where in its page the MSI-X table begins.
    pub table: u16,
    /// Entries of the table in that page.
    pub entries: u16,
    /// Its driver has finished a reset: it masters the bus while its owner runs.
    pub is_active: bool,
}

const _: () = assert!(size_of::<Function>() * cloister_abi::layout::MAX_DEVICES <= PAGE as usize);

/// A function of this core.
#[derive(Clone, Copy)]
struct Handle(usize);

impl Handle {
    /// The function of a device record, if it is a bus master of this core.
    #[inline(never)]
    fn of(core: u32, device: usize) -> Option<Handle> {
        let mine = shared().cores[core as usize].functions.load(Ordering::Relaxed);
        (device < 64 && mine >> device & 1 != 0).then_some(Handle(device))
    }

    /// All functions of this core that a task owns.
    fn of_task(core: u32, task: usize) -> impl Iterator<Item = Handle> {
        let mut mine = shared().cores[core as usize].functions.load(Ordering::Relaxed);
        let all = core::iter::from_fn(move || {
            let next = mine.trailing_zeros() as usize;
            mine &= mine.wrapping_sub(1);
            (next < 64).then_some(Handle(next))
        });
        all.filter(move |handle| shared().functions[handle.0].owner() == Some(task))
    }

    fn function(self) -> &'static mut Function {
        let at = (window::FUNCTIONS as *mut Function).wrapping_add(self.0);
        // SAFETY: the page is mapped on cores that own a bus master, and this is one of them; its
        // records are this core's own, and no caller holds one while it asks for another.
        unsafe { &mut *at }
    }

    fn register(self, register: u16) -> *mut u32 {
        (window::CONFIG + self.0 as u64 * 2 * PAGE + u64::from(register & 0xffc)) as *mut u32
    }

    #[inline(never)]
    fn read(self, register: u16) -> u32 {
        // SAFETY: the function's configuration space is mapped here, uncached, on this core.
        unsafe { self.register(register).read_volatile() }
    }

    #[inline(never)]
    fn write(self, register: u16, value: u32) {
        // SAFETY: as for `read`. The function's addresses stay those of the record.
        unsafe { self.register(register).write_volatile(value) };
    }

    /// Writes a word of an MSI-X entry in the mapped page.
    #[inline(never)]
    fn write_entry(self, entry: u16, word: u64, value: u32) {
        let table = window::CONFIG + (self.0 as u64 * 2 + 1) * PAGE;
        let at = table + u64::from(self.function().table) + u64::from(entry) * ENTRY + word * 4;
        // SAFETY: the page is mapped, uncached, on this core if the function has MSI-X, and `bind`
        // has seen to it that the entry lies in it.
        unsafe { (at as *mut u32).write_volatile(value) };
    }

    /// Lets the function master the bus or not; the upper half of the register keeps what it has,
    /// because it is cleared by ones.
    #[inline(never)]
    fn set_master(self, on: bool) {
        if on {
            flush::tables_used(0..iommu::units());
        }
        let command = self.read(COMMAND) & 0xffff & !BUS_MASTER;
        self.write(COMMAND, command | if on { BUS_MASTER } else { 0 });
        // The answer comes behind the writes that the function has sent before it (PCI Express Base
        // Specification, "Transaction Ordering"): memory has them, or the IOMMU has refused them.
        self.read(COMMAND);
    }

    fn begin(self, starts_reset: bool) -> Result<(), Status> {
        let function = self.function();
        if starts_reset && !function.has_reset {
            return Err(Status::BadArgument);
        }
        function.is_active = false;
        let (express, msix, control) =
            (u16::from(function.express), u16::from(function.msix), function.express_control);
        self.set_master(false);
        if msix != 0 {
            self.write(msix, self.read(msix) | MSIX_MASKED);
        }
        if starts_reset {
            self.write(express + 8, u32::from(control) | START_RESET);
        }
        Ok(())
    }

    /// Writes the record back and lets the function master the bus. Refused while the function does
    /// not take it, as during its reset.
    fn finish(self, core: &Core) -> Result<(), Status> {
        let record = *self.function();
        let bars = || (u16::from(BARS)..).step_by(4).zip(record.bars);
        // One that has kept its addresses goes on answering: what other cores reach stays the same.
        if bars().any(|(register, bar)| self.read(register) != bar) {
            self.write(COMMAND, u32::from(record.command) & !MEMORY_SPACE);
            bars().for_each(|(register, bar)| self.write(register, bar));
        }
        if record.express != 0 {
            self.write(u16::from(record.express) + 8, u32::from(record.express_control));
        }
        if bars().any(|(register, bar)| self.read(register) != bar) {
            return Err(Status::WrongState);
        }
        self.write(COMMAND, record.command.into());
        self.program(core, &record);
        self.function().is_active = true;
        self.set_master(true);
        Ok(())
    }

    /// Programs its messages: those of MSI-X masked, and so is MSI where it has a mask.
    fn program(self, core: &Core, record: &Function) {
        let irqs = core.table.irqs.iter().enumerate();
        let mut mine = irqs.filter(|(_, irq)| usize::from(irq.device) == self.0);
        let flags = core.table.devices[self.0].flags;
        if flags & DEVICE_MSIX != 0 {
            let at = u16::from(record.msix);
            let head = self.read(at) & 0x3fff_ffff | MSIX_ON;
            self.write(at, head | MSIX_MASKED);
            (0..record.entries).for_each(|entry| self.write_entry(entry, 3, 1));
            for (index, irq) in mine {
                let (address, data) = iommu::message(index, core.apic_id);
                self.write_entry(irq.pin, 0, address);
                self.write_entry(irq.pin, 1, 0);
                self.write_entry(irq.pin, 2, data);
            }
            self.write(at, head);
        } else if let Some((index, _)) = mine.next().filter(|_| flags & DEVICE_MSI != 0) {
            let at = u16::from(record.msi);
            let (address, data) = iommu::message(index, core.apic_id);
            let head = self.read(at) & !(MSI_COUNT | MSI_ON);
            self.write(at, head);
            self.write(at + 4, address);
            if head & MSI_WIDE != 0 {
                self.write(at + 8, 0);
            }
            self.write(msi_data(at, head), data);
            self.mask_msi(at, true);
            self.write(at, head | MSI_ON);
        }
    }

    #[inline(never)]
    fn mask_msi(self, at: u16, masked: bool) {
        let head = self.read(at);
        if head & MSI_MASKS != 0 {
            self.write(msi_data(at, head) + 4, if masked { u32::MAX } else { !1 });
        }
    }
}

/// Where the data of an MSI capability is; its masks follow.
fn msi_data(at: u16, head: u32) -> u16 {
    at + if head & MSI_WIDE != 0 { 12 } else { 8 }
}

/// Masks or unmasks a message at its source. One without a mask comes as the device pleases: only
/// its rate bounds it. `false`: the function is not one of this core's bus masters.
pub fn set_masked(core: &Core, irq: &Irq, masked: bool) -> bool {
    let device = usize::from(irq.device);
    let Some(handle) = Handle::of(core.index, device) else { return false };
    if core.table.devices[device].flags & DEVICE_MSIX != 0 {
        handle.write_entry(irq.pin, 3, u32::from(masked));
    } else {
        handle.mask_msi(u16::from(handle.function().msi), masked);
    }
    true
}

/// The first thread of a task parks: its functions lose the bus.
#[inline(never)]
pub fn park(core: u32, task: usize) {
    Handle::of_task(core, task).for_each(|handle| handle.set_master(false));
}

/// It goes on where it was, and so do its functions.
#[inline(never)]
pub fn resume(core: u32, task: usize) {
    Handle::of_task(core, task)
        .filter(|handle| handle.function().is_active)
        .for_each(|handle| handle.set_master(true));
}

/// It begins anew; its functions wait for it.
#[inline(never)]
pub fn forget(core: u32, task: usize) {
    Handle::of_task(core, task).for_each(|handle| handle.function().is_active = false);
}

/// `device_reset(cap, phase)`.
pub fn reset(core: &mut Core, slot: u64, phase: u64) -> Result<Return, Status> {
    let device = lookup(core.caps, slot, CapKind::Device, RIGHT_RESET)?.object as usize;
    let handle = Handle::of(core.index, device).ok_or(Status::WrongState)?;
    // The caller may be another thread of the task, which is about to be parked too.
    let task = usize::from(core.table.devices[device].owner);
    let first = core.place(usize::from(shared().task(task).first.load(Ordering::Relaxed)));
    if core.thread(u32::from(first.rank)).park.is_parked() {
        return Err(Status::WrongState);
    }
    match phase {
        n if n == ResetPhase::Begin as u64 => handle.begin(false)?,
        n if n == ResetPhase::BeginFunction as u64 => handle.begin(true)?,
        n if n == ResetPhase::Finish as u64 => handle.finish(core)?,
        _ => return Err(Status::BadArgument),
    }
    Ok(Return::status(Status::Ok))
}
