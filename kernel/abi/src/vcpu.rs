//! A virtual CPU, as kernel and monitor share it: one page of registers and exit facts.
//!
//! [`VcpuState`] lies in a page that the monitor maps and the kernel reaches by a mapping of its
//! own. The kernel copies what it needs once and checks it; the vendor's control block, where
//! the guest's state really is, belongs to the kernel alone.
//!
//! At every entry the kernel loads the general registers, `rip`, and the groups that `set` names,
//! then clears `set`. At every exit it writes the general registers, `rip`, `rflags` and the exit
//! facts. The rest (stack pointer, control registers, segments) is written at exits of the kinds
//! [`Exit::Shutdown`], [`Exit::Invalid`] and [`Exit::Exception`], and at any exit if `set` had
//! [`WANT_ALL`].

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, TryFromBytes};

/// Load `rsp`, `rflags`; forget an interrupt shadow.
pub const SET_FLAGS: u32 = 1 << 0;
/// Load the control registers, `cr2`, `efer`, `dr6`, `dr7`, `pat`.
pub const SET_CONTROL: u32 = 1 << 1;
/// Load the segments and descriptor tables.
pub const SET_SEGMENTS: u32 = 1 << 2;
/// Load `xcr0`.
pub const SET_XCR0: u32 = 1 << 3;
/// Load `tsc_offset` and `tsc_aux`.
pub const SET_TSC: u32 = 1 << 4;
/// Load `tpr`.
pub const SET_TPR: u32 = 1 << 5;
/// Inject `event`, before the first instruction.
pub const SET_EVENT: u32 = 1 << 6;
/// `interrupt` is what waits for the guest to accept interrupts; 0 withdraws it.
pub const SET_INTERRUPT: u32 = 1 << 7;
/// Run one instruction with the page slots of `slots` mapped and interrupts held, then exit.
pub const STEP: u32 = 1 << 8;
/// Exit at the guest's next IRET, before it.
pub const SET_NMI_WINDOW: u32 = 1 << 9;
/// Put the whole of the vCPU into its state after INIT first: no event, no interrupt, empty
/// translation caches. The other groups apply afterwards.
pub const RESET: u32 = 1 << 10;
/// Write everything at the next exit.
pub const WANT_ALL: u32 = 1 << 11;
/// Load `cr2` alone.
pub const SET_CR2: u32 = 1 << 12;

/// Why the guest stopped running. The comment says what `info` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes)]
#[repr(u32)]
pub enum Exit {
    /// None yet.
    None = 0,
    /// CPUID: CR4, because one leaf shows a bit of it.
    Cpuid = 1,
    /// Port access: port | size in bytes << 16 | [`PORT_IN`] | [`PORT_STRING`].
    Port = 2,
    /// RDMSR.
    MsrRead = 3,
    /// WRMSR.
    MsrWrite = 4,
    /// HLT.
    Halt = 5,
    /// An address without a nested mapping that allows it: guest-physical address,
    /// [`MEMORY_WRITE`] and so on.
    Memory = 6,
    /// VMMCALL or VMCALL.
    Hypercall = 7,
    /// The step is done: bits [`STEP_TRAP`].
    Stepped = 8,
    /// An exception during a step, which did nothing: vector | [`EXCEPTION_ERROR`], error code,
    /// address of a page fault.
    Exception = 9,
    /// MOV to CR8 while an interrupt waits: step it without an interrupt, then look at `tpr`.
    TaskPriority = 10,
    /// The guest is about to execute IRET, see [`SET_NMI_WINDOW`].
    Iret = 11,
    /// XSETBV.
    Xsetbv = 12,
    /// WBINVD or INVD.
    Cache = 13,
    /// An instruction that the platform does not have: the vector of the exception it raises.
    Forbidden = 14,
    /// Triple fault.
    Shutdown = 15,
    /// The state cannot be entered, or the CPU left the guest for a reason that is not known: the
    /// vendor's code.
    Invalid = 16,
}

impl Exit {
    /// The exit for a code.
    pub fn from_code(code: u32) -> Option<Exit> {
        Exit::try_read_from_bytes(&code.to_ne_bytes()).ok()
    }
}

/// [`Exit::Port`]: the guest reads.
pub const PORT_IN: u64 = 1 << 24;
/// [`Exit::Port`]: a string instruction, whose memory nobody here can reach.
pub const PORT_STRING: u64 = 1 << 26;
/// [`Exit::Memory`]: a write; neither this nor a fetch is a read.
pub const MEMORY_WRITE: u64 = 1 << 1;
/// [`Exit::Memory`]: an instruction fetch.
pub const MEMORY_FETCH: u64 = 1 << 4;
/// [`Exit::Memory`]: the access of a page-table walk, not of the instruction itself.
pub const MEMORY_WALK: u64 = 1 << 2;
/// [`Exit::Stepped`]: the guest itself is to get a debug exception; DR6 is set for it.
pub const STEP_TRAP: u64 = 1;
/// [`Exit::Exception`]: there is an error code.
pub const EXCEPTION_ERROR: u64 = 1 << 8;

/// `event`: an external interrupt with the vector in the low byte.
pub const EVENT_INTERRUPT: u64 = 1 << 31;
/// `event`: a non-maskable interrupt (vector 2).
pub const EVENT_NMI: u64 = 1 << 31 | 2 << 8 | 2;
/// `event`: an exception with the vector in the low byte.
pub const EVENT_EXCEPTION: u64 = 1 << 31 | 3 << 8;
/// `event`: the error code is in bits 32..64.
pub const EVENT_ERROR: u64 = 1 << 11;

/// `flags` after an exit: interrupts are held for one instruction (STI, MOV SS).
pub const FLAG_SHADOW: u32 = 1;
/// `flags` after an exit: an event was being delivered and will be delivered again at the next
/// entry, unless the monitor sets another.
pub const FLAG_EVENT: u32 = 2;

/// A page slot of a step: the slot takes the place of the page at this guest-physical address.
/// 0: the slot is not used. Bits 0: writable.
pub type SlotAddress = u64;
/// The slot is writable.
pub const SLOT_WRITE: u64 = 1;
/// Slots of a vCPU: one instruction can touch two pages of registers.
pub const SLOTS: usize = 2;

/// A segment register. `attributes` as in a descriptor's bytes 5 and 6: type, S, DPL, P in bits
/// 0..8, AVL, L, D, G in bits 8..12.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Attributes; bit 7 (present) clear: unusable.
    pub attributes: u16,
    /// Limit in bytes.
    pub limit: u32,
    /// Base address.
    pub base: u64,
}

/// The page. Numbers of general registers are those of instruction encodings.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuState {
    /// rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 to r15. `rsp` belongs to [`SET_FLAGS`].
    pub registers: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// [`Exit`].
    pub exit: u32,
    /// [`SET_FLAGS`] and so on; to the kernel.
    pub set: u32,
    /// Facts of the exit.
    pub info: [u64; 3],
    /// Instruction pointer behind the instruction that exited, where the CPU or the kind of exit
    /// tells it; else `rip`.
    pub next_rip: u64,
    /// To the kernel: the event of [`SET_EVENT`]. After an exit: what [`FLAG_EVENT`] tells of.
    pub event: u64,
    /// To the kernel: the vector of [`SET_INTERRUPT`]. After an exit: the vector that the guest
    /// has not accepted yet, 0 if it has.
    pub interrupt: u32,
    /// [`FLAG_SHADOW`], [`FLAG_EVENT`]; after an exit.
    pub flags: u32,
    /// Task priority, CR8: 0 to 15.
    pub tpr: u32,
    /// TSC_AUX.
    pub tsc_aux: u32,
    /// What the guest's TSC is ahead of the machine's.
    pub tsc_offset: u64,
    /// Where the slots of [`STEP`] go.
    pub slots: [SlotAddress; SLOTS],
    /// XCR0.
    pub xcr0: u64,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER without SVME.
    pub efer: u64,
    /// DR6.
    pub dr6: u64,
    /// DR7.
    pub dr7: u64,
    /// PAT.
    pub pat: u64,
    /// es, cs, ss, ds, fs, gs, ldtr, tr.
    pub segments: [Segment; 8],
    /// Global descriptor table: limit, base.
    pub gdtr: [u64; 2],
    /// Interrupt descriptor table: limit, base.
    pub idtr: [u64; 2],
}

/// Index of `rax` in [`VcpuState::registers`]; the others follow as in instruction encodings.
pub const RAX: usize = 0;
/// Index of `rcx`.
pub const RCX: usize = 1;
/// Index of `rdx`.
pub const RDX: usize = 2;
/// Index of `rbx`.
pub const RBX: usize = 3;
/// Index of `rsp`.
pub const RSP: usize = 4;
/// Index of `rsi`.
pub const RSI: usize = 6;
/// Index of `rdi`.
pub const RDI: usize = 7;
/// Index of `cs` in [`VcpuState::segments`].
pub const CS: usize = 1;
