//! What the micro-guests share: [`Cases`] runs named cases and reports each in one line.
//!
//! A guest that has reported `ok` for every case powers off; one with a failure tells the platform
//! of a panic, so a run cannot end in order with a case that failed. Guests that never end a case
//! end by the time limit of the boot test.

#![no_std]

pub mod log;
pub mod registers;
pub mod rng;

use core::fmt;

use cloister_guest_rt::probe::{Fault, GP, UD};
use cloister_guest_rt::{interrupts, power, println};

/// Vector of the debug exception.
const DEBUG: u8 = 1;

/// Why a case failed: what was looked at, what was there, what should have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// A number.
    Value(&'static str, u64, u64),
    /// An instruction's fault; none means that it ran through.
    Fault(&'static str, Option<Fault>, Option<Fault>),
    /// Something else, with a number that helps.
    Other(&'static str, u64),
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Value(what, found, wanted) => {
                write!(f, "{what} is {found:#x}, not {wanted:#x}")
            }
            Self::Fault(what, found, wanted) => {
                write!(f, "{what} gives {found:?}, not {wanted:?}")
            }
            Self::Other(what, number) => write!(f, "{what} ({number:#x})"),
        }
    }
}

/// What a case returns.
pub type Outcome = Result<(), Failed>;

/// The value is the wanted one.
pub fn equal(what: &'static str, found: u64, wanted: u64) -> Outcome {
    if found == wanted { Ok(()) } else { Err(Failed::Value(what, found, wanted)) }
}

/// The condition holds; `number` helps to see why not.
pub fn ensure(what: &'static str, holds: bool, number: u64) -> Outcome {
    if holds { Ok(()) } else { Err(Failed::Other(what, number)) }
}

/// The instruction raised #UD. `word` is what it left in `r11`.
pub fn undefined(what: &'static str, word: u64) -> Outcome {
    faulted(what, word, Fault { vector: UD, error: 0 })
}

/// The instruction raised #GP(0).
pub fn protected(what: &'static str, word: u64) -> Outcome {
    faulted(what, word, Fault { vector: GP, error: 0 })
}

/// The instruction raised this fault.
pub fn faulted(what: &'static str, word: u64, wanted: Fault) -> Outcome {
    let found = Fault::from_word(word);
    if found == Some(wanted) { Ok(()) } else { Err(Failed::Fault(what, found, Some(wanted))) }
}

/// The instruction ran through.
pub fn ran(what: &'static str, word: u64) -> Outcome {
    let found = Fault::from_word(word);
    if found.is_none() { Ok(()) } else { Err(Failed::Fault(what, found, None)) }
}

/// Lets interrupts in that wait; they are off again afterwards. There is no PAUSE in between: QEMU
/// 7.2 stretches the shadow of STI over it.
#[inline(always)]
pub fn let_in() {
    // SAFETY: all vectors have entry code.
    unsafe { core::arch::asm!("sti", "nop", "nop", "nop", "nop", "cli", options(nostack)) };
}

/// This is QEMU 7.2, whose SVM lacks things that later versions and silicon have: it alone knows
/// no debug instruction (INT1). Cases that stand on them say so and leave them out there.
pub fn is_old_emulator() -> bool {
    let before = interrupts::swap(DEBUG, Some(|_| {}));
    let word = attempt!(".byte 0xf1");
    interrupts::swap(DEBUG, before);
    undefined("INT1", word).is_ok()
}

/// Runs cases and counts them.
#[derive(Debug, Default)]
pub struct Cases {
    ok: u32,
    failed: u32,
}

impl Cases {
    /// Runs a case and reports it.
    pub fn run(&mut self, name: &str, case: impl FnOnce() -> Outcome) {
        match case() {
            Ok(()) => {
                self.ok += 1;
                println!("ok {name}");
            }
            Err(failed) => {
                self.failed += 1;
                println!("FAILED {name}: {failed}");
            }
        }
    }

    /// Prints the counts; powers off if every case was ok, else tells of a panic.
    pub fn finish(self) -> ! {
        println!("cases: {} ok, {} failed", self.ok, self.failed);
        if self.failed == 0 && self.ok > 0 { power::off() } else { power::panic(2) }
    }
}

/// Runs an instruction that may fault and evaluates to the word that tells of it. The lines are
/// those of `asm!`; operands follow a semicolon. `r11` is not free.
#[macro_export]
macro_rules! attempt {
    ($($line:literal),+ $(; $($operand:tt)*)?) => {{
        let fault: u64;
        // SAFETY: the micro-guest means the instruction's effect; a fault goes on behind it.
        unsafe {
            ::core::arch::asm!(
                ::cloister_guest_rt::probe::code!($($line),+),
                out("r11") fault,
                $($($operand)*)?
            );
        }
        fault
    }};
}
