//! Links between the pages of the book: every relative one leads to a file, every fragment to a
//! heading.

use std::path::Path;

use anyhow::Result;

use super::{Verdict, sources, verdict};
use crate::paths;

/// Looks at README.md, the other pages at the root, and everything below docs/.
pub fn check() -> Result<Verdict> {
    let mut complaints = Vec::new();
    let (mut pages, mut links) = (0, 0);
    for path in sources::files(&["md"])? {
        let text = sources::read(&path)?;
        pages += 1;
        for (number, target) in targets(&text) {
            links += 1;
            if let Some(why) = broken(&path, &target) {
                complaints
                    .push(format!("{}:{number}: link `{target}`: {why}", paths::shown(&path)));
            }
        }
    }
    Ok(verdict(complaints, format!("{links} relative links in {pages} pages")))
}

/// Line number and target of every relative link outside code.
fn targets(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        // Every second piece stands between backquotes, which is code.
        let prose: Vec<&str> = line.split('`').step_by(2).collect();
        let prose = prose.join("x");
        for piece in prose.split("](").skip(1) {
            let target = piece.split([')', ' ']).next().unwrap_or_default();
            let elsewhere = target.contains("://") || target.starts_with("mailto:");
            if !target.is_empty() && !elsewhere {
                found.push((index + 1, target.to_owned()));
            }
        }
    }
    found
}

/// Why a link leads nowhere, if it does.
fn broken(page: &Path, target: &str) -> Option<String> {
    let (file, fragment) = target.split_once('#').map_or((target, None), |(f, s)| (f, Some(s)));
    if file.starts_with('/') {
        return Some("an absolute path works on no other machine".to_owned());
    }
    let path = if file.is_empty() { page.to_owned() } else { page.parent()?.join(file) };
    if !path.exists() {
        return Some("there is no such file".to_owned());
    }
    let fragment = fragment?;
    if path.extension().is_none_or(|extension| extension != "md") {
        return None;
    }
    let text = sources::read(&path).ok()?;
    let known = text.lines().filter(|line| line.starts_with('#')).map(anchor);
    let known: Vec<String> = known.collect();
    (!known.contains(&fragment.to_owned())).then(|| format!("no heading `#{fragment}` there"))
}

/// The fragment of a heading, as code hosts make it.
fn anchor(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = words.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::{anchor, targets};

    #[test]
    fn links_are_found_outside_code() {
        let text = "see [a](tour.md) and [b](../x.md#y \"t\"), `[c](no.md)`\n```\n[d](no.md)\n```\n\
                    [e](https://example.org) [f](#here)\n";
        let found: Vec<String> = targets(text).into_iter().map(|(_, target)| target).collect();
        assert_eq!(found, ["tour.md", "../x.md#y", "#here"]);
    }

    #[test]
    fn headings_become_fragments() {
        assert_eq!(anchor("## What works, and what not"), "what-works-and-what-not");
        assert_eq!(anchor("# `xtask run`"), "xtask-run");
    }
}
