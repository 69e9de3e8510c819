//! What executes where while a guest's disk is used: every instruction of every core.
//!
//! With instructions counted a translated block of the emulator is one instruction, and its log
//! names core, address and the bits that say whether the core is in ring 0, in ring 3 or in a guest.
//! Halted cores execute nothing, and a guest's own instructions are told apart, so neither has to be
//! estimated. The micro-guest calls functions between requests ([`Marks`]), tells their addresses
//! before, and waits for a key. Neighbours: `disk` counts what lies between two marks, `restart` what
//! lies between a kill and a mark.
//!
//! Invariant: whoever reads a [`Log`] reads all of it, so the emulator is never held up.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, ensure};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;

use super::Bench;
use crate::appliance::Appliance;
use crate::machine::{Flow, Key};

/// The cores of the appliances with the driver (and what works for it), and with monitor and guest.
pub const DRIVER: u64 = 1;
const GUEST: u64 = 2;
/// What the guest says before its marks, and when all is done.
const BEGINS: &str = "| bench trace ";
const DONE: &str = "| bench done";
/// The key that the guest waits for.
const GO: &[u8] = b"g";
/// QEMU's commands for its log.
const LOG: &str = "log exec,nochain";
const QUIET: &str = "log none";
/// Bits of a block's state in QEMU's log: the ring, and whether a guest runs.
const RING: u64 = 3;
const IN_GUEST: u64 = 1 << 21;

/// Where the functions are that the guest calls: behind one request, and behind many.
pub type Marks = [u64; 2];

/// Instructions of the host side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Ring 0.
    pub kernel: u64,
    /// Ring 3 of the guest's core.
    pub monitor: u64,
    /// Ring 3 of the driver's core.
    pub driver: u64,
    /// Ring 3 of other cores.
    pub other: u64,
}

impl Piece {
    /// Kernel, monitor, driver, and all of the host side before them.
    pub fn parts(&self) -> [u64; 4] {
        let all = self.kernel + self.monitor + self.driver + self.other;
        [all, self.kernel, self.monitor, self.driver]
    }

    /// Counts an instruction, unless it is the guest's.
    pub fn count(&mut self, step: &Step) {
        match step.core {
            _ if step.is_guest() => {}
            _ if step.is_kernel() => self.kernel += 1,
            DRIVER => self.driver += 1,
            GUEST => self.monitor += 1,
            _ => self.other += 1,
        }
    }
}

/// An instruction in QEMU's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where it ran.
    pub core: u64,
    /// Its address.
    pub at: u64,
    state: u64,
}

impl Step {
    /// It is the guest's.
    pub fn is_guest(&self) -> bool {
        self.state & IN_GUEST != 0
    }

    /// It is the kernel's.
    pub fn is_kernel(&self) -> bool {
        !self.is_guest() && self.state & RING == 0
    }

    /// A line `Trace CORE: BLOCK [BASE/ADDRESS/STATE/FLAGS] …`.
    fn read(line: &[u8]) -> Option<Step> {
        let line = line.strip_prefix(b"Trace ")?;
        let colon = line.iter().position(|byte| *byte == b':')?;
        let core = str::from_utf8(line.get(..colon)?).ok()?.parse().ok()?;
        let open = line.iter().position(|byte| *byte == b'[')?;
        let mut words = line.get(open + 1..)?.split(|byte| *byte == b'/').skip(1);
        let mut hex = || u64::from_str_radix(str::from_utf8(words.next()?).ok()?, 16).ok();
        Some(Step { core, at: hex()?, state: hex()? })
    }
}

/// QEMU's log of a run.
pub struct Log<'r> {
    /// What the guest told.
    pub marks: Marks,
    lines: Box<dyn BufRead + 'r>,
    line: Vec<u8>,
}

impl<'r> Log<'r> {
    /// The log in these lines.
    pub fn new(lines: impl BufRead + 'r, marks: Marks) -> Log<'r> {
        Log { marks, lines: Box::new(lines), line: Vec::new() }
    }
}

impl Iterator for Log<'_> {
    type Item = Result<Step>;

    fn next(&mut self) -> Option<Result<Step>> {
        loop {
            self.line.clear();
            match self.lines.read_until(b'\n', &mut self.line) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => return Some(Err(error).context("cannot read QEMU's log")),
            }
            if let Some(step) = Step::read(&self.line) {
                return Some(Ok(step));
            }
        }
    }
}

/// What `read` makes of one run of an appliance, from the moment at which the guest was told to go
/// on. `keys` are typed after that.
pub fn watch<T: Send + 'static>(
    bench: &Bench,
    appliance: &Appliance,
    keys: &[u8],
    read: impl FnOnce(Log<'_>) -> Result<T> + Send + 'static,
) -> Result<T> {
    let folder = tempfile::Builder::new().prefix("cloister-trace-").tempdir()?;
    let pipe = folder.path().join("log");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        .context("cannot make a pipe")?;
    let mut machine = appliance.machine.clone();
    machine.extra.extend(["-D".to_owned(), pipe.display().to_string()]);
    let (sender, typed) = channel();
    let log = |line: &str| {
        let arguments = json!({ "command-line": line });
        // A machine that has ended hears nothing.
        let _ = sender.send(Key::Command("human-monitor-command".to_owned(), arguments));
    };
    let mut decoder = appliance.decoder(false)?;
    // QEMU opens its log when it starts, and waits for a reader.
    let (tell, told) = channel();
    let (typing, keys) = (sender.clone(), [GO, keys].concat());
    let go = move || drop(typing.send(Key::Bytes(keys)));
    let reader = listen(&pipe, told, go, read);
    let outcome = machine.run(&bench.qemu, Some(typed), |bytes| {
        for line in decoder.feed(bytes) {
            if let Some(marks) = marks(&line.text) {
                let _ = tell.send(marks);
                log(LOG);
            } else if line.text.contains(DONE) {
                log(QUIET);
            }
        }
        Flow::Continue
    })?;
    // A reader that QEMU never wrote to still waits for somebody who opens the pipe; who opens it
    // for both does not wait.
    drop(OpenOptions::new().read(true).write(true).open(&pipe));
    let image = appliance.machine.image.display();
    ensure!(outcome.in_order(), "{image}: {}", outcome.describe());
    reader.join().map_err(|_| anyhow::anyhow!("the log could not be read"))?
}

fn listen<T: Send + 'static>(
    pipe: &Path,
    marks: Receiver<Marks>,
    go: impl FnOnce() + Send + 'static,
    read: impl FnOnce(Log<'_>) -> Result<T> + Send + 'static,
) -> JoinHandle<Result<T>> {
    let pipe = pipe.to_owned();
    thread::spawn(move || {
        let log = File::open(&pipe).context("cannot read QEMU's log")?;
        let mut log = BufReader::with_capacity(1 << 20, log);
        // Nothing is logged before the guest has told its marks. It looks for its key again and
        // again, so a log that works has something, and only then may the guest go on.
        log.fill_buf().context("cannot read QEMU's log")?;
        let marks = marks.try_recv().context("the guest told no marks")?;
        go();
        read(Log::new(log, marks))
    })
}

/// The two addresses that the guest prints.
fn marks(line: &str) -> Option<Marks> {
    let (_, tail) = line.split_once(BEGINS)?;
    let mut words = tail.split_whitespace().map(|word| word.parse().ok());
    Some([words.next()??, words.next()??])
}

/// The lines that QEMU writes for these steps: core, address, state. For tests.
#[cfg(test)]
pub fn lines(steps: &[(u64, u64, u64)]) -> String {
    let line = |&(core, at, state): &(u64, u64, u64)| {
        format!("Trace {core}: 0x7f31c4000100 [00000000/{at:016x}/{state:08x}/ff020201] \n")
    };
    steps.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::{Step, lines, marks};

    #[test]
    fn lines_of_the_log_are_read() {
        let line = lines(&[(2, 0xffff_8000_0000_1234, 0x20_c0b3)]);
        let found = Step::read(line.as_bytes()).unwrap();
        assert_eq!((found.core, found.at, found.state), (2, 0xffff_8000_0000_1234, 0x20_c0b3));
        assert!(found.is_guest() && !found.is_kernel());
        for odd in ["", "Trace", "Trace 1: 0x7f", "Stopped execution of TB chain before 0x7f [1]"] {
            assert_eq!(Step::read(odd.as_bytes()), None, "{odd}");
        }
        assert_eq!(marks("disk  | bench trace 4096 8192"), Some([4096, 8192]));
        assert_eq!(marks("disk  | bench trace 4096"), None);
    }
}
