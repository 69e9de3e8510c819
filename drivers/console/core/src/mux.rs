//! One terminal for all virtual machines: bytes of guests in, bytes for the terminal out.
//!
//! [`Mux`] shows guests by lines, each behind its name: a line is shown when it is whole, when it
//! is too long, or when it was begun a while ago. The *selected* guest may have the screen to
//! itself ([`Mux::direct`]): its bytes then pass as they are, and the lines of the others come in
//! between. Guests take turns by lines, so that none keeps another one waiting.
//!
//! Nothing is copied ahead: the caller offers what a guest has written ([`Mux::feed`]), as much is
//! taken as one line holds, and it is shown when the terminal has room ([`Mux::fill`]). A slow
//! terminal so makes guests wait, by the room in their streams, and nobody else.
//!
//! Invariant: every line on the screen that a guest did not draw itself begins with a name, and
//! what a guest writes is shown once, in order.

use cloister_abi::layout::MAX_VMS;
use cloister_ring::orders::VmState;

use crate::filter::{Filter, STEP_MAX};
use crate::notices::{Named, Notice, Notices};
use crate::text::Text;

/// Most bytes of a line that are kept until it is shown.
const LINE_MAX: usize = 320;
/// Width of the names, if none is longer.
const WIDTH_MIN: usize = 5;
/// Least buffer for [`Mux::fill`]: a line, what ends the line before it, and a name in colour.
pub const FILL_MIN: usize = LINE_MAX + 96;

/// Colours of the names: well apart, readable on dark and on light ground.
const PALETTE: [&str; 8] = ["33", "166", "64", "133", "37", "136", "99", "168"];
/// Ends what a guest has drawn: cancels a sequence that is not whole, default colours, cursor on.
const END_RAW: &[u8] = b"\x18\x1b[0m\x1b[?25h\r\n";

/// What stands in the terminal's last line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Screen {
    /// Nothing: the cursor is at its beginning.
    Start,
    /// The beginning of a line of that guest.
    Line(usize),
    /// What a guest has drawn.
    Raw,
}

/// A guest's output on its way.
#[derive(Clone, Copy)]
struct Lane<'a> {
    name: &'a str,
    state: Option<VmState>,
    filter: Filter,
    bytes: [u8; LINE_MAX],
    len: usize,
    /// When the first of the bytes came.
    since: u64,
    /// The line ends after the bytes.
    ends: bool,
    /// The bytes pass as they are.
    is_raw: bool,
}

/// The terminal.
pub struct Mux<'a> {
    lanes: [Option<Lane<'a>>; MAX_VMS],
    count: usize,
    width: usize,
    turn: usize,
    selected: usize,
    is_direct: bool,
    is_hurried: bool,
    patience: u64,
    screen: Screen,
    /// What the console itself has to say.
    pub notices: Notices,
}

impl<'a> Mux<'a> {
    /// A terminal without guests. A line that was begun is shown after `patience`.
    pub fn new(patience: u64) -> Mux<'a> {
        Mux {
            lanes: [None; MAX_VMS],
            count: 0,
            width: WIDTH_MIN,
            turn: 0,
            selected: 0,
            is_direct: false,
            is_hurried: false,
            patience,
            screen: Screen::Start,
            notices: Notices::default(),
        }
    }

    /// Adds a guest; its index, or `None` if there is no room for another one.
    pub fn add(&mut self, name: &'a str) -> Option<usize> {
        let place = self.lanes.get_mut(self.count)?;
        *place = Some(Lane {
            name,
            state: None,
            filter: Filter::default(),
            bytes: [0; LINE_MAX],
            len: 0,
            since: 0,
            ends: false,
            is_raw: false,
        });
        self.count += 1;
        self.width = self.width.max(name.chars().count());
        Some(self.count - 1)
    }

    /// Guests.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The index of the guest with a name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.lanes.iter().position(|lane| lane.is_some_and(|lane| lane.name == name))
    }

    /// The guest that has the keyboard, if there is any.
    pub fn selected(&self) -> Option<usize> {
        (self.count > 0).then_some(self.selected)
    }

    /// The guest that has the screen to itself, if one has.
    pub fn direct(&self) -> Option<usize> {
        self.selected().filter(|_| self.is_direct)
    }

    /// Gives a guest keyboard and screen.
    pub fn select(&mut self, vm: usize) {
        if vm < self.count {
            (self.selected, self.is_direct) = (vm, true);
            self.notices.answer(Notice::Selected(vm));
        }
    }

    /// The guest that is so many further than the selected one, around.
    pub fn beside(&self, steps: usize) -> usize {
        (self.selected + steps).checked_rem(self.count).unwrap_or(0)
    }

    /// Shows all by lines again; the selected guest keeps the keyboard.
    pub fn show_all(&mut self) {
        self.is_direct = false;
        self.notices.answer(Notice::All);
    }

    /// The supervisor says how a guest fares.
    pub fn set_state(&mut self, vm: usize, state: VmState) {
        if let Some(lane) = self.lane(vm) {
            lane.state = Some(state);
        }
    }

    /// Shows begun lines at once from now on: the system ends.
    pub fn hurry(&mut self) {
        self.is_hurried = true;
    }

    /// The guest begins anew; its line, if it has begun one, ends.
    pub fn restarted(&mut self, vm: usize) {
        let is_open = self.screen == Screen::Line(vm);
        if let Some(lane) = self.lane(vm) {
            lane.filter.restart();
            lane.ends |= !lane.is_raw && (lane.len > 0 || is_open);
        }
    }

    /// Somebody else has ended the terminal's line, as a log frame does.
    pub fn interrupted(&mut self) {
        self.screen = Screen::Start;
    }

    fn lane(&mut self, vm: usize) -> Option<&mut Lane<'a>> {
        self.lanes.get_mut(vm).and_then(Option::as_mut)
    }

    /// Offers what a guest has written. How many of the bytes were taken; the others are to be
    /// offered again after the next [`Mux::fill`].
    pub fn feed(&mut self, vm: usize, bytes: &[u8], now: u64) -> usize {
        let is_direct = self.direct() == Some(vm);
        let Some(lane) = self.lane(vm) else {
            return bytes.len();
        };
        if lane.is_empty() {
            (lane.is_raw, lane.since) = (is_direct, now);
        }
        if lane.is_raw != is_direct {
            // What came before the change is shown first, as what it is.
            return 0;
        }
        if is_direct { lane.take_raw(bytes) } else { lane.take_line(bytes) }
    }

    /// Whether nothing waits to be shown.
    pub fn is_empty(&self) -> bool {
        !self.notices.is_due() && self.lanes.iter().flatten().all(Lane::is_empty)
    }

    /// Puts what is to be shown now into a buffer of at least [`FILL_MIN`] bytes, and says how
    /// many bytes that is.
    pub fn fill(&mut self, now: u64, to: &mut [u8]) -> usize {
        let mut out = Text::new(to);
        while out.room() >= FILL_MIN && self.notices.is_due() {
            self.notice(&mut out);
        }
        for _ in 0..self.count {
            if out.room() < FILL_MIN {
                break;
            }
            let vm = self.turn;
            self.turn = if vm + 1 < self.count { vm + 1 } else { 0 };
            if self.is_ready(vm, now) {
                self.show(vm, &mut out);
            }
        }
        out.len()
    }

    fn is_ready(&self, vm: usize, now: u64) -> bool {
        let Some(Some(lane)) = self.lanes.get(vm) else {
            return false;
        };
        let is_old = self.is_hurried || now.saturating_sub(lane.since) >= self.patience;
        let is_ready = lane.ends
            || lane.is_raw
            || lane.is_full()
            || lane.len > 0 && (is_old || self.direct() == Some(vm));
        is_ready && !lane.is_empty()
    }

    /// Shows what a guest has.
    fn show(&mut self, vm: usize, out: &mut Text<'_>) {
        let Some(Some(lane)) = self.lanes.get(vm) else {
            return;
        };
        let lane_is_open = self.screen == Screen::Line(vm);
        if lane.is_raw {
            if matches!(self.screen, Screen::Line(other) if other != vm) {
                out.push(b"\r\n");
            }
        } else if !lane_is_open {
            end_line(self.screen, out);
            prefix(vm, lane.name, self.width, out);
        }
        out.push(lane.bytes.get(..lane.len).unwrap_or_default());
        self.screen = match lane.bytes.get(..lane.len).and_then(<[u8]>::last) {
            _ if lane.ends => {
                out.push(b"\r\n");
                Screen::Start
            }
            Some(b'\n') if lane.is_raw => Screen::Start,
            _ if lane.is_raw => Screen::Raw,
            _ => Screen::Line(vm),
        };
        if let Some(lane) = self.lane(vm) {
            (lane.len, lane.ends) = (0, false);
            if lane.is_raw {
                // What a sequence began in one mode, it does not go on with in the other.
                lane.filter.restart();
            }
        }
    }

    /// Shows a line of the console's own.
    fn notice(&mut self, out: &mut Text<'_>) {
        end_line(self.screen, out);
        self.screen = Screen::Start;
        out.push(b"\x1b[0m-- ");
        let lanes = &self.lanes;
        let vm = |index: usize| {
            let lane = lanes.get(index).and_then(Option::as_ref)?;
            Some(Named { name: lane.name, state: lane.state })
        };
        self.notices.line(self.selected, self.width, vm, out);
        out.push(b"\r\n");
    }
}

impl Lane<'_> {
    fn is_empty(&self) -> bool {
        self.len == 0 && !self.ends
    }

    /// Whether the next byte of a line may have no room.
    fn is_full(&self) -> bool {
        self.len + STEP_MAX > LINE_MAX
    }

    fn push(&mut self, bytes: &[u8]) {
        let places = self.bytes.iter_mut().skip(self.len);
        self.len += places.zip(bytes).map(|(place, byte)| *place = *byte).count();
    }

    fn take_raw(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(LINE_MAX - self.len);
        self.push(bytes.get(..count).unwrap_or_default());
        count
    }

    /// Takes bytes up to the end of the line.
    fn take_line(&mut self, bytes: &[u8]) -> usize {
        let mut count = 0;
        for byte in bytes {
            if self.ends || self.is_full() {
                break;
            }
            let step = self.filter.push(*byte);
            self.push(step.text());
            self.ends = step.ends_line;
            count += 1;
        }
        count
    }
}

/// Ends the terminal's line, if it has begun.
fn end_line(screen: Screen, out: &mut Text<'_>) {
    match screen {
        Screen::Start => {}
        Screen::Line(_) => out.push(b"\r\n"),
        Screen::Raw => out.push(END_RAW),
    }
}

/// A guest's name in its colour.
fn prefix(vm: usize, name: &str, width: usize, out: &mut Text<'_>) {
    let color = PALETTE.get(vm % PALETTE.len()).copied().unwrap_or_default();
    out.push(b"\x1b[38;5;");
    out.push(color.as_bytes());
    out.push(b"m");
    out.padded(name, width);
    out.push(b"\x1b[0m | ");
}
