//! The cases of `role=hostile`: what is written to a ring, by the name of the rule that it breaks.

/// Descriptors of the queue.
pub const SIZE: u16 = 8;
/// Flags of a descriptor.
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// Where the parts of a request are.
pub struct Memory {
    pub header: u64,
    pub status: u64,
    pub data: u64,
    pub table: u64,
    /// The first address that is no RAM.
    pub end: u64,
}

/// A descriptor.
#[derive(Clone, Copy, Default)]
pub struct Entry {
    pub at: u64,
    pub len: u32,
    pub flags: u16,
    pub next: u16,
}

/// A ring that breaks a rule.
#[derive(Clone, Copy)]
pub struct Broken {
    pub chain: [Entry; SIZE as usize],
    pub table: [Entry; SIZE as usize],
    /// The first two entries of the available ring, and its index.
    pub heads: [u16; 2],
    pub index: u16,
    /// Places of the queue's areas, 0 for the usual one.
    pub areas: Option<[u64; 3]>,
    /// Added to the place of the driver area.
    pub odd: u64,
}

/// A case.
pub struct Case {
    pub name: &'static str,
    pub make: fn(&Memory) -> Broken,
    /// It keeps the rules.
    pub is_good: bool,
    /// It exists in packed rings too.
    pub is_for_packed: bool,
    /// Indirect tables were agreed on.
    pub is_asked: bool,
}

const fn case(name: &'static str, make: fn(&Memory) -> Broken) -> Case {
    Case { name, make, is_good: false, is_for_packed: true, is_asked: true }
}

/// All of them.
pub static CASES: [Case; 22] = [
    Case { is_good: true, ..case("None", good) },
    Case { is_good: true, ..case("NoneIndirect", |m| indirect(m, 48)) },
    case("QueueAlignment", |m| Broken { odd: 1, ..good(m) }),
    case("QueueOutside", |m| Broken { areas: Some([m.end - 16, 0, 0]), ..good(m) }),
    Case { is_for_packed: false, ..case("AvailableTooFar", |m| Broken { index: 9, ..good(m) }) },
    Case { is_for_packed: false, ..case("HeadTooLarge", |m| Broken { heads: [8, 0], ..good(m) }) },
    Case { is_for_packed: false, ..case("HeadInFlight", |m| Broken { index: 2, ..good(m) }) },
    Case { is_for_packed: false, ..case("NextTooLarge", |m| with(m, 1, |e| e.next = 8)) },
    case("ChainTooLong", |m| Broken { chain: [header(m, 0); SIZE as usize], ..good(m) }),
    case("BufferEmpty", |m| with(m, 1, |e| e.len = 0)),
    case("BufferOutside", |m| {
        let end = m.end;
        let mut broken = good(m);
        broken.chain[1].at = end - 2048;
        broken
    }),
    case("BufferWraps", |m| with(m, 1, |e| e.at = u64::MAX - 15)),
    case("ReadableLast", |m| with(m, 2, |e| e.flags = 0)),
    Case { is_asked: false, ..case("IndirectUnasked", |m| indirect(m, 48)) },
    case("IndirectNested", |m| {
        let mut broken = indirect(m, 48);
        broken.table[1].flags = INDIRECT;
        broken
    }),
    case("IndirectAndNext", |m| {
        let mut broken = indirect(m, 48);
        broken.chain[0].flags |= NEXT;
        broken
    }),
    case("IndirectLength", |m| indirect(m, 0)),
    case("IndirectLengthOdd", |m| indirect(m, 47)),
    case("IndirectOutside", |m| {
        let mut broken = indirect(m, 48);
        broken.chain[0].at = m.end - 32;
        broken
    }),
    case("BlockHeader", |m| with(m, 0, |e| e.len = 8)),
    case("BlockStatus", |m| with(m, 0, |e| e.flags = 0)),
    case("BlockDirection", |m| with(m, 1, |e| e.flags = NEXT)),
];

fn header(m: &Memory, next: u16) -> Entry {
    Entry { at: m.header, len: 16, flags: NEXT, next }
}

/// A read of block 0: header, data, status.
fn good(m: &Memory) -> Broken {
    let mut chain = [Entry::default(); SIZE as usize];
    chain[0] = header(m, 1);
    chain[1] = Entry { at: m.data, len: 4096, flags: NEXT | WRITE, next: 2 };
    chain[2] = Entry { at: m.status, len: 1, flags: WRITE, next: 0 };
    let table = [Entry::default(); SIZE as usize];
    Broken { chain, table, heads: [0, 0], index: 1, areas: None, odd: 0 }
}

/// The same with one descriptor changed.
fn with(m: &Memory, which: usize, change: fn(&mut Entry)) -> Broken {
    let mut broken = good(m);
    change(&mut broken.chain[which]);
    broken
}

/// The same by a table of this length.
fn indirect(m: &Memory, len: u32) -> Broken {
    let mut broken = good(m);
    broken.table = broken.chain;
    broken.chain = [Entry::default(); SIZE as usize];
    broken.chain[0] = Entry { at: m.table, len, flags: INDIRECT, next: 0 };
    broken
}
