//! PostgreSQL wire protocol 3.0 and 3.2 without I/O: bytes in, events and bytes out.
//!
//! Owns message framing ([`scan`]), the start of a connection ([`startup`]), borrowed views of the few
//! messages that a pooler reads ([`frontend`], [`backend`]), rewriting of message heads ([`rewrite`]) and the
//! messages that a pooler itself sends ([`encode`]). Never touches a socket, a clock or a runtime, and never
//! copies a row: bytes that a pooler only forwards are described as a run.
//!
//! The rules are those of the manual's chapter "Frontend/Backend Protocol", sections *Message Flow* and
//! *Message Formats*.
#![forbid(unsafe_code)]

pub mod backend;
pub mod encode;
pub mod frontend;
pub mod limits;
pub mod rewrite;
pub mod scan;
pub mod startup;
pub mod tag;

mod cursor;

/// A malformed message. The peer that sent it is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A string is not terminated by a zero byte.
    #[error("string in a message is not terminated")]
    UnterminatedString,
    /// A field extends past the end of its message.
    #[error("message ends inside a field")]
    Truncated,
    /// A string that must be text is not UTF-8.
    #[error("string in a message is not valid UTF-8")]
    NotUtf8,
    /// A kind byte (as in Describe) is not defined by the protocol.
    #[error("unknown kind byte {0:#04x} in a message")]
    UnknownKind(u8),
    /// A name is longer than [`limits::MAX_NAME_BYTES`].
    #[error("name in a message is longer than {} bytes", limits::MAX_NAME_BYTES)]
    NameTooLong,
}
