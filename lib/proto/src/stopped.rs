//! Why a virtual machine cannot go on: what its monitor leaves with, and the supervisor reads.
//!
//! [`Stopped`] and its codes. Invariant: a detail keeps code, byte and every canonical instruction
//! pointer, and each code has words of its own.

/// Why a virtual machine cannot go on: the detail of [`cloister_abi::fault::LeaveReason::Stopped`].
///
/// The low byte is the code, the next one what the code defines, and the upper 48 bits are the
/// guest's instruction pointer, whose bits 48 and up repeat bit 47 (canonical addresses).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// One of the codes `STOPPED_…`.
    pub code: u8,
    /// [`STOPPED_PANIC`]: the byte that the guest wrote. [`STOPPED_INVALID`]: the low byte of the
    /// vendor's code. [`STOPPED_DEVICE_PAGE`]: 0 a fetch, 1 a page-table walk.
    pub byte: u8,
    /// The guest's instruction pointer.
    pub rip: u64,
}

/// Triple fault.
pub const STOPPED_TRIPLE_FAULT: u8 = 1;
/// The guest says that it panicked.
pub const STOPPED_PANIC: u8 = 2;
/// The guest's state cannot be entered.
pub const STOPPED_INVALID: u8 = 3;
/// The guest fetched code from a device page, or has page tables there.
pub const STOPPED_DEVICE_PAGE: u8 = 4;
/// The host's CPU lacks what the virtual platform promises.
pub const STOPPED_HOST: u8 = 5;
/// The guest touched more device pages in one instruction than there are slots for.
pub const STOPPED_TOO_MANY_PAGES: u8 = 6;
/// A worker did not answer in time, so a device cannot be reset.
pub const STOPPED_WORKER: u8 = 7;
/// The manifest's description of the virtual machine is not one that the monitor can run.
pub const STOPPED_CONFIG: u8 = 8;

impl Stopped {
    /// The detail of `leave`.
    pub const fn detail(self) -> u64 {
        self.rip << 16 | (self.byte as u64) << 8 | self.code as u64
    }

    /// What a detail says.
    pub const fn from_detail(detail: u64) -> Stopped {
        let [code, byte, ..] = detail.to_le_bytes();
        Stopped { code, byte, rip: ((detail as i64) >> 16) as u64 }
    }

    /// The code in words.
    pub const fn name(self) -> &'static str {
        match self.code {
            STOPPED_TRIPLE_FAULT => "triple fault",
            STOPPED_PANIC => "guest panic",
            STOPPED_INVALID => "a state that the processor cannot enter",
            STOPPED_DEVICE_PAGE if self.byte == 0 => "code fetched from a device page",
            STOPPED_DEVICE_PAGE => "page tables in a device page",
            STOPPED_HOST => "the processor lacks what the virtual platform promises",
            STOPPED_TOO_MANY_PAGES => "one instruction touched too many device pages",
            STOPPED_WORKER => "the task behind a device did not answer",
            STOPPED_CONFIG => "the monitor cannot run what the manifest describes",
            _ => "a reason that this supervisor does not know",
        }
    }
}
