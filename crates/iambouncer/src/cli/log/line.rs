//! The layout of a log line in each `log_format`. Owns that no value can imitate another line or another field; writes
//! to no file.

use super::fields::{EventField, EventFields};
use crate::printable::{self, Escaping};
use jiff::{Timestamp, ZonedDateTime};
use std::fmt::{self, Write};
use tracing::Level;

/// The layout of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineFormat {
    /// Time in UTC, level, message, `name=value`.
    Text,
    /// As in PgBouncer: local time, process ID, level, the connection as `C-0x…: database/user@address`, message.
    PgBouncer,
    /// One JSON object.
    Json,
}

/// Colours of a terminal.
const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

impl LineFormat {
    /// A line, without its newline.
    pub(super) fn line(self, level: Level, event: &EventFields, is_terminal: bool) -> String {
        let mut line = String::new();
        // Writing to a String cannot fail.
        let _ = match self {
            Self::Text => write_text(&mut line, level, event, is_terminal),
            Self::PgBouncer => write_pgbouncer(&mut line, level, event),
            Self::Json => {
                line = json(level, event);
                Ok(())
            }
        };
        line
    }

    /// The text for syslog, which adds time, level and process ID itself.
    pub(super) fn syslog_text(self, level: Level, event: &EventFields) -> String {
        let mut line = String::new();
        // Writing to a String cannot fail.
        let _ = match self {
            Self::Text => write_message(&mut line, event, |_| true),
            Self::PgBouncer => write_connection_and_message(&mut line, event),
            Self::Json => {
                line = json(level, event);
                Ok(())
            }
        };
        line
    }
}

fn write_text(line: &mut String, level: Level, event: &EventFields, is_terminal: bool) -> fmt::Result {
    let now = Timestamp::now();
    if is_terminal {
        write!(line, "{DIM}{now:.6}{RESET} {BOLD}{level:>5}{RESET} ")?;
    } else {
        write!(line, "{now:.6} {level:>5} ")?;
    }
    write_message(line, event, |_| true)
}

fn write_pgbouncer(line: &mut String, level: Level, event: &EventFields) -> fmt::Result {
    let now = ZonedDateTime::now();
    let process = std::process::id();
    write!(line, "{} [{process}] {} ", now.strftime("%Y-%m-%d %H:%M:%S%.3f %Z"), pgbouncer_level(level))?;
    write_connection_and_message(line, event)
}

/// PgBouncer's word for a level.
fn pgbouncer_level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "LOG",
        Level::DEBUG => "DEBUG",
        Level::TRACE => "NOISE",
    }
}

/// Fields of the connection that a line is about.
const CONNECTION_FIELDS: [&str; 5] = ["client", "server", "user", "database", "id"];

fn write_connection_and_message(line: &mut String, event: &EventFields) -> fmt::Result {
    let (kind, address) = match (event.value("client"), event.value("server")) {
        (Some(client), None) => ('C', client),
        (None, Some(server)) => ('S', server),
        _ => return write_message(line, event, |_| true),
    };
    let name = |name: &str, missing: &'static str| match event.value(name) {
        Some(value) if !value.is_empty() => printable::line(value),
        _ => missing.to_owned(),
    };
    let id: u64 = event.value("id").and_then(|id| id.parse().ok()).unwrap_or(0);
    let (database, user) = (name("database", "(nodb)"), name("user", "(nouser)"));
    write!(line, "{kind}-{id:#x}: {database}/{user}@")?;
    match address.rsplit_once("/.s.PGSQL.") {
        Some((_, port)) => write!(line, "unix:{port} ")?,
        None => write!(Escaping(&mut *line), "{address} ")?,
    }
    write_message(line, event, |field| !CONNECTION_FIELDS.contains(&field.name))
}

/// The message, followed by `name=value` for each further field.
fn write_message(
    line: &mut String,
    event: &EventFields,
    is_shown: impl Fn(&EventField) -> bool,
) -> fmt::Result {
    Escaping(&mut *line).write_str(&event.message)?;
    for EventField { name, value, is_text } in event.fields.iter().filter(|field| is_shown(field)) {
        write!(line, " {name}=")?;
        if *is_text {
            printable::write_quoted(line, value)?;
        } else {
            printable::write_value(line, value)?;
        }
    }
    Ok(())
}

fn json(level: Level, event: &EventFields) -> String {
    let mut object = serde_json::Map::new();
    let mut put = |name: &str, value: String| object.insert(name.to_owned(), value.into());
    put("time", format!("{:.6}", Timestamp::now()));
    put("level", level.as_str().to_ascii_lowercase());
    put("message", event.message.clone());
    if let Some(kind) = &event.kind {
        put("event", kind.clone());
    }
    for EventField { name, value, .. } in &event.fields {
        put(name, value.clone());
    }
    object.insert("pid".to_owned(), std::process::id().into());
    serde_json::Value::Object(object).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::layer::SubscriberExt as _;

    struct Kept(Arc<Mutex<Vec<(Level, EventFields)>>>);

    impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Kept {
        fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
            self.0.lock().unwrap().push((*event.metadata().level(), EventFields::of(event)));
        }
    }

    fn logged(format: LineFormat, log: impl FnOnce()) -> String {
        let events = Arc::default();
        tracing::subscriber::with_default(
            tracing_subscriber::registry().with(Kept(Arc::clone(&events))),
            log,
        );
        let (level, event) = events.lock().unwrap().pop().unwrap();
        format.line(level, &event, false)
    }

    const FORGED: &str = "x\n2030-01-01T00:00:00Z  INFO client login user=root\u{1b}[2K";

    #[test]
    fn a_forged_line_stays_within_its_field_and_its_line() {
        for format in [LineFormat::Text, LineFormat::PgBouncer, LineFormat::Json] {
            let line = logged(format, || {
                tracing::info!(user = FORGED, client = "1.2.3.4:5", "closing because: {FORGED}");
            });
            assert!(!line.chars().any(char::is_control), "{line:?}");
        }
        let line = logged(LineFormat::Text, || tracing::info!(user = FORGED, error = %FORGED, "closing"));
        let quoted = "\"x\\n2030-01-01T00:00:00Z  INFO client login user=root\\x1b[2K\"";
        assert!(line.ends_with(&format!(" INFO closing user={quoted} error={quoted}")), "{line}");
    }

    #[test]
    fn ordinary_lines_are_easy_to_read() {
        let line = logged(LineFormat::Text, || {
            tracing::info!(client = %"127.0.0.1:5", text = "a", number = 7, kind = ?Some(1), "client \"login\"");
        });
        let expected = " INFO client \"login\" client=127.0.0.1:5 text=\"a\" number=7 kind=Some(1)";
        assert!(line.ends_with(expected), "{line}");
    }

    #[test]
    fn lines_of_connections_begin_as_in_pgbouncer() {
        let rest = |log: fn()| {
            let line = logged(LineFormat::PgBouncer, log);
            let (time, rest) = line.split_once(&format!(" [{}] ", std::process::id())).unwrap();
            let (day, clock) = (time.get(..10).unwrap(), time.get(10..).unwrap());
            assert_eq!(day.matches('-').count(), 2, "{time}");
            assert!(clock.matches(':').count() == 2 && clock.contains('.'), "{time}");
            rest.to_owned()
        };
        let client = || {
            tracing::info!(id = 26, client = %"127.0.0.1:5", user = "u", database = "d", "closing because: x (age=1s)");
        };
        assert_eq!(rest(client), "LOG C-0x1a: d/u@127.0.0.1:5 closing because: x (age=1s)");
        let server =
            || tracing::warn!(server = %"/tmp/.s.PGSQL.5432", took_ms = 3, "new connection to server");
        assert_eq!(
            rest(server),
            "WARNING S-0x0: (nodb)/(nouser)@unix:5432 new connection to server took_ms=3"
        );
        assert_eq!(rest(|| tracing::error!(user = "u", "no")), "ERROR no user=\"u\"");
    }

    #[test]
    fn json_has_one_object_per_line() {
        let line = logged(LineFormat::Json, || tracing::warn!(number = 7, text = "a \"b\"", "m"));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&value["level"], &value["message"]), (&"warn".into(), &"m".into()));
        assert_eq!((&value["number"], &value["text"]), (&"7".into(), &"a \"b\"".into()));
        assert!(value["time"].as_str().unwrap().ends_with('Z') && value["pid"].is_number());
    }
}
