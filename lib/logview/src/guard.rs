//! Looks over a defmt frame before `defmt-decoder` does.
//!
//! The decoder trusts its input: an array length of four billion makes it ask for the memory, a
//! frame that nests formats ten thousand deep overflows its stack, a date beyond the year 9999
//! panics, and so does a negative hexadecimal `isize`. A task that was taken over writes whatever
//! frames it likes, so [`Formats::check`] walks the frame along the same format strings first, with
//! bounds, and refuses what would harm.
//!
//! Invariant: a frame that passes is decoded and printed without a panic, in memory and time
//! proportional to its length.

use std::collections::BTreeMap;
use std::fmt;

use defmt_parser::{DisplayHint, Fragment, ParserMode, TimePrecision, Type};
use object::{Object, ObjectSection, ObjectSymbol};
use serde::Deserialize;

/// Deepest nesting of formats.
const MAX_DEPTH: u32 = 32;
/// Values allowed per frame beyond one for each of its bytes.
const SPARE_VALUES: usize = 1024;
/// The last second of the year 9999.
const MAX_SECONDS: u128 = 253_402_300_799;
/// Longest byte string that may be shown as CBOR, whose reader is recursive.
const MAX_CBOR: usize = 256;

/// Why a frame was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The frame ends before its format does.
    Truncated,
    /// It names a format string that the ELF does not have.
    UnknownFormat(u16),
    /// A format string of the ELF cannot be read.
    BadFormat,
    /// It nests too deep or holds too many values.
    TooLarge,
    /// A value that its display hint cannot show.
    Unprintable,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Truncated => write!(f, "the message ends before its format does"),
            Refusal::UnknownFormat(index) => {
                write!(f, "format string {index:#x} is not in the task's ELF")
            }
            Refusal::BadFormat => write!(f, "the format string cannot be read"),
            Refusal::TooLarge => write!(f, "the message nests too deep or holds too many values"),
            Refusal::Unprintable => write!(f, "a value does not fit its display hint"),
        }
    }
}

/// The name of a symbol in `.defmt`; it is a JSON object.
#[derive(Deserialize)]
struct SymbolName {
    tag: String,
    data: String,
}

/// The format strings of an ELF.
#[derive(Debug, Default)]
pub(crate) struct Formats {
    by_index: BTreeMap<u16, String>,
    timestamp: Option<String>,
}

impl Formats {
    /// Collects the format strings.
    pub fn read(elf: &object::File<'_>) -> Formats {
        let mut formats = Formats::default();
        for symbol in elf.symbols() {
            let section = symbol.section_index().and_then(|at| elf.section_by_index(at).ok());
            let in_defmt = section.is_some_and(|s| s.name().is_ok_and(|n| n.starts_with(".defmt")));
            let name = symbol.name().ok().filter(|_| in_defmt);
            let Some(name) = name.and_then(|n| serde_json::from_str::<SymbolName>(n).ok()) else {
                continue;
            };
            let index = u16::try_from(symbol.address());
            match (name.tag.as_str(), index) {
                ("defmt_bitflags_value", _) => {}
                ("defmt_timestamp", _) => formats.timestamp = Some(name.data),
                (tag, Ok(index)) if tag.starts_with("defmt_") => {
                    formats.by_index.insert(index, name.data);
                }
                _ => {}
            }
        }
        formats
    }

    /// Walks a frame; `Ok` means that the decoder will neither panic nor run away.
    pub fn check(&self, frame: &[u8]) -> Result<(), Refusal> {
        let values = frame.len().saturating_add(SPARE_VALUES);
        let mut walk = Walk { formats: self, rest: frame, values, depth: 0 };
        let top = walk.index()?;
        if let Some(timestamp) = &self.timestamp {
            walk.format(timestamp, Care::default())?;
        }
        walk.format(walk.text(top)?, Care::default())
    }
}

/// What the display hints around a value demand of it.
#[derive(Clone, Copy, Default)]
struct Care {
    /// Largest number that can be shown as a date.
    max: Option<u128>,
    hexadecimal: bool,
    cbor: bool,
}

impl Care {
    /// Adds the demands of a hint. Hints of outer formats may reach inner ones, so none is dropped.
    fn with(mut self, hint: Option<&DisplayHint>) -> Care {
        match hint {
            Some(DisplayHint::ISO8601(precision)) => {
                let max = match precision {
                    TimePrecision::Micros => MAX_SECONDS * 1_000_000,
                    TimePrecision::Millis => MAX_SECONDS * 1_000,
                    TimePrecision::Seconds => MAX_SECONDS,
                };
                self.max = Some(self.max.map_or(max, |other| other.min(max)));
            }
            Some(DisplayHint::Hexadecimal { .. }) => self.hexadecimal = true,
            Some(DisplayHint::Cbor) => self.cbor = true,
            _ => {}
        }
        self
    }
}

/// One argument of a format string; the same argument may be shown more than once.
struct Argument {
    kind: Type,
    care: Care,
}

/// A walk along a frame.
struct Walk<'a> {
    formats: &'a Formats,
    rest: &'a [u8],
    values: usize,
    depth: u32,
}

impl<'a> Walk<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Refusal> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Refusal::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// A little-endian number of up to 16 bytes.
    fn number(&mut self, length: usize) -> Result<u128, Refusal> {
        let bytes = self.take(length)?;
        Ok(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u128::from(byte)))
    }

    fn length(&mut self) -> Result<usize, Refusal> {
        usize::try_from(self.number(4)?).map_err(|_| Refusal::TooLarge)
    }

    fn index(&mut self) -> Result<u16, Refusal> {
        u16::try_from(self.number(2)?).map_err(|_| Refusal::Truncated)
    }

    fn text(&self, index: u16) -> Result<&'a str, Refusal> {
        let found = self.formats.by_index.get(&index).map(String::as_str);
        found.ok_or(Refusal::UnknownFormat(index))
    }

    /// Walks the arguments of one format string.
    fn format(&mut self, text: &str, care: Care) -> Result<(), Refusal> {
        if self.depth == MAX_DEPTH {
            return Err(Refusal::TooLarge);
        }
        self.values = self.values.checked_sub(1).ok_or(Refusal::TooLarge)?;
        self.depth += 1;
        for argument in arguments(text, care)? {
            self.value(&argument)?;
        }
        self.depth -= 1;
        Ok(())
    }

    fn value(&mut self, argument: &Argument) -> Result<(), Refusal> {
        let care = argument.care;
        match &argument.kind {
            Type::Bool | Type::U8 | Type::I8 => self.plain(1, care),
            Type::U16 | Type::I16 | Type::IStr => self.plain(2, care),
            Type::Isize if care.hexadecimal => Err(Refusal::Unprintable),
            Type::U32 | Type::I32 | Type::Usize | Type::Isize | Type::F32 | Type::Char => {
                self.plain(4, care)
            }
            Type::U64 | Type::I64 | Type::F64 => self.plain(8, care),
            Type::U128 | Type::I128 => self.plain(16, care),
            Type::BitField(range) => self.take(bit_field_bytes(range)?).map(drop),
            Type::Str => self.length().and_then(|length| self.take(length)).map(drop),
            Type::U8Slice => self.length().and_then(|length| self.bytes(length, care)),
            Type::U8Array(length) => self.bytes(*length, care),
            Type::Debug | Type::Display => {
                let end = self.rest.iter().position(|&byte| byte == 0xff);
                self.take(end.ok_or(Refusal::Truncated)? + 1).map(drop)
            }
            Type::Format => {
                let text = self.named_format()?;
                let variant = self.variant(text)?;
                self.format(variant, care)
            }
            Type::FormatSlice => {
                let count = self.length()?;
                self.elements(count, care)
            }
            Type::FormatArray(count) => self.elements(*count, care),
            Type::FormatSequence => self.sequence(care),
        }
    }

    /// A number of a fixed size.
    fn plain(&mut self, length: usize, care: Care) -> Result<(), Refusal> {
        let number = self.number(length)?;
        match care.max {
            Some(max) if number > max => Err(Refusal::Unprintable),
            _ => Ok(()),
        }
    }

    fn bytes(&mut self, length: usize, care: Care) -> Result<(), Refusal> {
        if care.cbor && length > MAX_CBOR {
            return Err(Refusal::Unprintable);
        }
        self.take(length).map(drop)
    }

    fn named_format(&mut self) -> Result<&'a str, Refusal> {
        let index = self.index()?;
        self.text(index)
    }

    /// Of a format string with alternatives, the one that the frame picks.
    fn variant(&mut self, text: &'a str) -> Result<&'a str, Refusal> {
        let length = match text.matches('|').count() {
            0 => return Ok(text),
            1..=0xff => 1,
            0x100..=0xffff => 2,
            _ => return Err(Refusal::BadFormat),
        };
        let picked = usize::try_from(self.number(length)?).map_err(|_| Refusal::TooLarge)?;
        text.split('|').nth(picked).ok_or(Refusal::Truncated)
    }

    fn elements(&mut self, count: usize, care: Care) -> Result<(), Refusal> {
        // Elements without bytes of their own exist, so the length alone bounds nothing.
        if count > self.values {
            return Err(Refusal::TooLarge);
        }
        let text = self.named_format()?;
        for _ in 0..count {
            let variant = self.variant(text)?;
            self.format(variant, care)?;
        }
        Ok(())
    }

    /// Formats until the index zero.
    fn sequence(&mut self, care: Care) -> Result<(), Refusal> {
        loop {
            let index = self.index()?;
            if index == 0 {
                return Ok(());
            }
            let text = self.text(index)?;
            self.format(text, care)?;
        }
    }
}

/// How many bytes a bit field takes: those that it touches, rounded up to a power of two.
fn bit_field_bytes(range: &std::ops::Range<u8>) -> Result<usize, Refusal> {
    let last = range.end.checked_sub(1).ok_or(Refusal::BadFormat)?;
    let touched = (last / 8).checked_sub(range.start / 8).ok_or(Refusal::BadFormat)? + 1;
    Ok(usize::from(touched).next_power_of_two())
}

/// The arguments of a format string in the order of the wire. Bit fields of one argument share
/// its bytes; an argument that is shown twice is sent once and must suit both hints.
fn arguments(text: &str, care: Care) -> Result<Vec<Argument>, Refusal> {
    let fragments = defmt_parser::parse(text, ParserMode::ForwardsCompatible);
    let mut arguments: BTreeMap<usize, Argument> = BTreeMap::new();
    for fragment in fragments.map_err(|_| Refusal::BadFormat)? {
        let Fragment::Parameter(parameter) = fragment else {
            continue;
        };
        let new = Argument { kind: parameter.ty, care: care.with(parameter.hint.as_ref()) };
        match arguments.get_mut(&parameter.index) {
            None => drop(arguments.insert(parameter.index, new)),
            Some(old) => {
                old.care = old.care.with(parameter.hint.as_ref());
                if let (Type::BitField(old), Type::BitField(new)) = (&mut old.kind, new.kind) {
                    *old = old.start.min(new.start)..old.end.max(new.end);
                }
            }
        }
    }
    Ok(arguments.into_values().collect())
}
