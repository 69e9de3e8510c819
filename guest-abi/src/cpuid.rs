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
/// Vendor and signature of the identity `amd`. AMD family 17h, model 31h: Linux takes its weaknesses for granted, and
/// defends itself without registers that a vCPU does not have.
pub const AMD: ([u8; 12], u32) = (*b"AuthenticAMD", 0x0083_0f10);
/// Of `intel`. Family 6, model 55h: a model for which Linux takes every weakness of its time for granted.
pub const INTEL: ([u8; 12], u32) = (*b"GenuineIntel", 0x0005_0654);
/// Of `neutral`. Family 6, model 0: means nothing under a vendor that no kernel knows.
pub const NEUTRAL: ([u8; 12], u32) = (*b"CloisterVCPU", 0x0000_0600);
/// Its name.
pub const BRAND: [&[u8; 16]; 2] = [b"Cloister virtual", b" CPU\0\0\0\0\0\0\0\0\0\0\0\0"];
/// The virtual caches: type and level, ways, sets. The last one is shared by all vCPUs.
pub const CACHES: [(u32, u32, u32); 4] =
    [(1 | 1 << 5, 8, 64), (2 | 1 << 5, 8, 64), (3 | 2 << 5, 8, 1024), (3 | 3 << 5, 16, 8192)];
