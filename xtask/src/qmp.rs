//! A client of QEMU's control socket (QMP): commands go out, events come in on a thread.
//!
//! Key type: [`Qmp`]. The machine is started halted, so that no event is lost before the client
//! listens; `cont` lets it go.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// The control socket of one machine.
pub struct Qmp {
    stream: UnixStream,
}

/// What the control socket reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The machine stopped for good; the reason is QEMU's word, like `guest-shutdown`.
    Shutdown {
        /// QEMU's own word.
        reason: String,
    },
    /// The chipset's watchdog ran out.
    Watchdog,
    /// QEMU refused a command, with its reason.
    Refused(String),
    /// The answer to a command for people.
    Answer(String),
}

impl Qmp {
    /// Connects as soon as QEMU offers the socket; `alive` says whether QEMU still runs.
    /// Events go to `on_event`, on a thread of their own.
    pub fn connect(
        socket: &Path,
        patience: Duration,
        mut alive: impl FnMut() -> bool,
        on_event: impl FnMut(Event) + Send + 'static,
    ) -> Result<Option<Self>> {
        let start = Instant::now();
        let stream = loop {
            if let Ok(stream) = UnixStream::connect(socket) {
                break stream;
            }
            if !alive() {
                return Ok(None); // QEMU ended; its own words say why.
            }
            if start.elapsed() > patience {
                bail!("QEMU offers no control socket at {} after {patience:?}", socket.display());
            }
            thread::sleep(Duration::from_millis(5));
        };
        let reader = stream.try_clone().context("cannot share the control socket")?;
        thread::spawn(move || listen(reader, on_event));
        let mut qmp = Self { stream };
        qmp.command("qmp_capabilities", json!({}))?;
        Ok(Some(qmp))
    }

    /// Sends a command; QEMU's answer is read by the listening thread.
    pub fn command(&mut self, name: &str, arguments: Value) -> Result<()> {
        let line = format!("{}\n", json!({ "execute": name, "arguments": arguments }));
        self.stream
            .write_all(line.as_bytes())
            .with_context(|| format!("cannot send {name} to QEMU"))
    }

    /// A second handle of the same socket, for another thread.
    pub fn another(&self) -> Result<Self> {
        let stream = self.stream.try_clone().context("cannot share the control socket")?;
        Ok(Self { stream })
    }

    /// Lets the halted machine run.
    pub fn go(&mut self) -> Result<()> {
        self.command("cont", json!({}))
    }

    /// Raises a non-maskable interrupt on every processor.
    pub fn inject_nmi(&mut self) -> Result<()> {
        self.command("inject-nmi", json!({}))
    }

    /// Asks what QEMU tells people of something; the answer is an event.
    pub fn ask(&mut self, about: &str) -> Result<()> {
        let line = format!("info {about}");
        self.command("human-monitor-command", json!({ "command-line": line }))
    }

    /// Asks QEMU to end.
    pub fn quit(&mut self) -> Result<()> {
        self.command("quit", json!({}))
    }
}

fn listen(stream: UnixStream, mut on_event: impl FnMut(Event)) {
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return };
        if let Some(event) = parse(&line) {
            on_event(event);
        }
    }
}

/// The event in one line of the protocol, if it holds one that matters.
fn parse(line: &str) -> Option<Event> {
    let message: Value = serde_json::from_str(line).ok()?;
    if let Some(error) = message.get("error") {
        let text = error.get("desc").and_then(Value::as_str).unwrap_or("no reason given");
        return Some(Event::Refused(text.to_owned()));
    }
    if let Some(answer) = message.get("return").and_then(Value::as_str) {
        return Some(Event::Answer(answer.to_owned()));
    }
    match message.get("event")?.as_str()? {
        "SHUTDOWN" => {
            let reason = message.get("data")?.get("reason")?.as_str()?.to_owned();
            Some(Event::Shutdown { reason })
        }
        "WATCHDOG" => Some(Event::Watchdog),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, parse};

    #[test]
    fn the_end_of_a_machine_carries_its_reason() {
        let line = r#"{"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-reset"}}"#;
        assert_eq!(parse(line), Some(Event::Shutdown { reason: "guest-reset".into() }));
        assert_eq!(parse(r#"{"event":"RESUME","data":{}}"#), None);
        assert_eq!(parse(r#"{"return":{}}"#), None);
        let answer = parse(r#"{"return":"CPU#0\r\n"}"#);
        assert_eq!(answer, Some(Event::Answer("CPU#0\r\n".into())));
        let refused = parse(r#"{"error":{"class":"GenericError","desc":"no"}}"#);
        assert_eq!(refused, Some(Event::Refused("no".into())));
    }
}
