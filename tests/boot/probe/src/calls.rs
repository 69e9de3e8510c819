//! Calls that wait, calls at a given moment, and random calls.

use core::arch::asm;

use boot_common::page::{BEAT, CALLS, CALLS_BY_NUMBER, SEED};
use boot_common::random::Random;
use boot_common::raw;
use cloister_rt::abi::call::{Call, NEVER};
use cloister_rt::{Instant, clock};

use crate::Boss;

/// Waits for the supervisor's bit; see `orders::WAIT`.
pub fn wait_for_boss(boss: &Boss, deadline: u64) {
    let mask = raw::bit("boss");
    boss.result(2, Instant::now().tsc());
    let reply = raw::known(Call::Wait, mask, deadline, 0);
    boss.result(3, Instant::now().tsc());
    boss.result(0, reply.status);
    boss.result(1, reply.values[0]);
    boss.page.add(BEAT, 1);
}

/// Counts the supervisor's signals; see `orders::COUNT`.
pub fn count(boss: &Boss) {
    let mask = raw::bit("boss");
    boss.result(0, 1);
    loop {
        raw::known(Call::Wait, mask, NEVER, 0);
        boss.page.add(BEAT, 1);
        boss.mail.peer.wake();
    }
}

/// Faults at a moment.
pub fn fault_at(tsc: u64) {
    while Instant::now().tsc() < tsc {}
    // SAFETY: the load faults.
    unsafe { asm!("mov al, [0]", out("al") _) };
}

/// How often each call is made, of 100; the rest are numbers that do not exist.
const WEIGHTS: [u64; 16] = [18, 24, 6, 10, 6, 6, 6, 6, 8, 3, 1, 1, 1, 1, 1, 1];

/// Makes random calls; see `orders::FUZZ`. Every life goes on where the last one ended.
pub fn fuzz(boss: &Boss, total: u64) {
    let page = &boss.page;
    let mut random = Random::new(page.get(SEED));
    let begun = || (0..17).map(|number| page.get(CALLS_BY_NUMBER + number)).sum::<u64>();
    while begun() < total {
        let number = number(&mut random);
        let arguments = arguments(&mut random, number);
        // Counted before it is made: a call may be this life's last.
        page.add(CALLS_BY_NUMBER + (number as u32).min(16) as usize, 1);
        page.set(SEED, random.state());
        page.add(BEAT, 1);
        let [a, b, c] = arguments;
        raw::call(number, a, b, c);
        page.add(CALLS, 1);
    }
}

fn number(random: &mut Random) -> u64 {
    let mut at = random.below(100);
    for (number, weight) in (0..).zip(WEIGHTS) {
        if at < weight {
            return number;
        }
        at -= weight;
    }
    match random.below(3) {
        0 => 16 + random.below(16),
        1 => u64::from(u32::MAX) - random.below(3),
        _ => random.draw(),
    }
}

fn arguments(random: &mut Random, number: u64) -> [u64; 3] {
    let any = |random: &mut Random| match random.below(6) {
        0 => 0,
        1 => u64::MAX,
        2 => 1 << random.below(64),
        3 => random.below(16),
        _ => random.draw(),
    };
    let slot = |random: &mut Random| match random.below(8) {
        0 => random.draw(),
        1 => u64::from(u32::MAX) + random.below(8),
        _ => random.below(raw::slots() + 2),
    };
    let second = any(random);
    let third = any(random);
    if number != Call::Wait as u64 {
        let index = random.below(9);
        let small = random.below(2) == 0;
        return [slot(random), if small { index } else { second }, third];
    }
    // A wait that nothing ends is the supervisor's affair; most end soon.
    let deadline = match random.below(200) {
        0 => NEVER,
        1 => second,
        2..60 => {
            Instant::now().tsc()
                + random.below(clock().ticks(cloister_rt::Duration::from_micros(20)))
        }
        _ => random.below(1000),
    };
    [third, deadline, second]
}
