//! What several targets need of a machine: words, devices, a CPUID table.
//!
//! Invariant: what is made here depends on the arguments alone.

use std::sync::atomic::AtomicU64;

use cloister_monitor::cpuid::{CpuidTable, HostFacts};
use cloister_proto::vm::{MAX_VM_DEVICES, VmConfig, VmDevice};

/// Frequency of the TSC.
pub const TSC_HZ: u64 = 1_000_000_000;
/// When machines start.
pub const START: u64 = 1_000;
/// Bytes of RAM.
pub const MEMORY: u64 = 1 << 20;
/// Queues of the two devices.
pub const QUEUES: [u16; 2] = [2, 1];

/// So many zeros.
pub fn words(count: usize) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

/// A virtual machine with a console and a source of random numbers.
pub fn config(vcpus: u32, flags: u32, identity: u32) -> VmConfig {
    let mut devices = [VmDevice::default(); MAX_VM_DEVICES];
    for ((device, kind), queues) in devices.iter_mut().zip([3, 4]).zip(QUEUES) {
        device.name[0] = b'a';
        (device.kind, device.queues) = (kind, queues);
    }
    let version = cloister_abi::API_VERSION;
    VmConfig { version, vcpus, memory: MEMORY, flags, identity, devices }
}

/// What CPUID tells, on a host that has everything.
pub fn table(config: &VmConfig) -> CpuidTable {
    let word = |text: &[u8; 4]| u32::from_le_bytes(*text);
    let cpuid = |leaf, sub| match (leaf, sub) {
        (0, _) => [0xd, word(b"Auth"), word(b"cAMD"), word(b"enti")],
        (0x8000_0000, _) => [0x8000_0021, 0, 0, 0],
        (0xd, 2) => [256, 576, 0, 0],
        _ => [u32::MAX; 4],
    };
    let host = HostFacts::read(cpuid, 1_000_000);
    CpuidTable::new(config, &host).expect("a host that has everything")
}
