//! Restarts what faults, by the manifest's policy; powers the machine off when all is done.
//!
//! The loop: restart what is due, pat the watchdog, sleep until a task stops or the next thing is
//! due. When every essential task has left with status 0, or a task's policy says so, the
//! [`ending`] begins: the console ships what was logged, then the machine powers off or reboots.
//!
//! Its own death reboots the machine, so it does not link if a panic is reachable. It trusts no
//! task: a signal bit is a hint, the fault record is the kernel's, and nothing is waited for
//! without a deadline.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

mod ending;
mod wards;
mod watchdog;
mod words;

use cloister_rt::{Deadline, Duration, Instant, grants, wait};

use ending::{Ending, How};
use wards::Wards;
use watchdog::Watchdog;

cloister_rt::entry!(main);

/// Longest sleep: how often the watchdog is patted.
const PERIOD: Duration = Duration::from_secs(1);

/// Exit status, and so the reason of a reboot: the manifest's policies are not there.
const STATUS_NO_POLICY: u32 = 1;
/// Exit status: no right to switch the machine off.
const STATUS_NO_POWER: u32 = 2;
/// Exit status: the machine did not switch off.
const STATUS_STILL_ON: u32 = 3;

fn main() -> u32 {
    let grants = grants();
    let power = match grants.power("power") {
        Ok(power) => power,
        Err(missing) => {
            defmt::error!("{}: the image builder gives it to the role supervisor", missing);
            return STATUS_NO_POWER;
        }
    };
    let supervised = match grants.supervised() {
        Ok(supervised) => supervised,
        Err(missing) => {
            defmt::error!("{}: the image builder gives it to the role supervisor", missing);
            return STATUS_NO_POLICY;
        }
    };
    let mut wards = Wards::default();
    wards.add_all(supervised);
    let mut watchdog = Watchdog::start(grants);
    let mut ending = Ending::new(grants);
    let mut woken = wards.bits();
    loop {
        let asked = wards.attend(woken);
        let finished = wards.is_finished().then_some(How::PowerOff);
        if let Some(how) = asked.or(finished) {
            ending.begin(how);
        }
        wards.restart_due();
        watchdog.pat();
        if let Some(how) = ending.is_due() {
            let refused = match how {
                How::PowerOff => power.off(),
                How::Reboot => power.reboot(),
            };
            defmt::error!("the machine is still on: {}; leaving, which reboots it", refused);
            return STATUS_STILL_ON;
        }
        let now = Instant::now();
        let until = [Some(now + PERIOD), wards.next_due(), ending.deadline()];
        let until = until.into_iter().flatten().min().unwrap_or(now);
        woken = wait(wards.bits() | ending.bits(), Deadline::At(until)).bits();
    }
}
