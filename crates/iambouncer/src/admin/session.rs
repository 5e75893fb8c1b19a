//! One console connection. Owns both query protocols as far as commands need them; a command itself is a row of the
//! table.

use super::console::Console;
use super::table::{self, Command, Run};
use crate::clients::{ClientInfo, ClientState};
use crate::faults::{self, Blame, Fault};
use crate::net::{Inbound, Stream};
use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use wire::encode::{self, ErrorReport};
use wire::frontend::{self, Target};
use wire::tag;

/// Longest message a console client may send, in bytes.
const MAX_CONSOLE_MESSAGE_BYTES: u32 = 64 * 1024;
/// Statements and portals a console client may keep.
const MAX_NAMES: usize = 1000;

/// A console connection.
pub struct Session {
    console: Rc<Console>,
    info: Rc<ClientInfo>,
    is_admin: bool,
    statements: HashMap<Vec<u8>, String>,
    portals: HashMap<Vec<u8>, String>,
    /// After an error in the extended protocol.
    skip_to_sync: bool,
    out: Vec<u8>,
}

impl Session {
    /// A session of a user who may, or may not, change things.
    pub fn new(console: Rc<Console>, info: Rc<ClientInfo>, is_admin: bool) -> Self {
        Self {
            console,
            info,
            is_admin,
            statements: HashMap::new(),
            portals: HashMap::new(),
            skip_to_sync: false,
            out: Vec::new(),
        }
    }

    /// Serves the client until it leaves. Returns the fault that ended it, if one did.
    pub async fn run(mut self, mut stream: Stream, mut inbound: Inbound) -> Option<Fault> {
        self.greet();
        self.info.state.set(ClientState::Idle);
        loop {
            if stream.send_all(&self.out).await.is_err() {
                return None;
            }
            self.out.clear();
            let frame = {
                let mut message = pin!(stream.recv_message(&mut inbound, MAX_CONSOLE_MESSAGE_BYTES));
                poll_fn(|cx| match self.info.take_kill() {
                    Some(fault) => Poll::Ready(Err(Some(fault))),
                    None => message.as_mut().poll(cx).map_err(|error| {
                        (error.kind() == std::io::ErrorKind::InvalidData).then(|| faults::protocol(error))
                    }),
                })
                .await
            };
            let frame = match frame {
                Ok(frame) => frame,
                Err(None) => return None,
                Err(Some(fault)) => {
                    fault.encode_fatal(&mut self.out);
                    let _ = stream.send_all(&self.out).await;
                    return Some(fault);
                }
            };
            let message = inbound.bytes()[..frame.len].to_vec();
            inbound.consume(frame.len);
            if frame.tag == tag::frontend::TERMINATE {
                return None;
            }
            self.handle(frame.tag, &message).await;
        }
    }

    fn greet(&mut self) {
        encode::authentication_ok(&mut self.out);
        for (name, value) in [
            ("server_version", concat!(env!("CARGO_PKG_VERSION"), "/iambouncer")),
            ("client_encoding", "UTF8"),
            ("server_encoding", "UTF8"),
            ("DateStyle", "ISO"),
            ("TimeZone", "UTC"),
            ("standard_conforming_strings", "on"),
            ("is_superuser", if self.is_admin { "on" } else { "off" }),
        ] {
            encode::parameter_status(&mut self.out, name, value);
        }
        encode::backend_key_data(&mut self.out, self.info.cancel_pid(), &self.info.secret);
        encode::ready_for_query(&mut self.out);
    }

    async fn handle(&mut self, kind: u8, message: &[u8]) {
        match kind {
            tag::frontend::QUERY => {
                if let Err(fault) = self.query(message).await {
                    fault.encode_error(&mut self.out);
                }
                encode::ready_for_query(&mut self.out);
            }
            tag::frontend::SYNC => {
                self.skip_to_sync = false;
                encode::ready_for_query(&mut self.out);
            }
            _ if self.skip_to_sync => {}
            _ => {
                if let Err(fault) = self.extended(kind, message).await {
                    self.skip_to_sync = true;
                    fault.encode_error(&mut self.out);
                }
            }
        }
    }

    async fn query(&mut self, message: &[u8]) -> Result<(), Fault> {
        let text = frontend::query(message).map_err(faults::protocol)?;
        let statements: Vec<&str> = text.split(';').filter(|part| !part.trim().is_empty()).collect();
        if statements.is_empty() {
            encode::empty(&mut self.out, tag::backend::EMPTY_QUERY_RESPONSE);
        }
        for statement in statements {
            self.execute(statement, true).await?;
        }
        Ok(())
    }

    fn find(&self, text: &str) -> Result<(&'static Command, String), Fault> {
        let (command, rest) = table::find(text).ok_or_else(|| {
            Fault::new(Blame::Client, "42601", format!("invalid command '{}'", text.trim()))
                .hint("use SHOW HELP;")
        })?;
        if command.admin_only && !self.is_admin {
            return Err(Fault::new(Blame::Client, "42501", "admin access needed"));
        }
        Ok((command, rest))
    }

    async fn execute(&mut self, text: &str, describe: bool) -> Result<(), Fault> {
        let (command, rest) = self.find(text)?;
        let first_word = command.words.split(' ').next().unwrap_or_default();
        match command.run {
            Run::Rows(columns, rows) => {
                if describe {
                    encode::row_description(&mut self.out, columns);
                }
                for row in rows.fetch(&self.console).await {
                    debug_assert_eq!(row.len(), columns.len());
                    encode::data_row(&mut self.out, row.iter().map(|v| v.as_deref().map(str::as_bytes)));
                }
            }
            Run::Notice(notice) => encode::notice_response(&mut self.out, &ErrorReport::notice(&notice())),
            Run::Action(action) => self.console.act(action, rest).await?,
        }
        encode::command_complete(&mut self.out, first_word);
        Ok(())
    }

    /// Describes what a statement will return.
    fn describe(&mut self, text: &str) -> Result<(), Fault> {
        match self.find(text)?.0.run {
            Run::Rows(columns, _) => encode::row_description(&mut self.out, columns),
            _ => encode::empty(&mut self.out, tag::backend::NO_DATA),
        }
        Ok(())
    }

    async fn extended(&mut self, kind: u8, message: &[u8]) -> Result<(), Fault> {
        match kind {
            tag::frontend::PARSE => {
                let parse = frontend::parse(message).map_err(faults::protocol)?;
                let text = parse.body.split(|&b| b == 0).next().unwrap_or_default();
                let text = String::from_utf8_lossy(text).into_owned();
                if !text.trim().is_empty() {
                    self.find(&text)?;
                }
                Self::keep(&mut self.statements, parse.name, text)?;
                encode::empty(&mut self.out, tag::backend::PARSE_COMPLETE);
            }
            tag::frontend::BIND => {
                let head = frontend::bind_head(message, message.len()).map_err(faults::protocol)?;
                let head = head.ok_or_else(|| faults::protocol("Bind is cut off"))?;
                let text = Self::named(&self.statements, head.statement, "26000", "prepared statement")?;
                Self::keep(&mut self.portals, head.portal, text)?;
                encode::empty(&mut self.out, tag::backend::BIND_COMPLETE);
            }
            tag::frontend::DESCRIBE => {
                let named = frontend::named(message).map_err(faults::protocol)?;
                let text = self.text_of(&named)?;
                if named.target == Target::Statement {
                    encode::no_parameters(&mut self.out);
                }
                self.describe(&text)?;
            }
            tag::frontend::EXECUTE => {
                let name =
                    message[wire::limits::HEADER_BYTES..].split(|&b| b == 0).next().unwrap_or_default();
                let text = Self::named(&self.portals, name, "34000", "portal")?;
                if text.trim().is_empty() {
                    encode::empty(&mut self.out, tag::backend::EMPTY_QUERY_RESPONSE);
                } else {
                    self.execute(&text, false).await?;
                }
            }
            tag::frontend::CLOSE => {
                let named = frontend::named(message).map_err(faults::protocol)?;
                match named.target {
                    Target::Statement => self.statements.remove(named.name),
                    Target::Portal => self.portals.remove(named.name),
                };
                encode::empty(&mut self.out, tag::backend::CLOSE_COMPLETE);
            }
            tag::frontend::FLUSH => {}
            other => return Err(faults::protocol(format!("message type {other:#04x} on the console"))),
        }
        Ok(())
    }

    fn text_of(&self, named: &frontend::Named<'_>) -> Result<String, Fault> {
        match named.target {
            Target::Statement => Self::named(&self.statements, named.name, "26000", "prepared statement"),
            Target::Portal => Self::named(&self.portals, named.name, "34000", "portal"),
        }
    }

    fn keep(map: &mut HashMap<Vec<u8>, String>, name: &[u8], text: String) -> Result<(), Fault> {
        if map.len() >= MAX_NAMES && !map.contains_key(name) {
            return Err(Fault::new(Blame::Client, "54000", "too many names on one console connection"));
        }
        map.insert(name.to_vec(), text);
        Ok(())
    }

    fn named(
        map: &HashMap<Vec<u8>, String>,
        name: &[u8],
        code: &'static str,
        kind: &str,
    ) -> Result<String, Fault> {
        map.get(name).cloned().ok_or_else(|| {
            let name = String::from_utf8_lossy(name);
            Fault::new(Blame::Client, code, format!("{kind} \"{name}\" does not exist"))
        })
    }
}
