//! Tests of the test bench itself: tiny guests that end in every way a guest can end.
//!
//! They show that a run is taken for a success only when it is one: not after a triple fault, not
//! after a power-off without the kernel's last line, not when the time ran out.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Options;
use super::tally::{Tally, Verdict};
use crate::emulators::Qemu;
use crate::machine::{End, Flow, Machine, ORDERLY_LINE, Outcome};

/// Where the guest is loaded and starts.
const BASE: u32 = 0x10_0000;

/// File offset, and distance from the load address, of the guest's code.
const CODE: usize = 0x1000;

/// What a guest does after it wrote its text; 32-bit code.
#[derive(Clone, Copy, Debug)]
enum Ending {
    PowerOff,
    TripleFault,
    Hang,
    TalkForEver,
}

/// A tiny guest and what has to be said of it.
struct Case {
    name: &'static str,
    text: String,
    ending: Ending,
    /// End the machine from outside when it says something.
    stop: bool,
    /// An argument that no QEMU knows.
    wrong_argument: bool,
    fits: fn(&Outcome) -> bool,
}

/// Runs every case on one emulator.
pub fn run(options: &Options, place: &str, qemu: &Qemu, tally: &mut Tally) {
    for case in cases() {
        let name = format!("harness: {} on {place}", case.name);
        if !options.wants(&name) {
            continue;
        }
        let verdict = match once(&case, qemu) {
            Ok(outcome) if (case.fits)(&outcome) => {
                println!("ok      {name}");
                Verdict::Passed
            }
            Ok(outcome) => {
                println!("FAILED  {name}: {}", outcome.describe());
                Verdict::Failed
            }
            Err(failure) => {
                println!("FAILED  {name}: {failure:#}");
                Verdict::Failed
            }
        };
        // Apart from the appliances, of which CI insists that some run on each emulator.
        tally.add("harness", verdict);
    }
}

fn cases() -> Vec<Case> {
    let orderly = format!("hello\r\n{ORDERLY_LINE}\r\n");
    let case = |name, text: &str, ending, fits| {
        let text = text.to_owned();
        Case { name, text, ending, stop: false, wrong_argument: false, fits }
    };
    let mut stopped = case("stopped from outside", "x\r\n", Ending::TalkForEver, |outcome| {
        outcome.end == End::Stopped && !outcome.in_order()
    });
    stopped.stop = true;
    let mut refused = case(
        "an argument QEMU refuses",
        "",
        Ending::Hang,
        |outcome| matches!(&outcome.end, End::EmulatorFailed { stderr, .. } if stderr.contains("nonsense")),
    );
    refused.wrong_argument = true;
    vec![
        case("power-off in order", &orderly, Ending::PowerOff, Outcome::in_order),
        case("power-off without the last line", "hello\r\n", Ending::PowerOff, |outcome| {
            outcome.end == End::GuestShutdown && !outcome.in_order()
        }),
        case("triple fault after the last line", &orderly, Ending::TripleFault, |outcome| {
            outcome.end == End::GuestReset && !outcome.in_order()
        }),
        case("a silent guest meets its time limit", &orderly, Ending::Hang, |outcome| {
            outcome.end == End::Timeout && !outcome.in_order()
        }),
        case("a talkative guest meets its time limit", "x\r\n", Ending::TalkForEver, |outcome| {
            outcome.end == End::Timeout
        }),
        stopped,
        refused,
    ]
}

fn once(case: &Case, qemu: &Qemu) -> Result<Outcome> {
    let folder = tempfile::tempdir()?;
    let image = folder.path().join("guest.elf");
    std::fs::write(&image, guest(&case.text, case.ending)).context("cannot write the guest")?;
    let mut machine = machine(&image, case.ending);
    if case.wrong_argument {
        machine.extra = vec!["-nonsense".to_owned()];
    }
    let flow = if case.stop { Flow::Stop } else { Flow::Continue };
    machine.run(qemu, None, |_| flow)
}

fn machine(image: &Path, ending: Ending) -> Machine {
    let ends_itself = matches!(ending, Ending::PowerOff | Ending::TripleFault);
    let mut machine = Machine::new(image.to_owned());
    machine.cpus = 1;
    machine.memory_mib = 64;
    machine.timeout = Some(Duration::from_secs(if ends_itself { 30 } else { 2 }));
    machine
}

/// An ELF program for QEMU's direct boot: one segment, with the PVH note in it.
fn guest(text: &str, ending: Ending) -> Vec<u8> {
    let mut code = program(text, ending);
    let note_at = CODE + code.len();
    for word in [4, 8, 18] {
        code.extend_from_slice(&u32::to_le_bytes(word));
    }
    code.extend_from_slice(b"Xen\0");
    code.extend_from_slice(&u64::from(BASE + CODE as u32).to_le_bytes());
    let note = (note_at as u64, 24);
    let load = (CODE as u64, code.len() as u64);
    let mut file = elf_header();
    file.extend(segment(1, 7, load));
    file.extend(segment(4, 4, note));
    file.resize(CODE, 0);
    file.extend(code);
    file
}

fn elf_header() -> Vec<u8> {
    let mut header = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    header.extend([2, 0, 62, 0, 1, 0, 0, 0]); // an executable for x86-64
    header.extend(u64::from(BASE + CODE as u32).to_le_bytes()); // entry
    header.extend(64_u64.to_le_bytes()); // program headers follow this header
    header.extend([0; 12]); // no sections, no flags
    header.extend([64, 0, 56, 0, 2, 0, 64, 0, 0, 0, 0, 0]); // sizes and counts
    header
}

fn segment(kind: u32, flags: u32, (offset, size): (u64, u64)) -> Vec<u8> {
    let address = u64::from(BASE) + offset;
    let mut header = [kind.to_le_bytes(), flags.to_le_bytes()].concat();
    for field in [offset, address, address, size, size, 1] {
        header.extend(field.to_le_bytes());
    }
    header
}

/// 32-bit code: writes the text to the first serial port, then ends.
fn program(text: &str, ending: Ending) -> Vec<u8> {
    let mut code = vec![
        0xbe, 0, 0, 0, 0,    // mov esi, text
        0xac, // lodsb
        0x84, 0xc0, // test al, al
        0x74, 0x07, // jz over the loop
        0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xee, // out dx, al
        0xeb, 0xf4, // jmp to lodsb
    ];
    let tail: &[u8] = match ending {
        // mov dx, 0x604; mov ax, 0x2000; out dx, ax: ACPI's soft-off of this chipset
        Ending::PowerOff => &[0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0, 0x20, 0x66, 0xef, 0xeb, 0xfe],
        // lidt [an address whose bytes are zero]; int3
        Ending::TripleFault => &[0x0f, 0x01, 0x1d, 0, 0, 8, 0, 0xcc],
        Ending::Hang => &[0xeb, 0xfe],
        Ending::TalkForEver => &[0xeb, 0xed], // jmp to the first instruction
    };
    code.extend_from_slice(tail);
    let text_at = BASE + (CODE + code.len()) as u32;
    code[1..5].copy_from_slice(&text_at.to_le_bytes());
    code.extend_from_slice(text.as_bytes());
    code.push(0);
    code.resize(code.len().next_multiple_of(4), 0);
    code
}

#[cfg(test)]
mod tests {
    use super::{CODE, Ending, guest};

    #[test]
    fn the_guest_is_a_whole_elf_file() {
        let file = guest("hi", Ending::Hang);
        let word = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
        assert_eq!(word(24), 0x10_0000 + CODE as u64);
        let (offset, size) = (word(64 + 8) as usize, word(64 + 32) as usize);
        assert_eq!((offset, offset + size), (CODE, file.len()));
        let note = word(64 + 56 + 8) as usize;
        assert_eq!(&file[note + 12..note + 16], b"Xen\0");
        assert_eq!(note + 24, file.len());
    }
}
