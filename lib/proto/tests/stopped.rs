//! The detail with which a monitor says why its virtual machine cannot go on.

use cloister_proto::stopped::{STOPPED_DEVICE_PAGE, STOPPED_PANIC, Stopped};

#[test]
fn a_detail_keeps_code_byte_and_canonical_pointer() {
    for rip in [0, 0x10_0000, 0x7fff_ffff_ffff, 0xffff_8000_0000_0000, 0xffff_ffff_8100_1234] {
        let stopped = Stopped { code: STOPPED_PANIC, byte: 0xa5, rip };
        assert_eq!(Stopped::from_detail(stopped.detail()), stopped);
    }
}

#[test]
fn every_code_has_words_of_its_own() {
    let name = |code, byte| Stopped { code, byte, rip: 0 }.name();
    let mut names: Vec<&str> = (0..=8).map(|code| name(code, 0)).collect();
    names.push(name(STOPPED_DEVICE_PAGE, 1));
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 10);
    assert_eq!(name(0, 0), name(9, 0));
}
