//! Drives a SATA disk and serves the virtio disks of virtual machines from it.
//!
//! The task is `cloister-ahci`. This program has no cipher, so the kernel keeps no vector
//! registers for it; `ahci-sealed` is the one for encrypted volumes (docs/notes/0012-keys.md).

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use cloister_disk::NoKeys;

cloister_rt::entry!(main);

fn main() -> u32 {
    cloister_ahci::run(&mut NoKeys)
}
