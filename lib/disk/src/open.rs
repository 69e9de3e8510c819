//! From the manifest's volumes to clients of the server: [`find`] where they lie, then [`open`] them.
//!
//! An encrypted volume's data begin behind its header. Its client is there at once, and its
//! requests wait until [`crate::Keys`] have its key.
//! Invariant: volumes of different exports lie apart from each other, or are not served. The client of
//! a volume that is not served is there, and its device needs a reset.

use cloister_block::{Client, QUEUES, Rate, SEGMENTS_MAX, Seal, Server, Volume};
use cloister_guestmem::GuestMemory;
use cloister_rt::proto::volume::{BLOCK_BYTES, CIPHER_NONE, SLOTS, Volume as Record};
use cloister_rt::{Bits, DeviceExport, Grants, Mailbox};
use cloister_virtio::block::Shape;
use cloister_virtio::{Device, Offer, Worker, features};
use cloister_volume::{Extent, Found, Scan};

use crate::keys::{DATA_OFFSET, Keys};
use crate::own::Accessible;
use crate::scan::{header, partitions};
use crate::serve::{Hardware, Memory, Pulse};

/// Most clients of a driver.
pub(crate) const CLIENTS_MAX: usize = cloister_block::CLIENTS_MAX;
/// Most blocks that a request may discard or zero: 16 MiB.
const RANGE_BLOCKS_MAX: u32 = 4096;

/// Whom a device belongs to.
pub(crate) struct Owner {
    pub(crate) name: &'static str,
    pub(crate) mailbox: Mailbox,
    pub(crate) broken: u32,
}

/// Bytes of the disk.
#[derive(Clone, Copy, Default)]
pub(crate) struct Span {
    first: u64,
    end: u64,
}

impl Span {
    /// Whether it shares no byte with another volume's.
    fn is_apart(&self, others: &[Option<Span>], name: &str) -> bool {
        let meets = |other: &Span| self.first < other.end && other.first < self.end;
        let is_apart = !others.iter().flatten().any(meets);
        if !is_apart {
            defmt::error!("volume {=str} overlaps another one; it is not served", name);
        }
        is_apart
    }
}

/// A sealed volume whose key was asked for.
#[derive(Clone, Copy)]
pub(crate) struct Sealed {
    pub(crate) number: u8,
    /// Where on the disk it begins, with its header.
    pub(crate) first: u64,
}

/// All clients that can be served.
pub(crate) struct Opened {
    pub(crate) owners: [Option<Owner>; CLIENTS_MAX],
    pub(crate) bits: Bits,
    /// Those that are encrypted.
    pub(crate) sealed: [Option<Sealed>; CLIENTS_MAX],
    /// What tells of news about their keys.
    pub(crate) news: Bits,
    /// There may be such news, or some keys are not here yet.
    pub(crate) is_waiting: bool,
    /// Some client has a volume.
    pub(crate) is_any_served: bool,
}

/// Where the volume of each client lies, if it is on the disk and apart from the others'.
pub(crate) type Spans = [Option<Span>; CLIENTS_MAX];

/// Scans the disk for the volumes of all exports. In a frame of its own: what that needs of the stack
/// is given back.
#[inline(never)]
pub(crate) fn find<H: Hardware, B: Accessible>(
    grants: Grants,
    hardware: &mut H,
    memory: &mut B,
    pulse: &Pulse,
) -> Spans {
    let limits = hardware.limits();
    let mut scan = Scan::new(limits.block_size, limits.blocks);
    partitions(hardware, memory, pulse, &mut scan);
    let mut spans = [None; CLIENTS_MAX];
    let exports = grants.device_exports().flatten();
    let records = exports.filter_map(|export| Some((export.name, record_of(grants, export.name)?)));
    for (place, (name, record)) in (0..CLIENTS_MAX).zip(records) {
        let span = span(hardware, &scan, record).filter(|span| span.is_apart(&spans, name));
        if let Some(known) = spans.get_mut(place) {
            *known = span;
        }
    }
    spans
}

/// The volume that the manifest gives an export, whose name has its client's behind it.
fn record_of(grants: Grants, name: &str) -> Option<&'static Record> {
    let (of, _) = name.split_once('/')?;
    grants.volumes().find(|volume| volume.export_name() == of)
}

/// Opens every export of this task that a client holds.
pub(crate) fn open<H: Hardware, K: Keys>(
    grants: Grants,
    hardware: &mut H,
    spans: &Spans,
    (memory, keys): (&mut Memory<'_, K::Seal>, &mut K),
    server: &mut Server<'static, GuestMemory>,
) -> Opened {
    let owners = [const { None }; CLIENTS_MAX];
    let (bits, news, sealed) = (Bits::NONE, Bits::NONE, [None; CLIENTS_MAX]);
    let (is_waiting, is_any_served) = (true, false);
    let mut opened = Opened { owners, bits, sealed, news, is_waiting, is_any_served };
    let mut numbers = 0u8..;
    for export in grants.device_exports() {
        let export = match export {
            Ok(export) => export,
            Err(missing) => {
                defmt::error!("{}: an export of this task needs a volume", missing);
                continue;
            }
        };
        let name = export.name;
        let Some(record) = record_of(grants, name) else {
            defmt::error!("{=str} has no volume", name);
            continue;
        };
        let number = numbers.next().unwrap_or(u8::MAX);
        let place = usize::from(number);
        let (Some(owner), Some(span)) = (opened.owners.get_mut(place), spans.get(place).copied())
        else {
            defmt::error!("no room to serve {=str}: {=usize} at most", name, CLIENTS_MAX);
            continue;
        };
        *owner = client(export, number, record, span.unwrap_or_default(), memory, server);
        let Some(owner) = owner else { continue };
        opened.bits |= owner.mailbox.bits;
        let Some(span) = span else {
            // Somebody has to tell the guest.
            server.close(number, hardware, memory);
            continue;
        };
        opened.is_any_served = true;
        if record.cipher == CIPHER_NONE {
            continue;
        }
        match ask(number, record, span, hardware, (memory, keys)) {
            Some(bits) => {
                opened.news |= bits;
                if let Some(sealed) = opened.sealed.get_mut(place) {
                    *sealed = Some(Sealed { number, first: span.first });
                }
            }
            None => server.close(number, hardware, memory),
        }
    }
    opened
}

/// Reads the header of an encrypted volume, and asks for its key. The bits that tell of news.
fn ask<H: Hardware, K: Keys>(
    number: u8,
    record: &'static Record,
    span: Span,
    hardware: &mut H,
    (memory, keys): (&mut Memory<'_, K::Seal>, &mut K),
) -> Option<Bits> {
    let name = record.export_name();
    let Some(header) = header(hardware, memory, span.first) else {
        defmt::error!("volume {=str}: the disk does not give its header", name);
        return None;
    };
    keys.ask(number, name, record, &header).ok()
}

/// Makes a client of an export.
fn client<S: Seal>(
    export: DeviceExport,
    number: u8,
    record: &Record,
    span: Span,
    memory: &mut Memory<'_, S>,
    server: &mut Server<'static, GuestMemory>,
) -> Option<Owner> {
    let DeviceExport { name, mailbox, ram, device_address, bells, first_bell, inflight } = export;
    let is_sealed = record.cipher != CIPHER_NONE;
    let offset = if is_sealed { span.first.saturating_add(DATA_OFFSET) } else { span.first };
    let bytes = span.end.saturating_sub(offset);
    let shape = Shape {
        blocks: bytes / BLOCK_BYTES,
        block_size: u32::try_from(BLOCK_BYTES).unwrap_or(u32::MAX),
        size_max: 0,
        seg_max: u32::try_from(SEGMENTS_MAX).unwrap_or(u32::MAX),
        has_topology: false,
        queues: u16::try_from(QUEUES).unwrap_or(u16::MAX),
        is_read_only: !record.is_writable(),
        discard_blocks_max: RANGE_BLOCKS_MAX,
        zeroes_blocks_max: RANGE_BLOCKS_MAX,
    };
    let config = shape.config();
    let offer =
        Offer { features: shape.features() | features::RINGS, queue_size: SLOTS, config: &config };
    let (words, bells) = (mailbox.memory.words(), bells.words());
    let made = match inflight {
        Some(records) => Worker::adopt(words, bells, first_bell, &offer)
            .and_then(|worker| Device::adopting(worker, ram, SLOTS, records.words())),
        None => Worker::new(words, bells, first_bell, &offer)
            .map(|worker| Device::new(worker, ram, SLOTS)),
    };
    let device = match made {
        Ok(device) => device,
        Err(small) => {
            defmt::error!("{=str} has a page or records of {=usize} words", name, small.words);
            return None;
        }
    };
    memory.introduce(number, ram, device_address.unwrap_or(0));
    let mut identity = [0; 20];
    let export = name.split_once('/').map_or(name, |(export, _)| export);
    for (to, from) in identity.iter_mut().zip(export.bytes()) {
        *to = from;
    }
    let rate = Rate::new(bound(record.iops), bound(record.bytes_per_second));
    let volume = Volume { offset, shape, memory: device_address, is_sealed, identity };
    server.add(number, Client::new(device, number, volume, rate))?;
    if shape.blocks != 0 {
        defmt::info!("{=str}: {=u64} blocks of 4 KiB", name, shape.blocks);
    }
    Some(Owner { name, mailbox, broken: 0 })
}

fn bound(per_second: u64) -> Option<u64> {
    (per_second != 0).then_some(per_second)
}

/// Where a volume lies, if the disk has it.
fn span<H: Hardware>(hardware: &H, scan: &Scan, record: &Record) -> Option<Span> {
    let name = record.export_name();
    let limits = hardware.limits();
    let block_size = u64::from(limits.block_size);
    let disk = limits.blocks.saturating_mul(block_size);
    let (first, bytes) = match record.partition_name() {
        None => {
            (record.first_block.checked_mul(BLOCK_BYTES)?, record.blocks.checked_mul(BLOCK_BYTES)?)
        }
        Some(partition) => {
            let Extent { first, blocks } = partition_of(name, partition, scan)?;
            (first.checked_mul(block_size)?, blocks.checked_mul(block_size)?)
        }
    };
    let bytes = bytes / BLOCK_BYTES * BLOCK_BYTES;
    let end = first.checked_add(bytes).filter(|end| *end <= disk && bytes != 0);
    let Some(end) = end else {
        defmt::error!("volume {=str} is not on the disk, which has {=u64} bytes", name, disk);
        return None;
    };
    let before = if record.cipher == CIPHER_NONE { 0 } else { DATA_OFFSET };
    let blocks = bytes.saturating_sub(before) / BLOCK_BYTES;
    if blocks < record.blocks_min || blocks == 0 {
        defmt::error!(
            "volume {=str} has {=u64} blocks of 4 KiB for data; the manifest wants {=u64}",
            name,
            blocks,
            record.blocks_min
        );
        return None;
    }
    Some(Span { first, end })
}

fn partition_of(name: &str, partition: &str, scan: &Scan) -> Option<Extent> {
    let (table, _) = scan.table()?.ok()?;
    match table.find(partition) {
        Found::One(extent) => return Some(extent),
        Found::Nothing => {
            defmt::error!("volume {=str}: no partition is named {=str}", name, partition);
        }
        Found::Several => {
            defmt::error!("volume {=str}: several partitions are named {=str}", name, partition);
        }
    }
    None
}
