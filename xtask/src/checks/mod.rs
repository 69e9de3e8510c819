//! What `cargo xtask check` looks at, a file for each kind of rule.
//!
//! A check returns what it found in order, for people, or every complaint that it has.

pub mod arrows;
pub mod ledger;
pub mod licences;
pub mod lines;
pub mod links;
pub mod merges;
pub mod sizes;
pub mod sources;

/// In order: a few words. Not in order: one complaint a line.
pub type Verdict = Result<String, Vec<String>>;

/// A verdict from complaints.
fn verdict(complaints: Vec<String>, fine: String) -> Verdict {
    if complaints.is_empty() { Ok(fine) } else { Err(complaints) }
}
