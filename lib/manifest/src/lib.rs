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
mod resolve_task;
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
                format!("tasks.{}: program `{program}` does not exist", task.name()),
                "no package of this workspace",
                format!(
                    "{guess}`program` names a package of the workspace, by default the task's name"
                ),
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
    resolve::system(source, &raw, board, problems)
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
