//! What ran where, and how it ended: one line for each emulator, the sum last.

use std::fmt::Write;

/// How one test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As expected.
    Passed,
    /// Not as expected.
    Failed,
    /// Not run, and said so.
    Skipped,
}

/// Passed, failed, skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// As expected.
    pub passed: u64,
    /// Not as expected.
    pub failed: u64,
    /// Not run.
    pub skipped: u64,
}

/// The counts of each place where tests run, in order of first use.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    places: Vec<(String, Counts)>,
}

impl Tally {
    /// Makes a place known even if nothing runs there.
    pub fn place(&mut self, place: &str) -> &mut Counts {
        let known = self.places.iter().position(|(name, _)| name == place);
        let index = known.unwrap_or_else(|| {
            self.places.push((place.to_owned(), Counts::default()));
            self.places.len() - 1
        });
        &mut self.places[index].1
    }

    /// Counts one test.
    pub fn add(&mut self, place: &str, verdict: Verdict) {
        let counts = self.place(place);
        match verdict {
            Verdict::Passed => counts.passed += 1,
            Verdict::Failed => counts.failed += 1,
            Verdict::Skipped => counts.skipped += 1,
        }
    }

    /// How many ran in a place.
    pub fn run_in(&self, place: &str) -> u64 {
        let found = self.places.iter().find(|(name, _)| name == place);
        found.map_or(0, |(_, counts)| counts.passed + counts.failed)
    }

    /// The sum over all places.
    pub fn total(&self) -> Counts {
        self.places.iter().fold(Counts::default(), |sum, (_, counts)| Counts {
            passed: sum.passed + counts.passed,
            failed: sum.failed + counts.failed,
            skipped: sum.skipped + counts.skipped,
        })
    }

    /// The closing lines; the last is the sum alone.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for (place, counts) in &self.places {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{place}: {}", counts.render());
        }
        text + &self.total().render()
    }
}

impl Counts {
    fn render(&self) -> String {
        format!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::{Tally, Verdict};

    #[test]
    fn the_last_line_is_the_sum_alone() {
        let mut tally = Tally::default();
        tally.add("host", Verdict::Passed);
        tally.place("qemu-7.2");
        tally.add("qemu-10.0", Verdict::Failed);
        tally.add("qemu-10.0", Verdict::Skipped);
        assert_eq!(
            tally.render(),
            "host: 1 passed, 0 failed, 0 skipped\nqemu-7.2: 0 passed, 0 failed, 0 skipped\n\
             qemu-10.0: 0 passed, 1 failed, 1 skipped\n1 passed, 1 failed, 1 skipped"
        );
        assert_eq!((tally.run_in("qemu-7.2"), tally.run_in("qemu-10.0")), (0, 1));
    }
}
