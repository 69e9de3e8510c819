//! What CPUID tells a guest: [`CpuidTable`], made once from the manifest and the host's facts, then
//! a lookup.
//!
//! Feature bits come from `guest_abi::cpuid::features`, the one table of them with reasons; who the
//! virtual CPU is and what every guest is told, from its parent. The numbers of the virtual machine
//! are made here. All are the same on every host, but for three: the frequency of the TSC, features
//! with which a guest kernel protects itself, and, for the same purpose, family and model where
//! vendor and identity agree (a kernel chooses its defences by them). Neighbour: `msr` has the
//! registers that go with the bits.
//!
//! Invariant: no bit is shown that the host of the appliance cannot honour: [`CpuidTable::new`]
//! refuses a host that lacks a feature of the baseline.

mod host;

use crate::ensure;
use crate::num::{index, low32};
use cloister_guest_abi::cpuid::features::{self, AMD_REPEATED, Source};
use cloister_guest_abi::cpuid::{self as platform, ADDRESS_BITS, CACHES, IDENTITIES, Identity};
use cloister_proto::vm::{IDENTITY_AMD, IDENTITY_NEUTRAL, MAX_VCPUS, VM_V3, VmConfig};
pub use host::HostFacts;

/// Rows of the table by kind of leaf: basic ones, the platform's, extended ones.
const BASIC: u32 = platform::BASIC_MAX + 1;
const PLATFORM: u32 = 0x12;
const EXTENDED: u32 = 0x22;
const ROWS: usize = 0xe + 0x12 + 0x22;
/// CR4.OSXSAVE, and the bit of leaf 1 ECX that shows it.
const CR4_OSXSAVE: u64 = 1 << 18;
const OSXSAVE: u32 = 1 << 27;
/// Size and offset of the AVX part of an XSAVE area (Intel SDM, "Standard Format of XSAVE Area").
const AVX_AREA: [u32; 2] = [256, 576];
const XCR0_AVX: u64 = 4;

/// Why a virtual machine's CPU cannot be what its manifest says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuidError {
    /// The host lacks this feature of the baseline.
    Lacks(&'static str),
    /// The host's AVX state has another size or offset than every guest is told.
    AvxArea([u32; 2]),
    /// No such identity.
    Identity(u32),
    /// No such number of virtual CPUs.
    Vcpus(u32),
    /// The frequency of the TSC is unknown.
    TscUnknown,
}

/// What an answer depends on besides the table.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuidInputs {
    /// APIC id: the vCPU's number.
    pub apic_id: u32,
    /// CR4, as at this exit.
    pub cr4: u64,
    /// XCR0.
    pub xcr0: u64,
}

/// The answers for one virtual machine.
#[derive(Clone, Debug)]
pub struct CpuidTable {
    rows: [[u32; 4]; ROWS],
    vcpus: u32,
    v3: bool,
    mismatched: bool,
}

impl CpuidTable {
    /// Makes the table; refuses a host that cannot carry the virtual machine.
    pub fn new(config: &VmConfig, host: &HostFacts) -> Result<CpuidTable, CpuidError> {
        let identity = IDENTITIES.get(index(u64::from(config.identity)));
        let identity = identity.ok_or(CpuidError::Identity(config.identity))?;
        let is_amd = config.identity == IDENTITY_AMD;
        let (vcpus, v3) = (config.vcpus, config.flags & VM_V3 != 0);
        let is_count = (1..=MAX_VCPUS).contains(&index(u64::from(vcpus)));
        ensure(is_count, CpuidError::Vcpus(vcpus))?;
        ensure(host.tsc_khz != 0, CpuidError::TscUnknown)?;
        ensure(!v3 || host.avx_area == AVX_AREA, CpuidError::AvxArea(host.avx_area))?;
        let matches = host.vendor == identity.vendor;
        // Guest kernels choose their defences by it; emulated CPUs claim families from before.
        let is_known = matches && host.signature >> 20 >= identity.signature >> 20;
        let signature = if is_known { host.signature } else { identity.signature };
        let mismatched = config.identity != IDENTITY_NEUTRAL && !matches;
        let mut table = CpuidTable { rows: [[0; 4]; ROWS], vcpus, v3, mismatched };
        table.fill(identity, is_amd, signature, host.tsc_khz);
        for (number, (name, (leaf, _, register), bit, source)) in (0u32..).zip(features::all()) {
            let has = host.features.unbounded_shr(number) & 1 != 0;
            let shown = match source {
                Source::V3 if !v3 => false,
                Source::V2 | Source::V3 if !has => return Err(CpuidError::Lacks(name)),
                Source::V2 | Source::V3 | Source::Platform => true,
                Source::Identity(identity) => identity == config.identity,
                Source::Several => vcpus > 1,
                Source::SeveralAmd => vcpus > 1 && is_amd,
                Source::Protection(identity) => identity == config.identity && matches && has,
            };
            let word = table.rows.get_mut(place(leaf)).and_then(|row| row.get_mut(register));
            word.into_iter().for_each(|word| *word |= u32::from(shown).unbounded_shl(bit));
        }
        if is_amd {
            let [.., features] = table.values(1);
            let [a, b, c, d] = table.values(0x8000_0001);
            table.set(0x8000_0001, [a, b, c, d | features & AMD_REPEATED]);
        }
        Ok(table)
    }

    /// The four registers for a leaf and a subleaf.
    #[inline(always)]
    pub fn answer(&self, leaf: u32, sub: u32, inputs: &CpuidInputs) -> [u32; 4] {
        let row = self.values(leaf);
        match leaf {
            1 | 4 | 7 | 0xb | 0xd | 0x8000_001d | 0x8000_001e => {
                self.depending(leaf, sub, row, inputs)
            }
            _ => row,
        }
    }

    /// Whether the guest is told of another vendor than the host's: it then protects itself
    /// against the weaknesses of CPUs that it does not run on, which deserves a warning.
    pub fn is_mismatched(&self) -> bool {
        self.mismatched
    }

    /// The bits of XCR0 that a guest may set.
    pub fn xcr0_supported(&self) -> u64 {
        if self.v3 { 7 } else { 0 }
    }

    fn depending(&self, leaf: u32, sub: u32, row: [u32; 4], inputs: &CpuidInputs) -> [u32; 4] {
        let ([a, b, c, d], id) = (row, inputs.apic_id);
        let [avx_size, avx_offset] = AVX_AREA;
        let whole = avx_offset.saturating_add(avx_size);
        match (leaf, sub) {
            (1, _) => {
                let osxsave = if inputs.cr4 & CR4_OSXSAVE != 0 { OSXSAVE } else { 0 };
                // OSXSAVE is shown only with XSAVE, the bit below it.
                [a, b | id.wrapping_shl(24), c | osxsave & c << 1, d]
            }
            (7, 0) => row,
            // Leaves that belong to one identity; their rows tell that they are there.
            (4 | 0x8000_001d | 0x8000_001e, _) if a == 0 => row,
            (4 | 0x8000_001d, _) => self.cache(leaf, sub),
            // Intel SDM, "Extended Topology Enumeration Leaf": no siblings, then the cores.
            (0xb, 0) => [0, 1, 1 << 8, id],
            (0xb, 1) => [id_bits(self.vcpus), self.vcpus, 1 | 2 << 8, id],
            (0xb, _) => [0, 0, sub & 0xff, id],
            // Intel SDM, "Processor Extended State Enumeration Main Leaf"; the row is subleaf 1.
            (0xd, 0) if self.v3 && inputs.xcr0 & XCR0_AVX != 0 => [7, whole, whole, 0],
            (0xd, 0) if self.v3 => [7, avx_offset, whole, 0],
            (0xd, 1) => row,
            (0xd, 2) if self.v3 => [avx_size, avx_offset, 0, 0],
            (0x8000_001e, _) => [id, id & 0xff, 0, 0],
            _ => [0; 4],
        }
    }

    /// A cache as leaves 4 and 0x8000_001d tell it; the ids in the package are Intel's addition.
    fn cache(&self, leaf: u32, sub: u32) -> [u32; 4] {
        let Some(&(kind, ways, sets)) = CACHES.get(index(u64::from(sub))) else { return [0; 4] };
        let last_id = 1u32.unbounded_shl(id_bits(self.vcpus)).saturating_sub(1);
        let sharers = if kind >> 5 == 3 { last_id } else { 0 };
        let package = if leaf == 4 { last_id } else { 0 };
        // Self-initializing; lines of 64 bytes.
        let first = kind | 1 << 8 | sharers << 14 | package << 26;
        [first, 63 | ways.saturating_sub(1) << 22, sets.saturating_sub(1), 0]
    }

    /// Everything but features.
    fn fill(&mut self, identity: &Identity, is_amd: bool, signature: u32, tsc_khz: u32) {
        let rows = platform::ROWS.iter().chain(identity.rows);
        rows.for_each(|(leaf, values)| self.set(*leaf, *values));
        let [b, d, c] = platform::words(&identity.vendor);
        self.set(0, [platform::BASIC_MAX, b, c, d]);
        // Number of processors in the package.
        self.set(1, [signature, platform::CLFLUSH | self.vcpus << 16, 0, 0]);
        let timer_khz = low32(platform::APIC_TIMER_HZ / 1000);
        self.set(platform::TIMING_LEAF, [tsc_khz, timer_khz, 0, 0]);
        if is_amd {
            self.set(0x8000_0000, [platform::EXTENDED_MAX_AMD, b, c, d]);
            self.set(0x8000_0001, [signature, 0, 0, 0]);
            let cores = self.vcpus.saturating_sub(1) | id_bits(self.vcpus) << 12;
            self.set(0x8000_0008, [ADDRESS_BITS, 0, cores, 0]);
        }
    }

    #[inline(always)]
    fn values(&self, leaf: u32) -> [u32; 4] {
        self.rows.get(place(leaf)).copied().unwrap_or([0; 4])
    }

    fn set(&mut self, leaf: u32, values: [u32; 4]) {
        if let Some(row) = self.rows.get_mut(place(leaf)) {
            *row = values;
        }
    }
}

/// The row of a leaf; of a leaf that does not exist, a row that does not.
#[inline(always)]
fn place(leaf: u32) -> usize {
    let number = leaf & 0x0fff_ffff;
    let (first, count) = match leaf >> 28 {
        0 => (0, BASIC),
        4 => (BASIC, PLATFORM),
        8 => (BASIC.wrapping_add(PLATFORM), EXTENDED),
        _ => return usize::MAX,
    };
    if number < count { index(u64::from(first.wrapping_add(number))) } else { usize::MAX }
}

/// Bits of an APIC id that tell the cores of the package apart.
fn id_bits(vcpus: u32) -> u32 {
    u32::BITS.saturating_sub(vcpus.saturating_sub(1).leading_zeros())
}
