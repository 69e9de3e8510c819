//! The page that a monitor and a worker share for one virtio device: words, each written by one
//! side.
//!
//! It is state, not messages, so that either side may be restarted at any moment and reads where
//! things stand. The monitor writes the queues, then [`ORDER`]; the worker does what the order says
//! and writes it to [`ANSWER`]. Orders count up: an even one means *reset* (stop, touch no guest
//! page any more), an odd one means *live* (work these queues). Both sides signal after a change.
//!
//! - The monitor tells the guest that a reset is done only when the answer equals the order.
//! - The monitor enters the guest for the first time only when every worker has answered a reset,
//!   so no page of a new life is written by an old request.
//! - A worker that cannot go on (the guest broke the rules of a ring, or the worker was restarted
//!   while the device was live and kept no record of it) writes the order to [`BROKEN`]: the device needs a reset.
//! - A worker that has used a buffer sets the queue's bit in [`PENDING`] by an atomic OR; the
//!   monitor takes the bits with a swap and posts the interrupt, if the vector is not masked.
//! - The configuration space is the worker's: words [`CONFIG`] and up, and [`CONFIG_GENERATION`],
//!   which it increments before and after a change (odd while it changes). A change of generation
//!   also makes the monitor send a configuration interrupt.
//! - A supervisor that has given the worker up writes [`GONE`] and signals the monitor. The worker's
//!   devices are off the bus then, so a reset needs nobody's answer.

/// Written by the monitor: the order; 0 before the first one.
pub const ORDER: usize = 0;
/// Written by the monitor: accepted features.
pub const FEATURES: usize = 1;
/// Written by the monitor: how many doorbells came to it instead of to the kernel, by way of the
/// configuration space. A change rings every queue.
pub const RINGS: usize = 2;
/// Written by the monitor: queue `q` at `QUEUES + QUEUE_WORDS * q`: size (0: not enabled), then
/// guest-physical addresses of descriptors, driver area, device area.
pub const QUEUES: usize = 8;
/// Words of a queue.
pub const QUEUE_WORDS: usize = 4;
/// Most queues.
pub const QUEUES_MAX: usize = 8;

/// Written by the worker: the last order that it has followed.
pub const ANSWER: usize = 64;
/// Written by the worker: the live order that it gave up on, 0 for none.
pub const BROKEN: usize = 65;
/// Bits set by the worker and taken by the monitor: queues with used buffers.
pub const PENDING: usize = 66;
/// Written by the worker: generation of the configuration.
pub const CONFIG_GENERATION: usize = 67;
/// Written by the worker before it answers its first reset: features that it offers, besides
/// VIRTIO_F_VERSION_1 and VIRTIO_F_ACCESS_PLATFORM, which every device of the platform has.
pub const OFFERS: usize = 68;
/// Written by the worker before it answers its first reset: largest size of each queue, a power
/// of two.
pub const QUEUE_SIZE: usize = 69;
/// Written by the supervisor: not 0 when the worker is gone for good, so that the device needs a
/// reset and every reset is over at once. Cleared by a worker that begins.
pub const GONE: usize = 70;
/// Written by the worker: 64 bytes of configuration.
pub const CONFIG: usize = 72;
/// Words of configuration.
pub const CONFIG_WORDS: usize = 8;

/// Words in use.
pub const WORDS: usize = 80;
/// The order means *live*.
pub const LIVE: u64 = 1;

const _: () = assert!(QUEUES + QUEUE_WORDS * QUEUES_MAX <= ANSWER);
const _: () = assert!(CONFIG + CONFIG_WORDS <= WORDS);
