//! A byte stream to another guest: a virtio console device with one port.
//!
//! Bytes leave through the transmit queue and come in through the receive queue, whose buffers the
//! device has all the time. The queues interrupt vCPU 0, so waiting costs nothing.

use core::sync::atomic::{Ordering, fence};

use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;

use crate::virtio::transport::IoTransport;
use crate::virtio::{Device, Failure, Memory};
use crate::{interrupts, memory};

/// First vector of channels; the entry of the MSI-X table is added.
const VECTOR: u8 = 0x50;
/// Most channels of a guest.
const CHANNELS: u8 = 8;
/// Buffers, and descriptors, of each queue.
const BUFFERS: usize = 16;
/// Bytes of a buffer.
const BUFFER: usize = 256;
/// The queue that the device fills (virtio 1.3, "Console Device", "Virtqueues").
const RECEIVE: u16 = 0;
/// The queue that the device empties.
const TRANSMIT: u16 = 1;

/// Features that the driver accepts: VIRTIO_F_VERSION_1, to which the transport adds.
#[derive(Clone, Copy, Debug)]
struct Features(u64);

type Queue = VirtQueue<Memory, BUFFERS>;

/// A buffer; its number is its place.
type Buffer = &'static mut [u8];

/// The stream.
pub struct Channel {
    transport: IoTransport,
    receive: Queue,
    transmit: Queue,
    /// Buffers that the device fills, by the descriptor they lie in.
    incoming: [Option<Buffer>; BUFFERS],
    /// Buffers with bytes to send, by descriptor; the others are in `free`.
    outgoing: [Option<(Buffer, usize)>; BUFFERS],
    free: [Option<Buffer>; BUFFERS],
    /// A buffer that the device has filled and that has not been read to its end.
    current: Option<(Buffer, core::ops::Range<usize>)>,
}
