//! May this run of xtask install something, and how it says what it does.

use std::io::{IsTerminal, Write};

use anyhow::{Result, bail};

/// Whether missing tools may be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Install {
    /// Fetch what is missing, after saying so.
    Allowed,
    /// Name the command that would fetch it, and fail.
    Forbidden,
}

impl Install {
    /// From the flag `--no-install`.
    pub fn unless(no_install: bool) -> Self {
        if no_install { Self::Forbidden } else { Self::Allowed }
    }

    /// Fails with the command to type when installing is forbidden.
    pub fn require(self, what: &str, command: &str) -> Result<()> {
        match self {
            Self::Allowed => Ok(()),
            Self::Forbidden => {
                bail!("{what} is missing, and --no-install forbids to fetch it\n  next: {command}")
            }
        }
    }
}

/// A line about what happens now, on standard error, so that standard output stays the guest's.
pub fn say(text: &str) {
    eprintln!("{text}");
}

/// Progress of a long step: one line rewritten on a terminal, a line now and then elsewhere.
pub struct Progress {
    what: String,
    on_terminal: bool,
    last_percent: u64,
}

impl Progress {
    /// Starts a step, for example `fetching`.
    pub fn new(what: &str) -> Self {
        let on_terminal = std::io::stderr().is_terminal();
        Self { what: what.to_owned(), on_terminal, last_percent: 0 }
    }

    /// Shows how far the step is; `detail` says it in the step's own units.
    pub fn at(&mut self, done: u64, total: u64, detail: &str) {
        let percent = (done * 100).checked_div(total).unwrap_or(100);
        if self.on_terminal {
            eprint!("\r  {} {percent:3} %  {detail}\x1b[K", self.what);
            if done >= total {
                eprintln!();
            }
            // A lost progress line is not worth failing for.
            let _ = std::io::stderr().flush();
        } else if percent >= self.last_percent + 25 || done >= total {
            eprintln!("  {} {percent:3} %  {detail}", self.what);
            self.last_percent = percent;
        }
    }
}

/// A size as a person reads it.
pub fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000)
}

#[cfg(test)]
mod tests {
    use super::{Install, megabytes};

    #[test]
    fn forbidden_names_the_command() {
        let refusal = Install::Forbidden.require("QEMU", "cargo xtask setup").unwrap_err();
        assert!(refusal.to_string().ends_with("next: cargo xtask setup"));
        assert!(Install::Allowed.require("QEMU", "cargo xtask setup").is_ok());
    }

    #[test]
    fn sizes_have_one_decimal() {
        assert_eq!(megabytes(42_693_188), "42.6 MB");
    }
}
