//! What the tests share: frames encoded by hand, ELFs with defmt strings, archive folders.
//!
//! The encoder stands here, written from the description of the wire and not from the decoder, so
//! that both would have to be wrong in the same way for a test to pass wrongly.

#![allow(dead_code, missing_docs)]

use std::path::Path;

use cloister_logview::{Event, Viewer};
use object::write::{Object, Symbol, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
};

pub const DEFMT: u8 = 0;
pub const TEXT: u8 = 1;
pub const BOOT: u8 = 2;
pub const HELLO: u8 = 3;

/// A frame to be encoded.
#[derive(Clone, Debug)]
pub struct Sent {
    pub source: u16,
    pub core: u8,
    pub kind: u8,
    pub seq: u16,
    pub lost: u32,
    pub tsc: u64,
    pub payload: Vec<u8>,
}

impl Sent {
    pub fn new(source: u16, kind: u8, seq: u16, payload: &[u8]) -> Sent {
        Sent { source, core: 0, kind, seq, lost: 0, tsc: 0, payload: payload.to_vec() }
    }

    /// The bytes on the wire, with the zeros around.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = vec![0xc1];
        body.extend(self.source.to_le_bytes());
        body.extend([self.core, self.kind]);
        body.extend(self.seq.to_le_bytes());
        body.extend(self.lost.to_le_bytes());
        body.extend(self.tsc.to_le_bytes());
        body.extend(&self.payload);
        body.extend(crc16(&body).to_le_bytes());
        let mut wire = vec![0];
        wire.extend(cobs::encode_vec(&body));
        wire.push(0);
        wire
    }
}

/// CRC-16/CCITT-FALSE, bit by bit.
pub fn crc16(bytes: &[u8]) -> u16 {
    let mut crc = 0xffff_u16;
    for &byte in bytes {
        crc ^= u16::from(byte) << 8;
        for _ in 0..8 {
            let carry = crc & 0x8000 != 0;
            crc <<= 1;
            if carry {
                crc ^= 0x1021;
            }
        }
    }
    crc
}

/// A format string of a fixture: index, tag without `defmt_`, text.
pub type Format = (u16, &'static str, &'static str);

/// What task 0 of [`archive`] can say.
pub const FORMATS: &[Format] = &[
    (1, "info", "found {=u8} tables"),
    (2, "error", "nothing answers"),
    (3, "info", "bench {=str} {=u64} {=str}"),
    (4, "warn", "backtrace {=str}: {=[?]:#x}"),
    (5, "prim", "{=u64}"),
    (6, "derived", "Idle|Busy({=?})"),
    (7, "debug", "state {=?} since {=u32:ms}"),
    (8, "info", "at {=u64:iso8601s}"),
    (9, "info", "offset {=isize:x}"),
    (10, "info", "list {=[?]}"),
    (11, "derived", "Unit"),
    (12, "println", "hello {=istr}"),
    (13, "str", "world"),
    (14, "trace", "bits {0=0..3} {0=5..12} bytes {1=[u8]:a} {2=[u8; 2]} {3=__internal_Display}"),
    (15, "info", "cbor {=[u8]:cbor}"),
    (16, "write", "{=__internal_FormatSequence}"),
    (17, "info", "sequence {=?}"),
    (18, "info", "{=bool} {=char} {=f32} {=i64} {=u128} {=[?; 2]}"),
];

/// An ELF with these format strings.
pub fn elf(formats: &[Format], encoding: &str) -> Vec<u8> {
    elf_with(formats, encoding, &[])
}

/// An ELF with these format strings and further sections.
pub fn elf_with(formats: &[Format], encoding: &str, more: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
    let section = object.add_section(Vec::new(), b".defmt".to_vec(), SectionKind::ReadOnlyData);
    object.set_section_data(section, vec![0; 64], 1);
    for (name, data) in more {
        let id = object.add_section(Vec::new(), name.clone().into_bytes(), SectionKind::Debug);
        object.set_section_data(id, data.clone(), 1);
    }
    let mut add = |name: String, value: u64, section: SymbolSection| {
        object.add_symbol(Symbol {
            name: name.into_bytes(),
            value,
            size: 1,
            kind: SymbolKind::Data,
            scope: SymbolScope::Linkage,
            weak: false,
            section,
            flags: SymbolFlags::None,
        });
    };
    for (index, tag, data) in formats {
        add(symbol_name(*index, tag, data), u64::from(*index), SymbolSection::Section(section));
    }
    add("_defmt_version_ = 4".to_owned(), 0, SymbolSection::Absolute);
    add(format!("_defmt_encoding_ = {encoding}"), 0, SymbolSection::Absolute);
    object.write().expect("an ELF")
}

/// The name of a format string's symbol.
pub fn symbol_name(index: u16, tag: &str, data: &str) -> String {
    let unique = format!(r#""package":"fixture","disambiguator":"{index}","crate_name":"fixture""#);
    format!(r#"{{{unique},"tag":"defmt_{tag}","data":"{data}"}}"#)
}

/// An archive with a kernel, task 0 `init` that can say [`FORMATS`], and task 3 `nvme` whose ELF
/// is `other`.
pub fn archive_with(other: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    write_archive(folder.path(), other);
    folder
}

fn write_archive(folder: &Path, other: &[u8]) {
    let json = r#"{"appliance": "test", "kernel": "kernel.elf", "stub": "stub.elf",
        "kernel_build_id": "00", "tasks": [
            {"index": 0, "name": "init", "elf": "init.elf"},
            {"index": 3, "name": "nvme", "elf": "nvme.elf"}]}"#;
    std::fs::write(folder.join("archive.json"), json).expect("archive.json");
    std::fs::write(folder.join("init.elf"), elf(FORMATS, "raw")).expect("init.elf");
    std::fs::write(folder.join("kernel.elf"), elf(&[(1, "info", "sealed")], "raw")).expect("ELF");
    std::fs::write(folder.join("nvme.elf"), other).expect("nvme.elf");
}

/// An ELF that does not use defmt.
pub fn silent_elf() -> Vec<u8> {
    let object = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
    object.write().expect("an ELF")
}

pub fn viewer() -> Viewer {
    let folder = archive_with(&silent_elf());
    Viewer::open(folder.path()).expect("an archive")
}

/// All events of a stream.
pub fn decode(viewer: &mut Viewer, bytes: &[u8]) -> Vec<Event> {
    let mut events = viewer.feed(bytes);
    events.extend(viewer.finish());
    events
}

/// The lines of text among some events, each with a line end.
pub fn text_of(events: &[Event]) -> String {
    let lines = events.iter().filter_map(|event| match event {
        Event::Text(line) => Some(format!("{line}\n")),
        _ => None,
    });
    lines.collect()
}

pub fn corrupt_count(events: &[Event]) -> usize {
    events.iter().filter(|event| matches!(event, Event::Corrupt { .. })).count()
}

/// Small, seeded, good enough for test data (xorshift).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn bytes(&mut self, length: u64) -> Vec<u8> {
        (0..length).map(|_| self.next().to_le_bytes()[3]).collect()
    }
}
