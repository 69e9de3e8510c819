//! How many lines a reader of the kernel and of the monitor has to read: Rust and assembly, without
//! blank lines, comments and tests.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::{Verdict, sources};
use crate::paths;

/// A part of the system that is to stay small enough to read.
pub struct Part {
    /// What it is called in messages.
    pub name: &'static str,
    /// The most lines that it should have.
    pub aim: usize,
    /// The most lines that it may have: what it has, while the aim is missed (docs/promises.md says
    /// where they go). It may only go down.
    pub ceiling: usize,
    folders: &'static [&'static str],
    /// Files and folders that do not count.
    without: &'static [&'static str],
}

/// The kernel with one CPU vendor's virtualization.
pub const KERNEL: Part = Part {
    name: "kernel",
    aim: 6000,
    ceiling: 7211,
    folders: KERNEL_FOLDERS,
    without: &[
        "kernel/src/arch/x86_64/virt/vmx.rs",
        "kernel/src/arch/x86_64/virt/vmx.s",
        "kernel/src/arch/x86_64/virt/vmx",
    ],
};
/// The kernel with both vendors'.
pub const KERNEL_BOTH: Part =
    Part { name: "kernel with both vendors", aim: 8000, ceiling: 8000, without: &[], ..KERNEL };
const KERNEL_FOLDERS: &[&str] = &["kernel/src", "kernel/core/src", "kernel/abi/src"];
/// The monitor.
pub const MONITOR: Part =
    Part { name: "monitor", aim: 4000, ceiling: 4252, folders: &["monitor/src"], without: &[] };

/// Prints the counts and fails above a ceiling.
pub fn check() -> Result<Verdict> {
    let (mut texts, mut failed) = (Vec::new(), false);
    for part in [KERNEL, KERNEL_BOTH, MONITOR] {
        let mut folders = Vec::new();
        for folder in part.folders {
            folders.push(format!("{folder} {}", count_folder(folder, part.without)?));
        }
        let sum = part.count()?;
        failed |= sum > part.ceiling;
        let Part { name, aim, ceiling, .. } = part;
        let folders = folders.join(", ");
        texts.push(format!("{name}: {sum} lines, aim {aim}, ceiling {ceiling} ({folders})"));
    }
    Ok(if failed { Err(texts) } else { Ok(texts.join("; ")) })
}

impl Part {
    /// The number for `bench --json`.
    pub fn count(&self) -> Result<usize> {
        self.folders.iter().map(|folder| count_folder(folder, self.without)).sum()
    }
}

fn count_folder(folder: &str, without: &[&str]) -> Result<usize> {
    let base = paths::root().join(folder);
    let is_left_out = |path: &Path| without.iter().any(|w| path.starts_with(paths::root().join(w)));
    let mut sum = 0;
    for path in sources::files(&["rs", "s", "S"])? {
        if path.starts_with(&base) && !is_test_file(&path) && !is_left_out(&path) {
            let text = sources::read(&path)?;
            sum += match path.extension().and_then(|extension| extension.to_str()) {
                Some("rs") => rust_lines(&path, &text)?,
                _ => assembly_lines(&text),
            };
        }
    }
    Ok(sum)
}

fn is_test_file(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| stem == "tests")
        || path.components().any(|part| part.as_os_str() == "tests")
}

/// Lines with anything outside comments, which are `/* … */`, `//` and `#`.
fn assembly_lines(text: &str) -> usize {
    let mut inside = false;
    let is_code = |line: &str| {
        let mut rest = line;
        let mut code = false;
        while !rest.is_empty() {
            let (text, mark) = if inside { ("", "*/") } else { (rest, "/*") };
            let (before, after) = rest.split_once(mark).unwrap_or((text, ""));
            let before = before.trim();
            code |= !(inside || before.is_empty() || before.starts_with(['#', '/']));
            inside ^= rest.contains(mark);
            rest = after;
        }
        code
    };
    text.lines().map(is_code).filter(|&code| code).count()
}

/// Lines that hold at least one word of code outside tests.
fn rust_lines(path: &Path, text: &str) -> Result<usize> {
    let file = syn::parse_file(text).map_err(|e| anyhow::anyhow!("{}: {e}", paths::shown(path)))?;
    if file.attrs.iter().any(is_test_attribute) {
        return Ok(0);
    }
    let mut tests = TestLines::default();
    tests.visit_file(&file);
    let mut lines = BTreeSet::new();
    collect(sources::tokens(path, text)?, &mut lines);
    Ok(lines.difference(&tests.lines).count())
}

/// The lines of every word except documentation, which arrives as `#[doc = "…"]`.
fn collect(stream: TokenStream, lines: &mut BTreeSet<usize>) {
    let trees: Vec<TokenTree> = stream.into_iter().collect();
    let mut index = 0;
    while index < trees.len() {
        if let Some(length) = documentation(&trees[index..]) {
            index += length;
            continue;
        }
        match &trees[index] {
            TokenTree::Group(group) => {
                lines.insert(group.span_open().start().line);
                lines.insert(group.span_close().end().line);
                collect(group.stream(), lines);
            }
            other => lines.extend(other.span().start().line..=other.span().end().line),
        }
        index += 1;
    }
}

/// How many words of documentation the list begins with, if it does.
fn documentation(trees: &[TokenTree]) -> Option<usize> {
    let mark = |tree: &TokenTree, wanted: char| matches!(tree, TokenTree::Punct(punct) if punct.as_char() == wanted);
    if !mark(trees.first()?, '#') {
        return None;
    }
    let at = if mark(trees.get(1)?, '!') { 2 } else { 1 };
    let TokenTree::Group(group) = trees.get(at)? else {
        return None;
    };
    let first = group.stream().into_iter().next()?;
    matches!(first, TokenTree::Ident(word) if word == "doc").then_some(at + 1)
}

#[derive(Default)]
struct TestLines {
    lines: BTreeSet<usize>,
}

impl<'ast> Visit<'ast> for TestLines {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes: &[syn::Attribute] = match item {
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            _ => &[],
        };
        if attributes.iter().any(is_test_attribute) {
            self.lines.extend(item.span().start().line..=item.span().end().line);
        } else {
            visit::visit_item(self, item);
        }
    }
}

/// `#[cfg(test)]` or a `cfg` that begins with it, and the same for loom.
fn is_test_attribute(attribute: &syn::Attribute) -> bool {
    let syn::Meta::List(list) = &attribute.meta else {
        return false;
    };
    let words = list.tokens.to_string();
    attribute.path().is_ident("cfg") && (words == "test" || words == "loom")
}

#[cfg(test)]
mod tests {
    use super::{assembly_lines, rust_lines};
    use std::path::Path;

    #[test]
    fn comments_documentation_blank_lines_and_tests_do_not_count() {
        let text = "//! What\n//! this is.\n\n/// Says.\nfn f() { // why\n    a();\n\n    /* x\n */\n}\n\
                    #[inline]\nfn g() {}\n\n#[cfg(test)]\nmod tests {\n    fn h() {}\n}\n";
        assert_eq!(rust_lines(Path::new("x.rs"), text).unwrap(), 5);
    }

    #[test]
    fn every_line_of_a_long_string_counts() {
        let text = "const A: &str = \"a\n b\n c\";\n";
        assert_eq!(rust_lines(Path::new("x.rs"), text).unwrap(), 3);
    }

    #[test]
    fn assembly_counts_without_its_comments() {
        assert_eq!(assembly_lines("# x\n// y\n\n  mov eax, 1 # one\nret\n"), 2);
        assert_eq!(assembly_lines("/* a\n b */\n nop /* c */\n/* d */ ret\n/* e\n f */ hlt\n"), 3);
    }
}
