//! PgBouncer's INI syntax: sections, `key = value`, comments, `%include`.
//!
//! Owns lines, spans and size limits; never opens a file itself and is independent of the keys.

use std::ops::Range;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::diagnostics::{Diagnostic, Sources, Span, clamp};
use super::nearest::nearest;

/// Maximum nesting depth of included files.
pub const MAX_INCLUDE_DEPTH: usize = 10;
/// Maximum total size of all files of a configuration.
pub const MAX_TOTAL_BYTES: usize = 16 << 20;

/// The source of file texts.
pub trait Loader {
    /// The whole text, or the reason of a failure. Relative paths start at the working directory.
    fn load(&self, path: &str) -> Result<String, String>;
}

impl<F: Fn(&str) -> Result<String, String>> Loader for F {
    fn load(&self, path: &str) -> Result<String, String> {
        self(path)
    }
}

/// The sections of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IniSection {
    /// `[databases]`
    Databases,
    /// `[pgbouncer]`, also spelled `[iambouncer]`
    Pooler,
    /// `[users]`
    Users,
    /// `[peers]`
    Peers,
}

const SECTIONS: [(&str, IniSection); 5] = [
    ("databases", IniSection::Databases),
    ("pgbouncer", IniSection::Pooler),
    ("iambouncer", IniSection::Pooler),
    ("users", IniSection::Users),
    ("peers", IniSection::Peers),
];

/// One `key = value`. No `Debug`: the value may contain a password.
#[derive(Clone)]
pub struct IniEntry {
    /// Its section.
    pub section: IniSection,
    /// Key without quotes.
    pub key: String,
    /// Position of the key.
    pub key_span: Span,
    /// Value without surrounding space.
    pub value: Zeroizing<String>,
    /// Position of the value.
    pub value_span: Span,
}

/// The result of parsing: entries in order, their source text, and diagnostics.
#[derive(Default)]
pub struct IniDocument {
    /// All entries, with those of included files in place.
    pub entries: Vec<IniEntry>,
    /// Text of every file read.
    pub sources: Sources,
    /// Diagnostics about invalid lines.
    pub diagnostics: Vec<Diagnostic>,
}

/// Parses a file and its includes. Invalid lines are reported and skipped, so that all errors are found at once.
pub fn parse(path: &str, loader: &dyn Loader) -> IniDocument {
    let mut parser =
        Parser { loader, document: IniDocument::default(), open: Vec::new(), section: None, total_bytes: 0 };
    parser.file(path, None);
    parser.document
}

struct Parser<'a> {
    loader: &'a dyn Loader,
    document: IniDocument,
    /// Files being read, outermost first; an include must not name one of them.
    open: Vec<Arc<str>>,
    /// `Some(None)` in a section with an unknown name, which is reported once at its head.
    section: Option<Option<IniSection>>,
    total_bytes: usize,
}

impl Parser<'_> {
    fn file(&mut self, path: &str, from: Option<Span>) {
        if let Some(reason) = self.refuse_include(path) {
            return self.report(Diagnostic::error(reason).at(from));
        }
        let text = match self.loader.load(path) {
            Ok(text) => text,
            Err(reason) => {
                return self.report(Diagnostic::error(format!("cannot read {path}: {reason}")).at(from));
            }
        };
        self.total_bytes = self.total_bytes.saturating_add(text.len());
        if self.total_bytes > MAX_TOTAL_BYTES {
            let reason = format!("the configuration is larger than {MAX_TOTAL_BYTES} bytes with {path}");
            return self.report(Diagnostic::error(reason).at(from));
        }
        let name: Arc<str> = path.into();
        self.open.push(Arc::clone(&name));
        let body = text.strip_prefix('\u{feff}').unwrap_or(&text);
        for (index, line) in body.lines().enumerate() {
            self.line(IniLine { file: &name, number: clamp(index + 1), text: line });
        }
        self.open.pop();
        self.document.sources.insert(name, text);
    }

    fn refuse_include(&self, path: &str) -> Option<String> {
        if self.open.iter().any(|open| &**open == path) {
            Some(format!("{path} includes itself"))
        } else if self.open.len() > MAX_INCLUDE_DEPTH {
            Some(format!("includes are nested deeper than {MAX_INCLUDE_DEPTH}"))
        } else if self.total_bytes > MAX_TOTAL_BYTES {
            Some(format!("the configuration is larger than {MAX_TOTAL_BYTES} bytes"))
        } else {
            None
        }
    }

    fn line(&mut self, line: IniLine<'_>) {
        let body = line.text.trim();
        match body.chars().next() {
            None | Some('#' | ';') => {}
            Some('[') => self.section_head(line, body),
            Some('%') => self.include(line, body),
            Some(_) => self.entry(line, body),
        }
    }

    fn section_head(&mut self, line: IniLine<'_>, body: &str) {
        self.section = Some(None);
        let Some((name, rest)) = body[1..].split_once(']') else {
            return self.report(Diagnostic::error("the section name has no closing \"]\"").at(line.whole()));
        };
        self.section = Some(SECTIONS.iter().find(|(known, _)| *known == name).map(|(_, section)| *section));
        if self.section == Some(None) {
            let known = SECTIONS.iter().map(|(known, _)| *known);
            let help = nearest(name, known.clone()).map_or_else(
                || format!("the sections are {}", known.collect::<Vec<_>>().join(", ")),
                |name| format!("did you mean [{name}]?"),
            );
            self.report(Diagnostic::error(format!("unknown section [{name}]")).at(line.whole()).help(help));
        }
        if !rest.trim_start().is_empty() && !rest.trim_start().starts_with(['#', ';']) {
            self.report(Diagnostic::error("unexpected text after the section name").at(line.whole()));
        }
    }

    fn include(&mut self, line: IniLine<'_>, body: &str) {
        match body.strip_prefix("%include").filter(|rest| rest.starts_with([' ', '\t'])) {
            Some(path) => self.file(path.trim(), Some(line.whole())),
            None => self.report(Diagnostic::error("expected \"%include FILE\"").at(line.whole())),
        }
    }

    fn entry(&mut self, line: IniLine<'_>, body: &str) {
        let start = line.text.len() - line.text.trim_start().len();
        let (key, key_bytes) = match read_key(body) {
            Ok((key, end)) => (key, start..start + end),
            Err(reason) => return self.report(Diagnostic::error(reason).at(line.whole())),
        };
        let after_key = line.text[key_bytes.end..].trim_start();
        let Some(value) = after_key.strip_prefix('=').map(str::trim) else {
            let found = Diagnostic::error("expected \"key = value\"").at(line.whole());
            return self.report(found);
        };
        let Some(section) = self.section else {
            let found = Diagnostic::error(format!("\"{key}\" precedes any section"))
                .at(line.span(key_bytes))
                .help("settings belong under [pgbouncer], databases under [databases]");
            return self.report(found);
        };
        let Some(section) = section else { return };
        let value_end = line.text.trim_end().len();
        self.document.entries.push(IniEntry {
            section,
            key,
            key_span: line.span(key_bytes),
            value: Zeroizing::new(value.to_owned()),
            value_span: line.span(value_end - value.len()..value_end),
        });
    }

    fn report(&mut self, diagnostic: Diagnostic) {
        self.document.diagnostics.push(diagnostic);
    }
}

#[derive(Clone, Copy)]
struct IniLine<'a> {
    file: &'a Arc<str>,
    number: u32,
    text: &'a str,
}

impl IniLine<'_> {
    fn span(&self, bytes: Range<usize>) -> Span {
        let whole = Span { file: Arc::clone(self.file), line: self.number, column: 1, length: 0 };
        whole.subspan(self.text, bytes)
    }

    fn whole(&self) -> Span {
        let end = self.text.trim_end().len();
        self.span(self.text.len() - self.text.trim_start().len()..end)
    }
}

/// Parses a key, bare or in double quotes; returns it with its length in bytes.
fn read_key(body: &str) -> Result<(String, usize), &'static str> {
    if !body.starts_with('"') {
        let bare = |letter: char| letter.is_alphanumeric() || "_.-*".contains(letter);
        let end = body.find(|letter| !bare(letter)).unwrap_or(body.len());
        if end == 0 {
            return Err("expected \"key = value\"");
        }
        return Ok((body[..end].to_owned(), end));
    }
    let mut key = String::new();
    let mut letters = body.char_indices().skip(1).peekable();
    while let Some((index, letter)) = letters.next() {
        if letter != '"' {
            key.push(letter);
        } else if letters.next_if(|(_, next)| *next == '"').is_some() {
            key.push('"');
        } else {
            return Ok((key, index + 1));
        }
    }
    Err("unterminated quoted name")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> IniDocument {
        parse("main.ini", &|_: &str| Ok(text.to_owned()))
    }

    fn messages(document: &IniDocument) -> Vec<&str> {
        document.diagnostics.iter().map(|found| found.message.as_str()).collect()
    }

    #[test]
    fn reads_sections_comments_and_spans() {
        let document = read(
            "\u{feff}; top\r\n[pgbouncer]\r\n  listen_port =  6432 ; kept\r\n# c\r\n[databases] ; c\n\"a \"\"b\" = host=h\n* = \n",
        );
        assert_eq!(messages(&document), [] as [&str; 0]);
        let first = &document.entries[0];
        assert_eq!((first.key.as_str(), first.value.as_str()), ("listen_port", "6432 ; kept"));
        assert_eq!((first.key_span.line, first.key_span.column, first.key_span.length), (3, 3, 11));
        assert_eq!((first.value_span.column, first.value_span.length), (18, 11));
        assert_eq!(document.entries[1].key, "a \"b");
        assert_eq!((document.entries[2].key.as_str(), document.entries[2].value.as_str()), ("*", ""));
    }

    #[test]
    fn every_invalid_line_is_reported() {
        let document =
            read("x = 1\n[pgbuoncer]\ny = 1\n[users\n[users]\nno value\n\"open = 1\n%includ x\n= 3\n");
        assert_eq!(
            messages(&document),
            [
                "\"x\" precedes any section",
                "unknown section [pgbuoncer]",
                "the section name has no closing \"]\"",
                "expected \"key = value\"",
                "unterminated quoted name",
                "expected \"%include FILE\"",
                "expected \"key = value\"",
            ]
        );
        assert_eq!(document.diagnostics[1].help.as_deref(), Some("did you mean [pgbouncer]?"));
    }

    #[test]
    fn includes_continue_the_section() {
        let loader = |path: &str| match path {
            "main.ini" => Ok("[databases]\na = x=1\n%include more.ini\nc = x=1\n".to_owned()),
            "more.ini" => Ok("b = x=1\n[users]\n".to_owned()),
            _ => Err("no such file".to_owned()),
        };
        let document = parse("main.ini", &loader);
        let found: Vec<_> = document.entries.iter().map(|e| (e.key.as_str(), e.section)).collect();
        assert_eq!(
            found,
            [("a", IniSection::Databases), ("b", IniSection::Databases), ("c", IniSection::Users)]
        );
        assert_eq!(document.entries[1].key_span.to_string(), "more.ini:1:1");
    }

    #[test]
    fn include_loops_and_depth_are_limited() {
        let document = read("%include main.ini\n");
        assert_eq!(messages(&document), ["main.ini includes itself"]);
        let deeper = |path: &str| Ok(format!("%include {path}x\n"));
        assert_eq!(messages(&parse("x", &deeper)), ["includes are nested deeper than 10"]);
        let wide = |path: &str| Ok(format!("%include {path}x\n;{}\n%include {path}y\n", " ".repeat(1 << 20)));
        assert!(messages(&parse("x", &wide)).iter().any(|text| text.contains("larger than")));
    }

    #[test]
    fn errors_name_an_unreadable_file() {
        let document = parse("gone.ini", &|_: &str| Err("no such file".to_owned()));
        assert_eq!(messages(&document), ["cannot read gone.ini: no such file"]);
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "(\\PC|[\\[\\]=%\"\r\n\t; ]){0,80}") {
            let document = read(&text);
            for found in &document.diagnostics {
                found.render(&document.sources);
            }
        }
    }
}
