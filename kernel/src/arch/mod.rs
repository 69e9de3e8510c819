//! Everything that depends on the architecture; there is one.

pub mod x86_64;
