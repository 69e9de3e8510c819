//! What the host side executes for a read of one block from an NVMe disk, memory direct.
//!
//! Every instruction of a window is seen: with instructions counted a translated block of the
//! emulator is one instruction, and its log names core, address and the bits that say whether the
//! core is in ring 0, in ring 3 or in a guest. Halted cores execute nothing, and a guest's own
//! instructions are told apart, so neither has to be estimated. The micro-guest calls functions
//! between requests ([`Marks`]); what lies between two calls is a known number of them.
//!
//! `images/bench-disk` has the driver on a core of its own, and the monitor with its guest on
//! another; that is how ring 3 is split. When the disk ends a request is up to the host's clock,
//! so the value is the median of [`WINDOWS`] windows, which differ by no more than [`SPREAD`].

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;

use super::Bench;
use crate::appliance::Appliance;
use crate::install::say;
use crate::machine::{Flow, Key};
use crate::numbers::Values;

/// What is measured here.
pub const KEYS: &[&str] = &[
    "blk_read_4k_qd1",
    "blk_read_4k_qd1_kernel",
    "blk_read_4k_qd1_monitor",
    "blk_read_4k_qd1_driver",
    "blk_read_4k_qd32",
    "blk_read_4k_qd32_kernel",
    "blk_read_4k_qd32_monitor",
    "blk_read_4k_qd32_driver",
];
/// The appliance.
const APPLIANCE: &str = "bench-disk";
/// Its cores with the driver, and with monitor and guest.
const DRIVER: u64 = 1;
const GUEST: u64 = 2;
/// Windows, and by how many thousandths of the median they may differ.
const WINDOWS: usize = 10;
const SPREAD: u64 = 20;
/// Requests between two marks, one at a time and with 32 in flight (`tests/guest/disk/src/bench`).
const BETWEEN: [u64; 2] = [1, 64];
/// Least pieces between marks of a window.
const PIECES_MIN: usize = 8;
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
type Marks = [u64; 2];

/// Instructions between two marks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Piece {
    kernel: u64,
    monitor: u64,
    driver: u64,
    /// Ring 3 of other cores.
    other: u64,
}

impl Piece {
    /// Kernel, monitor, driver, and all of the host side before them.
    fn parts(&self) -> [u64; 4] {
        let all = self.kernel + self.monitor + self.driver + self.other;
        [all, self.kernel, self.monitor, self.driver]
    }
}

/// All windows.
pub fn measure(bench: &Bench) -> Result<Values> {
    let appliance = bench.appliance(APPLIANCE)?;
    let mut windows: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for number in 1..=WINDOWS {
        let pieces = window(bench, &appliance)?;
        for (place, (pieces, between)) in pieces.iter().zip(BETWEEN).enumerate() {
            let count = pieces.len();
            ensure!(count >= PIECES_MIN, "a window has {count} pieces only; it began too late");
            for (part, key) in KEYS[4 * place..][..4].iter().enumerate() {
                let mut all: Vec<u64> = pieces.iter().map(|piece| piece.parts()[part]).collect();
                let value = median(&mut all).div_ceil(between);
                if part == 0 {
                    say(&format!("  window {number} of {WINDOWS}: {key} {value}"));
                }
                windows.entry(key).or_default().push(value);
            }
        }
    }
    let mut values = Values::new();
    for (key, mut all) in windows {
        let median = median(&mut all);
        let (least, most) = (all[0], all[WINDOWS - 1]);
        say(&format!("  {key}: {least} to {most}"));
        // A part may be a few instructions, where one more is much.
        let spread = (most - least) * 1000;
        if [KEYS[0], KEYS[4]].contains(&key) && spread > SPREAD * median {
            bail!("{key}: windows differ by more than {} %: {all:?}", SPREAD / 10);
        }
        values.insert(key.to_owned(), median);
    }
    Ok(values)
}

/// The upper median; sorts.
fn median(values: &mut [u64]) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

/// One run: the pieces at either depth.
fn window(bench: &Bench, appliance: &Appliance) -> Result<[Vec<Piece>; 2]> {
    let folder = tempfile::Builder::new().prefix("cloister-trace-").tempdir()?;
    let pipe = folder.path().join("log");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        .context("cannot make a pipe")?;
    let mut machine = appliance.machine.clone();
    machine.extra.extend(["-D".to_owned(), pipe.display().to_string()]);
    let (keys, typed) = channel();
    let log = |line: &str| {
        let arguments = json!({ "command-line": line });
        // A machine that has ended hears nothing.
        let _ = keys.send(Key::Command("human-monitor-command".to_owned(), arguments));
    };
    let mut decoder = appliance.decoder(false)?;
    // QEMU opens its log when it starts, and waits for a reader.
    let (tell, told) = channel();
    let reader = listen(&pipe, told);
    let outcome = machine.run(&bench.qemu, Some(typed), |bytes| {
        for line in decoder.feed(bytes) {
            if let Some(marks) = marks(&line.text) {
                let _ = tell.send(marks);
                log(LOG);
                let _ = keys.send(Key::Bytes(GO.to_vec()));
            } else if line.text.contains(DONE) {
                log(QUIET);
            }
        }
        Flow::Continue
    })?;
    // A reader that QEMU never wrote to still waits for somebody who opens the pipe; who opens it
    // for both does not wait.
    drop(OpenOptions::new().read(true).write(true).open(&pipe));
    ensure!(outcome.in_order(), "images/{APPLIANCE}: {}", outcome.describe());
    reader.join().map_err(|_| anyhow::anyhow!("the log could not be read"))?
}

fn listen(pipe: &Path, marks: Receiver<Marks>) -> JoinHandle<Result<[Vec<Piece>; 2]>> {
    let pipe = pipe.to_owned();
    thread::spawn(move || {
        let log = File::open(&pipe).context("cannot read QEMU's log")?;
        let mut log = BufReader::with_capacity(1 << 20, log);
        // Nothing is logged before the guest has told its marks.
        log.fill_buf().context("cannot read QEMU's log")?;
        let marks = marks.try_recv().context("the guest told no marks")?;
        pieces(log, marks)
    })
}

/// The two addresses that the guest prints.
fn marks(line: &str) -> Option<Marks> {
    let (_, tail) = line.split_once(BEGINS)?;
    let mut words = tail.split_whitespace().map(|word| word.parse().ok());
    Some([words.next()??, words.next()??])
}

/// The pieces between two marks of the same kind.
fn pieces(mut log: impl BufRead, marks: Marks) -> Result<[Vec<Piece>; 2]> {
    let mut found = [Vec::new(), Vec::new()];
    let (mut kind, mut piece) = (None, Piece::default());
    let mut line = Vec::new();
    while log.read_until(b'\n', &mut line).context("cannot read QEMU's log")? != 0 {
        if let Some(step) = step(&line) {
            if step.state & IN_GUEST != 0 {
                if let Some(now) = marks.iter().position(|mark| *mark == step.at) {
                    if kind == Some(now) {
                        found[now].push(piece);
                    }
                    (kind, piece) = (Some(now), Piece::default());
                }
            } else if step.state & RING == 0 {
                piece.kernel += 1;
            } else {
                match step.core {
                    DRIVER => piece.driver += 1,
                    GUEST => piece.monitor += 1,
                    _ => piece.other += 1,
                }
            }
        }
        line.clear();
    }
    Ok(found)
}

/// An instruction in QEMU's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    core: u64,
    at: u64,
    state: u64,
}

/// A line `Trace CORE: BLOCK [BASE/ADDRESS/STATE/FLAGS] …`.
fn step(line: &[u8]) -> Option<Step> {
    let line = line.strip_prefix(b"Trace ")?;
    let colon = line.iter().position(|byte| *byte == b':')?;
    let core = str::from_utf8(line.get(..colon)?).ok()?.parse().ok()?;
    let open = line.iter().position(|byte| *byte == b'[')?;
    let mut words = line.get(open + 1..)?.split(|byte| *byte == b'/').skip(1);
    let mut hex = || u64::from_str_radix(str::from_utf8(words.next()?).ok()?, 16).ok();
    Some(Step { core, at: hex()?, state: hex()? })
}

#[cfg(test)]
mod tests {
    use super::{Piece, marks, pieces, step};

    /// A line as QEMU writes it.
    fn line(core: u64, at: u64, state: u64) -> String {
        format!("Trace {core}: 0x7f31c4000100 [00000000/{at:016x}/{state:08x}/ff020201] \n")
    }

    #[test]
    fn lines_of_the_log_are_read() {
        let found = step(line(2, 0xffff_8000_0000_1234, 0x20_c0b3).as_bytes()).unwrap();
        assert_eq!((found.core, found.at, found.state), (2, 0xffff_8000_0000_1234, 0x20_c0b3));
        for odd in ["", "Trace", "Trace 1: 0x7f", "Stopped execution of TB chain before 0x7f [1]"] {
            assert_eq!(step(odd.as_bytes()), None, "{odd}");
        }
        assert_eq!(marks("disk  | bench trace 4096 8192"), Some([4096, 8192]));
        assert_eq!(marks("disk  | bench trace 4096"), None);
    }

    #[test]
    fn pieces_lie_between_marks_of_a_kind_and_a_guest_counts_nowhere() {
        const GUEST: u64 = 1 << 21;
        let steps = [
            (1, 7, 3),       // before the first mark
            (2, 100, GUEST), // a mark
            (1, 7, 3),
            (1, 8, 3),
            (1, 9, 0),
            (2, 9, 0),
            (2, 100, 3), // the monitor, at the mark's address
            (2, 101, GUEST),
            (0, 7, 3),
            (2, 100, GUEST | 3),
            (2, 9, 0),
            (2, 200, GUEST), // another kind: what came before is no piece
            (2, 200, GUEST),
        ];
        let log: String = steps.iter().map(|(core, at, state)| line(*core, *at, *state)).collect();
        let found = pieces(log.as_bytes(), [100, 200]).unwrap();
        let piece = Piece { kernel: 2, monitor: 1, driver: 2, other: 1 };
        assert_eq!(found, [vec![piece], vec![Piece::default()]]);
        assert_eq!(piece.parts(), [6, 2, 1, 2]);
    }
}
