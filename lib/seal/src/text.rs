//! Why a volume stays closed, in words for the log: one line each, with what to do.

use cloister_disk::Refused;
use cloister_keyslot::{Failure, Unreadable};

/// A header that cannot be used.
pub(crate) fn unreadable(name: &str, why: Unreadable) -> Refused {
    match why {
        Unreadable::NoHeader => defmt::error!(
            "volume {=str} stays closed: it has no header; encrypt it (cargo xtask volume \
            encrypt), or write its first block back",
            name
        ),
        Unreadable::Checksum | Unreadable::NotZero | Unreadable::Slot(_) => defmt::error!(
            "volume {=str} stays closed: its header is damaged; write its first block back",
            name
        ),
        Unreadable::Version(_) | Unreadable::Cipher(_) | Unreadable::Data(_) => defmt::error!(
            "volume {=str} stays closed: its header is of another version; use the Cloister that \
            made it",
            name
        ),
    }
    Refused
}

/// What the vault, or its key, led to.
pub(crate) fn failed(name: &str, failure: Failure) -> Refused {
    match failure {
        Failure::Erased => defmt::error!(
            "volume {=str} stays closed: it was erased, and nothing opens it again; make a new one",
            name
        ),
        Failure::WrongKey => defmt::error!(
            "volume {=str} stays closed: the key of the manifest is not the one that it was \
            encrypted with; build the image with that one",
            name
        ),
        Failure::Refused(reason) => defmt::error!(
            "volume {=str} stays closed: {=str}; restart this task to try again",
            name,
            reason.text()
        ),
        Failure::BadVault(_) => defmt::error!(
            "volume {=str} stays closed: the vault broke the mailbox; see why, and restart both",
            name
        ),
    }
    Refused
}

/// A vault that does not answer.
pub(crate) fn silent(name: &str) -> Refused {
    defmt::error!(
        "volume {=str} stays closed: the vault does not answer; see why it is at rest, and restart \
        this task",
        name
    );
    Refused
}
