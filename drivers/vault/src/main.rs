//! Releases the keys of encrypted volumes: each to one driver, once in each of its lives.
//!
//! Each export is one key, and the driver that it is granted to may ask for it. The key lies in the
//! image (`sealed-keys`, for development), or is made of a passphrase that somebody types at the
//! console: a grant `console` gives this task a line there, where nothing of it is shown. The task
//! has no device. What it decides is in `cloister-vault-core`; docs/notes/0012-keys.md is the
//! protocol.
//!
//! One passphrase is asked for at a time; other drivers wait meanwhile, in their mailboxes. Between
//! them the line takes orders to erase a volume, which its driver is told in each of its lives until
//! it has done it.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

mod prompt;

use cloister_keyslot::WrappingKey;
use cloister_keyslot::release::Reply;
use cloister_ring::{Link, Lost, Message, Side};
use cloister_rt::{Bits, Deadline, Grants, Instant, Mailbox, Shared, generation, grants, wait};
use cloister_vault_core::{Answer, Keeper};

use prompt::Prompt;

cloister_rt::entry!(main);

/// Keys that one vault keeps at most.
const KEYS_MAX: usize = 16;
/// Exit status: the manifest grants nobody a key.
const STATUS_NO_CLIENT: u32 = 1;

/// One key and the driver that may have it.
struct Kept {
    name: &'static str,
    client: &'static str,
    mailbox: Mailbox,
    link: Link<'static>,
    keeper: Keeper,
    /// The life that was told what its volume is to become.
    told: Option<u32>,
}

fn main() -> u32 {
    let mut prompt = Prompt::open(grants());
    let mut all: [Option<Kept>; KEYS_MAX] = [const { None }; KEYS_MAX];
    let bits = open(grants(), prompt.is_some(), &mut all);
    if bits.is_empty() {
        defmt::error!("no driver may have a key of this task; grant one an export");
        return STATUS_NO_CLIENT;
    }
    let bits = bits | prompt.as_ref().map_or(Bits::NONE, Prompt::bits);
    loop {
        for kept in all.iter_mut().flatten() {
            kept.serve(prompt.as_mut());
        }
        if let Some(prompt) = &mut prompt {
            hear(prompt, &mut all);
        }
        wait(bits, Deadline::Never);
    }
}

/// Gives the orders of whoever is at the console.
fn hear(prompt: &mut Prompt, all: &mut [Option<Kept>; KEYS_MAX]) {
    loop {
        let keys = all.iter().enumerate();
        let keys = keys.filter_map(|(number, kept)| {
            kept.as_ref().map(|kept| (number, kept.name, kept.client))
        });
        let Some(number) = prompt.order(keys) else { return };
        if let Some(Some(kept)) = all.get_mut(number) {
            defmt::warn!("key {=str}: {=str} is told to erase its volume", kept.name, kept.client);
            kept.keeper.erase(Instant::now().tsc());
            kept.told = None;
            kept.order();
        }
    }
}

impl Kept {
    /// Answers everything that the driver has asked.
    fn serve(&mut self, mut prompt: Option<&mut Prompt>) {
        loop {
            match self.link.receive(|| self.mailbox.peer.wake()) {
                Ok(Some(message)) => self.answer(&message, prompt.as_deref_mut()),
                Ok(None) => return self.order(),
                Err(Lost::Gone) => {
                    defmt::info!("key {=str}: driver {=str} begins anew", self.name, self.client);
                }
                Err(Lost::Retired(_)) => {
                    defmt::warn!("key {=str}: {=str} broke the mailbox", self.name, self.client);
                    return;
                }
            }
        }
    }

    /// Tells the driver, once in each life, that its volume is to be erased.
    fn order(&mut self) {
        let Some(order) = self.keeper.order() else { return };
        if !self.link.meet(|| self.mailbox.peer.wake()) || self.told == self.link.peer_life() {
            return;
        }
        let words = Message(order.to_words());
        // A driver that takes no message is asked again when it signals.
        if self.link.send(&words, || self.mailbox.peer.wake()).is_ok() {
            self.told = self.link.peer_life();
        }
    }

    fn answer(&mut self, message: &Message, prompt: Option<&mut Prompt>) {
        // A peer that sent a message has a life.
        let Some(life) = self.link.peer_life() else { return };
        let reply = match (self.keeper.ask(&message.0, life), prompt) {
            (Answer::Reply(reply), _) => reply,
            (Answer::Type(wanted), Some(prompt)) => {
                let key = prompt.passphrase(self.name, self.client, &wanted);
                self.keeper.typed(wanted, key)
            }
            (Answer::Type(wanted), None) => self.keeper.typed(wanted, None),
            (Answer::Nothing, _) => return,
            (Answer::Erased(is_erased), prompt) => {
                self.report(is_erased);
                if let Some(prompt) = prompt {
                    prompt.tell(self.name, is_erased);
                }
                return;
            }
        };
        match &reply {
            Reply::Key { .. } => {
                defmt::info!("key {=str} goes to {=str}", self.name, self.client);
            }
            Reply::Refused { reason, .. } => {
                defmt::warn!(
                    "key {=str} is refused to {=str}: {=str}",
                    self.name,
                    self.client,
                    reason.text()
                );
            }
        }
        let words = reply.to_words();
        if self.link.send(&Message(*words), || self.mailbox.peer.wake()).is_err() {
            // It was restarted while somebody typed: its next life asks again.
            defmt::warn!("key {=str}: {=str} took no reply", self.name, self.client);
        }
    }

    fn report(&self, is_erased: bool) {
        if is_erased {
            defmt::warn!("key {=str}: the volume of {=str} is erased", self.name, self.client);
        } else {
            defmt::error!(
                "key {=str}: {=str} could not erase its volume; its next life is told again, and \
                gets no key",
                self.name,
                self.client
            );
        }
    }
}

/// Opens every mailbox; the bits that say that one of them has news.
fn open(grants: Grants, can_type: bool, all: &mut [Option<Kept>; KEYS_MAX]) -> Bits {
    let mut bits = Bits::NONE;
    let mut places = all.iter_mut();
    for (name, client, mailbox) in grants.clients() {
        let words = mailbox.memory.words();
        let Ok(link) = Link::new(words, Side::Server, generation()) else {
            defmt::error!("the mailbox of key {=str} has {=usize} words", name, words.len());
            continue;
        };
        let mut sealed = grants.sealed_keys().filter(|(export, _)| *export == name);
        let keeper = Keeper::new(sealed.next().and_then(|(_, key)| read(&key)), can_type);
        let Some(place) = places.next() else {
            defmt::error!("no room for key {=str}", name);
            continue;
        };
        bits |= mailbox.bits;
        *place = Some(Kept { name, client, mailbox, link, keeper, told: None });
    }
    bits
}

/// A key of the image.
fn read(memory: &Shared) -> Option<WrappingKey> {
    let mut bytes = zeroize::Zeroizing::new([0; WrappingKey::BYTES]);
    let (parts, _) = bytes.as_chunks_mut::<8>();
    let words = memory.words().get(..parts.len())?;
    for (part, word) in parts.iter_mut().zip(words) {
        *part = word.load(core::sync::atomic::Ordering::Relaxed).to_le_bytes();
    }
    Some(WrappingKey::new(*bytes))
}
