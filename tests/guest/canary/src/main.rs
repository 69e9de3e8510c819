//! Micro-guest: has memory full of canaries, and says whether they are what they were, once the judge
//! outside the machine wants to know (`rogue-core`). `owner=N` on the command line is its number.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use core::time::Duration;

use cloister_guest_rt::{cmdline, memory, power, println, timer};
use rogue_core::Owner;

cloister_guest_rt::entry!(main);

/// Memory that is left for the guest itself.
const OWN: usize = 2 << 20;
/// Between two looks at what the judge wants.
const PAUSE: Duration = Duration::from_millis(100);

fn main() {
    let line = cmdline::read();
    let number = line.get("owner").and_then(|word| word.parse().ok()).unwrap_or(2);
    let end = usize::try_from(memory::size()).unwrap_or(0);
    let begin = usize::try_from(memory::program_end()).unwrap_or(0);
    let pages = end.saturating_sub(begin).saturating_sub(OWN) / memory::PAGE;
    let Some(words) = memory::leak_words(pages) else {
        println!("FAILED canaries: no memory of {pages} pages");
        power::panic(2);
    };
    let owner = Owner::new(words, number);
    println!("canaries of owner {number}: {} pages stand", owner.count());
    while !owner.is_asked() {
        timer::wait(PAUSE);
    }
    let changed = owner.changed();
    println!("canaries of owner {number}: {changed} of {} pages changed", owner.count());
    power::off();
}
