//! Events as lines for a terminal.
//!
//! Invariants: with `color` off the text holds no escape sequence, and with it on the same
//! characters stand in the same columns. Control characters that a task or a guest sent are
//! printed as escapes, so that nobody but this module steers the terminal.

use std::fmt::Write as _;

use anstyle::{Ansi256Color, AnsiColor, Color, Style};

use crate::event::{Event, Level};

/// Width of the time column.
const TIME: usize = 12;
/// Width of the source column; longer names push the rest of their line.
const SOURCE: usize = 12;
/// Bytes of damage that are printed.
const MAX_SHOWN: usize = 48;

/// Colours for sources: well apart, readable on dark and on light ground.
const PALETTE: [u8; 12] = [33, 37, 64, 71, 99, 130, 133, 136, 166, 168, 172, 208];

impl Event {
    /// The event as text, without a line end. Some events take several lines.
    pub fn render(&self, color: bool) -> String {
        let mut out = Painter { text: String::new(), color };
        match self {
            Event::Text(line) => out.plain(&escape(line)),
            // Alone it is no line; [`crate::Screen`] makes lines of it.
            Event::Terminal(bytes) => out.plain(&show_bytes(bytes)),
            Event::Log { source, core, tsc, seconds, level, message, location } => {
                out.log_head(source, *core, *tsc, *seconds, *level);
                out.message(message);
                if let Some(location) = location {
                    out.paint(dim(), &format!("  ({})", escape(location)));
                }
            }
            Event::Lost { source, frames } => {
                let plural = if *frames == 1 { "" } else { "s" };
                let text = format!(" LOST: {frames} frame{plural} of {} ", escape(source));
                out.paint(alarm(), &text);
            }
            Event::Bench { key, value, unit } => {
                out.paint(Style::new().bold(), &format!("bench {:<32}", escape(key)));
                out.plain(&format!(" {value:>12} {}", escape(unit)));
            }
            Event::Backtrace { source, frames } => out.backtrace(source, frames),
            Event::Corrupt { source, reason, bytes } => {
                let from = source.as_deref().map(|s| format!(" of {}", escape(s)));
                let head = format!(" CORRUPT{}: {} ", from.unwrap_or_default(), escape(reason));
                out.paint(alarm(), &head);
                out.plain(&format!(" {}", show_bytes(bytes)));
            }
        }
        out.text
    }
}

/// Collects text and, if wanted, styles.
struct Painter {
    text: String,
    color: bool,
}

impl Painter {
    fn plain(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn paint(&mut self, style: Style, text: &str) {
        if self.color {
            // Writing into a string cannot fail.
            let _ = write!(self.text, "{style}{text}{style:#}");
        } else {
            self.text.push_str(text);
        }
    }

    /// Time, core, source and level.
    fn log_head(&mut self, source: &str, core: u8, tsc: u64, seconds: Option<f64>, level: Level) {
        let time = match seconds {
            Some(seconds) => format!("{seconds:.6}"),
            None => format!("tsc:{tsc}"),
        };
        self.paint(dim(), &format!("[{time:>TIME$}]"));
        self.plain(&format!(" c{core:<2} "));
        self.paint(source_style(source), &format!("{:<SOURCE$}", escape(source)));
        self.plain(" ");
        self.paint(level_style(level), &format!("{:<5}", level_name(level)));
        self.plain(" ");
    }

    /// A message; its further lines are indented.
    fn message(&mut self, message: &str) {
        let indent = " ".repeat(TIME + SOURCE + 14);
        for (at, line) in message.split('\n').enumerate() {
            if at > 0 {
                self.plain("\n");
                self.plain(&indent);
            }
            self.plain(&escape(line));
        }
    }

    fn backtrace(&mut self, source: &str, frames: &[String]) {
        self.paint(Style::new().bold(), &format!("backtrace of {}:", escape(source)));
        match frames {
            [] => self.plain(" no return addresses"),
            // The kernel's last words come as one address in a line.
            [frame] => self.plain(&format!(" {}", escape(frame))),
            _ => {
                for (at, frame) in frames.iter().enumerate() {
                    self.plain(&format!("\n  {at:>2}: {}", escape(frame)));
                }
            }
        }
    }
}

fn dim() -> Style {
    Style::new().dimmed()
}

/// For what must not be overlooked.
fn alarm() -> Style {
    Style::new()
        .bold()
        .fg_color(Some(AnsiColor::White.into()))
        .bg_color(Some(AnsiColor::Red.into()))
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::Trace => "TRACE",
        Level::Debug => "DEBUG",
        Level::Info => "INFO",
        Level::Print => "-",
        Level::Warn => "WARN",
        Level::Error => "ERROR",
    }
}

fn level_style(level: Level) -> Style {
    let color = match level {
        Level::Trace | Level::Print => return dim(),
        Level::Debug => AnsiColor::Blue,
        Level::Info => AnsiColor::Green,
        Level::Warn => AnsiColor::Yellow,
        Level::Error => AnsiColor::Red,
    };
    Style::new().bold().fg_color(Some(color.into()))
}

/// The same colour for the same name in every run.
fn source_style(source: &str) -> Style {
    if source == "kernel" {
        return Style::new().bold();
    }
    // FNV-1a: short names that differ in one letter get different colours.
    let hash = source
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let at = usize::try_from(hash).unwrap_or(0) % PALETTE.len();
    let color = PALETTE.get(at).map(|&code| Color::from(Ansi256Color(code)));
    Style::new().fg_color(color)
}

/// The text with control characters as escapes.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && character != '\t' {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}

/// The beginning of some damage, readable where it can be.
fn show_bytes(bytes: &[u8]) -> String {
    let shown = bytes.get(..MAX_SHOWN).unwrap_or(bytes);
    let rest = bytes.len() - shown.len();
    let more = if rest > 0 { format!("… and {rest} more") } else { String::new() };
    format!("\"{}\"{more}", shown.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(source: &str, seconds: Option<f64>, level: Level, message: &str) -> Event {
        Event::Log {
            source: source.to_owned(),
            core: 3,
            tsc: 1234,
            seconds,
            level,
            message: message.to_owned(),
            location: Some("drivers/init/src/main.rs:7".to_owned()),
        }
    }

    fn samples() -> Vec<Event> {
        vec![
            Event::Text("cloister: checked 212 blocks".to_owned()),
            log("init", Some(0.012_345_6), Level::Info, "found 3 tables"),
            log("kernel", None, Level::Error, "first\nsecond"),
            Event::Lost { source: "nvme".to_owned(), frames: 12 },
            Event::Bench { key: "null_syscall".to_owned(), value: 58, unit: "steps".to_owned() },
            Event::Backtrace { source: "nvme".to_owned(), frames: vec!["0x10 main".to_owned()] },
            Event::Corrupt { source: None, reason: "cut".to_owned(), bytes: vec![1, 65] },
        ]
    }

    /// Removes the sequences that this module writes: escape, `[`, anything up to `m`.
    fn without_styles(text: &str) -> String {
        let mut parts = text.split("\u{1b}[");
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            out.push_str(part.split_once('m').expect("a style sequence").1);
        }
        out
    }

    #[test]
    fn color_changes_nothing_but_color() {
        for event in samples() {
            let (plain, colored) = (event.render(false), event.render(true));
            assert!(!plain.contains('\u{1b}'), "{plain}");
            assert_eq!(without_styles(&colored), plain);
        }
        assert!(samples()[3].render(true).contains("\u{1b}["));
    }

    #[test]
    fn columns_are_aligned() {
        let known = log("init", Some(0.012_345_6), Level::Info, "message").render(false);
        let unknown = log("supervisor", None, Level::Error, "message").render(false);
        assert_eq!(
            known,
            "[    0.012346] c3  init         INFO  message  (drivers/init/src/main.rs:7)"
        );
        assert_eq!(known.find("message"), unknown.find("message"));
        let lines = log("init", None, Level::Warn, "message\nmore").render(false);
        let (first, second) = lines.split_once('\n').expect("two lines");
        assert_eq!(first.find("message"), second.find("more"));
    }

    #[test]
    fn nobody_else_steers_the_terminal() {
        let evil = "\u{1b}[2Jgone\r\u{7}";
        for event in [Event::Text(evil.to_owned()), log(evil, None, Level::Info, evil)] {
            let shown = event.render(false);
            assert!(!shown.contains(char::is_control), "{shown:?}");
            assert!(shown.contains("\\u{1b}[2Jgone\\r\\u{7}"), "{shown}");
        }
    }

    #[test]
    fn sources_keep_their_color() {
        assert_eq!(source_style("nvme"), source_style("nvme"));
        let names = ["init", "supervisor", "console", "nvme", "ping", "pong"];
        let mut colors: Vec<_> = names.iter().map(|n| format!("{}", source_style(n))).collect();
        colors.sort();
        colors.dedup();
        assert!(colors.len() >= 4, "{colors:?}");
    }
}
