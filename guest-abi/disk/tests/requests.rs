//! Each kind of request, on each kind of ring, from the driver to a device and back.

mod support;

use cloister_guest_abi::disk::BLOCK;
use cloister_guest_disk::{Broken, Fault, Refused, Request};
use support::{Bench, all_options, arena};

const ONE: usize = BLOCK as usize;

fn done(bench: &mut Bench<'_>) -> (Option<usize>, Result<(), Fault>) {
    bench.ring_if_wanted();
    bench.device_fetches();
    bench.device_completes(0);
    let done = bench.queue.poll().expect("a good device").expect("a completion");
    assert_eq!(bench.queue.poll(), Ok(None), "one completion each");
    (done.buffer, done.outcome)
}

#[test]
fn every_kind_of_request_is_done() {
    for options in all_options() {
        let arena = arena(2);
        let mut bench = Bench::new(&arena, 64, options, 16);
        let data = bench.data(0, &[7; 3 * ONE]);
        bench.queue.submit(Request::Write { block: 5 }, Some(data)).expect("room");
        assert_eq!(done(&mut bench), (Some(0), Ok(())), "{options:?}");
        let data = bench.data(1, &[0; 4 * ONE]);
        bench.queue.submit(Request::Read { block: 4 }, Some(data)).expect("room");
        assert_eq!(done(&mut bench), (Some(1), Ok(())));
        assert_eq!(bench.bytes(1, 4 * ONE), [vec![0; ONE], vec![7; 3 * ONE]].concat());
        bench.queue.submit(Request::Flush, None).expect("room");
        assert_eq!(done(&mut bench), (None, Ok(())));
        bench.queue.submit(Request::Discard { block: 5, blocks: 1 }, None).expect("room");
        assert_eq!(done(&mut bench), (None, Ok(())));
        bench.queue.submit(Request::WriteZeroes { block: 7, blocks: 1 }, None).expect("room");
        assert_eq!(done(&mut bench), (None, Ok(())));
        let expected = [vec![0; ONE], vec![7; ONE], vec![0; ONE]].concat();
        assert_eq!(bench.disk[5 * ONE..8 * ONE], expected);
        let data = bench.data(1, &[0; 20]);
        bench.queue.submit(Request::Id, Some(data)).expect("room");
        assert_eq!(done(&mut bench), (Some(1), Ok(())));
        assert_eq!(bench.bytes(1, 20), b"a disk of the tests\0");
    }
}

#[test]
fn a_fault_of_the_disk_comes_back_with_the_buffer() {
    for options in all_options() {
        let arena = arena(1);
        let mut bench = Bench::new(&arena, 64, options, 4);
        let data = bench.data(0, &[0; ONE]);
        bench.queue.submit(Request::Write { block: 4 }, Some(data)).expect("room");
        assert_eq!(done(&mut bench), (Some(0), Err(Fault::Io)));
        let data = bench.data(0, &[0; ONE]);
        bench.queue.submit(Request::Read { block: 99 }, Some(data)).expect("room");
        assert_eq!(done(&mut bench), (Some(0), Err(Fault::Io)));
    }
}

#[test]
fn what_is_no_request_is_refused_with_its_buffer() {
    for options in all_options() {
        let arena = arena(1);
        let mut bench = Bench::new(&arena, 64, options, 4);
        let odd = bench.data(0, &[0; ONE - 1]);
        let refused = bench.queue.submit(Request::Read { block: 0 }, Some(odd));
        assert_eq!(refused, Err((Refused::Malformed, Some(0))));
        let none = bench.queue.submit(Request::Write { block: 0 }, None);
        assert_eq!(none, Err((Refused::Malformed, None)));
        for blocks in [0, 4097] {
            let range = Request::Discard { block: 0, blocks };
            assert_eq!(bench.queue.submit(range, None), Err((Refused::Malformed, None)));
        }
        let mut many = bench.data(0, &[0; ONE]);
        many.len = 33 * BLOCK as u32;
        let refused = bench.queue.submit(Request::Read { block: 0 }, Some(many));
        assert_eq!(refused, Err((Refused::Malformed, Some(0))), "33 buffers");
        assert_eq!(bench.queue.in_flight(), 0);
    }
}

#[test]
fn a_full_queue_refuses_and_has_room_after_a_completion() {
    for options in all_options() {
        let arena = arena(1);
        let mut bench = Bench::new(&arena, 8, options, 4);
        let mut made = 0;
        while bench.queue.submit(Request::Flush, None).is_ok() {
            made += 1;
        }
        // A flush is a header and a status.
        assert_eq!(made, if options.is_indirect { 8 } else { 4 });
        assert_eq!(bench.queue.submit(Request::Flush, None), Err((Refused::Full, None)));
        bench.ring_if_wanted();
        bench.device_fetches();
        assert_eq!(bench.pending.len(), made);
        bench.device_completes(made - 1);
        assert!(bench.queue.poll().expect("a good device").is_some());
        assert!(bench.queue.submit(Request::Flush, None).is_ok());
        assert_eq!(bench.queue.in_flight(), made);
    }
}

#[test]
fn a_device_that_breaks_the_rules_gets_no_buffer() {
    for options in all_options() {
        let arena = arena(1);
        let mut bench = Bench::new(&arena, 8, options, 4);
        let data = bench.data(0, &[0; ONE]);
        bench.queue.submit(Request::Read { block: 0 }, Some(data)).expect("room");
        bench.ring_if_wanted();
        bench.device_fetches();
        let fetched = bench.pending.pop_front().expect("a request");
        let mut answer = vec![0; ONE];
        answer.push(77);
        bench.answer(fetched, &mut answer);
        assert_eq!(bench.queue.poll(), Err(Broken::Status(77)), "{options:?}");
        assert_eq!(bench.queue.abandon(), Some(0));
        assert_eq!(bench.queue.abandon(), None);
    }
}

#[test]
fn a_completion_of_nothing_in_flight_is_seen() {
    for options in all_options() {
        let arena = arena(1);
        let mut bench = Bench::new(&arena, 8, options, 4);
        let [descriptors, _, device] = bench.queue.areas();
        match options.layout {
            cloister_guest_disk::Layout::Split => arena.poke(device + 2, &1u16.to_le_bytes()),
            // A used descriptor of the first turn: both sides' bits are set.
            cloister_guest_disk::Layout::Packed => {
                arena.poke(descriptors + 14, &0x8080u16.to_le_bytes());
            }
        }
        assert!(bench.queue.poll().is_err(), "{options:?}");
    }
}

#[test]
fn a_slot_has_another_token_each_time() {
    for options in all_options() {
        let arena = arena(1);
        let mut bench = Bench::new(&arena, 8, options, 4);
        let first = bench.queue.submit(Request::Flush, None).expect("room");
        assert_eq!(done(&mut bench), (None, Ok(())));
        let second = bench.queue.submit(Request::Flush, None).expect("room");
        assert_eq!(first.slot(), second.slot());
        assert_ne!(first, second);
    }
}
