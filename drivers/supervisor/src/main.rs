//! Restarts what faults, by the manifest's policy; powers the machine off when all is done.
//!
//! The loop: hear what a person at the console wants, restart what is due, ask who is watched
//! whether it lives, pat the chipset's watchdog, sleep until a task stops or the next thing is due. When every essential task has left with status 0,
//! or a task's policy or the person says so, the [`ending`] begins: the console ships what was
//! logged, then the machine powers off or reboots.
//!
//! A virtual machine is its monitor: it is paused by stopping that task, and its reset is that
//! task's restart. It is stopped when its devices are still as well.
//!
//! Its own death reboots the machine, so it does not link if a panic is reachable. It trusts no
//! task: a signal bit is a hint, the fault record is the kernel's, and nothing is waited for
//! without a deadline.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

mod console;
mod ending;
mod still;
mod wards;
mod watchdog;
mod words;

use cloister_ring::orders::Report;
use cloister_rt::{Deadline, Duration, Instant, grants, wait};

use console::{Console, Said};
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
    wards.add_all(grants, supervised);
    let mut watchdog = Watchdog::start(grants);
    let mut console = Console::new(grants);
    let mut ending = Ending::default();
    let mut woken = wards.bits();
    loop {
        let asked = wards.attend(woken);
        let wanted = hear(&mut console, &mut wards, &mut ending);
        let finished = wards.is_finished().then_some(How::PowerOff);
        if let Some(how) = asked.or(wanted).or(finished) {
            ending.begin(how, &console);
        }
        wards.settle();
        wards.restart_due();
        wards.watch();
        wards.tell(&mut console);
        watchdog.pat();
        if let Some(how) = ending.is_due(&mut console) {
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
        woken = wait(wards.bits() | console.bits(), Deadline::At(until)).bits();
    }
}

/// Does what the console says. What a person wants for the whole machine, if that was said.
fn hear(console: &mut Console, wards: &mut Wards, ending: &mut Ending) -> Option<How> {
    let mut wanted = None;
    console.hear(|console, said| match said {
        Said::Nothing | Said::Nonsense => {}
        Said::IsNew => ending.console_is_new(),
        Said::Report(Report::Flushed) => ending.flushed(),
        Said::Report(Report::Command(name, operation)) => {
            if let Err(state) = wards.command(&name, operation) {
                console.refuse(&name, operation, state);
            }
        }
        Said::Report(Report::PowerOff) => {
            defmt::info!("a person at the console switches the machine off");
            wanted = Some(How::PowerOff);
        }
    });
    wanted
}
