//! The physical function of a controller with SR-IOV: [`Physical`], which gives its virtual
//! functions queues, vectors and a namespace each, and then does no more.
//!
//! "Virtualization Enhancements", "Namespace Attachment command". Virtual function N gets namespace
//! N, [`QUEUES`] queues and [`VECTORS`] vectors. A reset of this controller takes the others down,
//! so a driver that starts again leaves it running: each life brings the admin queue back to where a
//! new one begins ([`Admin::rewind`]), and the next life finds it there. One that died on the way
//! leaves the queue somewhere else; then no answer comes where it is looked for, and a reset is what
//! remains ([`Failure::Silent`]).
//! Invariant: a virtual function is online only with its own namespace attached.

use cloister_block::{Pause, Registers};
use cloister_dma::Memory;

use crate::admin::{self, Admin};
use crate::fault::Failure;
use crate::plan::Plan;
use crate::registers::{self, Capabilities};
use crate::secondary::Secondary;

/// Queues of a virtual function, counted in pairs: the admin queue, and one for requests.
pub const QUEUES: u16 = 2;
/// Its vectors.
pub const VECTORS: u16 = 2;
/// How long an answer of a queue that may be somewhere else is waited for.
const ADOPTED_PATIENCE_NS: u64 = 2_000_000_000;

/// The controller of a physical function.
pub struct Physical<R, M> {
    registers: R,
    memory: M,
    capabilities: Capabilities,
}

impl<R: Registers, M: Memory> Physical<R, M> {
    /// Looks at the controller.
    pub fn new(registers: R, memory: M) -> Result<Physical<R, M>, Failure> {
        let capabilities = Capabilities::read(&registers)?;
        Plan::new(memory.len(), 1).ok_or(Failure::Memory)?;
        Ok(Physical { registers, memory, capabilities })
    }

    /// Whether it works, as an earlier life left it.
    pub fn is_running(&self) -> bool {
        let queues = Plan::ADMIN.map(|place| self.memory.address(place));
        registers::is_started_with(&self.registers, queues) && self.is_ready()
    }

    /// Whether it works.
    pub fn is_ready(&self) -> bool {
        registers::is_ready(&self.registers) == Ok(true)
    }

    /// Stops the controller, and its virtual functions with it.
    pub fn stop(&self, pause: &impl Pause) -> Result<(), Failure> {
        registers::stop(&self.registers, &self.capabilities, pause)
    }

    /// Starts the controller that was stopped, and brings so many virtual functions up.
    pub fn start(&self, pause: &impl Pause, functions: u16) -> Result<(), Failure> {
        let mut admin = admin::start(&self.registers, &self.memory, self.capabilities, pause)?;
        self.bring_up(&mut admin, functions)
    }

    /// Goes on with the controller that an earlier life started, without a reset. Virtual functions
    /// that are online stay as they are.
    pub fn adopt(&self, pause: &impl Pause, functions: u16) -> Result<(), Failure> {
        let mut admin = admin::adopt(&self.registers, &self.memory, self.capabilities, pause)?;
        admin.patience_ns = ADOPTED_PATIENCE_NS;
        self.bring_up(&mut admin, functions)
    }

    fn bring_up<P: Pause>(
        &self,
        admin: &mut Admin<'_, R, M, P>,
        functions: u16,
    ) -> Result<(), Failure> {
        for number in 1..=functions {
            // The list is asked for anew each time: commands change it.
            admin.secondaries()?;
            let found = Secondary::find(&self.memory, Plan::ANSWER, number)?;
            if found.is_online {
                continue;
            }
            admin.set_offline(found.id)?;
            admin.assign_queues(found.id, QUEUES)?;
            admin.assign_vectors(found.id, VECTORS)?;
            admin.attach(found.id, number.into())?;
            admin.set_online(found.id)?;
        }
        admin.rewind()
    }
}
