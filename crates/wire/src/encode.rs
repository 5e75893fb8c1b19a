//! The messages that a pooler itself sends: to clients as a server, to servers as a client. Owns their
//! layout. Everything is appended to a buffer of the caller; nothing is sent here.

use crate::backend::TxStatus;
use crate::frontend::Format;
use crate::startup::{CANCEL_CODE, SSL_CODE, Version};
use crate::tag::{backend, frontend};

/// Appends a message: tag, length, and what `body` writes.
fn message(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    framed(out, body);
}

/// Appends a length field and what `body` writes.
fn framed(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    // All bodies are written by this module and far below 4 GiB.
    let len = u32::try_from(out.len() - at).unwrap_or(u32::MAX);
    out[at..at + 4].copy_from_slice(&len.to_be_bytes());
}

/// A zero byte inside a string would terminate it early and shift all following fields, so the text is
/// truncated there.
fn c_str(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes().split(|&b| b == 0).next().unwrap_or_default());
    out.push(0);
}

/// Contents of an ErrorResponse or NoticeResponse sent by the pooler.
#[derive(Debug, Clone, Copy)]
pub struct ErrorReport<'a> {
    /// FATAL, ERROR, WARNING, NOTICE.
    pub severity: &'a str,
    /// SQLSTATE.
    pub code: &'a str,
    /// Primary message, safe to show to a client.
    pub message: &'a str,
    /// Detail.
    pub detail: Option<&'a str>,
    /// Hint.
    pub hint: Option<&'a str>,
    /// The function of PostgreSQL that reports the error, which some drivers examine.
    pub routine: Option<&'a str>,
}

impl<'a> ErrorReport<'a> {
    /// An error after which the connection closes.
    pub fn fatal(code: &'a str, message: &'a str) -> Self {
        Self { severity: "FATAL", code, message, detail: None, hint: None, routine: None }
    }

    /// An error after which the session continues.
    pub fn error(code: &'a str, message: &'a str) -> Self {
        Self { severity: "ERROR", ..Self::fatal(code, message) }
    }

    /// A notice.
    pub fn notice(message: &'a str) -> Self {
        Self { severity: "NOTICE", ..Self::fatal("00000", message) }
    }
}

fn report(out: &mut Vec<u8>, tag: u8, report: &ErrorReport<'_>) {
    message(out, tag, |out| {
        let fields = [
            (b'S', Some(report.severity)),
            (b'V', Some(report.severity)),
            (b'C', Some(report.code)),
            (b'M', Some(report.message)),
            (b'D', report.detail),
            (b'H', report.hint),
            (b'R', report.routine),
        ];
        for (kind, value) in fields {
            if let Some(value) = value {
                out.push(kind);
                c_str(out, value);
            }
        }
        out.push(0);
    });
}

/// ErrorResponse.
pub fn error_response(out: &mut Vec<u8>, error: &ErrorReport<'_>) {
    report(out, backend::ERROR_RESPONSE, error);
}

/// The error message of protocols before 3.0, which has no length: clients of those read a line of text.
pub fn error_before_v3(out: &mut Vec<u8>, error: &ErrorReport<'_>) {
    out.push(backend::ERROR_RESPONSE);
    for part in [error.severity, ":  ", error.message, "\n\0"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// NoticeResponse.
pub fn notice_response(out: &mut Vec<u8>, notice: &ErrorReport<'_>) {
    report(out, backend::NOTICE_RESPONSE, notice);
}

fn authentication(out: &mut Vec<u8>, code: u32, payload: &[u8]) {
    message(out, backend::AUTHENTICATION, |out| {
        out.extend_from_slice(&code.to_be_bytes());
        out.extend_from_slice(payload);
    });
}

/// AuthenticationOk.
pub fn authentication_ok(out: &mut Vec<u8>) {
    authentication(out, 0, &[]);
}

/// AuthenticationCleartextPassword.
pub fn authentication_cleartext(out: &mut Vec<u8>) {
    authentication(out, 3, &[]);
}

/// AuthenticationMD5Password.
pub fn authentication_md5(out: &mut Vec<u8>, salt: [u8; 4]) {
    authentication(out, 5, &salt);
}

/// AuthenticationSASL with these mechanisms, in order of preference.
pub fn authentication_sasl(out: &mut Vec<u8>, mechanisms: &[&str]) {
    let mut list = Vec::new();
    for mechanism in mechanisms {
        c_str(&mut list, mechanism);
    }
    list.push(0);
    authentication(out, 10, &list);
}

/// AuthenticationSASLContinue.
pub fn authentication_sasl_continue(out: &mut Vec<u8>, data: &[u8]) {
    authentication(out, 11, data);
}

/// AuthenticationSASLFinal.
pub fn authentication_sasl_final(out: &mut Vec<u8>, data: &[u8]) {
    authentication(out, 12, data);
}

/// ParameterStatus.
pub fn parameter_status(out: &mut Vec<u8>, name: &str, value: &str) {
    message(out, backend::PARAMETER_STATUS, |out| {
        c_str(out, name);
        c_str(out, value);
    });
}

/// BackendKeyData.
pub fn backend_key_data(out: &mut Vec<u8>, pid: u32, key: &[u8]) {
    message(out, backend::BACKEND_KEY_DATA, |out| {
        out.extend_from_slice(&pid.to_be_bytes());
        out.extend_from_slice(key);
    });
}

/// NegotiateProtocolVersion: the newest supported minor version and the unsupported `_pq_.` options.
pub fn negotiate_protocol_version(out: &mut Vec<u8>, newest: Version, unknown_options: &[&str]) {
    message(out, backend::NEGOTIATE_PROTOCOL_VERSION, |out| {
        out.extend_from_slice(&newest.0.to_be_bytes());
        out.extend_from_slice(&u32::try_from(unknown_options.len()).unwrap_or(0).to_be_bytes());
        for option in unknown_options {
            c_str(out, option);
        }
    });
}

/// ReadyForQuery, idle.
pub fn ready_for_query(out: &mut Vec<u8>) {
    out.extend_from_slice(&[backend::READY_FOR_QUERY, 0, 0, 0, 5, b'I']);
}

/// ReadyForQuery with this status.
pub fn ready_for_query_in(out: &mut Vec<u8>, status: TxStatus) {
    let status = match status {
        TxStatus::Idle => b'I',
        TxStatus::Open => b'T',
        TxStatus::Failed => b'E',
    };
    out.extend_from_slice(&[backend::READY_FOR_QUERY, 0, 0, 0, 5, status]);
}

/// A message without body, such as ParseComplete.
pub fn empty(out: &mut Vec<u8>, tag: u8) {
    out.extend_from_slice(&[tag, 0, 0, 0, 4]);
}

/// CommandComplete.
pub fn command_complete(out: &mut Vec<u8>, tag: &str) {
    message(out, backend::COMMAND_COMPLETE, |out| c_str(out, tag));
}

/// Type of a column in results of the pooler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    /// `text`.
    Text,
    /// `int4`.
    Int4,
    /// `int8`.
    Int8,
    /// `numeric`.
    Numeric,
}

impl ColumnType {
    fn oid_and_size(self) -> (u32, i16) {
        match self {
            Self::Text => (25, -1),
            Self::Int4 => (23, 4),
            Self::Int8 => (20, 8),
            Self::Numeric => (1700, -1),
        }
    }
}

/// RowDescription; `format` is called with the number of each column.
pub fn row_description(out: &mut Vec<u8>, columns: &[(&str, ColumnType)], format: impl Fn(usize) -> Format) {
    message(out, backend::ROW_DESCRIPTION, |out| {
        out.extend_from_slice(&u16::try_from(columns.len()).unwrap_or(0).to_be_bytes());
        for (number, (name, kind)) in columns.iter().enumerate() {
            let (oid, size) = kind.oid_and_size();
            c_str(out, name);
            out.extend_from_slice(&[0; 6]); // no table, no attribute number
            out.extend_from_slice(&oid.to_be_bytes());
            out.extend_from_slice(&size.to_be_bytes());
            out.extend_from_slice(&(-1i32).to_be_bytes());
            out.extend_from_slice(&(format(number) as u16).to_be_bytes());
        }
    });
}

/// DataRow; `None` is NULL.
pub fn data_row<'a>(out: &mut Vec<u8>, values: impl ExactSizeIterator<Item = Option<&'a [u8]>>) {
    message(out, backend::DATA_ROW, |out| {
        out.extend_from_slice(&u16::try_from(values.len()).unwrap_or(0).to_be_bytes());
        for value in values {
            match value {
                Some(bytes) => {
                    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(0).to_be_bytes());
                    out.extend_from_slice(bytes);
                }
                None => out.extend_from_slice(&(-1i32).to_be_bytes()),
            }
        }
    });
}

/// ParameterDescription without parameters.
pub fn no_parameters(out: &mut Vec<u8>) {
    out.extend_from_slice(&[backend::PARAMETER_DESCRIPTION, 0, 0, 0, 6, 0, 0]);
}

/// StartupMessage.
pub fn startup(out: &mut Vec<u8>, version: Version, parameters: &[(&str, &str)]) {
    framed(out, |out| {
        out.extend_from_slice(&version.0.to_be_bytes());
        for (name, value) in parameters {
            c_str(out, name);
            c_str(out, value);
        }
        out.push(0);
    });
}

/// SSLRequest.
pub fn ssl_request(out: &mut Vec<u8>) {
    framed(out, |out| out.extend_from_slice(&SSL_CODE.to_be_bytes()));
}

/// CancelRequest.
pub fn cancel_request(out: &mut Vec<u8>, pid: u32, key: &[u8]) {
    framed(out, |out| {
        out.extend_from_slice(&CANCEL_CODE.to_be_bytes());
        out.extend_from_slice(&pid.to_be_bytes());
        out.extend_from_slice(key);
    });
}

/// PasswordMessage. The buffer then contains a secret: the caller must wipe it.
pub fn password(out: &mut Vec<u8>, secret: &str) {
    message(out, frontend::PASSWORD, |out| c_str(out, secret));
}

/// SASLInitialResponse.
pub fn sasl_initial(out: &mut Vec<u8>, mechanism: &str, data: &[u8]) {
    message(out, frontend::PASSWORD, |out| {
        c_str(out, mechanism);
        out.extend_from_slice(&u32::try_from(data.len()).unwrap_or(0).to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// SASLResponse.
pub fn sasl_response(out: &mut Vec<u8>, data: &[u8]) {
    message(out, frontend::PASSWORD, |out| out.extend_from_slice(data));
}

/// Query.
pub fn query(out: &mut Vec<u8>, sql: &str) {
    message(out, frontend::QUERY, |out| c_str(out, sql));
}

/// Parse, Bind, Execute and Sync of the unnamed statement, with parameters and results as text.
pub fn extended_query(out: &mut Vec<u8>, sql: &str, parameters: &[&str]) {
    message(out, frontend::PARSE, |out| {
        c_str(out, "");
        c_str(out, sql);
        out.extend_from_slice(&0u16.to_be_bytes());
    });
    message(out, frontend::BIND, |out| {
        // Portal, statement, no parameter formats: all are text.
        c_str(out, "");
        c_str(out, "");
        out.extend_from_slice(&0u16.to_be_bytes());
        out.extend_from_slice(&(parameters.len() as u16).to_be_bytes());
        for parameter in parameters {
            out.extend_from_slice(&(parameter.len() as u32).to_be_bytes());
            out.extend_from_slice(parameter.as_bytes());
        }
        out.extend_from_slice(&0u16.to_be_bytes());
    });
    message(out, frontend::EXECUTE, |out| {
        c_str(out, "");
        out.extend_from_slice(&0u32.to_be_bytes());
    });
    empty(out, frontend::SYNC);
}

/// Terminate.
pub fn terminate(out: &mut Vec<u8>) {
    empty(out, frontend::TERMINATE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_fields_include_themselves() {
        let mut out = Vec::new();
        query(&mut out, "x");
        assert_eq!(out, [b'Q', 0, 0, 0, 6, b'x', 0]);
        out.clear();
        startup(&mut out, Version::V3_0, &[("user", "u")]);
        assert_eq!(out, b"\0\0\0\x10\0\x03\0\0user\0u\0\0");
    }

    #[test]
    fn a_zero_byte_in_a_text_cannot_add_a_field() {
        let mut out = Vec::new();
        startup(&mut out, Version::V3_0, &[("user", "u\0database\0postgres")]);
        let mut expected = Vec::new();
        startup(&mut expected, Version::V3_0, &[("user", "u")]);
        assert_eq!(out, expected);
    }
}
