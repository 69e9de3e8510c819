//! What CPUID tells that is the platform's own: its leaves, who the virtual CPU is, and by
//! [`features`] what it can do.
//!
//! The signature at leaf 0x4000_0000 is KVM's, because it is what makes a stock Linux keep x2APIC
//! without interrupt remapping; of KVM's features only "no I/O delay" is offered. Our own leaves
//! are apart from it.

pub mod features;

/// Highest hypervisor leaf in EAX; signature in EBX, ECX, EDX.
pub const SIGNATURE_LEAF: u32 = 0x4000_0000;
/// The signature, 12 bytes.
pub const SIGNATURE: [u8; 12] = *b"KVMKVMKVM\0\0\0";
/// EAX: [`NO_IO_DELAY`].
pub const FEATURES_LEAF: u32 = 0x4000_0001;
/// Bit 1 of the features.
pub const NO_IO_DELAY: u32 = 1 << 1;
/// EAX: frequency of the TSC in kHz. EBX: frequency of the APIC timer in kHz before its divider.
pub const TIMING_LEAF: u32 = 0x4000_0010;
/// EAX: [`crate::VERSION`]; EBX, ECX, EDX: [`CLOISTER`].
pub const CLOISTER_LEAF: u32 = 0x4000_0011;
/// What stands in [`CLOISTER_LEAF`].
pub const CLOISTER: [u8; 12] = *b"CloisterGues";
/// Highest hypervisor leaf.
pub const LEAF_MAX: u32 = CLOISTER_LEAF;
/// Frequency of the APIC timer before its divider, in Hz: the same on every host.
pub const APIC_TIMER_HZ: u64 = 1_000_000_000;

/// CPU identities: [`VmConfig::identity`].
pub const IDENTITY_AMD: u32 = 0;
/// GenuineIntel.
pub const IDENTITY_INTEL: u32 = 1;
/// A vendor that no kernel knows.
pub const IDENTITY_NEUTRAL: u32 = 2;

/// Physical and linear address bits: every host has as many, and RAM ends far below.
pub const ADDRESS_BITS: u32 = 36 | 48 << 8;
/// Line size of CLFLUSH in 8 bytes, where leaf 1 EBX has it.
pub const CLFLUSH: u32 = 8 << 8;
/// Highest basic leaf: the last that is needed, below those that tell frequencies.
pub const BASIC_MAX: u32 = 0xd;
/// Highest extended leaf, and that of the identity `amd`.
pub const EXTENDED_MAX: u32 = 0x8000_0008;
/// With leaves of AMD's own.
pub const EXTENDED_MAX_AMD: u32 = 0x8000_0021;

/// Who a virtual CPU is told to be.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Vendor, 12 letters.
    pub vendor: [u8; 12],
    /// Family, model and stepping: leaf 1 EAX.
    pub signature: u32,
    /// Leaves of this identity: number, and EAX to EDX.
    pub rows: &'static [(u32, [u32; 4])],
}

/// By [`IDENTITY_AMD`] and so on. AMD family 17h, model 31h, and Intel family 6, model 55h: models
/// for which Linux takes the weaknesses of their time for granted, and defends itself without
/// registers that a vCPU does not have. Family 6, model 0 means nothing under a vendor that no
/// kernel knows.
pub const IDENTITIES: [Identity; 3] = [
    Identity { vendor: *b"AuthenticAMD", signature: 0x0083_0f10, rows: &AMD },
    Identity { vendor: *b"GenuineIntel", signature: 0x0005_0654, rows: &INTEL },
    Identity { vendor: *b"CloisterVCPU", signature: 0x0000_0600, rows: &[] },
];

/// Size in KiB, associativity, lines per tag, line size (AMD APM, "L2 Cache Information").
const L2: u32 = 512 << 16 | 6 << 12 | 1 << 8 | 64;
/// The same of the third level, the size in 512 KiB.
const L3: u32 = 16 << 18 | 8 << 12 | 1 << 8 | 64;
/// The same of the first level, the size in KiB above.
const L1: u32 = 32 << 24 | 8 << 16 | 1 << 8 | 64;

/// Leaves that every guest has, but for features and for what depends on the virtual machine.
pub const ROWS: [(u32, [u32; 4]); 8] = [
    (SIGNATURE_LEAF, named(LEAF_MAX, &SIGNATURE)),
    (FEATURES_LEAF, [NO_IO_DELAY, 0, 0, 0]),
    (CLOISTER_LEAF, named(crate::VERSION, &CLOISTER)),
    (0x8000_0000, [EXTENDED_MAX, 0, 0, 0]),
    (0x8000_0002, words(b"Cloister virtual")),
    (0x8000_0003, words(b" CPU\0\0\0\0\0\0\0\0\0\0\0\0")),
    (0x8000_0006, [0, 0, L2, 0]),
    (0x8000_0008, [ADDRESS_BITS, 0, 0, 0]),
];
/// Leaf 2 has no descriptors: "see leaf 4" (Intel SDM, "INPUT EAX = 02H"). A row that is not 0 says
/// that its leaf is there.
const INTEL: [(u32, [u32; 4]); 2] = [(2, [0x00fe_ff01, 0, 0, 0]), (4, [1, 0, 0, 0])];
/// First-level TLBs: fully associative, 64 entries; second level: 8 ways, 1024 entries.
const AMD: [(u32, [u32; 4]); 4] = [
    (0x8000_0005, [0xff40_ff40, 0xff40_ff40, L1, L1]),
    (0x8000_0006, [0x6400_6400, 0x6400_6400, L2, L3]),
    (0x8000_001d, [1, 0, 0, 0]),
    (0x8000_001e, [1, 0, 0, 0]),
];

/// A text as registers show it.
pub const fn words<const N: usize>(text: &[u8]) -> [u32; N] {
    let (chunks, mut words) = (text.as_chunks::<4>().0, [0; N]);
    let mut at = 0;
    while at < N {
        words[at] = u32::from_le_bytes(chunks[at]);
        at += 1;
    }
    words
}

/// EAX, and a text in EBX, ECX, EDX.
const fn named(eax: u32, text: &[u8; 12]) -> [u32; 4] {
    let [b, c, d] = words(text);
    [eax, b, c, d]
}

/// The virtual caches: type and level, ways, sets. The last one is shared by all vCPUs.
pub const CACHES: [(u32, u32, u32); 4] =
    [(1 | 1 << 5, 8, 64), (2 | 1 << 5, 8, 64), (3 | 2 << 5, 8, 1024), (3 | 3 << 5, 16, 8192)];
