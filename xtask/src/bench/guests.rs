//! What the micro-guest `tests/guest/bench` measures in `images/bench-vm`.
//!
//! It prints `bench WORD LEAST MOST`. The least is what the path takes: with instructions counted
//! all processors share one counter, and what another one did in between is in the others.

use anyhow::{Result, bail};

use super::{Bench, guest_number};
use crate::appliance::Appliance;
use crate::machine::Flow;
use crate::numbers::Values;

/// The appliance.
pub const APPLIANCE: &str = "bench-vm";
/// What is measured here.
pub const KEYS: &[&str] = &[
    "exit_cpuid",
    "exit_port",
    "doorbell",
    "x2apic_self_ipi_eoi",
    "interrupt_to_guest_handler",
    "completion_interrupt",
    "mmio_read",
    "mmio_write",
];
/// What its guests call what: the guest, its word, our key.
const WORDS: &[(&str, &str, &str)] = &[
    ("bench", "exit_cpuid", "exit_cpuid"),
    ("bench", "exit_port", "exit_port"),
    ("bench", "doorbell", "doorbell"),
    ("bench", "x2apic_self_ipi_eoi", "x2apic_self_ipi_eoi"),
    ("bench", "self_ipi_to_handler", "interrupt_to_guest_handler"),
    ("near", "completion_interrupt", "completion_interrupt"),
    ("paged", "mmio_read", "mmio_read"),
    ("paged", "mmio_write", "mmio_write"),
];

/// One run.
pub fn measure(bench: &Bench) -> Result<Values> {
    measure_in(bench, &bench.appliance(APPLIANCE)?)
}

/// One run of this build of the appliance.
pub fn measure_in(bench: &Bench, appliance: &Appliance) -> Result<Values> {
    let mut values = Values::new();
    bench.listen(appliance, |line| {
        values.extend(guest_number(&line.text).and_then(value));
        Ok(Flow::Continue)
    })?;
    let missing: Vec<&str> =
        KEYS.iter().copied().filter(|key| !values.contains_key(*key)).collect();
    if !missing.is_empty() {
        bail!("the guests of images/{APPLIANCE} did not print {}", missing.join(", "));
    }
    Ok(values)
}

/// The key of what a guest printed, if it is one of ours.
fn value((guest, word, least): (&str, &str, u64)) -> Option<(String, u64)> {
    let (_, _, key) = WORDS.iter().find(|(vm, name, _)| (*vm, *name) == (guest, word))?;
    Some(((*key).to_owned(), least))
}
