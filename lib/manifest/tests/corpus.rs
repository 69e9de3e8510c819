//! The corpus of manifests: each wrong one with its exact message, each good one accepted.
//!
//! `tests/manifest/bad/NAME.toml` is wrong in one way, `NAME.txt` beside it is what the user then
//! reads. After a deliberate change of a message, `UPDATE_EXPECTED=1 cargo test -p
//! cloister-manifest --test corpus` writes the texts anew; the diff is then for people to read.

use std::path::{Path, PathBuf};

/// Wrong manifests that the corpus holds at least.
const BAD_MIN: usize = 40;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository")
}

/// The manifests of a folder, by name.
fn manifests(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(folder)).expect("a folder of manifests");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    files
}

#[test]
fn every_wrong_manifest_gives_its_own_message() {
    let files = manifests("tests/manifest/bad");
    let mut failures = Vec::new();
    for file in &files {
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        let Err(problems) = cloister_manifest::load(file, &root()) else {
            failures.push(format!("{name}: accepted, though it is wrong"));
            continue;
        };
        if problems.list().len() != 1 {
            failures.push(format!("{name}: wrong in {} ways, not in one", problems.list().len()));
        }
        let text = file.with_extension("txt");
        let found = problems.render();
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            std::fs::write(&text, &found).expect("the expected text can be written");
        }
        match std::fs::read_to_string(&text) {
            Ok(expected) if expected == found => {}
            Ok(expected) => {
                failures.push(format!("{name}: expected\n{expected}\nfound\n{found}"));
            }
            Err(error) => failures.push(format!("{name}: no expected message: {error}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(files.len() >= BAD_MIN, "{} wrong manifests, {BAD_MIN} are promised", files.len());
}

#[test]
fn no_expected_message_is_left_without_its_manifest() {
    for entry in std::fs::read_dir(root().join("tests/manifest/bad")).expect("the corpus") {
        let path = entry.expect("an entry").path();
        let is_text = path.extension().is_some_and(|extension| extension == "txt");
        assert!(!is_text || path.with_extension("toml").is_file(), "{}", path.display());
    }
}

#[test]
fn good_manifests_are_accepted() {
    let images = std::fs::read_dir(root().join("images")).expect("the images").flatten();
    let images = images.map(|entry| entry.path().join("appliance.toml"));
    let files: Vec<PathBuf> = manifests("tests/manifest/good")
        .into_iter()
        .chain(images.filter(|file| file.is_file()))
        .collect();
    assert!(files.len() >= 3);
    for file in files {
        if let Err(problems) = cloister_manifest::load(&file, &root()) {
            panic!("{}:\n{}", file.display(), problems.render());
        }
    }
}

#[test]
fn a_missing_manifest_is_a_message() {
    let problems = cloister_manifest::load(&root().join("images/none.toml"), &root());
    let text = problems.expect_err("no such file").render();
    assert!(text.contains("cannot read images/none.toml"), "{text}");
}
