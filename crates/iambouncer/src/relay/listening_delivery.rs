//! Notifications of the shared listener on their way to a client. Owns when the client receives them: between two of its
//! transactions, between whole messages, and as fast as it reads.

use super::downstream::MAX_UNSENT_HEAD_BYTES;
use super::exchange::{Exchange, RequestState};
use super::link::Link;
use super::listening::{Listening, lost};
use super::session::{ClientSession, CloseReason};
use crate::clients::Departure;
use crate::pool::shared_listener::MembershipChange;
use crate::worker::executor;
use std::task::{Context, Poll};
use wire::backend::TxStatus;

impl Exchange {
    /// Called before bytes are sent to a client that is to leave, or listens.
    #[cold]
    #[inline(never)]
    pub(super) fn attend_before_sending(&mut self, session: &ClientSession) -> Result<(), CloseReason> {
        if let Some(Listening::Shared { .. }) = self.listening.as_deref() {
            self.deliver();
        }
        match session.info.departure() {
            Departure::NotRequested => Ok(()),
            _ => self.depart_with_answer(session),
        }
    }

    /// Called at the end of a turn of such a client.
    #[cold]
    #[inline(never)]
    pub(super) fn attend_at_end(&mut self, session: &ClientSession, cx: &Context<'_>) -> Poll<CloseReason> {
        let has_changed = match self.listening.as_deref_mut() {
            None => false,
            Some(Listening::Shared { member, .. }) => match member.change(Some(cx.waker())) {
                MembershipChange::Lost(reason) => return Poll::Ready(lost(&reason)),
                // A request waits for this.
                MembershipChange::Delivers
                    if self.request == RequestState::Held && self.answers.is_empty() =>
                {
                    true
                }
                _ => self.deliver(),
            },
            Some(Listening::Subscribing { member, is_woken }) => {
                let has_changed = member.change(Some(cx.waker())) != MembershipChange::None;
                has_changed && !std::mem::replace(is_woken, true)
            }
            Some(Listening::Returning(returning)) => {
                let has_changed = returning.member.change(Some(cx.waker())) != MembershipChange::None;
                has_changed && !std::mem::replace(&mut returning.is_woken, true)
            }
            Some(_) => false,
        };
        if has_changed {
            executor::wake(executor::current());
        }
        match session.info.departure() {
            Departure::NotRequested => Poll::Pending,
            reason => self.poll_departure_when_quiet(session, reason),
        }
    }

    /// Gives the client what the listener has for it. True if there was anything.
    fn deliver(&mut self) -> bool {
        let is_between = match &self.link {
            Link::Listening | Link::Waiting(_) => true,
            Link::Server(linked) => linked.status == TxStatus::Idle,
            Link::None => false,
        };
        let may_receive = is_between
            && self.answers.is_settled()
            && self.down.at_boundary()
            && self.down.is_examined()
            && self.down.head_bytes() <= MAX_UNSENT_HEAD_BYTES;
        let Some(Listening::Shared { member, .. }) = self.listening.as_deref().filter(|_| may_receive) else {
            return false;
        };
        let messages = member.take_messages();
        if !messages.is_empty() {
            self.down.insert().extend_from_slice(&messages);
        }
        !messages.is_empty()
    }
}
