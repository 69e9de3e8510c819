//! Modules of a kernel's package, with those that they need.
//!
//! A package carries no `modules.dep` (the installed system makes it), so what a module needs is
//! read from the module itself: the word `depends=` of its section `.modinfo`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cloister_manifest::names::did_you_mean;
use object::{Object, ObjectSection};

/// Largest module.
const MODULE_MAX: u64 = 64 << 20;

/// A module that is to be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name with underscores.
    pub name: String,
    /// The ELF, unpacked.
    pub bytes: Vec<u8>,
}

/// The modules of a folder `lib/modules/VERSION` with these names, each behind what it needs.
pub fn with_dependencies(folder: &Path, names: &[String]) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    find(&folder.join("kernel"), &mut files)?;
    let built_in: Vec<String> = fs::read_to_string(folder.join("modules.builtin"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| module_name(Path::new(line)))
        .collect();
    let mut order = Order { files, built_in, done: Vec::new(), found: Vec::new() };
    for name in names {
        order.add(name)?;
    }
    Ok(order.found)
}

struct Order {
    files: BTreeMap<String, PathBuf>,
    built_in: Vec<String>,
    done: Vec<String>,
    found: Vec<Module>,
}

impl Order {
    /// Adds a module behind what it needs. A circle would end here, because a name that was begun
    /// is not begun again.
    fn add(&mut self, name: &str) -> Result<()> {
        let name = &name.replace('-', "_");
        if self.built_in.iter().chain(&self.done).any(|other| other == name) {
            return Ok(());
        }
        self.done.push(name.clone());
        let Some(path) = self.files.get(name) else {
            let guess = did_you_mean(name, self.files.keys().map(String::as_str));
            bail!("the kernel's package has no module `{name}`; {guess}names have no .ko");
        };
        let bytes = unpack(path).with_context(|| format!("module `{name}`"))?;
        for needed in depends(&bytes).with_context(|| format!("module `{name}`"))? {
            self.add(&needed)?;
        }
        self.found.push(Module { name: name.clone(), bytes });
        Ok(())
    }
}

/// Every module below a folder, by name.
fn find(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if let Some(name) = module_name(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// `drivers/char/hw_random/virtio-rng.ko.xz` as `virtio_rng`.
fn module_name(path: &Path) -> Option<String> {
    let (name, _) = path.file_name()?.to_str()?.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

fn unpack(path: &Path) -> Result<Vec<u8>> {
    let file = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => Ok(file),
        Some("xz") => {
            let mut bytes = Vec::new();
            lzma_rust2::XzReader::new(file.as_slice(), false)
                .take(MODULE_MAX)
                .read_to_end(&mut bytes)
                .with_context(|| format!("{} is damaged", path.display()))?;
            Ok(bytes)
        }
        _ => bail!("{} is packed in a way that is not read here", path.display()),
    }
}

/// The modules that a module needs.
fn depends(module: &[u8]) -> Result<Vec<String>> {
    let elf = object::File::parse(module).context("it is no ELF")?;
    let section = elf.section_by_name(".modinfo").context("it has no section .modinfo")?;
    let words = section.data().context("its section .modinfo is damaged")?;
    let needed = words
        .split(|byte| *byte == 0)
        .find_map(|word| word.strip_prefix(b"depends="))
        .unwrap_or_default();
    let needed = str::from_utf8(needed).context("its `depends` is no text")?;
    Ok(needed.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::write::Object as Writer;
    use object::{Architecture, BinaryFormat, Endianness, SectionKind};
    use std::io::Write;

    /// A module that needs others.
    fn module(needs: &str) -> Vec<u8> {
        let mut elf = Writer::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
        let section = elf.add_section(Vec::new(), b".modinfo".to_vec(), SectionKind::ReadOnlyData);
        let words = format!("license=GPL\0depends={needs}\0name=x\0");
        elf.append_section_data(section, words.as_bytes(), 1);
        elf.write().expect("an ELF")
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        let options = lzma_rust2::XzOptions::with_preset(0);
        let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).expect("a writer");
        writer.write_all(bytes).expect("written");
        writer.finish().expect("packed")
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let put = |name: &str, bytes: &[u8]| {
            let path = folder.path().join("kernel").join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("created");
            fs::write(path, bytes).expect("written");
        };
        put("char/virtio-rng.ko.xz", &xz(&module("rng-core,virtio")));
        put("char/rng_core.ko", &module(""));
        put("a/one.ko", &module("two"));
        put("a/two.ko", &module("one"));
        put("a/broken.ko", b"no ELF");
        put("a/strange.ko.gz", &[1]);
        put("a/lonely.ko", &module("absent"));
        fs::write(folder.path().join("modules.builtin"), "kernel/drivers/virtio/virtio.ko\n")
            .expect("written");
        folder
    }

    fn names(wanted: &[&str]) -> Result<Vec<String>> {
        let folder = folder();
        let wanted: Vec<String> = wanted.iter().map(|&name| name.to_owned()).collect();
        let found = with_dependencies(folder.path(), &wanted)?;
        Ok(found.into_iter().map(|module| module.name).collect())
    }

    #[test]
    fn what_a_module_needs_comes_before_it_and_once() {
        let found = names(&["virtio-rng", "rng_core", "virtio_rng", "virtio"]).expect("found");
        assert_eq!(found, ["rng_core", "virtio_rng"], "virtio is built in");
        assert_eq!(names(&["one"]).expect("a circle ends"), ["two", "one"]);
    }

    #[test]
    fn modules_that_cannot_be_used_are_named() {
        for (name, expected) in [
            ("virtio-rgn", "no module `virtio_rgn`; did you mean `virtio_rng`?"),
            ("broken", "module `broken`: it is no ELF"),
            ("strange", "packed in a way that is not read here"),
            ("lonely", "no module `absent`"),
        ] {
            let error = format!("{:#}", names(&[name]).expect_err(expected));
            assert!(error.contains(expected), "{error}");
        }
    }
}
