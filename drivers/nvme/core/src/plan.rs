//! Where everything is in the memory that the driver shares with its controller: [`Plan`].
//!
//! First come four pages of the driver's own, the admin queue's two sides, a page for what the
//! controller says of itself and a page of zeros; then [`PAIR_PAGES`] pages for each pair of
//! queues. What is left is not the controller's: the driver has its buffers there.

/// Bytes of a page.
const PAGE: u64 = 4096;
/// Most pairs of queues for requests.
pub const PAIRS_MAX: usize = 4;
/// Most entries of a queue: as many as a page has room for on the submission side.
pub(crate) const ENTRIES_MAX: u16 = 64;
/// Bytes of a list of pages; there is one for each entry.
pub(crate) const LIST_BYTES: u64 = 512;
/// Pages before the pairs.
pub const OWN_PAGES: u64 = 4;
/// Pages of a pair: two queues, and a list for each entry.
pub const PAIR_PAGES: u64 = 10;
/// Least bytes of memory: one pair.
pub const MEMORY_MIN: u64 = OWN_PAGES.saturating_add(PAIR_PAGES).saturating_mul(PAGE);

/// Places in the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Pairs of queues that there is room for.
    pub pairs: usize,
}

impl Plan {
    /// For memory of so many bytes; `None` if that is too little.
    pub fn new(bytes: u64, pairs: usize) -> Option<Plan> {
        let room = (bytes / PAGE).checked_sub(OWN_PAGES)?.checked_div(PAIR_PAGES)?;
        let pairs = pairs.min(PAIRS_MAX).min(usize::try_from(room).ok()?);
        (pairs != 0).then_some(Plan { pairs })
    }

    /// The admin queue, both sides.
    pub(crate) const ADMIN: [u64; 2] = [0, PAGE];

    /// A page for answers to admin commands.
    pub(crate) const ANSWER: u64 = 2 * PAGE;

    /// A page of zeros.
    pub const ZEROS: u64 = 3 * PAGE;

    /// The pair of that number: submission side, completion side, lists.
    pub(crate) fn pair(&self, number: usize) -> [u64; 3] {
        let number = u64::try_from(number).unwrap_or(u64::MAX);
        let pages = number.saturating_mul(PAIR_PAGES).saturating_add(OWN_PAGES);
        let at = pages.saturating_mul(PAGE);
        [at, at.saturating_add(PAGE), at.saturating_add(2 * PAGE)]
    }

    /// Where the memory begins that is not the controller's.
    pub fn end(&self) -> u64 {
        let [end, ..] = self.pair(self.pairs);
        end
    }
}
