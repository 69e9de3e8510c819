//! The folder `build/NAME/`: the image, every ELF in it, and `archive.json` about them.
//!
//! Invariant: the folder appears as a whole. Everything is written to a folder with another name
//! first, which then takes the old one's place; a full disk leaves the old one as it was.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

/// `archive.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Archive {
    /// The appliance's name.
    pub appliance: String,
    /// File name of the image.
    pub image: String,
    /// File name of the kernel's ELF.
    pub kernel: String,
    /// File name of the boot stub's ELF.
    pub stub: String,
    /// GNU build id of the kernel.
    pub kernel_build_id: String,
    /// The tasks, in the order of the system table.
    pub tasks: Vec<Task>,
    /// Bytes by part.
    pub sizes: Vec<Size>,
}

/// A task.
#[derive(Clone, Debug, Serialize)]
pub struct Task {
    /// Its index in the system table.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// The package that its program comes from.
    pub program: String,
    /// File name of its ELF.
    pub elf: String,
    /// GNU build id of its program.
    pub build_id: String,
}

/// A part of the image.
#[derive(Clone, Debug, Serialize)]
pub struct Size {
    /// Its name.
    pub part: String,
    /// Its bytes.
    pub bytes: u64,
}

/// Writes a folder with these files and `archive.json`, in the place of `folder`.
pub fn write(folder: &Path, archive: &Archive, files: &[(String, &[u8])]) -> Result<()> {
    let parent = folder.parent().context("an archive folder has a parent")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let fresh = tempfile::Builder::new()
        .prefix(".new-")
        .tempdir_in(parent)
        .with_context(|| format!("cannot create a folder in {}", parent.display()))?;
    for (name, bytes) in files {
        let path = fresh.path().join(name);
        fs::write(&path, bytes)
            .with_context(|| format!("cannot write {} bytes to {}", bytes.len(), path.display()))?;
    }
    let mut json = serde_json::to_string_pretty(archive).context("cannot make archive.json")?;
    json.push('\n');
    let path = fresh.path().join("archive.json");
    fs::write(&path, json).with_context(|| format!("cannot write {}", path.display()))?;
    readable(fresh.path())?;
    replace(fresh, folder)
}

/// Puts the finished folder in the old one's place.
fn replace(fresh: tempfile::TempDir, folder: &Path) -> Result<()> {
    let moved = || format!("cannot put the archive in place at {}", folder.display());
    let old = tempfile::Builder::new()
        .prefix(".old-")
        .tempdir_in(folder.parent().unwrap_or(folder))
        .with_context(moved)?;
    let aside: PathBuf = old.path().join("archive");
    let had_one = folder.exists();
    if had_one {
        fs::rename(folder, &aside).with_context(moved)?;
    }
    let path = fresh.keep();
    if let Err(error) = fs::rename(&path, folder) {
        if had_one {
            // The old archive is better than none; if this fails too, the first error says enough.
            let _ = fs::rename(&aside, folder);
        }
        let _ = fs::remove_dir_all(&path);
        return Err(error).with_context(moved);
    }
    Ok(())
}

/// Temporary folders are private; an archive is for whoever may read the repository.
fn readable(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot change the mode of {}", folder.display()))
}

/// Writes a file under another name first, so that it appears whole or not at all.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    let failed = || format!("cannot write {} bytes to {}", bytes.len(), path.display());
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let mut file = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(parent.unwrap_or(Path::new(".")))
        .with_context(failed)?;
    file.write_all(bytes).with_context(failed)?;
    file.as_file().sync_all().with_context(failed)?;
    file.persist(path).with_context(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Archive {
        Archive {
            appliance: "x".into(),
            image: "x.elf".into(),
            kernel: "kernel.elf".into(),
            stub: "stub.elf".into(),
            kernel_build_id: String::new(),
            tasks: Vec::new(),
            sizes: Vec::new(),
        }
    }

    #[test]
    fn a_second_archive_takes_the_first_ones_place() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("build/x");
        write(&place, &archive(), &[("old.elf".into(), b"1")]).expect("written");
        write(&place, &archive(), &[("new.elf".into(), b"2")]).expect("written");
        let names = |path: &Path| -> Vec<String> {
            let entries =
                fs::read_dir(path).expect("readable").map(|entry| entry.expect("an entry"));
            let mut names: Vec<_> =
                entries.map(|entry| entry.file_name().into_string().expect("text")).collect();
            names.sort();
            names
        };
        assert_eq!(names(&place), ["archive.json", "new.elf"]);
        assert_eq!(names(&folder.path().join("build")), ["x"]);
    }

    #[test]
    fn a_failed_write_leaves_nothing_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("build/x");
        write(&place, &archive(), &[("a.elf".into(), b"1")]).expect("written");
        let wrong = [("b.elf".into(), b"2".as_slice()), ("no/such/folder.elf".into(), b"3")];
        write(&place, &archive(), &wrong).expect_err("a file in a missing folder");
        assert!(place.join("a.elf").exists() && !place.join("b.elf").exists());
        assert_eq!(fs::read_dir(folder.path().join("build")).expect("readable").count(), 1);
        write_file(&folder.path().join("none/x"), b"4").expect_err("no folder");
        assert!(!folder.path().join("none").exists());
    }
}
