//! One emulated machine: started, watched, and always ended.
//!
//! [`Machine`] says what to start, [`Machine::run`] streams the serial port to a callback and
//! returns an [`Outcome`]. Every run has a time limit, only our own child is ever ended, and the
//! child ends with xtask. An exit status of 0 is never taken for success: a triple fault gives 0
//! as well, so the outcome rests on QEMU's shutdown event and on the kernel's last line.

mod arguments;
mod bochs;
mod child;
mod disks;
mod stuck;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::Result;

pub use arguments::reduced;
use child::{Child, Message};

use crate::disk::make::Made;
use crate::emulators::{Emulator, Qemu};
use crate::qmp::Event;

/// What the kernel prints last, as plain text, when the appliance powers itself off in order.
pub const ORDERLY_LINE: &str = "cloister: power off in order";

/// How long a machine may take to end once it said that it does.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// What to start.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The image for `-kernel`.
    pub image: PathBuf,
    /// Processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// An IOMMU, as the reference machine has one.
    pub iommu: bool,
    /// Count instructions: deterministic, all processors on one host thread.
    pub icount: bool,
    /// Code is changed by one processor while others run it.
    pub patches_code: bool,
    /// The run is ended after this much wall-clock time; none only for a person at the keyboard.
    pub timeout: Option<Duration>,
    /// Raise a non-maskable interrupt this often, more or less.
    pub nmi_every: Option<Duration>,
    /// Wait, halted, for a debugger at this port of 127.0.0.1.
    pub gdb_port: Option<u16>,
    /// Its disks, in the order of the root ports that they are behind.
    pub disks: Vec<Made>,
    /// More arguments for QEMU.
    pub extra: Vec<String>,
}

/// What the callback wants after a piece of the serial stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Continue,
    /// End the machine now.
    Stop,
}

/// What a keyboard sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// Bytes for the serial port.
    Bytes(Vec<u8>),
    /// A command for the emulator's control socket: its name and arguments.
    Command(String, serde_json::Value),
    /// The person wants the machine to end.
    End,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest switched the machine off.
    GuestShutdown,
    /// The guest (or the watchdog, or a triple fault) reset the machine.
    GuestReset,
    /// The time limit was reached.
    Timeout,
    /// It was reached because the emulator has lost an interrupt (docs/caveats.md).
    LostInterrupt {
        /// The processor that did not get it.
        processor: usize,
    },
    /// The callback or the keyboard ended it.
    Stopped,
    /// QEMU ended for a reason of its own.
    EmulatorFailed {
        /// Its exit status.
        status: String,
        /// What it wrote to standard error.
        stderr: String,
    },
}

/// The outcome of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// How long it took on the wall clock.
    pub wall: Duration,
    /// The kernel's last line was the orderly one.
    pub orderly_line: bool,
    /// The chipset's watchdog ran out.
    pub watchdog: bool,
}

impl Outcome {
    /// The appliance powered itself off in order: the only success.
    pub fn in_order(&self) -> bool {
        self.end == End::GuestShutdown && self.orderly_line
    }

    /// Whether it says nothing of the appliance: the emulator has lost an interrupt, or found itself
    /// broken and ended by an assertion of its own (docs/caveats.md).
    pub fn is_emulators_fault(&self) -> bool {
        match &self.end {
            End::LostInterrupt { .. } => true,
            End::EmulatorFailed { stderr, .. } => {
                let is_assertion = |line: &str| {
                    line.starts_with("ERROR:") && line.contains(": assertion failed: ")
                        || line.contains(": Assertion `") && line.ends_with(" failed.")
                };
                stderr.lines().any(is_assertion)
            }
            _ => false,
        }
    }

    /// The end, for people.
    pub fn describe(&self) -> String {
        let seconds = self.wall.as_secs_f32();
        match &self.end {
            End::GuestShutdown if self.orderly_line => {
                format!("the appliance powered itself off in order after {seconds:.1} s")
            }
            End::GuestShutdown => format!(
                "the machine was switched off after {seconds:.1} s without the kernel's line \
                 `{ORDERLY_LINE}`"
            ),
            End::GuestReset if self.watchdog => {
                format!("the watchdog reset the machine after {seconds:.1} s")
            }
            End::GuestReset => {
                format!(
                    "the machine reset itself after {seconds:.1} s (a reboot or a triple fault)"
                )
            }
            End::LostInterrupt { processor } => format!(
                "the time limit was reached after {seconds:.1} s: the emulator has lost an \
                 interrupt of processor {processor}"
            ),
            End::Timeout => format!("the time limit was reached after {seconds:.1} s"),
            End::Stopped => format!("stopped from outside after {seconds:.1} s"),
            End::EmulatorFailed { status, stderr } => {
                format!("the emulator ended with {status} and says: {}", stderr.trim())
            }
        }
    }
}

impl Machine {
    /// The reference machine with this image.
    pub fn new(image: PathBuf) -> Self {
        Self {
            image,
            cpus: 4,
            memory_mib: 2048,
            iommu: true,
            icount: false,
            patches_code: false,
            timeout: Some(Duration::from_secs(120)),
            nmi_every: None,
            gdb_port: None,
            disks: Vec::new(),
            extra: Vec::new(),
        }
    }

    /// The command of a machine that a debugger is to watch. It is in a process group of its own,
    /// so that an interrupt at the terminal reaches the debugger alone.
    pub fn detached(&self, qemu: &Qemu, serial: &Path) -> Command {
        let mut command = child::leashed(qemu);
        command.args(arguments::detached(self, qemu.version, serial));
        command.env_remove("LD_LIBRARY_PATH").process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// The command of a machine that a test controls by itself; `socket` is for control. The
    /// serial port is its standard output.
    pub fn controlled(&self, qemu: &Qemu, socket: &Path) -> Command {
        let mut command = child::leashed(qemu);
        command.args(arguments::watched(self, qemu.version, socket));
        command.env_remove("LD_LIBRARY_PATH").current_dir(crate::paths::root());
        command
    }

    /// Runs the machine to its end, in whichever emulator. Bochs passes no keys on.
    pub fn run_in(
        &self,
        emulator: &Emulator,
        keys: Option<Receiver<Key>>,
        on_serial: impl FnMut(&[u8]) -> Flow,
    ) -> Result<Outcome> {
        match emulator {
            Emulator::Qemu(qemu) => self.run(qemu, keys, on_serial),
            Emulator::Bochs(bochs) => bochs::run(self, bochs, on_serial),
        }
    }

    /// Runs the machine to its end. `keys` goes to the serial port; a closed channel is fine.
    pub fn run(
        &self,
        qemu: &Qemu,
        keys: Option<Receiver<Key>>,
        mut on_serial: impl FnMut(&[u8]) -> Flow,
    ) -> Result<Outcome> {
        let mut child = Child::start(self, qemu)?;
        if let Some(keys) = keys {
            child.attach_keyboard(keys);
        }
        let mut watch = Watch::new(self);
        let end = watch.until_end(&mut child, &mut on_serial)?;
        Ok(Outcome {
            end,
            wall: watch.start.elapsed(),
            orderly_line: watch.tail.ends_orderly(),
            watchdog: watch.watchdog,
        })
    }
}

/// What is known about a running machine.
struct Watch {
    start: Instant,
    deadline: Option<Instant>,
    nmi_every: Option<Duration>,
    next_nmi: Option<Instant>,
    /// The console has shipped a frame, which ends with a zero: the system is sealed. Earlier
    /// there is no handler that an interrupt could go to.
    is_sealed: bool,
    /// State of the generator (a linear congruence) that varies the time between two interrupts.
    chance: u64,
    watchdog: bool,
    shutdown: Option<String>,
    stopping: bool,
    tail: Tail,
}

impl Watch {
    fn new(machine: &Machine) -> Self {
        let start = Instant::now();
        Self {
            start,
            deadline: machine.timeout.map(|limit| start + limit),
            nmi_every: machine.nmi_every,
            next_nmi: machine.nmi_every.map(|every| start + every),
            is_sealed: false,
            chance: 1,
            watchdog: false,
            shutdown: None,
            stopping: false,
            tail: Tail::default(),
        }
    }

    /// Serves serial bytes, control events and time limits until the child's output ends.
    fn until_end(
        &mut self,
        child: &mut Child,
        on_serial: &mut impl FnMut(&[u8]) -> Flow,
    ) -> Result<End> {
        loop {
            // Looked at after every message too: a guest that talks all the time has limits.
            if let Some(end) = self.timer(child) {
                return Ok(end);
            }
            let wake = [self.deadline, self.next_nmi].into_iter().flatten().min();
            let pause = wake.map_or(Duration::from_secs(3600), |at| {
                at.saturating_duration_since(Instant::now())
            });
            match child.messages.recv_timeout(pause) {
                Ok(Message::Serial(bytes)) => {
                    self.tail.push(&bytes);
                    self.is_sealed |= bytes.contains(&0);
                    if on_serial(&bytes) == Flow::Stop {
                        self.stop(child);
                    }
                }
                Ok(Message::Control(Event::Shutdown { reason })) => {
                    self.shutdown = Some(reason);
                    self.deadline = Some(Instant::now() + END_PATIENCE);
                }
                Ok(Message::Control(Event::Watchdog)) => self.watchdog = true,
                Ok(Message::Control(Event::Refused(why))) => {
                    crate::install::say(&format!("note: QEMU refused a command: {why}"));
                }
                Ok(Message::Control(Event::Answer(_))) | Err(RecvTimeoutError::Timeout) => {}
                Ok(Message::SerialEnded) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(Message::KeyboardEnded) => self.stop(child),
            }
        }
        self.ended(child)
    }

    /// Half to one and a half times as long, by chance, so that no rhythm of the guest's is met.
    fn pause(&mut self, every: Duration) -> Duration {
        self.chance = self.chance.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        every.mul_f64(0.5 + (self.chance >> 32) as f64 / f64::from(u32::MAX))
    }

    fn stop(&mut self, child: &mut Child) {
        if !self.stopping {
            self.stopping = true;
            child.quit();
            self.deadline = Some(Instant::now() + END_PATIENCE);
        }
    }

    /// A limit or the next interrupt is due. An end here means that the child was killed.
    fn timer(&mut self, child: &mut Child) -> Option<End> {
        let now = Instant::now();
        if self.next_nmi.is_some_and(|at| at <= now) && self.shutdown.is_none() {
            if self.is_sealed {
                child.inject_nmi();
            }
            self.next_nmi = self.nmi_every.map(|every| now + self.pause(every));
        }
        if self.deadline.is_none_or(|at| at > now) {
            return None;
        }
        let lost =
            if self.shutdown.is_none() && !self.stopping { stuck::look(child) } else { None };
        child.kill();
        if let Some(processor) = lost {
            return Some(End::LostInterrupt { processor });
        }
        Some(match (&self.shutdown, self.stopping) {
            (Some(reason), _) => end_of(reason).unwrap_or(End::Timeout),
            (None, true) => End::Stopped,
            (None, false) => End::Timeout,
        })
    }

    /// The serial stream ended, so QEMU did or is about to.
    fn ended(&mut self, child: &mut Child) -> Result<End> {
        let (status, stderr) = child.wait(END_PATIENCE)?;
        child.drain(|event| match event {
            Event::Shutdown { reason } => self.shutdown = Some(reason),
            Event::Watchdog => self.watchdog = true,
            Event::Refused(_) | Event::Answer(_) => {}
        });
        if self.stopping {
            return Ok(End::Stopped);
        }
        let end = self.shutdown.as_deref().and_then(end_of);
        Ok(end.unwrap_or(End::EmulatorFailed { status, stderr }))
    }
}

/// What QEMU's word for the reason of a shutdown means.
fn end_of(reason: &str) -> Option<End> {
    match reason {
        "guest-shutdown" => Some(End::GuestShutdown),
        "guest-reset" | "guest-panic" | "subsystem-reset" => Some(End::GuestReset),
        "host-qmp-quit" | "host-signal" | "host-ui" => Some(End::Stopped),
        _ => None,
    }
}

/// The last bytes of the serial stream.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        let surplus = self.0.len().saturating_sub(512);
        self.0.drain(..surplus);
    }

    /// The stream ends with the kernel's orderly line.
    fn ends_orderly(&self) -> bool {
        let mut rest = self.0.as_slice();
        while let Some((&last, before)) = rest.split_last() {
            if !matches!(last, b'\r' | b'\n' | 0) {
                break;
            }
            rest = before;
        }
        rest.ends_with(ORDERLY_LINE.as_bytes()) && rest.len() < self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::{End, ORDERLY_LINE, Outcome, Tail, end_of};
    use std::time::Duration;

    fn tail(text: &str) -> Tail {
        let mut tail = Tail::default();
        for byte in text.bytes() {
            tail.push(&[byte]);
        }
        tail
    }

    #[test]
    fn only_the_whole_last_line_counts_as_orderly() {
        assert!(tail(&format!("{}\r\n{ORDERLY_LINE}\r\n", "x".repeat(1000))).ends_orderly());
        assert!(!tail(ORDERLY_LINE).ends_orderly());
        assert!(!tail(&format!("{ORDERLY_LINE}\npanic\n")).ends_orderly());
        assert!(!tail("").ends_orderly());
    }

    #[test]
    fn an_emulator_that_finds_itself_broken_says_nothing_of_the_appliance() {
        let ended = |stderr: &str| {
            let end = End::EmulatorFailed { status: "signal".into(), stderr: stderr.into() };
            let wall = Duration::from_secs(1);
            Outcome { end, wall, orderly_line: false, watchdog: false }.is_emulators_fault()
        };
        assert!(ended(
            "**\nERROR:../../softmmu/cpus.c:502:lock_impl: assertion failed: (!locked())\n"
        ));
        assert!(ended("qemu-system-x86_64: ../hw/pci/msix.c:227: write: Assertion `x' failed."));
        assert!(!ended("qemu-system-x86_64: Assertion `x' is what the guest wrote"));
        assert!(!ended("qemu-system-x86_64: -drive file=x: Could not open 'x'"));
        assert!(!ended(""));
    }

    #[test]
    fn a_shutdown_without_the_line_is_no_success() {
        let mut outcome = Outcome {
            end: End::GuestShutdown,
            wall: Duration::from_secs(1),
            orderly_line: false,
            watchdog: false,
        };
        assert!(!outcome.in_order());
        outcome.orderly_line = true;
        assert!(outcome.in_order());
        outcome.end = End::GuestReset;
        assert!(!outcome.in_order());
    }

    #[test]
    fn reasons_of_qemu_are_understood() {
        assert_eq!(end_of("guest-reset"), Some(End::GuestReset));
        assert_eq!(end_of("host-error"), None);
    }
}
