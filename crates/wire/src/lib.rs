//! PostgreSQL wire protocol 3.0 and 3.2 without I/O: bytes in, events and bytes out.
//!
//! Owns message framing ([`scan`]), the start of a connection ([`startup`]), borrowed views of the few
//! messages a pooler reads ([`frontend`], [`backend`]), rewriting of message heads ([`rewrite`]) and the
//! messages a pooler itself sends ([`encode`]). It never touches a socket, a clock or a runtime, and it never
//! copies a row: what a pooler only forwards is described as a run of bytes.
//!
//! The rules come from the manual's chapter "Frontend/Backend Protocol", sections *Message Flow* and
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

/// A message that breaks the rules of its own format. The peer that sent it is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A string without its terminating zero byte.
    #[error("string in a message is not terminated")]
    UnterminatedString,
    /// A field reaches past the end of its message.
    #[error("message ends inside a field")]
    Truncated,
    /// A string that has to be text is not UTF-8.
    #[error("string in a message is not valid UTF-8")]
    NotUtf8,
    /// A kind byte (as in Describe) that the protocol does not know.
    #[error("unknown kind byte {0:#04x} in a message")]
    UnknownKind(u8),
    /// A name longer than [`limits::MAX_NAME_BYTES`].
    #[error("name in a message is longer than {} bytes", limits::MAX_NAME_BYTES)]
    NameTooLong,
}
