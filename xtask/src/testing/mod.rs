//! What `cargo xtask test` is made of: tiers, expectations and the tally.
//!
//! A boot test is a folder `images/test-NAME/` with an `appliance.toml` and an `expect.toml`;
//! adding a test is adding a folder.

pub mod boot;
pub mod expect;
mod flips;
mod flushes;
mod harness;
pub mod host;
mod inspect;
mod integrity;
pub mod keys;
pub mod tally;
mod walk;

pub use flushes::copy_tree;

/// What a person asked of the tiers.
#[derive(Clone, Debug)]
pub struct Options {
    /// Only tests whose name contains this.
    pub filter: Option<String>,
    /// The long forms too.
    pub long: bool,
    /// Whether emulators and the compiler may be fetched.
    pub install: crate::install::Install,
}

impl Options {
    /// The name passes the filter.
    pub fn wants(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|part| name.contains(part.as_str()))
    }
}
