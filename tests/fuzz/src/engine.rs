//! The engine: seeded inputs, bred from the corpus and from what came somewhere first.
//!
//! [`check`] is the door. A panic of the target is caught, its input made shorter (`shrink`), saved
//! as hex, and reported with the command that runs it again. The seed is fixed, so CI runs the
//! same inputs each time; `CLOISTER_SEED` sets another one, `CLOISTER_TEST_LONG` makes a run a
//! hundred times longer, `CLOISTER_FUZZ_INPUT` runs one file alone.
//!
//! Why an engine of our own: libFuzzer, AFL and honggfuzz want instrumented code, for which Rust
//! needs unstable flags or a C compiler in CI. A target is a function of bytes, so any of them can
//! be added where there is one. Invariant: the inputs depend on seed and corpus alone.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Target;
use crate::marks::{self, Marks};
use crate::shrink::{self, Caught, shorter};

/// The seed, unless another one is asked for.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
/// A long run has so many times the inputs.
const LONG: u32 = 100;
/// Inputs that others are bred from.
const POOL_MAX: usize = 512;

/// Where a target's files are.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    /// Folders with seeds: `.hex` files, and others as they are.
    pub corpus: &'a [PathBuf],
    /// The folder for an input that fails.
    pub saved: &'a Path,
    /// The command that runs this target alone.
    pub command: &'a str,
}

/// Runs a target, and panics with a report if it breaks a rule or does not come far enough.
pub fn check(target: &Target, place: &Place<'_>) {
    if let Ok(file) = std::env::var("CLOISTER_FUZZ_INPUT") {
        let bytes = read(Path::new(&file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        (target.run)(&bytes);
        return;
    }
    let seed = std::env::var("CLOISTER_SEED").ok().and_then(|seed| seed.parse().ok());
    let factor = if std::env::var_os("CLOISTER_TEST_LONG").is_some() { LONG } else { 1 };
    match fuzz(target, place.corpus, seed.unwrap_or(SEED), factor) {
        Ok(seen) => {
            println!("{}: {seen:?}", target.name);
            let missed = target.reaches.iter().filter(|reached| !seen.contains_key(**reached));
            let missed: Vec<_> = missed.collect();
            assert!(missed.is_empty(), "{}: no input came to {missed:?}", target.name);
        }
        Err(caught) => panic!("{}", report(target, place, &caught)),
    }
}

/// Runs the seeds of these folders and the inputs that are bred from them; what they came to, or
/// the shortest input found that breaks a rule.
pub fn fuzz(target: &Target, corpus: &[PathBuf], seed: u64, factor: u32) -> Result<Marks, Caught> {
    let mut random = Random(seed ^ target.name.bytes().fold(0, |sum, b| sum << 5 ^ u64::from(b)));
    let mut pool = seeds(corpus);
    let (seeds, mut seen) = (pool.len(), Marks::new());
    marks::take();
    for number in 0..target.inputs.saturating_mul(factor) as usize + seeds {
        let bytes = match pool.get(number) {
            Some(seed) if number < seeds => seed.clone(),
            _ => bred(target, &pool, &mut random),
        };
        shrink::catch(target.run, &bytes).map_err(|caught| shorter(target.run, caught))?;
        let mut is_first = false;
        for (place, times) in marks::take() {
            let sum = seen.entry(place).or_insert(0);
            is_first |= *sum == 0;
            *sum += times;
        }
        if is_first && pool.len() < POOL_MAX {
            pool.push(bytes);
        }
    }
    Ok(seen)
}

/// What is wrong, and how to see it again.
fn report(target: &Target, place: &Place<'_>, caught: &Caught) -> String {
    let (name, hex) = (target.name, to_hex(&caught.bytes));
    let file = place.saved.join(format!("{name}.hex"));
    let saved = fs::create_dir_all(place.saved).and_then(|()| fs::write(&file, &hex));
    let again = match saved {
        Ok(()) => format!("CLOISTER_FUZZ_INPUT={} {}", file.display(), place.command),
        Err(error) => format!("the input could not be saved to {}: {error}", file.display()),
    };
    let (message, len) = (&caught.message, caught.bytes.len());
    format!("fuzz target {name}: {message}\n  an input of {len} bytes:\n{hex}  again: {again}")
}

/// All seeds, in an order that does not depend on the machine.
fn seeds(corpus: &[PathBuf]) -> Vec<Vec<u8>> {
    let mut files = Vec::new();
    for folder in corpus {
        let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        files.extend(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()));
    }
    files.sort();
    let read = |path: &PathBuf| read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    files.iter().map(read).collect()
}

/// A file of hex digits, in which `#` begins a comment; other files as they are.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    if path.extension().is_none_or(|extension| extension != "hex") {
        return Ok(bytes);
    }
    let text = String::from_utf8(bytes).map_err(|error| error.to_string())?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let digits: String = lines.collect::<String>().split_whitespace().collect();
    let pairs = digits.as_bytes().chunks(2).map(|pair| {
        let pair = str::from_utf8(pair).unwrap_or_default();
        u8::from_str_radix(pair, 16).ok().filter(|_| pair.len() == 2).ok_or(pair)
    });
    let bytes: Result<Vec<u8>, &str> = pairs.collect();
    bytes.map_err(|pair| format!("`{pair}` are no two hex digits"))
}

/// Sixteen bytes a line.
fn to_hex(bytes: &[u8]) -> String {
    let line = |line: &[u8]| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    bytes.chunks(16).map(|bytes| line(bytes) + "\n").collect()
}

/// An input made anew, or of one or two of the pool.
fn bred(target: &Target, pool: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let anew = random.below(4) == 0 && target.words.is_empty();
    let mut bytes = match pool.len() {
        0 => random.bytes(target.len_max),
        _ if anew => random.bytes(target.len_max),
        len => pool[random.below(len)].clone(),
    };
    for _ in 0..1 + random.below(if target.words.is_empty() { 6 } else { 3 }) {
        change(&mut bytes, target, pool, random);
    }
    bytes.truncate(target.len_max);
    bytes
}

/// One change.
fn change(bytes: &mut Vec<u8>, target: &Target, pool: &[Vec<u8>], random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    let end = (at + 1 + random.below(16)).min(bytes.len());
    match random.below(8) {
        0 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.below(8)),
        1 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = random.next() as u8),
        2 if !target.words.is_empty() => {
            let mut digits = bytes.iter_mut().skip(at).filter(|byte| byte.is_ascii_digit());
            digits.next().into_iter().for_each(|digit| *digit = b'0' + random.below(10) as u8);
        }
        2 => {
            let ends = [0, 1, 0x7f, 0x80, 0xff];
            bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = ends[random.below(5)]);
        }
        3 => drop(bytes.drain(at..end)),
        4 => {
            let again = bytes[at..end].to_vec();
            let to = random.below(bytes.len() + 1);
            drop(bytes.splice(to..to, again));
        }
        5 if !pool.is_empty() => {
            let other = &pool[random.below(pool.len())];
            let from = random.below(other.len() + 1);
            let more = other[from..].iter().take(1 + random.below(64)).copied().collect::<Vec<_>>();
            drop(bytes.splice(at..at, more));
        }
        6 if !target.words.is_empty() => {
            let word = target.words[random.below(target.words.len())];
            let end = if random.below(2) == 0 { at } else { end };
            drop(bytes.splice(at..end, word.bytes()));
        }
        _ => {
            let more = random.bytes(12);
            drop(bytes.splice(at..at, more));
        }
    }
}

/// Numbers by xorshift (Marsaglia, "Xorshift RNGs").
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        ((self.next() >> 16) % (end as u64).max(1)) as usize
    }

    /// At most so many, mostly far fewer.
    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let most = most >> self.below(4);
        let len = self.below(most) + 1;
        (0..len).map(|_| (self.next() >> 24) as u8).collect()
    }
}
