//! The two 8259As against the data sheet, and random programs against a slow model of it.

use cloister_monitor::pic::Pic;
use proptest::prelude::*;

/// Initializes both: bases 0x20 and 0x28, the cascade at line 2.
fn working(mode: u8) -> Pic {
    let mut pic = Pic::new();
    for (port, value) in [
        (0x20, 0x11),
        (0x21, 0x20),
        (0x21, 0x04),
        (0x21, mode),
        (0xa0, 0x11),
        (0xa1, 0x28),
        (0xa1, 0x02),
        (0xa1, mode & !0x10),
    ] {
        pic.write(port, value);
    }
    pic
}

fn raise(pic: &mut Pic, lines: &[u8]) {
    for &line in lines {
        pic.set_line(line, true);
    }
}

fn registers(pic: &mut Pic, port: u16) -> (u8, u8) {
    pic.write(port, 0x0a);
    let requests = pic.read(port);
    pic.write(port, 0x0b);
    (requests, pic.read(port))
}

#[test]
fn before_initialization_nothing_gets_through() {
    let mut pic = Pic::new();
    raise(&mut pic, &[0, 4, 9]);
    assert_eq!(pic.pending(), None);
}

#[test]
fn initialization_takes_three_words_or_fewer() {
    // Single and without a mode: one word after the first.
    for (first, words) in [(0x12, 1), (0x13, 2), (0x10, 2), (0x11, 3)] {
        let mut pic = Pic::new();
        pic.write(0x20, first);
        pic.set_line(1, true);
        for word in 0..words {
            assert!(pic.pending().is_none(), "{first:#x} after {word}");
            pic.write(0x21, if word == 0 { 0x47 } else { 1 });
        }
        assert_eq!(pic.pending(), Some(0x41), "{first:#x}: the base has five bits");
        pic.write(0x21, 0xff);
        assert_eq!(
            (pic.read(0x21), pic.pending().is_some()),
            (0xff, false),
            "the next is the mask"
        );
    }
}

#[test]
fn the_first_word_clears_mask_service_and_edges() {
    let mut pic = working(1);
    pic.write(0x21, 0x80);
    raise(&mut pic, &[3, 4]);
    pic.acknowledge();
    pic.write(0x20, 0x0b);
    pic.write(0x20, 0x68);
    pic.write(0x20, 0xc3);
    pic.write(0x20, 0x11);
    for value in [0x20, 4, 1] {
        pic.write(0x21, value);
    }
    assert_eq!((pic.read(0x20), pic.read(0x21)), (0, 0), "requests are what a read shows");
    assert_eq!(registers(&mut pic, 0x20), (0, 0));
    pic.set_line(4, false);
    raise(&mut pic, &[7, 4]);
    assert_eq!(pic.acknowledge(), 0x24, "line 7 is the lowest again");
}

#[test]
fn fully_nested_priorities() {
    let mut pic = working(1);
    raise(&mut pic, &[6, 3, 9]);
    assert_eq!(pic.acknowledge(), 0x29, "the second controller comes before line 3");
    assert!(pic.pending().is_none());
    pic.set_line(1, true);
    assert_eq!(pic.acknowledge(), 0x21, "more urgent ones interrupt");
    assert_eq!(registers(&mut pic, 0x20), (1 << 6 | 1 << 3, 1 << 1 | 1 << 2));
    pic.write(0x20, 0x20);
    assert!(pic.pending().is_none(), "line 2 is still in service");
    pic.write(0xa0, 0x20);
    pic.write(0x20, 0x20);
    assert_eq!(pic.acknowledge(), 0x23);
    pic.write(0x20, 0x63);
    assert_eq!(pic.acknowledge(), 0x26, "an end by name");
    assert_eq!(registers(&mut pic, 0x20), (0, 1 << 6));
}

#[test]
fn a_request_that_is_gone_is_spurious_and_not_in_service() {
    let mut pic = working(1);
    pic.set_line(3, true);
    pic.set_line(3, false);
    assert!(pic.pending().is_none());
    assert_eq!(pic.acknowledge(), 0x27);
    assert_eq!(registers(&mut pic, 0x20), (0, 0));
    pic.set_line(11, true);
    pic.set_line(11, false);
    assert_eq!(pic.acknowledge(), 0x2f);
    assert_eq!(registers(&mut pic, 0x20), (0, 1 << 2), "the cascade is in service");
    assert_eq!(registers(&mut pic, 0xa0), (0, 0));
}

#[test]
fn the_other_controllers_next_request_follows_the_end_of_the_first() {
    let mut pic = working(1);
    raise(&mut pic, &[8, 15]);
    assert_eq!(pic.acknowledge(), 0x28);
    pic.write(0xa0, 0x20);
    pic.write(0x20, 0x20);
    assert_eq!(pic.acknowledge(), 0x2f);
}

#[test]
fn special_fully_nested_lets_the_other_controller_interrupt_itself() {
    for (mode, expected) in [(0x01, None), (0x11, Some(0x28))] {
        let mut pic = working(mode);
        pic.set_line(12, true);
        assert_eq!(pic.acknowledge(), 0x2c);
        pic.set_line(8, true);
        assert_eq!(pic.pending(), expected);
        pic.set_line(1, true);
        assert_eq!(pic.pending(), Some(0x21));
    }
}

#[test]
fn automatic_ends_leave_nothing_in_service() {
    let mut pic = working(3);
    raise(&mut pic, &[5, 6]);
    assert_eq!((pic.acknowledge(), pic.acknowledge()), (0x25, 0x26));
    assert_eq!(registers(&mut pic, 0x20), (0, 0));
    // Rotation in this mode makes the one that was taken the lowest.
    pic.write(0x20, 0x80);
    for (lines, expected) in [([4, 5], 0x24), ([4, 5], 0x25), ([0, 1], 0x20)] {
        for line in lines {
            pic.set_line(line, false);
            pic.set_line(line, true);
        }
        assert_eq!(pic.acknowledge(), expected);
    }
    pic.write(0x20, 0x00);
    pic.set_line(4, false);
    assert_eq!(pic.acknowledge(), 0x21);
    for line in [0, 1] {
        pic.set_line(line, false);
        pic.set_line(line, true);
    }
    assert_eq!((pic.acknowledge(), pic.acknowledge()), (0x21, 0x20), "rotation has stopped");
}

#[test]
fn rotations_move_the_lowest_priority() {
    let order = |commands: &[u8]| {
        let mut pic = working(1);
        pic.set_line(4, true);
        pic.acknowledge();
        commands.iter().for_each(|&command| pic.write(0x20, command));
        pic.write(0x20, 0x64);
        pic.set_line(4, false);
        raise(&mut pic, &[0, 1, 3, 4, 5, 6, 7]);
        let take = |pic: &mut Pic| {
            let vector = pic.acknowledge();
            pic.write(0x20, 0x60 | vector & 7);
            vector & 7
        };
        (0..7).map(|_| take(&mut pic)).collect::<Vec<_>>()
    };
    assert_eq!(order(&[]), [0, 1, 3, 4, 5, 6, 7]);
    assert_eq!(order(&[0xa0]), [5, 6, 7, 0, 1, 3, 4], "rotate on an end without name");
    assert_eq!(order(&[0xe6]), [7, 0, 1, 3, 4, 5, 6], "rotate on an end by name");
    assert_eq!(order(&[0xc0]), [1, 3, 4, 5, 6, 7, 0], "set the lowest");
    assert_eq!(order(&[0x40]), [0, 1, 3, 4, 5, 6, 7], "no operation");
}

#[test]
fn the_special_mask_lets_less_urgent_lines_through() {
    let mut pic = working(1);
    pic.set_line(1, true);
    pic.acknowledge();
    pic.set_line(5, true);
    pic.write(0x21, 1 << 1);
    assert!(pic.pending().is_none());
    pic.write(0x20, 0x68);
    assert_eq!(pic.pending(), Some(0x25));
    pic.write(0x20, 0x20);
    assert_eq!(registers(&mut pic, 0x20).1, 1 << 1, "a masked one needs its name to end");
    pic.write(0x20, 0x48);
    assert!(pic.pending().is_none());
}

#[test]
fn a_poll_acknowledges() {
    let mut pic = working(1);
    pic.write(0x20, 0x0c);
    assert_eq!(pic.read(0x20), 0, "nothing is there");
    raise(&mut pic, &[6, 10]);
    pic.write(0x20, 0x0c);
    assert_eq!(pic.read(0x20), 0x82);
    pic.write(0xa0, 0x0c);
    assert_eq!(pic.read(0xa1), 0x82);
    assert_eq!(registers(&mut pic, 0xa0), (0, 1 << 2));
    pic.write(0xa0, 0x20);
    pic.write(0x20, 0x20);
    assert_eq!(pic.pending(), Some(0x26), "the poll has answered the cascade");
}

#[test]
fn levels_request_as_long_as_they_are_active() {
    let mut pic = working(1);
    pic.write(0x4d0, 0xff);
    pic.write(0x4d1, 0xff);
    assert_eq!((pic.read(0x4d0), pic.read(0x4d1)), (0xf8, 0xde));
    for (line, vector) in [(5, 0x25), (11, 0x2b)] {
        pic.set_line(line, true);
        for _ in 0..2 {
            assert_eq!(pic.acknowledge(), vector);
            pic.write(0xa0, 0x20);
            pic.write(0x20, 0x20);
        }
        pic.set_line(line, false);
        if line == 11 {
            assert_eq!(pic.acknowledge(), 0x2f);
            pic.write(0x20, 0x20);
        }
        assert!(pic.pending().is_none());
    }
    // An edge line needs another edge.
    pic.set_line(0, true);
    assert_eq!(pic.acknowledge(), 0x20);
    pic.write(0x20, 0x20);
    pic.set_line(0, true);
    assert!(pic.pending().is_none());
    // A line that is active when it becomes a level.
    pic.write(0x4d0, 0);
    pic.set_line(6, true);
    pic.acknowledge();
    pic.write(0x20, 0x20);
    pic.write(0x4d0, 1 << 6);
    assert_eq!(pic.pending(), Some(0x26));
}

#[test]
fn other_ports_and_lines_are_not_there() {
    let mut pic = working(1);
    raise(&mut pic, &[2, 16, 255]);
    assert!(pic.pending().is_none());
    for port in [0, 0x22, 0xa2, 0x4cf, 0x4d2, 0xffff] {
        pic.write(port, 0);
        assert_eq!(pic.read(port), 0xff);
    }
}

/// One controller, with the priorities as a list and every rule where the data sheet has it.
#[derive(Clone)]
struct SlowChip {
    order: Vec<u8>,
    line: [bool; 8],
    request: [bool; 8],
    service: [bool; 8],
    masked: [bool; 8],
    level: [bool; 8],
    base: u8,
    words: Vec<&'static str>,
    auto_end: bool,
    auto_rotate: bool,
    special_mask: bool,
    special_nested: bool,
    read_service: bool,
    poll: bool,
    cascade: Option<usize>,
}

fn bits(set: &[bool; 8]) -> u8 {
    (0..8).map(|n| u8::from(set[n]) << n).sum()
}

impl SlowChip {
    fn new(cascade: Option<usize>) -> SlowChip {
        SlowChip {
            order: (0..8).collect(),
            line: [false; 8],
            request: [false; 8],
            service: [false; 8],
            masked: [true; 8],
            level: [false; 8],
            base: 0,
            words: vec![],
            auto_end: false,
            auto_rotate: false,
            special_mask: false,
            special_nested: false,
            read_service: false,
            poll: false,
            cascade,
        }
    }

    fn set(&mut self, n: usize, active: bool) {
        let rises = active && !self.line[n];
        self.line[n] = active;
        if rises || active && (self.level[n] || self.cascade == Some(n)) {
            self.request[n] = true;
        }
        if !active && self.cascade != Some(n) {
            self.request[n] = false;
        }
    }

    fn winner(&self) -> Option<u8> {
        if !self.words.is_empty() {
            return None;
        }
        for &n in &self.order {
            let at = usize::from(n);
            let nested = self.special_nested && self.cascade == Some(at);
            if self.request[at] && !self.masked[at] {
                let busy = self.service[at] && !(self.special_mask && self.masked[at]);
                return (!busy || nested).then_some(n);
            }
            let ignored = self.special_mask && self.masked[at] || nested;
            if self.service[at] && !ignored {
                return None;
            }
        }
        None
    }

    fn rotate(&mut self, lowest: u8) {
        self.order = (1..=8).map(|step| (lowest + step) % 8).collect();
    }

    fn take(&mut self, n: u8) {
        let at = usize::from(n);
        self.request[at] &= self.level[at];
        if self.auto_end {
            if self.auto_rotate {
                self.rotate(n);
            }
        } else {
            self.service[at] = true;
        }
    }

    fn write(&mut self, is_data: bool, value: u8) {
        if is_data {
            if self.words.is_empty() {
                self.masked = std::array::from_fn(|n| value >> n & 1 != 0);
                return;
            }
            match self.words.remove(0) {
                "base" => self.base = value / 8 * 8,
                "mode" => {
                    self.auto_end = value & 2 != 0;
                    self.special_nested = value & 16 != 0;
                }
                _ => {}
            }
        } else if value & 0x10 != 0 {
            let old = self.clone();
            *self = SlowChip::new(old.cascade);
            (self.line, self.level, self.base) = (old.line, old.level, old.base);
            for n in 0..8 {
                self.masked[n] = false;
                self.request[n] = self.line[n] && (self.level[n] || self.cascade == Some(n));
            }
            self.words = vec!["base"];
            if value & 2 == 0 {
                self.words.push("cascade");
            }
            if value & 1 != 0 {
                self.words.push("mode");
            }
        } else if value & 8 != 0 {
            match value & 3 {
                2 => self.read_service = false,
                3 => self.read_service = true,
                _ => {}
            }
            self.poll = value & 4 != 0;
            if value & 0x40 != 0 {
                self.special_mask = value & 0x20 != 0;
            }
        } else {
            self.end(value >> 5, value & 7);
        }
    }

    fn end(&mut self, command: u8, name: u8) {
        let in_service = |n: &u8| {
            let at = usize::from(*n);
            self.service[at] && !(self.special_mask && self.masked[at])
        };
        let urgent = self.order.iter().copied().find(in_service);
        match command {
            0b000 => self.auto_rotate = false,
            0b100 => self.auto_rotate = true,
            0b001 | 0b101 => {
                if let Some(n) = urgent {
                    self.service[usize::from(n)] = false;
                    if command == 0b101 {
                        self.rotate(n);
                    }
                }
            }
            0b011 => self.service[usize::from(name)] = false,
            0b111 => {
                self.service[usize::from(name)] = false;
                self.rotate(name);
            }
            0b110 => self.rotate(name),
            _ => {}
        }
    }
}

struct Slow([SlowChip; 2]);

impl Slow {
    fn wire(&mut self) {
        let active = self.0[1].winner().is_some();
        self.0[0].set(2, active);
    }

    fn acknowledge(&mut self) -> u8 {
        let vector = match self.0[0].winner() {
            None => self.0[0].base + 7,
            Some(2) => {
                self.0[0].take(2);
                let behind = self.0[1].winner();
                if let Some(n) = behind {
                    self.0[1].take(n);
                }
                self.0[1].base + behind.unwrap_or(7)
            }
            Some(n) => {
                self.0[0].take(n);
                self.0[0].base + n
            }
        };
        self.wire();
        vector
    }

    fn read(&mut self, chip: usize, is_data: bool) -> u8 {
        if chip == 1 && self.0[1].poll {
            self.0[0].request[2] = false;
        }
        let slow = &mut self.0[chip];
        let value = if std::mem::take(&mut slow.poll) {
            let winner = slow.winner();
            if let Some(n) = winner {
                slow.take(n);
            }
            winner.map_or(0, |n| 0x80 + n)
        } else if is_data {
            bits(&slow.masked)
        } else if slow.read_service {
            bits(&slow.service)
        } else {
            bits(&slow.request)
        };
        self.wire();
        value
    }
}

#[derive(Clone, Debug)]
enum Op {
    Line(u8, bool),
    Acknowledge,
    Write(usize, bool, u8),
    Read(usize, bool),
    Level(usize, u8),
    Initialize(usize, u8, u8),
}

fn op() -> impl Strategy<Value = Op> {
    let line = (0..16u8).prop_filter("the cascade", |line| *line != 2);
    prop_oneof![
        8 => (line, any::<bool>()).prop_map(|(line, active)| Op::Line(line, active)),
        5 => Just(Op::Acknowledge),
        4 => (0..2usize, any::<u8>()).prop_map(|(chip, v)| Op::Write(chip, false, v & !0x10)),
        1 => (0..2usize, any::<u8>()).prop_map(|(chip, v)| Op::Write(chip, false, v)),
        2 => (0..2usize, any::<u8>(), any::<u8>()).prop_map(|(c, v, w)| Op::Write(c, true, v & w)),
        3 => (0..2usize, any::<bool>()).prop_map(|(chip, data)| Op::Read(chip, data)),
        1 => (0..2usize, any::<u8>()).prop_map(|(chip, value)| Op::Level(chip, value)),
        1 => (0..2usize, any::<u8>(), any::<u8>()).prop_map(|(c, b, m)| Op::Initialize(c, b, m)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn random_programs_do_what_the_slow_model_does(ops in prop::collection::vec(op(), 1..200)) {
        let mut pic = working(1);
        let mut slow = Slow([SlowChip::new(Some(2)), SlowChip::new(None)]);
        for (chip, base) in [(0, 0x20), (1, 0x28)] {
            slow.0[chip].write(false, 0x11);
            [base, 0, 1].into_iter().for_each(|word| slow.0[chip].write(true, word));
        }
        let port = |chip: usize, data: bool| [0x20, 0xa0][chip] + u16::from(data);
        for op in ops {
            match op {
                Op::Line(line, active) => {
                    pic.set_line(line, active);
                    slow.0[usize::from(line / 8)].set(usize::from(line % 8), active);
                    slow.wire();
                }
                Op::Acknowledge => prop_assert_eq!(pic.acknowledge(), slow.acknowledge()),
                Op::Write(chip, data, value) => {
                    pic.write(port(chip, data), value);
                    slow.0[chip].write(data, value);
                    slow.wire();
                }
                Op::Read(chip, data) => {
                    prop_assert_eq!(pic.read(port(chip, data)), slow.read(chip, data));
                }
                Op::Level(chip, value) => {
                    pic.write(0x4d0 + chip as u16, value);
                    let value = value & [0xf8, 0xde][chip];
                    for n in 0..8 {
                        slow.0[chip].level[n] = value >> n & 1 != 0;
                        slow.0[chip].request[n] |= slow.0[chip].level[n] && slow.0[chip].line[n];
                    }
                    slow.wire();
                }
                Op::Initialize(chip, base, mode) => {
                    for (data, value) in [(false, 0x11), (true, base), (true, 0), (true, mode)] {
                        pic.write(port(chip, data), value);
                        slow.0[chip].write(data, value);
                        slow.wire();
                    }
                }
            }
            let winner = slow.0[0].winner();
            prop_assert_eq!(pic.pending().is_some(), winner.is_some());
            if winner.is_some() {
                let mut ahead = Slow(slow.0.clone());
                prop_assert_eq!(pic.pending(), Some(ahead.acknowledge()));
            }
        }
    }
}
