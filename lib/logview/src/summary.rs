//! Counts of what a serial stream carried, per source.

use std::collections::BTreeMap;
use std::fmt;

/// Counts for one source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames that arrived whole.
    pub frames: u64,
    /// Frames that never arrived.
    pub lost: u64,
    /// Damaged frames, and frames that their ELF could not explain.
    pub corrupt: u64,
}

/// Counts for a whole stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// By name of the task, or `kernel`.
    pub sources: BTreeMap<String, Counts>,
    /// Damage that names no source.
    pub corrupt_elsewhere: u64,
    /// Lines of plain text.
    pub text_lines: u64,
}

impl Summary {
    /// The counts of one source, to be added to.
    pub(crate) fn of(&mut self, source: &str) -> &mut Counts {
        self.sources.entry(source.to_owned()).or_default()
    }

    /// Sums over all sources; damage that names no source is included.
    pub fn total(&self) -> Counts {
        let start = Counts { corrupt: self.corrupt_elsewhere, ..Counts::default() };
        self.sources.values().fold(start, |sum, counts| Counts {
            frames: sum.frames + counts.frames,
            lost: sum.lost.saturating_add(counts.lost),
            corrupt: sum.corrupt + counts.corrupt,
        })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.total();
        write!(
            f,
            "{} frames, {} lost, {} corrupt, {} lines of text",
            total.frames, total.lost, total.corrupt, self.text_lines
        )?;
        for (source, counts) in &self.sources {
            if counts.lost > 0 || counts.corrupt > 0 {
                write!(f, "; {source}: {} lost, {} corrupt", counts.lost, counts.corrupt)?;
            }
        }
        Ok(())
    }
}
