//! The calls that only `init` may make, and only before the seal.
//!
//! [`Boot`] stands for that time: [`Boot::seal`] consumes it. In any other task, and after the
//! seal, each of these calls is a fault that stops the caller.

use cloister_abi::call::{Call, Part};
use cloister_abi::fault::LeaveReason;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::memory;
use crate::syscall::{Refused, call, checked, leave};

/// The time before the seal.
pub struct Boot {
    _private: (),
}

/// The one [`Boot`] was taken.
static BEGUN: AtomicBool = AtomicBool::new(false);

impl Boot {
    /// For `init`; any other task's first call through it is a fault. There is one such time in a
    /// life, so a second call ends the task: two of them could change what the other has mapped.
    pub fn begin() -> Boot {
        if BEGUN.swap(true, Ordering::Relaxed) {
            leave(LeaveReason::Panic, u64::from(line!()));
        }
        Boot { _private: () }
    }

    /// Binds the PCI function at `address` (bus << 8 | device << 3 | function) to the device
    /// record with that index. `place` is 0, or of an SR-IOV virtual function, whose own header has
    /// no addresses, the address of BAR 0 | log2 of its size.
    pub fn bind(&self, device: u32, address: u16, place: u64) -> Result<(), Refused> {
        checked(call(Call::Bind, device.into(), address.into(), place)).map(drop)
    }

    /// Tells the kernel of a part of the machine.
    pub fn hand_over(&self, part: Part, a: u64, b: u64) -> Result<(), Refused> {
        checked(call(Call::HandOver, part as u64, a, b)).map(drop)
    }

    /// Asks a core to start and says whether it runs already; repeat it until it does.
    pub fn start_core(&self, core: u32, apic_id: u32) -> Result<bool, Refused> {
        let [online, ..] = checked(call(Call::StartCore, core.into(), apic_id.into(), 0))?;
        Ok(online != 0)
    }

    /// Maps firmware tables read-only, in place of those that were mapped before.
    pub fn map_firmware(&mut self, phys: u64, len: u64) -> Result<&[u8], Refused> {
        let [va, ..] = checked(call(Call::MapFirmware, phys, len, 0))?;
        // SAFETY: (1) the kernel has mapped `phys .. phys + len` at `va`, and changes that only in
        // the next call of this kind, which needs the `&mut self` that the slice borrows.
        // (2) Firmware does not change its tables once it has started a system; the two areas that
        // it shares at run time (FACS, the BIOS data area) are not what `init` asks for.
        Ok(unsafe { memory::constant(va, len) })
    }

    /// Seals the system and starts every task. `entropy` has the bits of
    /// `cloister_abi::info::ENTROPY_RDRAND` and its neighbour. A refusal means that the system
    /// cannot start; it comes back as a value so that the caller can say so.
    pub fn seal(self, unix_seconds: u64, entropy: u32) -> Refused {
        match checked(call(Call::Seal, unix_seconds, entropy.into(), 0)) {
            Err(refused) => refused,
            // The kernel does not return from a seal that it accepts.
            Ok(_) => leave(LeaveReason::Exit, 0),
        }
    }
}
