//! What a disk driver's task needs for encrypted volumes: [`Vault`], its keys, and [`Sealed`], the
//! cipher of one volume.
//!
//! A driver's `main` gives a [`Vault`] to its task, and `cloister_disk::drive` brings each volume's
//! header; `lib/keyslot` has the conversation with the vault's task, by the grant that the manifest
//! names, and unwraps the volume's key; `lib/cipher` keeps it expanded until the task ends or the
//! volume is erased. A program that uses this crate is compiled with AES instructions
//! (`[package.metadata.cloister] fpu`).
//! Invariant: a key is asked for once in a life of the task, and every volume has an answer: a vault
//! that says nothing is given up after a while. A volume that was erased has no cipher any more.

#![no_std]
#![forbid(unsafe_code)]

mod text;

use core::slice::IterMut;

use cloister_block::{BLOCK, GROUPS, Seal};
use cloister_cipher::Cipher;
use cloister_disk::{Answer, DATA_OFFSET, HEADER, Keys, Refused};
use cloister_dma::View;
use cloister_keyslot::erase::{Order, Outcome};
use cloister_keyslot::{Asker, Header, Kind, Step};
use cloister_ring::{Link, Side};
use cloister_rt::proto::volume::Volume as Record;
use cloister_rt::{Bits, Duration, Instant, Mailbox, generation, grants};
use static_cell::ConstStaticCell;

const _: () = assert!(DATA_OFFSET == cloister_keyslot::DATA_OFFSET);
const _: () = assert!(HEADER == cloister_keyslot::HEADER && BLOCK == cloister_cipher::BLOCK);
const _: () = assert!(GROUPS == cloister_cipher::GROUPS);

/// Most volumes: as many as clients of a driver.
const VOLUMES_MAX: usize = cloister_block::CLIENTS_MAX;

/// Exit status: there is a vault already, which cannot be.
const STATUS_NO_VAULT: u32 = 4;

/// How long the vault may be silent.
struct Patience;

impl Patience {
    /// For a key that lies ready: longer than a restart of the vault takes.
    const READY: Duration = Duration::from_secs(20);
    /// For one that somebody types. The vault itself gives up a little earlier, for one volume after
    /// the other.
    const TYPED: Duration = Duration::from_secs(3600);

    fn of(header: &Header) -> Duration {
        let is_typed = |kind| matches!(kind, Kind::Passphrase { .. });
        let typed = header.slots.iter().flatten().any(|slot| is_typed(slot.kind));
        if typed { Self::TYPED } else { Self::READY }
    }
}

/// The ciphers of open volumes: large, so not in anybody's frame.
static CIPHERS: ConstStaticCell<[Option<Cipher>; VOLUMES_MAX]> =
    ConstStaticCell::new([const { None }; VOLUMES_MAX]);

/// The cipher of an open volume, wiped when it is dropped.
pub struct Sealed(&'static mut Option<Cipher>);

impl Drop for Sealed {
    fn drop(&mut self) {
        *self.0 = None;
    }
}

impl Seal for Sealed {
    fn encrypt(&self, number: u64, from: &View<'_, GROUPS>, to: &View<'_, GROUPS>) {
        // It is there as long as this value is.
        let Some(cipher) = &*self.0 else { return };
        let ways = from.spots().zip(to.spots());
        cipher.encrypt(number, ways, |(from, _)| from.load(), |(_, to), group| to.store(group));
    }

    fn decrypt(&self, number: u64, from: &View<'_, GROUPS>, to: &View<'_, GROUPS>) {
        let Some(cipher) = &*self.0 else { return };
        let ways = from.spots().zip(to.spots());
        cipher.decrypt(number, ways, |(from, _)| from.load(), |(_, to), group| to.store(group));
    }
}

/// A volume whose key was asked for, and what the vault wants of it since.
struct Asked {
    name: &'static str,
    header: Header,
    asker: Asker<'static>,
    mailbox: Mailbox,
    end: Instant,
    /// It is open or closed; the vault has nothing more to say but an order.
    is_known: bool,
    order: Option<Order>,
}

/// The vault, as this task knows it.
pub struct Vault {
    asked: [Option<Asked>; VOLUMES_MAX],
    /// Places for ciphers that nobody has.
    ciphers: IterMut<'static, Option<Cipher>>,
}

impl Vault {
    /// Nothing was asked. A task has one vault; `None` from the second on.
    fn new() -> Option<Vault> {
        let ciphers = CIPHERS.try_take()?.iter_mut();
        Some(Vault { asked: [const { None }; VOLUMES_MAX], ciphers })
    }
}

/// Runs a driver with the vault's keys; its exit status.
pub fn with_vault(run: impl FnOnce(&mut Vault) -> u32) -> u32 {
    Vault::new().map_or(STATUS_NO_VAULT, |mut vault| run(&mut vault))
}

impl Keys for Vault {
    type Seal = Sealed;

    fn ask(
        &mut self,
        number: u8,
        name: &'static str,
        record: &'static Record,
        header: &[u8; HEADER],
    ) -> Result<Bits, Refused> {
        let header = Header::read(header).map_err(|why| text::unreadable(name, why))?;
        let key = record.key_name().unwrap_or("key");
        let mailbox = grants().mailbox(key).map_err(|missing| {
            defmt::error!("{}: volume {=str} stays closed", missing, name);
            Refused
        })?;
        let words = mailbox.memory.words();
        let link = Link::new(words, Side::Client, generation()).map_err(|_| {
            defmt::error!("the mailbox of key {=str} has {=usize} words", key, words.len());
            Refused
        })?;
        let place = self.asked.get_mut(usize::from(number)).ok_or(Refused)?;
        let asker = Asker::new(link, Instant::now().tsc());
        let (bits, end) = (mailbox.bits, Instant::now() + Patience::of(&header));
        let (is_known, order) = (false, None);
        *place = Some(Asked { name, header, asker, mailbox, end, is_known, order });
        Ok(bits)
    }

    fn step(&mut self, number: u8) -> Answer<Sealed> {
        let Some(place) = self.asked.get_mut(usize::from(number)) else {
            return Answer::Closed(Refused);
        };
        let Some(asked) = place else { return Answer::Closed(Refused) };
        let Asked { name, header, asker, mailbox, end, is_known, order } = asked;
        let wake = || mailbox.peer.wake();
        if *is_known {
            *order = asker.listen(wake);
            return if order.is_some() { Answer::Erase } else { Answer::Known };
        }
        let answer = match asker.step(header, wake) {
            Step::Wait if Instant::now() < *end => return Answer::Wait,
            Step::Wait => Answer::Closed(text::silent(name)),
            // There is a place for each client's volume, which is opened once.
            Step::Key(key) => match self.ciphers.next() {
                Some(place) => {
                    defmt::info!("volume {=str} is open", *name);
                    *place = Some(Cipher::new(key.bytes()));
                    Answer::Open(Sealed(place))
                }
                None => Answer::Closed(Refused),
            },
            Step::Failed(failure) => Answer::Closed(text::failed(name, failure)),
            Step::Erase(wanted) => {
                *order = Some(wanted);
                Answer::Erase
            }
        };
        *is_known = true;
        answer
    }

    fn blank(&self, number: u8) -> Option<[u8; HEADER]> {
        let asked = self.asked.get(usize::from(number))?.as_ref()?;
        Some(Header::erased(asked.header.id))
    }

    fn erased(&mut self, number: u8, is_erased: bool) {
        let Some(Some(asked)) = self.asked.get_mut(usize::from(number)) else { return };
        let Some(Order { number }) = asked.order.take() else { return };
        if is_erased {
            defmt::warn!("volume {=str} is erased; nothing brings its data back", asked.name);
        } else {
            defmt::error!("volume {=str} is closed, and could not be erased", asked.name);
        }
        let outcome = Outcome { number, is_erased };
        if asked.asker.report(outcome, || asked.mailbox.peer.wake()).is_err() {
            // It was restarted meanwhile, and has forgotten its order.
            defmt::warn!("volume {=str}: the vault takes no message", asked.name);
        }
    }
}
