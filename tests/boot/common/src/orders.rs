//! What a probe can be told to do, by number, with up to four arguments.

/// Answers.
pub const PING: u64 = 1;
/// Makes the system call `number, a, b, c` and leaves the registers in the results.
pub const CALL: u64 = 2;
/// Counts up for ever.
pub const SPIN: u64 = 3;
/// Waits for the supervisor's bit until a TSC, then counts `BEAT` up and answers with the status
/// and the bits; results 2 and 3 are the TSC before and after.
pub const WAIT: u64 = 4;
/// Reads the null page at a TSC, which lets a fault meet something else.
pub const FAULT_AT: u64 = 5;
/// Measures for so many TSC ticks how long it is kept from the CPU. Gaps beyond the second
/// argument's ticks count; those with less than the third's between them are one delay. Results:
/// what the longest delay took, from its beginning to its end how long it was, number of gaps.
pub const GAPS: u64 = 6;
/// Sleeps `count` times for `ticks`, and measures how late it wakes at most.
pub const LATENESS: u64 = 7;
/// Wants to run for so many ticks, then sleeps for so many, again and again, on a grid that begins
/// so many ticks after the order.
pub const HOG: u64 = 8;
/// Loads FPU state made from a seed and holds it for so many ticks, looking at it all the time.
pub const FPU_HOLD: u64 = 9;
/// Loads FPU state made from a seed and answers, holding on to it.
pub const FPU_LOAD: u64 = 10;
/// Looks at the FPU state; the results are the number of bytes that are not initial.
pub const FPU_LOOK: u64 = 11;
/// Interrupts: results say what came and when, see the probe's `irq`.
pub const IRQ_CYCLE: u64 = 12;
/// Lets the device interrupt as often as it can; counts in `BEAT`.
pub const IRQ_STORM: u64 = 13;
/// Lets the device interrupt so many times, a pause of so many ticks between two of them.
pub const IRQ_PACED: u64 = 14;
/// Makes random calls until it has made so many.
pub const FUZZ: u64 = 15;
/// Answers every ping, and dirties its memory before, so that a restart has something to undo.
pub const DIRTY: u64 = 16;
/// Waits for the supervisor's bit again and again and counts in `BEAT` how often it came.
pub const COUNT: u64 = 17;
/// Instructions that look dangerous and do nothing; the results say what they did.
pub const HARMLESS: u64 = 18;
/// Orders from here on are faults: [`crate::faults::ALL`] by index.
pub const FAULT: u64 = 0x100;

/// Orders to a further thread: sleep and count.
pub const THREAD_POLL: u64 = 0;
/// Count without a pause.
pub const THREAD_SPIN: u64 = 1;
/// Read the null page.
pub const THREAD_FAULT: u64 = 2;
/// Sleep for ever.
pub const THREAD_SLEEP: u64 = 3;
