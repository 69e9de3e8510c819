//! From the grants of thread 0 to the devices of the virtual machine.
//!
//! [`bus`] makes the [`Bus`], [`start`] connects it and waits until every worker has answered the
//! first reset.
//! Neighbours: `kernel/abi/src/vm.rs` says which grants there are, `lib/virtio/src/wire.rs` what a
//! reset is.

use crate::give_up;
use crate::host::{Kernel, refuse};
use cloister_monitor::bus::Bus;
use cloister_monitor::run::{Host, Ran};
use cloister_ring::{Side, Stream};
use cloister_rt::abi::name_str;
use cloister_rt::proto::stopped::{STOPPED_CONFIG, STOPPED_WORKER};
use cloister_rt::proto::vm::VmConfig;
use cloister_rt::{Duration, Instant, clock, generation, grants, system};

/// How long workers may take to answer the first reset. A restarted one answers after the delay of
/// its restart policy, so this is longer than those are.
const PATIENCE: Duration = Duration::from_secs(60);

/// The serial port, the clock and the legacy parts, as they are at the start. Not inlined: the
/// frame of thread 0 lasts, and is to hold them once.
#[inline(never)]
pub fn bus(config: &VmConfig) -> Bus<'static> {
    let since = Instant::from_tsc(system().tsc_sealed).elapsed().as_millis() / 1000;
    let unix = system().unix_seconds.saturating_add(since);
    Bus::new(config.flags, system().tsc_hz, unix, Instant::now().tsc())
}

/// Connects console and virtio devices, and returns when every worker has reset its device. A
/// virtual machine whose worker never does is stopped, for its policy to decide.
#[inline(never)]
pub fn start(bus: &mut Bus<'static>, kernel: &mut Kernel, config: &'static VmConfig) {
    virtio(bus, kernel, config);
    console(bus, kernel);
    let deadline = kernel.now().saturating_add(clock().ticks(PATIENCE));
    while let Some(number) = bus.unready() {
        if kernel.wait(deadline) == Ran::Deadline {
            let name = config.devices.get(number).map_or("", |device| name_str(&device.name));
            defmt::error!(
                "the task behind device {=str} has not answered a reset in {=u64} s; see why it is \
                 at rest, and start the virtual machine again",
                name,
                PATIENCE.as_millis() / 1000
            );
            give_up(STOPPED_WORKER);
        }
    }
}

/// The virtio devices; their workers are told to reset them.
fn virtio(bus: &mut Bus<'static>, kernel: &mut Kernel, config: &'static VmConfig) {
    let grants = grants();
    let gone = grants.gone();
    for (number, device) in config.devices.iter().enumerate() {
        let name = name_str(&device.name);
        if name.is_empty() {
            break;
        }
        let mailbox = grants.mailbox(name).unwrap_or_else(|missing| refuse(missing));
        let page = grants.msix_page(name).unwrap_or_else(|missing| refuse(missing));
        let (words, page) = (mailbox.memory.words(), page.words());
        let added = bus.add_device(number, (mailbox.bits | gone).word(), |devices| {
            devices.add(number, device, words, page, config.memory)
        });
        if added.is_err() {
            defmt::error!(
                "device {=str} with {=u16} queues does not fit into its {=usize} and {=usize} \
                 words; build the image again",
                name,
                device.queues,
                words.len(),
                page.len()
            );
            give_up(STOPPED_CONFIG);
        }
        mailbox.peer.wake();
        kernel.add_worker(number, mailbox.peer, mailbox.bits | gone);
    }
}

/// The console behind the serial port, if the manifest grants one. What was typed for the guest's
/// last life is not for this one.
fn console(bus: &mut Bus<'static>, kernel: &mut Kernel) {
    let Ok(mailbox) = grants().mailbox("console") else { return };
    let words = mailbox.memory.words();
    let Ok(mut stream) = Stream::new(words, Side::Client, generation()) else {
        defmt::error!("the console has {=usize} words, too few; its bytes are lost", words.len());
        return;
    };
    stream.discard();
    bus.set_console(stream, mailbox.bits.word());
    kernel.add_console(mailbox.peer, mailbox.bits);
}
