//! A watched task, in two lives. The first one answers the supervisor `answers` times and then
//! turns in a loop for ever: no fault, no call, nothing that the kernel could see. The second one
//! answers as often, sleeping in between, and leaves with 0: it must not be taken for one that
//! hangs.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use cloister_ring::pulse::Heart;
use cloister_rt::{Deadline, generation, grants, wait};

cloister_rt::entry!(main);

/// Exit status: the manifest does not have this task watched, or gives no number.
const STATUS_NOT_WATCHED: u32 = 1;

fn main() -> u32 {
    let (Some((page, asks)), Ok(answers)) = (grants().watchdog(), grants().number("answers"))
    else {
        return STATUS_NOT_WATCHED;
    };
    let Some(heart) = Heart::new(page.words()) else {
        return STATUS_NOT_WATCHED;
    };
    defmt::info!("life {=u64}", generation());
    for nth in 0..answers {
        wait(asks, Deadline::Never);
        heart.beat();
        defmt::info!("answer {=u64}", nth);
    }
    while generation() == 0 {
        core::hint::spin_loop();
    }
    0
}
