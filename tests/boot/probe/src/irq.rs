//! The second serial port as a source of interrupts: its transmitter is always empty, and each
//! time the interrupt for that is switched on, the line rises (16550 data sheet, "Interrupt Enable
//! Register").

use boot_common::page::BEAT;
use cloister_rt::{Deadline, Duration, Irq, Port, grants, sleep_until, wait};
use cloister_rt::{Instant, Woken};

use crate::Boss;

const NAME: &str = "uart1";
/// Interrupt enable register.
const ENABLE: u16 = 1;
/// Modem control register: OUT2 connects the chip to the interrupt line.
const MODEM: u16 = 4;
const OUT2: u8 = 8;
const TRANSMITTER_EMPTY: u8 = 2;
/// How long to wait for an interrupt that has to come: emulated machines stall.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long to wait for one that must not come.
const GLANCE: Duration = Duration::from_millis(5);

struct Device {
    irq: Irq,
    enable: Port<u8>,
}

impl Device {
    fn find() -> Option<Device> {
        let ports = grants().ports(NAME).ok()?;
        ports.port::<u8>(MODEM).ok()?.write(OUT2);
        let device =
            Device { irq: grants().irq(NAME).ok()?, enable: ports.port::<u8>(ENABLE).ok()? };
        Some(device)
    }

    /// The line falls and rises.
    fn raise(&self) {
        self.enable.write(0);
        self.enable.write(TRANSMITTER_EMPTY);
    }

    /// Whether the interrupt comes.
    fn comes(&self, patience: Duration) -> u64 {
        let woken = wait(self.irq.bits(), Deadline::after(patience));
        u64::from(matches!(woken, Woken::Bits(_)))
    }
}

/// Whether an interrupt comes: before the first acknowledgement; after it; again without another
/// one; after that. The last two results count acknowledgements that were refused and say that the
/// device was there.
pub fn cycle(boss: &Boss) {
    let Some(device) = Device::find() else { return };
    let mut refused = 0;
    let mut ack = || refused += u64::from(device.irq.ack().is_err());
    device.raise();
    boss.result(0, device.comes(GLANCE));
    ack();
    device.raise();
    boss.result(1, device.comes(PATIENCE));
    device.raise();
    boss.result(2, device.comes(GLANCE));
    ack();
    device.raise();
    boss.result(3, device.comes(PATIENCE));
    // Twice in a row is no mistake.
    ack();
    ack();
    device.raise();
    boss.result(4, device.comes(PATIENCE));
    boss.result(5, refused);
    boss.result(6, 1);
}

/// Interrupts as often as it can.
pub fn storm(boss: &Boss) {
    let Some(device) = Device::find() else { return };
    loop {
        if device.irq.ack().is_err() {
            return;
        }
        device.raise();
        if device.comes(PATIENCE) == 1 {
            boss.page.add(BEAT, 1);
        }
    }
}

/// So many interrupts, so far apart.
pub fn paced(boss: &Boss, count: u64, pause: u64) {
    let Some(device) = Device::find() else { return };
    let mut came = 0;
    for _ in 0..count {
        if device.irq.ack().is_err() {
            break;
        }
        device.raise();
        came += device.comes(PATIENCE);
        sleep_until(Instant::from_tsc(Instant::now().tsc() + pause));
    }
    boss.result(0, came);
}
