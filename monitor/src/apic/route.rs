//! Where interrupt messages go: [`Message`], its [`Destination`] and [`Kind`], and the [`Route`]
//! by which a local APIC is addressed.
//!
//! `apic` makes messages of ICR writes, `ioapic` of its pins, `msix` of table entries. A local
//! APIC belongs to one thread; its [`Route`] is one word that the owner publishes, so that any
//! thread can tell whom a message means (Intel SDM volume 3, "Determining IPI Destination").
//!
//! Invariant: a destination that means everybody is [`Destination::All`] or
//! [`Destination::Others`] from where the message was made; no route compares broadcast values.

use crate::num::low32;

/// What a message does at its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Interrupt with this vector.
    Fixed(u8),
    /// The same at one of the targets; any of them will do.
    LowestPriority(u8),
    /// System management interrupt; this platform has none.
    Smi,
    /// Non-maskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// Start-up at this page.
    Startup(u8),
    /// Interrupt whose vector the 8259A tells.
    ExtInt,
}

impl Kind {
    /// The kind for a delivery mode of three bits, as I/O APIC entries and messages of devices
    /// have it; `None` for the reserved ones.
    pub const fn from_mode(mode: u32, vector: u8) -> Option<Kind> {
        Some(match mode & 7 {
            0 => Kind::Fixed(vector),
            1 => Kind::LowestPriority(vector),
            2 => Kind::Smi,
            4 => Kind::Nmi,
            5 => Kind::Init,
            7 => Kind::ExtInt,
            _ => return None,
        })
    }
}

/// Whom a message means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The local APIC with this id.
    Physical(u32),
    /// The local APICs in this set, as their logical mode reads it.
    Logical(u32),
    /// Every local APIC.
    All,
    /// Every one but the sender's.
    Others,
}

impl Destination {
    /// A destination of eight bits, as everything but an x2APIC has it: 0xff is everybody.
    pub fn from_byte(id: u8, is_logical: bool) -> Destination {
        Destination::from_word(if id == 0xff { u32::MAX } else { u32::from(id) }, is_logical)
    }

    /// A destination of 32 bits, as an x2APIC has it: all ones are everybody.
    pub const fn from_word(id: u32, is_logical: bool) -> Destination {
        match (id, is_logical) {
            (u32::MAX, _) => Destination::All,
            (_, true) => Destination::Logical(id),
            (_, false) => Destination::Physical(id),
        }
    }
}

/// An interrupt message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Whom it means.
    pub destination: Destination,
    /// What it does there.
    pub kind: Kind,
    /// Level-triggered: the end of the interrupt must be told to the I/O APIC.
    pub is_level: bool,
}

/// Bit 32: the APIC is switched on.
const ENABLED: u64 = 1 << 32;
/// Bit 33: it is an x2APIC.
const X2APIC: u64 = 1 << 33;
/// Bit 34: its logical mode is cluster instead of flat.
const CLUSTER: u64 = 1 << 34;
/// Where the eight logical bits of an xAPIC are.
const LOGICAL: u32 = 40;

/// How a local APIC is addressed. The id is in the low half.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route(u64);

impl Route {
    /// An APIC that is switched off gets nothing.
    pub const OFF: Route = Route(0);

    /// An x2APIC, whose logical id follows from its id.
    pub fn x2apic(id: u32) -> Route {
        Route(u64::from(id) | ENABLED | X2APIC)
    }

    /// An xAPIC with its logical destination and destination format registers. Formats other than
    /// flat and cluster are reserved and count as flat.
    pub fn xapic(id: u32, ldr: u32, dfr: u32) -> Route {
        let cluster = if dfr >> 28 == 0 { CLUSTER } else { 0 };
        Route(u64::from(id) | ENABLED | cluster | u64::from(ldr >> 24) << LOGICAL)
    }

    /// As a word that threads can share.
    pub const fn to_word(self) -> u64 {
        self.0
    }

    /// From such a word.
    pub const fn from_word(word: u64) -> Route {
        Route(word)
    }

    /// Whether a message to `destination` means this APIC. [`Destination::Others`] does: the
    /// sender leaves itself out.
    pub fn matches(self, destination: Destination) -> bool {
        let (id, mine) = (low32(self.0), low32(self.0 >> LOGICAL) & 0xff);
        let is_meant = match destination {
            Destination::Physical(target) => target == id,
            Destination::Logical(set) if self.0 & X2APIC != 0 => {
                set >> 16 == id >> 4 && set & 1u32 << (id & 15) != 0
            }
            Destination::Logical(set) if self.0 & CLUSTER != 0 => {
                set >> 4 == mine >> 4 && set & mine & 0xf != 0
            }
            Destination::Logical(set) => set & mine != 0,
            Destination::All | Destination::Others => true,
        };
        is_meant && self.0 & ENABLED != 0
    }
}
