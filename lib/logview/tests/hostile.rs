//! Streams from somebody who wants the decoder to fall over: random bytes, damaged frames, and
//! whole frames with hostile contents. The seed is fixed; a failure prints the case.

mod common;

use cloister_logview::{Event, Level, Viewer};
use common::{DEFMT, Random, Sent, viewer};

const CASES: u64 = 100_000;

/// One hostile stream.
fn stream(random: &mut Random) -> Vec<u8> {
    let length = random.below(60);
    let mut bytes = match random.below(5) {
        // Nothing but noise, rich in zeros.
        0 => random.bytes(length).into_iter().map(|b| if b < 40 { 0 } else { b }).collect(),
        // Noise that begins like a frame.
        1 => [vec![0, 0x30, 0xc1], random.bytes(length), vec![0]].concat(),
        // A frame that passes every check of the wire, with a message that is none.
        2 => hostile_message(random, length).encode(),
        3 => damaged_message(random).encode(),
        // Any source, kind, loss and time.
        _ => Sent {
            source: u16::from(random.next().to_le_bytes()[0] % 6),
            core: 0xff,
            kind: random.next().to_le_bytes()[0] % 6,
            seq: u16::from(random.next().to_le_bytes()[1]) << 8,
            lost: u32::MAX,
            tsc: random.next(),
            payload: random.bytes(length),
        }
        .encode(),
    };
    if random.below(3) == 0 && !bytes.is_empty() {
        let at = usize::try_from(random.next()).unwrap_or(0) % bytes.len();
        bytes[at] ^= random.next().to_le_bytes()[2];
    }
    bytes
}

/// A defmt frame that picks a format which exists, and mostly numbers that do, too.
fn hostile_message(random: &mut Random, length: u64) -> Sent {
    let mut payload = vec![random.next().to_le_bytes()[0] % 20, 0];
    for byte in random.bytes(length) {
        payload.push(if byte & 1 == 0 { byte % 20 } else { 0 });
        if byte > 250 {
            payload.extend([0xff; 4]);
        }
    }
    Sent::new(0, DEFMT, 0, &payload)
}

/// A sound message with up to three bytes changed, and then a right checksum.
fn damaged_message(random: &mut Random) -> Sent {
    let sound: [&[u8]; 5] = [
        &[1, 0, 3],
        &[7, 0, 6, 0, 1, 5, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0],
        &[10, 0, 2, 0, 0, 0, 6, 0, 0, 1, 11, 0],
        &[12, 0, 13, 0],
        &[17, 0, 16, 0, 11, 0, 5, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0],
    ];
    let pick = usize::try_from(random.below(5)).unwrap_or(0);
    let mut payload = sound[pick].to_vec();
    for _ in 0..random.below(4) {
        let at = usize::try_from(random.next()).unwrap_or(0) % payload.len();
        payload[at] = random.next().to_le_bytes()[1] % 20;
    }
    Sent::new(0, DEFMT, 0, &payload)
}

#[test]
fn hostile_streams_do_no_harm() {
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut viewer: Viewer = viewer();
    let mut decoded = 0;
    for case in 0..CASES {
        let bytes = stream(&mut random);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut events = viewer.feed(&bytes);
            events.extend(viewer.finish());
            let shown: usize = events.iter().map(|e| e.render(case % 2 == 0).len()).sum();
            (shown, events.iter().filter(|event| is_defmt(event)).count())
        }));
        let Ok((shown, messages)) = outcome else { panic!("case {case}: {bytes:02x?}") };
        // What a frame can blow up to is bounded by its own size.
        assert!(shown < 200_000, "case {case}: {} bytes became {shown}", bytes.len());
        decoded += messages;
    }
    // The cases reach the decoder: messages were decoded and others refused.
    let total = viewer.summary().total();
    assert!(total.frames > CASES / 4 && total.corrupt > CASES / 10, "{total:?}");
    assert!(decoded > 5000, "{decoded} messages were decoded");
}

/// A message of task 0 that was decoded with its format string; text frames have no level.
fn is_defmt(event: &Event) -> bool {
    matches!(event, Event::Log { source, level, .. } if source == "init" && *level != Level::Print)
}

#[test]
fn the_largest_frames_are_decoded_quickly() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut viewer = viewer();
    let start = std::time::Instant::now();
    for round in 0..8 {
        // `{=[?]}` of as many empty elements as pass, and of nested enums.
        let mut payload = vec![10, 0];
        payload.extend(1_900u32.to_le_bytes());
        payload.extend(if round % 2 == 0 { [11, 0] } else { [6, 0] });
        payload.extend(random.bytes(2_030).iter().map(|byte| byte % 2));
        let events = viewer.feed(&Sent::new(0, DEFMT, round, &payload).encode());
        assert_eq!(events.len(), 1);
    }
    assert!(start.elapsed().as_secs() < 20, "took {:?}", start.elapsed());
}
