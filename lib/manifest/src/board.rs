//! The board file: which cores, memory and devices exist, and by which numbers.
//!
//! It is the only place for addresses, ports and interrupt numbers. A [`Device`] is either a
//! *platform* device (ports, registers, interrupt pins, no DMA) or a PCI function, which is found
//! by position, identity or class and interrupts by messages. A message is a write to memory, so a
//! function that sends any is a bus master.

use cloister_abi::layout::{MAX_CORES, PAGE};
use toml::Spanned;

use crate::check::Judge;
use crate::quantity::{self, range};
use crate::raw;
use crate::report::{Problems, Source, Span};

/// Largest value of an I/O port's end: the CPU reads one byte of the bitmap behind the last port.
const PORT_END_MAX: u64 = 0xfff8;
/// Interrupts in a second that a device may raise if the board does not say.
const RATE_DEFAULT: u32 = 10_000;
/// Largest physical address: what the architecture's page tables can name.
const PHYSICAL_END: u64 = 1 << 52;
/// Largest BAR that is mapped for a task.
const BAR_MAX: u64 = 16 << 20;
/// Most messages of one function.
const VECTORS_MAX: u8 = 8;

/// Highest number of a virtual function: those in the slot of their physical one.
const VIRTUAL_MAX: i64 = 7;

/// A device's name, and whether it can have virtual functions.
type Named = (String, bool);

/// What exists.
#[derive(Clone, Debug)]
pub struct Board {
    /// The board's file.
    pub source: Source,
    /// Its cores.
    pub cores: u32,
    /// Its memory.
    pub memory_mib: u32,
    /// SLP_TYP of ACPI S5 for PM1a and PM1b.
    pub sleep_type: [u8; 2],
    /// Port of the UART for the kernel's last words, 0 for none.
    pub debug_port: u16,
    /// Its devices, in the order of the file.
    pub devices: Vec<Device>,
}

/// Where a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Not on a bus.
    Platform,
    /// The PCI function at bus << 8 | device << 3 | function.
    Position(u32),
    /// The PCI function with vendor << 16 | device.
    Identity(u32),
    /// The PCI function with class << 16 | subclass << 8 | interface.
    Class(u32),
    /// A virtual function of the board's device with that index; `nth` is its number, from 1.
    Virtual(usize),
}

/// A device.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its name.
    pub name: Spanned<String>,
    /// Where it is.
    pub place: Place,
    /// Which of several that fit.
    pub nth: u8,
    /// First port and number of ports.
    pub ports: Option<(u16, u16)>,
    /// Physical address and pages of its registers.
    pub mmio: Option<(u64, u32)>,
    /// Its interrupts.
    pub interrupts: Interrupts,
    /// Interrupts allowed in a second.
    pub rate_max: u32,
    /// It may write memory by itself.
    pub is_bus_master: bool,
    /// No manifest may have it without an IOMMU.
    pub needs_iommu: bool,
    /// The system runs without it.
    pub is_optional: bool,
    /// BAR number and pages.
    pub bars: Vec<(u8, u32)>,
    /// Its owner reads its configuration space.
    pub shows_config: bool,
}

/// How a device interrupts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interrupts {
    /// By IOAPIC pins, which are ISA numbers.
    Pins(Vec<u16>),
    /// By the one message of MSI.
    Msi,
    /// By so many messages of MSI-X.
    Msix(u8),
}

impl Interrupts {
    /// The IOAPIC pins.
    pub fn pins(&self) -> &[u16] {
        match self {
            Interrupts::Pins(pins) => pins,
            Interrupts::Msi | Interrupts::Msix(_) => &[],
        }
    }

    /// The number of each interrupt: a pin, or a message.
    pub fn numbers(&self) -> Vec<u16> {
        match self {
            Interrupts::Pins(pins) => pins.clone(),
            Interrupts::Msi => vec![0],
            Interrupts::Msix(vectors) => (0..u16::from(*vectors)).collect(),
        }
    }
}

/// Reads a board; `None` after a problem that leaves nothing to go on with.
pub fn read(source: &Source, problems: &mut Problems) -> Option<Board> {
    let raw: raw::Board = raw::parse(source).map_err(|problem| problems.push(problem)).ok()?;
    let mut judge = Judge { source, problems };
    let most = i64::try_from(MAX_CORES).unwrap_or(i64::MAX);
    let cores = judge.number::<u32>("the board's `cores`", &raw.cores, 1..=most)?;
    let memory = judge.quantity("the board's `memory`", &raw.memory, quantity::size_bytes)?;
    let memory_mib = memory_mib(&mut judge, memory, raw.memory.span())?;
    let sleep_type = sleep_type(&mut judge, &raw.power);
    let debug_port = raw.debug_port.as_ref().map_or(Some(0), |port| debug_port(&mut judge, port));
    let mut entries: Vec<_> = raw.devices.into_iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    let bus: Vec<Named> = entries
        .iter()
        .map(|(name, raw)| (name.get_ref().clone(), is_physical(raw.get_ref())))
        .collect();
    let devices: Vec<Option<Device>> = entries
        .into_iter()
        .map(|(name, raw)| device(&mut judge, &bus, name, raw.get_ref()))
        .collect();
    Some(Board {
        source: source.clone(),
        cores: *cores.get_ref(),
        memory_mib,
        sleep_type: sleep_type?,
        debug_port: debug_port?,
        devices: devices.into_iter().collect::<Option<_>>()?,
    })
}

fn memory_mib(judge: &mut Judge<'_>, bytes: u64, span: Span) -> Option<u32> {
    let mib =
        u32::try_from(bytes >> 20).ok().filter(|mib| *mib >= 16 && bytes.is_multiple_of(1 << 20));
    if mib.is_none() {
        let found = quantity::shown_bytes(bytes);
        judge.wrong(
            span,
            format!(
                "the board's `memory` is {found}, which no system fits or the emulator refuses"
            ),
            "too little, or not whole MiB",
            "write whole mebibytes, at least \"16MiB\"",
        );
    }
    mib
}

fn sleep_type(judge: &mut Judge<'_>, power: &raw::Power) -> Option<[u8; 2]> {
    let [a, b] = power.s5.get_ref().as_slice() else {
        let found = power.s5.get_ref().len();
        judge.wrong(
            power.s5.span(),
            format!("`s5` has {found} values, it needs 2"),
            "two sleep types",
            "write the SLP_TYP values of the board's \\_S5 object for PM1a and PM1b: s5 = [0, 0]",
        );
        return None;
    };
    let a = judge.number::<u8>("a sleep type", a, 0..=7)?;
    let b = judge.number::<u8>("a sleep type", b, 0..=7)?;
    Some([*a.get_ref(), *b.get_ref()])
}

fn debug_port(judge: &mut Judge<'_>, port: &Spanned<String>) -> Option<u16> {
    let found = port.get_ref();
    let number = quantity::number(found).filter(|number| (1..PORT_END_MAX - 7).contains(number));
    if number.is_none() {
        judge.wrong(
            port.span(),
            format!("`debug-port` is \"{found}\", which is no I/O port"),
            "no I/O port",
            "write the first port of a 16550 UART, like \"0x3f8\"",
        );
    }
    number.and_then(|number| u16::try_from(number).ok())
}

/// A PCI function that can be a bus master, and is not a virtual one itself.
fn is_physical(raw: &raw::Device) -> bool {
    let is_on_bus = raw.pci.is_some() || raw.id.is_some() || raw.class.is_some();
    is_on_bus && (raw.bus_master || raw.iommu.is_some() || messages(raw).is_some())
}

fn device(
    judge: &mut Judge<'_>,
    bus: &[Named],
    name: Spanned<String>,
    raw: &raw::Device,
) -> Option<Device> {
    let named = judge.name("device", &name);
    let (place, nth) = place(judge, bus, &name, raw)?;
    let ports = raw.ports.as_ref().map_or(Some(None), |text| ports(judge, text).map(Some));
    let mmio = raw.mmio.as_ref().map_or(Some(None), |text| mmio(judge, text).map(Some));
    let interrupts = interrupts(judge, name.get_ref(), raw);
    let rate_max = match &raw.interrupt_rate_max {
        None => Some(RATE_DEFAULT),
        Some(rate) => judge.quantity(
            &format!("`interrupt-rate-max` of device `{}`", name.get_ref()),
            rate,
            quantity::rate_per_second,
        ),
    };
    let bars = bars(judge, raw);
    let needs_iommu = needs_iommu(judge, name.get_ref(), raw);
    let is_empty = raw.ports.is_none()
        && raw.mmio.is_none()
        && interrupts == Some(Interrupts::Pins(Vec::new()));
    if place == Place::Platform && is_empty {
        judge.wrong(
            name.span(),
            format!("device `{}` has nothing that a task could use", name.get_ref()),
            "no ports, registers or interrupts",
            "give it `ports`, `mmio`, `interrupts`, or a place on the PCI bus: `pci`, `id` or \
             `class`",
        );
        return None;
    }
    if !named {
        return None;
    }
    let (interrupts, needs_iommu) = (interrupts?, needs_iommu?);
    let sends = !matches!(interrupts, Interrupts::Pins(_));
    let is_virtual = matches!(place, Place::Virtual(_));
    let is_bus_master = raw.bus_master || sends || needs_iommu || is_virtual;
    if raw.config && !is_bus_master {
        judge.wrong(
            name.span(),
            format!("device `{}` has `config` and is no bus master", name.get_ref()),
            "the kernel shows it to owners of bus masters alone",
            "remove the key, or write `bus-master = true` if it reads and writes memory by itself",
        );
        return None;
    }
    Some(Device {
        name,
        place,
        nth,
        ports: ports?,
        mmio: mmio?,
        interrupts,
        rate_max: rate_max?,
        is_bus_master,
        needs_iommu,
        is_optional: raw.optional,
        bars: bars?,
        shows_config: raw.config,
    })
}

/// The place of a device, from the one key that says it.
fn place(
    judge: &mut Judge<'_>,
    bus: &[Named],
    name: &Spanned<String>,
    raw: &raw::Device,
) -> Option<(Place, u8)> {
    let keys =
        [("pci", &raw.pci), ("id", &raw.id), ("class", &raw.class), ("virtual", &raw.r#virtual)];
    let mut given = keys.iter().filter_map(|(key, text)| text.as_ref().map(|text| (*key, text)));
    let first = given.next();
    if let (Some((one, _)), Some((two, text))) = (first, given.next()) {
        judge.wrong(
            text.span(),
            format!("device `{}` has both `{one}` and `{two}`", name.get_ref()),
            "a second place",
            "a PCI function is named by one of `pci`, `id`, `class` and `virtual`",
        );
        return None;
    }
    if let Some(("virtual", text)) = first {
        bus_place(judge, name, raw, text.span())?;
        return virtual_place(judge, bus, name, raw, text);
    }
    if let Some(function) = &raw.function {
        judge.wrong(
            function.span(),
            format!("device `{}` has `function` without `virtual`", name.get_ref()),
            "of a virtual function",
            "add `virtual = \"nvme0\"`, the device whose virtual function it is, or remove the key",
        );
        return None;
    }
    let place = match first {
        None => platform(judge, name, raw)?,
        Some((key, text)) => {
            bus_place(judge, name, raw, text.span())?;
            pci_place(judge, key, text)?
        }
    };
    let nth = match &raw.nth {
        None => 0,
        Some(nth) => *judge.number::<u8>("`nth`", nth, 0..=255)?.get_ref(),
    };
    Some((place, nth))
}

/// A virtual function: of which device, and its number.
fn virtual_place(
    judge: &mut Judge<'_>,
    bus: &[Named],
    name: &Spanned<String>,
    raw: &raw::Device,
    text: &Spanned<String>,
) -> Option<(Place, u8)> {
    let (name, found) = (name.get_ref(), text.get_ref());
    let physical = bus.iter().position(|(other, is_physical)| *is_physical && other == found);
    let Some(physical) = physical else {
        judge.wrong(
            text.span(),
            format!(
                "device `{name}` is a virtual function of `{found}`, which is no bus master on PCI"
            ),
            "no physical function",
            "name a device of this file that has `pci`, `id` or `class`, and `bus-master` or \
             messages",
        );
        return None;
    };
    let beyond = raw.bars.iter().find(|(number, _)| number.get_ref() != "0");
    if let (None, Some((number, _))) = (&raw.nth, beyond) {
        judge.wrong(
            number.span(),
            format!("device `{name}` is a virtual function and has a bar beside bar 0"),
            "not bar 0",
            "of a virtual function bar 0 alone is found: write bars = { 0 = \"8KiB\" }",
        );
        return None;
    }
    let (Some(function), None) = (&raw.function, &raw.nth) else {
        judge.wrong(
            text.span(),
            format!("device `{name}` has `virtual` and not `function`, or has `nth`"),
            "which virtual function?",
            "write `function = 1` for the first one, and no `nth`",
        );
        return None;
    };
    let what = format!("`function` of device `{name}`");
    let number = judge.number::<u8>(&what, function, 1..=VIRTUAL_MAX)?;
    Some((Place::Virtual(physical), *number.get_ref()))
}

/// A platform device has none of the keys of a PCI function.
fn platform(judge: &mut Judge<'_>, name: &Spanned<String>, raw: &raw::Device) -> Option<Place> {
    let key = match raw {
        raw::Device { bus_master: true, .. } => "bus-master",
        raw::Device { iommu: Some(_), .. } => "iommu",
        raw::Device { vectors: Some(_), .. } => "vectors",
        raw::Device { nth: Some(_), .. } => "nth",
        raw::Device { bars, .. } if !bars.is_empty() => "bars",
        raw::Device { config: true, .. } => "config",
        _ => match messages(raw) {
            Some(word) => &format!("interrupts = \"{}\"", word.get_ref()),
            None => return Some(Place::Platform),
        },
    };
    judge.wrong(
        name.span(),
        format!("device `{}` has `{key}` but no place on the PCI bus", name.get_ref()),
        format!("`{key}` belongs to PCI functions"),
        "add `pci = \"00:04.0\"`, `id = \"1b36:0010\"` or `class = \"01:08:02\"`, or remove the \
         key",
    );
    None
}

/// A PCI function has none of the keys of a platform device.
fn bus_place(
    judge: &mut Judge<'_>,
    name: &Spanned<String>,
    raw: &raw::Device,
    span: Span,
) -> Option<()> {
    let key = match raw {
        raw::Device { ports: Some(_), .. } => "ports",
        raw::Device { mmio: Some(_), .. } => "mmio",
        raw::Device { interrupts: Some(_), .. } if messages(raw).is_none() => {
            judge.wrong(
                raw.interrupts.as_ref().map_or(span, Spanned::span),
                format!("device `{}` is a PCI function and has a list of pins", name.get_ref()),
                "pins",
                "a PCI function interrupts by messages: write interrupts = \"msi-x\", or \"msi\" \
                 where it can do no better",
            );
            return None;
        }
        _ => return Some(()),
    };
    judge.wrong(
        span,
        format!("device `{}` is a PCI function and has `{key}`", name.get_ref()),
        "a PCI function",
        format!(
            "its registers are `bars = {{ 0 = \"16KiB\" }}`; `{key}` belongs to platform devices"
        ),
    );
    None
}

/// The word of `interrupts`, if it is one.
fn messages(raw: &raw::Device) -> Option<Spanned<String>> {
    let interrupts = raw.interrupts.as_ref()?;
    match interrupts.get_ref() {
        raw::Interrupts::Messages(word) => Some(Spanned::new(interrupts.span(), word.clone())),
        raw::Interrupts::Pins(_) => None,
    }
}

/// Bytes of a text like `00:04.0`, split at colons and dots, each at most `max`.
fn hex_fields(text: &str, limits: &[(usize, u32)]) -> Option<Vec<u32>> {
    let fields: Vec<&str> = text.split([':', '.']).collect();
    let is_hex = |field: &str| field.chars().all(|c| c.is_ascii_hexdigit());
    if fields.len() != limits.len() {
        return None;
    }
    let read = |(field, (digits, max)): (&&str, &(usize, u32))| {
        let number = u32::from_str_radix(field, 16).ok()?;
        (field.len() == *digits && is_hex(field) && number <= *max).then_some(number)
    };
    fields.iter().zip(limits).map(read).collect()
}

fn pci_place(judge: &mut Judge<'_>, key: &str, text: &Spanned<String>) -> Option<Place> {
    let found = text.get_ref();
    let place = match key {
        "pci" => hex_fields(found, &[(2, 255), (2, 31), (1, 7)]).and_then(|fields| {
            let shape = found.get(2..3) == Some(":") && found.get(5..6) == Some(".");
            shape.then(|| Place::Position(joined(&fields, &[8, 3, 0])))
        }),
        "id" => hex_fields(found, &[(4, 0xffff), (4, 0xffff)])
            .map(|fields| Place::Identity(joined(&fields, &[16, 0]))),
        _ => hex_fields(found, &[(2, 255), (2, 255), (2, 255)])
            .map(|fields| Place::Class(joined(&fields, &[16, 8, 0]))),
    };
    if place.is_none() {
        let right = match key {
            "pci" => "write bus:device.function in hexadecimal, like \"00:04.0\"",
            "id" => "write vendor:device in hexadecimal, like \"1b36:0010\"",
            _ => "write class:subclass:interface in hexadecimal, like \"01:08:02\"",
        };
        judge.wrong(
            text.span(),
            format!("`{key}` is \"{found}\", which names no PCI function"),
            "cannot be read",
            right,
        );
    }
    place
}

fn joined(fields: &[u32], shifts: &[u32]) -> u32 {
    fields.iter().zip(shifts).fold(0, |sum, (field, shift)| sum | field << shift)
}

fn ports(judge: &mut Judge<'_>, text: &Spanned<String>) -> Option<(u16, u16)> {
    let read = range(text.get_ref());
    let (first, end) =
        read.map_err(|wrong| judge.wrong_quantity("`ports`", text.span(), wrong)).ok()?;
    if end > PORT_END_MAX {
        judge.wrong(
            text.span(),
            format!("`ports` ends at {end:#x}, the last usable end is {PORT_END_MAX:#x}"),
            "too high",
            format!("I/O ports that a task can use end below {PORT_END_MAX:#x}"),
        );
        return None;
    }
    Some((u16::try_from(first).ok()?, u16::try_from(end - first).ok()?))
}

fn mmio(judge: &mut Judge<'_>, text: &Spanned<String>) -> Option<(u64, u32)> {
    let read = range(text.get_ref());
    let (first, end) =
        read.map_err(|wrong| judge.wrong_quantity("`mmio`", text.span(), wrong)).ok()?;
    if first % PAGE != 0 || end % PAGE != 0 || end > PHYSICAL_END || end - first > BAR_MAX {
        judge.wrong(
            text.span(),
            format!("`mmio` is {first:#x}..{end:#x}, which is not whole pages of one device"),
            "not whole pages, or too large",
            format!("both ends are multiples of {PAGE:#x}, at most 16 MiB apart"),
        );
        return None;
    }
    Some((first, u32::try_from((end - first) / PAGE).ok()?))
}

fn interrupts(judge: &mut Judge<'_>, name: &str, raw: &raw::Device) -> Option<Interrupts> {
    let vectors = raw.vectors.as_ref();
    if let Some(word) = messages(raw) {
        let words = [("msi-x", true), ("msi", false)];
        let is_table = judge.word(&format!("`interrupts` of device `{name}`"), &word, &words)?;
        if is_table {
            let what = format!("`vectors` of device `{name}`");
            let count = vectors.map_or(Some(1), |vectors| {
                judge.number::<u8>(&what, vectors, 1..=VECTORS_MAX.into()).map(Spanned::into_inner)
            });
            return count.map(Interrupts::Msix);
        }
    }
    if let Some(vectors) = vectors {
        judge.wrong(
            vectors.span(),
            format!("device `{name}` has `vectors` without interrupts = \"msi-x\""),
            "of MSI-X",
            "MSI has one message and a pin is one interrupt: remove `vectors`, or write interrupts \
             = \"msi-x\"",
        );
        return None;
    }
    match raw.interrupts.as_ref().map(Spanned::get_ref) {
        None => Some(Interrupts::Pins(Vec::new())),
        Some(raw::Interrupts::Messages(_)) => Some(Interrupts::Msi),
        Some(raw::Interrupts::Pins(pins)) => {
            let what = format!("an interrupt of device `{name}`");
            let pins = pins
                .iter()
                .map(|pin| judge.number::<u16>(&what, pin, 0..=23).map(Spanned::into_inner));
            pins.collect::<Option<_>>().map(Interrupts::Pins)
        }
    }
}

/// `iommu = "required"`: no manifest can have the device without an IOMMU.
fn needs_iommu(judge: &mut Judge<'_>, name: &str, raw: &raw::Device) -> Option<bool> {
    let Some(word) = &raw.iommu else {
        return Some(false);
    };
    judge.word(&format!("`iommu` of device `{name}`"), word, &[("required", true)])
}

fn bars(judge: &mut Judge<'_>, raw: &raw::Device) -> Option<Vec<(u8, u32)>> {
    raw.bars.iter().map(|(number, size)| bar(judge, number, size)).collect()
}

fn bar(
    judge: &mut Judge<'_>,
    number: &Spanned<String>,
    size: &Spanned<quantity::Written>,
) -> Option<(u8, u32)> {
    let found = number.get_ref();
    let Some(index) = found.parse::<u8>().ok().filter(|index| *index < 6) else {
        judge.wrong(
            number.span(),
            format!("`{found}` is no base address register"),
            "not 0 to 5",
            "a PCI function has the base address registers 0 to 5",
        );
        return None;
    };
    let bytes = judge.quantity(&format!("the size of bar {index}"), size, quantity::size_bytes)?;
    if bytes == 0 || bytes % PAGE != 0 || bytes > BAR_MAX {
        judge.wrong(
            size.span(),
            format!("bar {index} is {}, which is not whole pages", quantity::shown_bytes(bytes)),
            "not whole pages",
            "write whole pages of 4KiB, at most \"16MiB\"",
        );
        return None;
    }
    Some((index, u32::try_from(bytes / PAGE).ok()?))
}

#[cfg(test)]
mod tests {
    use super::{hex_fields, joined};

    #[test]
    fn positions_are_read_with_all_their_digits() {
        let limits = [(2, 255), (2, 31), (1, 7)];
        assert_eq!(hex_fields("00:1f.3", &limits), Some(vec![0, 31, 3]));
        for wrong in ["0:1f.3", "00:20.0", "00:1f.8", "00:1f", "00:1f.3.0", "+0:1f.3", "zz:00.0"] {
            assert_eq!(hex_fields(wrong, &limits), None, "{wrong}");
        }
        assert_eq!(joined(&[1, 2, 3], &[8, 3, 0]), 0x113);
    }
}
