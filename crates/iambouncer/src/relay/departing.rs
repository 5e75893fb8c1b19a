//! The moment at which a client that was asked to leave is closed: between two of its transactions. Owns that decision;
//! which client leaves when is decided in [`crate::clients`].

use super::exchange::{Exchange, RequestState};
use super::session::{ClientSession, CloseReason};
use crate::clients::{Departure, QUIET};
use crate::worker;
use std::task::Poll;

/// The longest rest of an answer that is sent together with the final message, whose time is limited.
const MAX_ANSWER_BYTES: usize = 16 * 1024;
/// EmptyQueryResponse and ReadyForQuery outside a transaction.
const END_OF_EMPTY_ANSWER: &[u8] = b"I\0\0\0\x04Z\0\0\0\x05I";

impl Exchange {
    /// True if nothing of the client is under way. It may have a server, in session pooling.
    pub(super) fn is_between_transactions(&self, session: &ClientSession) -> bool {
        let timing = session.info.timing.get();
        timing.query_at.is_none()
            && timing.transaction_at.is_none()
            && self.answers.is_fresh()
            && self.request == RequestState::Accepted
            && self.up.is_finished()
            && self.down.at_boundary()
            && self.down.is_examined()
            && !session.client.has_pending_input()
    }

    /// Ends the session with the answer that is to be sent: in one piece with it, so that the client has both before it
    /// sends another request. An empty query is how pools check a connection that is about to be used, so the client
    /// stays until its next answer.
    #[cold]
    pub(super) fn depart_with_answer(&self, session: &ClientSession) -> Result<(), CloseReason> {
        let (head, ready) = self.down.sendable();
        let is_short = (1..=MAX_ANSWER_BYTES).contains(&self.down.sendable_bytes());
        let last = if ready.is_empty() { head } else { ready };
        if !is_short || last.ends_with(END_OF_EMPTY_ANSWER) || !self.is_between_transactions(session) {
            return Ok(());
        }
        Err(CloseReason::Error(session.info.departure().error()))
    }

    /// Ends the session of a client that has been quiet for a while.
    #[cold]
    pub(super) fn poll_departure_when_quiet(
        &self,
        session: &ClientSession,
        reason: Departure,
    ) -> Poll<CloseReason> {
        let quiet = worker::now().saturating_duration_since(session.info.timing.get().quiet_since);
        if quiet >= QUIET && self.down.is_finished() && self.is_between_transactions(session) {
            Poll::Ready(CloseReason::Error(reason.error()))
        } else {
            Poll::Pending
        }
    }
}
