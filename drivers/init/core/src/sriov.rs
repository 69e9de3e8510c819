//! Virtual functions: [`Virtual`], those of one physical function, switched on and given room.
//!
//! PCI Express Base 5.0, "SR-IOV Extended Capability". Firmware that knows nothing of them leaves
//! their BARs at zero; they then get the upper end of what the port above passes on. All is done
//! before the seal, because afterwards nobody reaches extended configuration space. Invariant:
//! whatever the capability says, virtual functions are in the slot and on the bus of their physical
//! function, where nothing else is, and their registers overlap no others of that bus.

use crate::pci::{Address, Config, Functions, Role, extended};

/// Extended capability: SR-IOV.
const EXTENDED_SRIOV: u32 = 0x10;
/// Registers of the capability.
const CONTROL: u16 = 0x08;
const TOTAL: u16 = 0x0c;
const NUMBER: u16 = 0x10;
const OFFSET_STRIDE: u16 = 0x14;
const PAGE_SIZES: u16 = 0x1c;
const PAGE_SIZE: u16 = 0x20;
const BAR: u16 = 0x24;
/// In the control register: virtual functions are there; they answer to their addresses.
const ENABLE: u32 = 1;
const MEMORY: u32 = 1 << 3;
/// Registers of any function.
const COMMAND: u16 = 0x04;
const COMMAND_MEMORY: u32 = 1 << 1;
const FIRST_BAR: u16 = 0x10;
const ROM: u16 = 0x30;
/// In a bridge: which memory it passes on.
const WINDOW: u8 = 0x20;
/// Most BARs on a bus with one device: eight functions with six, and a ROM each.
const RANGES_MAX: usize = 56;
/// Smallest and largest BAR of a virtual function.
const SIZES: core::ops::RangeInclusive<u64> = 1 << 12..=1 << 24;

/// Why there are no virtual functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The function has none, or its extended configuration space cannot be reached.
    None,
    /// It has fewer than are wanted.
    Few,
    /// They would be outside the physical function's slot, or where another function is.
    Place,
    /// BAR 0 is no memory of a size that can be mapped.
    Bar,
    /// Behind the port is no room for their BARs.
    Room,
    /// It did not take what was written, or they do not answer.
    Stubborn,
}

/// The virtual functions of a physical one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Virtual {
    physical: Address,
    offset: u16,
    stride: u16,
    count: u8,
    base: u64,
    size: u64,
}

impl Virtual {
    /// Switches on so many. `pause` waits until functions that came can be spoken to.
    pub fn enable(
        config: &mut impl Config,
        functions: &Functions,
        physical: Address,
        count: u8,
        pause: impl Fn(),
    ) -> Result<Virtual, Wrong> {
        let at = extended(config, physical, EXTENDED_SRIOV).filter(|at| *at <= 0xfc0);
        let mut capability = Capability { at: at.ok_or(Wrong::None)?, physical, config };
        let control = capability.read(CONTROL)? & 0xffff;
        if control & ENABLE != 0 {
            capability.write(CONTROL, control & !(ENABLE | MEMORY));
            pause();
        }
        let total = capability.read(TOTAL)? >> 16;
        if count == 0 || u32::from(count) > total {
            return Err(Wrong::Few);
        }
        // The page size has a bit for each power of two, from 4 KiB.
        if capability.read(PAGE_SIZES)? & 1 == 0 {
            return Err(Wrong::Bar);
        }
        capability.write(PAGE_SIZE, 1);
        // The number first: the places may depend on it.
        capability.write(NUMBER, u32::from(count));
        if capability.read(NUMBER)? & 0xffff != u32::from(count) {
            return Err(Wrong::Stubborn);
        }
        let places = capability.read(OFFSET_STRIDE)?;
        let (offset, stride) = (places as u16, (places >> 16) as u16);
        let mut found = Virtual { physical, offset, stride, count, base: 0, size: 0 };
        found.check_places(functions)?;
        (found.base, found.size) = capability.room(functions, total)?;
        capability.write(CONTROL, control & !0x1f | ENABLE | MEMORY);
        pause();
        let is_on = capability.read(CONTROL)? & (ENABLE | MEMORY) == ENABLE | MEMORY;
        let is_there = (1..=count).all(|number| {
            let header = found.address(number).map(|at| config.read(at, 0x0c) >> 16 & 0x7f);
            header == Some(0)
        });
        // The bit is fixed at zero, since that of the capability counts; QEMU wants both.
        (1..=count).filter_map(|number| found.address(number)).for_each(|at| {
            config.write_extended(at, COMMAND, COMMAND_MEMORY);
        });
        if is_on && is_there { Ok(found) } else { Err(Wrong::Stubborn) }
    }

    /// Where the function of that number is, from 1.
    pub fn address(&self, number: u8) -> Option<Address> {
        if number == 0 || number > self.count {
            return None;
        }
        let further = u16::from(number - 1).checked_mul(self.stride)?;
        self.physical.checked_add(self.offset)?.checked_add(further)
    }

    /// Where its BAR 0 is, with log2 of the size in the lowest bits.
    pub fn place(&self, number: u8) -> Option<u64> {
        let nth = u64::from(number.checked_sub(1).filter(|_| number <= self.count)?);
        let base = self.base.checked_add(nth.checked_mul(self.size)?)?;
        Some(base | u64::from(self.size.trailing_zeros()))
    }

    /// Functions of other slots are not reached without alternative routing ids, which stay off.
    fn check_places(&self, functions: &Functions) -> Result<(), Wrong> {
        let is_right = |number: u8| {
            let at = self.address(number)?;
            let is_apart = at > self.physical && at >> 3 == self.physical >> 3;
            let is_free = functions.iter().all(|function| function.address != at);
            (is_apart && is_free).then_some(())
        };
        let are_distinct = self.count == 1 || self.stride != 0;
        let are_right = are_distinct && (1..=self.count).all(|number| is_right(number).is_some());
        if are_right { Ok(()) } else { Err(Wrong::Place) }
    }
}

/// The capability of a physical function.
struct Capability<'c, C> {
    config: &'c mut C,
    physical: Address,
    at: u16,
}

impl<C: Config> Capability<'_, C> {
    fn read(&mut self, register: u16) -> Result<u32, Wrong> {
        self.config.read_extended(self.physical, self.at + register).ok_or(Wrong::None)
    }

    fn write(&mut self, register: u16, value: u32) {
        self.config.write_extended(self.physical, self.at + register, value);
    }

    /// Where the BARs of all of them are, and the size of one.
    fn room(&mut self, functions: &Functions, total: u32) -> Result<(u64, u64), Wrong> {
        let register = self.at + BAR;
        let bar = range(self.config, self.physical, register, 0xf).ok_or(Wrong::Bar)?;
        if !SIZES.contains(&bar.size) {
            return Err(Wrong::Bar);
        }
        if bar.base != 0 {
            return Ok((bar.base, bar.size));
        }
        let all = bar.size.checked_mul(total.into()).ok_or(Wrong::Room)?;
        let base = free(self.config, functions, self.physical, bar.size, all);
        let base = base.ok_or(Wrong::Room)?;
        self.config.write_extended(self.physical, register, base as u32);
        if bar.is_wide {
            self.config.write_extended(self.physical, register + 4, 0);
        }
        if self.read(BAR)? & !0xf != base as u32 {
            return Err(Wrong::Stubborn);
        }
        Ok((base, bar.size))
    }
}

/// What a base address register says.
#[derive(Clone, Copy, Debug, Default)]
struct Range {
    base: u64,
    size: u64,
    is_wide: bool,
}

/// A memory BAR, which must not be in use while it is looked at; the lowest bits, `flags`, are none
/// of its address.
fn range(config: &mut impl Config, at: Address, register: u16, flags: u32) -> Option<Range> {
    let mut probe = |register: u16| {
        let before = config.read_extended(at, register)?;
        config.write_extended(at, register, !(flags >> 4));
        let ones = config.read_extended(at, register)?;
        config.write_extended(at, register, before);
        Some((before, ones))
    };
    let (low, low_ones) = probe(register)?;
    let is_memory = flags != 0xf || low & 1 == 0;
    let mask = low_ones & !flags;
    if !is_memory || mask == 0 {
        return None;
    }
    let is_wide = flags == 0xf && low >> 1 & 3 == 2;
    let (high, high_ones) = if is_wide { probe(register + 4)? } else { (0, u32::MAX) };
    let base = u64::from(low & !flags) | u64::from(high) << 32;
    let size = (u64::from(mask) | u64::from(high_ones) << 32).wrapping_neg();
    size.is_power_of_two().then_some(Range { base, size, is_wide })
}

/// A place for `all` bytes, a multiple of `size`, at the upper end of what the port above the
/// function passes on, below 4 GiB.
fn free(
    config: &mut impl Config,
    functions: &Functions,
    physical: Address,
    size: u64,
    all: u64,
) -> Option<u64> {
    let bus = (physical >> 8) as u8;
    let port = functions.iter().find(|function| function.role.secondary() == Some(bus))?;
    let here = || functions.iter().filter(|function| function.bus() == bus);
    if here().any(|function| function.role != Role::Endpoint) {
        return None;
    }
    let mut taken = [Range::default(); RANGES_MAX];
    let mut places = taken.iter_mut();
    for function in here() {
        let at = function.address;
        let command = config.read_extended(at, COMMAND)? & 0xffff;
        config.write_extended(at, COMMAND, command & !COMMAND_MEMORY);
        let mut register = FIRST_BAR;
        while register < FIRST_BAR + 24 {
            let found = range(config, at, register, 0xf);
            register += if found.is_some_and(|range| range.is_wide) { 8 } else { 4 };
            if let Some(found) = found {
                *places.next()? = found;
            }
        }
        if let Some(found) = range(config, at, ROM, 0x7ff) {
            *places.next()? = found;
        }
        config.write_extended(at, COMMAND, command);
    }
    let window = config.read(port.address, WINDOW);
    let first = u64::from(window & 0xfff0) << 16;
    let end = u64::from(window & 0xfff0_0000) + 0x10_0000;
    let mut base = end.checked_sub(all)? & !(size - 1);
    while base >= first && base != 0 {
        let reach = |range: &&Range| {
            range.base != 0
                && range.base < base + all
                && base < range.base.saturating_add(range.size)
        };
        match taken.iter().find(reach) {
            None => return Some(base),
            Some(range) => base = range.base.checked_sub(all)? & !(size - 1),
        }
    }
    None
}
