//! What the driver of a disk holds beside the wires: windows, in-flight records, and the table of
//! the volumes that it exports.
//!
//! Invariant: a window's memory is mapped by its two ends alone, in-flight records by the driver
//! alone; devices reach a client's memory only if the driver owns a bus master and no cipher is in
//! between, and in-flight records never.

use cloister_abi::info::{GRANT_MEMORY, GRANT_NUMBER, Grant};
use cloister_abi::layout::PAGE;
use cloister_abi::table::{MAP_DMA, MAP_READ, MAP_WRITE, RegionKind};
use cloister_proto::volume::{
    ACCESS_WRITE, CIPHER_AES_XTS_256, CIPHER_NONE, INFLIGHT_BYTES, Volume, WINDOW_BELL,
};
use zerocopy::IntoBytes;

use super::wires::entry;
use super::{Builder, CompileError, name_field, pages_of};
use crate::system::{Export, Extent, Grant as Granted, Task};

impl Builder<'_> {
    /// The right that a worker's devices have to the memory of a client which holds these exports.
    pub(super) fn dma<'e>(
        &self,
        worker: usize,
        mut exports: impl Iterator<Item = &'e Export>,
    ) -> u8 {
        let masters = self.system.has_bus_master(&self.system.tasks[worker]);
        if masters && exports.any(Export::moves_by_dma) { MAP_DMA } else { 0 }
    }

    /// The windows of a task, which is their client. Their mailboxes are there already.
    pub(super) fn windows(&mut self, client: usize) -> Result<(), CompileError> {
        let system = self.system;
        let task = &system.tasks[client];
        for grant in &task.grants {
            let export = &system.tasks[grant.server].exports[grant.export];
            if let Some(pages) = export.window {
                self.window(client, task, grant, export, pages)?;
            }
        }
        Ok(())
    }

    fn window(
        &mut self,
        client: usize,
        task: &Task,
        grant: &Granted,
        export: &Export,
        pages: u32,
    ) -> Result<(), CompileError> {
        let server = grant.server;
        let there = format!("{}/{}", export.name.get_ref(), task.name());
        let [ram, bells, bell] = ["ram", "bells", "bell"].map(|part| format!("{there}/{part}"));
        let [ram, bells, bell] = [checked(ram)?, checked(bells)?, checked(bell)?];
        let region = self.region(RegionKind::Ram, 0, 0, pages.into())?;
        let here = format!("{}/ram", grant.name.get_ref());
        self.share(client, &here, region, MAP_WRITE, None)?;
        let dma = self.dma(server, [export].into_iter());
        self.share(server, &ram, region, MAP_WRITE | dma, None)?;
        // A window has no doorbells of its own: these counters are words that nobody writes, and
        // its client rings through the mailbox.
        let mailbox = self.parts[server]
            .grants
            .iter()
            .find(|held| held.kind == GRANT_MEMORY && cloister_abi::name_str(&held.name) == there);
        let va = mailbox.map(|held| held.va);
        let va = va.ok_or_else(|| CompileError::new(format!("`{there}` has no mailbox")))?;
        self.tell(server, Grant { rights: MAP_READ, va, len: PAGE, ..entry(&bells, GRANT_MEMORY) });
        self.tell(server, Grant { va: WINDOW_BELL, ..entry(&bell, GRANT_NUMBER) });
        self.inflight(server, &there)
    }

    /// The in-flight records of an export, at its worker.
    pub(super) fn inflight(&mut self, worker: usize, name: &str) -> Result<(), CompileError> {
        let region = self.region(RegionKind::Ram, 0, 0, pages_of(INFLIGHT_BYTES))?;
        self.share(worker, &checked(format!("{name}/inflight"))?, region, MAP_WRITE, None)
    }

    /// The table of volumes for each task that exports some.
    pub(super) fn volumes(&mut self) -> Result<(), CompileError> {
        let system = self.system;
        for (index, task) in system.tasks.iter().enumerate() {
            let records: Vec<Volume> = task.exports.iter().filter_map(record).collect();
            if records.is_empty() {
                continue;
            }
            let bytes = records.as_bytes().to_vec();
            self.volumes.extend(records.into_iter().map(|record| (index, record)));
            let len = bytes.len() as u64;
            let region = self.payload(bytes)?;
            self.share(index, "volumes", region, MAP_READ, Some(len))?;
        }
        Ok(())
    }
}

/// What the driver is told of an export that is a volume.
fn record(export: &Export) -> Option<Volume> {
    let volume = export.volume.as_ref()?;
    let (partition, first_block, blocks) = match &volume.extent {
        Extent::Partition(name) => (name.as_str(), 0, 0),
        Extent::Blocks { first, blocks } => ("", *first, *blocks),
    };
    Some(Volume {
        export: name_field(export.name.get_ref()),
        partition: name_field(partition),
        first_block,
        blocks,
        blocks_min: volume.blocks_min,
        iops: volume.iops,
        bytes_per_second: volume.bytes_per_second,
        access: if volume.is_writable { ACCESS_WRITE } else { 0 },
        cipher: if volume.key.is_some() { CIPHER_AES_XTS_256 } else { CIPHER_NONE },
        key: name_field(volume.key.as_ref().map_or("", |key| key.get_ref())),
    })
}

/// A name that fits a name field.
fn checked(name: String) -> Result<String, CompileError> {
    if name.len() > cloister_abi::NAME_LEN {
        return Err(CompileError::new(format!("the name `{name}` is too long")));
    }
    Ok(name)
}
