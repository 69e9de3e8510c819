//! The blocks: words of this task's memory, and what requests do to them.

use core::sync::atomic::{AtomicU64, Ordering};

use cloister_guest_abi::disk::BLOCK;
use cloister_guestmem::Ram;
use cloister_virtio::Rule;
use cloister_virtio::block::{Data, Kind, Parsed, Request, Shape, Status};

use crate::held::Buffers;

/// Blocks of the disk.
pub const BLOCKS: u64 = 256;
const BYTES: usize = BLOCK as usize;
const WORDS: usize = BYTES / 8;
/// What the disk calls itself.
const ID: &[u8; 20] = b"ramdisk\0\0\0\0\0\0\0\0\0\0\0\0\0";

static WORD: [AtomicU64; WORDS * BLOCKS as usize] =
    [const { AtomicU64::new(0) }; WORDS * BLOCKS as usize];

/// The disk.
pub struct Blocks {
    /// Which writes are lost: one in so many, 0 for none.
    lose: u64,
    writes: u64,
}

impl Blocks {
    /// A disk that loses one write in so many; none if that is 0.
    pub fn new(lose: u64) -> Self {
        Self { lose, writes: 0 }
    }

    /// Does what a request wants; the bytes that were written to the guest.
    pub fn carry_out<M: Ram>(
        &mut self,
        ram: &M,
        chain: &Buffers,
        shape: &Shape,
        features: u64,
    ) -> Result<u32, Rule> {
        let status = match Request::parse(ram, chain, shape, features)? {
            Parsed::Done(status) => status,
            Parsed::Work(request) => {
                self.work(ram, chain, &request)?;
                Status::Ok
            }
        };
        Request::finish(ram, chain, status)
    }

    fn work<M: Ram>(&mut self, ram: &M, chain: &Buffers, request: &Request) -> Result<(), Rule> {
        let mut bytes = [0; BYTES];
        let blocks = (request.block..).take(request.count as usize);
        match request.kind {
            Kind::Read => {
                for (block, at) in blocks.zip(offsets(&request.data)) {
                    load(block, &mut bytes);
                    chain.write(ram, at, &bytes)?;
                }
            }
            Kind::Write if self.loses() => {}
            Kind::Write => {
                for (block, at) in blocks.zip(offsets(&request.data)) {
                    chain.read(ram, at, &mut bytes)?;
                    store(block, &bytes);
                }
            }
            Kind::Discard | Kind::WriteZeroes { .. } => {
                blocks.for_each(|block| store(block, &bytes));
            }
            Kind::Identity => {
                chain.write(ram, request.data.offset, ID)?;
            }
            Kind::Flush => {}
        }
        Ok(())
    }
}

impl Blocks {
    fn loses(&mut self) -> bool {
        self.writes = self.writes.wrapping_add(1);
        self.lose != 0 && self.writes.is_multiple_of(self.lose)
    }
}

/// Where in a chain each block of the data begins.
fn offsets(data: &Data) -> impl Iterator<Item = u64> + use<> {
    (data.offset..).step_by(BYTES)
}

fn words(block: u64) -> impl Iterator<Item = &'static AtomicU64> {
    WORD.iter().skip(block as usize * WORDS).take(WORDS)
}

fn load(block: u64, bytes: &mut [u8; BYTES]) {
    for (eight, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words(block)) {
        *eight = word.load(Ordering::Relaxed).to_le_bytes();
    }
}

fn store(block: u64, bytes: &[u8; BYTES]) {
    for (eight, word) in bytes.as_chunks::<8>().0.iter().zip(words(block)) {
        word.store(u64::from_le_bytes(*eight), Ordering::Relaxed);
    }
}
