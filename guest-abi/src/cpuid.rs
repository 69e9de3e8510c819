//! CPUID leaves that the platform defines itself.
//!
//! The signature at leaf 0x4000_0000 is KVM's, because it is what makes a stock Linux keep x2APIC
//! without interrupt remapping; of KVM's features only "no I/O delay" is offered. Our own leaves
//! are apart from it.

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
