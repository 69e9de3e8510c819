//! What some messages mean beyond their text: benchmark results and backtraces.
//!
//! * `bench KEY VALUE UNIT`: a measured number;
//! * `backtrace TASK: [0x450123, 4523450]`: where a task was, as the supervisor reads it;
//! * `bt: kernel 0xffffffff80001234` or `bt: TASK 0x450123 0x…` in text: last words.
//!
//! Text that only resembles one of them stays text.

/// A number of a benchmark: key, value, unit.
pub(crate) fn bench(message: &str) -> Option<(String, u64, String)> {
    let mut words = message.strip_prefix("bench ")?.split_whitespace();
    let (key, value) = (words.next()?, words.next()?.parse().ok()?);
    let unit = words.collect::<Vec<_>>().join(" ");
    (!unit.is_empty()).then(|| (key.to_owned(), value, unit))
}

/// A backtrace of a task: its name and the addresses.
pub(crate) fn backtrace(message: &str) -> Option<(&str, Vec<u64>)> {
    let (task, list) = message.strip_prefix("backtrace ")?.split_once(':')?;
    let list = list.trim().strip_prefix('[')?.strip_suffix(']')?;
    let addresses = match list.trim() {
        "" => Vec::new(),
        list => list.split(',').map(|word| number(word.trim())).collect::<Option<Vec<_>>>()?,
    };
    Some((task.trim(), until_end(addresses)))
}

/// A backtrace in a line of text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LastWords<'a> {
    /// What stands before `bt:`.
    pub before: &'a str,
    /// The name that stands behind it, if one does.
    pub name: Option<&'a str>,
    /// The addresses.
    pub addresses: Vec<u64>,
}

/// Finds a backtrace in a line of text.
pub(crate) fn text_backtrace(line: &str) -> Option<LastWords<'_>> {
    let (before, list) = line.split_once("bt:")?;
    if before.ends_with(|last: char| last.is_alphanumeric() || last == '_') {
        return None;
    }
    let mut words = list.split_whitespace().map(|word| word.trim_end_matches(',')).peekable();
    let name = words.next_if(|word| !word.starts_with("0x"));
    let addresses: Vec<u64> =
        words.map_while(|word| word.starts_with("0x").then(|| number(word)).flatten()).collect();
    if addresses.is_empty() {
        return None;
    }
    Some(LastWords { before, name, addresses: until_end(addresses) })
}

/// The words of a line that could be names.
pub(crate) fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !(c.is_alphanumeric() || matches!(c, '-' | '_')))
}

/// Fault records end with zeros where the chain of calls ended.
fn until_end(addresses: Vec<u64>) -> Vec<u64> {
    addresses.into_iter().take_while(|&address| address != 0).collect()
}

/// A decimal number, or a hexadecimal one behind `0x`.
fn number(word: &str) -> Option<u64> {
    match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bench_needs_key_value_and_unit() {
        let number = bench("bench null_syscall 58 instructions");
        assert_eq!(number, Some(("null_syscall".into(), 58, "instructions".into())));
        for text in ["bench x 1", "bench x -1 bytes", "bench x 18446744073709551616 b", "bench "] {
            assert_eq!(bench(text), None, "{text}");
        }
    }

    #[test]
    fn backtraces_take_both_kinds_of_numbers() {
        assert_eq!(backtrace("backtrace nvme: [0x10, 17, 0]"), Some(("nvme", vec![16, 17])));
        assert_eq!(backtrace("backtrace nvme: []"), Some(("nvme", vec![])));
        for text in ["backtrace nvme: 0x10", "backtrace nvme [1]", "backtrace nvme: [x]"] {
            assert_eq!(backtrace(text), None, "{text}");
        }
    }

    #[test]
    fn text_backtraces_stop_at_the_first_other_word() {
        let found = text_backtrace("init bt: 0x10 0x20 end 0x30");
        let expected = LastWords { before: "init ", name: None, addresses: vec![16, 32] };
        assert_eq!(found, Some(expected));
        let found = text_backtrace("bt: nvme 0x10, 0x0, 0x20");
        let expected = LastWords { before: "", name: Some("nvme"), addresses: vec![16] };
        assert_eq!(found, Some(expected));
        for text in ["bt:", "bt: none", "bt: two words 0x10", "debt: 0x10", "0x10"] {
            assert_eq!(text_backtrace(text), None, "{text}");
        }
    }
}
