//! The serial port against the PC16550D data sheet.

use std::collections::VecDeque;

use cloister_monitor::uart::Uart;
use proptest::prelude::*;

const DATA: u16 = 0;
const IER: u16 = 1;
const IIR: u16 = 2;
const FCR: u16 = 2;
const LCR: u16 = 3;
const MCR: u16 = 4;
const LSR: u16 = 5;
const MSR: u16 = 6;
const OUT2: u8 = 8;
const LOOP: u8 = 16;

/// A port with its queues on, its interrupt connected, and these interrupts enabled.
fn port(interrupts: u8, fifo: u8) -> Uart {
    let mut uart = Uart::new();
    uart.write(FCR, fifo);
    uart.write(MCR, OUT2);
    uart.write(IER, interrupts);
    uart
}

fn sent(uart: &mut Uart) -> Vec<u8> {
    std::iter::from_fn(|| uart.transmitted()).collect()
}

#[test]
fn reset_values() {
    let mut uart = Uart::new();
    let values: Vec<u8> = (0..8).map(|register| uart.read(register)).collect();
    assert_eq!(values, [0, 0, 0x01, 0, 0, 0x60, 0xb0, 0]);
    assert!(!uart.line() && uart.can_take());
}

#[test]
fn registers_keep_what_they_have_bits_for() {
    for (register, kept) in [(1, 0x0f), (3, 0x7f), (4, 0x1f), (7, 0xff)] {
        let mut uart = Uart::new();
        uart.write(register, if register == 3 { 0x7f } else { 0xff });
        assert_eq!(uart.read(register), kept, "{register}");
        uart.write(register, 0);
        assert_eq!(uart.read(register), 0);
    }
    // Status registers cannot be written.
    let mut uart = Uart::new();
    uart.write(LSR, 0xff);
    uart.write(MSR, 0xff);
    assert_eq!((uart.read(LSR), uart.read(MSR)), (0x60, 0xb0));
}

#[test]
fn the_divisor_latch_hides_data_and_interrupt_enable() {
    let mut uart = port(1, 1);
    uart.write(LCR, 0x83);
    uart.write(0, 0x0c);
    uart.write(1, 0x34);
    assert_eq!((uart.read(0), uart.read(1)), (0x0c, 0x34));
    uart.write(LCR, 0x03);
    assert_eq!((uart.read(0), uart.read(1), sent(&mut uart)), (0, 1, vec![]));
}

#[test]
fn the_transmitter_is_busy_until_the_console_has_taken_all() {
    let mut uart = port(2, 1);
    assert_eq!((uart.read(IIR), uart.line()), (0xc2, false), "told once when enabled");
    for byte in 0..16 {
        uart.write(DATA, byte);
        assert_eq!(uart.read(LSR) & 0x60, 0);
    }
    assert!(!uart.line());
    uart.write(DATA, 99);
    for byte in 0..15 {
        assert_eq!(uart.transmitted(), Some(byte));
        assert_eq!((uart.read(LSR) & 0x60, uart.line()), (0, false));
    }
    assert_eq!(uart.transmitted(), Some(15), "a seventeenth byte is lost, not an older one");
    assert_eq!((uart.read(LSR) & 0x60, uart.line(), uart.transmitted()), (0x60, true, None));
    assert_eq!((uart.read(IIR), uart.read(IIR), uart.line()), (0xc2, 0xc1, false));
    // A write takes the interrupt back, enabling again gives it again.
    uart.write(DATA, 1);
    sent(&mut uart);
    assert!(uart.line());
    uart.write(DATA, 2);
    assert!(!uart.line());
    sent(&mut uart);
    uart.read(IIR);
    uart.write(IER, 2);
    assert!(!uart.line(), "enabled already");
    uart.write(IER, 0);
    uart.write(IER, 2);
    assert!(uart.line());
}

#[test]
fn without_queues_one_byte_fits_each_way() {
    let mut uart = port(0, 0);
    assert_eq!(uart.read(IIR), 1);
    uart.write(DATA, 1);
    uart.write(DATA, 2);
    assert_eq!(sent(&mut uart), [1]);
    assert!(uart.received(3) && !uart.can_take());
    assert!(!uart.received(4));
    assert_eq!((uart.read(LSR), uart.read(DATA)), (0x63, 4), "the newer one stays");
    assert_eq!(uart.read(LSR), 0x60, "reading clears the overrun");
}

#[test]
fn a_byte_too_many_is_an_overrun_and_the_queue_stays() {
    let mut uart = port(4, 1);
    for byte in 0..16 {
        assert!(uart.can_take() && uart.received(byte));
    }
    assert!(!uart.can_take() && !uart.line());
    assert!(!uart.received(99));
    assert_eq!((uart.line(), uart.read(IIR)), (true, 0xc6));
    assert_eq!((uart.read(LSR), uart.line()), (0x63, false));
    let bytes: Vec<u8> = (0..17).map(|_| uart.read(DATA)).collect();
    assert_eq!(bytes[..16], Vec::from_iter(0..16));
    assert_eq!((bytes[16], uart.read(LSR)), (0, 0x60));
}

#[test]
fn the_trigger_level_decides_which_interrupt_data_is() {
    for (level, trigger) in [(0, 1), (1, 4), (2, 8), (3, 14)] {
        let mut uart = port(1, 1 | level << 6);
        assert_eq!(uart.read(IIR), 0xc1);
        for len in 1..=16u8 {
            uart.received(len);
            let expected = if len >= trigger { 0xc4 } else { 0xcc };
            assert_eq!((uart.read(IIR), uart.line()), (expected, true), "{len} of {trigger}");
        }
        for _ in 0..16 {
            assert!(uart.line());
            uart.read(DATA);
        }
        assert!(!uart.line());
    }
}

#[test]
fn causes_have_their_priorities() {
    let mut uart = port(0, 1);
    uart.write(MCR, LOOP);
    uart.write(MCR, OUT2);
    for _ in 0..17 {
        uart.received(0);
    }
    uart.write(IER, 0xf);
    assert_eq!(uart.read(IIR), 0xc6);
    uart.read(LSR);
    assert_eq!(uart.read(IIR), 0xc4);
    for _ in 0..16 {
        uart.read(DATA);
    }
    assert_eq!(uart.read(IIR), 0xc2);
    assert_eq!(uart.read(IIR), 0xc0);
    assert!(uart.line());
    assert_eq!(uart.read(MSR), 0xbb, "changes of carrier, ready, clear");
    assert_eq!((uart.read(IIR), uart.read(MSR)), (0xc1, 0xb0));
    assert!(!uart.line());
}

#[test]
fn out2_connects_the_interrupt_and_loopback_cuts_it() {
    for (modem, is_connected) in [(0, false), (7, false), (OUT2, true), (OUT2 | LOOP, false)] {
        let mut uart = port(3, 1);
        uart.received(1);
        assert!(uart.line());
        uart.write(MCR, modem);
        assert_eq!(uart.line(), is_connected, "{modem:#x}");
        assert_eq!(uart.read(IIR), 0xc4);
    }
}

#[test]
fn loopback_goes_from_the_transmitter_to_the_receiver() {
    let mut uart = port(0, 1);
    uart.write(MCR, LOOP);
    uart.write(DATA, 0x5a);
    assert_eq!((uart.read(LSR), uart.read(DATA), sent(&mut uart)), (0x61, 0x5a, vec![]));
    assert!(!uart.can_take() && !uart.received(1));
    assert_eq!(uart.read(LSR), 0x60, "the wire from outside is cut");
    for byte in 0..17 {
        uart.write(DATA, byte);
    }
    assert_eq!(uart.read(LSR), 0x63);
    // Outputs of the modem control come back as inputs.
    let mut seen = vec![];
    for modem in [1, 2, 4, 8] {
        uart.write(MCR, LOOP | modem);
        seen.push(uart.read(MSR) & 0xf0);
    }
    assert_eq!(seen, [0x20, 0x10, 0x40, 0x80]);
    uart.write(MCR, LOOP | 4);
    assert_eq!(uart.read(MSR), 0x48, "the ring's beginning is no change");
    uart.write(MCR, LOOP);
    assert_eq!(uart.read(MSR), 0x04, "its end is");
}

#[test]
fn the_queue_control_clears_what_it_says() {
    let fill = |uart: &mut Uart| {
        assert!((0..3).all(|byte| uart.received(byte)));
        (0..3).for_each(|byte| uart.write(DATA, byte));
    };
    for (control, received, transmitted) in
        [(0x01, 3, 3), (0x03, 0, 3), (0x05, 3, 0), (0x07, 0, 0), (0x00, 0, 0)]
    {
        let mut uart = port(0, 1);
        fill(&mut uart);
        uart.write(FCR, control);
        assert_eq!(sent(&mut uart).len(), transmitted, "{control:#x}");
        let count = (0..3).take_while(|_| uart.read(LSR) & 1 != 0 && uart.read(DATA) < 9).count();
        assert_eq!(count, received, "{control:#x}");
        assert_eq!(uart.read(IIR) >> 6, if control == 0 { 0 } else { 3 });
    }
    let mut uart = port(2, 1);
    uart.read(IIR);
    uart.write(DATA, 1);
    uart.write(FCR, 5);
    assert!(uart.line(), "a cleared transmitter is empty");
}

proptest! {
    #[test]
    fn bytes_pass_in_order_and_none_is_lost_for_who_looks(
        ops in prop::collection::vec((0..4u8, any::<u8>()), 1..300),
        fifo in prop::sample::select(vec![0x00u8, 0x01, 0x41, 0xc1]),
    ) {
        let mut uart = port(3, fifo);
        let (mut out, mut into) = (VecDeque::new(), VecDeque::new());
        for (op, byte) in ops {
            match op {
                0 if uart.read(LSR) & 0x20 != 0 => {
                    uart.write(DATA, byte);
                    out.push_back(byte);
                }
                1 => prop_assert_eq!(uart.transmitted(), out.pop_front()),
                2 if uart.can_take() => {
                    prop_assert!(uart.received(byte));
                    into.push_back(byte);
                }
                3 if uart.read(LSR) & 1 != 0 => {
                    prop_assert_eq!(Some(uart.read(DATA)), into.pop_front());
                }
                _ => {}
            }
            let status = uart.read(LSR);
            prop_assert_eq!(status & 0x1f, u8::from(!into.is_empty()));
            prop_assert_eq!(status & 0x60 != 0, out.is_empty());
            prop_assert!(uart.line() || into.is_empty());
        }
    }
}
