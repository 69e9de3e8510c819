//! Files of at most 600 lines, functions of at most 70, each file with its `//!`.

use std::path::Path;

use anyhow::Result;
use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::{Verdict, sources, verdict};
use crate::paths;

/// The most lines of a file that gives no reason for more.
const FILE_LINES: usize = 600;

/// The most lines of a function, from `fn` to its closing brace.
const FUNCTION_LINES: usize = 70;

/// What a file's `//!` says when it is longer.
const REASON: &str = "Longer than 600 lines because";

/// Looks at every Rust file.
pub fn check() -> Result<Verdict> {
    let mut complaints = Vec::new();
    let files = sources::files(&["rs"])?;
    for path in &files {
        let text = sources::read(path)?;
        complaints.extend(complaints_about(path, &text));
    }
    Ok(verdict(complaints, format!("{} files", files.len())))
}

fn complaints_about(path: &Path, text: &str) -> Vec<String> {
    let shown = paths::shown(path);
    let mut complaints = Vec::new();
    let lines = text.lines().count();
    let head: Vec<&str> = text.lines().take_while(|line| line.starts_with("//!")).collect();
    if head.is_empty() {
        complaints.push(format!("{shown}:1: the file opens without `//!` saying what it is"));
    }
    if lines > FILE_LINES && !head.join(" ").replace(" //!", "").contains(REASON) {
        complaints.push(format!(
            "{shown}: {lines} lines, at most {FILE_LINES}; split it, or say in its `//!` \
             \"{REASON} …\""
        ));
    }
    match syn::parse_file(text) {
        Ok(file) => {
            let mut finder = LongFunctions { shown: &shown, complaints: &mut complaints };
            finder.visit_file(&file);
        }
        Err(error) => complaints.push(format!("{shown}: not Rust: {error}")),
    }
    complaints
}

struct LongFunctions<'a> {
    shown: &'a str,
    complaints: &'a mut Vec<String>,
}

impl LongFunctions<'_> {
    fn measure(&mut self, signature: &syn::Signature, end: Span) {
        let first = signature.span().start().line;
        let lines = end.end().line + 1 - first;
        if lines > FUNCTION_LINES {
            self.complaints.push(format!(
                "{}:{first}: function `{}` has {lines} lines, at most {FUNCTION_LINES}",
                self.shown, signature.ident
            ));
        }
    }
}

impl<'ast> Visit<'ast> for LongFunctions<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.measure(&item.sig, item.block.span());
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.measure(&item.sig, item.block.span());
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.measure(&item.sig, block.span());
        }
        visit::visit_trait_item_fn(self, item);
    }
}

#[cfg(test)]
mod tests {
    use super::complaints_about;
    use std::path::Path;

    fn about(text: &str) -> Vec<String> {
        complaints_about(Path::new("x.rs"), text)
    }

    #[test]
    fn a_function_of_seventy_lines_passes_and_one_more_does_not() {
        let body = |lines: usize| format!("//! x\nfn f() {{\n{}}}\n", "    a();\n".repeat(lines));
        assert_eq!(about(&body(68)), Vec::<String>::new());
        assert_eq!(about(&body(69)), ["x.rs:2: function `f` has 71 lines, at most 70"]);
    }

    #[test]
    fn a_long_file_needs_a_reason() {
        let items = "const A: u8 = 0;\n".repeat(600);
        assert!(about(&format!("//! x\n{items}"))[0].contains("601 lines"));
        let wrapped = format!("//! x. Longer than 600\n//! lines because tables are.\n{items}");
        assert!(about(&wrapped).is_empty());
    }

    #[test]
    fn a_file_says_what_it_is() {
        assert!(about("fn f() {}\n")[0].contains("opens without"));
    }
}
