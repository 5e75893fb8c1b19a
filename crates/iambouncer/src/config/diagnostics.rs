//! What is wrong with a configuration, where, and how it is shown.
//!
//! Owns spans and the plain-text rendering with source line and carets. Never prints a password:
//! every source line passes through `redact` first.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::redact::redact_line;

/// A piece of one line of one file. Columns count characters, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Path as the user wrote it.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// First column.
    pub column: u32,
    /// Characters covered; at least one caret is drawn.
    pub length: u32,
}

impl Span {
    /// The part of this span that covers `bytes` of its own text.
    pub fn part(&self, text: &str, bytes: Range<usize>) -> Self {
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

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can, but perhaps not as meant.
    Warning,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Where, when it comes from a file.
    pub span: Option<Span>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// Something that makes the configuration unusable.
    pub fn error(message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, span: None, message: message.into(), help: None }
    }

    /// Something worth knowing.
    pub fn warning(message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(message) }
    }

    /// Adds where.
    #[must_use]
    pub fn at(self, span: impl Into<Option<Span>>) -> Self {
        Self { span: span.into(), ..self }
    }

    /// Adds what to do.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// Whether this one makes the configuration unusable.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// The finding as text, with its source line when `sources` has it.
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
    // Tabs become one space, so that carets stand under what they mean in any terminal.
    let shown = shown.replace('\t', " ");
    let number = span.line.to_string();
    let margin = " ".repeat(number.len());
    let indent = " ".repeat(start.saturating_sub(1) as usize);
    let carets = "^".repeat(length.max(1) as usize);
    format!("{margin} |\n{number} | {shown}\n{margin} | {indent}{carets}\n")
}

/// The text of every file read, so that findings can show their lines. Wiped when dropped.
#[derive(Clone, Default)]
pub struct Sources(BTreeMap<Arc<str>, Zeroizing<String>>);

impl Sources {
    /// Keeps the text of a file.
    pub fn insert(&mut self, file: Arc<str>, text: String) {
        self.0.insert(file, Zeroizing::new(text));
    }

    /// One line of a file, from 1, without its end.
    pub fn line(&self, file: &str, line: u32) -> Option<&str> {
        self.0.get(file)?.lines().nth((line as usize).checked_sub(1)?)
    }
}

/// Findings together with what is needed to show them; `Display` renders all of them.
#[derive(Clone)]
pub struct ConfigReport {
    /// What was found, in the order of the file.
    pub diagnostics: Vec<Diagnostic>,
    sources: Sources,
}

impl ConfigReport {
    /// Findings of a file.
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

/// The rendered text: derived output would show the sources, and with them passwords.
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
    fn passwords_never_show_and_carets_still_fit() {
        let mut sources = Sources::default();
        sources.insert("f".into(), "db = password=hunter2 pot=1".to_owned());
        let at = Span { file: "f".into(), line: 1, column: 23, length: 3 };
        let text = ConfigReport::new(vec![Diagnostic::error("unknown").at(at)], sources).to_string();
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains("1 | db = password=*** pot=***\n  |                   ^^^\n"), "{text}");
    }

    #[test]
    fn parts_count_characters() {
        let part = span(3, 10, 9).part("hést=ü x=1", 8..9);
        assert_eq!((part.column, part.length), (16, 1));
    }
}
