//! From frames to events: defmt messages, the clock, loss, conventions, wrong archives.

mod common;

use cloister_logview::{Event, Level, Viewer};
use common::{
    BOOT, DEFMT, FORMATS, HELLO, Sent, TEXT, archive_with, decode, elf, silent_elf, text_of, viewer,
};

/// A defmt frame of task 0: index and arguments.
fn defmt(seq: u16, index: u16, arguments: &[&[u8]]) -> Sent {
    let mut payload = index.to_le_bytes().to_vec();
    payload.extend(arguments.concat());
    Sent::new(0, DEFMT, seq, &payload)
}

fn str_argument(text: &str) -> Vec<u8> {
    let mut bytes = u32::try_from(text.len()).expect("short").to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

/// The only message of a frame.
fn message(frame: &Sent) -> (Level, String) {
    match viewer().feed(&frame.encode()).as_slice() {
        [Event::Log { level, message, source, .. }] if source == "init" => {
            (*level, message.clone())
        }
        other => panic!("{other:?}"),
    }
}

/// Why a frame cannot be explained.
fn refusal(frame: &Sent) -> String {
    match viewer().feed(&frame.encode()).as_slice() {
        [Event::Corrupt { reason, source: Some(_), .. }] => reason.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn messages_have_level_and_text() {
    assert_eq!(message(&defmt(0, 1, &[&[3]])), (Level::Info, "found 3 tables".into()));
    assert_eq!(message(&defmt(0, 2, &[])), (Level::Error, "nothing answers".into()));
    assert_eq!(message(&defmt(0, 12, &[&[13, 0]])), (Level::Print, "hello world".into()));
    // Formats within formats: the variant Busy of a derived enum around a u64.
    let busy = [&[6, 0, 1, 5, 0][..], &7u64.to_le_bytes(), &1500u32.to_le_bytes()];
    assert_eq!(message(&defmt(0, 7, &busy)), (Level::Debug, "state Busy(7) since 1.500".into()));
    // Bit fields share their bytes, and an array is shown by its hint.
    let bits = [&0b0001_0110_1101u16.to_le_bytes()[..], &str_argument("hi"), &[8, 9], b"ok\xff"];
    let text = "bits 5 11 bytes b\"hi\" [8, 9] ok";
    assert_eq!(message(&defmt(0, 14, &bits)), (Level::Trace, text.into()));
    // A sequence of formats ends with the index zero.
    let sequence = [&[16, 0, 5, 0][..], &4u64.to_le_bytes(), &[11, 0, 0, 0]];
    assert_eq!(message(&defmt(0, 17, &sequence)).1, "sequence 4Unit");
    let mixed = [
        &[1][..],
        &u32::from('ß').to_le_bytes(),
        &1.5f32.to_le_bytes(),
        &(-2i64).to_le_bytes(),
        &u128::MAX.to_le_bytes(),
        &[5, 0],
        &[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0],
    ];
    let text = format!("true ß 1.5 -2 {} [1, 2]", u128::MAX);
    assert_eq!(message(&defmt(0, 18, &mixed)).1, text);
}

#[test]
fn padding_to_whole_words_is_no_damage_but_more_is() {
    assert_eq!(message(&defmt(0, 1, &[&[3], &[0; 5]])).1, "found 3 tables");
    assert!(refusal(&defmt(0, 1, &[&[3], &[0; 8]])).contains("8 bytes follow"));
    assert!(refusal(&defmt(0, 1, &[&[3, 1]])).contains("1 bytes follow"));
}

#[test]
fn frames_that_would_harm_the_decoder_are_refused() {
    let list =
        |count: u32, format: u16| defmt(0, 10, &[&count.to_le_bytes(), &format.to_le_bytes()]);
    // Four billion elements, of eight bytes and of none.
    assert!(refusal(&list(u32::MAX, 5)).contains("too many values"));
    assert!(refusal(&list(u32::MAX, 11)).contains("too many values"));
    assert!(refusal(&list(100_000, 11)).contains("too many values"));
    assert_eq!(message(&list(3, 11)).1, "list [Unit, Unit, Unit]");
    // `Busy(Busy(Busy(…` as deep as the largest frame allows.
    let deep = defmt(0, 7, &[&[6, 0, 1].repeat(670)]);
    assert!(refusal(&deep).contains("nests too deep"));
    // A date after the year 9999, a hexadecimal `isize`, which the decoder cannot print.
    assert!(refusal(&defmt(0, 8, &[&u64::MAX.to_le_bytes()])).contains("display hint"));
    assert_eq!(message(&defmt(0, 8, &[&0u64.to_le_bytes()])).1, "at 1970-01-01T00:00:00Z");
    assert!(refusal(&defmt(0, 9, &[&[255; 4]])).contains("display hint"));
    // CBOR arrays within arrays: its reader is recursive.
    let nested = str_argument(&"\u{1}".repeat(2_000));
    assert!(refusal(&defmt(0, 15, &[&nested])).contains("display hint"));
    // Ends early, names what is not there.
    assert!(refusal(&defmt(0, 1, &[])).contains("ends before"));
    assert!(refusal(&defmt(0, 0x777, &[])).contains("0x777"));
    assert!(refusal(&Sent::new(0, DEFMT, 0, &[1])).contains("ends before"));
}

#[test]
fn frames_without_their_strings_say_so() {
    let reason = refusal(&Sent::new(3, DEFMT, 0, &[1, 0]));
    assert!(reason.contains("no defmt strings"), "{reason}");
    let reason = refusal(&Sent::new(9, DEFMT, 0, &[1, 0]));
    assert!(reason.contains("no task with this index"), "{reason}");
}

#[test]
fn seconds_count_from_the_boot_record_once_the_frequency_is_known() {
    let at = |kind, tsc, payload: &[u8], seq| Sent { tsc, ..Sent::new(0xffff, kind, seq, payload) };
    let seconds = |event: &Event| match event {
        Event::Log { seconds, .. } => *seconds,
        other => panic!("{other:?}"),
    };
    let mut viewer = viewer();
    let before = viewer.feed(&at(TEXT, 500, b"early", 0).encode());
    assert_eq!(seconds(&before[0]), None);
    viewer.feed(&at(BOOT, 1_000, b"v1", 1).encode());
    let hello = viewer.feed(&at(HELLO, 2_000, &2_000u64.to_le_bytes(), 2).encode());
    assert_eq!(seconds(&hello[0]), Some(0.5));
    // A second record does not move the origin, unless the counter itself started over.
    viewer.feed(&at(BOOT, 9_000, b"v1", 3).encode());
    assert_eq!(seconds(&viewer.feed(&at(TEXT, 5_000, b"x", 4).encode())[0]), Some(2.0));
    viewer.feed(&at(BOOT, 100, b"v1", 5).encode());
    assert_eq!(seconds(&viewer.feed(&at(TEXT, 300, b"x", 6).encode())[0]), Some(0.1));
    let zero = viewer.feed(&at(HELLO, 400, &[0; 8], 7).encode());
    assert!(matches!(&zero[0], Event::Corrupt { .. }), "{zero:?}");
}

#[test]
fn kernels_are_sources_too() {
    let frame = Sent { core: 2, ..Sent::new(0xffff - 2, DEFMT, 0, &[1, 0]) };
    match viewer().feed(&frame.encode()).as_slice() {
        [Event::Log { source, core: 2, message, .. }] => {
            assert_eq!((source.as_str(), message.as_str()), ("kernel", "sealed"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn loss_is_shown_whether_counted_or_seen() {
    let lost = |frames: &[Sent]| {
        let mut viewer = viewer();
        let bytes: Vec<u8> = frames.iter().flat_map(Sent::encode).collect();
        let events = viewer.feed(&bytes);
        let shown = events.iter().filter_map(|event| match event {
            Event::Lost { source, frames } if source == "init" => Some(*frames),
            _ => None,
        });
        let shown: Vec<u64> = shown.collect();
        assert_eq!(viewer.summary().total().lost, shown.iter().sum::<u64>());
        shown
    };
    let frame = |seq, lost| Sent { lost, ..defmt(seq, 2, &[]) };
    assert_eq!(lost(&[frame(7, 0), frame(8, 0)]), [] as [u64; 0]);
    assert_eq!(lost(&[frame(0, 0), frame(5, 4)]), [4]);
    assert_eq!(lost(&[frame(0, 0), frame(3, 0)]), [2]);
    assert_eq!(lost(&[frame(0, 0), frame(5, 1)]), [4]);
    assert_eq!(lost(&[frame(0xffff, 0), frame(0, 0)]), [] as [u64; 0]);
    assert_eq!(lost(&[frame(0xfffe, 0), frame(1, 0)]), [2]);
    // More than the sequence number can tell.
    assert_eq!(lost(&[frame(0, 0), frame(1, 0x1_0000)]), [0x1_0000]);
    // A ring that starts over has lost nothing that anybody could count.
    assert_eq!(lost(&[frame(40_000, 0), frame(0, 0)]), [] as [u64; 0]);
    assert_eq!(lost(&[frame(40_000, 0), frame(39_000, 0)]), [] as [u64; 0]);
}

#[test]
fn a_restarted_console_does_not_report_old_loss_again() {
    let frame = |seq, lost| Sent { lost, ..defmt(seq, 2, &[]) };
    let hello = Sent::new(3, HELLO, 0, &2_000u64.to_le_bytes());
    let lost = |first: Sent, again: Sent| {
        let bytes = [hello.encode(), first.encode(), hello.encode(), again.encode()].concat();
        let mut viewer = viewer();
        viewer.feed(&bytes);
        viewer.summary().total().lost
    };
    // It reads the ring from its oldest frame: seen before, the next one, or ten later.
    assert_eq!(lost(frame(200, 0), frame(100, 100)), 0);
    assert_eq!(lost(frame(200, 0), frame(201, 201)), 0);
    assert_eq!(lost(frame(200, 0), frame(211, 211)), 10);
    // The machine has restarted, and with it the ring.
    assert_eq!(lost(frame(40_000, 0), frame(0, 0)), 0);
    assert_eq!(lost(frame(40_000, 0), frame(3, 3)), 3);
    // The greeting has a number of its own, not one of its task's ring.
    let mut viewer = viewer();
    viewer.feed(&Sent::new(3, TEXT, 40, b"x").encode());
    viewer.feed(&hello.encode());
    viewer.feed(&Sent::new(3, TEXT, 41, b"x").encode());
    assert_eq!(viewer.summary().total().lost, 0);
}

#[test]
fn benchmarks_become_numbers() {
    let arguments =
        [&str_argument("null_syscall")[..], &58u64.to_le_bytes(), &str_argument("steps")];
    let expected = Event::Bench { key: "null_syscall".into(), value: 58, unit: "steps".into() };
    let events = viewer().feed(&defmt(0, 3, &arguments).encode());
    assert_eq!(events, std::slice::from_ref(&expected));
    let text = Sent::new(3, TEXT, 0, b"bench null_syscall 58 steps\nbench but not\n");
    let events = viewer().feed(&text.encode());
    assert_eq!(events[0], expected);
    assert!(matches!(&events[1], Event::Log { message, .. } if message == "bench but not"));
}

#[test]
fn the_summary_counts_by_source() {
    let mut damaged = defmt(1, 2, &[]).encode();
    let at = damaged.len() - 3;
    damaged[at] ^= 0x40;
    let bytes = [
        defmt(0, 2, &[]).encode(),
        damaged,
        defmt(2, 2, &[]).encode(),
        Sent { lost: 5, ..Sent::new(3, TEXT, 5, b"hi") }.encode(),
        b"\x01\x02\x03\x04".to_vec(),
    ];
    let mut viewer = viewer();
    decode(&mut viewer, &bytes.concat());
    let summary = viewer.summary();
    let init = summary.sources["init"];
    assert_eq!((init.frames, init.lost, init.corrupt), (2, 1, 1));
    let nvme = summary.sources["nvme"];
    assert_eq!((nvme.frames, nvme.lost, nvme.corrupt), (1, 5, 0));
    assert_eq!(summary.corrupt_elsewhere, 1);
    let text = summary.to_string();
    assert!(text.starts_with("3 frames, 6 lost, 2 corrupt"), "{text}");
    assert!(text.contains("init: 1 lost, 1 corrupt"), "{text}");
}

#[test]
fn a_panic_in_the_middle_of_a_message_shows_both() {
    let frame = defmt(0, 2, &[]).encode();
    let mut bytes = frame[..10].to_vec();
    bytes.extend(b"kernel panic on core 1: budget underflow, kernel/src/sched.rs:40\n");
    bytes.extend(&frame[10..]);
    let mut viewer = viewer();
    let events = decode(&mut viewer, &bytes);
    assert!(text_of(&events).contains("kernel panic on core 1: budget underflow"));
    let corrupt: Vec<_> = events.iter().filter(|e| matches!(e, Event::Corrupt { .. })).collect();
    assert_eq!(corrupt.len(), 1);
    assert!(matches!(corrupt[0], Event::Corrupt { source: Some(s), .. } if s == "init"));
}

/// The message of a refused archive.
fn open_error(change: impl FnOnce(&std::path::Path)) -> String {
    let folder = archive_with(&silent_elf());
    change(folder.path());
    match Viewer::open(folder.path()) {
        Ok(_) => panic!("the archive was accepted"),
        Err(error) => format!("{error:#}"),
    }
}

#[test]
fn wrong_archives_are_refused_with_a_reason() {
    let write = |name: &'static str, bytes: Vec<u8>| {
        move |folder: &std::path::Path| std::fs::write(folder.join(name), bytes).expect("written")
    };
    let error = open_error(|folder| std::fs::remove_file(folder.join("archive.json")).expect("rm"));
    assert!(error.contains("cargo xtask build-image"), "{error}");
    let error = open_error(write("archive.json", b"{}".to_vec()));
    assert!(error.contains("no archive of this version"), "{error}");
    let error = open_error(|folder| std::fs::remove_file(folder.join("nvme.elf")).expect("rm"));
    assert!(error.contains("nvme.elf"), "{error}");
    let error = open_error(write("nvme.elf", b"text".to_vec()));
    assert!(error.contains("no ELF file"), "{error}");
    let error = open_error(write("nvme.elf", elf(FORMATS, "rzcobs")));
    assert!(error.contains("encoding-raw"), "{error}");
    let error = open_error(write("nvme.elf", elf(&[(1, "info", "a\"b")], "raw")));
    assert!(error.contains("defmt strings cannot be read"), "{error}");
    let outside = br#"{"kernel": "../kernel.elf"}"#;
    let error = open_error(write("archive.json", outside.to_vec()));
    assert!(error.contains("outside the archive"), "{error}");
    let twice =
        br#"{"kernel": "kernel.elf", "tasks": [{"index": 1, "name": "a", "elf": "init.elf"},
        {"index": 1, "name": "b", "elf": "init.elf"}]}"#;
    let error = open_error(write("archive.json", twice.to_vec()));
    assert!(error.contains("two tasks have index 1"), "{error}");
}
