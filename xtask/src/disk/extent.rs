//! Pieces of files: copied and hashed without filling their holes.
//!
//! A disk of gigabytes is mostly a hole in its file, and stays one. Neighbours: `make`, which puts
//! a root filesystem into a volume, and `check`, which takes a volume out again.

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::{SeekFrom, seek};
use sha2::{Digest, Sha256};

/// What is copied or hashed at a time.
const CHUNK: usize = 1 << 20;

/// The parts of a range of a file that are not holes, in order.
pub fn filled(file: &File, range: Range<u64>) -> Result<Vec<Range<u64>>> {
    let mut parts = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start.min(range.end),
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error).context("cannot find the holes of a file"),
        };
        if start == range.end {
            break;
        }
        let end = seek(file, SeekFrom::Hole(start)).context("cannot find the holes of a file")?;
        at = end.min(range.end);
        parts.push(start..at);
    }
    Ok(parts)
}

/// Copies a range of one file to an offset of another, whose bytes there are zeros before.
pub fn copy(from: &File, range: Range<u64>, to: &File, at: u64) -> Result<()> {
    let base = range.start;
    let mut buffer = vec![0; CHUNK];
    for part in filled(from, range)? {
        let mut place = part.start;
        while place < part.end {
            let piece = piece(&mut buffer, part.end - place);
            from.read_exact_at(piece, place).context("cannot read a piece of a disk")?;
            if piece.iter().any(|byte| *byte != 0) {
                to.write_all_at(piece, at + (place - base))
                    .context("cannot write a piece of a disk")?;
            }
            place += piece.len() as u64;
        }
    }
    Ok(())
}

/// The hash of a range of a file, in hexadecimal.
pub fn sha256(file: &File, range: Range<u64>) -> Result<String> {
    let mut hash = Sha256::new();
    read(file, range, |bytes| {
        hash.update(bytes);
        Ok(())
    })?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Writes a range of a file into a new file, holes included.
pub fn extract(file: &File, range: Range<u64>, into: &Path) -> Result<()> {
    let complaint = || format!("cannot write {}", into.display());
    let fresh = File::create(into).with_context(complaint)?;
    fresh.set_len(range.end - range.start).with_context(complaint)?;
    copy(file, range, &fresh, 0)
}

/// Hands a range of a file over in chunks.
pub fn read(
    file: &File,
    range: Range<u64>,
    mut take: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let len = file.metadata().context("cannot read a disk's size")?.len();
    if range.end > len || range.start > range.end {
        bail!("a range up to byte {} in a file of {len} bytes", range.end);
    }
    let mut buffer = vec![0; CHUNK];
    let mut place = range.start;
    while place < range.end {
        let piece = piece(&mut buffer, range.end - place);
        file.read_exact_at(piece, place).context("cannot read a piece of a disk")?;
        take(piece)?;
        place += piece.len() as u64;
    }
    Ok(())
}

/// The front of the buffer, at most that long.
fn piece(buffer: &mut [u8], left: u64) -> &mut [u8] {
    let len = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
    &mut buffer[..len]
}

/// A whole file's hash, in hexadecimal.
pub fn sha256_of(path: &Path) -> Result<String> {
    let complaint = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(complaint)?;
    let len = file.metadata().with_context(complaint)?.len();
    sha256(&file, 0..len)
}

/// Writes a file beside its place and renames it, so that it is whole or absent.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let complaint = || format!("cannot write {}", path.display());
    let folder = path.parent().with_context(complaint)?;
    std::fs::create_dir_all(folder).with_context(complaint)?;
    let mut fresh = tempfile::NamedTempFile::new_in(folder).with_context(complaint)?;
    fresh.write_all(bytes).with_context(complaint)?;
    fresh.persist(path).with_context(complaint).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of 8 MiB with one byte at 3 MiB.
    fn sparse() -> File {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(8 << 20).expect("a size");
        file.write_all_at(b"x", 3 << 20).expect("written");
        file
    }

    #[test]
    fn holes_stay_holes() {
        use std::os::unix::fs::MetadataExt;
        let (from, to) = (sparse(), tempfile::tempfile().expect("a file"));
        to.set_len(16 << 20).expect("a size");
        copy(&from, 2 << 20..8 << 20, &to, 4 << 20).expect("copied");
        let mut byte = [0];
        to.read_exact_at(&mut byte, 5 << 20).expect("read");
        assert_eq!(byte, *b"x", "3 MiB of one is 5 MiB of the other");
        let blocks = to.metadata().expect("metadata").blocks();
        assert!(blocks * 512 <= 2 << 20, "{blocks} blocks are filled");
    }

    #[test]
    fn a_hash_is_of_the_range_alone() {
        let file = sparse();
        let empty = sha256(&file, 0..1 << 20).expect("a hash");
        assert_eq!(empty, sha256(&file, 4 << 20..5 << 20).expect("a hash"));
        assert_ne!(empty, sha256(&file, 3 << 20..4 << 20).expect("a hash"));
        assert_eq!(&sha256(&file, 0..0).expect("of nothing")[..8], "e3b0c442");
        assert!(sha256(&file, 0..9 << 20).is_err(), "behind the end");
    }

    #[test]
    fn a_piece_that_is_taken_out_is_the_same() {
        let (file, folder) = (sparse(), tempfile::tempdir().expect("a folder"));
        let out = folder.path().join("out");
        extract(&file, 2 << 20..6 << 20, &out).expect("extracted");
        let inside = sha256(&file, 2 << 20..6 << 20).expect("a hash");
        assert_eq!(sha256_of(&out).expect("a hash"), inside);
    }
}
