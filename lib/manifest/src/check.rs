//! Small judgements that board and appliance share: numbers in a range, quantities, names.
//!
//! A [`Judge`] holds the file and collects what is wrong; a judgement that fails pushes one
//! problem and returns `None`, and the caller goes on with the next value.

use std::ops::RangeInclusive;

use toml::Spanned;

use crate::names::{NAME_MAX, RESERVED, is_identifier};
use crate::quantity::{Written, WrongQuantity};
use crate::report::{Problem, Problems, Source, Span};

/// Judges the values of one file.
pub struct Judge<'a> {
    /// The file.
    pub source: &'a Source,
    /// What is wrong so far.
    pub problems: &'a mut Problems,
}

impl Judge<'_> {
    /// Adds a problem with one place.
    pub fn wrong(
        &mut self,
        span: Span,
        message: impl Into<String>,
        label: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.problems.push(Problem::new(self.source, span, message, label, help));
    }

    /// A whole number in a range.
    pub fn number<T: TryFrom<i64>>(
        &mut self,
        what: &str,
        value: &Spanned<i64>,
        allowed: RangeInclusive<i64>,
    ) -> Option<Spanned<T>> {
        let found = *value.get_ref();
        let converted = T::try_from(found).ok().filter(|_| allowed.contains(&found));
        if converted.is_none() {
            let (low, high) = (allowed.start(), allowed.end());
            self.wrong(
                value.span(),
                format!("{what} is {found}, allowed is {low} to {high}"),
                format!("not in {low} to {high}"),
                format!("choose a number from {low} to {high}"),
            );
        }
        converted.map(|number| Spanned::new(value.span(), number))
    }

    /// A quantity with its unit.
    pub fn quantity<T>(
        &mut self,
        what: &str,
        value: &Spanned<Written>,
        read: impl Fn(&Written) -> Result<T, WrongQuantity>,
    ) -> Option<T> {
        read(value.get_ref()).map_err(|wrong| self.wrong_quantity(what, value.span(), wrong)).ok()
    }

    /// Adds the problem of a quantity that could not be read.
    pub fn wrong_quantity(&mut self, what: &str, span: Span, wrong: WrongQuantity) {
        let label = wrong.found.split(", which ").last().unwrap_or("here");
        let label = label.replace("has no unit", "no unit").replace("is ", "");
        self.wrong(span, format!("{what} is {}", wrong.found), label, wrong.right);
    }

    /// One of a few words.
    pub fn word<T: Copy>(
        &mut self,
        what: &str,
        value: &Spanned<String>,
        words: &[(&str, T)],
    ) -> Option<T> {
        let found = value.get_ref().as_str();
        let meaning = words.iter().find(|(word, _)| *word == found).map(|(_, meaning)| *meaning);
        if meaning.is_none() {
            let names = || words.iter().map(|(word, _)| *word);
            let guess = crate::names::did_you_mean(found, names());
            self.wrong(
                value.span(),
                format!("{what} is `{found}`, which is unknown"),
                "unknown word",
                format!("{guess}allowed is {}", crate::names::listed(names())),
            );
        }
        meaning
    }

    /// A name of a task, device, export or grant.
    pub fn name(&mut self, what: &str, name: &Spanned<String>) -> bool {
        let found = name.get_ref();
        if !is_identifier(found, NAME_MAX) {
            self.wrong(
                name.span(),
                format!("{what} `{found}` is no name"),
                "not a name",
                format!(
                    "a name has 1 to {NAME_MAX} characters: a lower-case letter, then lower-case \
                     letters, digits and dashes"
                ),
            );
            return false;
        }
        if RESERVED.contains(&found.as_str()) {
            self.wrong(
                name.span(),
                format!("{what} `{found}` has a name that the build uses itself"),
                "reserved",
                format!(
                    "choose a name other than {}",
                    crate::names::listed(RESERVED.iter().copied())
                ),
            );
            return false;
        }
        true
    }
}
