//! Feature bits that concern every device (virtio 1.3, "Reserved Feature Bits").

/// A chain may end in a table of its own.
pub const INDIRECT_DESC: u64 = 1 << 28;
/// Either side tells the other from which index on it wants to hear.
pub const EVENT_IDX: u64 = 1 << 29;
/// The device is no legacy device; the transport offers it.
pub const VERSION_1: u64 = 1 << 32;
/// The guest's addresses are translated by the platform; the transport offers it.
pub const ACCESS_PLATFORM: u64 = 1 << 33;
/// Queues have one ring in place of three areas ("Packed Virtqueues").
pub const RING_PACKED: u64 = 1 << 34;

/// What [`crate::Queue`] can do besides packed rings, for [`crate::wire::OFFERS`].
pub const RINGS: u64 = INDIRECT_DESC | EVENT_IDX;
/// All that [`crate::Queue`] can do.
pub const ALL_RINGS: u64 = RINGS | RING_PACKED;
