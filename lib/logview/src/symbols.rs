//! From addresses to functions and source lines, with the DWARF of one ELF.
//!
//! The debug information is read when the first address is asked for: most runs end without a
//! backtrace. An ELF without usable debug information still gives names from its symbol table,
//! and an unknown address is printed as a number; asking never fails.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gimli::{EndianArcSlice, RunTimeEndian};
use object::{Object, ObjectSection, SymbolMap, SymbolMapEntry};

type Reader = EndianArcSlice<RunTimeEndian>;

/// What an ELF tells about addresses.
struct Tables {
    context: Option<addr2line::Context<Reader>>,
    symbols: SymbolMap<Symbol>,
}

/// A symbol with a name of its own, so that the file need not stay in memory.
struct Symbol {
    address: u64,
    size: u64,
    name: String,
}

impl SymbolMapEntry for Symbol {
    fn address(&self) -> u64 {
        self.address
    }

    fn size(&self) -> u64 {
        self.size
    }
}

/// One ELF, asked for addresses.
pub(crate) struct Symbols {
    elf: PathBuf,
    tables: OnceCell<Option<Tables>>,
}

impl Symbols {
    /// Nothing is read yet.
    pub fn new(elf: PathBuf) -> Symbols {
        Symbols { elf, tables: OnceCell::new() }
    }

    /// Lines for an address, innermost inlined function first. A return address is looked up one
    /// byte earlier: the call may be the last instruction of its line or function.
    pub fn describe(&self, address: u64, is_return: bool) -> Vec<String> {
        let tables = self.tables.get_or_init(|| Tables::read(&self.elf));
        let probe = if is_return { address.saturating_sub(1) } else { address };
        let mut lines = tables.as_ref().map(|t| t.lines(address, probe)).unwrap_or_default();
        if lines.is_empty() {
            let name = tables.as_ref().and_then(|t| t.symbol(probe));
            lines.push(format!("{address:#x} {}", name.unwrap_or("(no symbol)".to_owned())));
        }
        lines
    }
}

impl Tables {
    fn read(elf: &Path) -> Option<Tables> {
        let bytes = std::fs::read(elf).ok()?;
        let file = object::File::parse(&*bytes).ok()?;
        let symbols = file.symbol_map();
        let symbols = symbols
            .symbols()
            .iter()
            .map(|s| Symbol { address: s.address(), size: s.size(), name: s.name().to_owned() })
            .collect();
        Some(Tables { context: context(&file), symbols: SymbolMap::new(symbols) })
    }

    /// Lines from the debug information.
    fn lines(&self, address: u64, probe: u64) -> Vec<String> {
        let mut lines = Vec::new();
        let Some(context) = &self.context else {
            return lines;
        };
        let Ok(mut frames) = context.find_frames(probe).skip_all_loads() else {
            return lines;
        };
        while let Ok(Some(frame)) = frames.next() {
            let name = match &frame.function {
                Some(function) => function.demangle().map(|name| name.into_owned()).ok(),
                None => self.symbol(probe),
            };
            let mut line = format!("{address:#x} {}", name.unwrap_or("(no name)".to_owned()));
            if let Some(place) = frame.location
                && let Some(file) = place.file
            {
                line += &format!(" at {}", short_path(file));
                // The compiler gives line 0 to code that belongs to no line.
                if let Some(number) = place.line.filter(|&number| number > 0) {
                    line += &format!(":{number}");
                }
            }
            lines.push(line);
        }
        let inlined = lines.len().saturating_sub(1);
        lines.iter_mut().take(inlined).for_each(|line| line.push_str(" (inlined)"));
        lines
    }

    /// The name of the symbol that an address belongs to.
    fn symbol(&self, probe: u64) -> Option<String> {
        let symbol = self.symbols.containing(probe)?;
        Some(addr2line::demangle_auto((&symbol.name).into(), None).into_owned())
    }
}

/// The debug information of a file, if it has any that can be read.
fn context(file: &object::File<'_>) -> Option<addr2line::Context<Reader>> {
    let load = |id: gimli::SectionId| -> Result<Reader, gimli::Error> {
        let data = file
            .section_by_name(id.name())
            .and_then(|section| section.uncompressed_data().ok())
            .unwrap_or_default();
        Ok(EndianArcSlice::new(Arc::from(&*data), RunTimeEndian::Little))
    };
    let dwarf = gimli::Dwarf::load(load).ok()?;
    addr2line::Context::from_dwarf(dwarf).ok()
}

/// A path as a reader of this workspace knows it: relative to the workspace, or to the folder of
/// packages or of the standard library that it comes from.
pub(crate) fn short_path(path: &str) -> String {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.parent().and_then(Path::parent).unwrap_or(here);
    if let Ok(inside) = Path::new(path).strip_prefix(root) {
        return inside.display().to_string();
    }
    if let Some((_, inside)) = path.split_once("/registry/src/") {
        return inside.split_once('/').map_or(inside, |(_registry, rest)| rest).to_owned();
    }
    for (marker, kept) in
        [("/rustlib/src/rust/library/", "library/"), ("/library/core/", "library/core/")]
    {
        if let Some((_, inside)) = path.split_once(marker) {
            return format!("{kept}{inside}");
        }
    }
    path.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lose_what_only_this_machine_knows() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
        assert_eq!(short_path(&here.display().to_string()), "lib/logview/src/lib.rs");
        assert_eq!(
            short_path("/x/registry/src/index-1f/crc-3.4.0/src/lib.rs"),
            "crc-3.4.0/src/lib.rs"
        );
        assert_eq!(
            short_path("/x/lib/rustlib/src/rust/library/core/src/panic.rs"),
            "library/core/src/panic.rs"
        );
        assert_eq!(short_path("/rustc/ab12/library/core/src/a.rs"), "library/core/src/a.rs");
        assert_eq!(short_path("kernel/src/main.rs"), "kernel/src/main.rs");
    }

    #[test]
    fn a_file_that_is_no_elf_gives_numbers() {
        let symbols = Symbols::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
        assert_eq!(symbols.describe(0x1234, true), ["0x1234 (no symbol)"]);
    }
}
