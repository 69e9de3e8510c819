//! The two targets of bare-metal programs.
//!
//! [`Target::Plain`] is the compiler's `x86_64-unknown-none`: soft-float, no red zone. The kernel,
//! guests and nearly all tasks are compiled for it. [`Target::Vector`] is for the tasks that work
//! with SSE and AES instructions: a target file that is made of the compiler's own description of
//! the plain target, so that it has the form which this compiler reads. A package asks for it in
//! its Cargo.toml, with `[package.metadata.cloister] fpu = true`; its tasks need `fpu = true` in
//! the manifest.
//!
//! Ring 3 has a red zone there: interrupts and system calls switch to stacks of the kernel, which
//! writes nothing to a task's stack.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::image::archive;
use crate::paths;
use crate::toolchain::BareCompiler;

/// The target that the compiler knows.
pub const PLAIN: &str = "x86_64-unknown-none";
/// The name of the target file, and of the folder that cargo builds for it in.
const VECTOR: &str = "x86_64-cloister-vector";
/// What every CPU with AES instructions and virtualization has.
const FEATURES: &str = "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+aes,+pclmulqdq";

/// What a program is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// General registers only.
    Plain,
    /// SSE and AES instructions too.
    Vector,
}

impl Target {
    /// What `cargo build --target` is given.
    pub fn argument(self, compiler: &BareCompiler) -> Result<String> {
        match self {
            Target::Plain => Ok(PLAIN.to_owned()),
            Target::Vector => Ok(file(compiler)?.display().to_string()),
        }
    }
}

/// Writes the target file; cargo builds anew only if its content changed.
fn file(compiler: &BareCompiler) -> Result<PathBuf> {
    let output = Command::new(&compiler.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env_remove("LD_LIBRARY_PATH")
        .args(["-Zunstable-options", "--print", "target-spec-json", "--target", PLAIN])
        .output()
        .with_context(|| format!("cannot start {}", compiler.rustc.display()))?;
    if !output.status.success() {
        bail!(
            "rustc {} does not describe its target {PLAIN}: {}",
            compiler.version,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let plain = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("what rustc {} prints is no JSON", compiler.version))?;
    let text = serde_json::to_string_pretty(&vector(plain)?)?;
    let path = paths::bare_target().join(format!("{VECTOR}.json"));
    if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(path);
    }
    std::fs::create_dir_all(paths::bare_target())
        .with_context(|| format!("cannot make {}", paths::bare_target().display()))?;
    archive::write_file(&path, text.as_bytes())?;
    Ok(path)
}

/// The plain target's description with vector registers in place of soft-float.
fn vector(mut target: Value) -> Result<Value> {
    let keys = target.as_object_mut().context("a target's description is a JSON object")?;
    keys.insert("features".to_owned(), json!(FEATURES));
    keys.insert("disable-redzone".to_owned(), json!(false));
    keys.insert("code-model".to_owned(), json!("small"));
    // The calling convention of soft-float, and a description that tier lists are made of.
    keys.remove("rustc-abi");
    keys.remove("metadata");
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::{FEATURES, vector};
    use serde_json::json;

    #[test]
    fn the_vector_target_differs_in_registers_and_red_zone_alone() {
        let plain = json!({
            "arch": "x86_64", "features": "-sse,+soft-float", "rustc-abi": "softfloat",
            "disable-redzone": true, "code-model": "kernel", "target-pointer-width": 64,
        });
        let expected = json!({
            "arch": "x86_64", "features": FEATURES, "disable-redzone": false,
            "code-model": "small", "target-pointer-width": 64,
        });
        assert_eq!(vector(plain).unwrap(), expected);
        assert!(vector(json!([])).is_err());
    }
}
