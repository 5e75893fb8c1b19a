//! A small blocking client of the console over the UNIX socket. Owns one connection, with limits of time and size; which
//! commands are sent is decided elsewhere.

use crate::admin::DATABASE;
use crate::net::{PeerCredentials, socket::unix_address};
use crate::sql_client::{self, TextRow};
use anyhow::{Context as _, anyhow, bail, ensure};
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use wire::backend::{self, Authentication};
use wire::limits::HEADER_BYTES;
use wire::startup::Version;
use wire::{encode, tag};

/// Largest message of the console that is read.
const MAX_MESSAGE_BYTES: usize = 1024 * 1024;
/// Messages of one answer: there is one per pool.
const MAX_MESSAGES: usize = 1_000_000;
/// Shortest time limit of the kernel: zero means none.
const MIN_TIMEOUT: Duration = Duration::from_millis(1);
/// What follows the name of a column in a RowDescription.
const COLUMN_BYTES: usize = 18;

/// The result of a command.
#[derive(Debug, Default)]
pub(super) struct ConsoleTable {
    columns: Vec<String>,
    pub(super) rows: Vec<TextRow>,
}

impl ConsoleTable {
    /// The value of a row in the column with this name; empty for NULL and for an older pooler that has no such column.
    pub(super) fn value<'a>(&self, row: &'a TextRow, column: &str) -> &'a str {
        let at = self.columns.iter().position(|known| known == column);
        at.and_then(|at| row.get(at)).and_then(Option::as_deref).unwrap_or_default()
    }

    /// The rows without those of the console, one of whose clients is this program.
    pub(super) fn without_console(mut self) -> Self {
        let rows = std::mem::take(&mut self.rows);
        self.rows = rows.into_iter().filter(|row| self.value(row, "database") != DATABASE).collect();
        self
    }

    /// The value of a key, in a table of keys and values.
    pub(super) fn of_key(&self, key: &str) -> &str {
        let row = self.rows.iter().find(|row| self.value(row, "key") == key);
        row.map(|row| self.value(row, "value")).unwrap_or_default()
    }
}

/// A connection that has logged in.
pub(super) struct ConsoleClient {
    socket: socket2::Socket,
    deadline: Instant,
}

/// What ends a connection.
pub(super) enum ConsoleEnd {
    /// The pooler has closed it.
    Closed,
    /// Not in time.
    TimedOut,
}

impl ConsoleClient {
    /// Connects as the account of the pooler, which needs no password, to the first of these sockets that accepts.
    ///
    /// # Errors
    /// There is no pooler, or it requires a password.
    pub(super) fn connect(paths: &[PathBuf], limit: Duration) -> anyhow::Result<Self> {
        let connect = |path: &PathBuf| {
            let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
            // Connecting waits while the queue of the listener is full.
            socket.set_write_timeout(Some(limit.max(MIN_TIMEOUT)))?;
            socket.connect(&unix_address(path)?)?;
            Ok::<_, std::io::Error>(socket)
        };
        let mut outcomes = paths.iter().map(connect);
        let first = outcomes.next().context("no socket is named")?;
        let socket =
            first.or_else(|error| outcomes.find_map(Result::ok).ok_or(error)).with_context(|| {
                let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
                format!("no pooler at {}; --socket or --config names another socket", names.join(" or "))
            })?;
        let mut client = Self { socket, deadline: Instant::now() + limit };
        let mut startup = Vec::new();
        encode::startup(&mut startup, Version::V3_0, &[("user", DATABASE), ("database", DATABASE)]);
        client.send(&startup)?;
        client.read_answer()?;
        Ok(client)
    }

    /// Limits the time of what follows.
    pub(super) fn limit(&mut self, limit: Duration) {
        self.deadline = Instant::now() + limit;
    }

    /// The process that has opened the listening socket, if the kernel knows it.
    pub(super) fn peer_pid(&self) -> Option<u32> {
        PeerCredentials::of(&self.socket).map(|peer| peer.pid).filter(|pid| *pid != 0)
    }

    /// Runs a command.
    ///
    /// # Errors
    /// The pooler's message, or the connection fails.
    pub(super) fn run(&mut self, command: &str) -> anyhow::Result<ConsoleTable> {
        let mut message = Vec::new();
        encode::query(&mut message, command);
        self.send(&message)?;
        self.read_answer()
    }

    /// Runs a command that may end the process before it has answered.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub(super) fn run_last(&mut self, command: &str) -> anyhow::Result<()> {
        let mut message = Vec::new();
        encode::query(&mut message, command);
        self.send(&message)?;
        match self.read_message() {
            Ok((tag::backend::ERROR_RESPONSE, message)) if !is_fatal(&message) => Err(error_of(&message)),
            Err(error) if Instant::now() >= self.deadline => Err(error),
            // It has answered, or ended.
            _ => Ok(()),
        }
    }

    /// Waits until the pooler closes the connection.
    pub(super) fn wait_for_close(&mut self) -> ConsoleEnd {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return ConsoleEnd::TimedOut;
            }
            if self.socket.set_read_timeout(Some(left.max(MIN_TIMEOUT))).is_err() {
                return ConsoleEnd::Closed;
            }
            match self.socket.read(&mut [0; 512]) {
                Ok(1..) => {}
                Err(error) if is_timeout(&error) => {}
                Ok(0) | Err(_) => return ConsoleEnd::Closed,
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.socket.write_all(bytes).context("the pooler has closed the connection")
    }

    /// One message: its tag and all of its bytes.
    fn read_message(&mut self) -> anyhow::Result<(u8, Vec<u8>)> {
        let mut message = vec![0; HEADER_BYTES];
        self.read_exact(&mut message)?;
        let &[tag, a, b, c, d] = message.as_slice() else { bail!("no header") };
        let length = u32::from_be_bytes([a, b, c, d]) as usize + 1;
        ensure!((HEADER_BYTES..=MAX_MESSAGE_BYTES).contains(&length), "this is not the console of a pooler");
        message.resize(length, 0);
        self.read_exact(&mut message[HEADER_BYTES..])?;
        Ok((tag, message))
    }

    fn read_exact(&mut self, mut into: &mut [u8]) -> anyhow::Result<()> {
        while !into.is_empty() {
            let left = self.deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "no answer in time; --timeout gives it more");
            self.socket.set_read_timeout(Some(left.max(MIN_TIMEOUT)))?;
            match self.socket.read(into) {
                Ok(0) => bail!("the pooler has closed the connection"),
                Ok(read) => into = &mut into[read..],
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error).context("the connection to the pooler has failed"),
            }
        }
        Ok(())
    }

    /// Reads up to ReadyForQuery.
    fn read_answer(&mut self) -> anyhow::Result<ConsoleTable> {
        let (mut table, mut refused) = (ConsoleTable::default(), None);
        for _ in 0..MAX_MESSAGES {
            let (kind, message) = match self.read_message() {
                Ok(read) => read,
                Err(error) => return Err(refused.unwrap_or(error)),
            };
            match kind {
                tag::backend::READY_FOR_QUERY => return refused.map_or(Ok(table), Err),
                tag::backend::ERROR_RESPONSE => refused = Some(error_of(&message)),
                tag::backend::ROW_DESCRIPTION => table.columns = names(&message).unwrap_or_default(),
                tag::backend::DATA_ROW => table.rows.push(sql_client::text_row(&message)?),
                tag::backend::AUTHENTICATION => match backend::authentication(&message)? {
                    Authentication::Ok => {}
                    _ => bail!(
                        "the pooler requires a password: run this command as the account that runs the pooler"
                    ),
                },
                _ => {}
            }
        }
        bail!("the answer is too long")
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}

fn is_fatal(message: &[u8]) -> bool {
    backend::error_fields(message).is_ok_and(|fields| fields.severity == "FATAL")
}

/// The pooler's message, with its detail and hint.
fn error_of(message: &[u8]) -> anyhow::Error {
    let fields = backend::error_fields(message).unwrap_or_default();
    let mut text = fields.message.into_owned();
    for (word, more) in [("detail", fields.detail), ("hint", fields.hint)] {
        if let Some(more) = more {
            text.push_str(&format!("\n  = {word}: {more}"));
        }
    }
    anyhow!(text)
}

/// The names of the columns in a RowDescription.
fn names(message: &[u8]) -> Option<Vec<String>> {
    let mut rest = message.get(HEADER_BYTES + 2..)?;
    let mut names = Vec::new();
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == 0)?;
        names.push(String::from_utf8_lossy(&rest[..end]).into_owned());
        rest = rest.get(end + 1 + COLUMN_BYTES..)?;
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::encode::ColumnType;
    use wire::frontend::Format;

    #[test]
    fn values_are_found_by_the_names_of_columns() {
        let mut message = Vec::new();
        let columns = [("key", ColumnType::Text), ("value", ColumnType::Int4)];
        encode::row_description(&mut message, &columns, |_| Format::Text);
        let columns = names(&message).unwrap();
        assert_eq!(columns, ["key", "value"]);
        assert_eq!(names(&message[..message.len() - 1]), None);
        let row = |key: &str, value: &str| vec![Some(key.to_owned()), Some(value.to_owned())];
        let table = ConsoleTable { columns, rows: vec![row("a", "1"), row("b", "2")] };
        assert_eq!((table.of_key("b"), table.of_key("c")), ("2", ""));
    }
}
