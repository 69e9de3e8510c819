//! Decodes the defmt frames of one ELF: text, level and place of each message.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use defmt_decoder::{Encoding, Locations, Table};

use crate::event::Level;
use crate::guard::Formats;
use crate::symbols::short_path;

/// Log rings hold whole words, so up to seven zeros may follow a message.
const MAX_PADDING: usize = 7;

/// A decoded message.
#[derive(Debug)]
pub(crate) struct Message {
    pub level: Level,
    pub text: String,
    pub location: Option<String>,
}

/// The format strings of one ELF.
pub(crate) struct Messages {
    elf: PathBuf,
    table: Table,
    formats: Formats,
    /// Read with the first message: the debug information of a task is large.
    locations: OnceCell<Locations>,
}

impl Messages {
    /// Reads an ELF; `None` if it does not use defmt.
    pub fn read(elf: &Path) -> Result<Option<Messages>> {
        let bytes = std::fs::read(elf).with_context(|| {
            format!("the archive names {}, which cannot be read", elf.display())
        })?;
        let file = object::File::parse(&*bytes)
            .with_context(|| format!("{} is no ELF file", elf.display()))?;
        let table = Table::parse(&bytes)
            .with_context(|| format!("{}: its defmt strings cannot be read", elf.display()))?;
        let Some(table) = table else { return Ok(None) };
        if table.encoding() != Encoding::Raw {
            bail!("{}: defmt must be built with its feature `encoding-raw`", elf.display());
        }
        let formats = Formats::read(&file);
        Ok(Some(Messages { elf: elf.to_owned(), table, formats, locations: OnceCell::new() }))
    }

    /// Decodes one frame; the error says why that is impossible.
    pub fn decode(&self, payload: &[u8]) -> Result<Message, String> {
        self.formats.check(payload).map_err(|refusal| refusal.to_string())?;
        let (frame, used) = self.table.decode(payload).map_err(|error| error.to_string())?;
        let rest = payload.get(used..).unwrap_or_default();
        if rest.len() > MAX_PADDING || rest.iter().any(|&byte| byte != 0) {
            return Err(format!("{} bytes follow the message", rest.len()));
        }
        let locations = self.locations.get_or_init(|| self.read_locations());
        let place = locations.get(&frame.index());
        Ok(Message {
            level: level(frame.level()),
            text: frame.display_message().to_string(),
            location: place
                .map(|l| format!("{}:{}", short_path(&l.file.to_string_lossy()), l.line)),
        })
    }

    /// The places of all messages; an ELF without debug information has none.
    fn read_locations(&self) -> Locations {
        let bytes = std::fs::read(&self.elf).unwrap_or_default();
        self.table.get_locations(&bytes).unwrap_or_default()
    }
}

/// `println!` of defmt has no level.
fn level(level: Option<defmt_parser::Level>) -> Level {
    match level {
        None => Level::Print,
        Some(defmt_parser::Level::Trace) => Level::Trace,
        Some(defmt_parser::Level::Debug) => Level::Debug,
        Some(defmt_parser::Level::Info) => Level::Info,
        Some(defmt_parser::Level::Warn) => Level::Warn,
        Some(defmt_parser::Level::Error) => Level::Error,
    }
}
