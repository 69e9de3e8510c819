//! A physical function against a simulated controller: what its virtual functions get, and that a
//! driver which starts again takes none of them down.

#[path = "sim/mod.rs"]
mod sim;

use cloister_block_testing::Clock;
use cloister_nvme_core::{Failure, Physical, QUEUES, Registers, VECTORS};
use sim::{Evil, Model, Second, Sim, SimMemory};

/// What makes a controller one that cannot be used.
type Breakage = fn(&Sim);

type Driver = Physical<Sim, SimMemory>;

const IDS: [u16; 4] = [9, 3, 4, 200];

fn sim() -> Sim {
    let sim = Sim::new(Model::default(), 50);
    let seconds = IDS.map(|id| Second { id, ..Second::default() });
    sim.0.borrow_mut().seconds = seconds.to_vec();
    sim
}

/// A life of the driver, which finds its memory wiped.
fn life(sim: &Sim) -> Driver {
    sim.0.borrow_mut().own.fill(0);
    Physical::new(sim.clone(), sim.memory()).unwrap()
}

fn started(functions: u16) -> Sim {
    let sim = sim();
    let driver = life(&sim);
    assert!(!driver.is_running());
    // Firmware leaves it running, with queues of its own.
    let firmware = [(0x24, 0x1f_001f), (0x28, 0x7000), (0x30, 0x8000), (0x14, 0x46_0001)];
    firmware.into_iter().for_each(|(at, value)| sim.write(at, value).unwrap());
    assert!(driver.is_ready() && !driver.is_running());
    driver.stop(&Clock::default()).unwrap();
    driver.start(&Clock::default(), functions).unwrap();
    assert!(driver.is_running() && driver.is_ready());
    sim
}

#[test]
fn each_virtual_function_gets_its_namespace_and_what_it_needs() {
    let sim = started(3);
    let state = sim.0.borrow();
    let expected = |number: usize| Second {
        id: IDS[number - 1],
        online: number < 4,
        queues: if number < 4 { QUEUES } else { 0 },
        vectors: if number < 4 { VECTORS } else { 0 },
        namespaces: if number < 4 { vec![number as u32] } else { vec![] },
        falls: 0,
    };
    assert_eq!(state.seconds, [1, 2, 3, 4].map(expected));
}

#[test]
fn the_next_lives_go_on_without_a_reset() {
    let sim = started(2);
    let before = sim.0.borrow().seconds.clone();
    for _ in 0..3 {
        let driver = life(&sim);
        assert!(driver.is_running());
        driver.adopt(&Clock::default(), 2).unwrap();
    }
    assert_eq!((&sim.0.borrow().seconds, sim.0.borrow().resets), (&before, 1));
    // One that went down meanwhile comes up, and the other stays.
    sim.0.borrow_mut().seconds[0].online = false;
    life(&sim).adopt(&Clock::default(), 2).unwrap();
    assert_eq!((&sim.0.borrow().seconds, sim.0.borrow().resets), (&before, 1));
}

#[test]
fn a_life_that_ended_on_the_way_costs_a_reset() {
    let sim = started(2);
    // It died behind its third command.
    let admin = sim.0.borrow().admin_count;
    assert!(admin.is_multiple_of(64), "{admin} commands do not end where a queue begins");
    for _ in 0..3 {
        let tail = sim.0.borrow().admin_count % 32 + 1;
        sim.memory_identify(tail - 1);
        sim.write(0x1000, tail).unwrap();
        sim.write(0x1004, tail).unwrap();
    }
    let driver = life(&sim);
    let found = driver.adopt(&Clock::default(), 2);
    assert_eq!(found, Err(Failure::Silent { opcode: 6 }));
    driver.stop(&Clock::default()).unwrap();
    driver.start(&Clock::default(), 2).unwrap();
    let state = sim.0.borrow();
    let falls: Vec<_> = state.seconds.iter().map(|s| (s.online, s.falls)).collect();
    assert_eq!(falls, [(true, 1), (true, 1), (false, 0), (false, 0)]);
    assert_eq!(state.seconds[1].namespaces, [2], "attached once");
}

#[test]
fn lists_that_lie_and_controllers_that_fail_are_failures() {
    let cases: [(Failure, Breakage); 4] = [
        (Failure::NoFunction { number: 1 }, |sim| sim.0.borrow_mut().claimed = Some(0)),
        (Failure::NoFunction { number: 1 }, |sim| {
            sim.0.borrow_mut().seconds.clear();
            sim.0.borrow_mut().claimed = Some(255);
        }),
        (Failure::Silent { opcode: 6 }, |sim| sim.0.borrow_mut().evil = Evil::Silent),
        (Failure::NotReady, |sim| sim.0.borrow_mut().evil = Evil::Stuck),
    ];
    for (failure, change) in cases {
        let sim = sim();
        change(&sim);
        let driver = life(&sim);
        driver.stop(&Clock::default()).unwrap();
        assert_eq!(driver.start(&Clock::default(), 2), Err(failure));
    }
    // Fewer than are wanted: those that are there come up.
    let sim = sim();
    let driver = life(&sim);
    driver.stop(&Clock::default()).unwrap();
    let found = driver.start(&Clock::default(), 5);
    assert_eq!(found, Err(Failure::NoFunction { number: 5 }));
}
