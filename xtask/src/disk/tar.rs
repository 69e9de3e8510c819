//! An archive of a folder and of the files over it, the same bytes whoever makes it.
//!
//! Everything belongs to root and has one time, names are in order; what a package marks as another
//! group's has the bit for that taken away, because its group is lost when the packages are
//! unpacked by somebody who is not root.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tar::{Builder, EntryType, Header};

use super::e2fs::TIME;

/// Permissions that stay: all but set-group-id.
const MODE_MASK: u32 = 0o5777;

/// Writes the archive of these folders, the later ones over the earlier.
pub fn write(folders: &[&Path], into: impl Write) -> Result<()> {
    let mut entries: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    for folder in folders {
        let mut found = Vec::new();
        collect(folder, Path::new(""), &mut found)?;
        for name in found {
            let path = folder.join(&name);
            if let Some(below) = entries.get(&name) {
                judge(below, &path, &name)?;
            }
            entries.insert(name, path);
        }
    }
    let mut archive = Builder::new(into);
    for (name, path) in &entries {
        add(&mut archive, name, path)
            .with_context(|| format!("cannot put {} into the archive", path.display()))?;
    }
    archive.finish().context("cannot end the archive")
}

/// Names below a folder, relative to it.
fn collect(folder: &Path, below: &Path, names: &mut Vec<PathBuf>) -> Result<()> {
    let place = folder.join(below);
    let entries =
        fs::read_dir(&place).with_context(|| format!("cannot read {}", place.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", place.display()))?;
        let name = below.join(entry.file_name());
        let is_folder = entry.file_type()?.is_dir();
        names.push(name.clone());
        if is_folder {
            collect(folder, &name, names)?;
        }
    }
    Ok(())
}

/// A folder stays a folder: a file over a link to one would send everything in it elsewhere.
fn judge(below: &Path, over: &Path, name: &Path) -> Result<()> {
    let kind = |path: &Path| -> Result<bool> { Ok(fs::symlink_metadata(path)?.is_dir()) };
    if kind(below)? != kind(over)? {
        bail!("/{} is a folder in one place and none in the other", name.display());
    }
    Ok(())
}

fn add(archive: &mut Builder<impl Write>, name: &Path, path: &Path) -> Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    let mut header = Header::new_gnu();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(TIME);
    header.set_mode(metadata.mode() & MODE_MASK);
    let kind = metadata.file_type();
    if kind.is_dir() {
        header.set_entry_type(EntryType::Directory);
        header.set_size(0);
        archive.append_data(&mut header, name, std::io::empty())?;
    } else if kind.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        archive.append_link(&mut header, name, fs::read_link(path)?)?;
    } else if kind.is_file() {
        header.set_entry_type(EntryType::Regular);
        header.set_size(metadata.len());
        archive.append_data(&mut header, name, fs::File::open(path)?)?;
    } else {
        bail!("it is neither a file nor a folder nor a link");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn folder(files: &[(&str, &str, u32)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text, mode) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("created");
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).expect("set");
        }
        folder
    }

    fn archive(folders: &[&Path]) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        write(folders, &mut bytes).map(|()| bytes)
    }

    #[test]
    fn files_lie_over_files_and_belong_to_root() {
        let below = folder(&[("etc/a", "below", 0o644), ("usr/bin/x", "x", 0o2755)]);
        symlink("usr/bin", below.path().join("bin")).expect("linked");
        let over = folder(&[("etc/a", "over", 0o600)]);
        let bytes = archive(&[below.path(), over.path()]).expect("an archive");
        let mut found = BTreeMap::new();
        let mut reader = ::tar::Archive::new(bytes.as_slice());
        for entry in reader.entries().expect("entries") {
            let mut entry = entry.expect("an entry");
            let header = entry.header().clone();
            assert_eq!((header.uid().expect("uid"), header.gid().expect("gid")), (0, 0));
            assert_eq!(header.mtime().expect("mtime"), TIME);
            let name = entry.path().expect("a name").display().to_string();
            let mut text = String::new();
            std::io::Read::read_to_string(&mut entry, &mut text).expect("text");
            found.insert(name, (header.mode().expect("mode"), text));
        }
        let names: Vec<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(names, ["bin", "etc", "etc/a", "usr", "usr/bin", "usr/bin/x"]);
        assert_eq!(found["etc/a"], (0o600, "over".to_owned()));
        assert_eq!(found["usr/bin/x"].0, 0o755, "no foreign group's bit");
        assert_eq!(bytes, archive(&[below.path(), over.path()]).expect("again"), "equal bytes");
    }

    #[test]
    fn a_folder_is_not_replaced_by_a_file() {
        let (below, over) = (folder(&[("a/b", "", 0o644)]), folder(&[("a", "", 0o644)]));
        let error = archive(&[below.path(), over.path()]).expect_err("refused").to_string();
        assert_eq!(error, "/a is a folder in one place and none in the other");
    }
}
