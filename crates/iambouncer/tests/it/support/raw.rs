//! A client that sends and reads single messages, so that tests can do what no driver does. Owns one
//! connection.

use super::TIMEOUT;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use wire::startup::Version;
use wire::{backend, encode};

/// A message from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub tag: u8,
    /// The whole message, including its header.
    pub bytes: Vec<u8>,
}

impl Message {
    /// SQLSTATE and text of an ErrorResponse.
    pub fn error(&self) -> (String, String) {
        assert_eq!(self.tag, b'E', "an error was expected, got {:?}", self.tag as char);
        let fields = backend::error_fields(&self.bytes).unwrap();
        (fields.code.into_owned(), fields.message.into_owned())
    }

    /// The text of a NoticeResponse.
    pub fn notice(&self) -> String {
        assert_eq!(self.tag, b'N');
        backend::error_fields(&self.bytes).unwrap().message.into_owned()
    }

    /// The hint of an ErrorResponse.
    pub fn hint(&self) -> String {
        backend::error_fields(&self.bytes).unwrap().hint.unwrap_or_default().into_owned()
    }

    /// SQLSTATE of an ErrorResponse, and its text with its detail.
    pub fn explained(&self) -> (String, String) {
        let (code, text) = self.error();
        match self.detail().as_str() {
            "" => (code, text),
            detail => (code, format!("{text}: {detail}")),
        }
    }

    /// The detail of an ErrorResponse.
    pub fn detail(&self) -> String {
        backend::error_fields(&self.bytes).unwrap().detail.unwrap_or_default().into_owned()
    }

    /// Values of a DataRow.
    pub fn row(&self) -> Vec<Option<String>> {
        assert_eq!(self.tag, b'D');
        let count = u16::from_be_bytes([self.bytes[5], self.bytes[6]]);
        let mut rest = &self.bytes[7..];
        (0..count)
            .map(|_| {
                let len = i32::from_be_bytes(rest[..4].try_into().unwrap());
                rest = &rest[4..];
                let len = usize::try_from(len).ok()?;
                let value = String::from_utf8_lossy(&rest[..len]).into_owned();
                rest = &rest[len..];
                Some(value)
            })
            .collect()
    }

    fn columns(&self) -> Vec<String> {
        self.headers().into_iter().map(|(name, _)| name).collect()
    }

    /// Names and type OIDs of a RowDescription.
    pub fn headers(&self) -> Vec<(String, u32)> {
        assert_eq!(self.tag, b'T');
        let mut rest = &self.bytes[7..];
        let mut headers = Vec::new();
        while !rest.is_empty() {
            let end = rest.iter().position(|&b| b == 0).unwrap();
            let oid = u32::from_be_bytes(rest[end + 7..end + 11].try_into().unwrap());
            headers.push((String::from_utf8_lossy(&rest[..end]).into_owned(), oid));
            rest = &rest[end + 1 + 18..];
        }
        headers
    }

    /// The tag of a CommandComplete.
    pub fn command_tag(&self) -> String {
        assert_eq!(self.tag, b'C');
        String::from_utf8_lossy(&self.bytes[5..self.bytes.len() - 1]).into_owned()
    }
}

/// The tags of messages as a string, for comparison.
pub fn tags(messages: &[Message]) -> String {
    messages.iter().map(|message| message.tag as char).collect()
}

/// A connection.
pub struct Client {
    pub stream: TcpStream,
    /// The messages received at login.
    pub greeting: Vec<Message>,
}

impl Client {
    /// Connects without sending anything.
    pub fn connect(port: u16) -> Self {
        Self::connect_to(([127, 0, 0, 1], port).into())
    }

    /// Connects to another address without sending anything.
    pub fn connect_to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TIMEOUT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, greeting: Vec::new() }
    }

    /// Sends a startup packet with these parameters.
    pub fn start(port: u16, parameters: &[(&str, &str)]) -> Self {
        Self::connect(port).with_startup(parameters)
    }

    fn with_startup(mut self, parameters: &[(&str, &str)]) -> Self {
        let mut packet = Vec::new();
        encode::startup(&mut packet, Version::V3_0, parameters);
        self.send(&packet);
        self
    }

    /// Logs in to a pooler that requests no password.
    pub fn log_in(port: u16, user: &str, database: &str) -> Self {
        Self::log_in_with(port, &[("user", user), ("database", database)])
    }

    /// Logs in with these parameters.
    pub fn log_in_with(port: u16, parameters: &[(&str, &str)]) -> Self {
        Self::start(port, parameters).logged_in()
    }

    /// Logs in to a pooler at another address.
    pub fn log_in_at(address: SocketAddr, user: &str, database: &str) -> Self {
        Self::connect_to(address).with_startup(&[("user", user), ("database", database)]).logged_in()
    }

    fn logged_in(mut self) -> Self {
        self.greeting = self.until_ready();
        if let Some(error) = self.greeting.iter().find(|message| message.tag == b'E') {
            panic!("login refused: {:?}", error.error());
        }
        self
    }

    /// A parameter value reported at login.
    pub fn reported(&self, name: &str) -> Option<String> {
        self.greeting
            .iter()
            .filter(|message| message.tag == b'S')
            .filter_map(|message| backend::parameter_status(&message.bytes).ok())
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value.to_owned())
    }

    /// Process ID and secret of the cancel key.
    pub fn cancel_key(&self) -> (u32, Vec<u8>) {
        let message = self.greeting.iter().find(|message| message.tag == b'K').unwrap();
        let data = backend::key_data(&message.bytes).unwrap();
        (data.pid, data.key.to_vec())
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// True if input, or the end of the stream, can be read.
    pub fn has_pending_input(&self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).unwrap();
        !matches!(peeked, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// The next message, or `None` at the end of the stream.
    pub fn read(&mut self) -> Option<Message> {
        let mut header = [0; 5];
        let mut have = 0;
        while have < header.len() {
            match self.stream.read(&mut header[have..]) {
                Ok(0) => {
                    assert_eq!(have, 0, "stream ended inside a header");
                    return None;
                }
                Ok(n) => have += n,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("nothing to read: {error}"),
            }
        }
        let len = u32::from_be_bytes(header[1..].try_into().unwrap()) as usize + 1;
        let mut bytes = header.to_vec();
        bytes.resize(len, 0);
        self.stream.read_exact(&mut bytes[5..]).unwrap();
        Some(Message { tag: header[0], bytes })
    }

    /// The next message, which must have this tag.
    pub fn expect(&mut self, tag: u8) -> Message {
        let message = self.read().unwrap_or_else(|| panic!("stream ended before {:?}", tag as char));
        let text = if message.tag == b'E' { format!("{:?}", message.error()) } else { String::new() };
        assert_eq!(message.tag as char, tag as char, "{text}");
        message
    }

    /// Messages up to ReadyForQuery or a FATAL error.
    pub fn until_ready(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some(message) = self.read() {
            let end = message.tag == b'Z';
            messages.push(message);
            if end {
                break;
            }
        }
        messages
    }

    /// Messages up to the end of the stream.
    pub fn until_end(&mut self) -> Vec<Message> {
        std::iter::from_fn(|| self.read()).collect()
    }

    /// Sends a simple query.
    pub fn send_query(&mut self, sql: &str) {
        let mut message = Vec::new();
        encode::query(&mut message, sql);
        self.send(&message);
    }

    /// Sends a simple query and reads its answer.
    pub fn query(&mut self, sql: &str) -> Vec<Message> {
        self.send_query(sql);
        self.until_ready()
    }

    /// The first value of the first row of a simple query.
    pub fn value(&mut self, sql: &str) -> String {
        let messages = self.query(sql);
        let row = messages.iter().find(|message| message.tag == b'D');
        row.unwrap_or_else(|| panic!("no row for {sql}: {}", explain(&messages))).row()[0]
            .clone()
            .unwrap_or_default()
    }

    /// A column of `SHOW POOLS`, without the console's own row.
    pub fn pools(&mut self, column: &str) -> Vec<String> {
        let databases = self.column("SHOW POOLS", "database");
        let values = self.column("SHOW POOLS", column);
        databases
            .iter()
            .zip(values)
            .filter(|(name, _)| *name != "pgbouncer")
            .map(|(_, value)| value)
            .collect()
    }

    /// True while PAUSE of all databases is in force.
    pub fn sees_pause(&mut self) -> bool {
        self.column("SHOW STATE", "value")[1] == "yes"
    }

    /// A named column of a simple query's result.
    pub fn column(&mut self, sql: &str, column: &str) -> Vec<String> {
        let messages = self.query(sql);
        let columns =
            messages.iter().find(|m| m.tag == b'T').unwrap_or_else(|| panic!("{}", explain(&messages)));
        let at = columns.columns().iter().position(|name| name == column).expect("column exists");
        let rows = messages.iter().filter(|message| message.tag == b'D');
        rows.map(|row| row.row()[at].clone().unwrap_or_default()).collect()
    }
}

fn explain(messages: &[Message]) -> String {
    let errors: Vec<_> = messages.iter().filter(|m| m.tag == b'E').map(Message::error).collect();
    format!("{} {errors:?}", tags(messages))
}

fn framed(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(body);
    out
}

pub fn query(sql: &str) -> Vec<u8> {
    framed(b'Q', format!("{sql}\0").as_bytes())
}

pub fn parse(name: &str, sql: &str) -> Vec<u8> {
    framed(b'P', format!("{name}\0{sql}\0\0\0").as_bytes())
}

/// Binds text parameters.
pub fn bind(portal: &str, statement: &str, values: &[&[u8]]) -> Vec<u8> {
    let mut body = format!("{portal}\0{statement}\0\0\0").into_bytes();
    body.extend_from_slice(&(values.len() as u16).to_be_bytes());
    for value in values {
        body.extend_from_slice(&(value.len() as u32).to_be_bytes());
        body.extend_from_slice(value);
    }
    body.extend_from_slice(&[0, 0]);
    framed(b'B', &body)
}

pub fn execute() -> Vec<u8> {
    framed(b'E', b"\0\0\0\0\0")
}

pub fn describe_statement(name: &str) -> Vec<u8> {
    framed(b'D', format!("S{name}\0").as_bytes())
}

pub fn describe_portal() -> Vec<u8> {
    framed(b'D', b"P\0")
}

/// Calls a function without arguments by its number.
pub fn call_function(number: u32) -> Vec<u8> {
    framed(b'F', &[&number.to_be_bytes()[..], &[0, 0, 0, 0, 0, 0]].concat())
}

pub fn close_statement(name: &str) -> Vec<u8> {
    framed(b'C', format!("S{name}\0").as_bytes())
}

pub fn sync() -> Vec<u8> {
    framed(b'S', b"")
}

pub fn flush() -> Vec<u8> {
    framed(b'H', b"")
}

pub fn copy_data(data: &[u8]) -> Vec<u8> {
    framed(b'd', data)
}

pub fn copy_done() -> Vec<u8> {
    framed(b'c', b"")
}

pub fn copy_fail(reason: &str) -> Vec<u8> {
    framed(b'f', format!("{reason}\0").as_bytes())
}

pub fn terminate() -> Vec<u8> {
    framed(b'X', b"")
}
