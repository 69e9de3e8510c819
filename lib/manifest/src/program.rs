//! A task program as its ELF describes it, without the ELF: entry, segments, build id.

/// A program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// First instruction.
    pub entry: u64,
    /// Its loadable parts.
    pub segments: Vec<Segment>,
    /// GNU build id, zero if there is none.
    pub build_id: [u8; 20],
}

/// A loadable part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Where the program expects it.
    pub va: u64,
    /// Where a writable part's pristine bytes lie, read-only, for the start code to copy.
    pub pristine_va: u64,
    /// Its bytes in the file.
    pub bytes: Vec<u8>,
    /// Its bytes in memory.
    pub len: u64,
    /// It holds instructions.
    pub is_executable: bool,
    /// The program writes to it.
    pub is_writable: bool,
}
