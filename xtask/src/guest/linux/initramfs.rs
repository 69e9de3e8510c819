//! The initramfs `shell`: busybox and one script, enough to see a kernel's user space.
//!
//! An archive in the "newc" format (Linux, Documentation/driver-api/early-userspace/
//! buffer-format.rst). Owners, times and inode numbers are fixed, so equal inputs give equal
//! bytes.

use std::io::Write;

use anyhow::{Context, Result};
use cpio::newc::{Builder, ModeFileType, trailer};

use super::modules::Module;

/// The first program of the guest. The marker is what tests wait for.
const INIT: &str = include_str!("init.sh");
/// Folders that the script mounts on or fills.
const FOLDERS: &[&str] = &["bin", "dev", "modules", "proc", "root", "sys", "tmp"];
/// Device numbers of the console (Linux, Documentation/admin-guide/devices.txt).
const CONSOLE: (u32, u32) = (5, 1);

/// The archive.
pub fn shell(busybox: &[u8], modules: &[Module]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in FOLDERS {
        archive.add(folder, ModeFileType::Directory, 0o755, &[], (0, 0))?;
    }
    archive.add("dev/console", ModeFileType::Char, 0o600, &[], CONSOLE)?;
    archive.add("bin/busybox", ModeFileType::Regular, 0o755, busybox, (0, 0))?;
    archive.add("init", ModeFileType::Regular, 0o755, INIT.as_bytes(), (0, 0))?;
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
