//! The QEMU process: started with its control socket, heard through one channel, ended always.
//!
//! Only this process is ever signalled, by its handle. `setpriv` (util-linux) makes the kernel
//! end it when xtask dies without a chance to; dropping [`Child`] ends it in every other case.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Key, Machine, arguments};
use crate::emulators::Qemu;
use crate::paths;
use crate::qmp::{Event, Qmp};

/// How long QEMU may take to offer its control socket on a loaded host.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// What the process says.
pub enum Message {
    /// A piece of the serial stream.
    Serial(Vec<u8>),
    /// The serial stream ended.
    SerialEnded,
    /// The person at the keyboard wants the machine to end.
    KeyboardEnded,
    /// An event of the control socket.
    Control(Event),
}

/// A running QEMU.
pub struct Child {
    process: std::process::Child,
    input: Option<ChildStdin>,
    /// Everything it says, in order of arrival.
    pub messages: Receiver<Message>,
    qmp: Option<Qmp>,
    errors: Option<JoinHandle<String>>,
    sender: Option<Sender<Message>>,
}

impl Child {
    /// Starts QEMU and lets the machine go.
    pub fn start(machine: &Machine, qemu: &Qemu) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("cloister-").tempdir()?;
        let socket = folder.path().join("qmp");
        let mut command = leashed(qemu);
        command.args(arguments::watched(machine, qemu.version, &socket));
        command.env_remove("LD_LIBRARY_PATH").current_dir(paths::root());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process =
            command.spawn().with_context(|| format!("cannot start {}", qemu.program.display()))?;
        let (sender, messages) = channel();
        let stdout = process.stdout.take().context("QEMU has no standard output")?;
        let stderr = process.stderr.take().context("QEMU has no standard error")?;
        let input = process.stdin.take();
        let (control, keyboard) = (sender.clone(), sender.clone());
        thread::spawn(move || pump(stdout, &sender));
        let errors = thread::spawn(move || std::io::read_to_string(stderr).unwrap_or_default());
        let errors = Some(errors);
        let (sender, qmp) = (Some(keyboard), None);
        let mut child = Self { process, input, messages, qmp, errors, sender };
        child.qmp = Qmp::connect(
            &socket,
            START_PATIENCE,
            || matches!(child.process.try_wait(), Ok(None)),
            // The receiver is gone only when nobody wants to know any more.
            move |event| drop(control.send(Message::Control(event))),
        )?;
        // Connected, the socket needs no name any more; an interrupted xtask then leaves none.
        drop(folder);
        if let Some(qmp) = &mut child.qmp {
            qmp.go()?;
        }
        Ok(child)
    }

    /// Passes keys to the serial port, on a thread of their own.
    pub fn attach_keyboard(&mut self, keys: Receiver<Key>) {
        let Some(mut serial) = self.input.take() else {
            return;
        };
        let sender = self.sender.take();
        let mut control = self.qmp.as_ref().and_then(|qmp| qmp.another().ok());
        thread::spawn(move || {
            for key in keys {
                let written = match key {
                    Key::Bytes(bytes) => serial.write_all(&bytes).and_then(|()| serial.flush()),
                    Key::Command(name, arguments) => {
                        // As with keys: a machine that just ended does not mind.
                        if let Some(control) = &mut control {
                            let _ = control.command(&name, arguments);
                        }
                        Ok(())
                    }
                    Key::End => {
                        sender.iter().for_each(|to| drop(to.send(Message::KeyboardEnded)));
                        return;
                    }
                };
                if written.is_err() {
                    return; // The machine ended; there is nobody to type to.
                }
            }
        });
    }

    /// Raises a non-maskable interrupt; a machine that just ended does not mind.
    pub fn inject_nmi(&mut self) {
        if let Some(qmp) = &mut self.qmp {
            let _ = qmp.inject_nmi();
        }
    }

    /// What QEMU tells people of something; empty if it does not.
    pub fn ask(&mut self, about: &str) -> String {
        if self.qmp.as_mut().is_none_or(|qmp| qmp.ask(about).is_err()) {
            return String::new();
        }
        let end = Instant::now() + START_PATIENCE;
        while let Ok(message) = self.messages.recv_timeout(end - Instant::now().min(end)) {
            if let Message::Control(Event::Answer(text)) = message {
                return text;
            }
        }
        String::new()
    }

    /// Asks QEMU to end; [`Self::kill`] follows if it does not.
    pub fn quit(&mut self) {
        if let Some(qmp) = &mut self.qmp {
            let _ = qmp.quit();
        }
    }

    /// Ends the process now and reaps it.
    pub fn kill(&mut self) {
        // Both fail only when the process has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// The exit status and what went to standard error; the process is ended if it lingers.
    pub fn wait(&mut self, patience: Duration) -> Result<(String, String)> {
        let start = Instant::now();
        let mut status = self.process.try_wait()?;
        while status.is_none() && start.elapsed() < patience {
            thread::sleep(Duration::from_millis(2));
            status = self.process.try_wait()?;
        }
        if status.is_none() {
            self.kill();
        }
        let text = status.as_ref().map_or_else(|| "no exit".to_owned(), ExitStatus::to_string);
        let stderr = self.errors.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        Ok((text, stderr))
    }

    /// The control events that are left once the process ended. The listening thread ends with
    /// the socket, a moment after the process, so the last event is waited for.
    pub fn drain(&mut self, mut on_event: impl FnMut(Event)) {
        (self.qmp, self.sender) = (None, None);
        while let Ok(message) = self.messages.recv_timeout(Duration::from_millis(500)) {
            if let Message::Control(event) = message {
                on_event(event);
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The program, behind `setpriv --pdeathsig` where that exists. The signal follows the thread
/// that starts the process, which is the one that also waits for it.
pub fn leashed(qemu: &Qemu) -> Command {
    leash(&qemu.program)
}

/// As [`leashed`], for any program.
pub fn leash(program: &Path) -> Command {
    match paths::program("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// Passes on what the serial port says, until it ends.
pub fn pump(mut stdout: impl Read, sender: &Sender<Message>) {
    let mut buffer = [0; 16 * 1024];
    loop {
        match stdout.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => {
                if sender.send(Message::Serial(buffer[..count].to_vec())).is_err() {
                    return;
                }
            }
        }
    }
    let _ = sender.send(Message::SerialEnded);
}
