//! The numbers that `cargo xtask bench` reports: what they are, what was measured, how they look.
//!
//! `xtask/bench.toml` holds unit, aim and a peer's value for every key; a key that is measured but
//! not in the table is an error, as is a value that differs between runs.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::appliance::Number;
use crate::paths;

/// What the table says about a key.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Promise {
    /// What is counted.
    pub unit: String,
    /// The most that was promised, if anything was.
    #[serde(default)]
    pub aim: Option<u64>,
    /// What a peer needs on the same machine.
    #[serde(default)]
    pub peer: Option<u64>,
}

/// The table, by key.
pub type Promises = BTreeMap<String, Promise>;

/// Measured values, by key.
pub type Values = BTreeMap<String, u64>;

/// One entry of `bench --json`.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    value: u64,
    unit: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    aim: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<u64>,
    cores: u32,
    #[serde(flatten)]
    builds: Builds,
}

/// What was measured: the builds of the parts whose instructions are counted, as `run` prints them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Builds {
    /// The kernel.
    pub kernel_build_id: String,
    /// The monitor.
    pub monitor_build_id: String,
}

/// Reads the table.
pub fn promises() -> Result<Promises> {
    let path = paths::root().join("xtask/bench.toml");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", paths::shown(&path)))?;
    toml::from_str(&text).with_context(|| paths::shown(&path))
}

/// One run's numbers as values; a key may come twice only with the same value.
pub fn values(numbers: &[Number], promises: &Promises) -> Result<Values> {
    let mut values = Values::new();
    for Number { key, value, unit } in numbers {
        let Some(promise) = promises.get(key) else {
            bail!("the appliance reports `{key}`, which xtask/bench.toml does not have");
        };
        if promise.unit != *unit {
            bail!("`{key}` is reported in {unit}, xtask/bench.toml says {}", promise.unit);
        }
        if let Some(before) = values.insert(key.clone(), *value)
            && before != *value
        {
            bail!("`{key}` was reported twice in one run: {before}, then {value}");
        }
    }
    Ok(values)
}

/// The runs' common values; every key whose values differ is named with all of them.
pub fn identical(runs: &[Values]) -> Result<Values> {
    let mut by_key: BTreeMap<&String, Vec<Option<u64>>> = BTreeMap::new();
    for key in runs.iter().flat_map(BTreeMap::keys) {
        by_key.entry(key).or_insert_with(|| runs.iter().map(|run| run.get(key).copied()).collect());
    }
    let mut differing = Vec::new();
    let mut common = Values::new();
    for (key, values) in by_key {
        match values.first().copied().flatten() {
            Some(first) if values.iter().all(|value| *value == Some(first)) => {
                common.insert(key.clone(), first);
            }
            _ => {
                let shown: Vec<String> = values
                    .iter()
                    .map(|value| value.map_or_else(|| "none".to_owned(), |v| v.to_string()))
                    .collect();
                differing.push(format!("  {key}: {}", shown.join(", ")));
            }
        }
    }
    if !differing.is_empty() {
        bail!("values differ between {} runs:\n{}", runs.len(), differing.join("\n"));
    }
    Ok(common)
}

/// The lines for people: key, value, aim, peer, met or missed.
pub fn table(values: &Values, promises: &Promises) -> Vec<String> {
    let head = format!("{:32} {:>12} {:>12} {:>8}  {}", "key", "value", "aim", "peer", "unit");
    let row = |(key, value): (&String, &u64)| {
        let promise = promises.get(key)?;
        let shown = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
        let met = match promise.aim {
            Some(aim) if *value > aim => "MISSED",
            Some(_) => "met",
            None => "",
        };
        let (aim, peer) = (shown(promise.aim), shown(promise.peer));
        let row = format!("{key:32} {value:>12} {aim:>12} {peer:>8}  {:12} {met}", promise.unit);
        Some(row.trim_end().to_owned())
    };
    std::iter::once(head).chain(values.iter().filter_map(row)).collect()
}

/// The entries of `bench --json`.
pub fn entries(
    values: &Values,
    promises: &Promises,
    cores: u32,
    builds: &Builds,
) -> BTreeMap<String, Entry> {
    let entry = |(key, value): (&String, &u64)| {
        let Promise { unit, aim, peer } = promises.get(key)?.clone();
        let builds = builds.clone();
        Some((key.clone(), Entry { value: *value, unit, aim, peer, cores, builds }))
    };
    values.iter().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::{Builds, Promises, Values, entries, identical, promises, table, values};
    use crate::appliance::Number;

    fn two() -> Promises {
        toml::from_str("[a]\nunit = 'x'\naim = 5\npeer = 9\n[b]\nunit = 'x'\n").unwrap()
    }

    fn run(a: u64) -> Values {
        Values::from([("a".to_owned(), a)])
    }

    fn number(key: &str, value: u64, unit: &str) -> Number {
        Number { key: key.into(), value, unit: unit.into() }
    }

    #[test]
    fn the_committed_table_is_whole() {
        let promises = promises().unwrap();
        assert_eq!(promises["null_syscall"].peer, Some(148));
        assert_eq!(promises["image_bytes"].aim, Some(1_572_864));
        assert_eq!(promises["exit_cpuid"].aim, Some(300));
    }

    #[test]
    fn differing_values_are_named() {
        assert_eq!(identical(&[run(1), run(1)]).unwrap(), run(1));
        let text = identical(&[run(1), run(2), Values::new()]).unwrap_err().to_string();
        assert!(text.ends_with("a: 1, 2, none"), "{text}");
    }

    #[test]
    fn unknown_keys_and_units_are_refused() {
        assert!(values(&[number("c", 1, "x")], &two()).is_err());
        assert!(values(&[number("a", 1, "y")], &two()).is_err());
        assert!(values(&[number("a", 1, "x"), number("a", 2, "x")], &two()).is_err());
        assert_eq!(values(&[number("a", 1, "x")], &two()).unwrap(), run(1));
    }

    #[test]
    fn the_table_says_met_and_missed() {
        assert!(table(&run(5), &two())[1].ends_with("met"));
        assert!(table(&run(6), &two())[1].ends_with("MISSED"));
    }

    #[test]
    fn an_entry_has_the_promised_form() {
        let builds = Builds { kernel_build_id: "k".into(), monitor_build_id: "m".into() };
        let json = serde_json::to_string(&entries(&run(5), &two(), 4, &builds)).unwrap();
        let expected = concat!(
            r#"{"a":{"value":5,"unit":"x","aim":5,"peer":9,"cores":4,"#,
            r#""kernel_build_id":"k","monitor_build_id":"m"}}"#
        );
        assert_eq!(json, expected);
    }
}
