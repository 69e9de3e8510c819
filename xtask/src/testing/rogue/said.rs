//! What a machine under attack says, and what its supervisor tells of refusals.
//!
//! Invariant: refusals belong to a batch by the time that each line names, because the rings of two
//! tasks are not shipped in that order.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::appliance::Decoder;
use crate::testing::inspect::Session;

/// What no machine may say while it is watched.
const BAD: [&str; 4] = ["FAILED", "panic", "fault:", "is given up"];
/// Ends a batch.
const BATCH: &str = "rogue: batch";

/// Reads a machine's lines.
pub struct Log {
    decoder: Decoder,
    /// How long any part may take, on a loaded host.
    patience: Duration,
    /// All lines so far.
    pub said: Said,
}

/// A machine's lines.
#[derive(Default)]
pub struct Said {
    lines: Vec<String>,
}

/// A batch of an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Accesses that the supervisor said were refused to the right function meanwhile.
    pub refused: u64,
    /// Attempts that the rogue says it has made by its end, if it says so.
    pub attempts: Option<u64>,
}

impl Log {
    /// A log without lines.
    pub fn new(decoder: Decoder, patience: Duration) -> Log {
        Log { decoder, patience, said: Said::default() }
    }

    /// Reads on until so many lines have a text in them.
    pub fn until(&mut self, session: &mut Session, text: &str, count: usize) -> Result<()> {
        let end = Instant::now() + self.patience;
        let mut found = self.said.lines.iter().filter(|line| line.contains(text)).count();
        while found < count {
            let left = end.saturating_duration_since(Instant::now());
            let bytes = session.serial(left);
            let last = || self.said.lines.last().cloned().unwrap_or_default();
            let bytes =
                bytes.with_context(|| format!("no line has `{text}`; the last: {}", last()))?;
            let lines = self.decoder.feed(&bytes).into_iter().map(|line| line.text);
            for line in lines {
                found += usize::from(line.contains(text));
                let is_bad = found < count && BAD.iter().any(|bad| line.contains(bad));
                ensure!(!is_bad, "before `{text}`: {line}");
                self.said.lines.push(line);
            }
        }
        Ok(())
    }
}

impl Said {
    /// Whether a line has a text in it.
    pub fn has(&self, text: &str) -> bool {
        self.lines.iter().any(|line| line.contains(text))
    }

    /// The batches; `source` is the rogue's function as the supervisor writes it.
    pub fn batches(&self, source: &str) -> Vec<Batch> {
        let refused = format!("rogue: its device {source} may not ");
        let mut events: Vec<(u64, &String)> = self
            .lines
            .iter()
            .filter(|line| line.contains(BATCH) || line.contains(&refused))
            .filter_map(|line| Some((time(line)?, line)))
            .collect();
        events.sort_by_key(|(time, _)| *time);
        let (mut batches, mut count) = (Vec::new(), 0);
        for (_, line) in events {
            if line.contains(BATCH) {
                let attempts = number_before(line, " attempts");
                batches.push(Batch { refused: count, attempts });
                count = 0;
            } else {
                count += number_before(line, " accesses").unwrap_or(0);
            }
        }
        batches
    }

    /// Changed pages, as their owners count them.
    pub fn told(&self) -> u64 {
        let lines = self.lines.iter().filter(|line| line.contains("pages changed"));
        lines.filter_map(|line| number_before(line, " of ")).sum()
    }
}

/// The number that stands before the last occurrence of a text.
fn number_before(line: &str, text: &str) -> Option<u64> {
    let (head, _) = line.rsplit_once(text)?;
    head.rsplit(' ').next()?.parse().ok()
}

/// The time at the beginning of a line, in microseconds.
fn time(line: &str) -> Option<u64> {
    let (seconds, _) = line.strip_prefix('[')?.split_once(']')?;
    seconds.trim().replace('.', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{Batch, Said, time};

    #[test]
    fn a_refusal_belongs_to_its_time_and_not_to_its_place_in_the_stream() {
        let batch =
            |at: &str| format!("[   {at}] c1  rogue  INFO  rogue: batch is over, 7 attempts");
        let refusal = |at: &str, source: &str| {
            format!(
                "[   {at}] c0  supervisor  ERROR  rogue: its device {source} may not read 0x1000; \
                 the IOMMU refused 3 accesses (the last one for reason 0x6)"
            )
        };
        assert_eq!(time(&batch("12.345678")), Some(12_345_678));
        let counted = |lines: &[String]| {
            let batches = Said { lines: lines.to_vec() }.batches("01:00.0");
            batches.iter().map(|batch| batch.refused).collect::<Vec<_>>()
        };
        let (own, other) = (|at| refusal(at, "01:00.0"), |at| refusal(at, "01:00.1"));
        let lines = [own("1.000000"), own("1.600000"), batch("1.900000"), batch("3.100000")];
        assert_eq!(counted(&lines), [6, 0]);
        assert_eq!(counted(&[&lines[..], &[own("2.500000")]].concat()), [6, 3]);
        assert_eq!(counted(&[other("1.000000"), batch("1.900000")]), [0], "another function");
        let said = Said { lines: lines[2..3].to_vec() };
        assert_eq!(said.batches("01:00.0"), [Batch { refused: 0, attempts: Some(7) }]);
    }
}
