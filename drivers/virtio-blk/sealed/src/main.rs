//! Drives a virtio disk and serves virtio disks from it, those on encrypted volumes too.
//!
//! The task is `cloister-virtio-blk`, as in the program `virtio-blk`; the keys come from the vault
//! by `cloister-seal`. It is compiled with AES instructions: a task of it has `fpu = true`.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use cloister_seal::Vault;

cloister_rt::entry!(main);

/// Exit status: there is a vault already, which cannot be.
const STATUS_NO_VAULT: u32 = 4;

fn main() -> u32 {
    match Vault::new() {
        Some(mut vault) => cloister_virtio_blk::run(&mut vault),
        None => STATUS_NO_VAULT,
    }
}
