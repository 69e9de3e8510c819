//! Why a virtual machine cannot go on, in words: [`stopped_text`], for the monitor that says so and
//! the supervisor that hears it. The codes are `cloister_abi::fault`'s; each has words of its own.

use cloister_abi::fault::{
    STOPPED_CONFIG, STOPPED_DEVICE_PAGE, STOPPED_HOST, STOPPED_INVALID, STOPPED_PANIC,
    STOPPED_TOO_MANY_PAGES, STOPPED_TRIPLE_FAULT, STOPPED_WORKER, Stopped,
};

/// The code in words.
pub const fn stopped_text(stopped: &Stopped) -> &'static str {
    match stopped.code {
        STOPPED_TRIPLE_FAULT => "triple fault",
        STOPPED_PANIC => "guest panic",
        STOPPED_INVALID => "a state that the processor cannot enter",
        STOPPED_DEVICE_PAGE if stopped.byte == 0 => "code fetched from a device page",
        STOPPED_DEVICE_PAGE => "page tables in a device page",
        STOPPED_HOST => "the processor lacks what the virtual platform promises",
        STOPPED_TOO_MANY_PAGES => "one instruction touched too many device pages",
        STOPPED_WORKER => "the task behind a device did not answer",
        STOPPED_CONFIG => "the monitor cannot run what the manifest describes",
        _ => "a reason that this supervisor does not know",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_words_of_its_own() {
        let text = |code, byte| stopped_text(&Stopped { code, byte, rip: 0 });
        let mut texts: Vec<&str> = (0..=8).map(|code| text(code, 0)).collect();
        texts.push(text(STOPPED_DEVICE_PAGE, 1));
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), 10);
        assert_eq!(text(0, 0), text(9, 0));
    }
}
