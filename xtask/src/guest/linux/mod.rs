//! Linux guests: a stock kernel, extracted and laid out for its 64-bit entry.
//!
//! `bzimage` unpacks the kernel, `boot` makes boot parameters and command line, `initramfs` (with
//! `modules`) the first user space, `stock` fetches Debian's packages; what firmware would leave
//! comes from `guest::map`. [`layout`] puts all of it into place; docs/guests.md says what stands
//! where. Invariant: an error names the key of the guest file that it is about.

mod boot;
mod bzimage;
#[cfg(test)]
mod fuzz;
mod initramfs;
mod modules;
mod stock;

use std::ops::Range;

use anyhow::{Context, Result, bail};
use cloister_guest_abi::image::{KHZ_DIGITS, PAGE_TABLES};
use toml::Spanned;

use super::file::{GuestFile, Linux};
use super::layout::{Entry, Layout, Piece, Start};
use super::{Request, map, program};
use crate::image::elf::Elf;
use crate::install::Install;
use bzimage::Kernel;
pub use stock::sets as stock_sets;
use stock::{RELEASE, Stock};

/// The layout of a Linux guest.
pub fn layout(file: &GuestFile, linux: &Linux, request: &Request<'_>) -> Result<Layout> {
    let release = linux.release.as_ref().map_or(RELEASE, |release| release.get_ref());
    let at = |key: &Spanned<String>, error: anyhow::Error| file.refuse(key, &error);
    let (kernel, stock) =
        kernel(file, linux, release, request.install).map_err(|error| at(&linux.kernel, error))?;
    let initramfs = match &linux.initramfs {
        Some(key) => {
            initramfs(file, linux, key.get_ref(), release, stock.as_ref(), request.install)
                .map_err(|error| at(key, error))?
        }
        None => Vec::new(),
    };
    let header = kernel.header.as_ref();
    let memory = request.memory;
    let elf =
        Elf::parse("its vmlinux", kernel.vmlinux).map_err(|error| at(&linux.kernel, error))?;
    let mut pieces = program::pieces(&elf).map_err(|error| at(&linux.kernel, error))?;
    let place = match &linux.initramfs {
        Some(key) => boot::initramfs_place(header, memory, &span(&pieces), initramfs.len() as u64)
            .map_err(|error| at(key, error))?,
        None => 0..0,
    };
    let line = boot::command_line(header, linux.cmdline.get_ref())
        .map_err(|error| at(&linux.cmdline, error))?;
    let parameters = boot::parameters(header, memory, &place)?;
    pieces.extend([
        Piece::data("the boot parameters", map::PARAMETERS, parameters),
        Piece::data("the command line", map::BEHIND, line.bytes),
        Piece::data("the initramfs", place.start, initramfs),
    ]);
    pieces.extend(map::pieces(request));
    // The stack lies below the page tables and is used for a few instructions only.
    let entry = Entry::Bits64 { at: elf.entry, stack: PAGE_TABLES };
    let start = Start { entry, argument: map::PARAMETERS, khz_at: line.khz_at };
    Ok(Layout { memory, pieces, start })
}

/// What a Linux guest is made of.
pub struct Parts {
    /// The kernel's ELF.
    pub kernel: Vec<u8>,
    /// The first user space; empty if there is none.
    pub initramfs: Vec<u8>,
    /// The command line, with the frequency that the start code would write.
    pub line: String,
}

/// The parts of a Linux guest, as [`layout`] puts them into place.
pub fn parts(file: &GuestFile, linux: &Linux, khz: u64, install: Install) -> Result<Parts> {
    let release = linux.release.as_ref().map_or(RELEASE, |release| release.get_ref());
    let (kernel, stock) = kernel(file, linux, release, install)?;
    let initramfs = match &linux.initramfs {
        Some(key) => initramfs(file, linux, key.get_ref(), release, stock.as_ref(), install)?,
        None => Vec::new(),
    };
    let line = boot::command_line(kernel.header.as_ref(), linux.cmdline.get_ref())?;
    let mut bytes = line.bytes;
    let at = usize::try_from(line.khz_at - map::BEHIND)?;
    let digits = bytes.get_mut(at..at + KHZ_DIGITS).context("the command line has no digits")?;
    digits.copy_from_slice(format!("{khz:<KHZ_DIGITS$}").as_bytes());
    bytes.pop();
    let line = String::from_utf8(bytes).context("the command line is no text")?;
    Ok(Parts { kernel: kernel.vmlinux, initramfs, line })
}

/// The kernel, and the package that it came from.
fn kernel(
    file: &GuestFile,
    linux: &Linux,
    release: &str,
    install: Install,
) -> Result<(Kernel, Option<Stock>)> {
    let text = linux.kernel.get_ref();
    if let Some(package) = text.strip_prefix("package:") {
        let stock = Stock::ensure(package, release, install)?;
        let path = stock.kernel()?;
        let bytes =
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        return Ok((bzimage::read(bytes)?, Some(stock)));
    }
    match text.strip_prefix("path:") {
        Some(path) => Ok((bzimage::read(file.bytes(path)?)?, None)),
        None => bail!(
            "`{text}` is no kernel: write \"package:linux-image-cloud-amd64\" or \"path:FILE\""
        ),
    }
}

fn initramfs(
    file: &GuestFile,
    linux: &Linux,
    text: &str,
    release: &str,
    stock: Option<&Stock>,
    install: Install,
) -> Result<Vec<u8>> {
    let names = linux.modules.get_ref();
    if let Some(path) = text.strip_prefix("path:") {
        if !names.is_empty() {
            bail!("`modules` belong to the initramfs \"shell\" or \"disk\", this one is a file");
        }
        return file.bytes(path);
    }
    let Some(kind) = initramfs::Kind::named(text) else {
        bail!("`{text}` is no initramfs: write \"shell\", \"disk\" or \"path:FILE\"");
    };
    let modules = match stock {
        _ if names.is_empty() => Vec::new(),
        Some(stock) => modules::with_dependencies(&stock.modules()?, names)?,
        None => bail!("`modules` come from the kernel's package, and this kernel is a file"),
    };
    let path = stock::busybox(release, install)?;
    let busybox =
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    initramfs::build(kind, &busybox, &modules)
}

/// From the lowest to the highest address of these pieces.
fn span(pieces: &[Piece]) -> Range<u64> {
    let start = pieces.iter().map(|piece| piece.to).min().unwrap_or(0);
    let end = pieces.iter().map(|piece| piece.to.saturating_add(piece.len)).max().unwrap_or(0);
    start..end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::file::Kind;
    use crate::guest::sample;

    /// Reads the guest file with these lines in a folder with a kernel and an initramfs, and lays
    /// it out.
    fn laid_out(lines: &str, memory: u64) -> Result<Layout> {
        let folder = tempfile::tempdir().expect("a folder");
        let put = |name: &str, bytes: &[u8]| {
            std::fs::write(folder.path().join(name), bytes).expect("written");
        };
        put("vmlinuz", &bzimage::tests::sample());
        put("vmlinux", &sample::program());
        put("initramfs", &[b'i'; 5000]);
        put("large", &[b'i'; 0x20_0000]);
        put("text", b"no kernel at all");
        put("guest.toml", format!("format = 1\nkind = \"linux\"\n{lines}").as_bytes());
        let file = GuestFile::read(&folder.path().join("guest.toml"))?;
        let Kind::Linux(linux) = &file.kind else { panic!("no Linux") };
        layout(&file, linux, &Request { memory, ..sample::request() })
    }

    const GOOD: &str =
        "kernel = \"path:vmlinuz\"\ninitramfs = \"path:initramfs\"\ncmdline = \"a b\"";

    #[test]
    fn a_kernel_starts_with_all_that_it_needs() {
        for lines in [GOOD, &GOOD.replace("vmlinuz", "vmlinux")] {
            let layout = laid_out(lines, 2 << 20).expect("a good layout");
            let image = layout.render(&[]).expect("an image");
            let (header, ram) = sample::started(&image);
            assert_eq!((header.entry, header.argument), (sample::ENTRY, map::PARAMETERS));
            assert_eq!(ram[sample::ENTRY as usize], 0x11, "the kernel's code");
            let text = "console=ttyS0 reboot=a tsc=reliable tsc_early_khz=2250006    a b\0";
            let line = map::BEHIND as usize;
            assert_eq!(str::from_utf8(&ram[line..line + text.len()]), Ok(text));
            assert_eq!(&ram[0x1f_e000..0x1f_f388], &[b'i'; 5000], "the initramfs");
            let parameter = |at: usize| {
                u32::from_le_bytes(
                    ram[0x1_0000 + at..0x1_0004 + at].try_into().expect("four bytes"),
                )
            };
            assert_eq!((parameter(0x218), parameter(0x21c)), (0x1f_e000, 5000));
            assert_eq!(&ram[0xe_0000..0xe_0008], b"RSD PTR ");
            assert_eq!(&ram[0xf_fff0..0xf_fff3], &[0xb0, 6, 0xba], "the reset code");
            let again = laid_out(lines, 2 << 20).expect("again").render(&[]).expect("again");
            assert!(image == again, "equal bytes");
        }
    }

    #[test]
    fn what_is_not_what_it_says_is_refused_at_its_key() {
        let cases = [
            ("kernel = \"vmlinuz\"", 3, "`vmlinuz` is no kernel: write"),
            ("kernel = \"path:absent\"", 3, "cannot read the file"),
            ("kernel = \"path:text\"", 3, "neither a bzImage nor an ELF"),
            ("kernel = \"path:vmlinuz\"\ninitramfs = \"x\"", 4, "`x` is no initramfs: write"),
            ("kernel = \"path:vmlinuz\"\ninitramfs = \"path:large\"", 4, "give it more memory"),
            (
                "kernel = \"path:vmlinuz\"\nmodules = [\"a\"]\ninitramfs = \"shell\"",
                5,
                "`modules` come from the kernel's package",
            ),
            (
                "kernel = \"path:vmlinuz\"\nmodules = [\"a\"]\ninitramfs = \"path:initramfs\"",
                5,
                "`modules` belong to the initramfs",
            ),
            ("kernel = \"path:vmlinuz\"\ncmdline = \"a\\tb\"", 4, "no line for Linux"),
            ("kernel = \"package:bash\"", 3, "`bash` is no package of a kernel"),
        ];
        for (lines, line, expected) in cases {
            let error = laid_out(lines, 2 << 20).expect_err(expected).to_string();
            let joined = error.replace("\n  │ ", " ");
            assert!(joined.contains(expected), "{error}");
            assert!(error.contains(&format!("guest.toml:{line}:")), "{error}");
        }
    }
}
