//! Guests on one terminal: bytes in, bytes out, against a model of what a person should see.

use cloister_console_core::{FILL_MIN, Mux, Notice};
use cloister_ring::orders::{Operation, VmState};
use proptest::prelude::*;

/// How long a begun line waits.
const PATIENCE: u64 = 100;
const NAMES: [&str; 3] = ["web", "db", "longer-name"];

fn mux(names: &[&'static str]) -> Mux<'static> {
    let mut mux = Mux::new(PATIENCE);
    for (at, name) in names.iter().enumerate() {
        assert_eq!(mux.add(name), Some(at));
    }
    mux
}

/// What is shown now.
fn fill(mux: &mut Mux<'_>, now: u64) -> Vec<u8> {
    let mut buffer = [0; 2 * FILL_MIN];
    let len = mux.fill(now, &mut buffer);
    buffer[..len].to_vec()
}

/// Lets a guest write everything, and shows it.
fn write(mux: &mut Mux<'_>, vm: usize, bytes: &[u8], now: u64) -> Vec<u8> {
    let (mut rest, mut shown) = (bytes, Vec::new());
    loop {
        let taken = mux.feed(vm, rest, now);
        rest = &rest[taken..];
        let more = fill(mux, now);
        if more.is_empty() && rest.is_empty() {
            return shown;
        }
        shown.extend(more);
    }
}

/// Text without colours.
fn plain(bytes: &[u8]) -> String {
    let text = std::str::from_utf8(bytes).unwrap();
    let mut parts = text.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once(['m', 'h']).unwrap().1)
}

#[test]
fn lines_stand_behind_padded_names_in_their_own_colours() {
    let mut mux = mux(&["web", "db"]);
    let web = write(&mut mux, 0, b"hello\r\n", 0);
    let db = write(&mut mux, 1, b"world\n", 0);
    assert_eq!(plain(&[web.clone(), db.clone()].concat()), "web   | hello\r\ndb    | world\r\n");
    assert!(web.starts_with(b"\x1b[38;5;") && db.starts_with(b"\x1b[38;5;"));
    assert_ne!(web[..10], db[..10]);
}

#[test]
fn a_begun_line_waits_for_its_end_or_its_time() {
    let mut mux = mux(&["web", "db"]);
    assert_eq!(write(&mut mux, 0, b"log", 0), b"");
    assert_eq!(fill(&mut mux, PATIENCE - 1), b"");
    assert_eq!(plain(&fill(&mut mux, PATIENCE)), "web   | log");
    // It goes on where it was, as long as nobody comes between.
    assert_eq!(plain(&write(&mut mux, 0, b"in: \n", PATIENCE)), "in: \r\n");
    assert!(mux.is_empty());
}

#[test]
fn another_speaker_ends_a_line_that_stands_open() {
    let mut mux = mux(&["web", "db"]);
    write(&mut mux, 0, b"login: ", 0);
    assert_eq!(plain(&fill(&mut mux, PATIENCE)), "web   | login: ");
    assert_eq!(plain(&write(&mut mux, 1, b"up\n", 200)), "\r\ndb    | up\r\n");
    assert_eq!(plain(&write(&mut mux, 0, b"root\n", 200)), "web   | root\r\n");
    // A log frame ends the line by itself; the next piece has its name again.
    write(&mut mux, 0, b"be", 300);
    fill(&mut mux, 400);
    mux.interrupted();
    assert_eq!(plain(&write(&mut mux, 0, b"gun\n", 400)), "web   | gun\r\n");
}

#[test]
fn the_end_of_the_system_shows_begun_lines_at_once() {
    let mut mux = mux(&["web"]);
    write(&mut mux, 0, b"panic: ", 0);
    assert!(!mux.is_empty());
    mux.hurry();
    assert_eq!(plain(&fill(&mut mux, 0)), "web   | panic: ");
    assert!(mux.is_empty());
}

#[test]
fn a_guest_that_floods_shows_one_line_in_each_turn() {
    let mut mux = mux(&["web", "db"]);
    let flood = b"flood\n".repeat(100);
    let mut rest = flood.as_slice();
    let mut rounds = 0;
    mux.feed(1, b"small\n", 0);
    let mut shown = String::new();
    while !shown.contains("small") {
        let taken = mux.feed(0, rest, 0);
        rest = &rest[taken..];
        shown += &plain(&fill(&mut mux, 0));
        rounds += 1;
    }
    assert_eq!(rounds, 1);
}

#[test]
fn what_is_direct_passes_as_it_is_and_others_come_in_between() {
    let mut mux = mux(&["web", "db"]);
    mux.select(0);
    assert!(plain(&fill(&mut mux, 0)).starts_with("-- web has keyboard and screen"));
    let screen = b"\x1b[2J\x1b[1;1H\x00\xff$ ";
    assert_eq!(write(&mut mux, 0, screen, 0), screen);
    // A sequence that is not whole is cancelled; colours and cursor come back.
    let other = write(&mut mux, 1, b"\x1b[31mup\n", 0);
    assert!(other.starts_with(b"\x18\x1b[0m\x1b[?25h\r\n"));
    assert!(plain(&other[1..]).ends_with("db    | up\r\n"));
    assert_eq!(write(&mut mux, 0, b"ls\r\n", 0), b"ls\r\n");
    // At the beginning of a line there is nothing to end.
    assert_eq!(plain(&write(&mut mux, 1, b"two\n", 0)), "db    | two\r\n");
    mux.show_all();
    assert_eq!(plain(&fill(&mut mux, 0)), "-- all by lines\r\n");
    assert_eq!(plain(&write(&mut mux, 0, b"\x1b[1mx\n", 0)), "web   | x\r\n");
}

#[test]
fn what_was_written_before_a_change_of_mode_is_shown_as_what_it_was() {
    let mut mux = mux(&["web", "db"]);
    assert_eq!(mux.feed(0, b"\x1b[1mbefore", 0), 10);
    mux.select(0);
    assert_eq!(mux.feed(0, b"\x1b[2m", 0), 0);
    assert!(plain(&fill(&mut mux, 0)).ends_with("web   | before"));
    assert_eq!(write(&mut mux, 0, b"\x1b[2mafter", 0), b"\x1b[2mafter");
    assert_eq!(mux.feed(0, b"\x1b[3", 0), 3);
    mux.select(1);
    assert_eq!(mux.feed(0, b"mlate\n", 0), 0);
    assert!(fill(&mut mux, 0).ends_with(b"\x1b[3"));
    let late = write(&mut mux, 0, b"mlate\n", 0);
    assert!(late.starts_with(b"\x18") && plain(&late[1..]).ends_with("web   | mlate\r\n"));
}

#[test]
fn a_guest_that_begins_anew_begins_a_line() {
    let mut mux = mux(&["web"]);
    write(&mut mux, 0, b"half a line", 0);
    mux.restarted(0);
    assert_eq!(plain(&write(&mut mux, 0, b"boot\n", 0)), "web   | half a line\r\nweb   | boot\r\n");
    // The same for one that stands on the screen already.
    write(&mut mux, 0, b"half", 0);
    fill(&mut mux, PATIENCE);
    mux.restarted(0);
    assert_eq!(plain(&write(&mut mux, 0, b"boot\n", 200)), "\r\nweb   | boot\r\n");
    // One that had begun nothing ends nothing.
    mux.restarted(0);
    assert_eq!(fill(&mut mux, 900), b"");
}

#[test]
fn the_list_tells_states_and_which_one_is_selected() {
    let mut mux = mux(&NAMES);
    mux.set_state(0, VmState::Running);
    mux.set_state(2, VmState::GivenUp);
    mux.notices.list();
    let expected = "-- 1 web         running (selected)\r\n-- 2 db          state unknown\r\n\
                    -- 3 longer-name failed, no try is left\r\n";
    let mut shown = String::new();
    while mux.notices.is_due() {
        shown += &plain(&fill(&mut mux, 0));
    }
    assert_eq!(shown, expected);
    assert_eq!((mux.find("db"), mux.find("dbx")), (Some(1), None));
    assert_eq!((mux.beside(1), mux.beside(2), mux.beside(3)), (1, 2, 0));
}

#[test]
fn answers_name_what_they_are_about() {
    let mut mux = mux(&NAMES);
    let mut say = |notice| {
        mux.notices.answer(notice);
        plain(&fill(&mut mux, 0))
    };
    let refused = Notice::Refused(1, Operation::Resume, VmState::PoweredOff);
    assert_eq!(say(refused), "-- db: cannot resume it: it is powered off\r\n");
    assert_eq!(say(Notice::NoSuch(9)), "-- there is no virtual machine 9\r\n");
    assert!(say(Notice::KeysLost(2)).starts_with("-- longer-name does not read"));
    mux.notices.help();
    let mut help = String::new();
    while mux.notices.is_due() {
        help += &plain(&fill(&mut mux, 0));
    }
    assert!(help.lines().count() == 8 && help.lines().all(|line| line.starts_with("-- ")));
}

#[test]
fn without_guests_there_is_nothing_to_select() {
    let mut mux = mux(&[]);
    assert_eq!((mux.selected(), mux.direct(), mux.beside(1)), (None, None, 0));
    mux.select(0);
    mux.notices.list();
    assert_eq!(plain(&fill(&mut mux, 0)), "-- this appliance has no virtual machine\r\n");
    assert_eq!(mux.feed(0, b"x", 0), 1);
}

#[test]
fn the_longest_line_of_the_console_fits() {
    let name = "a-very-long-name-of-32-letters--";
    let mut mux = Mux::new(0);
    assert_eq!(mux.add(name), Some(0));
    mux.select(0);
    write(&mut mux, 0, b"raw", 0);
    mux.notices.answer(Notice::Refused(0, Operation::Resume, VmState::GivenUp));
    let mut buffer = [0; FILL_MIN];
    let len = mux.fill(0, &mut buffer);
    assert!(buffer[..len].ends_with(b"failed, no try is left\r\n"));
    mux.show_all();
    fill(&mut mux, 0);
    let text = "x".repeat(1000) + "\n";
    let shown = plain(&write(&mut mux, 0, text.as_bytes(), 0));
    assert_eq!(shown, format!("{name} | {}\r\n", "x".repeat(1000)));
}

#[test]
fn a_line_that_is_too_long_to_keep_does_not_wait() {
    let mut mux = mux(&["web"]);
    let text = "ä".repeat(1000);
    let (mut rest, mut shown) = (text.as_bytes(), Vec::new());
    for _ in 0..20 {
        let taken = mux.feed(0, rest, 0);
        rest = &rest[taken..];
        shown.extend(fill(&mut mux, 0));
    }
    assert!(rest.is_empty());
    let shown = plain(&shown);
    let shown = shown.strip_prefix("web   | ").expect("a name");
    assert!(shown.chars().count() > 800 && text.starts_with(shown), "{shown}");
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize, String),
    Show,
    Later(u64),
    Log,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0usize..3, "[a-zäß ]{0,30}(\n|\r\n|)").prop_map(|(vm, text)| Step::Write(vm, text)),
        4 => Just(Step::Show),
        1 => (0u64..150).prop_map(Step::Later),
        1 => Just(Step::Log),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// No byte is lost or invented, each guest's bytes keep their order, and every line of the
    /// screen begins with the name of the guest whose text it is.
    #[test]
    fn every_line_has_a_name_and_every_byte_is_shown_once(
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let mut mux = mux(&NAMES);
        let (mut now, mut screen) = (0, Vec::new());
        let mut waiting: [Vec<u8>; 3] = Default::default();
        let mut written: [String; 3] = Default::default();
        for step in steps {
            match step {
                Step::Write(vm, text) => {
                    waiting[vm].extend_from_slice(text.as_bytes());
                    written[vm] += &text.replace(['\r', '\n'], "");
                }
                Step::Show => screen.extend(fill(&mut mux, now)),
                Step::Later(ticks) => now += ticks,
                Step::Log => {
                    // What the host does with a frame of the log.
                    if !screen.ends_with(b"\n") && !screen.is_empty() {
                        screen.extend(b"\r\n");
                    }
                    screen.extend(b"[log]\r\n");
                    mux.interrupted();
                }
            }
            for (vm, waiting) in waiting.iter_mut().enumerate() {
                let taken = mux.feed(vm, waiting, now);
                waiting.drain(..taken);
            }
        }
        mux.hurry();
        for _ in 0..200 {
            for (vm, waiting) in waiting.iter_mut().enumerate() {
                let taken = mux.feed(vm, waiting, now);
                waiting.drain(..taken);
            }
            screen.extend(fill(&mut mux, now));
        }
        prop_assert!(mux.is_empty() && waiting.iter().all(Vec::is_empty));
        let mut shown: [String; 3] = Default::default();
        let text = plain(&screen);
        for line in text.split("\r\n").filter(|line| !line.is_empty() && *line != "[log]") {
            let (name, text) = line.split_once(" | ").expect("a name");
            let vm = NAMES.iter().position(|known| *known == name.trim_end()).expect("a guest");
            prop_assert_eq!(name.len(), "longer-name".len());
            shown[vm] += text;
        }
        prop_assert_eq!(shown, written);
    }

    /// The guest that has the screen to itself draws what it likes, and nothing is added.
    #[test]
    fn direct_bytes_pass_unchanged(pieces in prop::collection::vec(any::<Vec<u8>>(), 0..8)) {
        let mut mux = mux(&["web"]);
        mux.select(0);
        fill(&mut mux, 0);
        let mut shown = Vec::new();
        for piece in &pieces {
            shown.extend(write(&mut mux, 0, piece, 0));
        }
        prop_assert_eq!(shown, pieces.concat());
    }

    /// A guest that writes what it likes never steers the terminal in a line that others share.
    #[test]
    fn no_bytes_of_a_line_steer_the_terminal(bytes: Vec<u8>) {
        let mut mux = mux(&["web"]);
        let shown = plain(&write(&mut mux, 0, &bytes, 0));
        let rest = plain(&fill(&mut mux, PATIENCE));
        let text = (shown + &rest).replace("\r\n", "");
        prop_assert!(text.chars().all(|c| !c.is_control() || c == '\t'), "{text:?}");
    }
}
