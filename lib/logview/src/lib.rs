//! The decoder of an appliance's serial stream, used by `cargo xtask run`, `test` and `bench`.
//!
//! The console task sends log frames and the boot stub and a dying kernel send plain text, all over
//! one wire. [`Viewer`] takes the bytes as they come, in chunks of any size, and hands out
//! [`Event`]s. The way through the crate:
//!
//! ```text
//! bytes ─ stream ─► lines of text ──────────────┬─► viewer ─► Event ─ screen ─► text for people
//!            └────► frames (frame) ─ messages ──┘      │
//!                                    └ guard           └ symbols: addresses to source lines
//! ```
//!
//! Invariants: the events depend on the bytes alone, not on how they were cut into chunks; no
//! input makes the decoder panic or use memory out of proportion to the input; text is never lost,
//! it is shown even where it cut a frame in half.

#![forbid(unsafe_code)]

mod archive;
mod conventions;
mod event;
mod frame;
mod guard;
mod messages;
mod render;
mod screen;
mod stream;
mod summary;
mod symbols;
mod viewer;

pub use event::{Event, Level};
pub use frame::{Defect, Frame, KERNEL_SOURCE_FIRST, Kind, MAX_ENCODED, MAX_PAYLOAD};
pub use screen::{Screen, Shown};
pub use stream::{Piece, Splitter};
pub use summary::{Counts, Summary};
pub use viewer::Viewer;
