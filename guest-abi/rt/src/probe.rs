//! Instructions that may fault: the program goes on behind them and learns of the fault.
//!
//! [`code!`](crate::probe::code) puts an instruction into `asm!` together with an entry in the
//! table `.probes` of the program (guest.ld): its address and where to go on. The trap code looks
//! an exception's address up there and leaves what it was in `r11`, which the instruction must not
//! use. Instructions that are not in the table still panic.
//!
//! ```text
//! let fault: u64;
//! asm!(probe::code!("vmmcall"), out("r11") fault);
//! assert_eq!(Fault::from_word(fault), Some(Fault { vector: 6, error: 0 }));
//! ```

use core::fmt;

/// The assembler lines of an instruction that may fault; `r11` is 0 behind it, or the fault for
/// [`Fault::from_word`].
#[doc(hidden)]
#[macro_export]
macro_rules! __probe_code {
    ($($line:literal),+ $(,)?) => {
        concat!(
            "xor r11d, r11d\n",
            "771:\n",
            $($line, "\n",)+
            "772:\n",
            ".pushsection .probes, \"a\"\n",
            ".quad 771b, 772b\n",
            ".popsection\n",
        )
    };
}

pub use crate::__probe_code as code;

/// Set in the word that describes a fault.
const FAULTED: u64 = 1 << 63;
/// Where the vector stands in that word; the error code is below.
const VECTOR_SHIFT: u32 = 32;

/// Undefined instruction.
pub const UD: u8 = 6;
/// General protection.
pub const GP: u8 = 13;
/// Page fault.
pub const PF: u8 = 14;

/// An exception.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Its vector.
    pub vector: u8,
    /// Its error code, 0 where it has none.
    pub error: u32,
}

impl Fault {
    /// What [`code!`](crate::probe::code) left in `r11`.
    pub fn from_word(word: u64) -> Option<Fault> {
        let vector = (word >> VECTOR_SHIFT) as u8;
        (word & FAULTED != 0).then_some(Fault { vector, error: word as u32 })
    }

    /// The same as a result.
    pub fn check(word: u64) -> Result<(), Fault> {
        Self::from_word(word).map_or(Ok(()), Err)
    }

    fn word(self) -> u64 {
        FAULTED | u64::from(self.vector) << VECTOR_SHIFT | u64::from(self.error)
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Fault { vector, error } = *self;
        match vector {
            1 => write!(f, "#DB"),
            3 => write!(f, "#BP"),
            UD => write!(f, "#UD"),
            7 => write!(f, "#NM"),
            12 => write!(f, "#SS({error:#x})"),
            GP => write!(f, "#GP({error:#x})"),
            PF => write!(f, "#PF({error:#x})"),
            _ => write!(f, "exception {vector}({error:#x})"),
        }
    }
}

/// An entry of the table.
#[repr(C)]
struct Probe {
    at: u64,
    go_on: u64,
}

/// Where the instruction at `rip` goes on, and the word for `r11`; nothing for any other.
pub(crate) fn lookup(rip: u64, fault: Fault) -> Option<(u64, u64)> {
    let probe = table().iter().find(|probe| probe.at == rip)?;
    Some((probe.go_on, fault.word()))
}

#[cfg(not(test))]
fn table() -> &'static [Probe] {
    unsafe extern "C" {
        static __probes_start: Probe;
        static __probes_end: Probe;
    }
    let (start, end) = (&raw const __probes_start, &raw const __probes_end);
    let len = (end as usize - start as usize) / size_of::<Probe>();
    // SAFETY: guest.ld puts whole entries, and nothing else, between the two symbols, in constant
    // memory.
    unsafe { core::slice::from_raw_parts(start, len) }
}

#[cfg(test)]
fn table() -> &'static [Probe] {
    &[]
}

#[cfg(test)]
mod tests {
    use super::Fault;

    #[test]
    fn a_fault_survives_its_register() {
        for fault in [Fault { vector: 6, error: 0 }, Fault { vector: 255, error: u32::MAX }] {
            assert_eq!(Fault::from_word(fault.word()), Some(fault));
            assert_eq!(Fault::check(fault.word()), Err(fault));
        }
        assert_eq!(Fault::check(0), Ok(()));
    }
}
