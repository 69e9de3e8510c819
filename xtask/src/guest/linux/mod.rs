//! Linux guests: a stock kernel, extracted and laid out for its 64-bit entry.
//!
//! `bzimage` unpacks the kernel, `boot` makes boot parameters and command line, `initramfs` (with
//! `modules`) the first user space, `stock` fetches Debian's packages; what
//! firmware would leave comes from `guest::map`. [`layout`] puts all of it into place. What stands where is said in
//! docs/guests.md.

mod boot;
mod bzimage;
mod initramfs;
mod modules;
mod stock;

use std::ops::Range;

use anyhow::{Context, Result, bail};
use cloister_guest_abi::image::PAGE_TABLES;
use toml::Spanned;

use super::file::{GuestFile, Linux};
use super::layout::{Entry, Layout, Piece, Start};
use super::{Request, map, program};
use crate::image::elf::Elf;
use bzimage::Kernel;
pub use stock::sets as stock_sets;
use stock::{RELEASE, Stock};

/// The layout of a Linux guest.
pub fn layout(file: &GuestFile, linux: &Linux, request: &Request<'_>) -> Result<Layout> {
    let release = linux.release.as_ref().map_or(RELEASE, |release| release.get_ref());
    let at = |key: &Spanned<String>, error: anyhow::Error| file.refuse(key, &error);
    let (kernel, stock) =
        kernel(file, linux, release, request).map_err(|error| at(&linux.kernel, error))?;
    let initramfs = match &linux.initramfs {
        Some(key) => initramfs(file, linux, key.get_ref(), release, stock.as_ref(), request)
            .map_err(|error| at(key, error))?,
        None => Vec::new(),
    };
    let parts = Parts { kernel: &kernel, initramfs: &initramfs, cmdline: linux.cmdline.get_ref() };
    place(&parts, request).map_err(|error| at(&linux.kernel, error))
}

/// The kernel, and the package that it came from.
fn kernel(
    file: &GuestFile,
    linux: &Linux,
    release: &str,
    request: &Request<'_>,
) -> Result<(Kernel, Option<Stock>)> {
    let text = linux.kernel.get_ref();
    if let Some(package) = text.strip_prefix("package:") {
        let stock = Stock::ensure(package, release, request.install)?;
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
    request: &Request<'_>,
) -> Result<Vec<u8>> {
    let names = linux.modules.get_ref();
    if let Some(path) = text.strip_prefix("path:") {
        if !names.is_empty() {
            bail!("`modules` belong to the initramfs \"shell\", this one is a file");
        }
        return file.bytes(path);
    }
    if text != "shell" {
        bail!("`{text}` is no initramfs: write \"shell\" or \"path:FILE\"");
    }
    let modules = match stock {
        _ if names.is_empty() => Vec::new(),
        Some(stock) => modules::with_dependencies(&stock.modules()?, names)?,
        None => bail!("`modules` come from the kernel's package, and this kernel is a file"),
    };
    let path = stock::busybox(release, request.install)?;
    let busybox =
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    initramfs::shell(&busybox, &modules)
}

/// What is put into place.
struct Parts<'a> {
    kernel: &'a Kernel,
    initramfs: &'a [u8],
    cmdline: &'a str,
}

fn place(parts: &Parts<'_>, request: &Request<'_>) -> Result<Layout> {
    let memory = request.memory;
    let header = parts.kernel.header.as_ref();
    let elf = Elf::parse("its vmlinux", parts.kernel.vmlinux.clone())?;
    let mut pieces = program::pieces(&elf)?;
    let span = span(&pieces);
    let initramfs = match parts.initramfs.len() {
        0 => 0..0,
        len => boot::initramfs_place(header, memory, &span, len as u64)?,
    };
    let line = boot::command_line(header, parts.cmdline)?;
    let parameters = boot::parameters(header, memory, &initramfs)?;
    pieces.extend([
        Piece::data("the boot parameters", map::PARAMETERS, parameters),
        Piece::data("the command line", map::BEHIND, line.bytes),
        Piece::data("the initramfs", initramfs.start, parts.initramfs.to_vec()),
    ]);
    pieces.extend(map::pieces(request));
    // The stack lies below the page tables and is used for a few instructions only.
    let entry = Entry::Bits64 { at: elf.entry, stack: PAGE_TABLES };
    let start = Start { entry, argument: map::PARAMETERS, khz_at: line.khz_at };
    Ok(Layout { memory, pieces, start })
}

/// From the lowest to the highest address of these pieces.
fn span(pieces: &[Piece]) -> Range<u64> {
    let start = pieces.iter().map(|piece| piece.to).min().unwrap_or(0);
    let end = pieces.iter().map(|piece| piece.to.saturating_add(piece.len)).max().unwrap_or(0);
    start..end
}
