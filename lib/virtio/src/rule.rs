//! The rules of a ring, by name: [`Rule`].
//!
//! A guest that breaks one has a broken driver or means harm. Its queue is dead from then on, until
//! the guest resets the device; the name goes to the log, once.

/// A rule that a guest broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The size of a queue is no power of two, or more than was offered.
    QueueSize,
    /// An area of a queue is not aligned as "Split Virtqueues" wants it.
    QueueAlignment,
    /// An area of a queue is not in RAM.
    QueueOutside,
    /// More chains are available than descriptors are free.
    AvailableTooFar,
    /// A chain begins with a descriptor that the queue has not.
    HeadTooLarge,
    /// A chain is available again that was not used yet.
    HeadInFlight,
    /// A chain goes on with a descriptor that its table has not.
    NextTooLarge,
    /// A chain has more buffers than the queue has descriptors; a loop has.
    ChainTooLong,
    /// The buffers of a chain are more than 2^32 bytes together.
    ChainTooLarge,
    /// A buffer has no bytes. The specification has no word on it; it would be work for nothing.
    BufferEmpty,
    /// A buffer is not in RAM.
    BufferOutside,
    /// A buffer that the device reads stands behind one that it writes.
    ReadableLast,
    /// A table of a chain's own, which the driver has not accepted as a feature.
    IndirectUnasked,
    /// A table inside a table.
    IndirectNested,
    /// A descriptor names a table and a next descriptor.
    IndirectAndNext,
    /// The length of a table is zero, no multiple of 16, or more than the queue has descriptors.
    IndirectLength,
    /// A table is not in RAM.
    IndirectOutside,
    /// The device wants a buffer to write in this queue, and the chain has none, or one to read,
    /// and it has none, or one of the kind that this queue never has.
    Direction,
    /// A request of a block device has no header of 16 bytes to read.
    BlockHeader,
    /// A request of a block device has no byte to write, where the status belongs.
    BlockStatus,
    /// A request of a block device has buffers of a direction that its type does not have.
    BlockDirection,
    /// What earlier instances of the worker used does not agree with the ring.
    UsedChanged,
    /// What is in flight cannot be taken over from the record of an earlier instance.
    Unfinished,
}

impl Rule {
    /// All rules.
    pub const ALL: [Rule; 23] = [
        Rule::QueueSize,
        Rule::QueueAlignment,
        Rule::QueueOutside,
        Rule::AvailableTooFar,
        Rule::HeadTooLarge,
        Rule::HeadInFlight,
        Rule::NextTooLarge,
        Rule::ChainTooLong,
        Rule::ChainTooLarge,
        Rule::BufferEmpty,
        Rule::BufferOutside,
        Rule::ReadableLast,
        Rule::IndirectUnasked,
        Rule::IndirectNested,
        Rule::IndirectAndNext,
        Rule::IndirectLength,
        Rule::IndirectOutside,
        Rule::Direction,
        Rule::BlockHeader,
        Rule::BlockStatus,
        Rule::BlockDirection,
        Rule::UsedChanged,
        Rule::Unfinished,
    ];

    /// What the guest did, for a log.
    pub const fn text(self) -> &'static str {
        match self {
            Rule::QueueSize => "a queue's size is no power of two that was offered",
            Rule::QueueAlignment => "an area of a queue is not aligned",
            Rule::QueueOutside => "an area of a queue is not in RAM",
            Rule::AvailableTooFar => "more chains are available than descriptors are free",
            Rule::HeadTooLarge => "a chain begins with a descriptor that the queue has not",
            Rule::HeadInFlight => "a chain is available again before it was used",
            Rule::NextTooLarge => "a chain goes on with a descriptor that its table has not",
            Rule::ChainTooLong => "a chain has more buffers than the queue has descriptors",
            Rule::ChainTooLarge => "a chain has more than 2^32 bytes",
            Rule::BufferEmpty => "a buffer has no bytes",
            Rule::BufferOutside => "a buffer is not in RAM",
            Rule::ReadableLast => "a buffer to read stands behind one to write",
            Rule::IndirectUnasked => "an indirect table without the feature",
            Rule::IndirectNested => "an indirect table inside another",
            Rule::IndirectAndNext => "a descriptor names an indirect table and a next one",
            Rule::IndirectLength => "an indirect table of an impossible length",
            Rule::IndirectOutside => "an indirect table is not in RAM",
            Rule::Direction => "a buffer of the wrong direction for its queue",
            Rule::BlockHeader => "a block request without a whole header",
            Rule::BlockStatus => "a block request without a byte for its status",
            Rule::BlockDirection => "a block request with buffers of the wrong direction",
            Rule::UsedChanged => "the used ring is not as the worker left it",
            Rule::Unfinished => "unfinished requests cannot be taken over",
        }
    }
}
