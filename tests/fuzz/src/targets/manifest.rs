//! The manifest: any text is refused with messages, or compiles to a table that the kernel takes.
//!
//! Rules: a refusal has messages that begin in lower case and a report that can be printed; the
//! same text gives the same report; what is accepted and fits compiles to a table that the kernel's
//! own validation accepts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cloister_abi::layout::{IMAGE, PAGE};
use cloister_core::table::Table;
use cloister_manifest::compile::{Compiled, compile};
use cloister_manifest::load;
use cloister_manifest::program::{Program, Segment};
use cloister_manifest::system::System;
use zerocopy::IntoBytes;

use crate::mark;

/// What manifests are made of.
pub const WORDS: [&str; 40] = [
    "\n",
    "\"",
    " = ",
    "{ ",
    " }",
    "[",
    "]",
    ", ",
    "[tasks.x]\n",
    "[vms.x]\n",
    "cpu = ",
    "cores = ",
    "priority = ",
    "budget = ",
    "period = ",
    "\"1ms\"",
    "\"10ms\"",
    "\"1s\"",
    "\"4KiB\"",
    "\"16MiB\"",
    "\"4GiB\"",
    "memory = ",
    "guest = \"sample\"\n",
    "grants = ",
    "exports = ",
    "devices = ",
    "\"init\"",
    "\"supervisor\"",
    "restart = ",
    "share = true",
    "legacy = true",
    "fpu = true",
    "iommu = \"absent-ok\"\n",
    "lab = true\n",
    "-1",
    "0",
    "99999999999999999999",
    "[0]",
    "[1, 2]",
    "\u{fffd}",
];

/// Reads the bytes as a manifest beside the board file and the guest of `tests/manifest`.
pub fn run(bytes: &[u8]) {
    let folder = Folder::new();
    let file = folder.0.join("image/appliance.toml");
    std::fs::write(&file, bytes).expect("a manifest");
    match (load(&file, &folder.0), load(&file, &folder.0)) {
        (Ok(system), Ok(_)) => compiles(&system),
        (Err(problems), Err(again)) => {
            mark("refused");
            assert!(!problems.list().is_empty(), "refused without a word");
            for problem in problems.list() {
                // A word like "VM" may come first, a sentence may not.
                let mut chars = problem.message().chars();
                let [first, second] = [chars.next(), chars.next()];
                let is_sentence =
                    first.is_none_or(char::is_uppercase) && second.is_none_or(char::is_lowercase);
                assert!(!is_sentence, "a message begins so: {:?}", problem.message());
            }
            assert_eq!(problems.render(), again.render(), "the same text, another report");
        }
        (first, _) => panic!("the same text is refused once: {:?}", first.is_ok()),
    }
}

/// What is accepted compiles, or does not fit, and the kernel takes it.
fn compiles(system: &System) {
    let names = system.tasks.iter().map(|task| task.program.get_ref().clone());
    let programs: BTreeMap<_, _> = names.map(|name| (name, program())).collect();
    let image = vec![0x5e; 2 * PAGE as usize];
    let images: BTreeMap<_, _> =
        system.vms().map(|(_, task, _)| (task.name().to_owned(), image.clone())).collect();
    let Ok(compiled) = compile(system, &programs, &images) else { return mark("does not fit") };
    validate(&compiled);
    mark("compiled");
}

/// The kernel's own check, with the blobs right behind the table.
fn validate(compiled: &Compiled) {
    let pages = compiled.table_len().div_ceil(PAGE as usize) as u64;
    let bytes = compiled.encode(pages * PAGE);
    let mut words = vec![0u64; bytes.len().div_ceil(8)];
    words.as_mut_bytes()[..bytes.len()].copy_from_slice(&bytes);
    let Ok(all) = u32::try_from(pages + compiled.blob_pages()) else { return };
    let table = Table::new(&words.as_bytes()[..bytes.len()], all);
    assert!(table.is_ok(), "the kernel refuses the table: {:?}", table.err());
}

/// Text, and data with zeros behind it.
fn program() -> Program {
    let part = |va: u64, bytes: usize, len: u64, is_executable: bool| Segment {
        va,
        pristine_va: va,
        bytes: vec![0x5a; bytes],
        len,
        is_executable,
        is_writable: !is_executable,
    };
    let data =
        Segment { pristine_va: IMAGE + 2 * PAGE, ..part(IMAGE + 5 * PAGE, 8, 2 * PAGE, false) };
    let segments = vec![part(IMAGE, 5000, 5000, true), data];
    Program { entry: IMAGE, segments, build_id: [1; 20] }
}

/// A folder of this thread's, with board and guest, that goes away again.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let name =
            format!("cloister-fuzz-{}-{:?}", std::process::id(), std::thread::current().id());
        let folder = std::env::temp_dir().join(name);
        for part in ["guests", "image"] {
            std::fs::create_dir_all(folder.join(part)).expect("a folder");
        }
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifest");
        for file in ["board.toml", "guests/sample.toml"] {
            std::fs::copy(from.join(file), folder.join(file)).expect("a part of the manifest");
        }
        Folder(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left in the folder for temporary files does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
