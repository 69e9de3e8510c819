//! The commands, one file each. A command has `Args` for clap and `run`.

pub mod audit;
pub mod bench;
pub mod build_image;
pub mod check;
pub mod gdb;
pub mod run;
pub mod setup;
pub mod test;
pub mod volume;
