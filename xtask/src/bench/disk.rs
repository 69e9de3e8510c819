//! What the host side executes for a read of one block from an NVMe disk: memory direct, by way of
//! a window, and of an encrypted volume.
//!
//! Every instruction of a window of time is seen (`trace`). The micro-guest calls functions between
//! requests; what lies between two calls is a known number of them. The appliances have the driver
//! (with the broker, where there is one) on a core of its own, and the monitor with its guest on
//! another; that is how ring 3 is split. When the disk ends a request is up to the host's clock, so
//! a value is the median of [`WINDOWS`] windows, the middle half of which differ by no more
//! than [`SPREAD`].

use anyhow::{Context, Result, bail, ensure};

use super::Bench;
use super::trace::{Log, Piece, watch};
use crate::install::say;
use crate::numbers::Values;

/// A read with memory direct.
pub const DIRECT: &[&str] = &[
    "blk_read_4k_qd1",
    "blk_read_4k_qd1_kernel",
    "blk_read_4k_qd1_monitor",
    "blk_read_4k_qd1_driver",
    "blk_read_4k_qd32",
    "blk_read_4k_qd32_kernel",
    "blk_read_4k_qd32_monitor",
    "blk_read_4k_qd32_driver",
];
/// By way of a window.
pub const WINDOW: &[&str] = &["blk_read_4k_qd32_window"];
/// Of an encrypted volume; what it takes besides its cipher, in thousandths of a plain one.
pub const SEALED: &[&str] = &["blk_read_4k_qd32_sealed", "blk_sealed_ratio"];
/// What the cipher takes.
const CIPHER: &str = "aes_xts_4k";
/// The appliances.
const APPLIANCES: [&str; 3] = ["bench-disk", "bench-disk-window", "bench-disk-sealed"];
/// Windows, and by how many thousandths of the median the quartiles may differ.
const WINDOWS: usize = 10;
const SPREAD: u64 = 20;
/// The depths, and requests between two marks (`tests/guest/disk/src/bench`).
const DEPTHS: [&str; 2] = ["one at a time", "32 in flight"];
const BETWEEN: [u64; 2] = [1, 64];
/// Parts of a value: all, kernel, monitor, driver.
const PARTS: usize = 4;
/// Least pieces between marks of a window.
const PIECES_MIN: usize = 8;

/// For each depth all, kernel, monitor and driver.
type Read = [[u64; PARTS]; 2];

/// Memory direct.
pub fn direct(bench: &Bench) -> Result<Values> {
    let values = windows(bench, APPLIANCES[0], WINDOWS)?;
    let named = DIRECT.iter().zip(values.as_flattened());
    Ok(named.map(|(key, value)| ((*key).to_owned(), *value)).collect())
}

/// By way of a window.
pub fn window(bench: &Bench) -> Result<Values> {
    let [_, [all, ..]] = windows(bench, APPLIANCES[1], WINDOWS)?;
    Ok(Values::from([(WINDOW[0].to_owned(), all)]))
}

/// An encrypted volume, compared with a plain one.
pub fn sealed(bench: &Bench) -> Result<Values> {
    let [_, [sealed, ..]] = windows(bench, APPLIANCES[2], WINDOWS)?;
    let [_, [plain, ..]] = windows(bench, APPLIANCES[0], WINDOWS)?;
    let cipher = super::cipher(bench)?;
    let cipher = cipher.get(CIPHER).copied().context("the cipher was not measured")?;
    let rest = sealed.checked_sub(cipher).context("a request takes less than its cipher")?;
    say(&format!("  {rest} besides the cipher's {cipher}, {plain} of a plain request"));
    let ratio = (rest * 1000).div_ceil(plain.max(1));
    Ok(SEALED.iter().map(|key| (*key).to_owned()).zip([sealed, ratio]).collect())
}

/// The medians of so many windows.
fn windows(bench: &Bench, appliance: &str, count: usize) -> Result<Read> {
    let built = bench.appliance(appliance)?;
    let mut all = [const { [const { Vec::new() }; PARTS] }; 2];
    for number in 1..=count {
        let found = watch(bench, &built, b"", pieces)?;
        for (depth, pieces) in found.iter().enumerate() {
            let pieces_found = pieces.len();
            ensure!(
                pieces_found >= PIECES_MIN,
                "a window of images/{appliance} has {pieces_found} pieces only; it began too late"
            );
            for (part, medians) in all[depth].iter_mut().enumerate() {
                let mut values: Vec<u64> = pieces.iter().map(|piece| piece.parts()[part]).collect();
                medians.push(median(&mut values).div_ceil(BETWEEN[depth]));
            }
        }
        let told = all.each_ref().map(|depth| depth[0][number - 1]);
        say(&format!(
            "  window {number} of {count}: {} {}, {} {}",
            told[0], DEPTHS[0], told[1], DEPTHS[1]
        ));
    }
    let mut medians = [[0; PARTS]; 2];
    for (depth, parts) in all.iter_mut().enumerate() {
        for (part, values) in parts.iter_mut().enumerate() {
            let median = median(values);
            // Some windows of a busy host have a disk that answers at other moments. A part may be a
            // few instructions, where one more is much.
            let middle = values[count * 3 / 4] - values[count / 4];
            if part == 0 && middle * 1000 > SPREAD * median {
                bail!(
                    "{}: windows differ by more than {} %: {values:?}",
                    DEPTHS[depth],
                    SPREAD / 10
                );
            }
            medians[depth][part] = median;
        }
        let [all, kernel, monitor, driver] = medians[depth];
        say(&format!(
            "  images/{appliance}, {}: {all} ({} to {}); kernel {kernel}, monitor {monitor}, \
             driver {driver}",
            DEPTHS[depth],
            parts[0][0],
            parts[0][count - 1],
        ));
    }
    Ok(medians)
}

/// The upper median; sorts.
fn median(values: &mut [u64]) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

/// The pieces between two marks of the same kind.
fn pieces(log: Log<'_>) -> Result<[Vec<Piece>; 2]> {
    let mut found = [Vec::new(), Vec::new()];
    let marks = log.marks;
    let (mut kind, mut piece) = (None, Piece::default());
    for step in log {
        let step = step?;
        let mark = marks.iter().position(|mark| step.is_guest() && *mark == step.at);
        if let Some(now) = mark {
            if kind == Some(now) {
                found[now].push(piece);
            }
            (kind, piece) = (Some(now), Piece::default());
        }
        piece.count(&step);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::pieces;
    use crate::bench::trace::{Log, Piece, lines};

    #[test]
    fn pieces_lie_between_marks_of_a_kind_and_a_guest_counts_nowhere() {
        const GUEST: u64 = 1 << 21;
        let steps = [
            (1, 7, 3),       // before the first mark
            (2, 100, GUEST), // a mark
            (1, 7, 3),
            (1, 8, 3),
            (1, 9, 0),
            (2, 9, 0),
            (2, 100, 3), // the monitor, at the mark's address
            (2, 101, GUEST),
            (0, 7, 3),
            (2, 100, GUEST | 3),
            (2, 9, 0),
            (2, 200, GUEST), // another kind: what came before is no piece
            (2, 200, GUEST),
        ];
        let found = pieces(Log::new(lines(&steps).as_bytes(), [100, 200])).unwrap();
        let piece = Piece { kernel: 2, monitor: 1, driver: 2, other: 1 };
        assert_eq!(found, [vec![piece], vec![Piece::default()]]);
        assert_eq!(piece.parts(), [6, 2, 1, 2]);
    }
}
