//! A fuzz target: guests' files, which come from anywhere, read on the host that builds the image.
//!
//! An input is a good file with damage: bytes changed, cut off or put in. Rules: the loader refuses
//! it with a message that names the guest file, or lays it out; and then the image is one that the
//! start code unpacks inside the guest's RAM (`sample::started` is strict about that). Driven by
//! the engine of `tests/fuzz`; the other targets are there.

use std::path::{Path, PathBuf};

use cloister_fuzz::engine::{Place, check};
use cloister_fuzz::{Input, Target, mark};
use tempfile::TempDir;

use super::super::file::{GuestFile, Kind};
use super::super::layout::{Entry, Layout, Piece};
use super::super::{program, pvh, sample};
use super::{Request, bzimage, layout};
use crate::image::elf::Elf;

const TARGET: Target = Target {
    name: "guest_files",
    run,
    inputs: 2_500,
    len_max: 64,
    reaches: &["64-bit entry", "PVH entry", "Linux", "refused", "guest file refused"],
    words: &[],
};

#[test]
fn guest_files() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let (corpus, saved) =
        (root.join("tests/fuzz/corpus/guest_files"), root.join("target/tmp/fuzz"));
    let command = "cargo test -p xtask guest_files";
    check(&TARGET, &Place { corpus: &[corpus], saved: &saved, command });
}

/// Does what the bytes say.
fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    match input.byte() & 3 {
        0 | 1 => elf(&mut input),
        2 => linux(&mut input),
        _ => guest_file(&mut input),
    }
}

/// A good file with damage.
fn damaged(mut file: Vec<u8>, input: &mut Input<'_>) -> Vec<u8> {
    while !input.is_empty() && !file.is_empty() {
        let kind = input.byte();
        // Headers are at the front; what is behind them is hit less often.
        let at = if kind & 8 == 0 { u16::from(input.byte()) } else { input.short() };
        let at = usize::from(at) % file.len();
        match kind & 7 {
            0..3 => file[at] = input.byte(),
            3 => file[at] ^= 1 << (kind >> 5),
            4 => {
                let value = input.value().to_le_bytes();
                file.iter_mut().skip(at & !7).zip(value).for_each(|(byte, new)| *byte = new);
            }
            5 => drop(file.splice(at..at, input.take(8).to_vec())),
            6 => drop(file.drain(at..file.len().min(at + 1 + usize::from(kind >> 4)))),
            _ => file.truncate(file.len() - at % 64),
        }
    }
    file
}

fn elf(input: &mut Input<'_>) {
    let file = damaged(sample::program(), input);
    let Ok(elf) = Elf::parse("x.elf", file) else { return mark("refused") };
    let request = sample::request();
    for layout in [pvh::layout(&elf, &request), program::layout(&elf, request.memory)] {
        judge(layout, "x.elf");
    }
}

/// A kernel by the whole way from a guest file, without an initramfs.
fn linux(input: &mut Input<'_>) {
    let kernel = if input.flag() { bzimage::tests::sample() } else { sample::program() };
    let folder = folder("format = 1\nkind = \"linux\"\nkernel = \"path:kernel\"\n".as_bytes());
    std::fs::write(folder.path().join("kernel"), damaged(kernel, input)).expect("a kernel");
    let path = folder.path().join("guest.toml");
    let file = GuestFile::read(&path).expect("a good guest file");
    let Kind::Linux(linux) = &file.kind else { panic!("{:?}", file.kind) };
    let request = Request { guest_file: Path::new("guest.toml"), ..sample::request() };
    if judge(layout(&file, linux, &request), "guest.toml") {
        mark("Linux");
    }
}

/// Any text as the guest file.
fn guest_file(input: &mut Input<'_>) {
    let good = "format = 1\nkind = \"elf\"\npath = \"x.elf\"\nentry = \"pvh\"\n";
    let folder = folder(&damaged(good.as_bytes().to_vec(), input));
    if let Err(error) = GuestFile::read(&folder.path().join("guest.toml")) {
        let text = format!("{error:#}");
        assert!(text.contains("guest.toml"), "which file? {text}");
        mark("guest file refused");
    }
}

fn folder(guest: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("guest.toml"), guest).expect("a guest file");
    folder
}

/// A refusal says something; a layout makes an image that unpacks. Whether it is one.
fn judge(layout: anyhow::Result<Layout>, name: &str) -> bool {
    let image = layout.and_then(|layout| Ok((layout.render(&[0x90; 64])?, layout)));
    let (image, layout) = match image {
        Ok(both) => both,
        Err(error) => {
            let text = format!("{error:#}");
            assert!(!text.is_empty() && !text.starts_with(char::is_uppercase), "{name}: {text}");
            mark("refused");
            return false;
        }
    };
    let (header, ram) = sample::started(&image);
    let place = match layout.start.entry {
        Entry::Bits64 { at, .. } => {
            mark("64-bit entry");
            at
        }
        Entry::Bits32(at) => {
            mark("PVH entry");
            u64::from(at)
        }
    };
    let len = |piece: &Piece| piece.len.max(piece.bytes.len() as u64);
    let pieces = layout.pieces.iter().filter(|piece| len(piece) != 0);
    let mut all: Vec<_> = pieces.map(|piece| (piece.to, piece.to + len(piece))).collect();
    all.sort_unstable();
    assert!(all.windows(2).all(|pair| pair[0].1 <= pair[1].0), "pieces lie over each other");
    let executable = layout.pieces.iter().filter(|piece| piece.is_executable);
    let mut ranges = executable.map(|piece| piece.to..piece.to + piece.len);
    assert!(ranges.any(|range| range.contains(&place)), "an entry at {place:#x} is no code");
    assert!(header.argument < ram.len() as u64 + 1, "an argument outside of RAM");
    true
}
