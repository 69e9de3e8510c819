//! Two cascaded 8259A interrupt controllers (8259A data sheet; edge/level registers as in the
//! 82371AB data sheet).
//!
//! [`Pic`] belongs to thread 0. Devices set its 16 lines; [`Pic::output`] is the wire to LINT0 of
//! the boot CPU; when that CPU takes the interrupt, [`Pic::acknowledge`] tells the vector.
//! Neighbours: `bus` for the ports, `apic` for LINT0. Modes that only an MCS-80 has are stored and
//! mean nothing; "buffered" is about electrical signals.
//!
//! Invariant: an acknowledge always has a vector: line 7's of the controller that was asked, if
//! the request is gone by then.

/// The line at which the second controller hangs.
const CASCADE: u8 = 2;
/// Lines that are edges whatever software writes: timer, keyboard, cascade; clock, coprocessor.
const ALWAYS_EDGE: [u8; 2] = [0b0000_0111, 0b0010_0001];

/// Initialization words that a controller still waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// None: it works.
    Done,
    /// The vector base.
    Base,
    /// The cascade.
    Cascade,
    /// The mode.
    Mode,
}

/// One controller.
#[derive(Clone, Copy, Debug)]
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
    step: Step,
    is_single: bool,
    wants_mode: bool,
    is_auto_end: bool,
    rotates_auto: bool,
    is_special_mask: bool,
    is_special_nested: bool,
    shows_service: bool,
    polls: bool,
}

impl Chip {
    /// Before initialization: nothing gets through.
    const fn new(cascade: u8) -> Chip {
        Chip {
            cascade,
            lines: 0,
            requests: 0,
            in_service: 0,
            mask: 0xff,
            level: 0,
            base: 0,
            lowest: 7,
            step: Step::Done,
            is_single: false,
            wants_mode: false,
            is_auto_end: false,
            rotates_auto: false,
            is_special_mask: false,
            is_special_nested: false,
            shows_service: false,
            polls: false,
        }
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

    /// The edge/level register: a line that is active when it becomes a level requests at once.
    fn set_level(&mut self, level: u8) {
        self.level = level;
        self.requests |= self.lines & level;
    }

    /// How far a line is from the highest priority.
    fn rank(&self, line: u8) -> u8 {
        line.wrapping_sub(self.lowest).wrapping_sub(1) & 7
    }

    /// The line of highest priority in a set.
    fn first(&self, set: u8) -> Option<u8> {
        (0..8).filter(|&line| set & bit(line) != 0).min_by_key(|&line| self.rank(line))
    }

    /// The line that the controller would interrupt for.
    fn winner(&self) -> Option<u8> {
        if self.step != Step::Done {
            return None;
        }
        let mut blocking = self.in_service;
        if self.is_special_mask {
            blocking &= !self.mask;
        }
        if self.is_special_nested {
            // The other controller may have a more urgent line than the one in service.
            blocking &= !self.cascade;
        }
        let line = self.first(self.requests & !self.mask)?;
        match self.first(blocking) {
            Some(serviced) if self.rank(serviced) <= self.rank(line) => None,
            _ => Some(line),
        }
    }

    /// The CPU takes this line's interrupt.
    fn take(&mut self, line: u8) {
        if self.level & bit(line) == 0 {
            self.requests &= !bit(line);
        }
        if !self.is_auto_end {
            self.in_service |= bit(line);
        } else if self.rotates_auto {
            self.lowest = line;
        }
    }

    /// The vector of a line.
    fn vector(&self, line: u8) -> u8 {
        self.base | line
    }

    /// A write to the first port.
    fn command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            *self = Chip {
                lines: self.lines,
                requests: self.lines & self.levels(),
                level: self.level,
                base: self.base,
                mask: 0,
                step: Step::Base,
                is_single: value & 2 != 0,
                wants_mode: value & 1 != 0,
                ..Chip::new(self.cascade)
            };
        } else if value & 8 == 0 {
            self.end(value >> 5, value & 7);
        } else {
            match value & 3 {
                2 => self.shows_service = false,
                3 => self.shows_service = true,
                _ => {}
            }
            self.polls = value & 4 != 0;
            match value >> 5 & 3 {
                2 => self.is_special_mask = false,
                3 => self.is_special_mask = true,
                _ => {}
            }
        }
    }

    /// Ends of interrupts and priorities ("Operation Control Word 2"): bit 0 ends, bit 1 names the
    /// line, bit 2 rotates.
    fn end(&mut self, command: u8, named: u8) {
        let line = match command {
            0 | 4 => {
                self.rotates_auto = command == 4;
                None
            }
            // Without a name it is the most urgent in service, but for those that the special
            // mask mode leaves alone.
            1 | 5 if self.is_special_mask => self.first(self.in_service & !self.mask),
            1 | 5 => self.first(self.in_service),
            2 => None,
            _ => Some(named),
        };
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
        let after_cascade = if self.wants_mode { Step::Mode } else { Step::Done };
        match self.step {
            Step::Done => self.mask = value,
            Step::Base => {
                self.base = value & 0xf8;
                self.step = if self.is_single { after_cascade } else { Step::Cascade };
            }
            // How the controllers hang together is wired.
            Step::Cascade => self.step = after_cascade,
            Step::Mode => {
                self.is_auto_end = value & 2 != 0;
                self.is_special_nested = value & 0x10 != 0;
                self.step = Step::Done;
            }
        }
    }

    /// A read of either port. A poll takes the place of an acknowledge.
    fn read(&mut self, is_data: bool) -> u8 {
        if core::mem::take(&mut self.polls) {
            let Some(line) = self.winner() else { return 0 };
            self.take(line);
            return 0x80 | line;
        }
        match (is_data, self.shows_service) {
            (true, _) => self.mask,
            (false, true) => self.in_service,
            (false, false) => self.requests,
        }
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
    pub const fn new() -> Pic {
        Pic { first: Chip::new(1 << CASCADE), second: Chip::new(0) }
    }

    /// A device drives a line, 0 to 15. Others, and the cascade, are ignored.
    pub fn set_line(&mut self, line: u8, is_active: bool) {
        match line {
            CASCADE => {}
            0..8 => self.first.set_line(line, is_active),
            8..16 => self.second.set_line(line & 7, is_active),
            _ => {}
        }
        self.cascade();
    }

    /// Whether the wire to the CPU is active.
    pub fn output(&self) -> bool {
        self.pending().is_some()
    }

    /// The vector that an acknowledge would get now; `None` while the wire is not active.
    pub fn pending(&self) -> Option<u8> {
        let line = self.first.winner()?;
        let behind = || self.second.vector(self.second.winner().unwrap_or(7));
        Some(if line == CASCADE { behind() } else { self.first.vector(line) })
    }

    /// The CPU acknowledges: the vector that it gets.
    pub fn acknowledge(&mut self) -> u8 {
        let Some(vector) = self.pending() else { return self.first.vector(7) };
        if let Some(line) = self.first.winner() {
            self.first.take(line);
            // What is gone by now is answered as line 7, which is not in service then.
            if let Some(behind) = self.second.winner().filter(|_| line == CASCADE) {
                self.second.take(behind);
            }
        }
        self.cascade();
        vector
    }

    /// Reads a port: 0x20, 0x21, 0xa0, 0xa1, 0x4d0 or 0x4d1; all ones for others.
    pub fn read(&mut self, port: u16) -> u8 {
        let value = match port {
            0x20 | 0x21 => self.first.read(port & 1 != 0),
            0xa0 | 0xa1 => {
                if self.second.polls {
                    // Whoever polls behind it has answered the request.
                    self.first.requests &= !self.first.cascade;
                }
                self.second.read(port & 1 != 0)
            }
            0x4d0 => self.first.level,
            0x4d1 => self.second.level,
            _ => 0xff,
        };
        self.cascade();
        value
    }

    /// Writes a port; others are ignored.
    pub fn write(&mut self, port: u16, value: u8) {
        let [edge_first, edge_second] = ALWAYS_EDGE;
        match port {
            0x20 => self.first.command(value),
            0x21 => self.first.data(value),
            0xa0 => self.second.command(value),
            0xa1 => self.second.data(value),
            0x4d0 => self.first.set_level(value & !edge_first),
            0x4d1 => self.second.set_level(value & !edge_second),
            _ => {}
        }
        self.cascade();
    }

    /// The second controller's wire is the first one's line 2.
    fn cascade(&mut self) {
        let is_active = self.second.winner().is_some();
        self.first.set_line(CASCADE, is_active);
    }
}

impl Default for Pic {
    fn default() -> Self {
        Pic::new()
    }
}

/// The bit of a line.
fn bit(line: u8) -> u8 {
    1 << (line & 7)
}
