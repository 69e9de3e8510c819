//! Carries every log ring to the serial port.
//!
//! The loop: fill the transmitter from the rings in turn, a bounded number of times, then sleep
//! until the device, the supervisor or the clock says more. Nobody signals the console when a ring
//! has something new: it looks every [`PERIOD`], so a log statement costs its writer no call.
//! Sending waits for no one: while the transmitter is busy the rings fill, and what they then lose
//! is counted in the frames that follow.
//!
//! The wire format and the order of turns are in `cloister-console-core`.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

mod flush;
mod uart;

use cloister_console_core::wire::{Head, KIND_HELLO};
use cloister_console_core::{Outgoing, Rings};
use cloister_rt::abi::log::Reader;
use cloister_rt::{Deadline, Duration, Grants, Instant, grants, system, wait};

use flush::Flush;
use uart::{FIFO, Uart};

cloister_rt::entry!(main);

/// How often the rings are looked at.
const PERIOD: Duration = Duration::from_millis(5);
/// How long others run after a full round of work.
const PAUSE: Duration = Duration::from_micros(100);
/// Loads of the transmitter in one round.
const ROUND: u32 = 64;

/// Exit status: the serial port cannot be used.
const STATUS_NO_UART: u32 = 1;

/// How a round ended.
enum Round {
    /// The rings are empty, and everything was handed to the device.
    Empty,
    /// The transmitter is full.
    Full,
    /// Neither; the round was long enough.
    Long,
}

struct Console {
    uart: Uart,
    rings: Rings<'static>,
    out: Outgoing,
}

impl Console {
    fn round(&mut self) -> Round {
        for _ in 0..ROUND {
            if self.out.is_empty() && !self.out.load(|payload| self.rings.next(payload)) {
                return Round::Empty;
            }
            if !self.uart.is_ready() {
                return Round::Full;
            }
            self.uart.send(self.out.take(FIFO));
        }
        Round::Long
    }
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
    let mut console = Console { uart, rings: Rings::default(), out: Outgoing::default() };
    find_rings(&mut console.rings, grants);
    hello(&mut console.out, grants);
    let mut flush = Flush::new(grants);
    let mut reported = 0;
    loop {
        let round = console.round();
        let pause = match round {
            Round::Empty | Round::Full => PERIOD,
            Round::Long => PAUSE,
        };
        console.uart.notify_when_ready(matches!(round, Round::Full));
        let is_drained = matches!(round, Round::Empty) && console.uart.is_idle();
        let bits = flush.bits() | console.uart.bits();
        if flush.step(is_drained) {
            continue;
        }
        let woken = wait(bits, Deadline::after(pause)).bits();
        if woken.intersects(console.uart.bits()) {
            console.uart.attend();
        }
        report_input(&console.uart, &mut reported);
    }
}

fn find_rings(rings: &mut Rings<'static>, grants: Grants) {
    for (source, ring) in grants.log_rings() {
        if !rings.add(source, Reader::new(ring.words())) {
            defmt::error!("no room for the log ring of source {=u16}", source);
        }
    }
}

/// The first frame: tells the host how fast the counter in all frames runs.
fn hello(out: &mut Outgoing, grants: Grants) {
    let head = Head {
        source: grants.task(),
        core: grants.core().to_le_bytes()[0],
        kind: KIND_HELLO,
        seq: 0,
        lost: 0,
        tsc: Instant::now().tsc(),
    };
    let hz = system().tsc_hz.to_le_bytes();
    out.load(|payload| {
        payload.iter_mut().zip(hz).for_each(|(to, from)| *to = from);
        Some((head, hz.len()))
    });
}

/// Says once that somebody types: nothing listens.
fn report_input(uart: &Uart, reported: &mut u64) {
    if *reported == 0 && uart.received() > 0 {
        *reported = uart.received();
        defmt::warn!("uart0 receives bytes; nothing in this system reads them");
    }
}
