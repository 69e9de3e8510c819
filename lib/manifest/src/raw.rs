//! The manifest as serde reads it: every key that exists, and where each value stands.
//!
//! Nothing is judged here beyond types and unknown keys; [`crate::resolve`] turns this into a
//! [`crate::system::System`]. [`parse`] gives serde's errors their place and a proposal.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use crate::names::{listed, nearest};
use crate::quantity::Written;
use crate::report::{Problem, Source};

/// A table whose keys are names: sorted by name, each key with its place.
pub type Named<T> = BTreeMap<Spanned<String>, T>;

/// An appliance.toml.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Appliance {
    pub format: Spanned<i64>,
    pub name: Spanned<String>,
    pub board: Spanned<String>,
    pub cores: Spanned<CoreRoles>,
    #[serde(default)]
    pub restart: RestartRoles,
    #[serde(default)]
    pub entropy: Entropy,
    pub iommu: Option<Spanned<String>>,
    #[serde(default)]
    pub lab: bool,
    pub tasks: Spanned<Named<Spanned<Task>>>,
    #[serde(default)]
    pub vms: Named<Spanned<Vm>>,
}

/// Which core does what.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoreRoles {
    #[serde(default)]
    pub system: Vec<Spanned<i64>>,
    #[serde(default)]
    pub drivers: Vec<Spanned<i64>>,
    #[serde(default)]
    pub guests: Vec<Spanned<i64>>,
}

/// Restart policies by role.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestartRoles {
    pub supervisor: Option<Spanned<Restart>>,
    pub tasks: Option<Spanned<Restart>>,
    pub vms: Option<Spanned<Restart>>,
}

/// What happens after a fault; missing keys are inherited from the role.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Restart {
    pub tries: Option<Spanned<i64>>,
    pub within: Option<Spanned<Written>>,
    pub delay: Option<Spanned<Written>>,
    pub delay_max: Option<Spanned<Written>>,
    pub then: Option<Spanned<String>>,
}

/// Which sources of entropy the CPU must have.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entropy {
    #[serde(default)]
    pub require: Vec<Spanned<String>>,
}

/// A task.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Task {
    pub program: Option<Spanned<String>>,
    pub role: Option<Spanned<String>>,
    pub cpu: Spanned<Cpu>,
    pub stack: Option<Spanned<Written>>,
    pub log: Option<Spanned<Written>>,
    #[serde(default)]
    pub fpu: bool,
    pub device: Option<Spanned<String>>,
    pub devices: Option<Spanned<Vec<Spanned<String>>>>,
    pub reads_logs: Option<Spanned<bool>>,
    #[serde(default)]
    pub exports: Named<Export>,
    #[serde(default)]
    pub grants: Named<Spanned<String>>,
    #[serde(default)]
    pub memory: Named<Memory>,
    #[serde(default)]
    pub threads: Named<Spanned<Thread>>,
    #[serde(default)]
    pub numbers: Named<Spanned<i64>>,
    #[serde(default)]
    pub sealed_keys: Named<Spanned<String>>,
    pub essential: Option<Spanned<bool>>,
    pub restart: Option<Spanned<Restart>>,
    pub watchdog: Option<Spanned<Written>>,
}

/// A virtual machine.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vm {
    pub guest: Spanned<String>,
    pub cpu: Spanned<Cpu>,
    pub memory: Spanned<Written>,
    #[serde(default)]
    pub grants: Named<Spanned<String>>,
    pub baseline: Option<Spanned<String>>,
    pub identity: Option<Spanned<String>>,
    #[serde(default)]
    pub legacy: bool,
    #[serde(default)]
    pub ioapic: bool,
    #[serde(default)]
    pub xapic: bool,
    pub log: Option<Spanned<Written>>,
    pub essential: Option<Spanned<bool>>,
    pub restart: Option<Spanned<Restart>>,
}

/// The CPU time of a task's first thread, or of each virtual CPU.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cpu {
    pub cores: Spanned<Vec<Spanned<i64>>>,
    pub priority: Spanned<i64>,
    pub budget: Spanned<Written>,
    pub period: Spanned<Written>,
    #[serde(default)]
    pub share: bool,
}

/// A further thread of a task.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thread {
    pub core: Spanned<i64>,
    pub priority: Spanned<i64>,
    pub budget: Spanned<Written>,
    pub period: Spanned<Written>,
    pub stack: Option<Spanned<Written>>,
    #[serde(default)]
    pub share: bool,
}

/// Private memory: a size, or a table of it with more.
#[derive(Debug)]
pub struct Memory {
    pub size: Spanned<Written>,
    pub dma: bool,
}

/// What a task offers to exactly one client.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Export {
    pub pages: Option<Spanned<i64>>,
    pub device: Option<Spanned<String>>,
    pub window: Option<Spanned<Written>>,
    pub volume: Option<Spanned<String>>,
    pub first_block: Option<Spanned<i64>>,
    pub blocks: Option<Spanned<i64>>,
    pub size: Option<Spanned<Written>>,
    pub access: Option<Spanned<String>>,
    pub iops: Option<Spanned<Written>>,
    pub bandwidth: Option<Spanned<Written>>,
    pub cipher: Option<Spanned<String>>,
    pub key: Option<Spanned<String>>,
}

/// A board file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Board {
    pub cores: Spanned<i64>,
    pub memory: Spanned<Written>,
    pub power: Power,
    pub debug_port: Option<Spanned<String>>,
    #[serde(default)]
    pub devices: Named<Spanned<Device>>,
}

/// What the power-off needs that only an AML interpreter could find out.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Power {
    pub s5: Spanned<Vec<Spanned<i64>>>,
}

/// A device of the board.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Device {
    pub ports: Option<Spanned<String>>,
    pub mmio: Option<Spanned<String>>,
    pub interrupts: Option<Spanned<Interrupts>>,
    pub vectors: Option<Spanned<i64>>,
    pub interrupt_rate_max: Option<Spanned<Written>>,
    pub pci: Option<Spanned<String>>,
    pub id: Option<Spanned<String>>,
    pub class: Option<Spanned<String>>,
    pub nth: Option<Spanned<i64>>,
    pub r#virtual: Option<Spanned<String>>,
    pub function: Option<Spanned<i64>>,
    #[serde(default)]
    pub bus_master: bool,
    pub iommu: Option<Spanned<String>>,
    #[serde(default)]
    pub optional: bool,
    #[serde(default)]
    pub bars: Named<Spanned<Written>>,
    #[serde(default)]
    pub config: bool,
}

/// How a device interrupts.
#[derive(Debug)]
pub enum Interrupts {
    /// By IOAPIC pins: a platform device.
    Pins(Vec<Spanned<i64>>),
    /// By messages, of this kind: a PCI function.
    Messages(String),
}

impl<'de> Deserialize<'de> for Interrupts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Interrupts;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a list of pins, or \"msi-x\" or \"msi\"")
            }

            fn visit_str<E>(self, word: &str) -> Result<Interrupts, E> {
                Ok(Interrupts::Messages(word.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Interrupts, A::Error> {
                let mut pins = Vec::new();
                while let Some(pin) = list.next_element()? {
                    pins.push(pin);
                }
                Ok(Interrupts::Pins(pins))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl<'de> Deserialize<'de> for Memory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = Spanned::<SizeOrTable>::deserialize(deserializer)?;
        let span = read.span();
        Ok(match read.into_inner() {
            SizeOrTable::Size(size) => Memory { size: Spanned::new(span, size), dma: false },
            SizeOrTable::Table(table) => Memory { size: table.size, dma: table.dma },
        })
    }
}

/// The two ways of writing [`Memory`].
enum SizeOrTable {
    Size(Written),
    Table(MemoryTable),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemoryTable {
    size: Spanned<Written>,
    #[serde(default)]
    dma: bool,
}

impl<'de> Deserialize<'de> for SizeOrTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = SizeOrTable;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a size like \"16KiB\", or { size = \"16KiB\", dma = true }")
            }

            fn visit_str<E>(self, text: &str) -> Result<SizeOrTable, E> {
                Ok(SizeOrTable::Size(Written::Text(text.to_owned())))
            }

            fn visit_i64<E>(self, number: i64) -> Result<SizeOrTable, E> {
                Ok(SizeOrTable::Size(Written::Number(number.to_string())))
            }

            fn visit_f64<E>(self, number: f64) -> Result<SizeOrTable, E> {
                Ok(SizeOrTable::Size(Written::Number(number.to_string())))
            }

            fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<SizeOrTable, A::Error> {
                Deserialize::deserialize(MapAccessDeserializer::new(table)).map(SizeOrTable::Table)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// How a missing key is written, for the message that misses it.
const EXAMPLES: &[(&str, &str)] = &[
    ("format", "format = 1"),
    ("name", "name = \"edge\""),
    ("board", "board = \"../boards/q35.toml\""),
    (
        "cores",
        "cores = { system = [0], drivers = [1] } (in a task: cores = [0]; in a board: cores = 4)",
    ),
    ("tasks", "[tasks.init]"),
    ("guest", "guest = \"linux\" (the file images/guests/linux.toml)"),
    ("cpu", "cpu = { cores = [0], priority = 3, budget = \"1ms\", period = \"10ms\" }"),
    ("core", "core = 1"),
    ("priority", "priority = 3"),
    ("budget", "budget = \"1ms\""),
    ("period", "period = \"10ms\""),
    ("memory", "memory = \"256MiB\""),
    ("power", "[power]"),
    ("s5", "s5 = [0, 0]"),
    ("size", "size = \"64KiB\""),
];

/// Reads a file's text.
pub fn parse<T: DeserializeOwned>(source: &Source) -> Result<T, Problem> {
    toml::from_str(source.text()).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        let (message, label, help) = match error.message() {
            "duplicate key" => {
                let key = source.text().get(span.clone()).unwrap_or("?");
                (
                    format!("key `{key}` is written twice"),
                    "again".into(),
                    "remove one of them".into(),
                )
            }
            other => explained(other),
        };
        Problem::new(source, span, message, label, help)
    })
}

/// A type of serde's in words for people.
fn plain(expected: &str) -> &str {
    match expected {
        "i64" => "a whole number",
        "a string" => "text in quotes",
        "a boolean" => "true or false",
        "a sequence" => "a list in brackets",
        other if other.starts_with("struct") || other == "a map" => "a table of keys",
        other => other,
    }
}

/// The names between backticks in one of serde's messages.
fn quoted(message: &str) -> impl Iterator<Item = &str> {
    message.split('`').skip(1).step_by(2)
}

/// Message, label and help for one of serde's or the TOML reader's messages.
fn explained(message: &str) -> (String, String, String) {
    if message.starts_with("unknown field") {
        let mut names = quoted(message);
        let found = names.next().unwrap_or("?").to_owned();
        let keys: Vec<&str> = names.collect();
        let guess = nearest(&found, keys.iter().copied())
            .map_or_else(String::new, |key| format!("did you mean `{key}`? "));
        let help = format!("{guess}keys here are {}", listed(keys));
        return (format!("unknown key `{found}`"), "not a key of this table".into(), help);
    }
    if message.starts_with("missing field") {
        let key = quoted(message).next().unwrap_or("?").to_owned();
        let example = EXAMPLES.iter().find(|(name, _)| *name == key);
        let help = example.map_or_else(String::new, |(_, text)| format!("write: {text}"));
        return (format!("key `{key}` is missing"), format!("this table needs `{key}`"), help);
    }
    if let Some((found, expected)) =
        message.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected "))
    {
        let expected = plain(expected);
        return (
            format!("found {found} where {expected} belongs"),
            format!("this is {found}"),
            format!("write {expected}"),
        );
    }
    let first = message.lines().next().unwrap_or("this cannot be read");
    (
        format!("not valid TOML: {first}"),
        "here".to_owned(),
        "the syntax of TOML is described at https://toml.io/en/v1.0.0".to_owned(),
    )
}
