//! What a guest program's build script says to cargo: the linker script and its options.
//!
//! A program's `build.rs` is one call of [`guest`]. The options reach the linker only when the
//! build is for the bare machine, so `cargo check` on a host stays plain.

#![forbid(unsafe_code)]

use std::path::PathBuf;

/// Options for GNU ld, beside the script. `--build-id` names the program in the image archive.
const OPTIONS: [&str; 4] =
    ["--build-id=sha1", "-zmax-page-size=4096", "-znoexecstack", "--gc-sections"];

/// For a program that runs on `cloister-guest-rt`.
pub fn guest() {
    let script = script();
    println!("cargo::rerun-if-changed={}", script.display());
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        println!("cargo::rustc-link-arg-bins=-T{}", script.display());
        for option in OPTIONS {
            println!("cargo::rustc-link-arg-bins={option}");
        }
    }
}

/// `guest-abi/rt/guest.ld`, beside this crate's folder.
fn script() -> PathBuf {
    let mut path = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    path.pop();
    path.push("guest.ld");
    path
}
