//! For tests of the manifest compiler: sample programs and images, manifests from files and from
//! texts, and questions to what was compiled.
// Each test program uses its own part of this.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use cloister_abi::info::Grant;
use cloister_abi::layout::{IMAGE, PAGE};
use cloister_abi::name_str;
use cloister_abi::table::Region;
use cloister_manifest::compile::{CompileError, Compiled, compile};
use cloister_manifest::program::{Program, Segment};
use cloister_manifest::system::System;
use zerocopy::IntoBytes;

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Text, constants, and data of 8 bytes with bss behind it, as lib/rt's linker script lays it out.
pub fn program() -> Program {
    let part = |va: u64, pristine_va: u64, bytes: usize, len: u64| Segment {
        va,
        pristine_va,
        bytes: vec![0x5a; bytes],
        len,
        is_executable: false,
        is_writable: false,
    };
    let text = Segment { is_executable: true, ..part(IMAGE, IMAGE, 5000, 5000) };
    let constants = part(IMAGE + 2 * PAGE, IMAGE + 2 * PAGE, 100, 100);
    let data = part(IMAGE + 5 * PAGE, IMAGE + 3 * PAGE, 8, 2 * PAGE);
    let data = Segment { is_writable: true, ..data };
    Program { entry: IMAGE, segments: vec![text, constants, data], build_id: [1; 20] }
}

pub fn system(file: &str) -> System {
    cloister_manifest::load(&root().join(file), &root())
        .unwrap_or_else(|p| panic!("{}", p.render()))
}

/// Guests' images of two pages, all of them equal.
pub fn images(system: &System) -> BTreeMap<String, Vec<u8>> {
    let image = vec![0x5e; 2 * PAGE as usize];
    system.vms().map(|(_, task, _)| (task.name().to_owned(), image.clone())).collect()
}

pub fn with_program(system: &System, program: &Program) -> Result<Compiled, CompileError> {
    let names = system.tasks.iter().map(|task| task.program.get_ref().clone());
    let programs = names.map(|name| (name, program.clone())).collect::<BTreeMap<_, _>>();
    compile(system, &programs, &images(system))
}

pub fn compiled(file: &str) -> Compiled {
    with_program(&system(file), &program()).expect("a good manifest compiles")
}

/// A manifest that is not in the corpus.
pub fn system_text(text: &str) -> System {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("cloister-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    for part in ["guests", "image"] {
        std::fs::create_dir_all(folder.join(part)).expect("a folder");
    }
    for file in ["board.toml", "guests/sample.toml"] {
        let from = root().join("tests/manifest").join(file);
        std::fs::copy(from, folder.join(file)).expect("a part of the manifest");
    }
    let file = folder.join("image/appliance.toml");
    std::fs::write(&file, text).expect("a manifest");
    let loaded = cloister_manifest::load(&file, &folder);
    std::fs::remove_dir_all(&folder).expect("the folder goes away again");
    loaded.unwrap_or_else(|problems| panic!("{}", problems.render()))
}

pub fn compiled_text(text: &str) -> Compiled {
    with_program(&system_text(text), &program()).expect("it compiles")
}

pub fn plain() -> String {
    std::fs::read_to_string(root().join("tests/manifest/good/plain.toml")).expect("a manifest")
}

pub fn task_index(compiled: &Compiled, name: &str) -> usize {
    compiled.tasks.iter().position(|task| name_str(&task.name) == name).expect("the task")
}

pub fn grant<'a>(compiled: &'a Compiled, task: &str, name: &str, kind: u8) -> &'a Grant {
    let mut grants = compiled.grants[task_index(compiled, task)].iter();
    let found = grants.find(|grant| name_str(&grant.name) == name && grant.kind == kind);
    found.unwrap_or_else(|| panic!("task `{task}` has no `{name}` of kind {kind}"))
}

/// The region that a task maps at an address, and the rights.
pub fn mapped(compiled: &Compiled, task: &str, va: u64) -> (u16, u8) {
    let record = &compiled.tasks[task_index(compiled, task)];
    let first = record.first_map as usize;
    let maps = &compiled.maps[first..first + usize::from(record.maps)];
    let map = maps.iter().find(|map| map.va == va);
    map.map(|map| (map.region, map.rights)).unwrap_or_else(|| panic!("{task} maps no {va:#x}"))
}

/// The kernel's own check of the table, with the blobs right behind it in a payload.
pub fn validate(compiled: &Compiled) {
    let pages = compiled.table_len().div_ceil(PAGE as usize) as u64;
    let bytes = compiled.encode(pages * PAGE);
    assert_eq!(bytes.len(), compiled.table_len());
    let mut words = vec![0u64; bytes.len() / 8];
    words.as_mut_bytes().copy_from_slice(&bytes);
    let all_pages = u32::try_from(pages + compiled.blob_pages()).expect("a small payload");
    let table = cloister_core::table::Table::new(words.as_bytes(), all_pages);
    table.map(|_| ()).unwrap_or_else(|error| panic!("{error:?}"));
}

/// A region of the table.
pub fn region(compiled: &Compiled, index: u16) -> &Region {
    &compiled.regions[usize::from(index)]
}
