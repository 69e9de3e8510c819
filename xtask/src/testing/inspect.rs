//! A machine under a microscope: stopped at will, its registers and memory read from outside.
//!
//! [`Session`] speaks QEMU's control protocol one command at a time, unlike
//! [`crate::machine::Machine::run`], which only follows a run. Invariant: the process ends with
//! the session, whatever happens.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::emulators::Qemu;
use crate::machine::Machine;

/// How long QEMU may take to offer its control socket, or to answer, on a loaded host.
const PATIENCE: Duration = Duration::from_secs(30);

/// A machine that a test looks into.
pub struct Session {
    process: Child,
    keyboard: ChildStdin,
    commands: UnixStream,
    answers: BufReader<UnixStream>,
    serial: Receiver<Vec<u8>>,
    folder: TempDir,
}

/// One processor's registers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// It has executed HLT and waits.
    pub is_halted: bool,
    /// Control register 0.
    pub cr0: u64,
    /// Top page table.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// Extended features.
    pub efer: u64,
}

/// How QEMU ended before it offered its control socket: its own words.
#[derive(Clone, Debug)]
pub struct Refused(pub String);

impl Session {
    /// Starts the machine, halted before its first instruction. The inner error is QEMU's refusal
    /// to start at all.
    pub fn start(machine: &Machine, qemu: &Qemu) -> Result<Result<Self, Refused>> {
        let folder = tempfile::Builder::new().prefix("cloister-").tempdir()?;
        let socket = folder.path().join("qmp");
        let mut command = machine.controlled(qemu, &socket);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process =
            command.spawn().with_context(|| format!("cannot start {}", qemu.program.display()))?;
        let stdout = process.stdout.take().context("QEMU has no standard output")?;
        let keyboard = process.stdin.take().context("QEMU has no standard input")?;
        let (sender, serial) = channel();
        thread::spawn(move || {
            let (mut stdout, mut buffer) = (stdout, [0; 16 * 1024]);
            while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        let Some(commands) = connect(&socket, &mut process)? else {
            return Ok(Err(refusal(&mut process)?));
        };
        commands.set_read_timeout(Some(PATIENCE))?;
        let answers = BufReader::new(commands.try_clone()?);
        let mut session = Self { process, keyboard, commands, answers, serial, folder };
        // QEMU loads the image between its greeting and its first answer.
        let greeted = session.message();
        if greeted.and_then(|_| session.command("qmp_capabilities", json!({}))).is_err() {
            return Ok(Err(refusal(&mut session.process)?));
        }
        Ok(Ok(session))
    }

    fn message(&mut self) -> Result<Value> {
        let mut line = String::new();
        let count = self.answers.read_line(&mut line).context("QEMU does not answer")?;
        if count == 0 {
            bail!("QEMU has ended while a test was looking at it");
        }
        Ok(serde_json::from_str(&line)?)
    }

    /// Sends a command and returns QEMU's answer; events in between are passed over.
    pub fn command(&mut self, name: &str, arguments: Value) -> Result<Value> {
        let line = format!("{}\n", json!({ "execute": name, "arguments": arguments }));
        self.commands
            .write_all(line.as_bytes())
            .with_context(|| format!("cannot send {name} to QEMU"))?;
        loop {
            let mut message = self.message()?;
            if let Some(error) = message.get("error") {
                bail!("QEMU refuses {name}: {error}");
            }
            if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            }
        }
    }

    /// Lets the machine run.
    pub fn go(&mut self) -> Result<()> {
        self.command("cont", json!({})).map(drop)
    }

    /// Stops every processor.
    pub fn stop(&mut self) -> Result<()> {
        self.command("stop", json!({})).map(drop)
    }

    /// Every processor's registers; the machine is stopped.
    pub fn registers(&mut self) -> Result<Vec<Registers>> {
        let line = json!({ "command-line": "info registers -a" });
        let answer = self.command("human-monitor-command", line)?;
        parse_registers(answer.as_str().unwrap_or_default())
    }

    /// Physical memory: of a moment, if the machine is stopped.
    pub fn memory(&mut self, start: u64, len: u64) -> Result<Vec<u8>> {
        let file = self.folder.path().join("memory");
        let arguments = json!({ "val": start, "size": len, "filename": file });
        self.command("pmemsave", arguments)?;
        let bytes = std::fs::read(&file).context("cannot read what QEMU saved")?;
        if bytes.len() as u64 != len {
            bail!("QEMU saved {} of {len} bytes", bytes.len());
        }
        Ok(bytes)
    }

    /// Types at the serial port.
    pub fn type_keys(&mut self, keys: &str) -> Result<()> {
        self.keyboard.write_all(keys.as_bytes()).context("cannot type to QEMU")?;
        Ok(self.keyboard.flush()?)
    }

    /// The next bytes of the serial port; none when the time is over or QEMU has ended.
    pub fn serial(&mut self, patience: Duration) -> Option<Vec<u8>> {
        self.serial.recv_timeout(patience).ok()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Both fail only when the process has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The control socket, none if QEMU ended before it offered one.
fn connect(socket: &Path, process: &mut Child) -> Result<Option<UnixStream>> {
    let start = Instant::now();
    while process.try_wait()?.is_none() {
        if let Ok(stream) = UnixStream::connect(socket) {
            return Ok(Some(stream));
        }
        if start.elapsed() > PATIENCE {
            let _ = process.kill();
            let _ = process.wait();
            bail!("QEMU offers no control socket after {PATIENCE:?}");
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(None)
}

/// Why QEMU has ended; one that has not, but is silent, is ended.
fn refusal(process: &mut Child) -> Result<Refused> {
    let start = Instant::now();
    while process.try_wait()?.is_none() {
        if start.elapsed() > PATIENCE {
            let _ = process.kill();
            let _ = process.wait();
            bail!("QEMU neither runs nor ends");
        }
        thread::sleep(Duration::from_millis(2));
    }
    let mut text = String::new();
    if let Some(mut stderr) = process.stderr.take() {
        stderr.read_to_string(&mut text)?;
    }
    Ok(Refused(text.trim().to_owned()))
}

/// Reads QEMU's `info registers -a`: `CPU#0`, then words like `RIP=…`, `CR0=…`, `HLT=1`.
fn parse_registers(text: &str) -> Result<Vec<Registers>> {
    let mut all = Vec::new();
    for processor in text.split("CPU#").skip(1) {
        let word = |name: &str| -> Result<u64> {
            let mut words = processor.split_whitespace();
            let value = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            let value = value.with_context(|| format!("QEMU shows no {name} in: {processor}"))?;
            Ok(u64::from_str_radix(value, 16)?)
        };
        all.push(Registers {
            rip: word("RIP")?,
            rflags: word("RFL")?,
            is_halted: word("HLT")? != 0,
            cr0: word("CR0")?,
            cr3: word("CR3")?,
            cr4: word("CR4")?,
            efer: word("EFER")?,
        });
    }
    if all.is_empty() {
        bail!("QEMU shows no processor in: {text}");
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::parse_registers;

    #[test]
    fn registers_are_read_from_what_qemu_prints() {
        let text = "\r\nCPU#0\r\nRAX=0 RBX=1\r\nRIP=0000000000100a2b RFL=00000046 [---Z-P-] CPL=0 \
                    II=0 A20=1 SMM=0 HLT=1\r\nCR0=80010033 CR2=0 CR3=0000000000103000 \
                    CR4=00000020\r\nEFER=0000000000000d00\r\nCPU#1\r\nRIP=1 RFL=2 HLT=0 CR0=3 \
                    CR3=4 CR4=5 EFER=6\r\n";
        let all = parse_registers(text).unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].rip, all[0].cr0, all[0].efer), (0x10_0a2b, 0x8001_0033, 0xd00));
        assert!(all[0].is_halted && !all[1].is_halted);
        assert!(parse_registers("").is_err());
        assert!(parse_registers("CPU#0 RIP=0").is_err());
    }
}
