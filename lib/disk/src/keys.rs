//! Where the keys of encrypted volumes come from: [`Keys`]; and [`NoKeys`], for drivers that have
//! no cipher.
//!
//! The loop asks with the volume's first block, and steps what was asked whenever the task wakes,
//! so that nobody waits while somebody types a passphrase. Neighbour: `lib/seal` asks the vault.
//! It may also want a volume erased that is in use.
//! Invariant: whoever is asked answers each volume once, after a bounded time, and says in the log
//! why a volume stays closed.

use cloister_block::{Plain, Seal};
use cloister_rt::Bits;
pub use cloister_rt::proto::volume::SEALED_DATA_OFFSET as DATA_OFFSET;
use cloister_rt::proto::volume::Volume as Record;

/// Bytes of the header at the begin of an encrypted volume.
pub const HEADER: usize = 4096;

/// A volume that stays closed; the log said why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// How far a volume is.
pub enum Answer<S> {
    /// Nobody has answered yet.
    Wait,
    /// Here is its cipher.
    Open(S),
    /// It stays closed.
    Closed(Refused),
    /// There is nothing new of a volume that had its answer.
    Known,
    /// It is to be erased, open or not.
    Erase,
}

/// Keys of encrypted volumes. Volumes are known by the number of their client.
pub trait Keys {
    /// The cipher.
    type Seal: Seal;

    /// Begins to ask for a volume's key: the export's name, what the manifest says of it, and its
    /// header. Returns the bits that tell of news.
    fn ask(
        &mut self,
        number: u8,
        name: &'static str,
        record: &'static Record,
        header: &[u8; HEADER],
    ) -> Result<Bits, Refused>;

    /// What came of it, and what is wanted since.
    fn step(&mut self, number: u8) -> Answer<Self::Seal>;

    /// What replaces a volume's header when it is erased.
    fn blank(&self, number: u8) -> Option<[u8; HEADER]>;

    /// Tells whoever wanted a volume erased what became of that.
    fn erased(&mut self, number: u8, is_erased: bool);
}

/// The keys of a driver that cannot decrypt.
pub struct NoKeys;

impl Keys for NoKeys {
    type Seal = Plain;

    fn ask(
        &mut self,
        _: u8,
        name: &'static str,
        _: &'static Record,
        _: &[u8; HEADER],
    ) -> Result<Bits, Refused> {
        defmt::error!(
            "volume {=str} is encrypted, which this program cannot do; the one that can is named like \
            it, with -sealed behind",
            name
        );
        Err(Refused)
    }

    fn step(&mut self, _: u8) -> Answer<Plain> {
        Answer::Closed(Refused)
    }

    fn blank(&self, _: u8) -> Option<[u8; HEADER]> {
        None
    }

    fn erased(&mut self, _: u8, _: bool) {}
}
