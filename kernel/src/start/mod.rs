//! From the boot stub to the first task: once, on the boot core, before the seal.
//!
//! [`carve`] hands out memory, [`build`] makes the objects of the system table,
//! [`guests`] the virtual machines, [`calls`] serves, [`devices`] binds
//! functions system calls of `init`. After the seal none of this can run any more.

pub mod build;
pub mod calls;
pub mod carve;
mod devices;
mod guests;
