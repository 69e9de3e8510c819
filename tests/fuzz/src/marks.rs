//! Places that a target has come to: what stands in for a view of the code's branches.
//!
//! [`mark`] is called by targets, the rest by the engine. Invariant: marks belong to their thread,
//! so targets that run at once in several do not see each other's.

use std::cell::RefCell;
use std::collections::BTreeMap;

/// How often each place was come to.
pub(crate) type Marks = BTreeMap<&'static str, u64>;

thread_local! {
    static MARKS: RefCell<Marks> = const { RefCell::new(Marks::new()) };
}

/// Says that the target has come here.
pub fn mark(place: &'static str) {
    MARKS.with_borrow_mut(|marks| *marks.entry(place).or_default() += 1);
}

/// Takes what was marked in this thread since the last time.
pub(crate) fn take() -> Marks {
    MARKS.take()
}
