//! Every crate that is used may be used by a project under MIT or Apache-2.0.

use anyhow::Result;

use super::{Verdict, sources, verdict};

/// Licences that ask for no more than to be named, and one (MPL-2.0) that asks for changes to its
/// own files to be published, which nobody here makes.
const FINE: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Looks at everything in Cargo.lock.
pub fn check() -> Result<Verdict> {
    let packages = sources::packages(true)?;
    let complaints = packages
        .iter()
        .filter(|package| !package.license.as_deref().is_some_and(is_fine))
        .map(|package| {
            let found = package.license.as_deref().unwrap_or("no licence");
            format!("{}: {found}; one of these is wanted: {}", package.name, FINE.join(", "))
        })
        .collect();
    Ok(verdict(complaints, format!("{} crates", packages.len())))
}

/// One of the alternatives consists of nothing but licences from the list.
fn is_fine(expression: &str) -> bool {
    let plain = expression.replace(['(', ')'], "").replace('/', " OR ");
    plain
        .split(" OR ")
        .any(|choice| choice.split(" AND ").all(|licence| FINE.contains(&licence.trim())))
}

#[cfg(test)]
mod tests {
    use super::is_fine;

    #[test]
    fn one_fine_alternative_is_enough() {
        assert!(is_fine("MIT OR GPL-3.0"));
        assert!(is_fine("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(is_fine("MIT/Apache-2.0"));
        assert!(!is_fine("GPL-3.0"));
        assert!(!is_fine("BSD-3-Clause AND GPL-2.0"));
    }
}
