//! The kernel's flush checker is worth something: a kernel that lacks one flush turns it red.
//!
//! A copy of the tree is built again and again, each time with one call that loads an address
//! space (and so flushes), that asks for a guest's flush, or that has an IOMMU forget something, taken
//! out of the kernel's sources. The call sites are found by reading the sources, so a new one is in
//! the loop from the start.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Options;
use super::copy::{build_copy, copy_tree};
use super::tally::{Tally, Verdict};
use crate::emulators::Qemu;
use crate::machine::{Flow, Machine};

/// Calls of one kind, and where each of them matters.
struct Kind {
    /// What is looked for, and what comes in its place; nothing: the whole line goes.
    calls: &'static [(&'static str, Option<&'static str>)],
    /// A folder or file whose calls are for a CPU that the reference machine is not.
    except: Option<&'static str>,
    appliance: &'static str,
    cpus: u32,
    memory_mib: u32,
    /// More arguments for QEMU.
    extra: &'static [&'static str],
}

const KINDS: [Kind; 3] = [
    // Calls that load a space: the helper of the boot core, and the instruction's wrapper.
    Kind {
        calls: &[("boot.flush();", None), ("self.flush();", None), ("cpu::load_space(", None)],
        except: None,
        appliance: "test-flush",
        cpus: 2,
        memory_mib: 64,
        extra: &[],
    },
    // Requests to forget a guest's translations (docs/reviews/0002-guest-flushes.md).
    Kind {
        calls: &[("own.changed::<VMX>();", None), ("flush(own);", None)],
        except: Some("vmx"),
        appliance: "test-guest-steps",
        cpus: 4,
        memory_mib: 2048,
        extra: &[],
    },
    // Invalidations of an IOMMU, whole and by what they are of (docs/reviews/0003-iommu-flushes.md).
    Kind {
        calls: &[
            ("self.invalidate(unit)", Some("true")),
            ("tables.invalidate(unit)", Some("true")),
            ("[CONTEXTS, 0], ", Some("")),
            ("[TRANSLATIONS | drains, 0], ", Some("")),
            ("[REMAPS, 0], ", Some("")),
        ],
        except: None,
        appliance: "test-iommu",
        cpus: 2,
        memory_mib: 256,
        extra: &["-device", "edu,addr=5,dma_mask=0xffffffffffffffff"],
    },
];
/// How long a run may take, on a loaded host.
const PATIENCE: Duration = Duration::from_secs(120);
/// Begins what the checker says in its panic.
const RED: &str = "kernel panic: flush checker: ";

/// A call site.
struct Site {
    file: PathBuf,
    line: usize,
    /// What it is, and what the line is without it.
    text: String,
    without: String,
}

/// Runs the loop; `--long` alone, since each kernel is a build.
pub fn run(options: &Options, place: &str, qemu: &Qemu, tally: &mut Tally) {
    let name = format!("flushes: the checker misses each call that is taken out, on {place}");
    if !options.wants(&name) {
        return;
    }
    let start = Instant::now();
    let verdict = match options.long.then(|| all(qemu)) {
        None => {
            println!("skipped {name}: only with --long");
            Verdict::Skipped
        }
        Some(Ok((sites, red))) if sites == red && sites > 0 => {
            let seconds = start.elapsed().as_secs_f32();
            println!("ok      {name}: {sites} call sites, {red} times red ({seconds:.1} s)");
            Verdict::Passed
        }
        Some(Ok((sites, red))) => {
            println!("FAILED  {name}: {sites} call sites, {red} times red");
            Verdict::Failed
        }
        Some(Err(failure)) => {
            println!("FAILED  {name}: {failure:#}");
            Verdict::Failed
        }
    };
    tally.add(place, verdict);
}

/// How many call sites there are, and how many turned the checker red.
fn all(qemu: &Qemu) -> Result<(usize, usize)> {
    let folder = tempfile::Builder::new().prefix("cloister-flushes-").tempdir()?;
    let tree = folder.path();
    copy_tree(tree)?;
    let (mut all, mut red) = (0, 0);
    for kind in &KINDS {
        let sites = sites(&tree.join("kernel/src"), kind)?;
        let whole = boot(tree, qemu, kind)?;
        if whole.contains(RED) || !whole.contains("power off in order") {
            bail!("the kernel as it is does not pass: {}", last_line(&whole));
        }
        red += without_each(tree, qemu, kind, &sites)?;
        all += sites.len();
    }
    Ok((all, red))
}

/// Takes each call out in turn; how often that turned the checker red.
fn without_each(tree: &Path, qemu: &Qemu, kind: &Kind, sites: &[Site]) -> Result<usize> {
    let mut red = 0;
    for site in sites {
        let source = std::fs::read_to_string(&site.file)?;
        let mut lines: Vec<&str> = source.lines().collect();
        lines[site.line] = &site.without;
        std::fs::write(&site.file, lines.join("\n"))?;
        let said = boot(tree, qemu, kind);
        std::fs::write(&site.file, &source)?;
        let file = site.file.strip_prefix(tree).unwrap_or(&site.file).display();
        let place = format!("{file}:{}: {}", site.line + 1, site.text);
        let said = said.with_context(|| format!("without {place}"))?;
        match said.split_once(RED) {
            Some((_, why)) => {
                red += 1;
                println!(
                    "        red without {place} ({})",
                    why.lines().next().unwrap_or_default()
                );
            }
            None => println!("        NOT RED without {place}: {}", last_line(&said)),
        }
    }
    Ok(red)
}

fn last_line(text: &str) -> &str {
    text.lines().rfind(|line| line.contains("cloister")).unwrap_or("it says nothing")
}

/// Every line below a folder with one of the calls; a definition is no call.
fn sites(folder: &Path, kind: &Kind) -> Result<Vec<Site>> {
    let mut found = Vec::new();
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    for file in files {
        if kind.except.is_some_and(|name| file.ends_with(name)) {
            continue;
        }
        if file.is_dir() {
            found.extend(sites(&file, kind)?);
            continue;
        }
        let text = std::fs::read_to_string(&file)?;
        for (line, text) in text.lines().enumerate().filter(|(_, text)| !is_comment(text)) {
            for (call, instead) in kind.calls.iter().filter(|(call, _)| text.contains(call)) {
                let (text, without) = match instead {
                    None => (text.trim(), String::new()),
                    Some(instead) => (*call, text.replace(call, instead)),
                };
                found.push(Site { file: file.clone(), line, text: text.to_owned(), without });
            }
        }
    }
    Ok(found)
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

/// Builds the tree's appliance with the checker and boots it; everything that it says.
fn boot(tree: &Path, qemu: &Qemu, kind: &Kind) -> Result<String> {
    let image = tree.join("image.elf");
    let features = ["--features", "cloister-kernel/flush-checker", "-o"].map(OsStr::new);
    build_copy(tree, kind.appliance, &[&features[..], &[image.as_os_str()]].concat())?;
    let mut machine = Machine::new(image);
    (machine.cpus, machine.memory_mib) = (kind.cpus, kind.memory_mib);
    machine.timeout = Some(PATIENCE);
    machine.extra = kind.extra.iter().map(|&word| word.to_owned()).collect();
    let mut said = Vec::new();
    machine.run(qemu, None, |bytes| {
        said.extend_from_slice(bytes);
        Flow::Continue
    })?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

#[cfg(test)]
mod tests {
    use super::{KINDS, sites};
    use crate::paths;

    #[test]
    fn the_flushes_of_the_review_are_found() {
        let [spaces, guests, units] =
            KINDS.each_ref().map(|kind| sites(&paths::root().join("kernel/src"), kind).unwrap());
        let texts: Vec<&str> = guests.iter().map(|site| site.text.as_str()).collect();
        let changed = "own.changed::<VMX>();";
        assert_eq!(texts, [changed, changed, "flush(own);"], "review 0002");
        assert_eq!(units.len(), 5, "review 0003: at the seal, at the start, and three of each");
        let sites = spaces;
        let calls = |text| sites.iter().filter(move |site| site.text == text).count();
        assert_eq!(calls("boot.flush();"), 2, "map_firmware, add_ioapic");
        assert_eq!(calls("self.flush();"), 2, "add_vtd, bind");
        assert!(sites.iter().any(|site| site.file.ends_with("switch.rs")));
    }
}
