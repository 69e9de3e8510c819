//! A task that does what the test supervisor orders, most of it forbidden.
//!
//! One program for all cases: the order and its arguments lie in the page that it shares with the
//! supervisor (`boot_common::page`), and so do the results. Each life first looks whether its
//! memory is what the image says; the supervisor reads that before it goes on. Further threads
//! take orders of their own, by polling.

#![no_std]
#![no_main]

mod calls;
mod faults;
mod fpu;
mod instructions;
mod irq;
mod life;
mod memory;
mod threads;
mod timing;

use core::sync::atomic::Ordering;

use boot_common::page::{ARGUMENTS, ASKED, BEAT, DONE, ORDER, Page, RESULTS};
use boot_common::{orders, raw};
use cloister_rt::abi::call::{Call, NEVER};
use cloister_rt::{Deadline, Mailbox, grants, wait};

cloister_rt::entry!(main, threads = [threads::first, threads::second, threads::third]);

/// The supervisor's end of the wire, and the page.
pub struct Boss {
    mail: Mailbox,
    page: Page,
}

impl Boss {
    /// The wire that the manifest calls `boss`.
    pub fn find() -> Option<Boss> {
        let mail = grants().mailbox("boss").ok()?;
        let page = Page(mail.memory.words());
        Some(Boss { mail, page })
    }

    fn argument(&self, index: usize) -> u64 {
        self.page.get(ARGUMENTS + index)
    }

    fn result(&self, index: usize, value: u64) {
        self.page.set(RESULTS + index, value);
    }
}

fn main() -> u32 {
    // Before anything else could touch the registers.
    let dirty_fpu = fpu::is_dirty();
    let Some(boss) = Boss::find() else { return 2 };
    life::begin(&boss.page, dirty_fpu);
    boss.mail.peer.wake();
    // Random calls go on over any number of lives, whoever restarts them.
    let mut goes_on = boss.page.get(ORDER) == orders::FUZZ;
    loop {
        if !core::mem::take(&mut goes_on) {
            wait(boss.mail.bits, Deadline::Never);
        }
        let asked = boss.page.get(ASKED);
        if asked == boss.page.get(DONE) {
            continue;
        }
        obey(&boss);
        boss.page.set(DONE, asked);
        boss.mail.peer.wake();
    }
}

fn obey(boss: &Boss) {
    let page = &boss.page;
    let [a, b, c, d] = [0, 1, 2, 3].map(|index| boss.argument(index));
    match page.get(ORDER) {
        orders::PING => {}
        orders::CALL => {
            let reply = raw::call(a, b, c, d);
            let [rdx, rsi, rdi, r8] = reply.values;
            for (index, value) in
                [reply.status, rdx, rsi, rdi, r8, reply.broken].into_iter().enumerate()
            {
                boss.result(index, value);
            }
        }
        orders::SPIN => loop {
            page.word(BEAT).fetch_add(1, Ordering::Relaxed);
        },
        orders::WAIT => calls::wait_for_boss(boss, a),
        orders::COUNT => calls::count(boss),
        orders::FAULT_AT => calls::fault_at(a),
        orders::DIRTY => life::dirty(),
        orders::GAPS => timing::gaps(boss, a, b, c),
        orders::LATENESS => timing::lateness(boss, a, b),
        orders::HOG => timing::hog(boss, a, b, c),
        orders::FPU_HOLD => fpu::hold(boss, a, b),
        orders::FPU_LOAD => fpu::load_seed(a),
        orders::FPU_LOOK => boss.result(0, fpu::differences(a)),
        orders::IRQ_CYCLE => irq::cycle(boss),
        orders::IRQ_STORM => irq::storm(boss),
        orders::IRQ_PACED => irq::paced(boss, a, b),
        orders::FUZZ => calls::fuzz(boss, a),
        orders::HARMLESS => instructions::harmless(boss),
        order if order >= orders::FAULT => faults::commit(boss, order - orders::FAULT),
        // An order of another version: the supervisor sees no answer but this one.
        _ => boss.result(0, u64::MAX),
    }
}

/// Sleeps until something is signalled that never is.
pub fn sleep_for_ever() -> ! {
    loop {
        raw::known(Call::Wait, 0, NEVER, 0);
    }
}
