//! What came of the cases: one line each, and the count.

/// The count.
#[derive(Default)]
pub struct Report {
    ok: u32,
    failed: u32,
}

/// One case while it runs. Its first check that does not hold is the one that is reported.
pub struct Check {
    name: &'static str,
    failed: bool,
}

impl Report {
    /// Runs a case and says what came of it.
    pub fn case(&mut self, name: &'static str, run: impl FnOnce(&mut Check)) {
        let mut check = Check { name, failed: false };
        run(&mut check);
        if check.failed {
            self.failed += 1;
        } else {
            self.ok += 1;
            defmt::info!("case {=str} ok", name);
        }
    }

    /// Says how many.
    pub fn end(&self) {
        defmt::info!("cases: {=u32} ok, {=u32} failed", self.ok, self.failed);
    }

    /// Whether there were cases and all of them held.
    pub fn is_good(&self) -> bool {
        self.ok > 0 && self.failed == 0
    }
}

impl Check {
    /// Two numbers have to be equal.
    pub fn equal(&mut self, what: &'static str, found: u64, expected: u64) {
        if found != expected {
            self.fail(what, found, expected);
        }
    }

    /// A number has to be in a range, both ends included.
    pub fn within(&mut self, what: &'static str, found: u64, low: u64, high: u64) {
        if found < low {
            self.fail(what, found, low);
        } else if found > high {
            self.fail(what, found, high);
        }
    }

    /// Something has to be so.
    pub fn holds(&mut self, what: &'static str, is_so: bool) {
        self.equal(what, u64::from(is_so), 1);
    }

    /// Whether a check has failed.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    fn fail(&mut self, what: &'static str, found: u64, expected: u64) {
        if !self.failed {
            defmt::error!(
                "case {=str} FAILED: {=str}: found {=u64} ({=u64:#x}), expected {=u64} ({=u64:#x})",
                self.name,
                what,
                found,
                found,
                expected,
                expected
            );
        }
        self.failed = true;
    }
}
