//! Version numbers of tools, as their `--version` prints them: major and minor, no more.

use std::fmt;

/// A major and a minor number; ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

impl Version {
    /// A version from its two numbers.
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// The first `N.M` in the text: `QEMU emulator version 7.2.22 (Debian …)` gives 7.2.
    pub fn find(text: &str) -> Option<Self> {
        text.split(|c: char| !(c.is_ascii_digit() || c == '.')).find_map(|word| {
            let mut numbers = word.split('.');
            let major = numbers.next()?.parse().ok()?;
            let minor = numbers.next()?.parse().ok()?;
            Some(Self { major, minor })
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::Version;

    #[test]
    fn versions_are_found_in_what_tools_print() {
        let qemu = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)";
        assert_eq!(Version::find(qemu), Some(Version::new(7, 2)));
        assert_eq!(Version::find("rustc 1.96.0 (deb 2026)"), Some(Version::new(1, 96)));
        assert_eq!(Version::find("no digits, 7 alone"), None);
    }

    #[test]
    fn versions_compare_by_number_not_by_text() {
        assert!(Version::new(10, 0) > Version::new(7, 2));
        assert!(Version::new(1, 100) > Version::new(1, 88));
    }
}
