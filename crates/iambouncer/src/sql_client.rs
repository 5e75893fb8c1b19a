//! Internal queries on a connection to a server: the reset query, `connect_query`, the query of `doctor`. Owns one simple
//! query and the parsing of its answer within limits; callers interpret the rows.

use crate::net::{Inbound, Stream};
use std::io;
use wire::backend::{self, TxStatus};
use wire::limits::HEADER_BYTES;
use wire::{encode, tag};
use zeroize::Zeroize;

/// Limits on the answer to one query.
#[derive(Debug, Clone, Copy)]
pub struct AnswerLimits {
    /// Largest message, in bytes.
    pub message_bytes: u32,
    /// Maximum number of messages, including notices and parameter reports.
    pub messages: usize,
    /// Maximum number of rows to store; further rows are read and dropped.
    pub rows: usize,
    /// Maximum size of the rows to store, in bytes; rows that would exceed it are dropped.
    pub bytes: usize,
}

/// One row in text format; `None` is NULL.
pub type TextRow = Vec<Option<String>>;

/// The answer to a successful query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryAnswer {
    /// The stored rows.
    pub rows: Vec<TextRow>,
    /// Further rows were dropped.
    pub is_truncated: bool,
    /// The transaction status after the query.
    pub status: TxStatus,
}

/// Why an internal query failed.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// The connection failed or was closed.
    #[error("{0}")]
    Connection(#[from] io::Error),
    /// The server reported an error.
    #[error("{message}")]
    Refused {
        /// FATAL, ERROR …
        severity: String,
        /// SQLSTATE.
        code: String,
        /// The server's message.
        message: String,
        /// The server's hint.
        hint: Option<String>,
    },
    /// A message type that does not occur in the answer to a simple query.
    #[error("unexpected message type \"{}\" in the answer to a query", char::from(*.0).escape_default())]
    Unexpected(u8),
    /// A message is malformed.
    #[error("the answer violates the protocol: {0}")]
    Malformed(#[from] wire::FormatError),
    /// The answer has too many messages.
    #[error("the answer to a query has too many messages")]
    TooLong,
    /// The server is in a transaction afterwards, or has sent more.
    #[error("the server is not idle after a query")]
    NotIdle,
}

/// Runs one simple query. `inbound` contains received bytes that were not consumed; `on_parameter` is called for each
/// ParameterStatus.
///
/// # Errors
/// The server reports an error, the connection fails, or the answer exceeds the limits. After [`SqlError::Refused`] with
/// severity ERROR the connection can be used; after any other error its state is unknown.
pub async fn query(
    stream: &mut Stream,
    inbound: &mut Inbound,
    sql: &str,
    limits: AnswerLimits,
    mut on_parameter: impl FnMut(&[u8]),
) -> Result<QueryAnswer, SqlError> {
    let mut message = Vec::new();
    encode::query(&mut message, sql);
    let sent = stream.send_all(&message).await;
    // `connect_query` may contain a secret.
    message.zeroize();
    sent?;
    read_answer(stream, inbound, limits, &mut on_parameter).await
}

/// Runs one statement with parameters, as text. Otherwise like [`query`].
///
/// # Errors
/// As [`query`].
pub async fn query_with(
    stream: &mut Stream,
    inbound: &mut Inbound,
    sql: &str,
    parameters: &[&str],
    limits: AnswerLimits,
    mut on_parameter: impl FnMut(&[u8]),
) -> Result<QueryAnswer, SqlError> {
    let mut message = Vec::new();
    encode::extended_query(&mut message, sql, parameters);
    stream.send_all(&message).await?;
    read_answer(stream, inbound, limits, &mut on_parameter).await
}

/// Reads up to ReadyForQuery.
async fn read_answer(
    stream: &mut Stream,
    inbound: &mut Inbound,
    limits: AnswerLimits,
    on_parameter: &mut impl FnMut(&[u8]),
) -> Result<QueryAnswer, SqlError> {
    let (mut rows, mut refused) = (Vec::new(), None);
    let (mut bytes, mut is_truncated) = (0, false);
    for _ in 0..limits.messages {
        let frame = match stream.recv_message(inbound, limits.message_bytes).await {
            Ok(frame) => frame,
            // After a FATAL error the server closes the connection.
            Err(error) => return Err(refused.unwrap_or(SqlError::Connection(error))),
        };
        let message = &inbound.bytes()[..frame.len];
        match frame.tag {
            tag::backend::DATA_ROW if rows.len() < limits.rows && bytes + frame.len <= limits.bytes => {
                bytes += frame.len;
                rows.push(text_row(message)?);
            }
            tag::backend::PARAMETER_STATUS => on_parameter(message),
            tag::backend::ERROR_RESPONSE => refused = refused.or_else(|| Some(server_error(message))),
            tag::backend::READY_FOR_QUERY => {
                let status = backend::ready_for_query(message)?;
                inbound.consume(frame.len);
                return match refused {
                    Some(error) => Err(error),
                    None => Ok(QueryAnswer { rows, is_truncated, status }),
                };
            }
            tag::backend::DATA_ROW => is_truncated = true,
            tag::backend::PARSE_COMPLETE
            | tag::backend::BIND_COMPLETE
            | tag::backend::ROW_DESCRIPTION
            | tag::backend::COMMAND_COMPLETE
            | tag::backend::EMPTY_QUERY_RESPONSE
            | tag::backend::NOTICE_RESPONSE
            | tag::backend::NOTIFICATION_RESPONSE => {}
            other => return Err(SqlError::Unexpected(other)),
        }
        inbound.consume(frame.len);
    }
    Err(SqlError::TooLong)
}

fn server_error(message: &[u8]) -> SqlError {
    let fields = backend::error_fields(message).unwrap_or_default();
    SqlError::Refused {
        severity: fields.severity.into_owned(),
        code: fields.code.into_owned(),
        message: fields.message.into_owned(),
        hint: fields.hint.map(std::borrow::Cow::into_owned),
    }
}

/// The columns of a DataRow.
///
/// # Errors
/// It is truncated.
pub fn text_row(message: &[u8]) -> Result<TextRow, wire::FormatError> {
    columns(message).ok_or(wire::FormatError::Truncated)
}

fn columns(message: &[u8]) -> Option<TextRow> {
    let mut rest = message.get(HEADER_BYTES..)?;
    let count = u16::from_be_bytes(*rest.split_off(..2)?.first_chunk()?);
    let mut columns = Vec::new();
    for _ in 0..count {
        let length = i32::from_be_bytes(*rest.split_off(..4)?.first_chunk()?);
        columns.push(match usize::try_from(length) {
            Ok(length) => Some(String::from_utf8_lossy(rest.split_off(..length)?).into_owned()),
            Err(_null) => None,
        });
    }
    Some(columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_parsed_as_text_and_truncated_ones_are_errors() {
        let mut message = Vec::new();
        encode::data_row(&mut message, [Some(&b"a"[..]), None, Some(b"")].into_iter());
        let row = text_row(&message).unwrap();
        assert_eq!(row, [Some("a".to_owned()), None, Some(String::new())]);
        message.pop();
        assert!(text_row(&message[..message.len() - 1]).is_err());
    }
}
