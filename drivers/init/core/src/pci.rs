//! PCI functions: finding them all, and what of each matters here.
//!
//! PCI Local Bus Specification 3.0, "Configuration Space Organization"; PCI-to-PCI Bridge
//! Architecture 1.2; PCI Express Base 5.0, "PCI Express Capabilities Register" and "ACS Extended
//! Capability". Invariant: each bus is walked once, whatever the bridges claim; nothing is written
//! but the control bits of access control services, which only ever keep more apart.

/// bus << 8 | device << 3 | function.
pub type Address = u16;

/// Most functions that are kept.
pub const FUNCTIONS_MAX: usize = 256;
/// Most capabilities that fit in a function's configuration space.
const CAPABILITIES_MAX: usize = 48;
/// Capability: PCI Express.
const CAPABILITY_EXPRESS: u8 = 0x10;
/// Device/port types of PCI Express functions.
const EXPRESS_ROOT: u8 = 4;
const EXPRESS_UPSTREAM: u8 = 5;
const EXPRESS_DOWNSTREAM: u8 = 6;
/// Extended capability: access control services.
const EXTENDED_ACS: u32 = 0x0d;
/// ACS bits without which peers reach each other: source validation, request redirect, completion
/// redirect, upstream forwarding.
const ACS_NEEDED: u32 = 0x1d;
/// The first of them.
const ACS_VALIDATION: u32 = 1;
/// Where extended capabilities begin and end.
const EXTENDED: core::ops::Range<u16> = 0x100..0x1000;

/// Access to configuration space.
pub trait Config {
    /// The four bytes at `register`, a multiple of 4 below 256. All ones where nothing is.
    fn read(&mut self, at: Address, register: u8) -> u32;

    /// The same beyond 256, if that can be reached at all.
    fn read_extended(&mut self, at: Address, register: u16) -> Option<u32>;

    /// Writes there, if that can be reached at all.
    fn write_extended(&mut self, at: Address, register: u16, value: u32);
}

/// What a function is to the fabric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It ends here.
    Endpoint,
    /// A root port or a switch's downstream port.
    DownstreamPort {
        /// The bus behind it.
        secondary: u8,
    },
    /// A switch's upstream port.
    UpstreamPort {
        /// The bus behind it.
        secondary: u8,
    },
    /// A bridge to a conventional bus, whose functions all use the bridge's name.
    ConventionalBridge {
        /// The bus behind it.
        secondary: u8,
    },
}

impl Role {
    /// The bus behind a bridge.
    pub fn secondary(self) -> Option<u8> {
        match self {
            Role::Endpoint => None,
            Role::DownstreamPort { secondary }
            | Role::UpstreamPort { secondary }
            | Role::ConventionalBridge { secondary } => Some(secondary),
        }
    }
}

/// A function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its position.
    pub address: Address,
    /// vendor << 16 | device.
    pub identity: u32,
    /// class << 16 | subclass << 8 | interface.
    pub class: u32,
    /// What it is to the fabric.
    pub role: Role,
    /// It keeps peers apart. `false` where that cannot be read or was not taken.
    pub has_acs: bool,
}

impl Function {
    /// Its bus.
    pub fn bus(&self) -> u8 {
        (self.address >> 8) as u8
    }

    /// Its bus and device: functions with the same slot are one device.
    pub fn slot(&self) -> u16 {
        self.address >> 3
    }
}

/// All functions, in order of position.
#[derive(Clone, Debug)]
pub struct Functions {
    list: [Option<Function>; FUNCTIONS_MAX],
    count: usize,
    /// Functions that there was no room for.
    pub dropped: usize,
}

impl Functions {
    /// Finds every function that bridges lead to.
    pub fn enumerate(config: &mut impl Config) -> Functions {
        let mut found = Functions { list: [None; FUNCTIONS_MAX], count: 0, dropped: 0 };
        let mut to_walk = Buses::default();
        let mut known = Buses::default();
        to_walk.add(0);
        known.add(0);
        while let Some(bus) = to_walk.take() {
            for device in 0..32 {
                found.walk_device(config, u16::from(bus) << 8 | device << 3, |secondary| {
                    // A bus that is known already would be a loop.
                    if known.add(secondary) {
                        to_walk.add(secondary);
                    }
                });
            }
        }
        found
    }

    /// The functions.
    pub fn iter(&self) -> impl Iterator<Item = &Function> + Clone {
        self.list.iter().flatten()
    }

    fn walk_device(&mut self, config: &mut impl Config, slot: Address, mut bridge: impl FnMut(u8)) {
        for number in 0..8 {
            let at = slot | number;
            let Some((function, is_multi)) = read(config, at) else {
                if number == 0 {
                    return;
                }
                continue;
            };
            if let Some(secondary) = function.role.secondary() {
                bridge(secondary);
            }
            self.keep(function);
            if number == 0 && !is_multi {
                return;
            }
        }
    }
}

impl Functions {
    /// Whether a function is on a bus behind that bridge, however far.
    pub fn is_behind(&self, bridge: Address, function: Address) -> bool {
        let mut buses = Buses::default();
        let mut seen = Buses::default();
        let secondary = |at: Address| self.iter().find(|f| f.address == at)?.role.secondary();
        let Some(first) = secondary(bridge) else {
            return false;
        };
        buses.add(first);
        while let Some(bus) = buses.take() {
            if u16::from(bus) == function >> 8 {
                return true;
            }
            if seen.add(bus) {
                let here = self.iter().filter(|f| f.bus() == bus);
                here.filter_map(|f| f.role.secondary()).for_each(|next| {
                    buses.add(next);
                });
            }
        }
        false
    }

    /// Puts a function in its place. Most come in order of position already.
    fn keep(&mut self, function: Function) {
        let Some(last) = self.list.get_mut(self.count) else {
            self.dropped += 1;
            return;
        };
        *last = Some(function);
        for at in (1..=self.count).rev() {
            match self.list.get_mut(at - 1..=at) {
                Some([Some(before), Some(here)]) if before.address > here.address => {
                    core::mem::swap(before, here);
                }
                _ => break,
            }
        }
        self.count += 1;
    }
}

fn read(config: &mut impl Config, at: Address) -> Option<(Function, bool)> {
    let identity = config.read(at, 0);
    if identity & 0xffff == 0xffff {
        return None;
    }
    let class = config.read(at, 0x08) >> 8;
    let header = config.read(at, 0x0c) >> 16 & 0xff;
    let express = express_type(config, at);
    let secondary = (config.read(at, 0x18) >> 8) as u8;
    let role = match (header & 0x7f, express) {
        (1, Some(EXPRESS_ROOT | EXPRESS_DOWNSTREAM)) => Role::DownstreamPort { secondary },
        (1, Some(EXPRESS_UPSTREAM)) => Role::UpstreamPort { secondary },
        (1, _) => Role::ConventionalBridge { secondary },
        _ => Role::Endpoint,
    };
    let has_acs = express.is_some_and(|kind| acs(config, at, kind).unwrap_or(false));
    let identity = identity.rotate_right(16);
    Some((Function { address: at, identity, class, role, has_acs }, header & 0x80 != 0))
}

/// The device/port type of a PCI Express function.
fn express_type(config: &mut impl Config, at: Address) -> Option<u8> {
    if config.read(at, 0x04) >> 20 & 1 == 0 {
        return None;
    }
    let mut next = config.read(at, 0x34) as u8 & 0xfc;
    for _ in 0..CAPABILITIES_MAX {
        if next < 0x40 {
            return None;
        }
        let head = config.read(at, next);
        if head as u8 == CAPABILITY_EXPRESS {
            return Some((head >> 20 & 0xf) as u8);
        }
        next = (head >> 8) as u8 & 0xfc;
    }
    None
}

/// Turns on every access control service that keeps peers apart, and says whether they now are.
/// `None` without the capability. A service that a root port or an endpoint does not list is one
/// that it has no use for, because it forwards nothing to peers ("ACS Capability Register"); a
/// switch's port must have them all.
fn acs(config: &mut impl Config, at: Address, express: u8) -> Option<bool> {
    let register = extended(config, at, EXTENDED_ACS)?.checked_add(4)?;
    let before = config.read_extended(at, register)?;
    let wanted = before & ACS_NEEDED;
    config.write_extended(at, register, before | wanted << 16);
    let after = config.read_extended(at, register)?;
    let required = match express {
        EXPRESS_DOWNSTREAM => ACS_NEEDED,
        EXPRESS_ROOT => ACS_VALIDATION,
        _ => 0,
    };
    Some(wanted & required == required && after >> 16 & wanted == wanted)
}

/// Where an extended capability is.
pub(crate) fn extended(config: &mut impl Config, at: Address, id: u32) -> Option<u16> {
    let mut next = EXTENDED.start;
    // Each capability has four bytes at least, so more than that are a loop.
    for _ in 0..EXTENDED.len() / 4 {
        let head = config.read_extended(at, next)?;
        if head & 0xffff == id {
            return Some(next);
        }
        next = (head >> 20) as u16 & 0xffc;
        if !EXTENDED.contains(&next) {
            return None;
        }
    }
    None
}

/// A set of buses.
#[derive(Default)]
struct Buses([u64; 4]);

impl Buses {
    /// Adds one; `false` if it was there.
    fn add(&mut self, bus: u8) -> bool {
        let Some(word) = self.0.get_mut(usize::from(bus / 64)) else {
            return false;
        };
        let bit = 1 << (bus % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    /// Takes the lowest one out.
    fn take(&mut self) -> Option<u8> {
        let (index, word) = self.0.iter_mut().enumerate().find(|(_, word)| **word != 0)?;
        let bit = word.trailing_zeros();
        *word &= *word - 1;
        u8::try_from(index as u32 * 64 + bit).ok()
    }
}
