//! What the monitor must know of its host: [`HostFacts`].
//!
//! Neighbour: `guest_abi::cpuid::features` has the features that are asked for. Invariant: a leaf
//! that the host does not have counts as zero.

use cloister_guest_abi::cpuid::features::all;

/// What the monitor's host is. Read once at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// Vendor, 12 letters.
    pub vendor: [u8; 12],
    /// Family, model and stepping: leaf 1 EAX.
    pub signature: u32,
    /// Which of [`all`] features it has, a bit each.
    pub features: u64,
    /// Size and offset of the AVX part of an XSAVE area.
    pub avx_area: [u32; 2],
    /// Frequency of the TSC in kHz.
    pub tsc_khz: u32,
}

impl HostFacts {
    /// Asks the CPU. `cpuid` gives the four registers for a leaf and a subleaf.
    pub fn read(cpuid: impl Fn(u32, u32) -> [u32; 4], tsc_khz: u32) -> HostFacts {
        let [basic_max, b, c, d] = cpuid(0, 0);
        let [extended_max, ..] = cpuid(0x8000_0000, 0);
        // Some CPUs answer a leaf that they do not have with another one's contents.
        let leaf = |leaf: u32, sub: u32| {
            let highest = if leaf >> 31 == 0 { basic_max } else { extended_max };
            if leaf <= highest { cpuid(leaf, sub) } else { [0; 4] }
        };
        let mut letters = [b, d, c].into_iter().flat_map(u32::to_le_bytes);
        let vendor = core::array::from_fn(|_| letters.next().unwrap_or(0));
        let has = |((_, (number, sub, register), bit, _), place)| {
            let word =
                leaf(number, sub).get::<usize>(register).map_or(0, |word| word >> (bit & 31));
            u64::from(word & 1).unbounded_shl(place)
        };
        let features = all().zip(0u32..).map(has).fold(0, |all, feature| all | feature);
        let [signature, ..] = leaf(1, 0);
        let [size, offset, ..] = leaf(0xd, 2);
        HostFacts { vendor, signature, features, avx_area: [size, offset], tsc_khz }
    }
}
