//! Test task: has memory full of canaries, and says whether they are what they were, once the judge
//! outside the machine wants to know (`rogue-core`).

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use cloister_rt::{Duration, Instant, grants, sleep_until};
use rogue_core::Owner;

cloister_rt::entry!(main);

/// The owner's number among those of the appliance.
const NUMBER: u64 = 1;
/// Between two looks at what the judge wants.
const PAUSE: Duration = Duration::from_millis(100);

fn main() -> u32 {
    let Ok(memory) = grants().shared("canaries") else { return 2 };
    let owner = Owner::new(memory.words(), NUMBER);
    defmt::info!("canaries of owner {=u64}: {=u64} pages stand", NUMBER, owner.count());
    while !owner.is_asked() {
        sleep_until(Instant::now() + PAUSE);
    }
    let (count, changed) = (owner.count(), owner.changed());
    defmt::info!(
        "canaries of owner {=u64}: {=u64} of {=u64} pages changed",
        NUMBER,
        changed,
        count
    );
    0
}
