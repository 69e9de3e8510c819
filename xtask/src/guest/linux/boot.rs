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
    let wrong = || format!("no line for Linux, at most {} characters", capacity - 1);
    line.insert_str(WORDS).with_context(wrong)?;
    // The start code replaces all ten digits by the number and spaces behind it.
    line.insert(FREQUENCY, &"0".repeat(KHZ_DIGITS)).with_context(wrong)?;
    if !more.is_empty() {
        line.insert_str(more).with_context(wrong)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
        bytes[at..at + len].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    #[test]
    fn the_line_has_room_for_the_frequency_where_it_says() {
        let line = command_line(None, "quiet cloister.run=poweroff").expect("a line");
        let text = String::from_utf8(line.bytes).expect("text");
        assert_eq!(
            text,
            "console=ttyS0 reboot=a tsc=reliable tsc_early_khz=0000000000 quiet \
             cloister.run=poweroff\0"
        );
        let at = (line.khz_at - map::BEHIND) as usize;
        assert_eq!(&text[at - 1..at + KHZ_DIGITS + 1], "=0000000000 ");
    }

    #[test]
    fn lines_that_no_kernel_takes_are_refused() {
        let header = setup_header { cmdline_size: 100, ..setup_header::default() };
        assert!(command_line(Some(&header), &"x".repeat(39)).is_ok());
        let error =
            format!("{:#}", command_line(Some(&header), &"x".repeat(40)).err().expect("no"));
        assert!(error.contains("at most 100 characters"), "{error}");
        assert!(command_line(None, &"x".repeat(1986)).is_ok(), "a page, but 2048 for Linux");
        assert!(command_line(None, &"x".repeat(1987)).is_err());
        assert!(command_line(None, "a\nb").is_err());
    }

    #[test]
    fn boot_parameters_stand_where_linux_looks() {
        // Offsets by Documentation/arch/x86/zero-page.rst and boot.rst.
        let page = parameters(None, 64 << 20, &(0x300_0000..0x300_1234)).expect("a page");
        assert_eq!(page.len(), 4096);
        assert_eq!(number(&page, 0x070, 8), 0xe_0000, "acpi_rsdp_addr");
        assert_eq!((number(&page, 0x1fe, 2), &page[0x202..0x206]), (0xaa55, b"HdrS".as_slice()));
        assert_eq!((page[0x210], page[0x211] & 1), (0xff, 1), "type_of_loader, LOADED_HIGH");
        assert_eq!((number(&page, 0x218, 4), number(&page, 0x21c, 4)), (0x300_0000, 0x1234));
        assert_eq!(number(&page, 0x228, 4), map::BEHIND, "cmd_line_ptr");
        assert_eq!(page[0x1ef], 0, "sentinel");
        let entry = |n: usize| [0, 8, 16].map(|at| number(&page, 0x2d0 + 20 * n + at, 8));
        let (low, high, image) = (entry(0), entry(2), entry(3));
        assert_eq!(page[0x1e8], 4, "e820_entries");
        assert_eq!((low[0], low[1], low[2] as u32), (0x1000, 0x9_e000, 1));
        assert_eq!((high[0], high[1], high[2] as u32), (0x10_0000, 63 << 20, 1));
        assert_eq!((image[0], image[1], image[2] as u32), (0xc000_0000, 0x3e00_0000, 2));
        let mut kept = setup_header { init_size: 77, ..setup_header::default() };
        kept.header = HEADER_MAGIC;
        let page = parameters(Some(&kept), 64 << 20, &(0..0)).expect("a page");
        assert_eq!((number(&page, 0x260, 4), number(&page, 0x21c, 4)), (77, 0), "the header's own");
    }

    #[test]
    fn an_initramfs_lies_high_and_clear_of_the_kernel() {
        let kernel = 0x100_0000..0x200_0000;
        let place = |header, memory, len| initramfs_place(header, memory, &kernel, len);
        assert_eq!(place(None, 64 << 20, 5000).expect("fits"), 0x3ff_e000..0x3ff_f388);
        let end = place(None, 0xc000_0000, 1).expect("fits").end;
        assert_eq!(end, 0x7fff_f001, "initrd_addr_max of kernels that do not say");
        let header = setup_header {
            initrd_addr_max: 0x2ff_ffff,
            init_size: 0x180_0000,
            ..setup_header::default()
        };
        let place = |len| place(Some(&header), 64 << 20, len);
        assert_eq!(place(0x80_0000).expect("fits").start, 0x280_0000);
        let error = place(0x80_0001).expect_err("init_size").to_string();
        assert!(error.contains("the kernel's end at 0x2800000"), "{error}");
    }
}
