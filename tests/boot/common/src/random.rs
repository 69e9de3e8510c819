//! A small generator of seeded numbers: xorshift64*, Vigna, "An experimental exploration of
//! Marsaglia's xorshift generators, scrambled", 2016.

/// The generator; its state is never zero.
#[derive(Clone, Copy, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator; zero is no seed and stands for one.
    pub fn new(seed: u64) -> Random {
        Random(seed.max(1))
    }

    /// The state, with which another life can go on.
    pub fn state(&self) -> u64 {
        self.0
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        (self.draw() >> 16) % limit.max(1)
    }
}
