//! Typed I/O ports. A [`PortRange`] is what the manifest grants; a [`Port`] is one register in
//! it, checked once when it is made, so that each access afterwards is one instruction.

use core::arch::asm;
use core::marker::PhantomData;

/// A range of I/O ports that this task may use.
#[derive(Debug)]
pub struct PortRange {
    first: u16,
    count: u16,
}

/// A register does not lie in the granted range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, defmt::Format)]
pub struct OutOfRange {
    /// Offset of the register from the range's start.
    pub offset: u16,
    /// Ports in the range.
    pub count: u16,
}

impl PortRange {
    pub(crate) fn new(first: u16, count: u16) -> PortRange {
        PortRange { first, count }
    }

    /// The register of width `W` at an offset from the start of the range.
    pub fn port<W: Width>(&self, offset: u16) -> Result<Port<W>, OutOfRange> {
        let end = offset.checked_add(W::BYTES);
        match (end, self.first.checked_add(offset)) {
            (Some(end), Some(number)) if end <= self.count => {
                Ok(Port { number, _width: PhantomData })
            }
            _ => Err(OutOfRange { offset, count: self.count }),
        }
    }
}

/// A width of access: `u8`, `u16` or `u32`.
pub trait Width: Copy + sealed::Access {
    /// How many ports an access covers.
    const BYTES: u16;
}

/// One register.
#[derive(Debug)]
pub struct Port<W> {
    number: u16,
    _width: PhantomData<fn() -> W>,
}

impl<W: Width> Port<W> {
    /// Reads the register.
    pub fn read(&self) -> W {
        W::input(self.number)
    }

    /// Writes the register.
    pub fn write(&self, value: W) {
        W::output(self.number, value);
    }
}

mod sealed {
    /// The instructions; not nameable outside, because the port number is not checked here.
    pub trait Access {
        fn input(port: u16) -> Self;
        fn output(port: u16, value: Self);
    }
}

macro_rules! width {
    ($type:ty, $bytes:literal, $register:tt) => {
        impl Width for $type {
            const BYTES: u16 = $bytes;
        }

        impl sealed::Access for $type {
            fn input(port: u16) -> $type {
                let value;
                // SAFETY: the port lies in a range that the manifest grants to this task; a device
                // whose registers could write to memory is confined by the IOMMU or not granted.
                unsafe {
                    asm!(concat!("in ", $register, ", dx"), out($register) value, in("dx") port,
                         options(nostack, preserves_flags));
                }
                value
            }

            fn output(port: u16, value: $type) {
                // SAFETY: as for `input`.
                unsafe {
                    asm!(concat!("out dx, ", $register), in("dx") port, in($register) value,
                         options(nostack, preserves_flags));
                }
            }
        }
    };
}

width!(u8, 1, "al");
width!(u16, 2, "ax");
width!(u32, 4, "eax");

#[cfg(test)]
mod tests {
    use super::{OutOfRange, PortRange};

    #[test]
    fn a_register_must_lie_in_the_range_with_all_its_bytes() {
        let range = PortRange::new(0x3f8, 8);
        assert!(range.port::<u8>(7).is_ok());
        assert!(range.port::<u32>(4).is_ok());
        assert_eq!(range.port::<u8>(8).err(), Some(OutOfRange { offset: 8, count: 8 }));
        assert!(range.port::<u16>(7).is_err());
        assert!(range.port::<u32>(u16::MAX - 1).is_err());
    }

    #[test]
    fn a_range_at_the_end_of_the_port_space_does_not_wrap() {
        let range = PortRange::new(0xfff0, u16::MAX);
        assert!(range.port::<u8>(0x10).is_err());
    }
}
