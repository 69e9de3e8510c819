//! Guests, laid out at build time: from a guest file to the read-only image that the start code
//! of `guest-abi/rt/start` unpacks.
//!
//! [`build`] is the door. `file` reads the guest file, `program` and `linux` turn what it names
//! into a `layout::Layout`, which renders the image. Nothing in the running system parses a
//! guest. Invariant: the same request and the same files give the same bytes, and everything that
//! is not what it says is refused here, naming file and key.

mod acpi;
mod file;
mod layout;
mod linux;
mod map;
mod program;
mod pvh;
#[cfg(test)]
mod sample;

use std::path::Path;

use anyhow::{Context, Result, bail};
use cloister_guest_abi::image::START;
use cloister_manifest::names::did_you_mean;
use cloister_proto::vm::MAX_VM_DEVICES;

use crate::bare_target::Target;
use crate::cargo_build;
use crate::checks::sources;
use crate::image::elf::Elf;
use crate::install::Install;
use file::{GuestFile, Kind};
use layout::{Layout, PAGE};
pub use linux::{Parts as LinuxParts, stock_sets};

/// The package of the start code.
const START_CODE: &str = "cloister-guest-start";

/// A guest, as the manifest asks for it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The virtual machine's name, for messages.
    pub vm: &'a str,
    /// The guest file.
    pub guest_file: &'a Path,
    /// Bytes of RAM.
    pub memory: u64,
    /// Number of virtual CPUs.
    pub vcpus: u32,
    /// PIC, PIT and PM timer are there.
    pub legacy: bool,
    /// The IOAPIC is there.
    pub ioapic: bool,
    /// The guest begins with its APICs in xAPIC mode.
    pub xapic: bool,
    /// Number of virtio devices.
    pub devices: u32,
    /// Whether a kernel's package may be fetched.
    pub install: Install,
}

/// A Linux guest's kernel (the ELF that the layout is made of), initramfs and command line, for a
/// machine without Cloister whose TSC has this frequency.
pub fn linux_parts(guest_file: &Path, khz: u64, install: Install) -> Result<LinuxParts> {
    let file = GuestFile::read(guest_file)?;
    let Kind::Linux(linux) = &file.kind else {
        bail!("{} is no guest of kind `linux`", guest_file.display());
    };
    linux::parts(&file, linux, khz, install)
}

/// The guest's image: whole pages, for `platform::SEGMENTS`.
pub fn build(request: &Request<'_>) -> Result<Vec<u8>> {
    image(request).with_context(|| format!("vms.{}", request.vm))
}

fn image(request: &Request<'_>) -> Result<Vec<u8>> {
    if request.devices as usize > MAX_VM_DEVICES {
        bail!("it has {} virtio devices, {MAX_VM_DEVICES} can be", request.devices);
    }
    let file = GuestFile::read(request.guest_file)?;
    match &file.kind {
        Kind::Program { package, cmdline } => {
            check_package(package.get_ref()).map_err(|error| file.refuse(package, &error))?;
            let built = built(&[START_CODE, package.get_ref()], request.install)?;
            let [code, program] = built.as_slice() else {
                bail!("package `{}` and the start code are one", package.get_ref());
            };
            let line = program::command_line(cmdline.get_ref());
            let line = line.map_err(|error| file.refuse(cmdline, &error))?;
            let layout = program::layout(program, request.memory).map(|mut layout| {
                layout.pieces.extend(line);
                layout
            });
            render(layout, code).map_err(|error| file.refuse(package, &error))
        }
        Kind::Elf { path, is_pvh } => {
            let code = start_code(request.install)?;
            let elf = file.bytes(path.get_ref()).and_then(|b| Elf::parse(path.get_ref(), b));
            let layout = elf.and_then(|elf| match is_pvh {
                true => pvh::layout(&elf, request),
                false => program::layout(&elf, request.memory),
            });
            render(layout, &code).map_err(|error| file.refuse(path, &error))
        }
        Kind::Linux(linux) => {
            let layout = linux::layout(&file, linux, request)?;
            let code = start_code(request.install)?;
            render(Ok(layout), &code).map_err(|error| file.refuse(&linux.kernel, &error))
        }
    }
}

/// The start code's ELF alone.
fn start_code(install: Install) -> Result<Elf> {
    built(&[START_CODE], install)?.pop().context("the start code was not built")
}

/// The page of the start code in front of a layout.
fn render(layout: Result<Layout>, start_code: &Elf) -> Result<Vec<u8>> {
    layout?.render(code_page(start_code)?)
}

/// The bytes of the start code, which is one segment of at most a page.
fn code_page(elf: &Elf) -> Result<&[u8]> {
    match elf.segments.as_slice() {
        [code] if code.va == START && elf.entry == START && code.len <= PAGE => Ok(&code.bytes),
        _ => bail!("the start code {} is not one page at {START:#x}", elf.name),
    }
}

/// Whether a guest file names a Linux.
pub fn is_linux(guest_file: &Path) -> Result<bool> {
    Ok(matches!(GuestFile::read(guest_file)?.kind, Kind::Linux(_)))
}

/// Builds packages for the bare machine, each with one program.
fn built(packages: &[&str], install: Install) -> Result<Vec<Elf>> {
    let programs = cargo_build::build_bare(Target::Plain, packages, &[], install)?;
    let elf = |package: &&str| {
        let mut own = programs.iter().filter(|program| program.package == **package);
        match (own.next(), own.next()) {
            (Some(program), None) => Elf::read(&program.path),
            _ => bail!("package `{package}` must have one program, one [[bin]]"),
        }
    };
    packages.iter().map(elf).collect()
}

/// Judges that a package exists, before cargo says it in its own words.
fn check_package(package: &str) -> Result<()> {
    let packages = sources::packages(false)?;
    let names = || packages.iter().map(|package| package.name.as_str());
    if names().any(|name| name == package) {
        return Ok(());
    }
    let guess = did_you_mean(package, names());
    bail!("`{package}` is no package of this workspace: {guess}`program` names one with a [[bin]]")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start_code() -> Elf {
        let part = sample::Part {
            p_type: object::elf::PT_LOAD,
            flags: object::elf::PF_R | object::elf::PF_X,
            at: START,
            bytes: vec![0x90; 200],
            len: 200,
        };
        Elf::parse("start", sample::elf(START, &[part])).expect("a good ELF")
    }

    #[test]
    fn the_start_code_is_one_page_at_its_place() {
        assert_eq!(code_page(&start_code()).expect("good"), [0x90; 200]);
        type Spoil = fn(&mut Elf);
        let cases: [Spoil; 4] = [
            |elf| elf.entry += 1,
            |elf| elf.segments[0].va += PAGE,
            |elf| elf.segments[0].len = PAGE + 1,
            |elf| elf.segments.push(elf.segments[0].clone()),
        ];
        for spoil in cases {
            let mut elf = start_code();
            spoil(&mut elf);
            let error = code_page(&elf).expect_err("refused").to_string();
            assert_eq!(error, "the start code start is not one page at 0xc0000000");
        }
    }

    #[test]
    fn errors_name_the_virtual_machine_first() {
        let request =
            Request { guest_file: Path::new("images/guests/absent.toml"), ..sample::request() };
        let error = format!("{:#}", build(&request).expect_err("no file"));
        let expected = "vms.test: cannot read the guest file images/guests/absent.toml; ";
        assert!(error.starts_with(expected), "{error}");
        let many = Request { devices: 9, ..request };
        let error = format!("{:#}", build(&many).expect_err("too many"));
        assert_eq!(error, "vms.test: it has 9 virtio devices, 8 can be");
    }
}
