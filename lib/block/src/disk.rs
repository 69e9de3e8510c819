//! What a disk is to the server: [`Disk`], with its [`Limits`], [`Command`]s and [`Outcome`]s.
//!
//! A driver's core implements it for the controller it knows. The server keeps the limits, so a
//! disk checks nothing twice. Invariant: a disk answers each command that it took once, whatever
//! its hardware does, and not before the hardware is done with the command's memory.

/// Bytes of a page; memory that pieces are cut along.
pub const PAGE: u64 = 4096;

/// A piece of memory, at the address that the device uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Its first byte.
    pub address: u64,
    /// Bytes.
    pub len: u64,
}

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Blocks into memory.
    Read,
    /// Memory into blocks.
    Write,
    /// Whatever was written and answered survives a loss of power.
    Flush,
    /// The blocks' content is no longer needed.
    Discard,
    /// The blocks read as zeros from now on.
    Zero,
}

impl Operation {
    /// Whether it changes blocks, so that the order of overlapping ones matters.
    pub const fn changes(self) -> bool {
        matches!(self, Operation::Write | Operation::Discard | Operation::Zero)
    }

    /// Whether it has memory.
    pub const fn moves_data(self) -> bool {
        matches!(self, Operation::Read | Operation::Write)
    }
}

/// Which request a command belongs to. Of several commands of one request all have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Place in the server's table.
    pub slot: u8,
    /// How often that place was used before.
    pub generation: u32,
    /// Whose request it is; a disk with several queues may keep clients apart by it.
    pub client: u8,
}

/// A command, within the disk's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// What to do.
    pub operation: Operation,
    /// The first block.
    pub block: u64,
    /// Number of blocks; 0 for a flush.
    pub blocks: u32,
    /// The memory of a read or write, as long as the blocks; empty otherwise.
    pub segments: &'a [Segment],
}

/// How the pieces of memory of one command may follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// As they like.
    Any,
    /// They meet at page boundaries: each but the first begins at one, each but the last ends at
    /// one.
    Pages,
}

/// What a disk can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a block, a power of two from 512 to [`PAGE`].
    pub block_size: u32,
    /// Blocks of the disk.
    pub blocks: u64,
    /// Most bytes of one read or write, at least a block.
    pub bytes_max: u64,
    /// Most pieces of memory of one command.
    pub segments_max: usize,
    /// How the pieces may follow each other.
    pub fit: Fit,
    /// Every address and length of a piece is a multiple of this power of two.
    pub align: u64,
    /// Most blocks of one [`Operation::Zero`]; 0 if the disk has no such command.
    pub zero_blocks_max: u32,
    /// Most blocks of one [`Operation::Discard`]; 0 if the disk has no such command.
    pub discard_blocks_max: u32,
    /// Whether a flush does anything.
    pub write_cache: bool,
}

/// The disk can take no command now; ask again after the next answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Done,
    /// It failed, or the disk is lost.
    Failed,
}

/// A disk.
pub trait Disk {
    /// What it can do. It does not change.
    fn limits(&self) -> &Limits;

    /// Takes a command. It need not reach the device before [`Disk::ring`].
    fn submit(&mut self, tag: Tag, command: &Command<'_>) -> Result<(), Busy>;

    /// Has the device begin with what was taken. Called once after a round of commands.
    fn ring(&mut self);

    /// The next command that ended, if one did.
    fn poll(&mut self) -> Option<(Tag, Outcome)>;

    /// The commands of a request are not wanted any more: if the device has to be reset, they fail
    /// instead of being tried again.
    fn cancel(&mut self, tag: Tag);
}
