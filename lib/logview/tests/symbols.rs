//! Addresses become functions and lines. The real debug information comes from this very test
//! program, which stands in for a task.

mod common;

use std::hint::black_box;
use std::path::Path;

use cloister_logview::{Event, Viewer};
use common::{DEFMT, FORMATS, Sent, TEXT, archive_with, elf, symbol_name, viewer};
use object::write::{Object, Symbol, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, Object as _, ObjectSymbol, SectionKind, SymbolFlags,
    SymbolKind, SymbolScope,
};

const KERNEL_WAIT: u64 = 0xffff_ffff_8000_1000;

#[inline(always)]
fn melted_in(number: u64) -> u64 {
    black_box(number).wrapping_mul(black_box(3)).rotate_left(black_box(5))
}

#[inline(never)]
fn stood_here(number: u64) -> u64 {
    black_box(melted_in(number)).wrapping_add(1)
}

/// Address and size of [`stood_here`] in the file, which need not be where it runs.
fn stood_here_in(file: &[u8]) -> (u64, u64) {
    let object = object::File::parse(file).expect("the test program");
    let found = object.symbols().find(|symbol| {
        symbol.size() > 0
            && symbol.name().is_ok_and(|n| n.contains("stood_here") && !n.contains("stood_here_in"))
    });
    let symbol = found.expect("the function");
    (symbol.address(), symbol.size())
}

/// `backtrace TASK: [addresses]` as a supervisor would log it.
fn backtrace_frame(task: &str, addresses: &[u64]) -> Vec<u8> {
    let mut payload = vec![4, 0];
    payload.extend(u32::try_from(task.len()).expect("short").to_le_bytes());
    payload.extend(task.as_bytes());
    payload.extend(u32::try_from(addresses.len()).expect("short").to_le_bytes());
    payload.extend([5, 0]);
    payload.extend(addresses.iter().flat_map(|address| address.to_le_bytes()));
    Sent::new(0, DEFMT, 0, &payload).encode()
}

fn backtrace(events: &[Event]) -> (&str, &[String]) {
    let found = events.iter().find_map(|event| match event {
        Event::Backtrace { source, frames } => Some((source.as_str(), frames.as_slice())),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no backtrace in {events:?}"))
}

/// A kernel with one function and no debug information.
fn kernel_elf() -> Vec<u8> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
    let text = object.add_section(Vec::new(), b".text".to_vec(), SectionKind::Text);
    object.set_section_data(text, vec![0x90; 64], 16);
    object.add_symbol(Symbol {
        name: b"_ZN6kernel4wait17h0123456789abcdefE".to_vec(),
        value: KERNEL_WAIT,
        size: 0x40,
        kind: SymbolKind::Text,
        scope: SymbolScope::Linkage,
        weak: false,
        section: SymbolSection::Section(text),
        flags: SymbolFlags::None,
    });
    object.write().expect("an ELF")
}

/// A viewer whose task `nvme` is this program, and whose kernel is [`kernel_elf`].
fn viewer_of_this_program() -> (Viewer, u64, u64) {
    assert_ne!(stood_here(1), 0);
    let program = std::fs::read(std::env::current_exe().expect("a path")).expect("this program");
    let (address, size) = stood_here_in(&program);
    let folder = archive_with(&program);
    std::fs::write(folder.path().join("kernel.elf"), kernel_elf()).expect("kernel.elf");
    // The debug information is read when the first address is asked for.
    let mut viewer = Viewer::open(folder.path()).expect("an archive");
    viewer.feed(&backtrace_frame("nvme", &[address]));
    viewer.feed(&backtrace_frame("nvme", &[KERNEL_WAIT]));
    (viewer, address, size)
}

#[test]
fn addresses_become_functions_lines_and_inlined_frames() {
    let (mut viewer, start, size) = viewer_of_this_program();
    let mut inlined = 0;
    for address in start..start + size {
        let events = viewer.feed(&backtrace_frame("nvme", &[address]));
        let (source, frames) = backtrace(&events);
        assert_eq!(source, "nvme");
        let outer = frames.last().expect("a frame");
        let expected = format!("{address:#x} symbols::stood_here at lib/logview/tests/symbols.rs");
        assert!(outer.starts_with(&expected), "{outer}");
        let inner = frames.iter().find(|frame| frame.contains("melted_in"));
        if let Some(inner) = inner {
            assert!(inner.contains("symbols::melted_in at lib/logview/tests/symbols.rs"));
            assert!(inner.ends_with(" (inlined)") && !outer.ends_with(" (inlined)"), "{frames:?}");
            inlined += 1;
        }
    }
    assert!(inlined > 0, "no address of the inlined function");
    let events = viewer.feed(&backtrace_frame("nvme", &[start]));
    let line = backtrace(&events).1[0].rsplit_once(':').map(|(_, line)| line.parse::<u32>());
    assert!(matches!(line, Some(Ok(1..))), "a line number: {line:?}");
}

#[test]
fn a_return_address_belongs_to_the_call_before_it() {
    let (mut viewer, start, size) = viewer_of_this_program();
    // One byte behind the function: as a return address it is still in it.
    let events = viewer.feed(&backtrace_frame("nvme", &[start, start + size, 0, 17]));
    let (_, frames) = backtrace(&events);
    assert!(frames.last().expect("frames").contains("symbols::stood_here"), "{frames:?}");
    assert!(!frames.iter().any(|frame| frame.contains("0x11")), "behind the zero: {frames:?}");
    let first = viewer.feed(&backtrace_frame("nvme", &[start + size]));
    assert!(!backtrace(&first).1[0].contains("symbols::stood_here"));
}

#[test]
fn last_words_are_symbolised() {
    let (mut viewer, start, _) = viewer_of_this_program();
    let line = format!("bt: {:#x} {:#x}\n", KERNEL_WAIT + 4, KERNEL_WAIT + 0x40);
    let events = viewer.feed(line.as_bytes());
    assert_eq!(events[0], Event::Text(line.trim_end().to_owned()));
    let expected = ["0xffffffff80001004 kernel::wait", "0xffffffff80001040 kernel::wait"];
    assert_eq!(backtrace(&events), ("kernel", &expected.map(str::to_owned)[..]));
    // Kernel addresses are the kernel's, whoever was named before.
    viewer.feed(b"nvme: page fault\n");
    let events = viewer.feed(line.as_bytes());
    assert_eq!(backtrace(&events).0, "kernel");
    // As the kernel writes them: the name behind the colon.
    let events = viewer.feed(format!("bt: kernel {:#x}\n", KERNEL_WAIT + 0x40).as_bytes());
    assert_eq!(backtrace(&events), ("kernel", &expected.map(str::to_owned)[1..]));
    let events = viewer.feed(format!("bt: nvme {start:#x} {KERNEL_WAIT:#x}\n").as_bytes());
    assert_eq!(backtrace(&events).0, "nvme");
    assert!(backtrace(&events).1[0].contains("stood_here"));
    // The task is named in the same line, or in the one before.
    let events = viewer.feed(format!("task nvme bt: {start:#x}\n").as_bytes());
    assert_eq!(backtrace(&events).0, "nvme");
    assert!(backtrace(&events).1[0].contains("stood_here"));
    let events = viewer.feed(format!("nvme: page fault\n  bt: {start:#x}\n").as_bytes());
    assert!(backtrace(&events).1[0].contains("stood_here"));
    let events = viewer.feed(format!("\nbt: {start:#x}\n").as_bytes());
    assert_eq!(backtrace(&events).1, [format!("{start:#x} (of an unnamed task)")]);
    // The same in a frame of text.
    let frame = Sent::new(0xffff, TEXT, 0, format!("bt: {:#x}", KERNEL_WAIT + 0x40).as_bytes());
    let events = viewer.feed(&frame.encode());
    assert_eq!(backtrace(&events).1, expected.map(str::to_owned)[1..].to_vec());
}

#[test]
fn a_backtrace_of_nobody_stays_a_message() {
    let events = viewer().feed(&backtrace_frame("nobody", &[16]));
    assert!(matches!(&events[..], [Event::Log { .. }]), "{events:?}");
}

/// DWARF that says where the first message of [`FORMATS`] stands.
fn dwarf_of_a_log_statement(root: &Path) -> Vec<(String, Vec<u8>)> {
    use gimli::write::{AttributeValue, DwarfUnit, EndianVec, LineProgram, LineString, Sections};
    let encoding = gimli::Encoding { format: gimli::Format::Dwarf32, version: 4, address_size: 8 };
    let mut dwarf = DwarfUnit::new(encoding);
    let folder = root.join("drivers/init/src").display().to_string();
    let mut lines = LineProgram::new(
        encoding,
        gimli::LineEncoding::default(),
        LineString::String(folder.clone().into_bytes()),
        None,
        LineString::String(b"main.rs".to_vec()),
        None,
    );
    let directory = lines.default_directory();
    let file = lines.add_file(LineString::String(b"main.rs".to_vec()), directory, None);
    dwarf.unit.line_program = lines;
    let (index, tag, data) = FORMATS[0];
    let name = dwarf.strings.add("DEFMT_LOG_STATEMENT");
    let linkage = dwarf.strings.add(symbol_name(index, tag, data));
    let unit = dwarf.unit.root();
    let folder = AttributeValue::String(folder.into_bytes());
    dwarf.unit.get_mut(unit).set(gimli::DW_AT_comp_dir, folder);
    let variable = dwarf.unit.add(unit, gimli::DW_TAG_variable);
    let variable = dwarf.unit.get_mut(variable);
    variable.set(gimli::DW_AT_name, AttributeValue::StringRef(name));
    variable.set(gimli::DW_AT_linkage_name, AttributeValue::StringRef(linkage));
    variable.set(gimli::DW_AT_decl_file, AttributeValue::FileIndex(Some(file)));
    variable.set(gimli::DW_AT_decl_line, AttributeValue::Udata(42));
    let mut sections = Sections::new(EndianVec::new(gimli::LittleEndian));
    dwarf.write(&mut sections).expect("DWARF");
    let mut out = Vec::new();
    let collected: Result<(), ()> = sections.for_each(|id, data| {
        out.push((id.name().to_owned(), data.slice().to_vec()));
        Ok(())
    });
    collected.expect("sections");
    out
}

#[test]
fn messages_tell_where_they_stand() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("a path");
    let program = common::elf_with(FORMATS, "raw", &dwarf_of_a_log_statement(&root));
    let folder = archive_with(&program);
    let mut viewer = Viewer::open(folder.path()).expect("an archive");
    let place = |events: &[Event]| match events {
        [Event::Log { location, .. }] => location.clone(),
        other => panic!("{other:?}"),
    };
    let events = viewer.feed(&Sent::new(3, DEFMT, 0, &[1, 0, 9]).encode());
    assert_eq!(place(&events).as_deref(), Some("drivers/init/src/main.rs:42"));
    let events = viewer.feed(&Sent::new(3, DEFMT, 1, &[2, 0]).encode());
    assert_eq!(place(&events), None);
    // Without debug information messages still have their text.
    let plain = archive_with(&elf(FORMATS, "raw"));
    let mut viewer = Viewer::open(plain.path()).expect("an archive");
    assert_eq!(place(&viewer.feed(&Sent::new(3, DEFMT, 0, &[2, 0]).encode())), None);
}
