//! The targets, in the order of [`TARGETS`].
//!
//! Each module has one `run`, a function of bytes, and asserts what the head of the module under
//! test promises or what its specification says. Invariant: a target has rules of its own to check,
//! or a model; that nothing panics is the least of them.

mod apic;
mod bus;
mod cpu;
mod cpuid;
mod disk;
mod guest;
mod ioapic;
mod logview;
mod machine;
mod manifest;
mod msr;
mod ports;
mod rings;
mod transport;

use crate::Target;

/// All targets but those whose code is a program's, not a library's.
pub const TARGETS: [Target; 11] = [
    Target {
        name: "bus",
        run: bus::run,
        inputs: 4_000,
        len_max: 1_024,
        reaches: &["thread", "worker", "console", "external", "serial cause", "time of day"],
        words: &[],
    },
    Target {
        name: "transport",
        run: transport::run,
        inputs: 1_500,
        len_max: 768,
        reaches: &["live", "message", "pending", "reset under way", "needs reset"],
        words: &[],
    },
    Target {
        name: "apic",
        run: apic::run,
        inputs: 6_000,
        len_max: 768,
        reaches: &["sent", "ended", "refused", "in service", "deadline", "x2apic", "off"],
        words: &[],
    },
    Target {
        name: "ioapic",
        run: ioapic::run,
        inputs: 8_000,
        len_max: 768,
        reaches: &["edge", "level", "ended"],
        words: &[],
    },
    Target {
        name: "msr",
        run: msr::run,
        inputs: 20_000,
        len_max: 256,
        reaches: &["efer", "pat", "xcr0", "absent", "refused"],
        words: &[],
    },
    Target {
        name: "cpuid",
        run: cpuid::run,
        inputs: 3_000,
        len_max: 512,
        reaches: &["table", "no table"],
        words: &[],
    },
    Target {
        name: "cpu",
        run: cpu::run,
        inputs: 2_500,
        len_max: 2_048,
        reaches: &["interrupt", "exception", "nmi", "step", "off", "reset", "stopped", "asked"],
        words: &[],
    },
    Target {
        name: "rings",
        run: rings::run,
        inputs: 6_000,
        len_max: 768,
        reaches: &["chain", "used", "dead", "interrupt", "listens"],
        words: &[],
    },
    Target {
        name: "disk",
        run: disk::run,
        inputs: 4_000,
        len_max: 768,
        reaches: &["adopted", "readopted", "work", "refused", "broken"],
        words: &[],
    },
    Target {
        name: "logview",
        run: logview::run,
        inputs: 6_000,
        len_max: 512,
        reaches: &["line", "frame", "broken"],
        words: &[],
    },
    Target {
        name: "manifest",
        run: manifest::run,
        inputs: 1_000,
        len_max: 8_192,
        reaches: &["refused", "compiled"],
        words: &manifest::WORDS,
    },
];
