//! Every fuzz target, for as long as CI can afford, and the engine itself.
//!
//! `CLOISTER_TEST_LONG=1 cargo test -p cloister-fuzz --release` runs a hundred times as many inputs,
//! `CLOISTER_SEED=number` others. A failure prints its input and the command that runs it again.

use std::path::{Path, PathBuf};

use cloister_fuzz::engine::{Place, check, fuzz};
use cloister_fuzz::{Input, TARGETS, Target, mark};

fn corpus(name: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Of wrong manifests hardly one change makes a right one.
    let folder =
        if name == "manifest" { "../manifest/good".into() } else { format!("corpus/{name}") };
    vec![root.join(folder)]
}

fn run(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target");
    let saved = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    let command = format!("cargo test -p cloister-fuzz --test targets {name}");
    check(target, &Place { corpus: &corpus(name), saved: &saved, command: &command });
}

macro_rules! targets {
    ($($name:ident),+) => {
        $(#[test]
        fn $name() {
            run(stringify!($name));
        })+

        #[test]
        fn every_target_is_run() {
            let run = [$(stringify!($name)),+];
            assert_eq!(TARGETS.map(|target| target.name), run);
        }
    };
}

targets!(bus, transport, apic, ioapic, msr, cpuid, cpu, rings, disk, logview, manifest);

/// A device with a fault: three writes in order, and then a value that it does not take.
fn canary(bytes: &[u8]) {
    let (mut input, mut state) = (Input::new(bytes), 0);
    while !input.is_empty() {
        state = match (state, input.byte()) {
            (0, 0x51) => 1,
            (1, 0xa2) => 2,
            (2, value) if value > 0xc0 => panic!("the canary sings at {value:#x}"),
            (state, _) => state,
        };
        if state == 2 {
            mark("almost");
        }
    }
}

const CANARY: Target = Target {
    name: "canary",
    run: canary,
    inputs: 20_000,
    len_max: 64,
    reaches: &["almost"],
    words: &[],
};

#[test]
fn a_fault_is_found_made_short_and_found_again() {
    let caught = fuzz(&CANARY, &[], 1, 1).expect_err("the canary");
    let [0x51, 0xa2, value] = caught.bytes[..] else { panic!("{:x?}", caught.bytes) };
    assert!(caught.message.contains(&format!("the canary sings at {value:#x}")), "{caught:?}");
    let again = fuzz(&CANARY, &[], 1, 1).expect_err("the canary");
    assert_eq!(again.bytes, caught.bytes, "the same seed, another input");
}

#[test]
fn a_place_that_is_not_reached_fails_the_run() {
    let blind = Target { name: "blind", run: |_| {}, ..CANARY };
    let saved = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let place = Place { corpus: &[], saved, command: "" };
    let failed = std::panic::catch_unwind(|| check(&blind, &place)).expect_err("nothing reached");
    let message = failed.downcast_ref::<String>().expect("a message");
    assert!(message.contains("no input came to [\"almost\"]"), "{message}");
}
