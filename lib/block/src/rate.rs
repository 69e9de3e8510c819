//! What a client may do in a second: [`Rate`], two token buckets.
//!
//! One counts requests, the other bytes; either may be without bound. Credit grows with time up to
//! [`BURST_NS`] worth of it. A request is let in while the credit is not negative and may take it
//! below zero, so one that is larger than the burst is possible and is paid for afterwards.
//! Invariant: over any span of time no more is let in than rate × span plus one burst and one
//! request.

/// Length of the burst that a rate allows.
const BURST_NS: u64 = 20_000_000;
const NS_PER_SECOND: u64 = 1_000_000_000;

/// One bucket. Credit is kept as time: a unit costs `cost` nanoseconds / 2^[`SHIFT`].
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Price of a unit in nanoseconds, with [`SHIFT`] bits behind the binary point; 0: free.
    price: u64,
    /// The moment up to which everything is paid. Credit is what lies between it and now.
    paid: u64,
}

/// Bits behind the binary point of a price.
const SHIFT: u32 = 16;

impl Bucket {
    const fn new(per_second: Option<u64>) -> Bucket {
        let price = match per_second {
            None => 0,
            Some(units) => match (NS_PER_SECOND << SHIFT).checked_div(units) {
                // A price that rounds to nothing would be no bound at all.
                Some(0) => 1,
                Some(price) => price,
                // Nothing at all: the highest price.
                None => u64::MAX,
            },
        };
        Bucket { price, paid: 0 }
    }

    /// The moment from which on a request is let in.
    const fn opens(&self) -> u64 {
        if self.price == 0 { 0 } else { self.paid }
    }

    fn pay(&mut self, now: u64, units: u64) {
        if self.price == 0 {
            return;
        }
        let from = self.paid.max(now.saturating_sub(BURST_NS));
        // Rounded up: what a nanosecond is too little for would add up to more than the rate.
        let cost = u128::from(self.price).saturating_mul(u128::from(units)).div_ceil(1 << SHIFT);
        self.paid = from.saturating_add(u64::try_from(cost).unwrap_or(u64::MAX));
    }
}

/// The rate of a client. Times are nanoseconds of a clock that never goes back.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    requests: Bucket,
    bytes: Bucket,
}

impl Rate {
    /// No bounds.
    pub const UNBOUNDED: Rate = Rate::new(None, None);

    /// So many requests and bytes a second; `None` is no bound.
    pub const fn new(requests: Option<u64>, bytes: Option<u64>) -> Rate {
        Rate { requests: Bucket::new(requests), bytes: Bucket::new(bytes) }
    }

    /// Whether there is a bound at all: without one nobody need look at the clock.
    pub const fn is_bounded(&self) -> bool {
        self.requests.price != 0 || self.bytes.price != 0
    }

    /// The moment from which on the next request is let in; it may be past.
    pub fn opens(&self) -> u64 {
        self.requests.opens().max(self.bytes.opens())
    }

    /// Pays for a request of so many bytes that is let in now.
    pub fn pay(&mut self, now: u64, bytes: u64) {
        self.requests.pay(now, 1);
        self.bytes.pay(now, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::{BURST_NS, NS_PER_SECOND, Rate};
    use proptest::prelude::*;

    /// Lets in whatever may be let in, for so long, in steps.
    fn run(rate: &mut Rate, from: u64, ns: u64, step: u64, bytes: u64) -> (u64, u64) {
        let (mut count, mut now) = (0, from);
        while now < from + ns {
            while rate.opens() <= now {
                rate.pay(now, bytes);
                count += 1;
            }
            now += step;
        }
        (count, count * bytes)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_second_has_its_rate(
            iops in 10u64..100_000,
            rate in 100_000u64..1_000_000_000,
            bytes in 512u64..262_144,
            start in 0u64..1 << 40,
        ) {
            let mut both = Rate::new(Some(iops), Some(rate));
            let (count, sum) = run(&mut both, start, NS_PER_SECOND, 50_000, bytes);
            let burst = NS_PER_SECOND / BURST_NS;
            prop_assert!(count <= iops + iops / burst + 2, "{count} of {iops}");
            prop_assert!(sum <= rate + rate / burst + 2 * bytes, "{sum} of {rate}");
            let full = count + 2 >= iops - iops / burst || sum + 2 * bytes >= rate - rate / burst;
            prop_assert!(full, "{count} of {iops}, {sum} of {rate}");
        }
    }

    #[test]
    fn an_idle_client_saves_up_no_more_than_a_burst() {
        let mut rate = Rate::new(Some(1000), None);
        let (count, _) = run(&mut rate, 3600 * NS_PER_SECOND, 1, 1, 0);
        assert_eq!(count, 1000 * BURST_NS / NS_PER_SECOND + 1);
    }

    #[test]
    fn no_bound_never_closes() {
        let mut rate = Rate::UNBOUNDED;
        assert!(!rate.is_bounded());
        (0..1000).for_each(|_| rate.pay(5, u64::MAX));
        assert_eq!(rate.opens(), 0);
        assert!(Rate::new(Some(0), None).is_bounded());
    }

    #[test]
    fn a_rate_of_nothing_lets_in_one_and_no_more() {
        let mut rate = Rate::new(Some(0), None);
        rate.pay(0, 1);
        assert!(rate.opens() > 365 * 86_400 * NS_PER_SECOND / 1000);
    }
}
