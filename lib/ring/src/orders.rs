//! The messages of an export `flush`: how the supervisor has the logs shipped before power-off.
//!
//! The supervisor serves the mailbox, because a client must be less urgent than its server; the
//! console, its client, waits for orders. First word of each message; the others are zero.

/// Server to client: ship all that was logged until now, then answer.
pub const FLUSH: u64 = 1;
/// Client to server: everything has left the machine.
pub const FLUSHED: u64 = 2;
