//! The first block of an encrypted volume.
//!
//! ```text
//!    0   magic, 16 bytes
//!   16   version (1), cipher (1: AES-256-XTS), first byte of the data (64 bit)
//!   32   the volume's own number, 16 random bytes
//!   64   slot 0, 160 bytes: kind (0 none, 1 sealed, 2 passphrase), memory in KiB, passes, zero,
//!        salt (32 bytes), wrapped key (72 bytes), zeros
//!  224   slot 1
//!  384   zeros
//! 4092   CRC-32C of everything before
//! ```
//! All numbers are little-endian. The checksum finds accidents; against intent there is the
//! integrity check of the key wrap. A header that was exchanged for another one opens a key that
//! decrypts to noise.

use crc::{CRC_32_ISCSI, Crc, Table};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::key::{VolumeKey, WrappingKey};
use crate::passphrase::Cost;
use crate::slot::{Kind, SALT, Slot, WRAPPED};

/// Bytes of a header.
pub const HEADER: usize = 4096;
/// Where the data of an encrypted volume begins, in bytes from the volume's own begin.
pub const DATA_OFFSET: u64 = 1 << 20;
/// Slots of a header.
pub const SLOTS: usize = 2;

const MAGIC: [u8; 16] = *b"Cloister volume\n";
const VERSION: u32 = 1;
const AES_256_XTS: u32 = 1;
const NONE: u32 = 0;
const SEALED: u32 = 1;
const PASSPHRASE: u32 = 2;
/// Bytes that the fields before the checksum leave.
const REST: usize = 3708;

static CRC: Crc<u32, Table<1>> = Crc::<u32, Table<1>>::new(&CRC_32_ISCSI);

/// A slot as it lies on the disk.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSlot {
    kind: U32,
    memory_kib: U32,
    passes: U32,
    zero: U32,
    salt: [u8; SALT],
    wrapped: [u8; WRAPPED],
    zeros: [u8; 40],
}

/// A header as it lies on the disk.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 16],
    version: U32,
    cipher: U32,
    data: U64,
    id: [u8; 16],
    zeros: [u8; 16],
    slots: [RawSlot; SLOTS],
    rest: [u8; REST],
    checksum: U32,
}

/// Why a block is no header that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It does not begin as one: the volume is not encrypted, or its header is lost.
    NoHeader,
    /// It was damaged.
    Checksum,
    /// It is of another version.
    Version(u32),
    /// It names another cipher.
    Cipher(u32),
    /// The data begins elsewhere.
    Data(u64),
    /// A slot is of an unknown kind, or asks for more than the limits.
    Slot(usize),
    /// Bytes that this version leaves zero are not.
    NotZero,
}

/// What the first block of an encrypted volume says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The volume's own number.
    pub id: [u8; 16],
    /// Its slots.
    pub slots: [Option<Slot>; SLOTS],
}

impl Header {
    /// Reads the first block of a volume.
    pub fn read(block: &[u8; HEADER]) -> Result<Header, Unreadable> {
        let Ok(raw) = RawHeader::ref_from_bytes(block) else { return Err(Unreadable::NoHeader) };
        if raw.magic != MAGIC {
            return Err(Unreadable::NoHeader);
        }
        if raw.checksum.get() != checksum(block) {
            return Err(Unreadable::Checksum);
        }
        if raw.version.get() != VERSION {
            return Err(Unreadable::Version(raw.version.get()));
        }
        if raw.cipher.get() != AES_256_XTS {
            return Err(Unreadable::Cipher(raw.cipher.get()));
        }
        if raw.data.get() != DATA_OFFSET {
            return Err(Unreadable::Data(raw.data.get()));
        }
        if raw.zeros.iter().chain(&raw.rest).any(|&byte| byte != 0) {
            return Err(Unreadable::NotZero);
        }
        let mut slots = [None; SLOTS];
        for ((nth, slot), raw) in slots.iter_mut().enumerate().zip(&raw.slots) {
            *slot = raw.read().map_err(|BadSlot| Unreadable::Slot(nth))?;
        }
        Ok(Header { id: raw.id, slots })
    }

    /// The block to write.
    pub fn to_block(&self) -> [u8; HEADER] {
        let mut raw = RawHeader {
            magic: MAGIC,
            version: VERSION.into(),
            cipher: AES_256_XTS.into(),
            data: DATA_OFFSET.into(),
            id: self.id,
            zeros: [0; 16],
            slots: self.slots.map(|slot| RawSlot::from(slot.as_ref())),
            rest: [0; REST],
            checksum: 0.into(),
        };
        let mut block = [0; HEADER];
        block.copy_from_slice(raw.as_bytes());
        raw.checksum = checksum(&block).into();
        block.copy_from_slice(raw.as_bytes());
        block
    }

    /// The block that erases this volume: a header without a slot. Whoever writes it flushes the
    /// disk, and only then says that the volume is erased.
    pub fn erased(id: [u8; 16]) -> [u8; HEADER] {
        Header { id, slots: [None; SLOTS] }.to_block()
    }

    /// The volume's key, from the first slot that this wrapping key opens.
    pub fn unlock(&self, wrapping: &WrappingKey) -> Option<VolumeKey> {
        self.slots.iter().flatten().find_map(|slot| slot.unwrap(wrapping))
    }

    /// There is no slot: the volume was erased, and nothing can open it again.
    pub fn is_erased(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }
}

struct BadSlot;

impl RawSlot {
    const EMPTY: RawSlot = RawSlot {
        kind: U32::ZERO,
        memory_kib: U32::ZERO,
        passes: U32::ZERO,
        zero: U32::ZERO,
        salt: [0; SALT],
        wrapped: [0; WRAPPED],
        zeros: [0; 40],
    };

    fn read(&self) -> Result<Option<Slot>, BadSlot> {
        if self.zero != U32::ZERO || self.zeros.iter().any(|&byte| byte != 0) {
            return Err(BadSlot);
        }
        let kind = match self.kind.get() {
            NONE if self.as_bytes().iter().all(|&byte| byte == 0) => return Ok(None),
            SEALED if self.memory_kib == U32::ZERO && self.passes == U32::ZERO => Kind::Sealed,
            PASSPHRASE => {
                let cost = Cost::new(self.memory_kib.get(), self.passes.get()).ok_or(BadSlot)?;
                Kind::Passphrase { cost, salt: self.salt }
            }
            _ => return Err(BadSlot),
        };
        if kind == Kind::Sealed && self.salt != [0; SALT] {
            return Err(BadSlot);
        }
        Ok(Some(Slot { kind, wrapped: self.wrapped }))
    }
}

impl From<Option<&Slot>> for RawSlot {
    fn from(slot: Option<&Slot>) -> RawSlot {
        let Some(slot) = slot else { return RawSlot::EMPTY };
        let wrapped = RawSlot { wrapped: slot.wrapped, ..RawSlot::EMPTY };
        match slot.kind {
            Kind::Sealed => RawSlot { kind: SEALED.into(), ..wrapped },
            Kind::Passphrase { cost, salt } => RawSlot {
                kind: PASSPHRASE.into(),
                memory_kib: cost.memory_kib().into(),
                passes: cost.passes().into(),
                salt,
                ..wrapped
            },
        }
    }
}

/// CRC-32C of everything before the checksum.
fn checksum(block: &[u8; HEADER]) -> u32 {
    let (before, _) = block.split_last_chunk::<4>().unwrap_or((&[], &[0; 4]));
    CRC.checksum(before)
}
