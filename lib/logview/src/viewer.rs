//! [`Viewer`]: from the pieces of the stream to events, with what the archive knows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;
use cloister_abi::layout::KERNEL_BASE;

use crate::archive::Archive;
use crate::conventions;
use crate::event::{Event, Level};
use crate::frame::{Defect, Frame, KERNEL_SOURCE_FIRST, Kind, claimed_source};
use crate::messages::Messages;
use crate::stream::{Piece, Splitter};
use crate::summary::Summary;
use crate::symbols::Symbols;

/// The kernel's name as a source.
const KERNEL: &str = "kernel";
/// A larger jump of a sequence number is a ring that started over, not loss.
const MAX_JUMP: u16 = 4096;

/// A program of the image.
struct Program {
    name: String,
    messages: Option<Messages>,
    symbols: Symbols,
}

impl Program {
    fn read(name: &str, elf: &Path) -> Result<Program> {
        let symbols = Symbols::new(elf.to_owned());
        Ok(Program { name: name.to_owned(), messages: Messages::read(elf)?, symbols })
    }
}

/// Decodes the serial stream of one appliance.
pub struct Viewer {
    splitter: Splitter,
    kernel: Program,
    tasks: BTreeMap<u16, Program>,
    clock: Clock,
    /// The sequence number that each source's next frame should have.
    next_seq: BTreeMap<u16, u16>,
    /// Sources that the console reads from the beginning again, because it was restarted.
    reread: BTreeSet<u16>,
    /// The task that the last line of text named; a backtrace may follow.
    last_named: Option<u16>,
    summary: Summary,
}

/// When the stream began, and how fast its counter runs.
#[derive(Default)]
struct Clock {
    tsc_hz: Option<u64>,
    boot_tsc: Option<u64>,
}

impl Clock {
    fn seconds(&self, tsc: u64) -> Option<f64> {
        let ticks = i128::from(tsc) - i128::from(self.boot_tsc.unwrap_or(0));
        // Both numbers are far below 2^53 in any run that ends.
        self.tsc_hz.map(|hz| ticks as f64 / hz as f64)
    }

    /// The first record counts, until the counter itself starts over.
    fn boot(&mut self, tsc: u64) {
        self.boot_tsc = Some(self.boot_tsc.map_or(tsc, |first| first.min(tsc)));
    }
}

impl Viewer {
    /// Reads an archive folder.
    pub fn open(archive: &Path) -> Result<Viewer> {
        let archive = Archive::read(archive)?;
        let mut tasks = BTreeMap::new();
        for task in &archive.tasks {
            tasks.insert(task.index, Program::read(&task.name, &task.elf)?);
        }
        Ok(Viewer {
            splitter: Splitter::default(),
            kernel: Program::read(KERNEL, &archive.kernel)?,
            tasks,
            clock: Clock::default(),
            next_seq: BTreeMap::new(),
            reread: BTreeSet::new(),
            last_named: None,
            summary: Summary::default(),
        })
    }

    /// Takes bytes of the stream and returns what they complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut pieces = Vec::new();
        self.splitter.push(bytes, &mut pieces);
        self.interpret(pieces)
    }

    /// Returns what is unfinished: at the end of the stream, or when the wire has been silent for
    /// a while and the last words shall be seen. The viewer can be fed on afterwards.
    pub fn finish(&mut self) -> Vec<Event> {
        let mut pieces = Vec::new();
        self.splitter.finish(&mut pieces);
        self.interpret(pieces)
    }

    /// What the stream carried so far.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    fn interpret(&mut self, pieces: Vec<Piece>) -> Vec<Event> {
        let mut events = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Line(line) => self.line(line, &mut events),
                Piece::Frame(frame) => self.frame(&frame, &mut events),
                Piece::Broken { defect, bytes } => self.broken(defect, bytes, &mut events),
            }
        }
        events
    }

    /// A line of text: the boot stub, or a kernel's last words.
    fn line(&mut self, line: String, events: &mut Vec<Event>) {
        self.summary.text_lines += 1;
        events.push(Event::Text(line.clone()));
        self.text_backtrace(&line, events);
        self.last_named = self.named_task(&line);
    }

    fn broken(&mut self, defect: Defect, bytes: Vec<u8>, events: &mut Vec<Event>) {
        let claimed = if defect == Defect::Noise { None } else { claimed_source(&bytes) };
        let source = claimed.and_then(|s| self.program(s)).map(|program| program.name.clone());
        match &source {
            Some(source) => self.summary.of(source).corrupt += 1,
            None => self.summary.corrupt_elsewhere += 1,
        }
        let size = bytes.len();
        let reason = match defect {
            Defect::TooShort => format!("a frame of {size} bytes is too short"),
            Defect::TooLong => "a frame does not end".to_owned(),
            Defect::Cut => format!("a frame was cut, {size} bytes arrived"),
            Defect::Checksum => format!("a frame of {size} bytes has a wrong checksum"),
            Defect::UnknownKind(kind) => format!("a frame has the unknown kind {kind}"),
            Defect::Noise => "bytes that are neither text nor a frame".to_owned(),
        };
        events.push(Event::Corrupt { source, reason, bytes });
    }

    fn frame(&mut self, frame: &Frame, events: &mut Vec<Event>) {
        let source = self.source_name(frame.source);
        let frames = self.lost_before(frame);
        let counts = self.summary.of(&source);
        counts.frames += 1;
        if frames > 0 {
            counts.lost = counts.lost.saturating_add(frames);
            events.push(Event::Lost { source: source.clone(), frames });
        }
        match frame.kind {
            Kind::Defmt => self.defmt(frame, &source, events),
            Kind::Text => {
                for line in String::from_utf8_lossy(&frame.payload).lines() {
                    self.message(frame, &source, Level::Print, line.to_owned(), None, events);
                }
            }
            Kind::Boot => {
                self.clock.boot(frame.tsc);
                let text =
                    format!("boot record {}", describe(&frame.payload)).trim_end().to_owned();
                events.push(self.log(frame, &source, Level::Info, text, None));
            }
            Kind::Hello => self.hello(frame, &source, events),
            Kind::Terminal => events.push(Event::Terminal(frame.payload.clone())),
        }
    }

    /// The console's greeting.
    fn hello(&mut self, frame: &Frame, source: &str, events: &mut Vec<Event>) {
        match frame.payload.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes)) {
            Some(hz) if hz > 0 => {
                self.clock.tsc_hz = Some(hz);
                let text =
                    format!("time stamp counter at {}.{:06} MHz", hz / 1_000_000, hz % 1_000_000);
                events.push(self.log(frame, source, Level::Debug, text, None));
            }
            _ => {
                let reason = "the greeting names no counter frequency".to_owned();
                self.unexplained(frame, source, reason, events);
            }
        }
    }

    fn defmt(&mut self, frame: &Frame, source: &str, events: &mut Vec<Event>) {
        let decoded = match self.program(frame.source) {
            None => Err("the archive has no task with this index".to_owned()),
            Some(Program { messages: None, .. }) => Err("its ELF has no defmt strings".to_owned()),
            Some(Program { messages: Some(messages), .. }) => messages.decode(&frame.payload),
        };
        match decoded {
            Ok(m) => self.message(frame, source, m.level, m.text, m.location, events),
            Err(reason) => {
                let reason = format!("{reason}; do image and archive belong together?");
                self.unexplained(frame, source, reason, events);
            }
        }
    }

    /// A whole frame that cannot be explained.
    fn unexplained(
        &mut self,
        frame: &Frame,
        source: &str,
        reason: String,
        events: &mut Vec<Event>,
    ) {
        self.summary.of(source).corrupt += 1;
        let bytes = frame.payload.clone();
        events.push(Event::Corrupt { source: Some(source.to_owned()), reason, bytes });
    }

    /// A message, unless it is one of the conventions.
    fn message(
        &mut self,
        frame: &Frame,
        source: &str,
        level: Level,
        text: String,
        location: Option<String>,
        events: &mut Vec<Event>,
    ) {
        if let Some((key, value, unit)) = conventions::bench(&text) {
            events.push(Event::Bench { key, value, unit });
            return;
        }
        if let Some((task, addresses)) = conventions::backtrace(&text)
            && let Some(index) = self.task_by_name(task)
        {
            events.push(self.backtrace(Some(index), &addresses));
            return;
        }
        let event = self.log(frame, source, level, text.clone(), location);
        events.push(event);
        if level == Level::Print {
            self.text_backtrace(&text, events);
        }
    }

    fn log(
        &self,
        frame: &Frame,
        source: &str,
        level: Level,
        message: String,
        location: Option<String>,
    ) -> Event {
        Event::Log {
            source: source.to_owned(),
            core: frame.core,
            tsc: frame.tsc,
            seconds: self.clock.seconds(frame.tsc),
            level,
            message,
            location,
        }
    }

    /// A backtrace in a line of text.
    fn text_backtrace(&self, line: &str, events: &mut Vec<Event>) {
        let Some(found) = conventions::text_backtrace(line) else {
            return;
        };
        let named = found.name.and_then(|name| self.task_by_name(name));
        let task = match found.name {
            Some(KERNEL) => None,
            None if found.addresses.iter().all(|&a| a >= KERNEL_BASE) => None,
            _ => named.or_else(|| self.named_task(found.before)).or(self.last_named),
        };
        events.push(self.backtrace(task, &found.addresses));
    }

    /// Looks up a chain of addresses. A task's begins with where it stood, followed by return
    /// addresses; the kernel's has return addresses only.
    fn backtrace(&self, task: Option<u16>, addresses: &[u64]) -> Event {
        let task = task.and_then(|index| self.tasks.get(&index));
        let mut frames = Vec::new();
        for (at, &address) in addresses.iter().enumerate() {
            let is_return = at > 0 || task.is_none();
            let program = if address >= KERNEL_BASE { Some(&self.kernel) } else { task };
            match program {
                Some(program) => frames.extend(program.symbols.describe(address, is_return)),
                None => frames.push(format!("{address:#x} (of an unnamed task)")),
            }
        }
        let source = task.unwrap_or(&self.kernel).name.clone();
        Event::Backtrace { source, frames }
    }

    /// Frames of a source that were lost before this one: those that the ring's writer counted,
    /// and those that were sent but did not arrive whole.
    fn lost_before(&mut self, frame: &Frame) -> u64 {
        if frame.kind == Kind::Terminal {
            // It comes from no ring either.
            return 0;
        }
        if frame.kind == Kind::Hello {
            // It comes from no ring. A console that greets again has been restarted, or the
            // machine has, and it counts loss from the beginning.
            self.reread.extend(self.next_seq.keys());
            return 0;
        }
        let counted = u64::from(frame.lost);
        let Some(next) = self.next_seq.insert(frame.source, frame.seq.wrapping_add(1)) else {
            return counted;
        };
        let ahead = frame.seq.wrapping_sub(next);
        if self.reread.remove(&frame.source) {
            let is_behind = ahead > u16::MAX / 2;
            return if is_behind { 0 } else { counted.min(u64::from(ahead)) };
        }
        let [low, high, _, _] = frame.lost.to_le_bytes();
        let jump = ahead.wrapping_sub(u16::from_le_bytes([low, high]));
        let started_over = jump >= MAX_JUMP || frame.seq == 0;
        counted + if started_over { 0 } else { u64::from(jump) }
    }

    fn program(&self, source: u16) -> Option<&Program> {
        let kernel = (source >= KERNEL_SOURCE_FIRST).then_some(&self.kernel);
        self.tasks.get(&source).or(kernel)
    }

    fn source_name(&self, source: u16) -> String {
        let name = self.program(source).map(|program| program.name.clone());
        name.unwrap_or_else(|| format!("task {source}"))
    }

    fn task_by_name(&self, name: &str) -> Option<u16> {
        self.tasks.iter().find(|(_, program)| program.name == name).map(|(&index, _)| index)
    }

    /// The first task that a line names.
    fn named_task(&self, line: &str) -> Option<u16> {
        conventions::words(line).find_map(|word| self.task_by_name(word))
    }
}

/// The payload of a boot record: its text, or its bytes.
fn describe(payload: &[u8]) -> String {
    match std::str::from_utf8(payload) {
        Ok(text) if !text.is_empty() && !text.contains(char::is_control) => text.to_owned(),
        _ => payload.iter().take(64).map(|byte| format!("{byte:02x}")).collect(),
    }
}
