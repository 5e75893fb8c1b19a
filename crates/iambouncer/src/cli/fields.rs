//! The fields of a log line. Owns their format, and that no value can imitate another line or another field.

use crate::printable::{self, Escaping};
use std::error::Error;
use std::fmt::{self, Debug, Write};
use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

/// Name of the field with the text of the line.
const MESSAGE: &str = "message";

/// Writes the message, followed by `name=value` for each further field.
pub(super) struct Fields;

impl<'w> FormatFields<'w> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut line = FieldLine { writer, is_first: true, outcome: Ok(()) };
        fields.record(&mut line);
        line.outcome
    }
}

struct FieldLine<'w> {
    writer: Writer<'w>,
    is_first: bool,
    outcome: fmt::Result,
}

impl FieldLine<'_> {
    fn write(&mut self, field: &Field, value: &dyn Debug, is_text: bool) {
        if self.outcome.is_ok() {
            self.outcome = self.try_write(field.name(), value, is_text);
        }
    }

    fn try_write(&mut self, name: &str, value: &dyn Debug, is_text: bool) -> fmt::Result {
        if !std::mem::take(&mut self.is_first) {
            self.writer.write_char(' ')?;
        }
        if name == MESSAGE {
            return write!(Escaping(&mut self.writer), "{value:?}");
        }
        let name = name.strip_prefix("r#").unwrap_or(name);
        match self.writer.has_ansi_escapes() {
            true => write!(self.writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m")?,
            false => write!(self.writer, "{name}=")?,
        }
        let value = format!("{value:?}");
        if is_text {
            printable::write_quoted(&mut self.writer, &value)
        } else {
            printable::write_value(&mut self.writer, &value)
        }
    }
}

impl Visit for FieldLine<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        // Not its Debug form, which has quotes and escapes of its own.
        self.write(field, &format_args!("{value}"), true);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.write(field, &format_args!("{value}"), false);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.write(field, value, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::fmt::MakeWriter;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    fn logged(log: impl FnOnce()) -> String {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::fmt()
            .fmt_fields(Fields)
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .with_writer(lines.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_forged_line_stays_within_its_field_and_its_line() {
        let user = "x\n2030-01-01T00:00:00Z  INFO client login user=root\u{1b}[2K";
        let line =
            logged(|| tracing::info!(user, database = %user, error = %user, "closing because: {user}"));
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(!line.trim_end().chars().any(char::is_control), "{line:?}");
        let quoted = "\"x\\n2030-01-01T00:00:00Z  INFO client login user=root\\x1b[2K\"";
        assert!(line.ends_with(&format!("user={quoted} database={quoted} error={quoted}\n")), "{line}");
    }

    #[test]
    fn ordinary_lines_are_easy_to_read() {
        let line = logged(|| {
            tracing::info!(client = %"127.0.0.1:5", text = "a", number = 7, kind = ?Some(1), "client \"login\"");
        });
        assert_eq!(line, " INFO client \"login\" client=127.0.0.1:5 text=\"a\" number=7 kind=Some(1)\n");
    }
}
