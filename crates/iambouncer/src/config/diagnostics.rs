//! Diagnostics of a configuration: what is wrong, where, and how it is displayed.
//!
//! Owns spans and the text format with source line and carets. Never prints a password: every source line is redacted
//! first.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::redact::redact_line;

/// A part of one line of a file. Columns count characters, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Path as given by the user.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// First column.
    pub column: u32,
    /// Number of characters; at least one caret is drawn.
    pub length: u32,
}

impl Span {
    /// The part of this span for the given bytes of its text.
    pub fn subspan(&self, text: &str, bytes: Range<usize>) -> Self {
        let chars = |piece: Option<&str>| piece.map_or(0, |piece| clamp(piece.chars().count()));
        Self {
            column: self.column + chars(text.get(..bytes.start)),
            length: chars(text.get(bytes)),
            ..self.clone()
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}:{}", self.file, self.line, self.column)
    }
}

pub(super) fn clamp(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Severity of a diagnostic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// The configuration can be used, but may not do what was intended.
    Warning,
}

/// One diagnostic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Severity.
    pub severity: Severity,
    /// Position, if it comes from a file.
    pub span: Option<Span>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A diagnostic that makes the configuration unusable.
    pub fn error(message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, span: None, message: message.into(), help: None }
    }

    /// A diagnostic that deserves attention.
    pub fn warning(message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(message) }
    }

    /// Adds the position.
    #[must_use]
    pub fn at(self, span: impl Into<Option<Span>>) -> Self {
        Self { span: span.into(), ..self }
    }

    /// Adds a suggestion.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// True if it makes the configuration unusable.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// The diagnostic as text, with its source line if `sources` contains it.
    pub fn render(&self, sources: &Sources) -> String {
        let word = if self.is_error() { "error" } else { "warning" };
        let mut text = format!("{word}: {}\n", self.message);
        if let Some(span) = &self.span {
            text.push_str(&format!("  --> {span}\n"));
            if let Some(line) = sources.line(&span.file, span.line) {
                text.push_str(&draw(span, line));
            }
        }
        if let Some(help) = &self.help {
            text.push_str(&format!("help: {help}\n"));
        }
        text
    }
}

fn draw(span: &Span, line: &str) -> String {
    let (shown, start, length) = redact_line(line, span.column, span.length);
    // Tabs become one space, so that the carets line up in any terminal.
    let shown = shown.replace('\t', " ");
    let number = span.line.to_string();
    let margin = " ".repeat(number.len());
    let indent = " ".repeat(start.saturating_sub(1) as usize);
    let carets = "^".repeat(length.max(1) as usize);
    format!("{margin} |\n{number} | {shown}\n{margin} | {indent}{carets}\n")
}

/// The text of all files read, for displaying their lines. Wiped when dropped.
#[derive(Clone, Default)]
pub struct Sources(BTreeMap<Arc<str>, Zeroizing<String>>);

impl Sources {
    /// Stores the text of a file.
    pub fn insert(&mut self, file: Arc<str>, text: String) {
        self.0.insert(file, Zeroizing::new(text));
    }

    /// One line of a file, from 1, without its line end.
    pub fn line(&self, file: &str, line: u32) -> Option<&str> {
        self.0.get(file)?.lines().nth((line as usize).checked_sub(1)?)
    }
}

/// Diagnostics with the sources needed to display them; `Display` renders all of them.
#[derive(Clone)]
pub struct ConfigReport {
    /// The diagnostics, in file order.
    pub diagnostics: Vec<Diagnostic>,
    sources: Sources,
}

impl ConfigReport {
    /// The report of a file.
    pub fn new(diagnostics: Vec<Diagnostic>, sources: Sources) -> Self {
        Self { diagnostics, sources }
    }
}

impl From<Vec<Diagnostic>> for ConfigReport {
    fn from(diagnostics: Vec<Diagnostic>) -> Self {
        Self::new(diagnostics, Sources::default())
    }
}

impl fmt::Display for ConfigReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, diagnostic) in self.diagnostics.iter().enumerate() {
            let gap = if position == 0 { "" } else { "\n" };
            write!(formatter, "{gap}{}", diagnostic.render(&self.sources))?;
        }
        Ok(())
    }
}

/// The rendered text: derived output would show the sources, and passwords with them.
impl fmt::Debug for ConfigReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl std::error::Error for ConfigReport {}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(line: u32, column: u32, length: u32) -> Span {
        Span { file: "pgbouncer.ini".into(), line, column, length }
    }

    #[test]
    fn renders_source_carets_and_help() {
        let mut sources = Sources::default();
        sources.insert("pgbouncer.ini".into(), "[pgbouncer]\ndefualt_pool_size = 20\r\n".to_owned());
        let diagnostic = Diagnostic::error("unknown setting \"defualt_pool_size\"")
            .at(span(2, 1, 17))
            .help("did you mean \"default_pool_size\"?");
        let expected = "error: unknown setting \"defualt_pool_size\"\n  --> pgbouncer.ini:2:1\n  |\n\
                        2 | defualt_pool_size = 20\n  | ^^^^^^^^^^^^^^^^^\nhelp: did you mean \"default_pool_size\"?\n";
        assert_eq!(diagnostic.render(&sources), expected);
    }

    #[test]
    fn passwords_are_hidden_and_carets_still_line_up() {
        let mut sources = Sources::default();
        sources.insert("f".into(), "db = password=hunter2 pot=1".to_owned());
        let at = Span { file: "f".into(), line: 1, column: 23, length: 3 };
        let text = ConfigReport::new(vec![Diagnostic::error("unknown").at(at)], sources).to_string();
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains("1 | db = password=*** pot=***\n  |                   ^^^\n"), "{text}");
    }

    #[test]
    fn columns_count_characters() {
        let part = span(3, 10, 9).subspan("hést=ü x=1", 8..9);
        assert_eq!((part.column, part.length), (16, 1));
    }
}
