//! The initramfs `shell`: busybox and one script, enough to see a kernel's user space. The
//! initramfs `disk` is the same with another script, which hands over to a root filesystem on a
//! disk.
//!
//! An archive in the "newc" format (Linux, Documentation/driver-api/early-userspace/
//! buffer-format.rst). Owners, times and inode numbers are fixed, so equal inputs give equal
//! bytes.

use std::io::Write;

use anyhow::{Context, Result};
use cpio::newc::{Builder, ModeFileType, trailer};

use super::modules::Module;

/// The first program of the guest. The marker is what tests wait for.
const SHELL: &str = include_str!("init.sh");
/// The same for a guest with its user space on a disk.
const DISK: &str = include_str!("disk.sh");
/// Folders that the script mounts on or fills.
const FOLDERS: &[&str] = &["bin", "dev", "modules", "proc", "root", "sys", "tmp"];
/// Device numbers of the console (Linux, Documentation/admin-guide/devices.txt).
const CONSOLE: (u32, u32) = (5, 1);

/// What the first program does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is all the user space that there is.
    Shell,
    /// It mounts a disk and hands over to the program `/sbin/init` there.
    Disk,
}

impl Kind {
    /// From the word in a guest file.
    pub fn named(word: &str) -> Option<Self> {
        match word {
            "shell" => Some(Self::Shell),
            "disk" => Some(Self::Disk),
            _ => None,
        }
    }
}

/// The archive.
pub fn build(kind: Kind, busybox: &[u8], modules: &[Module]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in FOLDERS {
        archive.add(folder, ModeFileType::Directory, 0o755, &[], (0, 0))?;
    }
    archive.add("dev/console", ModeFileType::Char, 0o600, &[], CONSOLE)?;
    archive.add("bin/busybox", ModeFileType::Regular, 0o755, busybox, (0, 0))?;
    let init = match kind {
        Kind::Shell => SHELL,
        Kind::Disk => DISK,
    };
    archive.add("init", ModeFileType::Regular, 0o755, init.as_bytes(), (0, 0))?;
    let mut order = String::new();
    for module in modules {
        let path = format!("modules/{}.ko", module.name);
        archive.add(&path, ModeFileType::Regular, 0o644, &module.bytes, (0, 0))?;
        order.push_str(&format!("{path}\n"));
    }
    archive.add("modules/order", ModeFileType::Regular, 0o644, order.as_bytes(), (0, 0))?;
    trailer(archive.bytes).context("cannot end the initramfs")
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(
        &mut self,
        name: &str,
        kind: ModeFileType,
        mode: u32,
        content: &[u8],
        device: (u32, u32),
    ) -> Result<()> {
        self.entries += 1;
        let len = u32::try_from(content.len())
            .with_context(|| format!("{name} is too large for an initramfs"))?;
        let mut entry = Builder::new(name)
            .ino(self.entries)
            .mode(mode)
            .set_mode_file_type(kind)
            .rdev_major(device.0)
            .rdev_minor(device.1)
            .write(&mut self.bytes, len);
        entry.write_all(content).with_context(|| format!("cannot add {name}"))?;
        entry.finish().with_context(|| format!("cannot add {name}")).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpio::newc::Reader;
    use std::io::Read;

    /// Name, mode, device and content of an entry.
    type Found = (String, u32, (u32, u32), Vec<u8>);

    fn entries(mut rest: &[u8]) -> Vec<Found> {
        let mut found = Vec::new();
        loop {
            let mut reader = Reader::new(rest).expect("an entry");
            if reader.entry().is_trailer() {
                return found;
            }
            let mut content = Vec::new();
            reader.read_to_end(&mut content).expect("content");
            let entry = reader.entry();
            let device = (entry.rdev_major(), entry.rdev_minor());
            found.push((entry.name().to_owned(), entry.mode(), device, content));
            rest = reader.finish().expect("the next");
        }
    }

    #[test]
    fn the_archive_holds_what_the_script_needs() {
        let module = |name: &str| Module { name: name.into(), bytes: name.into() };
        let modules = [module("core"), module("virtio_rng")];
        let make = |kind| build(kind, b"busybox", &modules).expect("an archive");
        let archive = make(Kind::Shell);
        assert_eq!(archive, make(Kind::Shell), "equal bytes");
        assert_ne!(archive, make(Kind::Disk));
        let entries = entries(&archive);
        let find = |name: &str| {
            let found = entries.iter().find(|entry| entry.0 == name);
            found.unwrap_or_else(|| panic!("no {name}"))
        };
        for folder in ["bin", "dev", "modules", "proc", "root", "sys", "tmp"] {
            assert_eq!(find(folder).1, 0o040_755, "{folder}");
        }
        assert_eq!((find("dev/console").1, find("dev/console").2), (0o020_600, (5, 1)));
        assert_eq!((find("init").1, find("bin/busybox").1), (0o100_755, 0o100_755));
        assert_eq!(find("bin/busybox").3, b"busybox");
        assert_eq!(find("modules/order").3, b"modules/core.ko\nmodules/virtio_rng.ko\n");
        assert_eq!(find("modules/virtio_rng.ko").3, b"virtio_rng");
        // A folder stands before what is in it.
        let place = |name: &str| entries.iter().position(|entry| entry.0 == name);
        assert!(place("modules") < place("modules/order") && place("dev") < place("dev/console"));
    }

    #[test]
    fn the_script_says_the_marker_and_knows_its_words() {
        assert!(SHELL.starts_with("#!/bin/busybox sh\n"));
        assert!(SHELL.contains("'<1>cloister-guest: user space reached' > /dev/kmsg"));
        for word in ["poweroff)", "reboot)", "offer)"] {
            assert!(SHELL.contains(word), "{word}");
        }
        assert!(DISK.ends_with("exec switch_root /root /sbin/init\n"));
        assert_eq!((Kind::named("disk"), Kind::named("x")), (Some(Kind::Disk), None));
    }
}
