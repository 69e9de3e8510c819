//! Identifiers of the manifest, and the name that a mistyped one probably meant.

/// Most letters of a name of a task, device, export or grant: two of them and a slash fit a
/// name field of the table (`cloister_abi::NAME_LEN`).
pub const NAME_MAX: usize = 15;

/// Names that the build gives to grants and files of its own.
pub const RESERVED: &[&str] = &[
    "policy", "power", "table", "firmware", "main", "log", "task", "thread", "kernel", "stub",
    "watch", "gone", "halted", "watchdog", "ram", "volumes", "sealed",
];

/// True for a lower-case letter followed by lower-case letters, digits and dashes.
pub fn is_identifier(name: &str, max: usize) -> bool {
    name.len() <= max
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// Insertions, deletions and replacements that turn one text into the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, a) in from.chars().enumerate() {
        let mut diagonal = line;
        let mut left = line + 1;
        for (cell, b) in row.iter_mut().skip(1).zip(&to) {
            let best = (diagonal + usize::from(a != *b)).min(*cell + 1).min(left + 1);
            diagonal = *cell;
            *cell = best;
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = line + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

/// The candidate that is nearest to `name`, if any is near enough to be a slip of the finger.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = 1 + name.chars().count() / 3;
    candidates
        .into_iter()
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(far, _)| *far <= limit)
        .min_by_key(|(far, candidate)| (*far, *candidate))
        .map(|(_, candidate)| candidate)
}

/// "did you mean `x`? " or nothing.
pub fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, candidates).map_or_else(String::new, |found| format!("did you mean `{found}`? "))
}

/// Names as a list for a sentence: "`a`, `b` and `c`", or "nothing".
pub fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match quoted.as_slice() {
        [] => "nothing".to_owned(),
        [only] => only.clone(),
        [init @ .., last] => format!("{} and {last}", init.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::{did_you_mean, distance, is_identifier, listed, nearest};

    #[test]
    fn distance_counts_single_edits() {
        for (from, to, edits) in
            [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("ab", "ba", 2)]
        {
            assert_eq!(distance(from, to), edits, "{from} to {to}");
        }
    }

    #[test]
    fn only_near_names_are_proposed() {
        assert_eq!(nearest("pnig", ["ping", "pong", "clock"]), Some("ping"));
        assert_eq!(nearest("console", ["ping", "pong"]), None);
        assert_eq!(did_you_mean("zzz", ["ping"]), "");
    }

    #[test]
    fn identifiers_are_short_and_lower_case() {
        assert!(is_identifier("nvme0", 15) && is_identifier("a-b", 3));
        for wrong in ["", "0a", "-a", "Ab", "a_b", "abcd", "ä"] {
            assert!(!is_identifier(wrong, 3), "{wrong}");
        }
    }

    #[test]
    fn lists_read_like_sentences() {
        assert_eq!(listed([]), "nothing");
        assert_eq!(listed(["a"]), "`a`");
        assert_eq!(listed(["a", "b", "c"]), "`a`, `b` and `c`");
    }
}
