//! The detail with which a monitor says why its virtual machine cannot go on.

use cloister_abi::fault::{STOPPED_PANIC, Stopped};

#[test]
fn a_detail_keeps_code_byte_and_canonical_pointer() {
    for rip in [0, 0x10_0000, 0x7fff_ffff_ffff, 0xffff_8000_0000_0000, 0xffff_ffff_8100_1234] {
        let stopped = Stopped { code: STOPPED_PANIC, byte: 0xa5, rip };
        assert_eq!(Stopped::from_detail(stopped.detail()), stopped);
    }
}
