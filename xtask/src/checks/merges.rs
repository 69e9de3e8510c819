//! Text that a merge left unresolved: lines of its markers.

use std::path::Path;

use anyhow::Result;

use super::{Verdict, sources, verdict};
use crate::paths;

/// Kinds of files that people write.
const KINDS: [&str; 8] = ["rs", "md", "toml", "s", "ld", "lock", "sh", "json"];
/// What the lines begin with around both sides; the line between them may be a heading's.
const MARKERS: [&str; 2] = ["<<<<<<< ", ">>>>>>> "];

/// Looks at every file of text.
pub fn check() -> Result<Verdict> {
    let files = sources::files(&KINDS)?;
    let mut complaints = Vec::new();
    for path in &files {
        complaints.extend(complaint_about(path, &sources::read(path)?));
    }
    Ok(verdict(complaints, format!("none is half done in {} files", files.len())))
}

fn complaint_about(path: &Path, text: &str) -> Option<String> {
    let mut lines = (1..).zip(text.lines());
    let (number, line) =
        lines.find(|(_, line)| MARKERS.iter().any(|marker| line.starts_with(marker)))?;
    Some(format!("{}:{number}: `{line}`: a merge was not finished here", paths::shown(path)))
}

#[cfg(test)]
mod tests {
    use super::complaint_about;
    use std::path::Path;

    #[test]
    fn a_marker_is_found_where_it_stands() {
        let about = |text: &str| complaint_about(Path::new("a.md"), text);
        assert_eq!(about("a\n=======\nb <<<<<<< c\n"), None);
        for marker in ["<<<<<<<", ">>>>>>>"] {
            let found = about(&format!("a\n{marker} HEAD\n")).unwrap();
            assert!(found.starts_with(&format!("a.md:2: `{marker} HEAD`")), "{found}");
        }
    }
}
