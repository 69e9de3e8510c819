//! A disk's controller, from its start to its loss: [`Controller`], and how far it is in its
//! [`Life`].
//!
//! A driver's core implements it, `lib/disk` drives it: it takes the function off the bus, calls
//! [`Controller::stop`], puts it back and calls [`Controller::start`]; the same for what a
//! [`Sickness`] says that a reset cures. Commands in flight keep their places over that and are
//! issued again. A controller that makes no progress over several resets, or that is no longer
//! there, is *lost*: every command fails then, at once.
//! Invariant: see [`Disk`]; after [`Controller::stop`] the controller touches no memory.

use crate::disk::Disk;
use crate::wait::Pause;

/// Resets in a row, without a command that succeeded, before the controller is given up.
const RESETS_MAX: u32 = 4;

/// How far a controller has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State<S> {
    /// It was not started, or was stopped.
    Stopped,
    /// It works.
    Up,
    /// It does not go on by itself.
    Sick(S),
    /// It will not be tried any more.
    Lost,
}

/// What [`Controller::watch`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health<S> {
    /// Nothing.
    Fine,
    /// The controller is to be cured, in the way that the sickness says.
    Sick(S),
    /// It is not to be tried any more: off the bus with it, then [`Controller::lose`].
    Lost,
}

/// What helps against a sickness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cure {
    /// [`Controller::recover`], with the function on the bus.
    Recovery,
    /// Stop and start.
    Reset,
    /// Nothing.
    Nothing,
}

/// Why a controller does not go on.
pub trait Sickness: Copy {
    /// What helps.
    fn cure(self) -> Cure;
}

/// The state of a controller, with the time that passes in it.
#[derive(Debug)]
pub struct Life<S> {
    state: State<S>,
    epoch: u32,
    resets: u32,
}

impl<S: Sickness> Life<S> {
    /// One that was not started.
    pub const fn new() -> Life<S> {
        Life { state: State::Stopped, epoch: 0, resets: 0 }
    }

    /// The state.
    #[inline]
    pub const fn state(&self) -> State<S> {
        self.state
    }

    /// Whether the controller works.
    #[inline]
    pub const fn is_up(&self) -> bool {
        matches!(self.state, State::Up)
    }

    /// It comes to this state.
    pub const fn turn(&mut self, state: State<S>) {
        self.state = state;
    }

    /// How often it was looked at; when a command was issued is said in this.
    #[inline]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// A command succeeded, so resets are worth it.
    #[inline]
    pub const fn succeeded(&mut self) {
        self.resets = 0;
    }

    /// What is to be done. A reset counts as one of those that may be of no use.
    fn judge(&mut self) -> Health<S> {
        let sick = match self.state {
            State::Stopped | State::Lost => return Health::Lost,
            State::Up => return Health::Fine,
            State::Sick(sick) => sick,
        };
        match sick.cure() {
            Cure::Nothing => return Health::Lost,
            Cure::Recovery => {}
            Cure::Reset => self.resets = self.resets.saturating_add(1),
        }
        if self.resets > RESETS_MAX { Health::Lost } else { Health::Sick(sick) }
    }
}

impl<S: Sickness> Default for Life<S> {
    fn default() -> Life<S> {
        Life::new()
    }
}

/// A disk whose controller can be stopped and started.
pub trait Controller: Disk {
    /// Why it does not go on.
    type Sick: Sickness;
    /// Why it cannot be used.
    type Failure: Copy;
    /// It is not there.
    const GONE: Self::Failure;

    /// How far it has come.
    fn life(&self) -> &Life<Self::Sick>;

    /// The same, to go on.
    fn life_mut(&mut self) -> &mut Life<Self::Sick>;

    /// Stops it. Until it is started it touches no memory.
    fn stop(&mut self, pause: &impl Pause) -> Result<(), Self::Failure>;

    /// Starts what was stopped, and issues again what was in flight.
    fn start(&mut self, pause: &impl Pause) -> Result<(), Self::Failure>;

    /// Whether one that is up does not go on.
    fn look(&mut self) -> Option<Self::Sick>;

    /// Has it go on after a sickness with [`Cure::Recovery`]; one that has none is reset instead.
    fn recover(&mut self, _pause: &impl Pause) -> Result<(), Self::Failure> {
        Err(Self::GONE)
    }

    /// Gives it up: what is in flight fails, and what comes. It is off the bus, so it touches no
    /// memory any more.
    fn lose(&mut self);

    /// The interrupt of that number came.
    fn heard(&mut self, _number: usize) {}

    /// The state.
    fn state(&self) -> State<Self::Sick> {
        self.life().state
    }

    /// Looks after it. Called once a second, for as long as commands are in flight, and after
    /// [`Controller::state`] became sick.
    fn watch(&mut self) -> Health<Self::Sick> {
        let life = self.life_mut();
        life.epoch = life.epoch.wrapping_add(1);
        if self.life().is_up()
            && let Some(sick) = self.look()
        {
            self.life_mut().state = State::Sick(sick);
        }
        self.life_mut().judge()
    }
}
