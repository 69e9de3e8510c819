//! Micro-guest: a million accesses at random to ports, MSRs and unmapped addresses, which harm
//! nobody.
//!
//! Left out is only what this guest means to keep: its console, and what ends or resets it
//! ([`targets`]). It has no device, so nothing but itself changes its memory: a pattern of
//! [`CONTROL`] words must be the same after every round. The numbers follow from the size of
//! memory, so two of these guests do different things.

#![no_std]
#![no_main]

mod targets;

use cloister_guest_rt::{apic, interrupts, memory, println};
use guest_common::rng::Rng;
use guest_common::{Cases, Outcome, ensure, let_in};

use targets::Counts;

cloister_guest_rt::entry!(main);

/// All accesses.
const ACCESSES: u64 = 1_000_000;
/// Accesses between two looks at the pattern.
const ROUND: u64 = 10_000;
/// Pages of the pattern.
const CONTROL: usize = 256;

fn main() {
    let seed = memory::size() >> 20;
    println!("seed {seed}");
    // Exceptions of these vectors keep their meaning; interrupts there are not sent (`targets`).
    for vector in 0x20..=0xff {
        interrupts::set(vector, |_| apic::eoi());
    }
    let mut cases = Cases::default();
    cases.run("a million accesses", || hammer(seed));
    cases.finish()
}

fn hammer(seed: u64) -> Outcome {
    let pages = memory::leak_pages(CONTROL).unwrap_or_default();
    ensure("pages for the pattern", !pages.is_empty(), CONTROL as u64)?;
    fill(pages, seed);
    let (mut rng, mut counts) = (Rng::new(seed), Counts::default());
    for round in 0..ACCESSES / ROUND {
        for _ in 0..ROUND {
            targets::access(&mut rng, &mut counts);
        }
        ensure("the pattern in memory, round", holds(pages, seed), round)?;
        // A write at random may have turned interrupts' source on; they are taken here.
        let_in();
        if round % 25 == 24 {
            println!("{} accesses", (round + 1) * ROUND);
        }
    }
    println!("{counts}");
    ensure("ports that were reached", counts.ports > ACCESSES / 10, counts.ports)?;
    ensure("MSRs that were refused", counts.refused > ACCESSES / 100, counts.refused)
}

fn fill(pages: &mut [u8], seed: u64) {
    let mut rng = Rng::new(!seed);
    for word in pages.chunks_exact_mut(8) {
        word.copy_from_slice(&rng.number().to_le_bytes());
    }
}

fn holds(pages: &[u8], seed: u64) -> bool {
    let mut rng = Rng::new(!seed);
    pages.chunks_exact(8).all(|word| word == rng.number().to_le_bytes())
}
