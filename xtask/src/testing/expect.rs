//! `expect.toml`: on which machines a boot test runs, and what it has to say.
//!
//! [`Matcher`] compares a run with it while the run goes on, so that a forbidden line ends the
//! machine at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use regex::Regex;
use serde::{Deserialize, Deserializer};

use super::flips::Flips;
use super::keys::Keys;
use crate::emulators::BOCHS;
use crate::machine::{End, Outcome};
use crate::paths;

/// The file as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// Numbers of processors to run with.
    #[serde(default = "four")]
    pub cpus: Vec<u32>,
    /// What to run in.
    #[serde(default)]
    pub emulator: WantedEmulator,
    /// Versions of QEMU to run on.
    #[serde(default = "both")]
    pub qemu: Vec<String>,
    /// Count instructions.
    #[serde(default)]
    pub icount: bool,
    /// The time limit of one run.
    #[serde(default = "a_minute")]
    pub timeout_s: u64,
    /// Memory, instead of the manifest's.
    #[serde(default)]
    pub memory_mib: Option<u32>,
    /// The machine has an IOMMU.
    #[serde(default = "yes")]
    pub iommu: bool,
    /// Raise a non-maskable interrupt this often.
    #[serde(default)]
    pub nmi_every_ms: Option<u64>,
    /// Runs on each machine.
    #[serde(default = "once")]
    pub repeat: u32,
    /// Boot damaged images instead of the whole one; each has to meet the expectations.
    #[serde(default)]
    pub flips: Option<Flips>,
    /// Only with `--long`.
    #[serde(default)]
    pub long: bool,
    /// Features of bare-metal packages to build with, like `cloister-kernel/flush-checker`.
    #[serde(default)]
    pub features: Vec<String>,
    /// The file in the test's folder that says which disks the machine has, instead of
    /// `machine.toml`.
    #[serde(default)]
    pub machine: Option<String>,
    /// More arguments for QEMU.
    #[serde(default)]
    pub extra: Vec<String>,
    /// Regular expressions; each matches a line after the one that the last matched. One that is to
    /// come again and again is `{ line = '…', times = 10 }`. Lines of the log are in order as shown
    /// or as logged: the console gets to the rings one after the other.
    #[serde(default, deserialize_with = "repeated")]
    pub lines: Vec<String>,
    /// A regular expression: lines that it matches are printed when the test has passed too.
    #[serde(default)]
    pub show: Option<String>,
    /// Lines that are counted by what they say, over all runs on a machine.
    #[serde(default)]
    pub tally: Option<Counts>,
    /// Lines of which so many say something that no other says, over all runs on a machine.
    #[serde(default)]
    pub distinct: Option<Distinct>,
    /// Lines whose numbers are compared.
    #[serde(default)]
    pub shares: Option<Shares>,
    /// What a person types while the appliance runs, in this order.
    #[serde(default)]
    pub keys: Vec<Keys>,
    /// Regular expressions; each matches some line, in whatever order they come.
    #[serde(default)]
    pub also: Vec<String>,
    /// Regular expressions that no line may match.
    #[serde(default)]
    pub forbid: Vec<String>,
    /// How the run has to end.
    pub end: WantedEnd,
}

/// Lines that are counted by a word of theirs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// A regular expression with one group: the word.
    pub line: String,
    /// Words of which each has to come once at least.
    pub least: Vec<String>,
}

/// Lines that are to say different things.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distinct {
    /// A regular expression with one group: what the line says.
    pub line: String,
    /// How many different ones come at least.
    pub least: usize,
}

/// What was counted in the runs so far.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// How often each word of the tally came.
    words: BTreeMap<String, u64>,
    /// What the lines of `distinct` said.
    said: BTreeSet<String>,
}

impl Counted {
    /// For people; none if nothing was to be counted.
    pub fn describe(&self) -> Option<String> {
        let each = self.words.iter().map(|(word, count)| format!("{word} {count}"));
        let said = (!self.said.is_empty()).then(|| format!("{} different", self.said.len()));
        let all: Vec<String> = each.chain(said).collect();
        (!all.is_empty()).then(|| all.join(", "))
    }
}

/// Lines with a number each, of which none may be small beside the sum.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shares {
    /// A regular expression with one group: the number.
    pub line: String,
    /// The part of the sum that each number is at least.
    pub least: f64,
}

/// The kind of emulator that a test is for.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum WantedEmulator {
    /// QEMU, in the versions that `qemu` names.
    #[default]
    Qemu,
    /// Bochs.
    Bochs,
}

/// How a run has to end.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum WantedEnd {
    /// The appliance powers itself off in order.
    Shutdown,
    /// The machine resets itself.
    Reset,
    /// It does not matter; the run is ended once every line was seen.
    Any,
}

/// An entry of `lines`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Wanted {
    Once(String),
    Again { line: String, times: usize },
}

/// Every line as often as it is wanted.
fn repeated<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let wanted = Vec::<Wanted>::deserialize(from)?.into_iter();
    let lines = wanted.flat_map(|wanted| match wanted {
        Wanted::Once(line) => vec![line],
        Wanted::Again { line, times } => vec![line; times],
    });
    Ok(lines.collect())
}

fn four() -> Vec<u32> {
    vec![4]
}

fn both() -> Vec<String> {
    vec!["10.0".to_owned(), "7.2".to_owned()]
}

fn a_minute() -> u64 {
    60
}

fn once() -> u32 {
    1
}

fn yes() -> bool {
    true
}

impl Expect {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", paths::shown(path)))?;
        Self::parse(&text).with_context(|| paths::shown(path))
    }

    /// The file's text as a value whose every part makes sense.
    pub fn parse(text: &str) -> Result<Self> {
        let expect: Self = toml::from_str(text)?;
        if expect.lines.is_empty() && expect.also.is_empty() {
            bail!("`lines` is empty; a test that expects nothing cannot fail");
        }
        if expect.cpus.is_empty() || expect.qemu.is_empty() {
            bail!("`cpus` and `qemu` name at least one each");
        }
        if let Some(odd) = expect.qemu.iter().find(|name| !["10.0", "7.2"].contains(&name.as_str()))
        {
            bail!("`qemu` names `{odd}`, known are \"10.0\" and \"7.2\"");
        }
        let only_qemu = expect.icount || expect.nmi_every_ms.is_some() || !expect.keys.is_empty();
        let only_qemu = only_qemu || !expect.extra.is_empty() || expect.machine.is_some();
        let only_qemu = only_qemu || expect.end == WantedEnd::Reset;
        if expect.emulator == WantedEmulator::Bochs && only_qemu {
            bail!(
                "a test in Bochs has no `icount`, `nmi_every_ms`, `keys`, `machine`, `extra` or \
                 `end = \"reset\"`: only QEMU can"
            );
        }
        Ok(expect)
    }

    /// The emulators to run in, by the names that results carry.
    pub fn places(&self) -> Vec<String> {
        match self.emulator {
            WantedEmulator::Qemu => self.qemu.iter().map(|v| format!("qemu-{v}")).collect(),
            WantedEmulator::Bochs => vec![BOCHS.to_owned()],
        }
    }
}

/// Follows one run.
pub struct Matcher {
    lines: Vec<Regex>,
    also: Vec<Regex>,
    forbid: Vec<Regex>,
    tally: Option<Regex>,
    distinct: Option<(Regex, usize)>,
    counted: Counted,
    shares: Option<(Regex, f64, Vec<f64>)>,
    end: WantedEnd,
    next: usize,
    /// What was said, each line with the time that it carries, or with the latest one before it.
    said: Vec<(f64, String)>,
    latest: f64,
    offence: Option<String>,
}

/// The time of a line of the log.
fn time_of(line: &str) -> Option<f64> {
    line.strip_prefix('[')?.split_once(']')?.0.trim().parse().ok()
}

impl Matcher {
    /// A matcher at the start of a run, with what the runs before have counted.
    pub fn new(expect: &Expect, mut counted: Counted) -> Result<Self> {
        let compile = |patterns: &[String]| -> Result<Vec<Regex>> {
            patterns.iter().map(|pattern| Ok(Regex::new(pattern)?)).collect()
        };
        let (lines, also) = (compile(&expect.lines)?, compile(&expect.also)?);
        let forbid = compile(&expect.forbid)?;
        for word in expect.tally.iter().flat_map(|counts| &counts.least) {
            counted.words.entry(word.clone()).or_default();
        }
        let tally = expect.tally.as_ref().map(|counts| Regex::new(&counts.line)).transpose()?;
        let distinct = expect.distinct.as_ref();
        let distinct = distinct.map(|of| anyhow::Ok((Regex::new(&of.line)?, of.least)));
        let distinct = distinct.transpose()?;
        let shares = expect.shares.as_ref();
        let shares = shares.map(|of| anyhow::Ok((Regex::new(&of.line)?, of.least, Vec::new())));
        let (shares, end) = (shares.transpose()?, expect.end);
        Ok(Self {
            lines,
            also,
            forbid,
            tally,
            distinct,
            counted,
            shares,
            end,
            next: 0,
            said: Vec::new(),
            latest: 0.0,
            offence: None,
        })
    }

    /// Takes a line; false when the run needs not go on.
    pub fn line(&mut self, line: &str) -> bool {
        if let Some(pattern) = self.forbid.iter().find(|pattern| pattern.is_match(line)) {
            let offence = format!("the line `{line}` matches the forbidden `{pattern}`");
            self.offence.get_or_insert(offence);
        }
        self.latest = time_of(line).map_or(self.latest, |time| time.max(self.latest));
        self.said.push((time_of(line).unwrap_or(self.latest), line.to_owned()));
        if self.lines.get(self.next).is_some_and(|pattern| pattern.is_match(line)) {
            self.next += 1;
        }
        let group = |pattern: &Regex| Some(pattern.captures(line)?.get(1)?.as_str().to_owned());
        if let Some(word) = self.tally.as_ref().and_then(group) {
            *self.counted.words.entry(word).or_default() += 1;
        }
        if let Some(said) = self.distinct.as_ref().and_then(|(pattern, _)| group(pattern)) {
            self.counted.said.insert(said);
        }
        if let Some((pattern, _, numbers)) = &mut self.shares
            && let Some(number) = pattern.captures(line).and_then(|found| found.get(1))
        {
            numbers.extend(number.as_str().parse::<f64>());
        }
        self.also.retain(|pattern| !pattern.is_match(line));
        let all_seen = self.next == self.lines.len() && self.also.is_empty();
        let all_seen = all_seen && self.judge_counts().is_ok();
        let complete = all_seen && self.end == WantedEnd::Any;
        self.offence.is_none() && !complete
    }

    /// Nothing, or why what was counted is not enough. After the last run alone.
    pub fn judge_counts(&self) -> Result<(), String> {
        if let Some((word, _)) = self.counted.words.iter().find(|(_, count)| **count == 0) {
            return Err(format!("no counted line says `{word}`"));
        }
        let said = self.counted.said.len();
        match &self.distinct {
            Some((pattern, least)) if said < *least => {
                Err(format!("lines like `{pattern}` said {said} different things of {least}"))
            }
            _ => Ok(()),
        }
    }

    /// How many of the lines came in the order in which they were logged.
    fn seen_as_logged(&self) -> usize {
        let mut said: Vec<&(f64, String)> = self.said.iter().collect();
        said.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        said.iter().fold(0, |seen, (_, line)| {
            let is_next = self.lines.get(seen).is_some_and(|pattern| pattern.is_match(line));
            seen + usize::from(is_next)
        })
    }

    /// What was counted so far.
    pub fn into_counted(self) -> Counted {
        self.counted
    }

    /// Nothing, or why the run is not what was expected, its counts aside.
    pub fn judge(&self, outcome: &Outcome) -> Result<(), String> {
        if let Some(offence) = &self.offence {
            return Err(offence.clone());
        }
        let (seen, all) = (self.next.max(self.seen_as_logged()), self.lines.len());
        if let Some(missing) = self.lines.get(seen) {
            return Err(format!(
                "no line matched `{missing}` ({seen} of {all} expected lines came); {}",
                outcome.describe()
            ));
        }
        if let Some(missing) = self.also.first() {
            return Err(format!("no line matched `{missing}`; {}", outcome.describe()));
        }
        if let Some((_, least, numbers)) = &self.shares {
            let sum: f64 = numbers.iter().sum();
            if numbers.len() < 2 || numbers.iter().any(|number| *number < least * sum) {
                return Err(format!("of {numbers:?} each has to be {least} of the sum"));
            }
        }
        let fits = match self.end {
            WantedEnd::Shutdown => outcome.in_order(),
            WantedEnd::Reset => outcome.end == End::GuestReset,
            WantedEnd::Any => {
                matches!(outcome.end, End::GuestShutdown | End::GuestReset | End::Stopped)
            }
        };
        if fits { Ok(()) } else { Err(format!("all lines came, but {}", outcome.describe())) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Counted, Expect, Matcher};
    use crate::machine::{End, Outcome};
    use std::time::Duration;

    fn outcome(end: End, orderly_line: bool) -> Outcome {
        Outcome { end, wall: Duration::ZERO, orderly_line, watchdog: false }
    }

    fn matcher(toml: &str, counted: Counted) -> Matcher {
        Matcher::new(&Expect::parse(toml).unwrap(), counted).unwrap()
    }

    fn run(toml: &str, lines: &[&str], end: End, orderly: bool) -> Result<(), String> {
        let mut matcher = matcher(toml, Counted::default());
        for line in lines {
            matcher.line(line);
        }
        matcher.judge(&outcome(end, orderly)).and_then(|()| matcher.judge_counts())
    }

    #[test]
    fn lines_must_come_in_order() {
        let toml = "lines = ['^a', 'b$']\nend = 'shutdown'";
        assert_eq!(run(toml, &["a1", "x", "1b"], End::GuestShutdown, true), Ok(()));
        let wrong = run(toml, &["1b", "a1"], End::GuestShutdown, true).unwrap_err();
        assert!(wrong.starts_with("no line matched `b$` (1 of 2"), "{wrong}");
    }

    #[test]
    fn lines_of_the_log_may_be_shown_in_another_order_than_they_were_logged_in() {
        let toml = "lines = ['a', 'b', 'guest', 'end']\nend = 'shutdown'";
        let shown = ["[    1.2] c0 b", "[    1.1] c1 a", "guest", "end"];
        assert_eq!(run(toml, &shown, End::GuestShutdown, true), Ok(()));
        let logged = ["[    1.2] c0 a", "[    1.1] c1 b", "guest", "end"];
        assert_eq!(run(toml, &logged, End::GuestShutdown, true), Ok(()));
        // Neither shown nor logged so; and what carries no time stays behind all that was before.
        let wrong = ["[    1.1] c0 b", "[    1.2] c1 a", "guest", "end"];
        assert!(run(toml, &wrong, End::GuestShutdown, true).is_err());
        let early = ["guest", "[    1.2] c0 b", "[    1.1] c1 a", "end"];
        assert!(run(toml, &early, End::GuestShutdown, true).is_err());
        let last = ["[    1.2] c0 b", "[    1.1] c1 a", "end", "guest"];
        assert!(run(toml, &last, End::GuestShutdown, true).is_err());
    }

    #[test]
    fn a_line_is_wanted_as_often_as_it_says() {
        let toml = "lines = [{ line = 'a', times = 3 }, 'b']\nend = 'shutdown'";
        assert_eq!(run(toml, &["a", "a", "a", "b"], End::GuestShutdown, true), Ok(()));
        let wrong = run(toml, &["a", "a", "b", "b"], End::GuestShutdown, true).unwrap_err();
        assert!(wrong.starts_with("no line matched `a` (2 of 4"), "{wrong}");
    }

    #[test]
    fn some_lines_may_come_in_any_order() {
        let toml = "lines = ['^a']\nalso = ['x', 'y']\nend = 'shutdown'";
        assert_eq!(run(toml, &["y", "a", "x"], End::GuestShutdown, true), Ok(()));
        let missing = run(toml, &["x", "a"], End::GuestShutdown, true).unwrap_err();
        assert!(missing.starts_with("no line matched `y`"), "{missing}");
        assert!(run("also = ['x']\nend = 'any'", &["x"], End::Stopped, false).is_ok());
    }

    #[test]
    fn counted_lines_say_each_word_once_at_least() {
        let toml = "lines = ['a']\ntally = { line = 'died (\\w+)', least = ['x', 'y'] }\n\
                    end = 'shutdown'";
        let lines = ["a", "died x", "died y", "died z"];
        assert_eq!(run(toml, &lines, End::GuestShutdown, true), Ok(()));
        let wrong = run(toml, &["a", "died x", "y"], End::GuestShutdown, true).unwrap_err();
        assert!(wrong.starts_with("no counted line says `y`"), "{wrong}");
    }

    #[test]
    fn different_lines_are_counted_over_all_runs() {
        let toml = "lines = ['a']\ndistinct = { line = 'at (\\d+)', least = 3 }\n\
                    tally = { line = 'died (\\w+)', least = ['x', 'y'] }\nend = 'shutdown'";
        let mut first = matcher(toml, Counted::default());
        for line in ["at 1", "at 2", "at 2", "died x"] {
            first.line(line);
        }
        assert!(first.judge_counts().is_err());
        let mut second = matcher(toml, first.into_counted());
        second.line("died y");
        let wrong = second.judge_counts().unwrap_err();
        assert!(wrong.ends_with("said 2 different things of 3"), "{wrong}");
        second.line("at 3");
        assert_eq!(second.judge_counts(), Ok(()));
        assert_eq!(second.into_counted().describe().unwrap(), "x 1, y 1, 3 different");
    }

    #[test]
    fn no_share_is_too_small() {
        let toml = "lines = ['a']\nshares = { line = 'got (\\d+)', least = 0.4 }\nend = 'shutdown'";
        let fair = run(toml, &["a", "got 41", "got 59"], End::GuestShutdown, true);
        assert_eq!(fair, Ok(()));
        for lines in [&["a", "got 39", "got 61"][..], &["a", "got 9"]] {
            assert!(run(toml, lines, End::GuestShutdown, true).is_err(), "{lines:?}");
        }
    }

    #[test]
    fn the_end_counts_as_much_as_the_lines() {
        let toml = "lines = ['a']\nend = 'shutdown'";
        assert!(run(toml, &["a"], End::GuestShutdown, false).is_err());
        assert!(run(toml, &["a"], End::GuestReset, true).is_err());
        assert!(run(toml, &["a"], End::Timeout, false).is_err());
        let toml = "lines = ['a']\nend = 'reset'";
        assert_eq!(run(toml, &["a"], End::GuestReset, false), Ok(()));
        assert!(run(toml, &["a"], End::GuestShutdown, true).is_err());
        let toml = "lines = ['a']\nend = 'any'";
        assert_eq!(run(toml, &["a"], End::Stopped, false), Ok(()));
        assert!(run(toml, &["a"], End::Timeout, false).is_err());
    }

    #[test]
    fn a_forbidden_line_fails_and_ends_the_run() {
        let toml = "lines = ['a']\nforbid = ['panic']\nend = 'shutdown'";
        assert!(run(toml, &["a", "a panic"], End::GuestShutdown, true).is_err());
        let mut matcher = matcher(toml, Counted::default());
        assert!(matcher.line("a"));
        assert!(!matcher.line("a panic"));
    }

    #[test]
    fn wrong_files_are_refused() {
        for text in [
            "end = 'shutdown'",
            "lines = []\nend = 'any'",
            "lines = ['a']\nend = 'never'",
            "lines = ['a']\nend = 'any'\nqemu = ['9.0']",
            "lines = ['a']\nend = 'any'\ntimeout = 3",
            "lines = ['a']\nend = 'any'\nemulator = 'bochs'\nicount = true",
            "lines = ['a']\nend = 'reset'\nemulator = 'bochs'",
        ] {
            assert!(Expect::parse(text).is_err(), "{text}");
        }
    }
}
