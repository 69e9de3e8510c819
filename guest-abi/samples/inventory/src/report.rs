//! Lines to the console and into the hash.

use core::fmt::{self, Write};

use cloister_guest_rt::{print, println};
use crc::{CRC_64_XZ, Crc, Digest};

static HASH: Crc<u64> = Crc::<u64>::new(&CRC_64_XZ);

/// The inventory so far.
pub struct Report {
    hash: Digest<'static, u64>,
    lines: u32,
}

impl Default for Report {
    fn default() -> Self {
        Self { hash: HASH.digest(), lines: 0 }
    }
}

/// Console and hash in one.
struct Both<'a>(&'a mut Digest<'static, u64>);

impl Write for Both<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text.as_bytes());
        print!("{text}");
        Ok(())
    }
}

impl Report {
    /// A line of the inventory.
    pub fn line(&mut self, text: fmt::Arguments) {
        self.lines += 1;
        // Neither console nor hash can fail.
        let _ = Both(&mut self.hash).write_fmt(format_args!("{text}\n"));
    }

    /// A line that may differ from host to host.
    pub fn host(&mut self, text: fmt::Arguments) {
        println!("host {text}");
    }

    /// Prints the hash.
    pub fn finish(self) {
        println!("inventory of {} lines, hash {:016x}", self.lines, self.hash.finalize());
    }
}
