//! The device side of a split ring, in memory that watches every access.
//!
//! Rules: no access leaves RAM; a chain has no more bytes or buffers than a ring can name; no chain
//! is in flight twice; a chain that is completed moves the used index by one; a queue that has died
//! says so for ever, by the same rule, and touches nothing (virtio 1.3, "Split Virtqueues").

use cloister_virtio::{Chain, Head, Queue, Record, Rule, features};
use cloister_virtio_testing::{Driver, TestRam};

use crate::{Input, mark};

/// Small, so that addresses of one byte hit areas, buffers and the end.
const RAM: u64 = 0x400;

/// Does what the bytes say.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let ram = TestRam::new(RAM as usize);
    let driver = Driver::new(0x40, 1 << (input.byte() & 3));
    let features = input.pick(&[0, features::INDIRECT_DESC, features::EVENT_IDX, features::RINGS]);
    let [size, descriptors, area, device] = driver.record();
    let mut record = Record { size, descriptors, driver: area, device };
    if input.byte() & 0xf == 0 {
        // Sometimes a queue that cannot be.
        let wrong = input.value();
        *[&mut record.size, &mut record.descriptors, &mut record.driver, &mut record.device]
            [usize::from(input.byte() & 3)] = wrong;
    }
    let Ok(mut queue) = Queue::new(&record, features, 8, 1, &&ram) else {
        return assert_eq!(ram.outside(), 0, "accesses of a queue that was refused");
    };
    let (mut held, mut used): (Vec<Head>, u16) = (Vec::new(), 0);
    while !input.is_empty() {
        disturb(&ram, &driver, &mut input);
        work(&mut queue, &ram, record.device, (&mut held, &mut used), &mut input);
        assert_eq!(ram.outside(), 0, "accesses outside of RAM");
        assert_eq!(usize::from(queue.in_flight()), held.len(), "chains in flight");
        if let Some(rule) = queue.dead() {
            mark("dead");
            return judge_dead(&mut queue, &ram, rule);
        }
    }
}

/// The guest writes: a descriptor, an entry, the index, a wish, anything.
fn disturb(ram: &TestRam, driver: &Driver, input: &mut Input<'_>) {
    let [table, available, device] = driver.areas;
    let kind = input.byte();
    let place = u64::from(kind >> 4) % u64::from(driver.size);
    match kind & 7 {
        0..3 => {
            let at = match input.byte() {
                250.. => input.value(),
                near => u64::from(near) << 2,
            };
            let len =
                if input.byte() > 20 { u32::from(input.byte()) } else { input.value() as u32 };
            let (flags, next) = (input.byte() & 7, input.byte() & 15);
            let table = if kind & 8 == 0 { table } else { 0x300 };
            let at_descriptor = table + 16 * place;
            ram.poke(at_descriptor, &at.to_le_bytes());
            ram.poke(at_descriptor + 8, &len.to_le_bytes());
            ram.poke(at_descriptor + 12, &u16::from(flags).to_le_bytes());
            ram.poke(at_descriptor + 14, &u16::from(next).to_le_bytes());
        }
        3 => {
            ram.poke(available + 4 + 2 * place, &u16::from(input.byte() & 15).to_le_bytes());
        }
        4 | 5 => {
            let more = if kind & 8 == 0 { 1 } else { input.short() };
            let index = ram.peek_u16(available + 2).wrapping_add(more);
            ram.poke(available + 2, &index.to_le_bytes());
        }
        6 => driver.set_wish(ram, u16::from(input.byte() & 1), u16::from(input.byte())),
        _ => {
            let at = if kind & 8 == 0 { device } else { u64::from(input.byte()) << 2 };
            ram.poke(at.min(RAM - 8), &input.value().to_le_bytes());
        }
    }
}

/// The device does one of its things. What breaks a rule shows in the queue.
fn work(
    queue: &mut Queue,
    ram: &TestRam,
    used_at: u64,
    (held, used): (&mut Vec<Head>, &mut u16),
    input: &mut Input<'_>,
) {
    match input.byte() & 7 {
        0..4 => {
            let mut chain = Chain::<16>::default();
            if let Ok(Some(head)) = queue.fetch(&ram, &mut chain) {
                judge_chain(&chain, ram);
                held.push(head);
                mark("chain");
            }
        }
        4 | 5 if !held.is_empty() => {
            let head = held.swap_remove(usize::from(input.byte()) % held.len());
            if queue.complete(&ram, head, input.word()).is_ok() {
                *used = used.wrapping_add(1);
                assert_eq!(ram.peek_u16(used_at + 2), *used, "the used index");
                mark("used");
            }
        }
        6 => {
            if queue.wants_interrupt(&ram) == Ok(true) {
                mark("interrupt");
            }
        }
        _ => {
            if queue.listen(&ram).is_ok() {
                mark("listens");
            }
        }
    }
}

/// Bytes can be read and written from end to end, and no further.
fn judge_chain(chain: &Chain<16>, ram: &TestRam) {
    let (read, written) = (chain.readable_len(), chain.writable_len());
    assert!(read + written <= 16 * RAM, "{read} and {written} bytes in a RAM of {RAM}");
    let mut bytes = vec![0; read as usize + 4];
    assert_eq!(chain.read(&ram, 0, &mut bytes), Ok(read as usize), "all that is to be read");
    assert_eq!(chain.read(&ram, read, &mut bytes).unwrap_or(0), 0, "nothing behind it");
    if written != 0 {
        assert_eq!(chain.write(&ram, written - 1, b"zz").unwrap_or(1), 1, "the last byte, no more");
    }
}

/// A dead queue stays dead and touches nothing.
fn judge_dead(queue: &mut Queue, ram: &TestRam, rule: Rule) {
    let accesses = ram.accesses();
    let mut chain = Chain::<16>::default();
    assert_eq!(queue.fetch(&ram, &mut chain).err(), Some(rule));
    assert_eq!(queue.listen(&ram), Err(rule));
    assert_eq!(queue.hush(&ram), Err(rule));
    assert_eq!(queue.wants_interrupt(&ram), Err(rule));
    assert_eq!(ram.accesses(), accesses, "a dead queue touched memory");
}
