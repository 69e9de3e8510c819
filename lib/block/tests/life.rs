//! The life of a controller: what is done with one that does not go on.

use cloister_block::{
    Busy, Command, Controller, Cure, Disk, Health, Life, Limits, Outcome, Pause, Sickness, State,
    Tag,
};

/// A sickness for each cure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sick(Cure);

impl Sickness for Sick {
    fn cure(self) -> Cure {
        self.0
    }
}

/// A controller that has what the test says, and a disk that it has not.
struct Patient {
    life: Life<Sick>,
    has: Option<Cure>,
}

impl Disk for Patient {
    fn limits(&self) -> &Limits {
        unreachable!("nobody asks")
    }

    fn submit(&mut self, _: Tag, _: &Command<'_>) -> Result<(), Busy> {
        Err(Busy)
    }

    fn ring(&mut self) {}

    fn poll(&mut self) -> Option<(Tag, Outcome)> {
        None
    }

    fn cancel(&mut self, _: Tag) {}
}

impl Controller for Patient {
    type Sick = Sick;
    type Failure = ();

    const GONE: () = ();

    fn life(&self) -> &Life<Sick> {
        &self.life
    }

    fn life_mut(&mut self) -> &mut Life<Sick> {
        &mut self.life
    }

    fn stop(&mut self, _: &impl Pause) -> Result<(), ()> {
        self.life.turn(State::Stopped);
        Ok(())
    }

    fn start(&mut self, _: &impl Pause) -> Result<(), ()> {
        self.life.turn(State::Up);
        Ok(())
    }

    fn look(&mut self) -> Option<Sick> {
        self.has.map(Sick)
    }

    fn lose(&mut self) {
        self.life.turn(State::Lost);
    }
}

/// A clock that nobody looks at.
struct Still;

impl Pause for Still {
    fn now(&self) -> u64 {
        0
    }

    fn sleep(&self, _: u64) {}
}

fn up(has: Option<Cure>) -> Patient {
    let mut patient = Patient { life: Life::new(), has };
    assert_eq!(patient.watch(), Health::Lost, "it was never started");
    patient.start(&Still).unwrap();
    patient
}

#[test]
fn resets_without_a_success_between_them_end_in_a_loss() {
    let mut patient = up(Some(Cure::Reset));
    for _ in 0..4 {
        assert_eq!(patient.watch(), Health::Sick(Sick(Cure::Reset)));
        patient.stop(&Still).unwrap();
        patient.start(&Still).unwrap();
    }
    assert_eq!(patient.watch(), Health::Lost);
    patient.start(&Still).unwrap();
    patient.life.succeeded();
    assert_eq!(patient.watch(), Health::Sick(Sick(Cure::Reset)));
}

#[test]
fn a_recovery_is_no_reset_and_nothing_cures_what_is_gone() {
    let mut patient = up(Some(Cure::Recovery));
    for _ in 0..100 {
        assert_eq!(patient.watch(), Health::Sick(Sick(Cure::Recovery)));
        patient.start(&Still).unwrap();
    }
    assert_eq!(patient.recover(&Still), Err(()), "it has no way to");
    patient.has = Some(Cure::Nothing);
    assert_eq!(
        (patient.watch(), patient.state()),
        (Health::Lost, State::Sick(Sick(Cure::Nothing)))
    );
    patient.lose();
    assert_eq!((patient.watch(), patient.state()), (Health::Lost, State::Lost));
}

#[test]
fn each_look_is_counted_and_a_sick_controller_is_not_looked_at() {
    let mut patient = up(None);
    let before = patient.life().epoch();
    assert_eq!(patient.watch(), Health::Fine);
    assert_eq!(patient.life().epoch(), before + 1);
    patient.life_mut().turn(State::Sick(Sick(Cure::Reset)));
    patient.has = Some(Cure::Nothing);
    assert_eq!(patient.watch(), Health::Sick(Sick(Cure::Reset)));
}
