//! What a person wants of a supervisor that does not take it yet.
//!
//! Console and supervisor start side by side, and a key may be faster than their first meeting. So
//! what was typed waits for a moment instead of being typed again. Invariant: in the order of
//! typing, and nothing waits beyond its time.

use heapless::Deque;

/// Most that waits: somebody who types more sees that nobody takes it.
pub const HELD_MAX: usize = 4;

/// What waits, each with the time at which it is given up.
#[derive(Debug)]
pub struct Held<T> {
    waiting: Deque<(T, u64), HELD_MAX>,
}

impl<T> Default for Held<T> {
    fn default() -> Self {
        Held { waiting: Deque::new() }
    }
}

impl<T> Held<T> {
    /// Lets something wait until `until`. `false`: there is no room.
    pub fn push(&mut self, what: T, until: u64) -> bool {
        self.waiting.push_back((what, until)).is_ok()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Offers the oldest one after the other, until one is not taken. How many were given up because
    /// their time has passed.
    pub fn offer(&mut self, now: u64, mut is_taken: impl FnMut(&T) -> bool) -> usize {
        let mut given_up = 0;
        while let Some((what, until)) = self.waiting.front() {
            if is_taken(what) {
                self.waiting.pop_front();
            } else if now >= *until {
                self.waiting.pop_front();
                given_up += 1;
            } else {
                break;
            }
        }
        given_up
    }
}

#[cfg(test)]
mod tests {
    use super::{HELD_MAX, Held};

    #[test]
    fn what_waits_is_taken_in_order_once() {
        let mut held = Held::default();
        assert!(held.push('a', 10) && held.push('b', 10));
        assert_eq!(held.offer(1, |_| false), 0);
        let mut taken = Vec::new();
        let mut only_one = |what: &char| {
            let is_taken = taken.is_empty();
            taken.extend(is_taken.then_some(*what));
            is_taken
        };
        assert_eq!(held.offer(2, &mut only_one), 0);
        assert_eq!(taken, ['a']);
        assert_eq!(held.offer(3, |what| *what == 'b'), 0);
        assert!(held.is_empty());
    }

    #[test]
    fn all_that_is_taken_goes_at_once() {
        let mut held = Held::default();
        assert!(held.push('a', 10) && held.push('b', 10));
        assert_eq!(held.offer(1, |_| true), 0);
        assert!(held.is_empty());
    }

    #[test]
    fn what_nobody_takes_in_time_is_given_up_and_counted() {
        let mut held = Held::default();
        assert!(held.push('a', 10) && held.push('b', 11));
        assert_eq!(held.offer(10, |_| false), 1);
        // One that is taken at the last moment is not lost.
        assert_eq!(held.offer(11, |what| *what == 'b'), 0);
        assert!(held.is_empty());
    }

    #[test]
    fn there_is_an_end_to_what_waits() {
        let mut held = Held::default();
        assert!((0..HELD_MAX).all(|number| held.push(number, 1)));
        assert!(!held.push(HELD_MAX, 1));
        assert_eq!(held.offer(1, |_| false), HELD_MAX);
    }
}
