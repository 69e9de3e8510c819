//! Two cascaded 8259A interrupt controllers (8259A data sheet; edge/level registers as in the
//! 82371AB data sheet).
//!
//! [`Pic`] belongs to thread 0. Devices set its 16 lines; [`Pic::pending`] is what the wire
//! to LINT0 of the boot CPU means; when that CPU takes the interrupt, so does [`Pic::acknowledge`].
//! Neighbours: `bus` for the ports, `apic` for LINT0. Modes that only an MCS-80 has are stored and
//! mean nothing; "buffered" is about electrical signals.
//!
//! Invariant: an acknowledge always has a vector: line 7's of the controller that was asked, if
//! the request is gone by then.

use crate::num::low8;

/// The line at which the second controller hangs.
const CASCADE: u8 = 2;

/// Initialization words that are still to come, in this order: the vector base.
const BASE: u8 = 1;
/// Initialization words: how the controllers hang together.
const WIRING: u8 = 2;
/// Initialization words: the mode.
const MODE: u8 = 4;
/// In it: an interrupt ends when it is acknowledged.
const AUTO_END: u8 = 2;
/// In it: the other controller may have a more urgent line than its own that is in service.
const SPECIAL_NESTED: u8 = 0x10;

/// One controller.
#[derive(Clone, Copy, Debug, Default)]
struct Chip {
    lines: u8,
    /// Requests, latched at edges.
    requests: u8,
    in_service: u8,
    mask: u8,
    level: u8,
    /// The bit of the line at which another controller hangs; 0 for none. Its request is latched
    /// until it is acknowledged, and begins again while the wire is still active then.
    cascade: u8,
    base: u8,
    /// The line with the lowest priority; the one behind it has the highest.
    lowest: u8,
    /// [`BASE`] and so on; the controller works when there are none.
    awaits: u8,
    /// The initialization word of this name.
    mode: u8,
    rotates_auto: bool,
    is_special_mask: bool,
    shows_service: bool,
    polls: bool,
}

impl Chip {
    /// Before initialization: nothing gets through.
    fn new(cascade: u8) -> Chip {
        Chip { mask: 0xff, lowest: 7, cascade, ..Chip::default() }
    }

    /// A request needs its line to stay active until it is acknowledged, in both modes; but that
    /// of the other controller is withdrawn by nobody, which makes its spurious interrupts.
    fn set_line(&mut self, line: u8, is_active: bool) {
        let bit = bit(line);
        if !is_active {
            self.lines &= !bit;
            self.requests &= !bit | self.cascade;
        } else if self.lines & bit == 0 || self.levels() & bit != 0 {
            self.lines |= bit;
            self.requests |= bit;
        }
    }

    /// The lines that work by level.
    fn levels(&self) -> u8 {
        self.level | self.cascade
    }

    /// How far the most urgent line of a set is from the highest priority; 8 if there is none.
    fn rank(&self, set: u8) -> u32 {
        set.rotate_right(u32::from(self.lowest).wrapping_add(1)).trailing_zeros()
    }

    /// The most urgent line of a set.
    fn first(&self, set: u8) -> Option<u8> {
        let line = low8(u64::from(self.rank(set))).wrapping_add(self.lowest).wrapping_add(1) & 7;
        (set != 0).then_some(line)
    }

    /// What is in service, but for what the special mask mode leaves alone.
    fn serviced(&self) -> u8 {
        if self.is_special_mask { self.in_service & !self.mask } else { self.in_service }
    }

    /// The line that the controller would interrupt for.
    fn winner(&self) -> Option<u8> {
        let requests = if self.awaits == 0 { self.requests & !self.mask } else { 0 };
        let nested = if self.mode & SPECIAL_NESTED != 0 { self.cascade } else { 0 };
        let wins = self.rank(requests) < self.rank(self.serviced() & !nested);
        self.first(requests).filter(|_| wins)
    }

    /// The CPU takes this line's interrupt.
    fn take(&mut self, line: u8) {
        if self.level & bit(line) == 0 {
            self.requests &= !bit(line);
        }
        if self.mode & AUTO_END == 0 {
            self.in_service |= bit(line);
        } else if self.rotates_auto {
            self.lowest = line;
        }
    }

    /// A write to one of its ports.
    fn write(&mut self, port: u16, value: u8) {
        if port >= 0x4d0 {
            // Some lines stay edges: timer, keyboard, cascade; clock, coprocessor.
            self.level = value & if self.cascade != 0 { 0xf8 } else { 0xde };
            // A line that is active when it becomes a level requests at once.
            self.requests |= self.lines & self.level;
        } else if port & 1 != 0 {
            self.data(value);
        } else if value & 0x10 != 0 {
            let Chip { lines, level, cascade, base, .. } = *self;
            let requests = lines & self.levels();
            let awaits = BASE | !value & WIRING | (value & 1) << 2;
            *self = Chip { lines, requests, cascade, level, base, awaits, ..Chip::default() };
            self.lowest = 7;
        } else if value & 8 == 0 {
            self.end(value >> 5, value & 7);
        } else {
            self.polls = value & 4 != 0;
            if value & 2 != 0 {
                self.shows_service = value & 1 != 0;
            }
            if value & 0x40 != 0 {
                self.is_special_mask = value & 0x20 != 0;
            }
        }
    }

    /// Ends of interrupts and priorities ("Operation Control Word 2"): bit 0 ends, bit 1 names the
    /// line, bit 2 rotates.
    fn end(&mut self, command: u8, named: u8) {
        if command & 3 == 0 {
            self.rotates_auto = command & 4 != 0;
            return;
        }
        let line = if command & 2 != 0 { Some(named) } else { self.first(self.serviced()) };
        let Some(line) = line else { return };
        if command & 1 != 0 {
            self.in_service &= !bit(line);
        }
        if command & 4 != 0 {
            self.lowest = line;
        }
    }

    /// A write to the second port.
    fn data(&mut self, value: u8) {
        let word = self.awaits & self.awaits.wrapping_neg();
        self.awaits &= !word;
        match word {
            BASE => self.base = value & 0xf8,
            // How the controllers hang together cannot be changed.
            WIRING => {}
            MODE => self.mode = value,
            _ => self.mask = value,
        }
    }

    /// A read of one of its ports. A poll takes the place of an acknowledge.
    fn read(&mut self, port: u16) -> u8 {
        if port >= 0x4d0 {
            return self.level;
        }
        if core::mem::take(&mut self.polls) {
            let Some(line) = self.winner() else { return 0 };
            self.take(line);
            return 0x80 | line;
        }
        let shown = if self.shows_service { self.in_service } else { self.requests };
        if port & 1 != 0 { self.mask } else { shown }
    }
}

/// The two controllers.
#[derive(Clone, Copy, Debug)]
pub struct Pic {
    first: Chip,
    second: Chip,
}

impl Pic {
    /// Before initialization.
    #[expect(clippy::new_without_default, reason = "nobody needs one by default")]
    pub fn new() -> Pic {
        Pic { first: Chip::new(bit(CASCADE)), second: Chip::new(0) }
    }

    /// A device drives a line, 0 to 15. Others, and the cascade, are ignored.
    pub fn set_line(&mut self, line: u8, is_active: bool) {
        match line {
            8..16 => self.second.set_line(line & 7, is_active),
            0..8 if line != CASCADE => self.first.set_line(line, is_active),
            _ => {}
        }
        self.cascade();
    }

    /// The vector that an acknowledge would get now; `None` while the wire is not active.
    pub fn pending(&self) -> Option<u8> {
        let line = self.first.winner()?;
        let behind = || self.second.base | self.second.winner().unwrap_or(7);
        Some(if line == CASCADE { behind() } else { self.first.base | line })
    }

    /// The CPU acknowledges: the vector that it gets.
    pub fn acknowledge(&mut self) -> u8 {
        let Some(line) = self.first.winner() else { return self.first.base | 7 };
        self.first.take(line);
        if line != CASCADE {
            return self.first.base | line;
        }
        let behind = self.second.winner();
        behind.into_iter().for_each(|line| self.second.take(line));
        self.cascade();
        self.second.base | behind.unwrap_or(7)
    }

    /// Reads a port: 0x20, 0x21, 0xa0, 0xa1, 0x4d0 or 0x4d1; all ones for others.
    pub fn read(&mut self, port: u16) -> u8 {
        if self.second.polls && port & !1 == 0xa0 {
            // Whoever polls behind it has answered the request.
            self.first.requests &= !self.first.cascade;
        }
        let value = self.chip(port).map_or(0xff, |chip| chip.read(port));
        self.cascade();
        value
    }

    /// Writes a port; others are ignored.
    pub fn write(&mut self, port: u16, value: u8) {
        if let Some(chip) = self.chip(port) {
            chip.write(port, value);
        }
        self.cascade();
    }

    /// The controller that has a port.
    fn chip(&mut self, port: u16) -> Option<&mut Chip> {
        match port {
            0x20 | 0x21 | 0x4d0 => Some(&mut self.first),
            0xa0 | 0xa1 | 0x4d1 => Some(&mut self.second),
            _ => None,
        }
    }

    /// The second controller's wire is the first one's line 2.
    fn cascade(&mut self) {
        let is_active = self.second.winner().is_some();
        self.first.set_line(CASCADE, is_active);
    }
}

/// The bit of a line.
fn bit(line: u8) -> u8 {
    1 << (line & 7)
}
