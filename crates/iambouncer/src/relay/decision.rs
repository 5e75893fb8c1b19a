//! What becomes of the message of a client that was looked at. Owns the reasons for which a message has to wait; the next
//! look at it begins from the start.

use super::session::CloseReason;

/// Why the message at the front was not consumed.
pub(super) enum NotConsumed {
    /// What is to be sent already has to be sent first.
    SendFirst,
    /// This many bytes of it are needed.
    NeedBytes(usize),
    /// The client has no server yet, or the server does not have the client's parameters yet.
    AwaitServer,
    /// It depends on an answer that the server owes.
    AwaitAnswer,
    /// The server has sent something that no request asked for, which is read first.
    AwaitSilence,
    /// It ends the session.
    Close(CloseReason),
}

impl From<CloseReason> for NotConsumed {
    fn from(reason: CloseReason) -> Self {
        Self::Close(reason)
    }
}

/// `Ok`: the message was consumed.
pub(super) type Consumed<T = ()> = Result<T, NotConsumed>;
