//! The guest's disk: a virtio block device that is the same whatever is behind it.
//!
//! Requests are whole blocks of [`BLOCK_SIZE`] bytes at multiples of it, although the protocol
//! counts in sectors of 512; others end in an error. Flush, discard and write zeroes are always
//! there, discarding and zeroing one range in each request.

/// Virtio device type of a block device.
pub const KIND: u16 = 2;
/// Bytes of a block.
pub const BLOCK_SIZE: u32 = 4096;
/// Number of queues.
pub const QUEUES: u16 = 4;
/// Largest size of each queue.
pub const QUEUE_SIZE: u16 = 128;
/// Most segments of data in a request.
pub const SEG_MAX: u32 = 32;
/// Most buffers of a request: header, segments, status.
pub const BUFFERS_MAX: usize = SEG_MAX as usize + 2;
/// Most blocks that one request discards or fills with zeroes: 64 MiB.
pub const RANGE_BLOCKS_MAX: u32 = 16_384;
