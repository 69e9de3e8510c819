//! What the decoder has to say: [`Event`].

/// How urgent a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Finest detail.
    Trace,
    /// For the author of the task.
    Debug,
    /// The state changed.
    Info,
    /// A frame of plain text, which has no level.
    Print,
    /// The system is degraded.
    Warn,
    /// Someone must act.
    Error,
}

/// One thing that the serial stream said.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A line of plain text that stood outside frames.
    Text(String),
    /// Bytes for the terminal, which may stop anywhere: what guests write, and the console's answers.
    Terminal(Vec<u8>),
    /// A message of a task or of the kernel.
    Log {
        /// Name of the task, or `kernel`.
        source: String,
        /// The core that wrote it.
        core: u8,
        /// Time stamp counter when it was written.
        tsc: u64,
        /// Seconds since the boot record, once the console told the counter's frequency.
        seconds: Option<f64>,
        /// How urgent it is.
        level: Level,
        /// The text; it may have several lines.
        message: String,
        /// `file:line` of the log statement.
        location: Option<String>,
    },
    /// Frames never arrived: the ring overflowed or the wire damaged them.
    Lost {
        /// Name of the task, or `kernel`.
        source: String,
        /// How many.
        frames: u64,
    },
    /// A number that a benchmark measured.
    Bench {
        /// Its name, as in docs/promises.md.
        key: String,
        /// The number.
        value: u64,
        /// What it counts.
        unit: String,
    },
    /// Where a task or the kernel was.
    Backtrace {
        /// Name of the task, or `kernel`.
        source: String,
        /// One line per function, innermost first; inlined functions have lines of their own.
        frames: Vec<String>,
    },
    /// Bytes that were neither text nor a whole frame, or a frame that its ELF cannot explain.
    Corrupt {
        /// Who seems to have sent it, if the head of the frame was readable.
        source: Option<String>,
        /// What is wrong.
        reason: String,
        /// The bytes; of noise between frames the first few hundred.
        bytes: Vec<u8>,
    },
}
