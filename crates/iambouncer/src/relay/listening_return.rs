//! The way back of a client from the shared listener to a server of its own. Owns which requests need it, and the hand-over:
//! the server is subscribed to the client's channels and sends a mark; the listener delivers up to it, the server behind it.
//!
//! A request needs it unless all of it has been received and nothing in it can concern notifications, begin a transaction or
//! change the session. The request waits meanwhile, with the server, for a limited time.

use super::decision::{Consumed, NotConsumed};
use super::exchange::{Exchange, RequestState};
use super::link::Link;
use super::listening::{ANOTHER_SERVER, Listening, lost, new_mark, send_mark, wake_later};
use super::session::{ClientSession, CloseReason};
use crate::answers::StateChange;
use crate::pool::shared_listener::{Handover, Membership, MembershipChange, QueueMark, push_command};
use crate::prepared::effect::begins_transaction;
use crate::worker::{self, executor};
use sql::SessionChanges;
use std::time::{Duration, Instant};
use wire::backend::TxStatus;
use wire::frontend;
use wire::limits::HEADER_BYTES;
use wire::scan::{self, FROM_SERVER};
use wire::tag::frontend as from_client;

/// How long the mark may take to arrive at the listener. After that the server is not that of the listener.
const MARK_LIMIT: Duration = Duration::from_secs(2);
/// How often the hand-over is tried, which a cancel request may hit.
const MAX_TRIES: u32 = 3;
/// Notifications of the server that are held until the listener has passed the mark.
const MAX_HELD_BYTES: usize = 8 * 1024 * 1024;

/// A hand-over under way.
pub(super) struct Returning {
    pub(super) member: Membership,
    mark: QueueMark,
    side: ServerSide,
    /// Until when the mark may arrive at the listener, once the server has answered.
    deadline: Option<Instant>,
    tries: u32,
    /// The task was woken for what it waits for.
    pub(super) is_woken: bool,
}

/// What the client's server has sent.
enum ServerSide {
    /// Not yet the mark: the listener delivers.
    BeforeMark,
    /// The mark, and these notifications, which the client receives after those of the listener.
    BehindMark(Vec<u8>),
    /// More than are held.
    TooMuch,
}

impl Returning {
    /// The server has sent a notification, of which these are channel and payload.
    pub(super) fn receive(&mut self, message: &[u8], parts: Option<(&[u8], &[u8])>, len: usize) {
        let is_mark = parts.is_some_and(|(channel, _)| channel == self.mark.channel.as_bytes());
        match &mut self.side {
            ServerSide::BeforeMark
                if is_mark && parts.is_some_and(|(_, payload)| payload == self.mark.payload.as_bytes()) =>
            {
                self.side = ServerSide::BehindMark(Vec::new());
            }
            ServerSide::BehindMark(held) if !is_mark => {
                if message.len() < len || held.len() + len > MAX_HELD_BYTES {
                    self.side = ServerSide::TooMuch;
                } else {
                    held.extend_from_slice(message);
                }
            }
            _ => {}
        }
    }
}

impl Exchange {
    /// A request of a client to which the listener delivers.
    pub(super) fn return_if_needed(&mut self, session: &mut ClientSession) -> Consumed {
        let is_between = matches!(&self.link, Link::Server(linked) if linked.status == TxStatus::Idle)
            && !self.answers.is_batch_open();
        if !is_between || !self.needs_return(session) {
            return Ok(());
        }
        if let Some(Listening::Shared { cannot_return: true, .. }) = self.listening.as_deref() {
            return if self.concerns_channels() { Err(lost(ANOTHER_SERVER).into()) } else { Ok(()) };
        }
        if !self.answers.owes_only_internal() {
            return Err(NotConsumed::AwaitAnswer);
        }
        // From now on the client keeps the server.
        self.request = RequestState::Held;
        if !self.answers.is_empty() {
            // An error for values that are being set must not be taken for one of the steps.
            return Err(NotConsumed::AwaitAnswer);
        }
        if let Some(Listening::Shared { member, .. }) = self.listening.take().map(|listening| *listening) {
            self.begin_return(session, member, 0)?;
        }
        Err(NotConsumed::AwaitAnswer)
    }

    fn begin_return(
        &mut self,
        session: &ClientSession,
        member: Membership,
        tries: u32,
    ) -> Result<(), CloseReason> {
        let Some(mark) = new_mark(session, member.marks()) else { return Err(lost("no random numbers")) };
        match member.deliver_up_to(&mark) {
            Handover::Agreed => {}
            Handover::NotYet => {
                self.set_listening(session, Some(Listening::Shared { member, cannot_return: false }));
                return Ok(());
            }
            Handover::Ended => return Err(ended(&member)),
        }
        let mut sql = Vec::new();
        member.channels().iter().for_each(|channel| push_command(&mut sql, b"LISTEN ", channel));
        push_command(&mut sql, b"LISTEN ", mark.channel.as_bytes());
        sql.extend_from_slice(send_mark(&mark).as_bytes());
        session.keep_for_channels();
        let marks = mark.channel.clone();
        let (side, deadline) = (ServerSide::BeforeMark, None);
        let returning = Returning { member, mark, side, deadline, tries, is_woken: false };
        self.set_listening(session, Some(Listening::Returning(returning)));
        self.ask_listening(session, &String::from_utf8_lossy(&sql));
        // Marks of other clients do not concern it.
        self.send_internal_query(&unlisten(&marks), StateChange::None);
        Ok(())
    }

    /// The server has answered.
    pub(super) fn return_answered(
        &mut self,
        session: &ClientSession,
        mut returning: Returning,
        has_failed: bool,
    ) -> Result<(), CloseReason> {
        match (&returning.side, has_failed) {
            (ServerSide::BeforeMark, true) => {
                if returning.member.deliver_on() {
                    self.give_up_return(session, returning)
                } else {
                    Err(ended(&returning.member))
                }
            }
            (ServerSide::BeforeMark, false) => Err(lost("a server has not received its own notification")),
            // Only the UNLISTEN has failed, which a cancel request may hit.
            (_, true) if returning.tries >= MAX_TRIES => Err(lost("a server has refused UNLISTEN")),
            (_, true) => {
                returning.tries += 1;
                let marks = returning.mark.channel.clone();
                self.set_listening(session, Some(Listening::Returning(returning)));
                self.ask_listening(session, &unlisten(&marks));
                Ok(())
            }
            (_, false) => {
                returning.deadline = Some(worker::now() + MARK_LIMIT);
                self.set_listening(session, Some(Listening::Returning(returning)));
                wake_later(session, MARK_LIMIT);
                Ok(())
            }
        }
    }

    /// The mark was not sent, or has not arrived. The listener goes on delivering; what the server sends is discarded.
    fn give_up_return(&mut self, session: &ClientSession, returning: Returning) -> Result<(), CloseReason> {
        let Returning { member, tries, deadline, .. } = returning;
        let is_answered = deadline.is_some();
        self.has_left_server(session, is_answered);
        if tries < MAX_TRIES && !is_answered {
            return self.begin_return(session, member, tries + 1);
        }
        tracing::warn!(
            id = session.info.id,
            "a client that listens uses a server that does not have the notifications of the shared listener's server"
        );
        self.set_listening(session, Some(Listening::Shared { member, cannot_return: true }));
        self.down.set_interest(self.usual_interest());
        Ok(())
    }

    /// The request waits until the listener has passed the mark.
    pub(super) fn finish_return(&mut self, session: &mut ClientSession) -> Consumed {
        self.request = RequestState::Held;
        let Some(Listening::Returning(returning)) = self.listening.as_deref() else { return Ok(()) };
        let Some(deadline) = returning.deadline else { return Err(NotConsumed::AwaitAnswer) };
        match returning.member.change(None) {
            MembershipChange::HasPassed if self.down.at_boundary() => {}
            MembershipChange::Lost(reason) => return Err(lost(&reason).into()),
            _ if worker::now() >= deadline => {
                if !returning.member.deliver_on() {
                    // The mark has arrived just now, or the listener has ended.
                    executor::wake(executor::current());
                    return Err(NotConsumed::AwaitAnswer);
                }
                if let Some(Listening::Returning(returning)) =
                    self.listening.take().map(|listening| *listening)
                {
                    self.give_up_return(session, returning)?;
                }
                // The request is examined again.
                return self.return_if_needed(session).map(|()| self.request = RequestState::Accepted);
            }
            _ => return Err(NotConsumed::AwaitAnswer),
        }
        let Some(Listening::Returning(returning)) = self.listening.take().map(|listening| *listening) else {
            return Ok(());
        };
        let ServerSide::BehindMark(held) = returning.side else {
            return Err(lost("too many notifications").into());
        };
        let messages = returning.member.take_messages();
        drop(returning.member);
        let out = self.down.insert();
        out.extend_from_slice(&messages);
        out.extend_from_slice(&held);
        self.set_listening(session, None);
        self.down.set_interest(&FROM_SERVER);
        self.request = RequestState::Accepted;
        Ok(())
    }

    /// True unless the request at the front is complete and cannot concern the state of the client's session.
    fn needs_return(&self, session: &ClientSession) -> bool {
        if !self.rules.shares_listener {
            return true;
        }
        let mut rest = self.up.front();
        let mut parsed = ParsedInBatch::default();
        loop {
            let Ok(Some(frame)) = scan::header(rest, self.rules.max_message_bytes) else { return true };
            let Some(message) = rest.get(..frame.len) else { return true };
            let body = &message[HEADER_BYTES..];
            match frame.tag {
                from_client::QUERY => return !is_harmless(session, body),
                from_client::SYNC => return false,
                from_client::PARSE => {
                    let Some(end) = body.iter().position(|&byte| byte == 0) else { return true };
                    let text = &body[end + 1..];
                    *(if end == 0 { &mut parsed.unnamed } else { &mut parsed.named }) = true;
                    if !is_harmless(session, text) {
                        return true;
                    }
                }
                from_client::BIND if !binds_harmless(session, message, parsed) => return true,
                from_client::BIND
                | from_client::DESCRIBE
                | from_client::EXECUTE
                | from_client::CLOSE
                | from_client::FLUSH => {}
                _ => return true,
            }
            rest = &rest[frame.len..];
        }
    }

    /// True if the request at the front may be LISTEN, UNLISTEN or DISCARD.
    fn concerns_channels(&self) -> bool {
        let front = self.up.front();
        contains_word(front, b"listen") || contains_word(front, b"discard")
    }
}

/// Ends a server's subscription to marks.
fn unlisten(marks: &str) -> String {
    format!("UNLISTEN \"{marks}\"")
}

/// Why the listener does not deliver any more.
fn ended(member: &Membership) -> CloseReason {
    match member.change(None) {
        MembershipChange::Lost(reason) => lost(&reason),
        _ => lost("the shared listener has ended"),
    }
}

/// Whether a batch has a Parse of a statement so far. These have been examined.
#[derive(Clone, Copy, Default)]
struct ParsedInBatch {
    unnamed: bool,
    named: bool,
}

/// True if a Bind is one of a statement that is harmless.
fn binds_harmless(session: &ClientSession, message: &[u8], parsed: ParsedInBatch) -> bool {
    let Ok(Some(head)) = frontend::bind_head(message, message.len()) else { return false };
    if head.statement.is_empty() {
        let body = session.unnamed.as_ref().map(|text| text.body());
        return parsed.unnamed || body.flatten().is_some_and(|body| is_harmless(session, body));
    }
    match session.names.get(head.statement) {
        Some(statement) => statement.executed.is_none() && is_harmless(session, &statement.body),
        None => parsed.named,
    }
}

/// True if a text cannot concern notifications, begin a transaction or change the session.
fn is_harmless(session: &ClientSession, text: &[u8]) -> bool {
    let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
    let text = &text[..end];
    SessionChanges::of(text).is_none()
        && session.changes_by_calls(text).is_none()
        && !contains_word(text, b"notify")
        // pg_listening_channels() has those of the server.
        && !contains_word(text, b"pg_listening_channels")
        && !may_begin_transaction(text)
}

fn may_begin_transaction(text: &[u8]) -> bool {
    begins_transaction(text)
        || text.contains(&b';') && (contains_word(text, b"begin") || contains_word(text, b"start"))
}

/// True if the bytes contain this word in lower or upper case, possibly within another.
fn contains_word(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_are_recognized_wherever_they_begin() {
        for text in ["BEGIN", " start transaction", "SELECT 1; begin", "/* a */ BEGIN; SELECT 1"] {
            assert!(may_begin_transaction(text.as_bytes()), "{text}");
        }
        for text in ["SELECT start FROM a", "SELECT 1;", "COMMIT"] {
            assert!(!may_begin_transaction(text.as_bytes()), "{text}");
        }
        assert!(contains_word(b"select Pg_Notify($1)", b"notify") && !contains_word(b"not", b"notify"));
    }
}
