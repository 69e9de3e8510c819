//! Takes the function off the bus and puts it on it again, for as long as the system runs, as a
//! driver does that is killed again and again.

use cloister_rt::grants;

/// Turns between two lines of progress.
const MARK: u64 = 100;

pub fn run() -> u32 {
    let Ok(function) = grants().function() else { return 3 };
    for turn in 1.. {
        if function.device.begin_reset(false).is_err() || function.device.finish_reset().is_err() {
            defmt::error!("turn {=u64}: FAILED", turn);
            return 4;
        }
        if turn % MARK == 0 {
            defmt::info!("on the bus again, {=u64} times", turn);
        }
    }
    0
}
