//! A controller's registers ("Controller Properties"): [`Registers`], and what they mean.

use cloister_block::{Pause, Registers, ms, wait_for};

use crate::fault::Failure;

/// Controller capabilities, low and high half.
const CAP: u64 = 0x00;
const CAP_HIGH: u64 = 0x04;
const INTMS: u64 = 0x0c;
const CC: u64 = 0x14;
const CSTS: u64 = 0x1c;
const AQA: u64 = 0x24;
const ASQ: u64 = 0x28;
const ACQ: u64 = 0x30;
/// The first doorbell; the stride says where the others are.
const DOORBELLS: u64 = 0x1000;

const CC_ENABLE: u32 = 1;
/// Entries of 64 bytes in submission queues, of 16 bytes in completion queues.
const CC_ENTRIES: u32 = 6 << 16 | 4 << 20;
const CSTS_READY: u32 = 1;
const CSTS_FATAL: u32 = 2;
/// What a device that is not there reads as.
const GONE: u32 = u32::MAX;

/// What a controller can do ("Controller Capabilities").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capabilities {
    /// Most entries of a queue.
    pub(crate) entries_max: u32,
    /// How long it may take to become ready or to stop.
    pub(crate) timeout_ns: u64,
    /// Bytes from one doorbell to the next.
    stride: u64,
}

impl Capabilities {
    pub(crate) fn read(registers: &impl Registers) -> Result<Capabilities, Failure> {
        let low = registers.read(CAP).ok_or(Failure::Memory)?;
        let high = registers.read(CAP_HIGH).ok_or(Failure::Memory)?;
        if low == GONE && high == GONE {
            return Err(Failure::Gone);
        }
        let nvm_set = high >> 5 & 1 != 0;
        let page_min = high >> 16 & 0xf;
        let entries_max = (low & 0xffff).saturating_add(1);
        if !nvm_set || page_min != 0 || entries_max < 2 {
            return Err(Failure::Unsupported);
        }
        let units = u64::from(low >> 24).max(1);
        Ok(Capabilities {
            entries_max,
            timeout_ns: ms(units.saturating_mul(500)),
            stride: 4u64 << (high & 0xf),
        })
    }

    /// Where the doorbell of a queue is, for its submission or its completion side.
    pub(crate) fn doorbell(&self, queue: u16, completion: bool) -> u64 {
        let number = u64::from(queue).saturating_mul(2).saturating_add(u64::from(completion));
        number.saturating_mul(self.stride).saturating_add(DOORBELLS)
    }
}

/// Whether the controller was started with this admin queue, and not stopped: by this driver, since
/// firmware's queue is elsewhere.
pub(crate) fn is_started_with(
    registers: &impl Registers,
    [submission, completion]: [u64; 2],
) -> bool {
    let is = |at: u64, word: u32| registers.read(at) == Some(word);
    let is_there = [(ASQ, submission), (ACQ, completion)].into_iter().all(|(at, address)| {
        let [low, high] = halves(address);
        is(at, low) && is(at.saturating_add(4), high)
    });
    is_there && is(CC, CC_ENTRIES | CC_ENABLE)
}

/// How long a controller may say that it failed before it is believed.
const ONLINE_NS: u64 = 5_000_000_000;

/// Waits for the controller of a virtual function, which has no capabilities until the driver of its
/// physical function has brought it online.
pub fn wait_for_physical(registers: &impl Registers, pause: &impl Pause) {
    if [CAP, CAP_HIGH].into_iter().all(|at| registers.read(at) == Some(0)) {
        wait_online(registers, pause);
    }
}

/// Waits until a controller that was stopped does not say any more that it failed. That of a virtual
/// function says so until its physical function has brought it online.
pub(crate) fn wait_online(registers: &impl Registers, pause: &impl Pause) {
    wait_for(pause, ONLINE_NS, || match registers.read(CSTS) {
        Some(GONE) | None => Some(()),
        Some(status) => (status & CSTS_FATAL == 0).then_some(()),
    });
}

/// How the controller is ("Controller Status"); a fatal error and absence are failures.
pub(crate) fn is_ready(registers: &impl Registers) -> Result<bool, Failure> {
    match registers.read(CSTS).ok_or(Failure::Memory)? {
        GONE => Err(Failure::Gone),
        status if status & CSTS_FATAL != 0 => Err(Failure::Fatal),
        status => Ok(status & CSTS_READY != 0),
    }
}

/// Stops the controller ("Controller Reset"): afterwards it touches no memory. A fatal error does
/// not keep it from stopping.
pub(crate) fn stop(
    registers: &impl Registers,
    capabilities: &Capabilities,
    pause: &impl Pause,
) -> Result<(), Failure> {
    registers.write(CC, 0).ok_or(Failure::Memory)?;
    let stopped = wait_for(pause, capabilities.timeout_ns, || match registers.read(CSTS) {
        None => Some(Err(Failure::Memory)),
        Some(GONE) => Some(Err(Failure::Gone)),
        Some(status) if status & CSTS_READY == 0 => Some(Ok(())),
        Some(_) => None,
    });
    stopped.unwrap_or(Err(Failure::NotReady))
}

/// Starts the controller with an admin queue of so many entries on either side.
pub(crate) fn start(
    registers: &impl Registers,
    capabilities: &Capabilities,
    pause: &impl Pause,
    [submission, completion]: [u64; 2],
    entries: u32,
) -> Result<(), Failure> {
    let last = entries.saturating_sub(1);
    let words = [(AQA, last << 16 | last), (INTMS, 0), (CC, CC_ENTRIES)];
    for (at, address) in [(ASQ, submission), (ACQ, completion)] {
        let [low, high] = halves(address);
        registers.write(at, low).ok_or(Failure::Memory)?;
        registers.write(at.saturating_add(4), high).ok_or(Failure::Memory)?;
    }
    for (at, value) in words.into_iter().chain([(CC, CC_ENTRIES | CC_ENABLE)]) {
        registers.write(at, value).ok_or(Failure::Memory)?;
    }
    let ready = wait_for(pause, capabilities.timeout_ns, || match is_ready(registers) {
        Ok(false) => None,
        Ok(true) => Some(Ok(())),
        Err(failure) => Some(Err(failure)),
    });
    ready.unwrap_or(Err(Failure::NotReady))
}

/// The halves of a word, the lower first.
pub(crate) fn halves(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}
