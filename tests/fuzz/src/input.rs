//! Bytes as a list of decisions: [`Input`].
//!
//! Targets read it from the front. Invariant: reading never fails; behind the end there are zeros,
//! and [`Input::is_empty`] ends the loops.

/// What is left of an input.
#[derive(Clone, Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of the bytes.
    pub fn new(bytes: &'a [u8]) -> Input<'a> {
        Input(bytes)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is left, at most so much of it.
    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Eight bits.
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// Sixteen bits.
    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// 32 bits.
    pub fn word(&mut self) -> u32 {
        u32::from(self.short()) | u32::from(self.short()) << 16
    }

    /// 64 bits.
    pub fn long(&mut self) -> u64 {
        u64::from(self.word()) | u64::from(self.word()) << 32
    }

    /// A number below `end`, of as many bytes as it needs.
    pub fn below(&mut self, end: u64) -> u64 {
        let number = match end {
            0..=0x100 => u64::from(self.byte()),
            0x101..=0x1_0000 => u64::from(self.short()),
            _ => self.long(),
        };
        number % end.max(1)
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// Yes or no.
    pub fn flag(&mut self) -> bool {
        self.byte() & 1 != 0
    }

    /// A value of the kinds that registers care for: small, one bit, all ones, anything.
    pub fn value(&mut self) -> u64 {
        let kind = self.byte();
        match kind & 7 {
            0 | 1 => u64::from(kind >> 3),
            2 => 1 << (self.byte() & 63),
            3 => u64::MAX >> (self.byte() & 63),
            4 => u64::from(self.byte()),
            5 => u64::from(self.short()),
            6 => u64::from(self.word()),
            _ => self.long(),
        }
    }

    /// How much later something happens: mostly soon.
    pub fn delay(&mut self) -> u64 {
        match self.byte() {
            kind @ 0..200 => u64::from(kind) * 7,
            200..250 => u64::from(self.short()) << 8,
            _ => self.long() >> 8,
        }
    }
}
