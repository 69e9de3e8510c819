//! PCI configuration space through ports 0xcf8 and 0xcfc (PCI Local Bus Specification 3.0,
//! "Configuration Mechanism #1"). Used before the seal only.

use super::cpu;

/// Bus, device and function in the form bus << 8 | device << 3 | function.
pub type Address = u16;

/// Register (PCI Local Bus Specification 3.0, "Configuration Space").
pub const COMMAND: u8 = 0x04;
/// The first base address register.
pub const BARS: u8 = 0x10;
/// In [`COMMAND`]: memory space.
pub const MEMORY_SPACE: u32 = 1 << 1;
/// In [`COMMAND`].
pub const BUS_MASTER: u32 = 1 << 2;
/// In [`COMMAND`]: no interrupt pin.
pub const NO_PIN: u32 = 1 << 10;

/// Reads a register.
#[inline(never)]
pub fn read(function: Address, register: u8) -> u32 {
    cpu::outl(0xcf8, 1 << 31 | u32::from(function) << 8 | u32::from(register & 0xfc));
    cpu::inl(0xcfc)
}

#[inline(never)]
fn write(function: Address, register: u8, value: u32) {
    cpu::outl(0xcf8, 1 << 31 | u32::from(function) << 8 | u32::from(register & 0xfc));
    cpu::outl(0xcfc, value);
}

/// The status half of the command register is cleared by writing ones, so zeros keep it.
#[inline(never)]
fn set_command(function: Address, set: u32, clear: u32) {
    let command = read(function, COMMAND) & 0xffff;
    write(function, COMMAND, command & !clear | set);
}

/// Takes bus mastering from every function of the machine: firmware leaves devices running.
pub fn quiesce() {
    // Bus 0 can be left behind only to a bus with a higher number.
    let mut buses = [false; 256];
    buses[0] = true;
    let mut has_more = false;
    for bus in 0..=255u16 {
        for at in bus << 8..=bus << 8 | 0xff {
            if !buses[usize::from(bus)] {
                break;
            }
            let is_first = at & 7 == 0;
            let is_there = (is_first || has_more) && read(at, 0) & 0xffff != 0xffff;
            let kind = if is_there { read(at, 0x0c) >> 16 & 0xff } else { 0 };
            has_more = if is_first { kind & 0x80 != 0 } else { has_more };
            if is_there {
                set_command(at, 0, BUS_MASTER);
            }
            if kind & 0x7f == 1 {
                // A bridge, and the bus behind it.
                buses[(read(at, 0x18) >> 8 & 0xff) as usize] = true;
            }
        }
    }
}

/// A memory base address register: its address and its size in bytes, `None` if it is not one.
pub fn memory_bar(function: Address, bar: u8) -> Option<(u64, u64)> {
    if bar > 5 {
        return None;
    }
    let register = BARS + bar * 4;
    let low = read(function, register);
    let wide = low >> 1 & 3 == 2;
    if low & 1 != 0 || (wide && bar == 5) {
        return None;
    }
    set_command(function, 0, MEMORY_SPACE);
    write(function, register, u32::MAX);
    let mut mask = u64::from(read(function, register) & !0xf) | 0xffff_ffff << 32;
    write(function, register, low);
    let mut base = u64::from(low & !0xf);
    if wide {
        let high = read(function, register + 4);
        write(function, register + 4, u32::MAX);
        mask = mask & 0xffff_ffff | u64::from(read(function, register + 4)) << 32;
        write(function, register + 4, high);
        base |= u64::from(high) << 32;
    }
    set_command(function, MEMORY_SPACE, 0);
    (mask as u32 != 0 && base != 0).then(|| (base, (!mask).wrapping_add(1)))
}
