//! What to ask of the disk next: [`Plan`].

use core::ops::Range;

/// What a request is to be. Blocks lie inside [`Limits::blocks`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Write so many blocks from here on.
    Write(u64, u32),
    /// Read them.
    Read(u64, u32),
    /// Make them zero.
    Zeroes(u64, u32),
    /// Give them up.
    Discard(u64, u32),
    /// Keep what was completed.
    Flush,
}

impl Choice {
    /// The blocks that it is about; none of a flush.
    pub fn blocks(&self) -> Range<u64> {
        match *self {
            Self::Write(at, run)
            | Self::Read(at, run)
            | Self::Zeroes(at, run)
            | Self::Discard(at, run) => at..at + u64::from(run),
            Self::Flush => 0..0,
        }
    }

    /// Its name in messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Write(..) => "a write",
            Self::Read(..) => "a read",
            Self::Zeroes(..) => "a write of zeroes",
            Self::Discard(..) => "a discard",
            Self::Flush => "a flush",
        }
    }
}

/// Bounds of the requests.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Blocks from 0 up, not none.
    pub blocks: u64,
    /// Most blocks of a request, not none.
    pub run: u32,
    /// A flush after so many requests; 0 for none.
    pub flush: u32,
}

/// The choices of one seed.
#[derive(Clone, Debug)]
pub struct Plan<R> {
    random: R,
    limits: Limits,
    since_flush: u32,
}

impl<R: FnMut() -> u64> Plan<R> {
    /// Choices by these numbers.
    pub fn new(random: R, limits: Limits) -> Self {
        Self { random, limits, since_flush: 0 }
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        (self.random)() % end.max(1)
    }

    /// The next request: of a hundred 50 write, 40 read, 6 zero and 4 discard.
    pub fn choose(&mut self) -> Choice {
        self.since_flush += 1;
        if self.limits.flush != 0 && self.since_flush >= self.limits.flush {
            self.since_flush = 0;
            return Choice::Flush;
        }
        let longest = self.limits.blocks.min(self.limits.run.into());
        let run = 1 + self.below(longest) as u32;
        let block = self.below(self.limits.blocks - u64::from(run) + 1);
        match self.below(100) {
            0..50 => Choice::Write(block, run),
            50..90 => Choice::Read(block, run),
            90..96 => Choice::Zeroes(block, run),
            _ => Choice::Discard(block, run),
        }
    }
}
