//! The vault's line at the console: asking for a passphrase, and hearing what is to be erased.
//!
//! The console shows what this task writes and sends what is typed while the task's line is the
//! chosen one; it shows nothing of its own accord, so a passphrase is not seen.

use cloister_keyslot::WrappingKey;
use cloister_keyslot::passphrase::{self, Block, MEMORY_KIB_MAX};
use cloister_ring::{Side, Stream};
use cloister_rt::{Bits, Deadline, Duration, Grants, Mailbox, Woken, generation, wait};
use cloister_vault_core::{Desk, Line, SURE, Said, Typed, Wanted};
use static_cell::ConstStaticCell;

/// How long somebody may take to type.
const PATIENCE: Duration = Duration::from_secs(600);
/// Blocks of memory that making a key may cost.
const BLOCKS: usize = MEMORY_KIB_MAX as usize;

static MEMORY: ConstStaticCell<[Block; BLOCKS]> =
    ConstStaticCell::new([const { Block::new() }; BLOCKS]);

/// The line at the console, and the memory for making keys.
pub struct Prompt {
    mailbox: Mailbox,
    stream: Stream<'static>,
    desk: Desk,
    memory: &'static mut [Block],
}

impl Prompt {
    /// Opens it, if the manifest grants a `console`.
    pub fn open(grants: Grants) -> Option<Prompt> {
        let mailbox = grants.mailbox("console").ok()?;
        let stream = Stream::new(mailbox.memory.words(), Side::Client, generation());
        let Ok(mut stream) = stream else {
            defmt::error!("the page of the grant `console` is too small");
            return None;
        };
        stream.discard();
        let memory = MEMORY.try_take()?;
        Some(Prompt { mailbox, stream, desk: Desk::default(), memory })
    }

    /// What tells of keys.
    pub fn bits(&self) -> Bits {
        self.mailbox.bits
    }

    /// Takes the keys that were typed while no passphrase is asked for. The number of the key whose
    /// volume is to be erased; `all` are the keys' names and drivers with their numbers.
    pub fn order<'a>(
        &mut self,
        all: impl Iterator<Item = (usize, &'a str, &'a str)> + Clone,
    ) -> Option<usize> {
        let mut keys = [0];
        while self.stream.read(&mut keys) > 0 {
            self.mailbox.peer.wake();
            let [key] = keys;
            let mut named = all.clone();
            let find = |name: &[u8]| {
                all.clone().find(|(_, key, _)| key.as_bytes() == name).map(|(number, ..)| number)
            };
            match self.desk.key(key, find) {
                Said::Nothing => {}
                Said::Echo(byte) => self.write(&[str::from_utf8(&[byte]).unwrap_or_default()]),
                Said::Rub(count) => (0..count).for_each(|_| self.write(&["\x08 \x08"])),
                Said::Early => {
                    self.write(&[
                        "\r\nnobody asks for a passphrase; Enter shows what can be done\r\n",
                    ]);
                }
                Said::Unknown => self.write(&["\r\nthere is no such key\r\n"]),
                Said::Kept => self.write(&["\r\nnothing was erased\r\n"]),
                Said::Menu => {
                    self.write(&["\r\nkeys:"]);
                    for (_, key, client) in named {
                        self.write(&[" ", key, " (", client, ")"]);
                    }
                    self.write(&["\r\nerase the volume of key: "]);
                }
                Said::Sure(number) => {
                    if let Some((_, key, client)) = named.find(|(other, ..)| *other == number) {
                        self.write(&[
                            "\r\nnothing brings back what ",
                            client,
                            " has under key ",
                            key,
                        ]);
                        self.write(&["; type ", SURE, " to go on: "]);
                    }
                }
                Said::Erase(number) => {
                    self.write(&["\r\n"]);
                    return Some(number);
                }
            }
        }
        None
    }

    /// Says what became of an order.
    pub fn tell(&mut self, name: &str, is_erased: bool) {
        let outcome = if is_erased { " is erased\r\n" } else { " is NOT erased: see the log\r\n" };
        self.write(&["\r\nthe volume of key ", name, outcome]);
    }

    /// Asks until Enter; the key that what was typed makes. `None` if nobody wants to type.
    pub fn passphrase(&mut self, name: &str, client: &str, wanted: &Wanted) -> Option<WrappingKey> {
        self.desk.clear();
        self.write(&["\r\npassphrase of ", name, " for ", client, ": "]);
        defmt::info!("key {=str}: {=str} waits for its passphrase", name, client);
        let mut line = Line::default();
        let outcome = self.line(&mut line);
        self.write(&["\r\n"]);
        if outcome != Typed::Whole {
            return None;
        }
        passphrase::derive(line.bytes(), wanted.cost, &wanted.salt, self.memory)
    }

    /// Takes keys until the line has an end.
    fn line(&mut self, line: &mut Line) -> Typed {
        let deadline = Deadline::after(PATIENCE);
        loop {
            let mut keys = [0];
            if self.stream.read(&mut keys) > 0 {
                self.mailbox.peer.wake();
                let [key] = keys;
                match line.key(key) {
                    Typed::More => continue,
                    end => return end,
                }
            }
            if wait(self.mailbox.bits, deadline) == Woken::Deadline {
                return Typed::Cancelled;
            }
        }
    }

    /// Shows texts as one; what does not fit while the console is away is lost.
    fn write(&mut self, texts: &[&str]) {
        for text in texts {
            self.stream.write(text.as_bytes());
        }
        self.mailbox.peer.wake();
    }
}
