//! The disk of the contract is the one that the device's side makes of the same numbers.

use cloister_guest_abi::disk::{self, features};
use cloister_virtio::block::{Shape, Status};

fn shape(is_read_only: bool) -> Shape {
    Shape {
        blocks: 12345,
        block_size: disk::BLOCK as u32,
        size_max: 0,
        seg_max: disk::SEGMENTS,
        has_topology: false,
        queues: disk::QUEUES,
        is_read_only,
        discard_blocks_max: disk::RANGE_BLOCKS,
        zeroes_blocks_max: disk::RANGE_BLOCKS,
    }
}

#[test]
fn both_sides_have_one_disk() {
    assert_eq!(shape(false).config(), disk::config(12345));
    assert_eq!(shape(false).features(), features::DISK);
    assert_eq!(shape(true).features(), features::DISK | features::RO);
    assert_eq!(cloister_virtio::features::ALL_RINGS, features::RINGS);
    let statuses = [Status::Ok, Status::Error, Status::Unsupported].map(Status::byte);
    assert_eq!(statuses, [disk::status::OK, disk::status::IO_ERROR, disk::status::UNSUPPORTED]);
}
