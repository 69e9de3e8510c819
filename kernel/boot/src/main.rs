//! The boot stub: the only unchecked code of an image.
//!
//! Entered by a PVH or multiboot2 loader in 32-bit mode (`start.s` switches to 64-bit mode with
//! memory below 4 GiB mapped one to one), it checks every byte of the payload against its
//! checksums, maps the kernel's segments and jumps to the kernel. A payload that does not match is
//! refused with one line on the first serial port and never run.

#![no_std]
#![no_main]

mod check;
mod handoff;
mod machine;
mod multiboot2;
mod pvh;
mod uart;

use cloister_boot::Damage;
use core::arch::global_asm;
use core::fmt::Write;
use uart::Uart;

global_asm!(include_str!("start.s"));

/// Why the payload is not run. Every text is one line and names what was found.
pub enum Refusal {
    /// The loader's start information is missing or has no memory map.
    NoStartInfo(u32),
    /// The CPU lacks the CRC32 instruction.
    NoCrc32,
    /// Physical memory ends before the payload does, or there is none where it belongs.
    NoMemory {
        /// Bytes needed from the payload's start.
        need: u64,
    },
    /// The payload fails its check, or its header asks for what cannot be.
    Damaged(Damage),
}

fn refuse(uart: &mut Uart, why: &Refusal) -> ! {
    let _ = match why {
        Refusal::NoStartInfo(found) => {
            write!(uart, "the loader passed no PVH or multiboot2 memory map (found {found:#x})")
        }
        Refusal::NoCrc32 => write!(uart, "this CPU has no CRC32 instruction (x86-64-v2 is needed)"),
        Refusal::NoMemory { need } => {
            write!(uart, "too little memory: {} KiB are needed at 2 MiB", need.div_ceil(1024))
        }
        Refusal::Damaged(damage) => write!(uart, "{damage}"),
    }
    .and_then(|()| {
        uart.write_str(match why {
            Refusal::Damaged(_) => "; write the image again\n",
            Refusal::NoMemory { .. } => "; give the machine more memory\n",
            Refusal::NoStartInfo(_) | Refusal::NoCrc32 => "\n",
        })
    });
    uart.drain();
    halt()
}

fn halt() -> ! {
    loop {
        // SAFETY: halting has no effect on memory; interrupts are off and stay off.
        unsafe { core::arch::asm!("cli; hlt", options(nomem, nostack)) }
    }
}

/// Called by `start.s` in 64-bit mode with what the loader passed.
///
/// # Safety
/// `start_info` is what the loader passed in `ebx`, marked if it is multiboot2's; memory below
/// 4 GiB is mapped one to one.
#[unsafe(no_mangle)]
unsafe extern "C" fn stub_main(start_info: u32) -> ! {
    let mut uart = Uart::start();
    // The CR before the text ends whatever firmware left on the line.
    let _ = uart.write_str("\r\ncloister: checking the image\n");
    // SAFETY: the conditions are those of this function.
    match unsafe { handoff::run(start_info) } {
        Ok(never) => match never {},
        Err(why) => {
            let _ = uart.write_str("cloister: refused: ");
            refuse(&mut uart, &why)
        }
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    let mut uart = Uart::start();
    let line = info.location().map_or(0, core::panic::Location::line);
    let _ = writeln!(uart, "cloister: refused: the boot stub broke at line {line}");
    uart.drain();
    halt()
}
