//! Mailboxes: two rings of small messages in memory that two tasks share.
//!
//! [`Ring`] is one side of a mailbox. It begins as `Ring<Mapped>`, finds its peer in
//! [`Ring::handshake`] and becomes a `Ring<Ready>`, which sends and receives [`Message`]s. The
//! peer is another task and may be wrong, hostile, dead or restarted at any moment: whatever it
//! writes, this side never panics, never reads outside the region, and ends in one of the two
//! values of [`Lost`]. [`Link`] is a ring that finds its peer again by itself. [`Stream`] is the
//! other use of such a region: bytes each way, for consoles. [`pulse`] tells whether a task lives,
//! [`log`] reads the log rings of tasks and cores.
//!
//! Neighbours: `lib/rt` gives the region and the signals; docs/notes/0004-mailboxes.md tells the
//! protocol. Invariant: every word of the peer is read once, checked, and then used as a copy.

#![cfg_attr(not(loom), no_std)]
#![forbid(unsafe_code)]

mod layout;
mod link;
pub mod log;
mod mailbox;
pub mod orders;
pub mod pulse;
mod stream;
mod sync;

pub use layout::{MESSAGE_WORDS, Message, Side, TooSmall};
pub use link::{Link, Unsent};
pub use mailbox::{Lost, Mapped, Ready, Ring, Rule, SendError};
pub use stream::Stream;
