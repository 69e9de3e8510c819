//! Measures the kernel from ring 3. One program for all parts of images/bench; the manifest's
//! number `part` says which one a task is.
//!
//! Every part shares one page with the boss, words 0 and up: [`STARTED`] holds the TSC of its
//! first instruction of `main`, [`MARK`] the TSC at which it was woken or began. The boss runs the
//! measurements one after the other and logs `bench KEY VALUE UNIT` lines, which
//! `cargo xtask bench` collects. Under `-icount` a tick is an executed instruction of any core, so
//! each value holds everything that happened between its two readings; it is the median of many.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

mod boss;
mod median;
mod parts;

cloister_rt::entry!(main);

/// Word: the TSC when the task began.
const STARTED: usize = 0;
/// Word: the TSC when the task last woke up or began again.
const MARK: usize = 1;
/// Word: an order from the boss to this part.
const ORDER: usize = 2;
/// Word: the part's answer, counts up.
const ANSWER: usize = 3;

fn main() -> u32 {
    let now = cloister_rt::Instant::now().tsc();
    let Ok(part) = cloister_rt::grants().number("part") else { return 2 };
    match part {
        0 => boss::run(now),
        1 => parts::woken(now),
        2 => parts::caller(now),
        3 => parts::victim(now),
        _ => parts::still(now),
    }
}
