//! The appliance manifest: one file that says who may touch what, and everything that reads it.
//!
//! [`load`] reads an `appliance.toml` with its board file and judges it; [`compile::compile`]
//! turns the result and the task programs into the system table; [`graph::Graph`] is the
//! authority that the table gives, and [`policy::breaches`] what of it must not ship.
//!
//! Invariant: everything here is a pure function of the files' contents, so that the same inputs
//! give the same image and the same messages.

#![forbid(unsafe_code)]

pub mod board;
mod check;
pub mod compile;
pub mod graph;
pub mod names;
pub mod policy;
pub mod program;
pub mod quantity;
mod raw;
pub mod report;
mod resolve;
mod resolve_export;
mod resolve_task;
mod resolve_vm;
mod rules;
pub mod system;

use std::path::{Component, Path, PathBuf};

pub use raw::parse;
use report::{Problem, Problems, Source};
use system::System;

/// Reads and judges a manifest. Messages name files relative to `root`.
pub fn load(file: &Path, root: &Path) -> Result<System, Problems> {
    let name = shown(file, root);
    let mut problems = Problems::new(&name);
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => {
            let source = Source::new(&name, String::new());
            problems.push(Problem::new(
                &source,
                0..0,
                format!("cannot read {name}: {error}"),
                "",
                "name a folder below images/, or the path of an appliance.toml",
            ));
            return Err(problems);
        }
    };
    let source = Source::new(&name, text);
    let system = read(&source, file, root, &mut problems);
    if let Some(system) = &system {
        rules::judge(system, &mut problems);
    }
    problems.into_result()?;
    // A part that was dropped always left a problem, so a missing system means a bug of ours; it
    // is reported like everything else.
    system.ok_or_else(|| {
        let mut problems = Problems::new(&name);
        let help = "this is a bug of the manifest reader; please report it with this file";
        problems.push(Problem::new(&source, 0..0, "the manifest was dropped silently", "", help));
        problems
    })
}

/// Judges that every task's program is one of these packages.
pub fn check_programs(system: &System, packages: &[String]) -> Result<(), Problems> {
    let mut problems = Problems::new(system.source.name());
    let names = || packages.iter().map(String::as_str);
    for task in &system.tasks {
        let program = task.program.get_ref();
        if names().all(|name| name != program) {
            let guess = names::did_you_mean(program, names());
            problems.push(Problem::new(
                &system.source,
                task.program.span(),
                format!("{}: program `{program}` does not exist", task.key()),
                "no package of this workspace",
                format!(
                    "{guess}`program` names a package of the workspace, by default the task's name"
                ),
            ));
        }
    }
    problems.into_result()
}

/// Judges that a task has FPU state if its program is one of these, which use it.
pub fn check_registers(system: &System, vector_programs: &[String]) -> Result<(), Problems> {
    let mut problems = Problems::new(system.source.name());
    for task in &system.tasks {
        let program = task.program.get_ref();
        if !task.has_fpu && vector_programs.contains(program) {
            problems.push(Problem::new(
                &system.source,
                task.program.span(),
                format!("{}: program `{program}` is compiled for SSE and AES", task.key()),
                "its first such instruction would be a fault",
                format!("write `fpu = true` in [{}]", task.key()),
            ));
        }
    }
    problems.into_result()
}

fn read(source: &Source, file: &Path, root: &Path, problems: &mut Problems) -> Option<System> {
    let raw: raw::Appliance = raw::parse(source).map_err(|problem| problems.push(problem)).ok()?;
    let path = lexical(&file.parent().unwrap_or(Path::new(".")).join(raw.board.get_ref()));
    let name = shown(&path, root);
    let text = std::fs::read_to_string(&path)
        .map_err(|error| {
            problems.push(Problem::new(
                source,
                raw.board.span(),
                format!("the board file {name} cannot be read: {}", error.kind()),
                "no such board",
                "`board` is a path relative to this file, like \"../boards/q35.toml\"",
            ));
        })
        .ok()?;
    let board = board::read(&Source::new(&name, text), problems)?;
    let mut system = resolve::system(source, &raw, board, problems)?;
    guest_files(&mut system, file, root, problems);
    key_files(&mut system, file, root, problems);
    Some(system)
}

/// Finds the file of every guest: `NAME` is `../guests/NAME.toml` beside the appliance's folder,
/// anything with a slash or a dot is a path relative to the manifest.
fn guest_files(system: &mut System, file: &Path, root: &Path, problems: &mut Problems) {
    let folder = file.parent().unwrap_or(Path::new("."));
    let guests = lexical(&folder.join("../guests"));
    for task in &mut system.tasks {
        let key = task.key();
        let Some(vm) = &mut task.vm else {
            continue;
        };
        let name = vm.guest.get_ref();
        let path = if name.contains(['/', '.']) {
            lexical(&folder.join(name))
        } else {
            guests.join(format!("{name}.toml"))
        };
        (vm.guest_shown, vm.guest_file) = (shown(&path, root), path);
        if vm.guest_file.is_file() {
            continue;
        }
        let known = guest_names(&guests);
        let known = || known.iter().map(String::as_str);
        let (guess, all) = (names::did_you_mean(name, known()), names::listed(known()));
        problems.push(Problem::new(
            &system.source,
            vm.guest.span(),
            format!("{key}: guest `{name}` is unknown: there is no file {}", vm.guest_shown),
            "no such guest",
            format!(
                "{guess}{} has {all}; or write a path relative to this file, like \
                 \"../mine/linux.toml\"",
                shown(&guests, root)
            ),
        ));
    }
}

/// Reads the file of every sealed key: a path relative to the manifest, 64 hexadecimal digits.
fn key_files(system: &mut System, file: &Path, root: &Path, problems: &mut Problems) {
    let folder = file.parent().unwrap_or(Path::new("."));
    for task in &mut system.tasks {
        let key = task.key();
        for sealed in &mut task.sealed_keys {
            let path = lexical(&folder.join(sealed.file.get_ref()));
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            if let Some(bytes) = hexadecimal(text.trim()) {
                sealed.bytes = bytes;
                continue;
            }
            problems.push(Problem::new(
                &system.source,
                sealed.file.span(),
                format!("{key}: {} holds no key", shown(&path, root)),
                "not a file of 64 hexadecimal digits",
                "make one: openssl rand -hex 32 > dev.key",
            ));
        }
    }
}

/// 32 bytes from twice as many digits.
fn hexadecimal(text: &str) -> Option<[u8; 32]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let bytes: Option<Vec<u8>> =
        pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    bytes.filter(|_| rest.is_empty())?.try_into().ok()
}

/// The guests of a folder, sorted.
fn guest_names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> =
        names.filter_map(|name| name.strip_suffix(".toml").map(str::to_owned)).collect();
    names.sort();
    names
}

/// The path as a person at `root` would type it.
fn shown(path: &Path, root: &Path) -> String {
    let path = lexical(path);
    path.strip_prefix(lexical(root)).unwrap_or(&path).display().to_string()
}

/// The path without `.` and `..`, by its text alone.
fn lexical(path: &Path) -> PathBuf {
    let mut result = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if result.file_name().is_some() => {
                result.pop();
            }
            part => result.push(part),
        }
    }
    result
}
