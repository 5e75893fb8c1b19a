//! The outcome of examining a client message. Owns the reasons why a message cannot be consumed yet; the next attempt
//! examines it from the start.

use super::session::CloseReason;

/// Why the message at the front of the buffer was not consumed.
pub(super) enum NotConsumed {
    /// Pending bytes have to be sent first.
    SendFirst,
    /// At least this many bytes are needed.
    NeedBytes(usize),
    /// The client has no server yet, or its parameters have not been set on the server yet.
    AwaitServer,
    /// It depends on an answer that the server still owes.
    AwaitAnswer,
    /// The server has sent unsolicited messages, which are read first.
    DrainServer,
    /// The session ends.
    Close(CloseReason),
}

impl From<CloseReason> for NotConsumed {
    fn from(reason: CloseReason) -> Self {
        Self::Close(reason)
    }
}

/// `Ok` if the message was consumed.
pub(super) type Consumed<T = ()> = Result<T, NotConsumed>;
