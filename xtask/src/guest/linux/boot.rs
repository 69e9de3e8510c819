//! What Linux finds at its 64-bit entry: boot parameters with the memory map, the command line.
//!
//! Fields by "The Linux/x86 Boot Protocol" (Linux 6.12, Documentation/arch/x86/boot.rst, "64-bit
//! BOOT PROTOCOL") and Documentation/arch/x86/zero-page.rst. The structures are the crate
//! `linux-loader`'s.

use std::ops::Range;

use anyhow::{Context, Result, bail};
use cloister_guest_abi::image::KHZ_DIGITS;
use linux_loader::bootparam::{LOADED_HIGH, boot_e820_entry, boot_params, setup_header};
use linux_loader::cmdline::Cmdline;
use vm_memory::ByteValued;

use super::bzimage::{BOOT_FLAG, HEADER_MAGIC};
use crate::guest::{acpi, map};

/// The words that the platform needs: the UART as console; the reset register, because firmware
/// is asked first otherwise; the TSC trusted, because there is no other clock to watch it; and
/// its frequency, which the start code writes over the digits.
const WORDS: &str = "console=ttyS0 reboot=a tsc=reliable";
const FREQUENCY: &str = "tsc_early_khz";
/// Longest command line with its end, where a kernel does not say (`COMMAND_LINE_SIZE`).
const LINE_MAX: usize = 2048;
/// `type_of_loader`: one without an assigned number.
const LOADER: u8 = 0xff;
/// The protocol of the header that a bare vmlinux is given.
const VERSION: u16 = 0x020f;

/// A command line and the place of its digits.
pub struct Line {
    /// The bytes with their zero.
    pub bytes: Vec<u8>,
    /// Where the digits lie in RAM.
    pub khz_at: u64,
}

/// The platform's words and more.
pub fn command_line(header: Option<&setup_header>, more: &str) -> Result<Line> {
    let size = header.map_or(0, |header| header.cmdline_size as usize);
    let capacity = if size == 0 { LINE_MAX } else { LINE_MAX.min(size + 1) };
    let mut line = Cmdline::new(capacity).context("`cmdline_size` leaves no room")?;
    let too_long = || format!("the command line has more than {} characters", capacity - 1);
    line.insert_str(WORDS).with_context(too_long)?;
    // The start code replaces all ten digits by the number and spaces behind it.
    line.insert(FREQUENCY, &"0".repeat(KHZ_DIGITS)).with_context(too_long)?;
    if !more.is_empty() {
        line.insert_str(more).with_context(too_long)?;
    }
    let bytes = line.as_cstring().context("the command line holds a zero")?.into_bytes_with_nul();
    let word = format!("{FREQUENCY}=");
    let at = bytes.windows(word.len()).position(|window| window == word.as_bytes());
    let at = at.context("the command line lost its digits")? + word.len();
    Ok(Line { bytes, khz_at: map::BEHIND + at as u64 })
}

/// The page of boot parameters.
pub fn parameters(
    header: Option<&setup_header>,
    memory: u64,
    initramfs: &Range<u64>,
) -> Result<Vec<u8>> {
    let mut params = boot_params {
        hdr: header.copied().unwrap_or(setup_header {
            boot_flag: BOOT_FLAG,
            header: HEADER_MAGIC,
            version: VERSION,
            ..setup_header::default()
        }),
        acpi_rsdp_addr: acpi::PLACE.start,
        ..boot_params::default()
    };
    params.hdr.type_of_loader = LOADER;
    params.hdr.loadflags |= LOADED_HIGH;
    params.hdr.cmd_line_ptr = map::BEHIND as u32;
    if !initramfs.is_empty() {
        params.hdr.ramdisk_image = u32::try_from(initramfs.start)?;
        params.hdr.ramdisk_size = u32::try_from(initramfs.end - initramfs.start)?;
    }
    let map = map::memory(memory);
    let mut table = params.e820_table;
    for (place, (range, kind)) in table.iter_mut().zip(&map) {
        let size = range.end - range.start;
        *place = boot_e820_entry { addr: range.start, size, r#type: *kind as u32 };
    }
    params.e820_table = table;
    params.e820_entries = map.len() as u8;
    Ok(params.as_slice().to_vec())
}

/// Where an initramfs of this size goes: as high as the kernel takes it.
pub fn initramfs_place(
    header: Option<&setup_header>,
    memory: u64,
    kernel: &Range<u64>,
    len: u64,
) -> Result<Range<u64>> {
    let highest = header.map_or(0x7fff_ffff, |header| u64::from(header.initrd_addr_max));
    let end = memory.min(highest.saturating_add(1));
    let start = end.saturating_sub(len) & !0xfff;
    // The kernel uses memory behind itself before it looks at any map ("init_size").
    let init_size = header.map_or(0, |header| u64::from(header.init_size));
    let busy = kernel.end.max(kernel.start.saturating_add(init_size));
    if start < busy {
        bail!(
            "{len:#x} bytes of initramfs do not fit between the kernel's end at {busy:#x} and \
             {end:#x}; give it more memory"
        );
    }
    Ok(start..start + len)
}
