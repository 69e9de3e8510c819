//! What is wrong with a manifest, and where: [`Problem`]s that point into a [`Source`].
//!
//! Reading and checking push problems into a [`Problems`] and go on, so that one run tells of all
//! of them. Invariant: rendering depends on nothing but the problems themselves (no terminal, no
//! colour, no absolute path), because the texts are compared byte by byte in tests/manifest/bad.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource};

/// Columns of a rendered report.
const WIDTH: usize = 100;

/// A piece of a source text, in bytes.
pub type Span = Range<usize>;

/// A file that was read, under the name that messages use for it.
#[derive(Clone, Debug)]
pub struct Source {
    text: Arc<NamedSource<String>>,
}

impl Source {
    /// A source with the name that reports show.
    pub fn new(name: &str, text: String) -> Self {
        Self { text: Arc::new(NamedSource::new(name, text)) }
    }

    /// The name that reports show.
    pub fn name(&self) -> &str {
        self.text.name()
    }

    /// The text.
    pub fn text(&self) -> &str {
        self.text.inner()
    }
}

/// One mistake: the thing and its values, the place, and what would be right.
#[derive(Clone, Debug)]
pub struct Problem {
    source: Source,
    message: String,
    labels: Vec<(Span, String)>,
    help: String,
}

impl Problem {
    /// A problem at a place; `label` stands below the place, `help` says what would be right.
    pub fn new(
        source: &Source,
        span: Span,
        message: impl Into<String>,
        label: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self {
            source: source.clone(),
            message: message.into(),
            labels: vec![(span, label.into())],
            help: help.into(),
        }
    }

    /// Points at a second place of the same file.
    #[must_use]
    pub fn also(mut self, span: Span, label: impl Into<String>) -> Self {
        self.labels.push((span, label.into()));
        self
    }

    /// What is wrong, in one line.
    pub fn message(&self) -> &str {
        &self.message
    }

    fn position(&self) -> (&str, usize) {
        (self.source.name(), self.labels.first().map_or(0, |(span, _)| span.start))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

impl miette::Diagnostic for Problem {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        (!self.help.is_empty()).then(|| Box::new(&self.help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        Some(&*self.source.text)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        // The place of the mistake is the primary label: its line and column head the report.
        Some(Box::new(self.labels.iter().enumerate().map(|(index, (span, text))| {
            if index == 0 {
                LabeledSpan::new_primary_with_span(Some(text.clone()), span.clone())
            } else {
                LabeledSpan::new_with_span(Some(text.clone()), span.clone())
            }
        })))
    }
}

/// All that is wrong with one manifest.
#[derive(Clone, Debug, Default)]
pub struct Problems {
    list: Vec<Problem>,
    /// The appliance's file, as the user would type it.
    file: String,
}

impl Problems {
    /// Nothing is wrong yet with the manifest in `file`.
    pub fn new(file: &str) -> Self {
        Self { list: Vec::new(), file: file.to_owned() }
    }

    /// Adds one.
    pub fn push(&mut self, problem: Problem) {
        self.list.push(problem);
    }

    /// True if nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The problems, in the order in which they were found.
    pub fn list(&self) -> &[Problem] {
        &self.list
    }

    /// `Ok` if nothing is wrong, else the problems in the order of their places.
    pub fn into_result(mut self) -> Result<(), Problems> {
        if self.list.is_empty() {
            return Ok(());
        }
        self.list.sort_by(|a, b| a.position().cmp(&b.position()));
        Err(self)
    }

    /// The reports as text without colour, and the next command to type.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for problem in &self.list {
            let mut report = String::new();
            let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor())
                .with_width(WIDTH)
                .with_links(false);
            // Only a failing writer makes this an error, and a String never fails.
            let _ = handler.render_report(&mut report, problem);
            for line in report.lines() {
                text.push_str(line.trim_end());
                text.push('\n');
            }
        }
        text.push_str("next: correct the manifest, then type: cargo xtask audit ");
        text.push_str(&self.file);
        text.push('\n');
        text
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.render())
    }
}

impl std::error::Error for Problems {}
