//! What a supervisor holds: control over tasks, their fault records, their restart policies.

use cloister_abi::call::Call;
use cloister_abi::fault::{BACKTRACE_LEN, DMA_INDEX, FaultKind, TaskState};
use cloister_proto::policy::RestartPolicy;

use crate::cap::{Cap, kind, right};
use crate::syscall::{Refused, call, checked};
use crate::wait::Bits;

/// Control over one task.
pub type TaskControl = Cap<kind::Task, right::Control>;

/// One task that the caller supervises.
pub struct Supervised {
    /// How the manifest wants it treated.
    pub policy: &'static RestartPolicy,
    /// Control over it.
    pub control: TaskControl,
    /// The bit that tells of its faults and stops.
    pub bits: Bits,
}

impl Supervised {
    pub(crate) fn new(policy: &'static RestartPolicy) -> Supervised {
        Supervised { policy, control: Cap::at(policy.cap), bits: Bits::single(policy.bit) }
    }
}

impl TaskControl {
    /// Starts the parked task again from its first instruction.
    pub fn restart(&self) -> Result<(), Refused> {
        checked(call(Call::Restart, self.slot(), 0, 0)).map(drop)
    }

    /// Asks that all its threads be parked; the task's bit is set when they are.
    pub fn stop(&self) -> Result<(), Refused> {
        checked(call(Call::Stop, self.slot(), 0, 0)).map(drop)
    }

    /// Lets the stopped task go on where it was.
    pub fn resume(&self) -> Result<(), Refused> {
        checked(call(Call::Resume, self.slot(), 0, 0)).map(drop)
    }

    /// The task's state alone, in one call. A state of another version counts as parking, in
    /// which nothing can be done to a task.
    pub fn state(&self) -> Result<TaskState, Refused> {
        let [state, ..] = self.words(0)?;
        Ok(TaskState::from_code(state).unwrap_or(TaskState::Parking))
    }

    /// The task's fault record.
    pub fn fault(&self) -> Result<FaultReport, Refused> {
        let [state, kind, thread, generation] = self.words(0)?;
        let [rip, address, error, rsp] = self.words(1)?;
        let [reason, detail, core, tsc] = self.words(2)?;
        let mut backtrace = [0; BACKTRACE_LEN];
        for (index, four) in (3..).zip(backtrace.chunks_exact_mut(4)) {
            for (to, from) in four.iter_mut().zip(self.words(index)?) {
                *to = from;
            }
        }
        Ok(FaultReport {
            state: TaskState::from_code(state).unwrap_or(TaskState::Parking),
            kind: FaultKind::from_code(kind & 0xff).unwrap_or(FaultKind::None),
            vector: (kind >> 8) as u8,
            thread,
            generation,
            rip,
            address,
            error,
            rsp,
            reason,
            detail,
            core,
            tsc,
            backtrace,
        })
    }

    /// What the IOMMU refused the task's devices, in whatever state the task is.
    pub fn dma_faults(&self) -> Result<DmaFaults, Refused> {
        let [count, source, address, reason] = self.words(DMA_INDEX)?;
        Ok(DmaFaults {
            count,
            source: source as u16,
            address,
            reason: reason as u8,
            is_read: reason >> 32 & 1 != 0,
        })
    }

    fn words(&self, index: u64) -> Result<[u64; 4], Refused> {
        checked(call(Call::FaultInfo, self.slot(), index, 0))
    }
}

/// DMA that was refused; see `cloister_abi::fault`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaFaults {
    /// How often, since the system started. The rest is of the last time.
    pub count: u64,
    /// The function: bus << 8 | device << 3 | function.
    pub source: u16,
    /// The address that it used.
    pub address: u64,
    /// The IOMMU's code for the reason.
    pub reason: u8,
    /// It wanted to read.
    pub is_read: bool,
}

/// Why and where a task stopped; see `cloister_abi::fault`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultReport {
    /// Its state.
    pub state: TaskState,
    /// What stopped it.
    pub kind: FaultKind,
    /// The CPU's exception vector, if it was an exception.
    pub vector: u8,
    /// Index of the thread within its task.
    pub thread: u64,
    /// How often the task had been restarted.
    pub generation: u64,
    /// Instruction pointer.
    pub rip: u64,
    /// Address of a page fault, or what the kind defines.
    pub address: u64,
    /// Error code of the exception.
    pub error: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// `leave`: the reason.
    pub reason: u64,
    /// `leave`: the detail.
    pub detail: u64,
    /// The core on which it happened.
    pub core: u64,
    /// TSC at that moment.
    pub tsc: u64,
    /// Return addresses, innermost first, zero where the chain ended.
    pub backtrace: [u64; BACKTRACE_LEN],
}
