//! Test task: opens an encrypted volume with a key of the vault, in two lives.
//!
//! It stands for a disk's driver. Its header is made here, as a disk would have it: one slot, for
//! the manifest's key or for a passphrase. The first life leaves with an error as soon as the volume
//! is open, so that the supervisor starts a second one, which has to get the key as well.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use cloister_cipher::{BLOCK, Cipher};
use cloister_keyslot::passphrase::{self, Block, Cost};
use cloister_keyslot::{Asker, Header, Kind, Slot, Step, VolumeKey, WrappingKey};
use cloister_ring::{Link, Side};
use cloister_rt::{Deadline, Instant, generation, grants, wait};
use static_cell::ConstStaticCell;

cloister_rt::entry!(main);

/// What images/test-vault/dev.key holds.
const SEALED: [u8; 32] = [0x5c; 32];
/// What has to be typed.
const PASSPHRASE: &[u8] = b"open sesame";
/// KiB that its key costs.
const MEMORY_KIB: u32 = 64;
const SALT: [u8; 32] = [0x33; 32];

static MEMORY: ConstStaticCell<[Block; MEMORY_KIB as usize]> =
    ConstStaticCell::new([const { Block::new() }; MEMORY_KIB as usize]);

fn main() -> u32 {
    let Some(header) = header() else { return 2 };
    let Ok(mailbox) = grants().mailbox("key") else {
        defmt::error!("grant this task key = \"vault/…\"");
        return 2;
    };
    let Ok(link) = Link::new(mailbox.memory.words(), Side::Client, generation()) else { return 2 };
    let mut asker = Asker::new(link, Instant::now().tsc());
    let key = loop {
        match asker.step(&header, || mailbox.peer.wake()) {
            Step::Wait => drop(wait(mailbox.bits, Deadline::Never)),
            Step::Key(key) => break key,
            Step::Failed(_) | Step::Erase(_) => {
                defmt::error!("FAILED, the volume stays closed");
                return 3;
            }
        }
    };
    let sum = mailbox.memory.words().iter().skip(16);
    let left =
        sum.filter(|word| word.load(core::sync::atomic::Ordering::Relaxed) == word_of(&SEALED));
    if left.count() != 0 || key.bytes() != &volume_bytes() || !works(&key) {
        defmt::error!("FAILED, a wrong key, or one that is left in the mailbox");
        return 4;
    }
    defmt::info!("life {=u64}: the volume is open", generation());
    u32::from(generation() == 0)
}

fn word_of(bytes: &[u8; 32]) -> u64 {
    let (words, _) = bytes.as_chunks::<8>();
    words.first().map_or(0, |word| u64::from_le_bytes(*word))
}

fn volume_bytes() -> [u8; VolumeKey::BYTES] {
    core::array::from_fn(|at| (7 * at + 1) as u8)
}

/// The header that a disk would have.
fn header() -> Option<Header> {
    let (kind, wrapping) = match grants().number("passphrase") {
        Ok(1) => {
            let cost = Cost::new(MEMORY_KIB, 1)?;
            let memory = MEMORY.try_take()?;
            let key = passphrase::derive(PASSPHRASE, cost, &SALT, memory)?;
            (Kind::Passphrase { cost, salt: SALT }, key)
        }
        _ => (Kind::Sealed, WrappingKey::new(SEALED)),
    };
    let slot = Slot::wrap(kind, &wrapping, &VolumeKey::new(volume_bytes())?);
    Header::read(&Header { id: [1; 16], slots: [Some(slot), None] }.to_block()).ok()
}

/// A block goes there and back.
fn works(key: &VolumeKey) -> bool {
    let cipher = Cipher::new(key.bytes());
    let mut block = [0x77; BLOCK];
    let there = cipher.encrypt_blocks(5, &mut block);
    let is_hidden = block.iter().filter(|&&byte| byte == 0x77).count() < 100;
    there.is_ok()
        && is_hidden
        && cipher.decrypt_blocks(5, &mut block).is_ok()
        && block == [0x77; BLOCK]
}
