//! Who may import whom, and who may hold assembly.
//!
//! `kernel/abi` imports nothing of ours, the kernel only abi and core, drivers and the monitor
//! only libraries, and the runtime alone makes system calls: outside the kernel, the runtimes and
//! tests there is no assembly to make one with.

use anyhow::Result;
use proc_macro2::TokenTree;

use super::sources::{self, Package};
use super::{Verdict, verdict};
use crate::paths;

/// Folders whose packages may contain assembly.
const ASSEMBLY: &[&str] = &["kernel", "lib/rt", "guest-abi/rt", "tests"];

/// Looks at every package and every Rust file.
pub fn check() -> Result<Verdict> {
    let packages = sources::packages(false)?;
    let mut complaints: Vec<String> = packages.iter().flat_map(wrong_arrows).collect();
    let arrows: usize = packages.iter().map(|package| ours(package).count()).sum();
    complaints.extend(stray_assembly()?);
    Ok(verdict(complaints, format!("{arrows} arrows between {} crates", packages.len())))
}

/// The folders of the workspace's packages that this one imports.
fn ours(package: &Package) -> impl Iterator<Item = String> + '_ {
    package
        .dependencies
        .iter()
        .filter_map(|dependency| Some(paths::shown(dependency.path.as_ref()?)))
}

fn wrong_arrows(package: &Package) -> Vec<String> {
    let from = package.folder();
    ours(package)
        .filter_map(|to| {
            let rule = broken_rule(&from, &to)?;
            Some(format!("{from} imports {to}: {rule}"))
        })
        .collect()
}

/// The rule that an import breaks, if it breaks one.
fn broken_rule(from: &str, to: &str) -> Option<&'static str> {
    let below = |folder: &str, base: &str| folder.starts_with(&format!("{base}/"));
    let host_only = ["lib/manifest", "lib/logview"];
    let (allowed, rule) = match from {
        "kernel/abi" | "guest-abi" => (false, "it imports nothing of ours"),
        "kernel" => {
            let allowed = ["kernel/abi", "kernel/core"].contains(&to);
            (allowed, "the kernel imports only kernel/abi and kernel/core")
        }
        "kernel/boot" | "kernel/core" => (to == "kernel/abi", "it imports only kernel/abi"),
        "xtask" => {
            // `tests/fuzz` drives the fuzz target of the guest loader, which is a part of xtask; the
            // micro-guest's core knows the blocks that the host looks at after a run.
            let tests = ["tests/boot/rogue/core", "tests/fuzz", "tests/guest/disk/core"];
            let pure = ["guest-abi", "kernel/abi", "kernel/boot", "kernel/core"];
            let allowed = below(to, "lib") || pure.contains(&to) || tests.contains(&to);
            (allowed, "xtask imports libraries, the pure parts of the kernel and of tests")
        }
        from if host_only.contains(&from) => {
            let pure = ["guest-abi", "kernel/abi", "kernel/core"];
            let allowed = below(to, "lib") || pure.contains(&to);
            (allowed, "a host library imports libraries and the pure parts of the kernel")
        }
        from if below(from, "lib") => {
            let allowed = below(to, "lib") || to == "kernel/abi" || to == "guest-abi";
            (allowed, "libraries import libraries, kernel/abi and guest-abi")
        }
        from if below(from, "drivers") || from == "monitor" || below(from, "monitor") => {
            // The monitor's task is a thin main around the crate that has its logic, and several
            // programs of a driver are around one.
            let part =
                |driver| [format!("drivers/{driver}/core"), format!("drivers/{driver}/task")];
            let own = to == format!("{from}/core")
                || (from, to) == ("monitor/task", "monitor")
                || (from != to && family(from).is_some_and(|name| part(name).contains(&to.into())));
            let library = below(to, "lib") && !host_only.contains(&to);
            let allowed = own || library || to == "kernel/abi" || to == "guest-abi";
            (allowed, "tasks import lib/*, kernel/abi, guest-abi and their own core, no other task")
        }
        _ => (true, ""),
    };
    (!allowed).then_some(rule)
}

/// The driver that a folder is a part of.
fn family(folder: &str) -> Option<&str> {
    folder.strip_prefix("drivers/")?.split('/').next()
}

fn stray_assembly() -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    for path in sources::files(&["rs", "s", "S"])? {
        let shown = paths::shown(&path);
        if ASSEMBLY.iter().any(|base| shown.starts_with(&format!("{base}/"))) {
            continue;
        }
        let assembly = match path.extension().and_then(|extension| extension.to_str()) {
            Some("rs") => calls_assembler(&path, &sources::read(&path)?)?,
            _ => true,
        };
        if assembly {
            complaints.push(format!(
                "{shown}: holds assembly; only {} may, so that lib/rt alone makes system calls",
                ASSEMBLY.join(", ")
            ));
        }
    }
    Ok(complaints)
}

fn calls_assembler(path: &std::path::Path, text: &str) -> Result<bool> {
    let mut found = false;
    sources::each_token(sources::tokens(path, text)?, &mut |tree, next| {
        let TokenTree::Ident(word) = tree else { return };
        let assembler = word == "asm" || word == "global_asm" || word == "naked_asm";
        let called = matches!(next, Some(TokenTree::Punct(mark)) if mark.as_char() == '!');
        found |= assembler && called;
    });
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{broken_rule, calls_assembler};
    use std::path::Path;

    #[test]
    fn the_arrows_of_the_design() {
        for (from, to) in [
            ("kernel", "kernel/core"),
            ("kernel/core", "kernel/abi"),
            ("drivers/nvme", "lib/rt"),
            ("drivers/nvme", "drivers/nvme/core"),
            ("drivers/nvme/sealed", "drivers/nvme/task"),
            ("lib/manifest", "kernel/core"),
            ("tests/boot", "lib/rt"),
        ] {
            assert_eq!(broken_rule(from, to), None, "{from} -> {to}");
        }
        for (from, to) in [
            ("kernel/abi", "lib/ring"),
            ("kernel", "lib/ring"),
            ("lib/rt", "kernel"),
            ("lib/ring", "kernel/core"),
            ("drivers/nvme", "drivers/init"),
            ("drivers/nvme", "drivers/init/core"),
            ("drivers/nvme/sealed", "drivers/nvme"),
            ("drivers/nvme", "lib/manifest"),
            ("monitor", "drivers/console"),
        ] {
            assert!(broken_rule(from, to).is_some(), "{from} -> {to}");
        }
    }

    #[test]
    fn assembly_is_a_macro_call_not_a_word() {
        let found = |text| calls_assembler(Path::new("x.rs"), text).unwrap();
        assert!(found("fn f() { core::arch::asm!(\"nop\") }"));
        assert!(!found("fn asm() { asm(); let x = \"asm!\"; }"));
    }
}
