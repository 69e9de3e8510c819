//! Numbers with units: durations, sizes, rates, ranges of ports and addresses.
//!
//! The parsers are pure and total: any text gives a value or a sentence that says what is wrong
//! with it. A [`Written`] keeps what stood in the file, so that a number without its unit can be
//! told from a wrong one.

use serde::de::{Deserialize, Deserializer, Visitor};
use std::fmt;

/// A scalar as it stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// Quoted text, which may carry a unit.
    Text(String),
    /// A bare number, which cannot.
    Number(String),
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WrittenVisitor)
    }
}

struct WrittenVisitor;

impl Visitor<'_> for WrittenVisitor {
    type Value = Written;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a quantity with its unit in quotes, like \"10ms\" or \"16KiB\"")
    }

    fn visit_str<E>(self, text: &str) -> Result<Written, E> {
        Ok(Written::Text(text.to_owned()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Written, E> {
        Ok(Written::Number(number.to_string()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Written, E> {
        Ok(Written::Number(number.to_string()))
    }
}

/// What is wrong with a quantity, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongQuantity {
    /// What was found, as the end of a sentence.
    pub found: String,
    /// What would be right, as a sentence.
    pub right: String,
}

impl WrongQuantity {
    fn new(found: impl Into<String>, right: impl Into<String>) -> Self {
        Self { found: found.into(), right: right.into() }
    }
}

type Result<T, E = WrongQuantity> = std::result::Result<T, E>;

const DURATIONS: &[(&str, u64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];
const SIZES: &[(&str, u64)] = &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

fn united(written: &Written, units: &[(&str, u64)], example: &str) -> Result<u64> {
    let names = units.iter().map(|(unit, _)| *unit).collect::<Vec<_>>().join(", ");
    let right = format!(
        "write a whole number and its unit in quotes, like \"{example}\"; units are {names}"
    );
    let text = match written {
        Written::Number(number) => {
            return Err(WrongQuantity::new(format!("`{number}`, which has no unit"), right));
        }
        Written::Text(text) => text,
    };
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    if unit.is_empty() && !number.is_empty() {
        return Err(WrongQuantity::new(format!("\"{text}\", which has no unit"), right));
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        return Err(WrongQuantity::new(
            format!("\"{text}\", whose unit `{unit}` is unknown"),
            right,
        ));
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(*factor))
        .ok_or_else(|| WrongQuantity::new(format!("\"{text}\", which is no number here"), right))
}

/// Nanoseconds of a duration like `"10ms"`.
pub fn duration_ns(written: &Written) -> Result<u64> {
    united(written, DURATIONS, "10ms")
}

/// Bytes of a size like `"16KiB"`.
pub fn size_bytes(written: &Written) -> Result<u64> {
    united(written, SIZES, "16KiB")
}

/// Events in a second, of a rate like `"5000/s"`.
pub fn rate_per_second(written: &Written) -> Result<u32> {
    let right = "write events in a second in quotes, like \"5000/s\"";
    match written {
        Written::Number(number) => {
            Err(WrongQuantity::new(format!("`{number}`, which has no unit"), right))
        }
        Written::Text(text) => text
            .strip_suffix("/s")
            .and_then(|number| number.parse::<u32>().ok())
            .filter(|rate| *rate > 0)
            .ok_or_else(|| WrongQuantity::new(format!("\"{text}\", which is no rate"), right)),
    }
}

/// Bytes in a second, of a rate like `"100MiB/s"`.
pub fn bytes_per_second(written: &Written) -> Result<u64> {
    let right = "write bytes in a second in quotes, like \"100MiB/s\"";
    match written {
        Written::Number(number) => {
            Err(WrongQuantity::new(format!("`{number}`, which has no unit"), right))
        }
        Written::Text(text) => text
            .strip_suffix("/s")
            .and_then(|size| size_bytes(&Written::Text(size.to_owned())).ok())
            .filter(|rate| *rate > 0)
            .ok_or_else(|| WrongQuantity::new(format!("\"{text}\", which is no rate"), right)),
    }
}

/// A number in decimal or, behind `0x`, in hexadecimal.
pub fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) if digits.starts_with(|c: char| c.is_ascii_hexdigit()) => {
            u64::from_str_radix(digits, 16).ok()
        }
        Some(_) => None,
        None if text.starts_with(|c: char| c.is_ascii_digit()) => text.parse().ok(),
        None => None,
    }
}

/// First and end (one past the last) of a range like `"0x3f8..0x400"`.
pub fn range(text: &str) -> Result<(u64, u64)> {
    let right = "write first and one past the last, like \"0x3f8..0x400\"";
    let wrong = |why: &str| WrongQuantity::new(format!("\"{text}\", {why}"), right);
    let (first, end) = text.split_once("..").ok_or_else(|| wrong("which is no range"))?;
    let first = number(first).ok_or_else(|| wrong("whose start is no number"))?;
    let end = number(end).ok_or_else(|| wrong("whose end is no number"))?;
    if first >= end {
        return Err(wrong("which is empty"));
    }
    Ok((first, end))
}

/// A duration for messages, in the largest unit that keeps it whole.
pub fn shown_ns(ns: u64) -> String {
    let whole =
        DURATIONS.iter().rev().find(|(_, factor)| ns >= *factor && ns.is_multiple_of(*factor));
    whole.map_or_else(|| format!("{ns}ns"), |(unit, factor)| format!("{}{unit}", ns / factor))
}

/// A size for messages, in the largest unit that keeps it whole.
pub fn shown_bytes(bytes: u64) -> String {
    let whole =
        SIZES.iter().rev().find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor));
    whole.map_or_else(|| format!("{bytes}B"), |(unit, factor)| format!("{}{unit}", bytes / factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Written {
        Written::Text(text.to_owned())
    }

    #[test]
    fn units_multiply() {
        assert_eq!(duration_ns(&text("10ms")), Ok(10_000_000));
        assert_eq!(duration_ns(&text("2h")), Ok(7_200_000_000_000));
        assert_eq!(size_bytes(&text("16KiB")), Ok(16384));
        assert_eq!(rate_per_second(&text("5000/s")), Ok(5000));
        assert_eq!(bytes_per_second(&text("100MiB/s")), Ok(100 << 20));
        assert_eq!(range("0x3f8..0x400"), Ok((0x3f8, 0x400)));
        assert_eq!(number("12"), Some(12));
    }

    #[test]
    fn wrong_quantities_say_what_was_found() {
        let cases: [(Result<u64>, &str); 6] = [
            (duration_ns(&Written::Number("5".into())), "`5`, which has no unit"),
            (duration_ns(&text("5")), "\"5\", which has no unit"),
            (duration_ns(&text("5KiB")), "\"5KiB\", whose unit `KiB` is unknown"),
            (size_bytes(&text("99999999999999999999B")), "which is no number here"),
            (size_bytes(&text("99999999999999GiB")), "which is no number here"),
            (size_bytes(&text("")), "whose unit `` is unknown"),
        ];
        for (result, expected) in cases {
            let found = result.expect_err("a wrong quantity is refused").found;
            assert!(found.contains(expected), "{found}");
        }
        for wrong in ["", "..", "1..", "5..5", "6..5", "0x..4", "0x+3..4", "+1..4", "1...4"] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
        assert!(rate_per_second(&text("0/s")).is_err());
        assert!(rate_per_second(&text("10/m")).is_err());
        for wrong in ["0MiB/s", "100MiB", "100/s", "100MB/s", "/s"] {
            assert!(bytes_per_second(&text(wrong)).is_err(), "{wrong}");
        }
        assert!(bytes_per_second(&Written::Number("5".into())).is_err());
    }

    #[test]
    fn quantities_are_shown_in_whole_units() {
        assert_eq!(shown_ns(1_500_000), "1500us");
        assert_eq!(shown_ns(60_000_000_000), "1m");
        assert_eq!(shown_ns(0), "0ns");
        assert_eq!(shown_bytes(4096), "4KiB");
        assert_eq!(shown_bytes(100), "100B");
    }
}
