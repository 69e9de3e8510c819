//! A virtual CPU, as its monitor's thread runs it.
//!
//! [`Vcpu`] is the capability, the page that kernel and monitor share, and the two page slots of a
//! step. The kernel writes the page only inside [`Vcpu::run`], on the calling thread; so the
//! references that [`Vcpu::state`] gives out, which end before the next call, are the only ones.

use cloister_abi::call::{Call, Status};
use cloister_abi::fault::LeaveReason;
use cloister_abi::info::GRANT_MEMORY;
use cloister_abi::name_str;
use cloister_abi::table::{CapKind, MAP_WRITE};
use cloister_abi::vcpu::VcpuState;

use crate::grants::{Grants, Missing, What};
use crate::memory::Shared;
use crate::syscall::{call, leave};
use crate::time::Deadline;
use crate::wait::Bits;

/// Names of the grants, by vCPU: capability, state, slots.
const NAMES: [[&str; 3]; cloister_proto::vm::MAX_VCPUS] = [
    ["vcpu0", "vcpu0/state", "vcpu0/slots"],
    ["vcpu1", "vcpu1/state", "vcpu1/slots"],
    ["vcpu2", "vcpu2/state", "vcpu2/slots"],
    ["vcpu3", "vcpu3/state", "vcpu3/slots"],
    ["vcpu4", "vcpu4/state", "vcpu4/slots"],
    ["vcpu5", "vcpu5/state", "vcpu5/slots"],
    ["vcpu6", "vcpu6/state", "vcpu6/slots"],
    ["vcpu7", "vcpu7/state", "vcpu7/slots"],
];

/// Why [`Vcpu::run`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ran {
    /// The guest stopped; the state says why.
    Exit,
    /// These bits were pending and have been taken; the guest goes on at the next run.
    Bits(Bits),
    /// The deadline passed; the guest goes on at the next run.
    Deadline,
}

/// A virtual CPU. Not `Clone`: one thread runs it.
pub struct Vcpu {
    slot: u32,
    state: *mut VcpuState,
    slots: Shared,
}

impl Vcpu {
    /// The registers and exit facts.
    #[inline(always)]
    pub fn state(&mut self) -> &mut VcpuState {
        // SAFETY: (1) `Grants::vcpu` checked that the page is mapped writable for the task's life
        // and large enough. (2) Every byte pattern is a `VcpuState`. (3) The kernel writes it only
        // during `run`, which needs the exclusive borrow that this reference holds; no other view
        // of the page is made by this crate but through another `Vcpu` of the same number, which
        // the kernel refuses to any thread but this one.
        unsafe { &mut *self.state }
    }

    /// The page slots: slot 0 is the first half of the words, slot 1 the second.
    pub fn slots(&self) -> Shared {
        self.slots
    }

    /// Runs the guest until it exits, a bit of `mask` is pending, or the deadline passes.
    #[inline(always)]
    pub fn run(&mut self, mask: Bits, deadline: Deadline) -> Ran {
        let reply = call(Call::VcpuRun, u64::from(self.slot), mask.word(), deadline.ticks());
        if reply.status == Status::Exit as u64 {
            return Ran::Exit;
        }
        // Statuses have 32 bits. Of all 64 the compiler would ask for 0 first, and exits come first.
        match reply.status as u32 {
            status if status == Status::Ok as u32 => Ran::Bits(Bits::from_word(reply.values[0])),
            status if status == Status::Deadline as u32 => Ran::Deadline,
            // The capability comes from the manifest; a refusal means a wrong system table.
            _ => leave(LeaveReason::Panic, u64::from(line!())),
        }
    }
}

impl Grants {
    /// A virtual CPU of this task's virtual machine; thread `n` of a monitor runs vCPU `n`.
    pub fn vcpu(&self, number: usize) -> Result<Vcpu, Missing> {
        let missing = Missing { name: "vcpu", what: What::Vcpu };
        let [cap, state, slots] = *NAMES.get(number).ok_or(missing)?;
        let slot = self.cap(cap, CapKind::Vcpu, What::Vcpu)?.slot;
        let page = self.memory_entry(state)?;
        if page.len < size_of::<VcpuState>() as u64 || page.rights & MAP_WRITE == 0 {
            return Err(missing);
        }
        Ok(Vcpu { slot, state: page.va as *mut VcpuState, slots: self.shared(slots)? })
    }

    /// The page with the MSI-X table of a device of this task's virtual machine.
    pub fn msix_page(&self, device: &'static str) -> Result<Shared, Missing> {
        let mut memories = self.entries().iter().filter(|entry| entry.kind == GRANT_MEMORY);
        let is_it = |name: &str| name.strip_suffix("/msix") == Some(device);
        let entry = memories.find(|entry| is_it(name_str(&entry.name)));
        let missing = Missing { name: device, what: What::Memory };
        self.shared(name_str(&entry.ok_or(missing)?.name))
    }
}
