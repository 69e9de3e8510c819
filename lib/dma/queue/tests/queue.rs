//! A queue against a device that is played by the test: chains, addresses, lengths, faults.

use cloister_dma::{Memory, Region};
use cloister_dma_queue::{
    DeviceStatus, DeviceType, ENTRIES, Error, Fault, InterruptStatus, Lengths, PhysAddr, Queue,
    RINGS_BYTES, Refused, SEGMENTS_MAX, Segment, Transport,
};

/// A device's registers, as far as a queue has some.
struct Fake {
    size: u32,
    used: bool,
    areas: Vec<(u16, u32, [u64; 3])>,
}

impl Fake {
    fn new() -> Fake {
        Fake { size: 128, used: false, areas: Vec::new() }
    }
}

impl Transport for Fake {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn read_device_features(&mut self) -> u64 {
        0
    }

    fn write_driver_features(&mut self, _: u64) {}

    fn max_queue_size(&mut self, _: u16) -> u32 {
        self.size
    }

    fn notify(&mut self, _: u16) {}

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::empty()
    }

    fn set_status(&mut self, _: DeviceStatus) {}

    fn set_guest_page_size(&mut self, _: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(&mut self, queue: u16, size: u32, a: PhysAddr, b: PhysAddr, c: PhysAddr) {
        self.areas.push((queue, size, [a, b, c]));
    }

    fn queue_unset(&mut self, _: u16) {}

    fn queue_used(&mut self, _: u16) -> bool {
        self.used
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::empty()
    }

    fn read_config_generation(&self) -> u32 {
        0
    }

    fn read_config_space<T>(&self, _: usize) -> Result<T, Error> {
        Err(Error::Unsupported)
    }

    fn write_config_space<T>(&mut self, _: usize, _: T) -> Result<(), Error> {
        Err(Error::Unsupported)
    }
}

/// A queue that is open, and the device's view of its rings. Lengths are so many bytes.
fn open(bytes: usize) -> (Queue<'static>, Region) {
    let (memory, device) = cloister_dma_testing::pages(2);
    let lengths = Lengths::new(Box::leak(vec![0xa5; bytes].into_boxed_slice()));
    let mut queue = Queue::new(memory, lengths).unwrap();
    let mut fake = Fake::new();
    queue.open(&mut fake, 3).unwrap();
    let at = |offset| device.address(offset);
    assert_eq!(fake.areas, [(3, 128, [at(0), at(2048), at(4096)])]);
    (queue, device)
}

fn u16_at(device: &Region, at: u64) -> u16 {
    let mut bytes = [0; 2];
    device.read(at, &mut bytes).unwrap();
    u16::from_le_bytes(bytes)
}

/// The buffers of a chain: address, length, whether the device writes it.
fn chain(device: &Region, head: u16) -> Vec<(u64, u32, bool)> {
    let (mut at, mut buffers) = (head, Vec::new());
    loop {
        let descriptor = u64::from(at) * 16;
        let word = device.load_u64(descriptor + 8).unwrap();
        let (len, flags) = (word as u32, word >> 32 & 0xffff);
        buffers.push((device.load_u64(descriptor).unwrap(), len, flags & 2 != 0));
        if flags & 1 == 0 {
            return buffers;
        }
        at = (word >> 48) as u16;
    }
}

/// The device uses chains: all that it has used so far, of which the last are these.
fn tell(device: &Region, count: u16, elements: &[(u32, u32)]) {
    for (place, (id, len)) in (0..).zip(elements) {
        let place = u64::from(count.wrapping_sub(elements.len() as u16).wrapping_add(place) % 128);
        device.store_u32(4096 + 4 + 8 * place, *id).unwrap();
        device.store_u32(4096 + 8 + 8 * place, *len).unwrap();
    }
    device.store_u32(4096, u32::from(count) << 16).unwrap();
}

fn at(address: u64, len: u64) -> Segment {
    Segment { address, len }
}

#[test]
fn the_device_gets_addresses_that_no_slice_has() {
    let (mut queue, device) = open(1000);
    let far = 0x40_0000_0000;
    let head = queue.add(&[at(far, 16), at(7, 1)], &[at(far + 99, 900), at(u64::MAX, 1)]).unwrap();
    let expected = [(far, 16, false), (7, 1, false), (far + 99, 900, true), (u64::MAX, 1, true)];
    assert_eq!(chain(&device, head), expected);
    assert_eq!((u16_at(&device, 2048 + 2), u16_at(&device, 2048 + 4)), (1, head));
    let other = queue.add(&[at(1, 2)], &[]).unwrap();
    assert_eq!((chain(&device, other), other == head), (vec![(1, 2, false)], false));
    assert!(queue.take().is_none());
    tell(&device, 1, &[(other.into(), 0)]);
    assert_eq!((queue.take(), queue.take()), (Some(Ok((other, 0))), None));
    tell(&device, 2, &[(head.into(), 901)]);
    assert_eq!(queue.take(), Some(Ok((head, 901))));
}

#[test]
fn lengths_bound_a_chain() {
    let (mut queue, _) = open(100);
    // What is read shares them, what is written does not.
    assert!(queue.add(&[at(1, 60), at(2, 60), at(3, 60)], &[at(4, 40)]).is_ok());
    let unfit: [(&[Segment], &[Segment]); 7] = [
        (&[], &[]),
        (&[at(1, 0)], &[]),
        (&[at(1, 1)], &[at(1, 0)]),
        (&[at(1, 101)], &[]),
        (&[at(1, 60)], &[at(1, 41)]),
        (&[], &[at(1, 51), at(1, 50)]),
        (&[at(1, u64::MAX)], &[at(1, u64::MAX)]),
    ];
    for (read, written) in unfit {
        assert_eq!(queue.add(read, written), Err(Refused::Unfit), "{read:?} {written:?}");
    }
    let many = [at(1, 1); SEGMENTS_MAX + 1];
    assert!(queue.add(&many[..1], &many[2..]).is_ok());
    assert_eq!(queue.add(&many[..1], &many[1..]), Err(Refused::Unfit));
}

#[test]
fn a_full_queue_says_so_and_has_room_again() {
    let (mut queue, device) = open(100);
    let two = [at(1, 1); 2];
    let heads: Vec<u16> = (0..ENTRIES / 2).map(|_| queue.add(&two, &[]).unwrap()).collect();
    assert_eq!(queue.add(&two[..1], &[]), Err(Refused::Full));
    tell(&device, 1, &[(heads[9].into(), 0)]);
    assert_eq!(queue.take(), Some(Ok((heads[9], 0))));
    assert_eq!(queue.add(&two, &two[..1]), Err(Refused::Full));
    assert_eq!(queue.add(&two[..1], &two[..1]).map(drop), Ok(()));
    assert_eq!(queue.add(&two[..1], &[]), Err(Refused::Full));
}

#[test]
fn whatever_else_is_used_is_a_fault_once_and_then_nothing() {
    for (elements, count, fault) in [
        (vec![(0, 0), (2, 0), (4, 0)], 3, Fault::TooMany { count: 3 }),
        (vec![], 0xffff, Fault::TooMany { count: 0xffff }),
        (vec![(1, 0)], 1, Fault::NoSuchChain { id: 1 }),
        (vec![(127, 0)], 1, Fault::NoSuchChain { id: 127 }),
        (vec![(128, 0)], 1, Fault::NoSuchChain { id: 128 }),
        (vec![(0xffff, 0)], 1, Fault::NoSuchChain { id: 0xffff }),
        (vec![(0x1_0000, 0)], 1, Fault::NoSuchChain { id: 0x1_0000 }),
        (vec![(u32::MAX, 0)], 1, Fault::NoSuchChain { id: u32::MAX }),
    ] {
        let (mut queue, device) = open(100);
        assert_eq!(queue.add(&[at(1, 1)], &[at(2, 1)]), Ok(0));
        assert_eq!(queue.add(&[at(1, 1)], &[at(2, 1)]), Ok(2));
        tell(&device, count, &elements);
        assert_eq!(queue.take(), Some(Err(fault)), "{fault:?}");
        assert_eq!((queue.take(), queue.wants_notice()), (None, false), "{fault:?}");
        assert_eq!(queue.add(&[at(1, 1)], &[]), Err(Refused::Unfit), "{fault:?}");
        queue.open(&mut Fake::new(), 3).unwrap();
        assert_eq!((queue.take(), queue.add(&[at(1, 1)], &[])), (None, Ok(0)), "{fault:?}");
    }
    // Twice, the second time after it was taken.
    let (mut queue, device) = open(100);
    assert_eq!((queue.add(&[at(1, 1)], &[]), queue.add(&[at(1, 1)], &[])), (Ok(0), Ok(1)));
    tell(&device, 2, &[(0, 0), (0, 0)]);
    assert_eq!(queue.take(), Some(Ok((0, 0))));
    assert_eq!(queue.take(), Some(Err(Fault::NoSuchChain { id: 0 })));
}

#[test]
fn a_queue_needs_memory_and_a_device_with_room() {
    let lengths = || Lengths::new(Box::leak(Box::new([0; 8])));
    let (memory, _) = cloister_dma_testing::pages(2);
    let (first, rest) = memory.split(RINGS_BYTES - 8).unwrap();
    assert!(Queue::new(first, lengths()).is_none() && Queue::new(rest, lengths()).is_none());
    let (memory, _) = cloister_dma_testing::pages(3);
    let (_, odd) = memory.split(8).unwrap();
    assert!(Queue::new(odd, lengths()).is_none());
    let (memory, _) = cloister_dma_testing::pages(2);
    let mut queue = Queue::new(memory, lengths()).unwrap();
    assert_eq!((queue.add(&[at(1, 1)], &[]), queue.take()), (Err(Refused::Unfit), None));
    let small = queue.open(&mut Fake { size: 127, ..Fake::new() }, 0);
    assert_eq!(small, Err(Error::InvalidParam));
    let busy = queue.open(&mut Fake { used: true, ..Fake::new() }, 0);
    assert_eq!(busy, Err(Error::AlreadyUsed));
    assert_eq!(queue.open(&mut Fake::new(), 0), Ok(()));
}

#[test]
fn queues_of_several_threads_do_not_mix_their_addresses() {
    let threads: Vec<_> = (1..5u64)
        .map(|thread| {
            std::thread::spawn(move || {
                let (mut queue, device) = open(100);
                for round in 0..20_000u16 {
                    let read = [at(thread << 32 | 1, 3), at(thread << 32 | 2, 4)];
                    let head = queue.add(&read, &[at(thread << 32 | 3, 5)]).unwrap();
                    let expected = [(1, 3, false), (2, 4, false), (3, 5, true)];
                    let expected = expected.map(|(at, len, w)| (thread << 32 | at, len, w));
                    assert_eq!(chain(&device, head), expected);
                    tell(&device, round.wrapping_add(1), &[(head.into(), 5)]);
                    assert_eq!(queue.take(), Some(Ok((head, 5))));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}
