//! The virtio transport against the specification, and against an independent model.
#![cfg(not(loom))]

#[path = "support/transport.rs"]
mod transport;

use std::sync::atomic::Ordering::Relaxed;

use cloister_monitor::virtio::{Action, Virtio, VirtioError};
use cloister_proto::policy;
use cloister_virtio::{Offer, Order, Worker, wire};
use proptest::prelude::*;
use transport::{MEMORY, Rig, Seen, op, words};

const F_VERSION_1: u64 = 1 << 32;
const STATUS: (u16, u8) = (0x14, 1);

fn nothing(action: Action) {
    assert_eq!(action, Action::default());
}

/// A device whose worker has answered its first reset.
fn ready(offers: u64) -> Rig {
    let mut rig = Rig::new(2);
    rig.words[wire::OFFERS].store(offers, Relaxed);
    rig.words[wire::QUEUE_SIZE].store(64, Relaxed);
    rig.answer();
    nothing(rig.device.poll(true));
    assert!(rig.device.is_ready());
    rig
}

fn accept(rig: &mut Rig, features: u64) {
    for (select, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
        nothing(rig.write(0x08, 4, select));
        nothing(rig.write(0x0c, 4, half));
    }
}

fn fill_queue(rig: &mut Rig, queue: u32, parts: [u64; 3]) {
    nothing(rig.write(0x16, 2, queue));
    for (at, part) in [0x20, 0x28, 0x30].into_iter().zip(parts) {
        nothing(rig.write(at, 4, part as u32));
        nothing(rig.write(at + 4, 4, (part >> 32) as u32));
    }
    nothing(rig.write(0x1c, 2, 1));
}

fn negotiate(rig: &mut Rig, features: u64) {
    nothing(rig.write(0x14, 1, 1));
    nothing(rig.write(0x14, 1, 3));
    accept(rig, features);
    nothing(rig.write(0x14, 1, 0xb));
}

/// A live device with queue 1 on vector 2 and the configuration on vector 0.
fn live() -> Rig {
    let mut rig = ready(0);
    negotiate(&mut rig, F_VERSION_1);
    fill_queue(&mut rig, 1, [0x1000, 0x2000, 0x3000]);
    nothing(rig.write(0x1a, 2, 2));
    nothing(rig.write(0x10, 2, 0));
    assert_eq!(rig.write(0x14, 1, 0xf), Action { signal: true, ..Action::default() });
    rig
}

#[test]
fn the_driver_learns_what_the_worker_offers_and_no_transport_feature() {
    // Everything: notification data, queue reset, SR-IOV and the administration queue are the
    // transport's to offer, and it does not.
    let mut rig = ready(u64::MAX);
    nothing(rig.write(0x00, 4, 0));
    assert_eq!(rig.read(0x04, 4), 0x30ff_ffff);
    nothing(rig.write(0x00, 4, 1));
    assert_eq!(rig.read(0x04, 4), 0xfffc_0007);
    for window in [2, 3, u32::MAX] {
        nothing(rig.write(0x00, 4, window));
        assert_eq!(rig.read(0x04, 4), 0, "window {window}");
    }
    let mut bare = ready(0);
    nothing(bare.write(0x00, 4, 1));
    assert_eq!(bare.read(0x04, 4), 3, "VERSION_1 and ACCESS_PLATFORM");
}

#[test]
fn features_ok_needs_version_1_and_nothing_that_was_not_offered() {
    for (offers, accepted, good) in [
        (0, F_VERSION_1, true),
        (0, F_VERSION_1 | 1 << 33, true),
        (0, 0, false),
        (0, 1 << 33, false),
        (1, F_VERSION_1 | 1, true),
        (1, F_VERSION_1 | 2, false),
        (u64::MAX, F_VERSION_1 | 1 << 38, false),
    ] {
        let mut rig = ready(offers);
        negotiate(&mut rig, accepted);
        assert_eq!(rig.read(0x14, 1), if good { 0xb } else { 3 }, "{offers:#x} {accepted:#x}");
    }
    let mut beyond = ready(0);
    nothing(beyond.write(0x08, 4, 2));
    nothing(beyond.write(0x0c, 4, 1));
    negotiate(&mut beyond, F_VERSION_1);
    assert_eq!(beyond.read(0x14, 1), 3);
}

#[test]
fn accepted_features_are_settled_by_features_ok() {
    let mut rig = ready(3);
    negotiate(&mut rig, F_VERSION_1 | 1);
    accept(&mut rig, F_VERSION_1 | 3);
    nothing(rig.write(0x08, 4, 0));
    assert_eq!(rig.read(0x0c, 4), 1);
}

#[test]
fn status_bits_come_in_order_and_go_all_together() {
    let mut rig = ready(0);
    // DRIVER before ACKNOWLEDGE, then DRIVER_OK before FEATURES_OK.
    nothing(rig.write(0x14, 1, 2));
    assert_eq!(rig.read(0x14, 1), 0);
    // FEATURES_OK before DRIVER, with features that would do.
    accept(&mut rig, F_VERSION_1);
    nothing(rig.write(0x14, 1, 9));
    assert_eq!(rig.read(0x14, 1), 1);
    nothing(rig.write(0x14, 1, 3));
    nothing(rig.write(0x14, 1, 7));
    assert_eq!(rig.read(0x14, 1), 3);
    // FEATURES_OK and DRIVER_OK in one write: the driver has not read the first one back.
    nothing(rig.write(0x14, 1, 0xf));
    assert_eq!(rig.read(0x14, 1), 0xb);
    // Bits cannot be taken back, and unknown ones do not stick.
    nothing(rig.write(0x14, 1, 3));
    assert_eq!(rig.read(0x14, 1), 0xb);
    nothing(rig.write(0x14, 1, 0x7b));
    assert_eq!(rig.read(0x14, 1), 0xb);
    // A driver that has given up does not become ready.
    nothing(rig.write(0x14, 1, 0x8b));
    nothing(rig.write(0x14, 1, 0x8f));
    assert_eq!(rig.read(0x14, 1), 0x8b);
    // The device was never live, so there is nobody to wait for.
    assert_eq!(rig.write(0x14, 1, 0), Action { forget: true, ..Action::default() });
    assert_eq!(rig.read(0x14, 1), 0);
}

#[test]
fn a_live_order_carries_the_queue_as_it_was_set_up() {
    let rig = live();
    assert_eq!(rig.order() & 1, 1);
    assert_eq!(rig.words[wire::FEATURES].load(Relaxed), F_VERSION_1);
    assert_eq!(rig.queue(0), [0; 4]);
    assert_eq!(rig.queue(1), [64, 0x1000, 0x2000, 0x3000]);
}

#[test]
fn queue_fields_of_a_live_device_do_not_change() {
    let mut rig = live();
    let before = rig.queue(1);
    for queue in [0, 1] {
        fill_queue(&mut rig, queue, [0x8000, 0x9000, 0xa000]);
        nothing(rig.write(0x18, 2, 8));
    }
    assert_eq!((rig.queue(0), rig.queue(1)), ([0; 4], before));
    assert_eq!((rig.read(0x18, 2), rig.read(0x20, 4), rig.read(0x1c, 2)), (64, 0x1000, 1));
    nothing(rig.write(0x16, 2, 0));
    assert_eq!((rig.read(0x18, 2), rig.read(0x20, 4), rig.read(0x1c, 2)), (64, 0, 0));
}

#[test]
fn sizes_are_powers_of_two_up_to_the_worker_s() {
    let mut rig = ready(0);
    assert_eq!(rig.read(0x18, 2), 64);
    for (size, taken) in
        [(32, true), (0, false), (3, false), (128, false), (0xffff, false), (1, true), (64, true)]
    {
        let before = rig.read(0x18, 2);
        nothing(rig.write(0x18, 2, size));
        assert_eq!(rig.read(0x18, 2), if taken { size } else { before });
    }
    // What the worker says is checked, too.
    for (said, shown) in [(0, 0), (3, 0), (32768, 32768), (65536, 0), (u64::MAX, 0)] {
        let mut rig = Rig::new(1);
        rig.words[wire::QUEUE_SIZE].store(said, Relaxed);
        rig.answer();
        nothing(rig.device.poll(true));
        assert_eq!(rig.read(0x18, 2), shown);
        nothing(rig.write(0x1c, 2, 1));
        assert_eq!(rig.read(0x1c, 2), u32::from(shown != 0), "a queue without a size");
    }
}

#[test]
fn packed_rings_have_any_size_and_event_structures() {
    let packed = F_VERSION_1 | 1 << 34;
    let end = MEMORY;
    for (parts, good) in [
        ([end - 48, end - 4, end - 4], true),
        ([end - 48, 0x2002, 0x3000], false),
        ([end - 48, 0x2000, 0x3002], false),
        ([end - 32, 0x2000, 0x3000], false),
        ([0x1000, end, 0x3000], false),
        ([0x1008, 0x2000, 0x3000], false),
    ] {
        let mut rig = ready(1 << 34);
        nothing(rig.write(0x18, 2, 3));
        assert_eq!(rig.read(0x18, 2), 64, "before the features are settled");
        negotiate(&mut rig, packed);
        for (size, shown) in [(0, 64), (65, 64), (3, 3)] {
            nothing(rig.write(0x18, 2, size));
            assert_eq!(rig.read(0x18, 2), shown);
        }
        fill_queue(&mut rig, 0, parts);
        let action = rig.write(0x14, 1, 0xf);
        assert_eq!(action.signal, good, "{parts:x?}");
        assert_eq!(rig.read(0x14, 1), if good { 0xf } else { 0x4f }, "{parts:x?}");
    }
}

#[test]
fn rings_that_cannot_be_make_the_device_need_a_reset() {
    let end = MEMORY;
    for (parts, good) in [
        ([end - 64 * 16, end - 134, end - 518], false),
        ([end - 64 * 16, end - 134, end - 520], true),
        ([0x1008, 0x2000, 0x3000], false),
        ([0x1000, 0x2001, 0x3000], false),
        ([0x1000, 0x2000, 0x3002], false),
        ([end - 64 * 16 + 16, 0x2000, 0x3000], false),
        ([0x1000, end - 132, 0x3000], false),
        ([0x1000, 0x2000, end - 516], false),
        ([u64::MAX - 15, 0x2000, 0x3000], false),
        ([0x1000, 1 << 63, 0x3000], false),
    ] {
        let mut rig = ready(0);
        negotiate(&mut rig, F_VERSION_1);
        fill_queue(&mut rig, 0, parts);
        nothing(rig.write(0x10, 2, 1));
        let action = rig.write(0x14, 1, 0xf);
        if good {
            assert_eq!(action, Action { signal: true, ..Action::default() }, "{parts:x?}");
            assert_eq!(rig.read(0x14, 1), 0xf);
        } else {
            assert_eq!(action, Action { vectors: 2, ..Action::default() }, "{parts:x?}");
            assert_eq!((rig.read(0x14, 1), rig.order() & 1), (0x4f, 0));
            let _ = rig.write(0x14, 1, 0);
            assert_eq!(rig.read(0x14, 1), 0);
        }
    }
}

#[test]
fn packed_rings_have_areas_of_their_own_lengths() {
    const PACKED: u64 = 1 << 34;
    let end = MEMORY;
    for (parts, good) in [
        ([end - 64 * 16, end - 4, end - 8], true),
        ([end - 64 * 16, end - 2, end - 8], false),
        ([end - 64 * 16, 0x2002, end - 8], false),
        ([end - 64 * 16, 0x2000, end - 2], false),
        ([end - 63 * 16, 0x2000, 0x3000], false),
    ] {
        let mut rig = ready(PACKED);
        negotiate(&mut rig, F_VERSION_1 | PACKED);
        fill_queue(&mut rig, 0, parts);
        let _ = rig.write(0x14, 1, 0xf);
        assert_eq!(rig.read(0x14, 1), if good { 0xf } else { 0x4f }, "{parts:x?}");
        assert_eq!(rig.words[wire::FEATURES].load(Relaxed) & PACKED != 0, good);
    }
}

#[test]
fn four_queues_and_sixty_bytes_are_what_a_disk_needs() {
    let mut rig = Rig::new(4);
    rig.words[wire::QUEUE_SIZE].store(128, Relaxed);
    rig.words[wire::CONFIG + 7].store(0x8877_6655_4433_2211, Relaxed);
    rig.answer();
    nothing(rig.device.poll(true));
    assert_eq!((rig.read(0x12, 2), rig.device.vectors()), (4, 5));
    assert_eq!(rig.read(0x80 + 60, 4), 0x8877_6655);
    for queue in 0..4 {
        nothing(rig.write(0x16, 2, queue));
        assert_eq!(rig.read(0x18, 2), 128, "size of queue {queue}");
        assert_eq!(rig.read(0x1e, 2), queue, "its doorbell");
        nothing(rig.write(0x1a, 2, queue + 1));
        assert_eq!(rig.read(0x1a, 2), queue + 1, "its vector");
    }
}

#[test]
fn a_reset_shows_the_old_status_until_the_worker_has_answered() {
    let mut rig = live();
    let order = rig.order();
    assert_eq!(rig.write(0x14, 1, 0), Action { signal: true, forget: true, ..Action::default() });
    assert_eq!(rig.order(), order + 1);
    for _ in 0..2 {
        nothing(rig.device.poll(true));
        assert_eq!(rig.read(0x14, 1), 0xf);
        nothing(rig.write(0x14, 1, 0));
        nothing(rig.write(0x16, 2, 1));
        nothing(rig.write(0x14, 1, 1));
    }
    assert_eq!(rig.read(0x16, 2), 1, "the old state is still there");
    rig.words[wire::ANSWER].store(order, Relaxed);
    nothing(rig.device.poll(true));
    assert_eq!(rig.read(0x14, 1), 0xf, "that was the answer to something else");
    rig.answer();
    rig.words[wire::PENDING].store(3, Relaxed);
    nothing(rig.device.poll(true));
    assert_eq!((rig.read(0x14, 1), rig.read(0x16, 2), rig.read(0x1a, 2)), (0, 0, 0xffff));
    assert_eq!(rig.words[wire::PENDING].load(Relaxed), 0, "used buffers of the old life");
}

#[test]
fn the_first_reset_is_one_that_no_earlier_worker_has_answered() {
    for order in [0, 1, 2, 7, 8, u64::MAX - 1, u64::MAX] {
        let words = words();
        words[wire::ORDER].store(order, Relaxed);
        words[wire::ANSWER].store(order, Relaxed);
        let mut device = Virtio::new(words, 1, MEMORY).unwrap();
        let new = words[wire::ORDER].load(Relaxed);
        assert!(new != order && new != 0 && new & 1 == 0, "{order} {new}");
        nothing(device.poll(true));
        assert!(!device.is_ready());
        words[wire::ANSWER].store(new, Relaxed);
        nothing(device.poll(true));
        assert!(device.is_ready());
    }
}

#[test]
fn used_buffers_raise_the_vector_of_their_queue() {
    let mut rig = live();
    rig.words[wire::PENDING].store(0xff, Relaxed);
    assert_eq!(rig.device.poll(true), Action { vectors: 1 << 2, ..Action::default() });
    nothing(rig.device.poll(true));
    assert_eq!(rig.read(0x40, 1), 0, "the interrupt status is for those without MSI-X");
    rig.words[wire::PENDING].store(2, Relaxed);
    assert_eq!(rig.device.poll(false).vectors, 1 << 2);
    assert!(rig.device.has_interrupt());
    assert_eq!((rig.read(0x40, 1), rig.read(0x40, 1)), (1, 0), "reading takes it");
    // A vector that does not exist is none.
    nothing(rig.write(0x1a, 2, 3));
    assert_eq!(rig.read(0x1a, 2), 0xffff);
    rig.words[wire::PENDING].store(2, Relaxed);
    nothing(rig.device.poll(true));
}

#[test]
fn a_worker_that_gives_up_makes_the_device_need_a_reset_once() {
    let mut rig = live();
    rig.words[wire::BROKEN].store(rig.order() - 1, Relaxed);
    nothing(rig.device.poll(true));
    rig.words[wire::BROKEN].store(rig.order(), Relaxed);
    assert_eq!(rig.device.poll(true), Action { vectors: 1, ..Action::default() });
    nothing(rig.device.poll(true));
    assert_eq!((rig.read(0x14, 1), rig.read(0x40, 1)), (0x4f, 2));
    // A driver may write the bit back that it has read, and can only reset the device.
    nothing(rig.write(0x14, 1, 0x4f));
    assert!(rig.write(0x14, 1, 0).signal);
}

#[test]
fn a_worker_that_is_gone_for_good_breaks_its_device_and_holds_up_no_reset() {
    let mut rig = live();
    rig.words[wire::GONE].store(1, Relaxed);
    let action = rig.device.poll(true);
    assert_eq!(action.vectors, 1, "the configuration's vector");
    assert_eq!(rig.read(0x14, 1), 0x4f);
    // Nobody answers: the reset is over, and the next life needs one again at once.
    let _ = rig.write(0x14, 1, 0);
    assert_eq!(rig.read(0x14, 1), 0);
    negotiate(&mut rig, F_VERSION_1);
    fill_queue(&mut rig, 1, [0x1000, 0x2000, 0x3000]);
    let _ = rig.write(0x14, 1, 0xf);
    assert_eq!(rig.read(0x14, 1), 0x4f);
}

/// The supervisor gives an order in a parked monitor's place (`drivers/supervisor/src/still.rs`).
#[test]
fn a_reset_that_was_ordered_for_a_stopped_monitor_is_not_the_last_one() {
    const { assert!(policy::DEVICE_ORDER == wire::ORDER && policy::DEVICE_LIVE == wire::LIVE) };
    const { assert!(policy::DEVICE_ANSWER == wire::ANSWER) };
    let rig = live();
    rig.answer();
    let offer = Offer { features: 0, queue_size: 64, config: &[] };
    let mut worker = Worker::adopt(rig.words, &[], 0, &offer).unwrap();
    assert!(matches!(worker.order(), Some(Order::Live(_))));
    let word = &rig.words[policy::DEVICE_ORDER];
    let next = (word.load(Relaxed) | policy::DEVICE_LIVE).wrapping_add(1);
    word.store(next, Relaxed);
    assert_eq!(worker.order(), Some(Order::Reset));
    worker.answer();
    assert_eq!(rig.words[policy::DEVICE_ANSWER].load(Relaxed), next);
    // What was answered for the life before does not let the next one in.
    let mut device = Virtio::new(rig.words, 2, MEMORY).unwrap();
    assert!(!device.is_ready() && rig.words[wire::ORDER].load(Relaxed) > next);
    assert_eq!(worker.order(), Some(Order::Reset));
    worker.answer();
    assert!(device.is_ready());
}

#[test]
fn the_configuration_is_shown_whole_or_not_at_all() {
    let mut rig = live();
    let generation = rig.read(0x15, 1);
    rig.words[wire::CONFIG].store(0x8877_6655_4433_2211, Relaxed);
    rig.words[wire::CONFIG_GENERATION].store(1, Relaxed);
    nothing(rig.device.poll(true));
    assert_eq!((rig.read(0x80, 4), rig.read(0x15, 1)), (0, generation), "half written");
    rig.words[wire::CONFIG_GENERATION].store(2, Relaxed);
    assert_eq!(rig.device.poll(true), Action { vectors: 1, ..Action::default() });
    nothing(rig.device.poll(true));
    assert_eq!((rig.read(0x80, 4), rig.read(0x84, 4)), (0x4433_2211, 0x8877_6655));
    assert_eq!((rig.read(0x83, 2), rig.read(0x87, 1), rig.read(0xbf, 1)), (0x5544, 0x88, 0));
    assert_eq!(rig.read(0xbe, 4), u32::MAX, "beyond the end");
    assert_ne!(rig.read(0x15, 1), generation);
    nothing(rig.write(0x80, 4, 0));
    assert_eq!(rig.read(0x80, 4), 0x4433_2211, "it is the worker's alone");
}

#[test]
fn a_reset_brings_the_configuration_of_a_worker_that_began_anew() {
    let mut rig = live();
    rig.words[wire::CONFIG].store(7, Relaxed);
    nothing(rig.device.poll(true));
    assert_eq!(rig.read(0x80, 4), 0, "it did not say that it was changing it");
    assert!(rig.write(0x14, 1, 0).signal);
    rig.answer();
    nothing(rig.device.poll(true));
    assert_eq!(rig.read(0x80, 4), 7);
}

#[test]
fn a_doorbell_that_comes_here_rings_every_queue_of_the_worker() {
    let (words, bells) = (words(), words());
    let offer = Offer { features: 0, queue_size: 8, config: &[] };
    let mut device = Virtio::new(words, 2, MEMORY).unwrap();
    let mut worker = Worker::new(words, bells, 0, &offer).unwrap();
    assert!(matches!(worker.order(), Some(Order::Reset)));
    worker.answer();
    nothing(device.poll(true));
    for (offset, width, value) in
        [(0x14, 1, 1), (0x14, 1, 3), (0x08, 4, 1), (0x0c, 4, 1), (0x14, 1, 0xb)]
    {
        nothing(device.write(offset, width, value));
    }
    assert!(device.write(0x14, 1, 0xf).signal);
    assert!(matches!(worker.order(), Some(Order::Live(_))));
    assert!(!worker.rung(0) && !worker.rung(1));
    assert!(device.write(0xc2, 2, 0).signal);
    assert!(worker.rung(0) && worker.rung(1));
    assert!(!worker.rung(0) && !worker.rung(1));
}

#[test]
fn a_doorbell_of_a_device_at_rest_signals_nobody() {
    let mut rig = ready(0);
    nothing(rig.write(0xc0, 2, 0));
    let mut rig = live();
    for offset in [0xc0, 0xc2, 0xce, 0xff] {
        assert!(rig.write(offset, 2, 0).signal, "{offset:#x}");
    }
    assert_eq!(rig.read(0xc0, 2), 0xffff);
    nothing(rig.write(0x16, 2, 1));
    assert_eq!(rig.read(0x1e, 2), 1);
    nothing(rig.write(0x16, 2, 2));
    assert_eq!((rig.read(0x18, 2), rig.read(0x12, 2)), (0, 2), "there is no third queue");
}

#[test]
fn every_other_width_and_offset_is_no_register() {
    let fields: &[(u16, u8)] = &[
        (0x00, 4),
        (0x04, 4),
        (0x08, 4),
        (0x0c, 4),
        (0x10, 2),
        (0x12, 2),
        STATUS,
        (0x15, 1),
        (0x16, 2),
        (0x18, 2),
        (0x1a, 2),
        (0x1c, 2),
        (0x1e, 2),
        (0x20, 4),
        (0x24, 4),
        (0x28, 4),
        (0x2c, 4),
        (0x30, 4),
        (0x34, 4),
        (0x40, 1),
    ];
    let mut others = 0;
    for offset in 0..0x80u16 {
        for width in [1u8, 2, 4] {
            let mut rig = live();
            let before = Seen::of(&mut rig);
            if fields.contains(&(offset, width)) {
                let ones = u32::MAX >> (32 - 8 * u32::from(width));
                let is_vector = (offset, width) == (0x10, 2) || (offset, width) == (0x1a, 2);
                assert!(rig.read(offset, width) != ones || is_vector, "{offset:#x} {width}");
                continue;
            }
            others += 1;
            assert_eq!(rig.read(offset, width), u32::MAX >> (32 - 8 * u32::from(width)));
            nothing(rig.write(offset, width, 0));
            nothing(rig.write(offset, width, 0x0101_0101));
            assert_eq!(Seen::of(&mut rig), before, "{offset:#x} {width}");
        }
    }
    assert_eq!(others, 0x80 * 3 - fields.len());
}

#[test]
fn mistakes_of_the_manifest_are_errors() {
    assert_eq!(Virtio::new(words(), 9, MEMORY).unwrap_err(), VirtioError::Queues(9));
    assert_eq!(Virtio::new(&words()[..79], 1, MEMORY).unwrap_err(), VirtioError::Words(79));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any accesses, with any worker: registers are those of the model, and what the worker is
    /// given is valid and does not change under it.
    #[test]
    fn registers_and_orders_are_those_of_the_model(ops in prop::collection::vec(op(), 1..120)) {
        let mut rig = Rig::new(2);
        let mut model = transport::Model::new();
        for op in ops {
            rig.check(op, &mut model)?;
        }
    }
}
