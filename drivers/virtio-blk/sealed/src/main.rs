//! Drives a virtio disk and serves virtio disks from it, those on encrypted volumes too.
//!
//! The task is `cloister-virtio-blk`, as in the program `virtio-blk`; the keys come from the vault
//! by `cloister-seal`. It is compiled with AES instructions: a task of it has `fpu = true`.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

cloister_rt::entry!(main);

fn main() -> u32 {
    cloister_seal::with_vault(cloister_virtio_blk::run)
}
