//! One counter of the 8254 (82C54 data sheet, "Mode Definitions").
//!
//! [`Counter`] keeps when its counting element was loaded and with what; count and output at any
//! later tick follow from that. Tick `t` means the state after the clock pulse `t` and before the
//! next one. A count that is written at tick `t` is loaded by the next pulse.
//!
//! Invariant: a count is between 1 and the modulus, and at least 2 where the counter reloads
//! itself, because the data sheet forbids 1 there and a division needs it.

/// What the counting element does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Nothing: there is no count, or only half of one, or the gate has not risen.
    #[default]
    Empty,
    /// It was loaded by this clock pulse, which may be the next one.
    Counting(u64),
    /// The gate is low, after so many pulses that counted.
    Held(u64),
}

/// A count that takes over at the end of the current cycle or half of one.
#[derive(Clone, Copy, Debug)]
struct Reload {
    at: u64,
    count: u64,
    /// Where the cycle begins that it takes over.
    start: u64,
}

/// One of the three counters.
#[derive(Clone, Debug, Default)]
pub struct Counter {
    mode: u8,
    is_bcd: bool,
    /// Which bytes are read and written: 1 low, 2 high, 3 both.
    access: u8,
    gate: bool,
    state: State,
    /// What the counting element was loaded with.
    count: u64,
    /// The pulse that loaded it.
    loaded: u64,
    /// What was written last; 0 for nothing.
    written: u64,
    /// It has been loaded since.
    is_loaded: bool,
    reload: Option<Reload>,
    /// The output until the pulse that loads.
    before: bool,
    /// The low byte of a count whose high byte is to come.
    low: Option<u8>,
    reads_high: bool,
    latched: Option<u16>,
    latched_state: Option<u8>,
}

impl Counter {
    /// A counter before it is programmed: its output is high, as firmware leaves it.
    pub fn new(gate: bool) -> Counter {
        Counter { mode: 2, access: 3, gate, ..Counter::default() }
    }

    /// A control word for this counter, or the command that latches its count.
    pub fn control(&mut self, word: u8, ticks: u64) {
        let access = word >> 4 & 3;
        if access == 0 {
            return self.read_back(true, false, ticks);
        }
        // Modes 2 and 3 have two encodings each.
        let mode = if word >> 1 & 7 > 5 { word >> 1 & 3 } else { word >> 1 & 7 };
        let (is_bcd, gate) = (word & 1 != 0, self.gate);
        *self = Counter { mode, is_bcd, access, gate, ..Counter::default() };
    }

    /// A byte of a count.
    pub fn write(&mut self, byte: u8, ticks: u64) {
        let value = match (self.access, self.low.take()) {
            (1, _) => u16::from(byte),
            (2, _) => u16::from_be_bytes([byte, 0]),
            (_, Some(low)) => u16::from_be_bytes([byte, low]),
            (_, None) => {
                self.low = Some(byte);
                if self.mode == 0 {
                    self.state = State::Empty;
                }
                return;
            }
        };
        let number = if self.is_bcd { from_bcd(value) } else { u64::from(value) };
        let modulus = if self.is_bcd { 10_000 } else { 0x1_0000 };
        let count = if number == 0 { modulus } else { number };
        self.set_count(if matches!(self.mode, 2 | 3) { count.max(2) } else { count }, ticks);
    }

    /// Reads a byte: of the latched state, the latched count, or the count itself.
    pub fn read(&mut self, ticks: u64) -> u8 {
        if let Some(state) = self.latched_state.take() {
            return state;
        }
        let [low, high] = self.latched.unwrap_or_else(|| self.shown(ticks)).to_le_bytes();
        let is_high = self.access == 2 || self.reads_high;
        self.reads_high = self.access == 3 && !self.reads_high;
        self.latched = self.latched.filter(|_| self.reads_high);
        if is_high { high } else { low }
    }

    /// Latches the count, the state, or both; what is latched already stays.
    pub fn read_back(&mut self, count: bool, state: bool, ticks: u64) {
        if count {
            self.latched = self.latched.or(Some(self.shown(ticks)));
        }
        if state {
            let output = u8::from(self.output(ticks)) << 7;
            let null = u8::from(!self.is_loaded || ticks < self.loaded) << 6;
            let word = self.access << 4 | self.mode << 1 | u8::from(self.is_bcd);
            self.latched_state = self.latched_state.or(Some(output | null | word));
        }
    }

    /// The gate's level: it holds a counter, reloads it, or triggers it, as the mode says.
    pub fn set_gate(&mut self, is_high: bool, ticks: u64) {
        let (rises, falls) = (is_high && !self.gate, !is_high && self.gate);
        let output = self.output(ticks);
        self.gate = is_high;
        match (self.mode, self.state) {
            (1 | 5, _) if rises && self.written != 0 => {
                self.before = output;
                self.load(ticks);
            }
            (0 | 2..=4, State::Counting(start)) if falls => {
                self.reload = None;
                self.state = State::Held(ticks.saturating_sub(start));
            }
            (2 | 3, State::Held(_)) if rises => self.load(ticks),
            (_, State::Held(gone)) if rises => {
                self.state = State::Counting(ticks.saturating_sub(gone).max(self.loaded));
            }
            _ => {}
        }
    }

    /// The output's level.
    pub fn output(&self, ticks: u64) -> bool {
        let gone = match self.state {
            State::Empty => return self.mode != 0,
            State::Held(_) if self.mode != 0 => return true,
            State::Held(gone) => gone,
            State::Counting(start) if ticks < start => return self.before,
            State::Counting(start) => ticks.saturating_sub(start),
        };
        match self.mode {
            0 | 1 => gone >= self.count,
            2 => self.phase(gone) != self.count.wrapping_sub(1),
            3 => self.phase(gone) < self.count.div_ceil(2),
            _ => gone != self.count,
        }
    }

    /// The first tick behind `after` at which the output rises, with the gate high.
    pub fn next_rise(&self, after: u64) -> Option<u64> {
        let State::Counting(start) = self.state else { return None };
        let end = start.saturating_add(self.count);
        match self.mode {
            0 => Some(end).filter(|&rise| rise > after),
            // The end of a strobe that the load cuts short.
            4 if !self.before && after < start => Some(start),
            4 => end.checked_add(1).filter(|&rise| rise > after),
            2 | 3 => {
                let rise = next_cycle(start, self.count, after);
                let reload = self.reload.filter(|next| rise > next.at);
                let then = |next: Reload| next_cycle(next.start, next.count, after.max(next.at));
                Some(reload.map_or(rise, then))
            }
            _ => None,
        }
    }

    /// Lets a count take over whose time has come.
    pub fn bring_to(&mut self, ticks: u64) {
        if let Some(next) = self.reload.filter(|next| next.at <= ticks) {
            (self.count, self.is_loaded) = (next.count, true);
            (self.state, self.reload) = (State::Counting(next.start), None);
        }
    }

    /// A whole count has been written.
    fn set_count(&mut self, count: u64, ticks: u64) {
        let before = self.mode != 0 && self.output(ticks);
        (self.written, self.is_loaded) = (count, false);
        match (self.mode, self.state) {
            (2 | 3, State::Counting(start)) if start <= ticks => {
                self.reload = Some(self.reload_at(start, count, ticks));
            }
            // The gate loads it when it rises.
            (2 | 3, State::Held(_)) => {}
            // Without a trigger on its way, so it does here.
            (1 | 5, _) if ticks >= self.loaded => {}
            _ => {
                self.before = before;
                self.load(ticks);
                if !self.gate && !matches!(self.mode, 1 | 5) {
                    self.state = State::Held(0);
                }
            }
        }
    }

    /// The next pulse loads what was written.
    fn load(&mut self, ticks: u64) {
        (self.count, self.is_loaded) = (self.written, true);
        self.loaded = ticks.saturating_add(1);
        self.state = State::Counting(self.loaded);
    }

    /// When a new count takes over from a running one: at the end of the cycle, or of the half of
    /// a square wave.
    fn reload_at(&self, start: u64, count: u64, ticks: u64) -> Reload {
        let phase = self.phase(ticks.saturating_sub(start));
        let (cycle, half) = (ticks.saturating_sub(phase), self.count.div_ceil(2));
        let is_half = self.mode == 3 && phase < half;
        let at = cycle.saturating_add(if is_half { half } else { self.count });
        // The first half of the new cycle counts as over.
        Reload { at, count, start: at.saturating_sub(if is_half { count.div_ceil(2) } else { 0 }) }
    }

    /// The place in a cycle.
    fn phase(&self, gone: u64) -> u64 {
        gone.checked_rem(self.count).unwrap_or(0)
    }

    /// The count as it is read.
    fn shown(&self, ticks: u64) -> u16 {
        let gone = match self.state {
            State::Empty => return 0,
            State::Held(gone) => gone,
            State::Counting(start) => ticks.saturating_sub(start),
        };
        let count = match self.mode {
            2 => self.count.saturating_sub(self.phase(gone)),
            3 => {
                let (phase, half) = (self.phase(gone), self.count.div_ceil(2));
                let place = phase.checked_sub(half).unwrap_or(phase);
                (self.count & !1).saturating_sub(place.saturating_mul(2))
            }
            // Past the end it goes on from the top.
            _ => self.count.wrapping_sub(gone),
        };
        if self.is_bcd { to_bcd(count) } else { crate::num::low16(count) }
    }
}

/// The first start of a cycle behind `after`, but for the one that was loaded.
fn next_cycle(start: u64, count: u64, after: u64) -> u64 {
    let gone = after.saturating_sub(start).checked_div(count).unwrap_or(0);
    start.saturating_add(gone.saturating_add(1).saturating_mul(count))
}

/// Four decimal digits; a digit above nine counts for what it is.
fn from_bcd(value: u16) -> u64 {
    let digits = [12, 8, 4, 0].map(|place| u64::from(value >> place & 0xf));
    digits.into_iter().fold(0, |sum, digit| sum.wrapping_mul(10).wrapping_add(digit))
}

/// The last four decimal digits of a count, which may have gone below zero.
fn to_bcd(count: u64) -> u16 {
    let count = count.cast_signed().rem_euclid(10_000).cast_unsigned();
    let [d, c, b, a] = [count / 1_000, count / 100 % 10, count / 10 % 10, count % 10];
    crate::num::low16(d << 12 | c << 8 | b << 4 | a)
}
