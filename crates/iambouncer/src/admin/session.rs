//! One console connection. Owns the parts of both query protocols that commands need; the commands themselves are
//! rows of the table.

use super::columns::ColumnHeader;
use super::console::Console;
use super::formats::Formats;
use super::output::{CommandError, Output, Stop};
use super::statements::{self, MAX_STATEMENTS, Portal, Prepared};
use super::table::{self, Command, Run, UsageNotice};
use super::{actions, driver_parameters, syntax_error, words};
use crate::client_error::{self, Blame, ClientError, messages};
use crate::clients::{ClientInfo, ClientState};
use crate::net::{Inbound, Stream};
use crate::version;
use std::rc::Rc;
use wire::encode::{self, ErrorReport};
use wire::frontend::{self, NamedKind};
use wire::tag;

/// A console connection.
pub struct ConsoleSession {
    console: Rc<Console>,
    info: Rc<ClientInfo>,
    is_admin: bool,
    prepared: Prepared,
    /// True after an error in the extended protocol, until Sync.
    skip_to_sync: bool,
    output: Output,
}

impl ConsoleSession {
    /// A session of a user who is or is not an admin.
    pub fn new(
        console: Rc<Console>,
        info: Rc<ClientInfo>,
        is_admin: bool,
        stream: Stream,
        inbound: Inbound,
    ) -> Self {
        let output = Output::new(info.clone(), stream, inbound);
        Self { console, info, is_admin, prepared: Prepared::default(), skip_to_sync: false, output }
    }

    /// Serves the client until it disconnects. Returns the error that ended the session, if any.
    pub async fn run(mut self) -> Option<ClientError> {
        self.console.statistics.count(|t| t.client_logins += 1);
        self.write_startup_response();
        self.info.state.set(ClientState::Idle);
        loop {
            match self.turn().await {
                Ok(()) => {}
                Err(Stop::Gone) => return None,
                Err(Stop::Error(error)) => {
                    self.output.send_final_message(&error).await;
                    return Some(error);
                }
            }
        }
    }

    /// Sends pending output and handles one message.
    async fn turn(&mut self) -> Result<(), Stop> {
        self.output.send().await?;
        let (frame, message) = self.output.receive().await?;
        match frame.tag {
            tag::frontend::TERMINATE => Err(Stop::Gone),
            kind => self.handle(kind, &message).await,
        }
    }

    fn write_startup_response(&mut self) {
        let out = &mut self.output.bytes;
        encode::authentication_ok(out);
        for (name, value) in [
            ("pgbouncer.version", version::OF_PGBOUNCER),
            ("pgbouncer.max_prepared_statements", "0"),
            ("pgbouncer.pool_mode", "statement"),
            ("server_version", version::OF_CONSOLE),
            ("client_encoding", "UTF8"),
            ("server_encoding", "UTF8"),
            ("DateStyle", "ISO"),
            ("TimeZone", "GMT"),
            ("standard_conforming_strings", "on"),
            ("is_superuser", if self.is_admin { "on" } else { "off" }),
        ] {
            encode::parameter_status(out, name, value);
        }
        let key = self.info.cancel_key.get();
        encode::backend_key_data(out, key.pid(), key.secret());
        encode::ready_for_query(out);
    }

    async fn handle(&mut self, kind: u8, message: &[u8]) -> Result<(), Stop> {
        let outcome = match kind {
            tag::frontend::SYNC => {
                self.skip_to_sync = false;
                self.prepared.end_batch();
                encode::ready_for_query(&mut self.output.bytes);
                return Ok(());
            }
            _ if self.skip_to_sync => return Ok(()),
            tag::frontend::QUERY => self.query(message).await,
            tag::frontend::FUNCTION_CALL => Err(CommandError::Error(function_call())),
            // Ignored outside COPY, as in PostgreSQL: they may arrive late.
            tag::frontend::COPY_DATA | tag::frontend::COPY_DONE | tag::frontend::COPY_FAIL => return Ok(()),
            _ => self.extended(kind, message).await,
        };
        let is_extended = !matches!(kind, tag::frontend::QUERY | tag::frontend::FUNCTION_CALL);
        match outcome {
            Err(CommandError::Stop(stop)) => return Err(stop),
            Err(CommandError::Error(error)) => {
                self.skip_to_sync = is_extended;
                self.log(&error);
                error.encode_error(&mut self.output.bytes);
            }
            Ok(()) => {}
        }
        if !is_extended {
            self.prepared.end_batch();
            encode::ready_for_query(&mut self.output.bytes);
        }
        Ok(())
    }

    async fn query(&mut self, message: &[u8]) -> Result<(), CommandError> {
        self.count_query();
        // As in PostgreSQL, a simple query replaces the unnamed statement.
        self.prepared.close_statement(b"");
        let text = frontend::query(message).map_err(client_error::protocol)?;
        let statements = statements::split(text);
        if statements.len() > MAX_STATEMENTS {
            let text = format!("more than {MAX_STATEMENTS} statements in one message");
            return Err(ClientError::new(Blame::Client, "54000", text).into());
        }
        if statements.is_empty() {
            encode::empty(&mut self.output.bytes, tag::backend::EMPTY_QUERY_RESPONSE);
        }
        for statement in statements {
            self.execute(statement, &Formats::TEXT, true).await?;
        }
        Ok(())
    }

    /// A query of the console is a transaction of its own.
    fn count_query(&self) {
        self.console.statistics.count(|t| {
            t.queries += 1;
            t.transactions += 1;
        });
    }

    fn log(&self, error: &ClientError) {
        if self.console.context.config().settings.log_pooler_errors {
            // The report of RELOAD has been logged line by line.
            let detail = error.detail.as_deref().filter(|detail| !detail.contains('\n'));
            tracing::warn!(
                client = %self.info.remote(),
                user = %self.info.identity().user,
                detail,
                "pooler error: {}",
                error.message
            );
        }
    }

    fn find(&self, text: &str) -> Result<(&'static Command, String), ClientError> {
        let Some((command, rest)) = table::find(text) else {
            return Err(match table::is_show_fds(text) {
                true if self.is_admin => actions::online_restart("SHOW FDS"),
                true => admin_access_needed(),
                false => syntax_error(text),
            });
        };
        if command.admin_only && !self.is_admin {
            return Err(admin_access_needed());
        }
        Ok((command, rest))
    }

    /// SET. Returns the command tag, which contains what was set.
    async fn set(&mut self, action: table::Action, rest: String) -> Result<String, CommandError> {
        let (key, value) = words::assignment(&rest).ok_or_else(|| syntax_error(&format!("SET {rest}")))?;
        if driver_parameters::is_ignored(&key) {
            encode::notice_response(&mut self.output.bytes, &ErrorReport::notice("SET ignored"));
            return Ok("SET".to_owned());
        }
        if !self.is_admin {
            return Err(admin_access_needed().into());
        }
        self.console.act(action, rest).await?;
        Ok(format!("SET {key}={value}"))
    }

    async fn execute(&mut self, text: &str, formats: &Formats, describe: bool) -> Result<(), CommandError> {
        let (command, rest) = self.find(text)?;
        let mut tag = command.words.split(' ').next().unwrap_or_default().to_owned();
        match command.run {
            Run::Rows(table) => {
                let columns = table.headers();
                if describe {
                    formats.describe(&mut self.output.bytes, &columns);
                }
                for row in table.fetch(&self.console).await {
                    formats.row(&mut self.output.bytes, &columns, &row)?;
                    self.output.make_room().await?;
                }
            }
            Run::Notice(notice) => {
                let UsageNotice { message, detail } = notice();
                let report = ErrorReport { detail: Some(&detail), ..ErrorReport::notice(message) };
                encode::notice_response(&mut self.output.bytes, &report);
            }
            Run::Action(action) => self.console.act(action, rest).await?,
            Run::Set(action) => tag = self.set(action, rest).await?,
        }
        encode::command_complete(&mut self.output.bytes, &tag);
        Ok(())
    }

    /// The columns of a statement's result.
    fn columns(&self, text: &str) -> Result<Option<Vec<ColumnHeader>>, ClientError> {
        if text.trim().is_empty() {
            return Ok(None);
        }
        match self.find(text)?.0.run {
            Run::Rows(table) => Ok(Some(table.headers())),
            Run::Notice(_) | Run::Action(_) | Run::Set(_) => Ok(None),
        }
    }

    fn describe(&mut self, text: &str, formats: &Formats) -> Result<(), ClientError> {
        match self.columns(text)? {
            Some(columns) => formats.describe(&mut self.output.bytes, &columns),
            None => encode::empty(&mut self.output.bytes, tag::backend::NO_DATA),
        }
        Ok(())
    }

    async fn extended(&mut self, kind: u8, message: &[u8]) -> Result<(), CommandError> {
        match kind {
            tag::frontend::PARSE => self.parse(message)?,
            tag::frontend::BIND => self.bind(message)?,
            tag::frontend::DESCRIBE => {
                let named = frontend::named(message).map_err(client_error::protocol)?;
                match named.target {
                    NamedKind::Statement => {
                        let text = self.prepared.statement(named.name)?;
                        encode::no_parameters(&mut self.output.bytes);
                        self.describe(&text, &Formats::TEXT)?;
                    }
                    NamedKind::Portal => {
                        let portal = self.prepared.portal(named.name)?;
                        self.describe(&portal.text, &portal.formats)?;
                    }
                }
            }
            tag::frontend::EXECUTE => {
                let name =
                    message[wire::limits::HEADER_BYTES..].split(|&b| b == 0).next().unwrap_or_default();
                let portal = self.prepared.portal(name)?;
                if portal.text.trim().is_empty() {
                    encode::empty(&mut self.output.bytes, tag::backend::EMPTY_QUERY_RESPONSE);
                } else {
                    self.count_query();
                    self.execute(&portal.text, &portal.formats, false).await?;
                }
            }
            tag::frontend::CLOSE => {
                let named = frontend::named(message).map_err(client_error::protocol)?;
                match named.target {
                    NamedKind::Statement => self.prepared.close_statement(named.name),
                    NamedKind::Portal => self.prepared.close_portal(named.name),
                }
                encode::empty(&mut self.output.bytes, tag::backend::CLOSE_COMPLETE);
            }
            tag::frontend::FLUSH => {}
            other => {
                let error = client_error::misplaced(&format!("invalid frontend message type {other}"));
                return Err(CommandError::Stop(Stop::Error(error)));
            }
        }
        Ok(())
    }

    fn parse(&mut self, message: &[u8]) -> Result<(), ClientError> {
        let parse = frontend::parse(message).map_err(client_error::protocol)?;
        self.prepared.begin_parse(parse.name)?;
        let text = parse.body.split(|&b| b == 0).next().unwrap_or_default();
        let text = String::from_utf8_lossy(text);
        let statement = match *statements::split(&text) {
            [] => "",
            [one] => one,
            [..] => {
                let text = "cannot insert multiple commands into a prepared statement";
                return Err(ClientError::new(Blame::Client, "42601", text));
            }
        };
        self.columns(statement)?;
        self.prepared.keep_statement(parse.name, statement)?;
        encode::empty(&mut self.output.bytes, tag::backend::PARSE_COMPLETE);
        Ok(())
    }

    fn bind(&mut self, message: &[u8]) -> Result<(), ClientError> {
        let head = frontend::bind_head(message, message.len()).map_err(client_error::protocol)?;
        let head = head.ok_or_else(|| client_error::protocol("incomplete Bind message"))?;
        let tail = frontend::bind_tail(message, head.head_len).map_err(client_error::protocol)?;
        let text = self.prepared.statement(head.statement)?;
        if tail.parameters > 0 {
            let text = format!(
                "bind message supplies {} parameters, but prepared statement \"{}\" requires 0",
                tail.parameters,
                String::from_utf8_lossy(head.statement)
            );
            return Err(client_error::protocol(text));
        }
        let formats = Formats::of(tail.result_formats, self.columns(&text)?.map(|columns| columns.len()))?;
        self.prepared.keep_portal(head.portal, Portal { text, formats })?;
        encode::empty(&mut self.output.bytes, tag::backend::BIND_COMPLETE);
        Ok(())
    }
}

fn admin_access_needed() -> ClientError {
    messages::ADMIN_NEEDED.error()
}

fn function_call() -> ClientError {
    ClientError::new(Blame::Client, "0A000", "the console does not support function calls")
}
