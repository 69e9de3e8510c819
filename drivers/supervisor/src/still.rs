//! A virtual machine that was stopped: its memory is left alone.
//!
//! What the workers of its devices had in flight would go on to its end in the memory of a machine
//! that stands. So the supervisor gives each of them the order to reset its device, in the parked
//! monitor's place (`lib/virtio`, `wire`), and the machine counts as stopped when all have answered.
//! The monitor's next life finds that order in the page and gives one of its own.
//! Invariant: a page is written only while its monitor is at rest, and nobody is waited for.

use core::sync::atomic::Ordering;

use cloister_rt::grants;
use cloister_rt::proto::policy::{DEVICE_ANSWER, DEVICE_GONE, DEVICE_LIVE, DEVICE_ORDER};

/// Orders the devices of a machine whose monitor is at rest to stop.
pub fn order(vm: &'static str) {
    for (page, worker) in grants().devices_for(vm) {
        if let Some(word) = page.words().get(DEVICE_ORDER) {
            // Orders count up; the next one that is not live. A worker that forges the word misses
            // an order, and could as well answer one that it does not follow.
            let next = (word.load(Ordering::Relaxed) | DEVICE_LIVE).wrapping_add(1);
            word.store(next, Ordering::Release);
            worker.wake();
        }
    }
}

/// Whether each of them has answered, or has no worker any more.
pub fn is_still(vm: &'static str) -> bool {
    grants().devices_for(vm).all(|(page, _)| {
        // Acquire: what a worker did to the machine's memory it did before its answer.
        let load = |place: usize| page.words().get(place).map(|word| word.load(Ordering::Acquire));
        load(DEVICE_GONE) != Some(0) || load(DEVICE_ANSWER) == load(DEVICE_ORDER)
    })
}
