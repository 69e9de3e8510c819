//! Asking for a passphrase at the console.
//!
//! The console shows what this task writes and sends what is typed while the task's line is the
//! chosen one; it shows nothing of its own accord, so a passphrase is not seen.

use cloister_keyslot::WrappingKey;
use cloister_keyslot::passphrase::{self, Block, MEMORY_KIB_MAX};
use cloister_ring::{Side, Stream};
use cloister_rt::{Deadline, Duration, Grants, Mailbox, Woken, generation, wait};
use cloister_vault_core::{Line, Typed, Wanted};
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
        Some(Prompt { mailbox, stream, memory })
    }

    /// Asks until Enter; the key that what was typed makes. `None` if nobody wants to type.
    pub fn passphrase(&mut self, name: &str, client: &str, wanted: &Wanted) -> Option<WrappingKey> {
        for text in ["\r\npassphrase of ", name, " for ", client, ": "] {
            self.write(text);
        }
        defmt::info!("key {=str}: {=str} waits for its passphrase", name, client);
        let mut line = Line::default();
        let outcome = self.line(&mut line);
        self.write("\r\n");
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

    /// Shows text; what does not fit while the console is away is lost.
    fn write(&mut self, text: &str) {
        self.stream.write(text.as_bytes());
        self.mailbox.peer.wake();
    }
}
