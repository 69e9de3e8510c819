//! What the console itself has to say at the terminal: answers to commands, one line each.
//!
//! Lines are made when there is room for them, so nothing is stored but which ones are due.

use cloister_ring::orders::{Operation, VmState};

use crate::keys::HELP;
use crate::text::Text;

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// That virtual machine has the keyboard and the screen.
    Selected(usize),
    /// All are shown by lines.
    All,
    /// There is no virtual machine with that number.
    NoSuch(usize),
    /// There is none at all.
    None,
    /// The supervisor refuses a command.
    Refused(usize, Operation, VmState),
    /// Nobody hears a command: no supervisor is wired, or it does not read.
    NoSupervisor,
    /// A virtual machine does not read what is typed.
    KeysLost(usize),
    /// The name of a task is to be typed.
    Naming,
    /// The machine is about to be switched off.
    PowerOff,
}

/// What is due.
#[derive(Clone, Copy, Debug, Default)]
pub struct Notices {
    answer: Option<Notice>,
    help: Due,
    list: Due,
}

/// The next line of several, if any.
type Due = Option<usize>;

/// A virtual machine, as the lines name it.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    /// Its name.
    pub name: &'a str,
    /// How it fares, if the supervisor has said so.
    pub state: Option<VmState>,
}

impl Notices {
    /// An answer, in place of one that was not shown yet.
    pub fn answer(&mut self, notice: Notice) {
        self.answer = Some(notice);
    }

    /// The help.
    pub fn help(&mut self) {
        self.help = Some(0);
    }

    /// The list.
    pub fn list(&mut self) {
        self.list = Some(0);
    }

    /// Whether a line is due.
    pub fn is_due(&self) -> bool {
        self.answer.is_some() || self.help.is_some() || self.list.is_some()
    }

    /// Makes the next line, without its end; `false` if none is due. `vm` knows the virtual
    /// machines by index.
    pub fn line<'a>(
        &mut self,
        selected: usize,
        width: usize,
        vm: impl Fn(usize) -> Option<Named<'a>>,
        out: &mut Text<'_>,
    ) -> bool {
        let name = |index| vm(index).map_or("?", |vm| vm.name);
        if let Some(notice) = self.answer.take() {
            answer(notice, name, out);
        } else if let Some(next) = self.help {
            out.push(HELP.get(next).copied().unwrap_or_default().as_bytes());
            self.help = (next + 1 < HELP.len()).then_some(next + 1);
        } else if let Some(next) = self.list {
            match vm(next) {
                Some(vm) => {
                    out.number(next + 1);
                    out.push(b" ");
                    out.padded(vm.name, width);
                    out.push(b" ");
                    out.push(vm.state.map_or("state unknown", VmState::name).as_bytes());
                    if next == selected {
                        out.push(b" (selected)");
                    }
                }
                None => out.push(b"this appliance has no virtual machine"),
            }
            self.list = vm(next + 1).map(|_| next + 1);
        } else {
            return false;
        }
        true
    }
}

fn answer<'a>(notice: Notice, name: impl Fn(usize) -> &'a str, out: &mut Text<'_>) {
    let mut say = |parts: &[&str]| parts.iter().for_each(|part| out.push(part.as_bytes()));
    match notice {
        Notice::Selected(vm) => {
            say(&[name(vm), " has keyboard and screen; Ctrl-] a shows all, Ctrl-] h helps"])
        }
        Notice::All => say(&["all by lines"]),
        Notice::NoSuch(number) => {
            say(&["there is no virtual machine "]);
            out.number(number);
        }
        Notice::None => say(&["this appliance has no virtual machine"]),
        Notice::Refused(vm, operation, state) => {
            say(&[name(vm), ": cannot ", operation.name(), " it: it is ", state.name()]);
        }
        Notice::NoSupervisor => say(&["no supervisor takes commands; try again in a moment"]),
        Notice::KeysLost(vm) => say(&[name(vm), " does not read what is typed; it is lost"]),
        Notice::Naming => say(&["the name of the task to kill, then Enter"]),
        Notice::PowerOff => say(&["the appliance ends"]),
    }
}
