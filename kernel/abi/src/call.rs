//! The system calls: numbers, registers and result codes.
//!
//! Registers: `eax` = call number, arguments in `rdi`, `rsi`, `rdx`. After the call `rax` holds a
//! [`Status`] code and `rdx`, `rsi`, `rdi`, `r8` the values (zero where a call defines none).
//! `rcx`, `r9`, `r10`, `r11` are destroyed; all other registers keep their values. No call takes
//! a pointer: the kernel never reads or writes task memory on behalf of a caller.
//!
//! Two kinds of error exist. A *refused* call returns a code. A *fault* (an unknown call number, a
//! boot-only call after the seal) stops the caller and tells its supervisor.

use zerocopy::TryFromBytes;

/// System call numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Call {
    /// `(mask, deadline_tsc) -> bits`: sleep until a bit of `mask` is pending or the TSC reaches
    /// `deadline_tsc` ([`NEVER`] for no deadline). Takes (clears) and returns the pending bits.
    Wait = 0,
    /// `(cap)`: set the capability's bit in its thread's signal word.
    Signal = 1,
    /// `(cap, mask, deadline_tsc)`: run a virtual CPU.
    VcpuRun = 2,
    /// `(cap)`: unmask an interrupt that was delivered to this task.
    IrqAck = 3,
    /// `(cap, phase)`: reset a device function, see [`ResetPhase`]. Needs [`RIGHT_RESET`].
    DeviceReset = 4,
    /// `(cap)`: start a parked task again from its first instruction. Needs [`RIGHT_RESTART`].
    Restart = 5,
    /// `(cap)`: park all threads of a task; the supervisor is signalled when all are parked.
    Stop = 6,
    /// `(cap)`: let a stopped (not a faulted) task go on where it was.
    Resume = 7,
    /// `(cap, index) -> 4 words`: read a task's fault record, see [`crate::fault`].
    FaultInfo = 8,
    /// `(cap, op)`: see [`PowerOp`].
    Power = 9,
    /// `(reason, detail)`: stop the caller for good and tell its supervisor, see
    /// [`crate::fault::LeaveReason`]. Does not return.
    Leave = 10,
    /// Boot only: `(device, pci_address, place)`: bind a PCI function to a device record. `place` is
    /// 0, or of a virtual function the address of its BAR 0 | log2 of the BAR's size.
    Bind = 11,
    /// Boot only: `(kind, a, b)`: tell the kernel of a machine part, see [`Part`].
    HandOver = 12,
    /// Boot only: `(core, apic_id) -> online`: start a core. Returns at once; the value is 1 if the
    /// core runs already. Repeat it until then.
    StartCore = 13,
    /// Boot only: `(phys, bytes) -> va`: map firmware tables read-only; pages stay until the next
    /// call of this kind that reuses the window.
    MapFirmware = 14,
    /// Boot only: `(wall_clock_unix_s, entropy_flags)`: seal the system and start every task. Does not return.
    Seal = 15,
}

impl Call {
    /// The number of system calls; numbers from here on are faults.
    pub const COUNT: u32 = 16;
    /// Calls from this number on cease to exist at the seal.
    pub const FIRST_BOOT_ONLY: u32 = Call::Bind as u32;
}

/// "No deadline" for [`Call::Wait`].
pub const NEVER: u64 = u64::MAX;

/// The value of `rax` after a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, TryFromBytes)]
#[repr(u32)]
pub enum Status {
    /// The call did what it says.
    #[default]
    Ok = 0,
    /// `wait`: the deadline passed before a bit of the mask was set.
    Deadline = 1,
    /// Refused: the slot is beyond the caller's capability table.
    NoCap = 2,
    /// Refused: the slot holds a capability of another kind.
    WrongKind = 3,
    /// Refused: the capability lacks the right for this call.
    NoRight = 4,
    /// Refused: the object is in a state that does not allow this now.
    WrongState = 5,
    /// Refused: an argument is out of its range.
    BadArgument = 6,
    /// `vcpu_run`: the guest stopped; its [`crate::vcpu::VcpuState`] says why.
    Exit = 7,
}

impl Status {
    /// The status for a code, `None` for codes that no kernel of this version returns.
    pub fn from_code(code: u64) -> Option<Status> {
        let code = u32::try_from(code).ok()?;
        Status::try_read_from_bytes(&code.to_ne_bytes()).ok()
    }
}

/// Signal bits `0..CLIENT_BITS` belong to clients, one each; the rest is set by the kernel.
pub const CLIENT_BITS: u32 = 48;
/// The first of eight bits that carry device interrupts.
pub const IRQ_BIT_FIRST: u32 = 48;
/// How many interrupts one thread can own.
pub const IRQ_BITS: u32 = 8;

/// Right to send a signal (capabilities of kind `Thread`).
pub const RIGHT_SIGNAL: u8 = 1;
/// Right to restart a task.
pub const RIGHT_RESTART: u8 = 1;
/// Right to stop a task.
pub const RIGHT_STOP: u8 = 2;
/// Right to resume a task.
pub const RIGHT_RESUME: u8 = 4;
/// Right to read a task's fault record.
pub const RIGHT_INFO: u8 = 8;
/// Right to acknowledge an interrupt.
pub const RIGHT_ACK: u8 = 1;
/// Right to run a virtual CPU.
pub const RIGHT_RUN: u8 = 1;
/// Right to power the machine off.
pub const RIGHT_POWER_OFF: u8 = 1;
/// Right to reset the machine.
pub const RIGHT_REBOOT: u8 = 2;

/// Right to reset a device function.
pub const RIGHT_RESET: u8 = 1;

/// The phases of [`Call::DeviceReset`]. The kernel never waits: between the phases the driver does,
/// for the controller's own reset or for as long as a function-level reset takes (PCI Express Base
/// Specification, "Function Level Reset (FLR)").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ResetPhase {
    /// Bus mastering off, interrupts masked; the function's registers can still be used.
    Begin = 0,
    /// The same, then a function-level reset is started; refused where the function has none.
    BeginFunction = 1,
    /// The record that `bind` made is written back to configuration space and message table, with
    /// every message masked until `irq_ack`; then bus mastering is on. Each life of a driver begins
    /// without it.
    Finish = 2,
}

/// What [`Call::Power`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PowerOp {
    /// Leave through ACPI S5. Needs [`RIGHT_POWER_OFF`].
    Off = 0,
    /// Reset the machine. Needs [`RIGHT_REBOOT`].
    Reboot = 1,
}

/// Machine parts that `init` hands over before the seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Part {
    /// An IOAPIC: `a` = physical address of its registers, `b` = first global interrupt |
    /// its source id for the IOMMU << 32 | 1 << 48 if it has one.
    IoApic = 0,
    /// An interrupt source override for one device pin: `a` = the pin in the table (an ISA
    /// number), `b` = global interrupt | polarity low << 16 | level triggered << 17.
    PinRoute = 1,
    /// The power-off register: `a` = I/O port of PM1a_CNT, `b` = I/O port of PM1b_CNT or 0.
    PowerOff = 2,
    /// The reset register: `a` = I/O port, `b` = value to write.
    Reset = 3,
    /// The memory-mapped configuration space of PCI segment 0 (PCI Firmware Specification, "MCFG
    /// Table Description"): `a` = physical address for bus 0, `b` = first bus | last bus << 8.
    Ecam = 4,
    /// A VT-d remapping unit: `a` = physical address of its registers, `b` = 0. After all of the
    /// machine's IOAPICs and before the first `bind` of a bus master.
    VtdUnit = 5,
    /// Memory that firmware wants a function to reach (RMRR): `a` = the function, `b` = 0. The
    /// function cannot be bound as bus master. Before the first `bind` of one.
    Reserved = 6,
}
