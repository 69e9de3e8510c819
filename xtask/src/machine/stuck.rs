//! A machine at its time limit: where its processors are, and whether the emulator has lost an
//! interrupt.
//!
//! QEMU changes a processor's pending interrupts without a lock when it enters a guest (SVM), and so
//! may forget one that another thread raises at that moment; see docs/caveats.md. Outside of the
//! kernel a processor takes every interrupt at once, be it in a task or in a guest. So [`look`] takes
//! several looks: a vector that waits in a local APIC at all of them, which serves none, and whose
//! processor is outside of the kernel at one of them, was lost. Invariant: where the kernel itself
//! hangs, nothing is called lost.

use std::time::Duration;

use super::child::Child;
use crate::install::say;

/// Looks, and the time between two: far longer than any interrupt waits.
const LOOKS: usize = 12;
const BETWEEN: Duration = Duration::from_millis(100);
/// Where the kernel's half of the address space begins.
const KERNEL: u64 = 1 << 63;

/// A processor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Processor {
    /// What is said of it.
    line: String,
    rip: u64,
    is_halted: bool,
}

/// Says where each processor is. The number of one whose interrupt was lost, if there is one.
pub fn look(child: &mut Child) -> Option<usize> {
    let mut looks = vec![waiting(child)];
    for (processor, _) in looks.iter().flatten() {
        say(&format!("note: at the time limit {}", processor.line));
    }
    if looks.iter().all(Vec::is_empty) {
        say("note: at the time limit the emulator answers nobody");
        return None;
    }
    while looks.len() < LOOKS {
        std::thread::sleep(BETWEEN);
        looks.push(waiting(child));
    }
    lost(&looks)
}

/// The processors, each with the interrupts that wait for it while it serves none.
fn waiting(child: &mut Child) -> Vec<(Processor, Vec<u8>)> {
    let all = processors(&child.ask("registers -a")).into_iter().enumerate();
    all.map(|(n, processor)| (processor, vectors(&child.ask(&format!("lapic {n}"))))).collect()
}

fn lost(looks: &[Vec<(Processor, Vec<u8>)>]) -> Option<usize> {
    let (last, before) = looks.split_last()?;
    last.iter().enumerate().position(|(n, (_, waits))| {
        let earlier = || before.iter().filter_map(|look| look.get(n));
        let waits_always = |vector| earlier().all(|(_, waited)| waited.contains(vector));
        let is_outside = |(at, _): &(Processor, _)| at.rip < KERNEL && !at.is_halted;
        waits.iter().any(waits_always) && earlier().any(is_outside)
    })
}

/// From QEMU's registers of all processors.
fn processors(text: &str) -> Vec<Processor> {
    let mut all: Vec<Processor> = Vec::new();
    for word in text.split_whitespace() {
        if word.starts_with("CPU#") {
            all.push(Processor { line: word.to_owned(), ..Processor::default() });
            continue;
        }
        let Some((processor, (key, value))) = all.last_mut().zip(word.split_once('=')) else {
            continue;
        };
        if !["RIP", "RFL", "CR3", "CPL", "HLT"].contains(&key) {
            continue;
        }
        processor.line.push(' ');
        processor.line.push_str(word);
        match key {
            "RIP" => processor.rip = u64::from_str_radix(value, 16).unwrap_or(u64::MAX),
            "HLT" => processor.is_halted = value != "0",
            _ => {}
        }
    }
    all
}

/// From QEMU's local APIC: the vectors that are requested, if none is in service.
fn vectors(text: &str) -> Vec<u8> {
    let row = |key: &str| {
        let row = text.lines().find_map(|line| line.trim().strip_prefix(key));
        let numbers = row.unwrap_or_default().split_whitespace();
        numbers.filter_map(|word| word.parse().ok()).collect::<Vec<u8>>()
    };
    if row("ISR").is_empty() { row("IRR") } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::{Processor, lost, processors, vectors};

    const TWO: &str = "\r\nCPU#0\r\nRAX=00 RBX=01\r\nRIP=ffffffff80000b00 RFL=02 [-------] CPL=0 \
                       II=0 SMM=0 HLT=1\r\nCR0=80 CR2=00 CR3=0c CR4=06\r\n\r\nCPU#1\r\nRIP=0d RFL=02\r\n";
    const APIC: &str = "dumping local APIC state for CPU 1\n\nSPIV\t 0x1ff vec 255\nISR\t (none)\nIRR\t 34 \
                        240\n\nAPR 0x00 TPR 0x00";

    #[test]
    fn a_processor_is_told_by_a_line() {
        let all = processors(TWO);
        let lines: Vec<&str> = all.iter().map(|processor| processor.line.as_str()).collect();
        let first = "CPU#0 RIP=ffffffff80000b00 RFL=02 CPL=0 HLT=1 CR3=0c";
        assert_eq!(lines, [first, "CPU#1 RIP=0d RFL=02"]);
        assert!(all[0].is_halted && !all[1].is_halted && all[1].rip == 0xd);
        assert!(processors("unknown command").is_empty());
    }

    #[test]
    fn requests_wait_while_none_is_served() {
        assert_eq!(vectors(APIC), [34, 240]);
        assert!(vectors(&APIC.replace("(none)", "34")).is_empty());
        assert!(vectors("").is_empty());
    }

    #[test]
    fn only_what_always_waits_and_not_for_the_kernel_is_lost() {
        let at = |rip, is_halted, waits: &[u8]| {
            (Processor { line: String::new(), rip, is_halted }, waits.to_vec())
        };
        let kernel = 1 << 63;
        let seen = |looks: &[(Processor, Vec<u8>)]| {
            let fine = at(0x1000, false, &[]);
            lost(&looks.iter().map(|one| vec![fine.clone(), one.clone()]).collect::<Vec<_>>())
        };
        let (out, inside) = (at(0x1000, false, &[241]), at(kernel, false, &[241]));
        assert_eq!(seen(&[out.clone(), out.clone(), out.clone()]), Some(1));
        assert_eq!(seen(&[inside.clone(), out.clone(), at(kernel, false, &[34, 241])]), Some(1));
        assert_eq!(seen(&[out.clone(), at(0x1000, false, &[34]), out.clone()]), None, "taken once");
        assert_eq!(seen(&[inside.clone(), inside.clone()]), None, "the kernel's affair");
        assert_eq!(seen(&[inside.clone(), out.clone()]), None, "it may have come just now");
        assert_eq!(seen(&[at(0x1000, true, &[241]), inside]), None, "it sleeps");
        assert_eq!(lost(&[]), None);
    }
}
