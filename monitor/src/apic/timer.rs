//! The countdown of a local APIC (Intel SDM volume 3, "APIC Timer").
//!
//! [`Timer`] knows when it expires and what it counts, in ticks of the host's time stamp counter
//! that it is told; `apic` owns it and makes an interrupt of an expiry.
//!
//! Invariant: expiries of a periodic countdown lie at whole multiples of the period behind its
//! start, however late anybody looks at one; a late one delays only a next one that would follow
//! within [`GAP`], and several that nobody looked at are one.

use cloister_guest_abi::cpuid::APIC_TIMER_HZ;

use crate::scale::Scale;

/// Two expiries of a periodic countdown are at least so many timer ticks apart, 4 µs, whatever the
/// guest asks for: its own instructions must be able to run between them.
const GAP: u64 = APIC_TIMER_HZ / 250_000;

/// Mode: the countdown begins again at its end; in mode 0 it stops.
pub(super) const PERIODIC: u32 = 1;
/// Mode: there is no countdown but a deadline. The one above is reserved and counts nothing.
pub(super) const DEADLINE: u32 = 2;

/// The registers behind the timer and the expiry that follows from them.
#[derive(Clone, Debug, Default)]
pub(super) struct Timer {
    to_ticks: Scale,
    to_apic: Scale,
    /// The divide configuration register.
    pub(super) divide: u32,
    /// The initial-count register; 0 while there is a deadline.
    pub(super) initial: u32,
    /// The deadline register, in the guest's own time; 0 when it is not armed.
    pub(super) guest_deadline: u64,
    /// Where the countdown began.
    origin: u64,
    /// The next expiry, in undivided timer ticks behind the origin.
    due: u64,
    /// The same in host ticks; `None` when nothing is counted.
    pub(super) expiry: Option<u64>,
}

impl Timer {
    /// A stopped timer on a host whose time stamp counter has this frequency.
    pub(super) fn new(tsc_hz: u64) -> Timer {
        let to_ticks = Scale::new(APIC_TIMER_HZ, tsc_hz);
        Timer { to_ticks, to_apic: Scale::new(tsc_hz, APIC_TIMER_HZ), ..Timer::default() }
    }

    /// Stops whatever is counted and forgets the registers that started it.
    pub(super) fn stop(&mut self) {
        (self.initial, self.guest_deadline, self.expiry) = (0, 0, None);
    }

    /// Starts a countdown; 0 stops it.
    pub(super) fn start(&mut self, count: u32, now: u64) {
        self.initial = count;
        self.count_from(count, now);
    }

    /// Changes the divider: what is left is counted at the new pace.
    pub(super) fn set_divide(&mut self, divide: u32, now: u64) {
        let left = self.current(now);
        self.divide = divide;
        if left != 0 {
            self.count_from(left, now);
        }
    }

    /// Arms the deadline at this host time, or disarms it; the register keeps the guest's value.
    pub(super) fn set_deadline(&mut self, guest_value: u64, host: u64) {
        self.guest_deadline = guest_value;
        self.expiry = (guest_value != 0).then_some(host);
    }

    /// What is left of the count. A deadline shows none.
    pub(super) fn current(&self, now: u64) -> u32 {
        let left = self.expiry.map_or(0, |expiry| self.to_apic.up(expiry.saturating_sub(now)));
        u32::try_from(left.div_ceil(self.ticks_of(1))).unwrap_or(u32::MAX).min(self.initial)
    }

    /// Goes past an expiry; whether there was one.
    #[inline]
    pub(super) fn expire(&mut self, mode: u32, now: u64) -> bool {
        let has_expired = self.expiry.is_some_and(|expiry| now >= expiry);
        if has_expired && mode == PERIODIC {
            self.advance(now);
        } else if has_expired {
            (self.guest_deadline, self.expiry) = (0, None);
        }
        has_expired
    }

    /// Finds the first expiry that is still to come. Those in between are lost, as they are on a
    /// CPU that does not take its interrupts in time.
    fn advance(&mut self, now: u64) {
        let period = self.ticks_of(self.initial).max(1);
        let gone = self.to_apic.down(now.saturating_sub(self.origin));
        let missed = gone.saturating_sub(self.due).checked_div(period).unwrap_or(0);
        self.due = self.due.saturating_add(missed.saturating_add(1).saturating_mul(period));
        let earliest = now.saturating_add(self.to_ticks.down(GAP));
        let exact = self.origin.saturating_add(self.to_ticks.up(self.due));
        self.expiry = Some(exact.max(earliest));
    }

    /// Begins to count; from 0 there is nothing to count.
    #[inline]
    fn count_from(&mut self, count: u32, now: u64) {
        (self.origin, self.due) = (now, self.ticks_of(count));
        let expiry = now.saturating_add(self.to_ticks.up(self.due));
        self.expiry = (count != 0).then_some(expiry);
    }

    /// Undivided timer ticks of a count: the divider is 2 for an encoding of 0 and 1 for 7.
    fn ticks_of(&self, count: u32) -> u64 {
        let encoding = self.divide & 3 | self.divide >> 1 & 4;
        u64::from(count) << (encoding.wrapping_add(1) & 7)
    }
}
