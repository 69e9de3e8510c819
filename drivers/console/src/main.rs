//! One serial port for a whole system: every log ring, every guest's console, and the keyboard.
//!
//! The loop: fill the transmitter from rings and guests in turn, a bounded number of times, then
//! sleep until the device, the supervisor, the guest that has the screen or the clock says more.
//! Nobody needs to signal the console when there is something new: it looks every [`PERIOD`], so a
//! log statement costs its writer no call. Sending waits for no one: while the transmitter is busy
//! the rings fill, and what they then lose is counted in the frames that follow; a guest finds its
//! own serial port slow.
//!
//! Wire format, order of turns, the terminal and its commands are in `cloister-console-core`.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

mod guests;
mod supervisor;
mod uart;

use cloister_console_core::wire::{Head, KIND_HELLO, KIND_TERMINAL};
use cloister_console_core::{FILL_MIN, Key, Keys, Mux, Notice, Outgoing, Rings};
use cloister_ring::log::Reader;
use cloister_ring::orders::Operation;
use cloister_rt::abi::name_str;
use cloister_rt::{Bits, Deadline, Duration, Grants, Instant, clock, grants, system, wait};
use static_cell::StaticCell;

use guests::Guests;
use supervisor::Supervisor;
use uart::{FIFO, RECEIVE_MAX, Uart};

cloister_rt::entry!(main);

/// How often the rings and the guests are looked at.
const PERIOD: Duration = Duration::from_millis(5);
/// How long others run after a full round of work.
const PAUSE: Duration = Duration::from_micros(100);
/// Loads of the transmitter in one round.
const ROUND: u32 = 64;
/// How long a line that a guest has begun waits for its end.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long keys wait for a guest that does not read them.
const HOLD: Duration = Duration::from_millis(250);

/// Exit status: the serial port cannot be used.
const STATUS_NO_UART: u32 = 1;

/// How a round ended.
enum Round {
    /// Rings and guests have nothing to show, and everything was handed to the device.
    Empty,
    /// The transmitter is full.
    Full,
    /// Neither; the round was long enough.
    Long,
}

/// What is too large for the stack.
static RINGS: StaticCell<Rings<'static>> = StaticCell::new();
static OUT: StaticCell<Outgoing> = StaticCell::new();
static MUX: StaticCell<Mux<'static>> = StaticCell::new();
static GUESTS: StaticCell<Guests> = StaticCell::new();

struct Console {
    uart: Uart,
    rings: &'static mut Rings<'static>,
    out: &'static mut Outgoing,
    mux: &'static mut Mux<'static>,
    guests: &'static mut Guests,
    supervisor: Supervisor,
    keyboard: Keyboard,
    /// This task's index, which its frames name as their source.
    task: u16,
    core: u8,
    is_log_turn: bool,
}

/// The keyboard's state beside the device.
#[derive(Default)]
struct Keyboard {
    keys: Keys,
    /// The device wants to be looked at.
    is_waiting: bool,
    /// Since when the selected guest has no room.
    full_since: Option<Instant>,
    is_loss_told: bool,
}

fn main() -> u32 {
    let grants = grants();
    let uart = match Uart::open(grants) {
        Ok(uart) => uart,
        Err(unusable) => {
            defmt::error!(
                "uart0 cannot be used: {}; check it in board file and manifest",
                unusable
            );
            return STATUS_NO_UART;
        }
    };
    let mut console = Console {
        uart,
        rings: RINGS.init_with(Rings::default),
        out: OUT.init_with(Outgoing::default),
        mux: MUX.init_with(|| Mux::new(clock().ticks(PATIENCE))),
        guests: GUESTS.init_with(Guests::default),
        supervisor: Supervisor::new(grants),
        keyboard: Keyboard::default(),
        task: grants.task(),
        core: grants.core().to_le_bytes()[0],
        is_log_turn: true,
    };
    find_rings(console.rings, grants);
    console.guests.find(grants, console.mux);
    console.hello();
    loop {
        console.turn();
    }
}

fn find_rings(rings: &mut Rings<'static>, grants: Grants) {
    for (source, ring) in grants.log_rings() {
        if !rings.add(source, Reader::new(ring.words())) {
            defmt::error!("no room for the log ring of source {=u16}", source);
        }
    }
}

impl Console {
    /// One turn of the loop.
    fn turn(&mut self) {
        let round = self.round();
        let pause = match round {
            Round::Empty | Round::Full => PERIOD,
            Round::Long => PAUSE,
        };
        self.uart.notify_when_ready(matches!(round, Round::Full));
        let is_shown = matches!(round, Round::Empty) && self.mux.is_empty();
        let is_drained = is_shown && self.guests.is_empty() && self.uart.is_idle();
        if self.supervisor.step(is_drained, self.mux) {
            self.mux.hurry();
            return;
        }
        // A guest that shares the screen by lines can wait for the next period.
        let direct = self.mux.direct().map_or(Bits::NONE, |vm| self.guests.bits(vm));
        let bits = self.supervisor.bits() | self.uart.bits() | direct;
        let woken = wait(bits, Deadline::after(pause)).bits();
        // The device is looked at too: a byte whose interrupt got lost would keep its line up, and no
        // other one would ever make an edge.
        self.keyboard.is_waiting |= woken.intersects(self.uart.bits()) || self.uart.has_received();
        if self.keyboard.is_waiting && !self.is_held() {
            self.keyboard.is_waiting = false;
            self.attend();
        }
    }

    fn round(&mut self) -> Round {
        for _ in 0..ROUND {
            if self.out.is_empty() && !self.load() {
                return Round::Empty;
            }
            if !self.uart.is_ready() {
                return Round::Full;
            }
            self.uart.send(self.out.take(FIFO));
        }
        Round::Long
    }

    /// Loads the next frame: of a ring and for the terminal by turns, so that neither keeps the
    /// other one waiting.
    fn load(&mut self) -> bool {
        self.is_log_turn = !self.is_log_turn;
        let is_loaded = if self.is_log_turn { self.load_log() } else { self.load_terminal() };
        is_loaded || if self.is_log_turn { self.load_terminal() } else { self.load_log() }
    }

    fn load_log(&mut self) -> bool {
        let is_loaded = self.out.load(|payload| self.rings.next(payload));
        if is_loaded {
            self.mux.interrupted();
        }
        is_loaded
    }

    fn load_terminal(&mut self) -> bool {
        let now = Instant::now().tsc();
        self.guests.feed(self.mux, now);
        let head = self.head(KIND_TERMINAL);
        self.out.load(|payload| {
            let len = self.mux.fill(now, payload.get_mut(..2 * FILL_MIN).unwrap_or_default());
            (len > 0).then_some((head, len))
        })
    }

    /// The head of a frame that comes from no ring.
    fn head(&self, kind: u8) -> Head {
        let tsc = Instant::now().tsc();
        Head { source: self.task, core: self.core, kind, seq: 0, lost: 0, tsc }
    }

    /// The first frame: tells the host how fast the counter in all frames runs.
    fn hello(&mut self) {
        let head = self.head(KIND_HELLO);
        let hz = system().tsc_hz.to_le_bytes();
        self.out.load(|payload| {
            payload.iter_mut().zip(hz).for_each(|(to, from)| *to = from);
            Some((head, hz.len()))
        });
    }

    /// Whether the keys wait in the device, because the guest that they are for has no room.
    fn is_held(&mut self) -> bool {
        let is_full = self.mux.selected().is_some_and(|vm| self.guests.is_full(vm));
        if !is_full {
            (self.keyboard.full_since, self.keyboard.is_loss_told) = (None, false);
            return false;
        }
        // Not for long: a guest that hangs must not keep the person from the commands.
        self.keyboard.full_since.get_or_insert_with(Instant::now).elapsed() < HOLD
    }

    /// Does what the keys say.
    fn attend(&mut self) {
        let mut bytes = [0; RECEIVE_MAX];
        let count = self.uart.attend(&mut bytes);
        for byte in bytes.iter().take(count) {
            if let Some(key) = self.keyboard.keys.push(*byte) {
                self.press(key);
            }
        }
    }

    fn press(&mut self, key: Key) {
        let selected = self.mux.selected();
        match (key, selected) {
            (Key::Help, _) => self.mux.notices.help(),
            (Key::List, _) => self.mux.notices.list(),
            (Key::PowerOff, _) => {
                let is_heard = self.supervisor.power_off();
                let answer = if is_heard { Notice::PowerOff } else { Notice::NoSupervisor };
                self.mux.notices.answer(answer);
            }
            (Key::Naming, _) => self.mux.notices.answer(Notice::Naming),
            (Key::Kill(name), _) => self.command(name_str(&name), Operation::Reset),
            (_, None) => self.mux.notices.answer(Notice::None),
            (Key::Typed(byte), Some(vm)) => self.typed(vm, byte),
            (Key::Select(number), _) if number > self.mux.count() => {
                self.mux.notices.answer(Notice::NoSuch(number));
            }
            (Key::Select(number), _) => self.mux.select(number.saturating_sub(1)),
            (Key::Next, _) => self.mux.select(self.mux.beside(1)),
            (Key::Previous, _) => {
                self.mux.select(self.mux.beside(self.mux.count().saturating_sub(1)));
            }
            (Key::All, _) => self.mux.show_all(),
            (Key::Command(operation), Some(vm)) => {
                let name = self.guests.name(vm).unwrap_or_default();
                self.command(name, operation);
            }
        }
    }

    fn command(&mut self, name: &str, operation: Operation) {
        if !self.supervisor.command(name, operation) {
            self.mux.notices.answer(Notice::NoSupervisor);
        }
    }

    /// Whoever types wants to see what the guest answers at once, so the guest gets the screen.
    fn typed(&mut self, vm: usize, byte: u8) {
        if self.mux.direct() != Some(vm) {
            self.mux.select(vm);
        }
        if !self.guests.type_to(vm, byte) && !self.keyboard.is_loss_told {
            self.keyboard.is_loss_told = true;
            self.mux.notices.answer(Notice::KeysLost(vm));
        }
    }
}
