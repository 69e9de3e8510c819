//! Bytes of a guest, kept out of logs: [`Guest`].
//!
//! Invariant: neither `Debug` nor `defmt` prints what is inside.

use core::fmt;

/// A value that a guest wrote. Whoever works with it says so, by [`Guest::expose`].
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Guest<T>(T);

impl<T> Guest<T> {
    /// Wraps a value that came from a guest.
    pub const fn new(value: T) -> Guest<T> {
        Guest(value)
    }

    /// The value. Do not print it.
    pub const fn expose(&self) -> &T {
        &self.0
    }

    /// The value, to be filled or changed.
    pub const fn expose_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> fmt::Debug for Guest<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guest(redacted)")
    }
}

impl<T> defmt::Format for Guest<T> {
    fn format(&self, f: defmt::Formatter) {
        defmt::write!(f, "Guest(redacted)");
    }
}

#[cfg(test)]
mod tests {
    use super::Guest;

    #[test]
    fn what_a_guest_wrote_is_not_printed() {
        let mut secret = Guest::new([0x73, 0x65]);
        secret.expose_mut()[0] = 0x74;
        assert_eq!(secret.expose(), &[0x74, 0x65]);
        assert_eq!(format!("{secret:?} {secret:#?}"), "Guest(redacted) Guest(redacted)");
    }
}
