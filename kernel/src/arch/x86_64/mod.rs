//! x86-64: every line of assembly and every access to a register of the machine.
//!
//! The functions of this folder are safe to call where they cannot break the memory safety of the
//! kernel by themselves: port I/O, model-specific registers that hold no addresses, barriers.
//! docs/soundness/kernel.md lists the others, which stay `unsafe`.

pub mod apic;
pub mod clock;
pub mod cpu;
pub mod descriptors;
pub mod entry;
pub mod fpu;
pub mod frame;
pub mod ioapic;
pub mod iommu;
pub mod paging;
pub mod pci;
pub mod power;
pub mod smap;
pub mod smp;
pub mod uart;
pub mod virt;
pub mod window;
