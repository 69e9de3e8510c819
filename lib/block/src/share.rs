//! How much each client may have in flight: [`Sharing`].
//!
//! A disk's queue is a resource: whoever fills it first makes all others wait for all of that. So
//! each client that wants something has the same part of it, in requests and in bytes. One that is
//! alone has all; when a second one comes, the first begins nothing new until it is down to half.
//! Invariant: a client with nothing in flight may always begin one request.

use crate::engine::REQUESTS_MAX;

/// Most bytes that all clients together have in flight.
const BYTES_MAX: u64 = 4 << 20;

/// The share of each client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharing {
    requests: usize,
    bytes: u64,
}

impl Sharing {
    /// All of it.
    pub const ALONE: Sharing = Sharing { requests: REQUESTS_MAX, bytes: BYTES_MAX };

    /// The share of each of so many clients that want something.
    pub fn among(clients: usize) -> Sharing {
        let requests = REQUESTS_MAX.checked_div(clients).unwrap_or(REQUESTS_MAX);
        let parts = u64::try_from(clients).unwrap_or(u64::MAX);
        Sharing { requests, bytes: BYTES_MAX.checked_div(parts).unwrap_or(BYTES_MAX) }
    }

    /// Whether a client that has so much in flight may begin one more request.
    pub fn admits(&self, requests: usize, bytes: u64) -> bool {
        requests == 0 || (requests < self.requests && bytes < self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::Sharing;
    use crate::engine::REQUESTS_MAX;

    #[test]
    fn shares_are_equal_and_never_nothing() {
        assert!(Sharing::among(0).admits(REQUESTS_MAX - 1, 0));
        assert!(!Sharing::among(1).admits(REQUESTS_MAX, 0));
        assert!(!Sharing::among(2).admits(REQUESTS_MAX / 2, 0));
        assert!(Sharing::among(2).admits(REQUESTS_MAX / 2 - 1, 0));
        assert!(Sharing::among(usize::MAX).admits(0, u64::MAX));
        assert!(!Sharing::among(2).admits(1, 2 << 20));
    }
}
