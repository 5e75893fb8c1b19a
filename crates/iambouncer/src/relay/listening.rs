//! A client in transaction pooling that listens, and the shared listener of its pool. Owns the client's state, and the steps
//! by which its server gives the delivery to the listener. The way back, before a request that may concern notifications
//! or begins a transaction, is in [`super::listening_return`], the delivery in [`super::listening_delivery`].
//!
//! ```text
//! (none)         The client does not listen, or keeps its server for other reasons, too
//! Waiting        It listens on its own server, which it keeps; from a certain time on it may share
//! Founding       That server is asked for its channels, and subscribes to the one for marks
//! Founded        … and becomes the listener
//! Joining        That server is asked for its channels, and sends a proof that it has the listener's queue
//! Subscribing    The listener subscribes to these channels, and looks for the proof
//! Leaving        The server sends the mark: it delivers before the mark, the listener behind it
//! Unsubscribing  The server runs UNLISTEN *
//! Shared         The listener delivers; any server runs the client's requests
//! Returning      Another server is subscribed and sends a mark: the listener delivers up to it, that server behind it
//! ```
//!
//! Only in `Shared` has the client no server of its own. As long as its own server delivers, LISTEN, UNLISTEN, savepoints
//! and functions mean what PostgreSQL says; the channels are read from it, never from the text of a statement. A client
//! whose statement may change them returns to `(none)` first.

use super::decision::{Consumed, NotConsumed};
use super::exchange::Exchange;
use super::link::Link;
use super::listening_return::Returning;
use super::session::{ClientSession, CloseReason};
use super::unread_state::StateQuery;
use crate::answers::StateChange;
use crate::client_error;
use crate::clients::Pin;
use crate::pool::shared_listener::{
    Founding, ListenerOffer, Membership, MembershipChange, QueueMark, is_for_marks, notification,
};
use crate::pool::{Acquired, Lease};
use crate::sql_client::TextRow;
use crate::worker::{self, executor, timers};
use sql::{Feature, Features};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wire::scan::{FROM_SERVER, Frame, Interest, NOTIFICATIONS_FROM_SERVER};

/// How long a client that listens has to be quiet before it shares, unless others wait for a server: most send several
/// requests in a row.
const QUIET_BEFORE_SHARING: Duration = Duration::from_millis(100);
/// Time before the next attempt after one has failed, or while the listener has another encoding.
const RETRY_DELAY: Duration = Duration::from_secs(5);
/// How often UNLISTEN is tried, which a cancel request may hit.
const MAX_UNLISTENS: u32 = 3;

/// Why a client that listens on the shared listener cannot change its channels.
pub(super) const ANOTHER_SERVER: &str =
    "the client's server does not have the notifications of the listener's server";

/// The channels of a session, quoted. In the encoding of the client, since the names are sent to the listener.
const CHANNELS: &str = "(SELECT pg_catalog.string_agg(pg_catalog.concat('\"', pg_catalog.replace(channel, '\"', '\"\"'), '\"'), ',') \
    FROM pg_catalog.pg_listening_channels() AS listening(channel))";

/// The state of a client that listens.
pub(super) enum Listening {
    /// `wakes_at` is when the client's task is woken.
    Waiting {
        until: Instant,
        wakes_at: Instant,
    },
    Founding(Founding),
    Founded {
        founding: Founding,
        channels: Vec<Arc<[u8]>>,
    },
    Joining(Membership),
    Subscribing {
        member: Membership,
        is_woken: bool,
    },
    Leaving {
        member: Membership,
        mark: QueueMark,
        has_passed: bool,
    },
    Unsubscribing {
        member: Membership,
        is_sent: bool,
        tries: u32,
    },
    Shared {
        member: Membership,
        cannot_return: bool,
    },
    Returning(Returning),
}

pub(super) fn listen_only() -> Features {
    Features::of(&[Feature::Listen])
}

/// The channels in an answer to [`CHANNELS`].
fn channels_of(row: Option<TextRow>, encoding: Option<&str>) -> Option<Vec<Arc<[u8]>>> {
    let text = row?.into_iter().next()??;
    let is_readable = text.is_ascii() || encoding.is_some_and(|name| name.eq_ignore_ascii_case("UTF8"));
    if !is_readable {
        return None;
    }
    let mut channels = Vec::new();
    let mut rest = text.as_bytes();
    while let Some(quoted) = rest.strip_prefix(b"\"") {
        let (mut name, mut at) = (Vec::new(), 0);
        loop {
            match (quoted.get(at)?, quoted.get(at + 1)) {
                (b'"', Some(b'"')) => at += 1,
                (b'"', _) => break,
                _ => {}
            }
            name.push(quoted[at]);
            at += 1;
        }
        if !is_for_marks(&name) {
            channels.push(name.into());
        }
        rest = &quoted[at + 1..];
        rest = rest.strip_prefix(b",").unwrap_or(rest);
    }
    (rest.is_empty() && !channels.is_empty()).then_some(channels)
}

/// Wakes the client's task once.
pub(super) fn wake_later(session: &ClientSession, delay: Duration) {
    let info = session.info.clone();
    executor::spawn(async move {
        timers::sleep(delay).await;
        info.wake();
    });
}

/// When the client has been quiet for long enough.
fn quiet_from(session: &ClientSession) -> Instant {
    session.info.timing.get().quiet_since + QUIET_BEFORE_SHARING
}

/// A mark of the client.
pub(super) fn new_mark(session: &ClientSession, marks: &Arc<str>) -> Option<QueueMark> {
    QueueMark::new(marks, session.info.id)
}

/// The statement that sends a mark. Its constants do not make it another one for `pg_stat_statements`.
pub(super) fn send_mark(mark: &QueueMark) -> String {
    format!("SELECT pg_catalog.pg_notify('{}', '{}')", mark.channel, mark.payload)
}

/// The session ends, since notifications may be missing.
pub(super) fn lost(reason: &str) -> CloseReason {
    CloseReason::Error(client_error::listener_lost(reason))
}

impl Exchange {
    /// Changes the state.
    pub(super) fn set_listening(&mut self, session: &ClientSession, listening: Option<Listening>) {
        // The membership before ends first: another of the same client may begin.
        self.listening = None;
        session.info.set_listens(listening.is_some());
        self.listening = listening.map(Box::new);
    }

    /// No attempt to share is made for a while.
    fn wait_to_share(&mut self, session: &ClientSession, delay: Duration) {
        let until = worker::now() + delay;
        self.set_listening(session, Some(Listening::Waiting { until, wakes_at: until }));
        wake_later(session, delay);
    }

    /// A statement may change the channels: what is known of them is outdated.
    #[cold]
    pub(super) fn channels_may_change(&mut self, session: &ClientSession) {
        match self.listening.as_deref() {
            Some(Listening::Waiting { .. } | Listening::Joining(_) | Listening::Subscribing { .. }) => {
                self.set_listening(session, None);
            }
            // In a transaction on a server that is not the listener's.
            Some(Listening::Shared { .. }) => session.info.kill(client_error::listener_lost(ANOTHER_SERVER)),
            _ => {}
        }
    }

    /// True if the client keeps its server only because it listens, and may share.
    fn can_share(&self, session: &ClientSession) -> bool {
        let Link::Server(linked) = &self.link else { return false };
        self.rules.shares_listener
            && session.info.pins() == listen_only()
            && session.pool.has_room_for_listener()
            && !session.has_private_statement()
            && !linked.is_verified
            && !linked.server.info.close_needed.get()
            && linked.server.info.cancels_in_flight.get() == 0
            && linked.server.info.overlap.is_none()
            && linked.unread.as_deref().is_some_and(|unread| !unread.needs_query())
    }

    /// The encoding of the server's messages.
    fn encoding<'a>(&'a self, session: &ClientSession) -> Option<&'a str> {
        let Link::Server(linked) = &self.link else { return None };
        let id = session.pool.context.parameters.id("client_encoding")?;
        linked.server.parameters.get(id)
    }

    /// Called when the server could be released, if the client may have changed its session. True if a query is under way,
    /// or the server is gone.
    #[cold]
    #[inline(never)]
    pub(super) fn advance_listening(&mut self, session: &mut ClientSession) -> bool {
        let can_share = self.can_share(session);
        if !session.info.pins().contains(Feature::Listen)
            && matches!(
                self.listening.as_deref(),
                Some(Listening::Waiting { .. } | Listening::Subscribing { .. } | Listening::Founded { .. })
            )
        {
            // A function has ended it.
            self.set_listening(session, None);
        }
        let is_wanted = session.pool.first_waiting_since().is_some();
        if matches!(self.listening.as_deref(), Some(Listening::Waiting { .. }))
            && session.info.pins() == listen_only()
            && !self.is_time_to_share(session, can_share, is_wanted)
        {
            return false;
        }
        match self.listening.as_deref_mut() {
            None if !can_share => false,
            None if !is_wanted => {
                self.wait_to_share(session, QUIET_BEFORE_SHARING);
                false
            }
            Some(Listening::Waiting { .. }) if session.info.pins() != listen_only() => {
                self.set_listening(session, None);
                false
            }
            None | Some(Listening::Waiting { .. }) => self.ask_for_channels(session),
            Some(Listening::Founded { .. }) => self.found_listener(session),
            Some(Listening::Subscribing { member, .. }) => match member.change(None) {
                MembershipChange::Subscribed => self.leave_server(session),
                MembershipChange::None => false,
                _ => {
                    self.wait_to_share(session, RETRY_DELAY);
                    false
                }
            },
            Some(Listening::Unsubscribing { is_sent, .. }) => {
                *is_sent = true;
                self.ask_listening(session, "UNLISTEN *");
                true
            }
            Some(Listening::Shared { .. }) => self.unlink_shared(session),
            Some(
                Listening::Founding(_)
                | Listening::Joining(_)
                | Listening::Leaving { .. }
                | Listening::Returning(_),
            ) => false,
        }
    }

    /// True if a client that waits may share now. Otherwise its task is woken again.
    fn is_time_to_share(&mut self, session: &ClientSession, can_share: bool, is_wanted: bool) -> bool {
        let Some(Listening::Waiting { until, wakes_at }) = self.listening.as_deref_mut() else {
            return false;
        };
        let now = worker::now();
        // After an attempt that has failed, the time is longer, also if others wait.
        let may_hurry = is_wanted && *until <= now + QUIET_BEFORE_SHARING;
        let from = if may_hurry { now } else { (*until).max(quiet_from(session)) };
        if now >= from && can_share {
            return true;
        }
        if now >= *wakes_at {
            *wakes_at = if can_share { from } else { now + RETRY_DELAY };
            let delay = wakes_at.saturating_duration_since(now);
            wake_later(session, delay);
        }
        false
    }

    /// Sends a query of these steps.
    pub(super) fn ask_listening(&mut self, session: &ClientSession, sql: &str) {
        self.send_state_query(sql, StateQuery::Listening { row: None });
        session.info.set_listens(true);
        // It is sent in the next turn, also of a client that is idle.
        executor::wake(executor::current());
    }

    fn ask_for_channels(&mut self, session: &ClientSession) -> bool {
        let registry = session.pool.listener_registry();
        let offer = registry.offer(self.encoding(session).unwrap_or_default());
        let (sql, next) = match offer {
            ListenerOffer::Found(mut founding) => {
                let Some(places) = session.pool.take_listener_places() else {
                    drop(founding);
                    self.wait_to_share(session, RETRY_DELAY);
                    return false;
                };
                founding.places = places;
                let sql = format!("SELECT {CHANNELS}; LISTEN \"{}\"", founding.marks);
                (sql, Listening::Founding(founding))
            }
            ListenerOffer::Share(marks) => {
                // The proof may arrive before the answer.
                let joined = new_mark(session, &marks).and_then(|proof| {
                    let sql = format!("SELECT {CHANNELS}; {}", send_mark(&proof));
                    Some((sql, registry.join(session.info.id, proof)?))
                });
                let Some((sql, member)) = joined else {
                    self.wait_to_share(session, RETRY_DELAY);
                    return false;
                };
                (sql, Listening::Joining(member))
            }
            ListenerOffer::Wait => {
                self.wait_to_share(session, QUIET_BEFORE_SHARING);
                return false;
            }
            ListenerOffer::OtherEncoding => {
                self.wait_to_share(session, RETRY_DELAY);
                return false;
            }
        };
        self.set_listening(session, Some(next));
        self.ask_listening(session, &sql);
        true
    }

    /// The listener is subscribed: the server sends the mark.
    fn leave_server(&mut self, session: &ClientSession) -> bool {
        let can_share = self.can_share(session);
        let Some(Listening::Subscribing { member, .. }) = self.listening.take().map(|listening| *listening)
        else {
            return false;
        };
        let mark = new_mark(session, member.marks()).filter(|mark| can_share && member.deliver_behind(mark));
        let Some(mark) = mark else {
            drop(member);
            self.wait_to_share(session, RETRY_DELAY);
            return false;
        };
        let sql = format!("LISTEN \"{}\"; {}", mark.channel, send_mark(&mark));
        self.set_listening(session, Some(Listening::Leaving { member, mark, has_passed: false }));
        self.ask_listening(session, &sql);
        true
    }

    /// A query of these steps has been answered, possibly by an error.
    #[cold]
    pub(super) fn listening_answered(
        &mut self,
        session: &ClientSession,
        row: Option<TextRow>,
        has_failed: bool,
    ) -> Result<(), CloseReason> {
        let channels = channels_of(row, self.encoding(session)).filter(|_| !has_failed);
        let Some(listening) = self.listening.take().map(|listening| *listening) else {
            self.down.set_interest(&FROM_SERVER);
            return Ok(());
        };
        let next = match (listening, channels) {
            (Listening::Founding(founding), Some(channels)) => Listening::Founded { founding, channels },
            (Listening::Joining(member), Some(channels)) => {
                member.subscribe(channels);
                Listening::Subscribing { member, is_woken: false }
            }
            (Listening::Leaving { member, has_passed, .. }, _) if has_failed && !has_passed => {
                member.deliver_nothing();
                drop(member);
                self.down.set_interest(&FROM_SERVER);
                self.wait_to_share(session, RETRY_DELAY);
                return Ok(());
            }
            (Listening::Leaving { member, has_passed: true, .. }, _) => {
                Listening::Unsubscribing { member, is_sent: false, tries: 0 }
            }
            (Listening::Leaving { .. }, _) => {
                return Err(lost("a server has not received its own notification"));
            }
            (Listening::Unsubscribing { member, tries, .. }, _) if has_failed && tries < MAX_UNLISTENS => {
                Listening::Unsubscribing { member, is_sent: false, tries: tries + 1 }
            }
            (Listening::Unsubscribing { member, .. }, _) => {
                self.has_left_server(session, has_failed);
                Listening::Shared { member, cannot_return: false }
            }
            (Listening::Returning(returning), _) => {
                return self.return_answered(session, returning, has_failed);
            }
            (listening @ Listening::Shared { .. }, _) => listening,
            (Listening::Founding(_) | Listening::Joining(_), None) => {
                self.down.set_interest(&FROM_SERVER);
                self.wait_to_share(session, RETRY_DELAY);
                return Ok(());
            }
            (
                listening @ (Listening::Waiting { .. }
                | Listening::Founded { .. }
                | Listening::Subscribing { .. }),
                _,
            ) => listening,
        };
        self.set_listening(session, Some(next));
        self.down.set_interest(self.usual_interest());
        Ok(())
    }

    /// The server no longer delivers. If it is still subscribed, it is closed once the client has done with it.
    pub(super) fn has_left_server(&mut self, session: &ClientSession, is_subscribed: bool) {
        if let Link::Server(linked) = &self.link
            && is_subscribed
        {
            linked.server.info.close_needed.set(true);
        }
        session.unpin(listen_only());
    }

    /// The client's server becomes the listener.
    fn found_listener(&mut self, session: &mut ClientSession) -> bool {
        let can_share = self.can_share(session);
        let encoding = self.encoding(session).unwrap_or_default().to_owned();
        let Some(Listening::Founded { mut founding, channels }) =
            self.listening.take().map(|listening| *listening)
        else {
            return false;
        };
        if !can_share {
            let unlisten = format!("UNLISTEN \"{}\"", founding.marks);
            drop(founding);
            self.set_listening(session, None);
            self.send_internal_query(&unlisten, StateChange::None);
            executor::wake(executor::current());
            return true;
        }
        let Link::Server(mut linked) = std::mem::replace(&mut self.link, Link::Listening) else {
            return false;
        };
        linked.changed_parameters.commit(&mut session.parameters);
        session.unpin(listen_only());
        session.record_unlinked();
        self.clear_link_state();
        linked.server.end_ownership();
        let (marks, places) = (founding.marks.clone(), std::mem::take(&mut founding.places));
        let member = founding.complete(session.info.id, channels, &encoding);
        self.set_listening(session, Some(Listening::Shared { member, cannot_return: false }));
        session.pool.begin_listener(linked.server, marks, places);
        true
    }

    /// Releases the server of a client to which the listener delivers. False if the client keeps it for another reason.
    fn unlink_shared(&mut self, session: &mut ClientSession) -> bool {
        let is_verified = matches!(&self.link, Link::Server(linked) if linked.is_verified);
        if is_verified || session.is_pinned() {
            return false;
        }
        if let Some(Listening::Shared { cannot_return, .. }) = self.listening.as_deref_mut() {
            *cannot_return = false;
        }
        self.down.set_interest(&FROM_SERVER);
        self.release(session, self.rules.mode);
        self.link = Link::Listening;
        true
    }

    /// A server that was released before in transaction pooling is in session pooling now: what has begun is brought to an end.
    #[cold]
    #[inline(never)]
    pub(super) fn finish_step_in_session_mode(&mut self, session: &mut ClientSession) {
        let is_unfinished = matches!(
            self.listening.as_deref(),
            Some(Listening::Founded { .. } | Listening::Unsubscribing { is_sent: false, .. })
        );
        if is_unfinished {
            self.advance_listening(session);
        }
    }

    /// What is examined of the server's messages while no query of the pooler is under way. A server may still be subscribed
    /// for a client to which the listener delivers.
    pub(super) fn usual_interest(&self) -> &'static Interest {
        match self.listening.as_deref() {
            Some(Listening::Shared { .. } | Listening::Unsubscribing { .. }) => &NOTIFICATIONS_FROM_SERVER,
            _ => &FROM_SERVER,
        }
    }

    /// The state without a server.
    pub(super) fn unlinked(&self) -> Link {
        if self.listening.is_some() { Link::Listening } else { Link::None }
    }

    /// As [`Exchange::try_link`], for a client to which the listener delivers.
    #[cold]
    #[inline(never)]
    pub(super) fn try_link_listening(&mut self, session: &mut ClientSession) -> Result<bool, CloseReason> {
        self.refresh_rules(session);
        match session.pool.acquire_for(session.info.id) {
            Acquired::Server(lease) => {
                self.attach_listening(session, lease);
                Ok(true)
            }
            Acquired::Wait(waiter) => self.wait_for_server(session, waiter),
            Acquired::Refused(error) => Err(CloseReason::Error((*error).clone())),
        }
    }

    /// As [`Exchange::attach`], for such a client.
    #[cold]
    #[inline(never)]
    pub(super) fn attach_listening(&mut self, session: &mut ClientSession, lease: Lease) {
        self.attach(session, lease);
        // Its requests are examined.
        if let Link::Server(linked) = &mut self.link {
            linked.unread.get_or_insert_default();
        }
    }

    /// A notification of the client's server. True if it is discarded.
    #[cold]
    #[inline(never)]
    pub(super) fn discards_notification(&mut self, frame: Frame) -> bool {
        let message = self.down.message(frame);
        let parts = if message.len() == frame.len { notification(message) } else { None };
        let is_mark = |marks: &Arc<str>| parts.is_some_and(|(channel, _)| channel == marks.as_bytes());
        match self.listening.as_deref_mut() {
            Some(Listening::Leaving { mark, has_passed, .. }) => {
                let is_mark = is_mark(&mark.channel);
                *has_passed |=
                    is_mark && parts.is_some_and(|(_, payload)| payload == mark.payload.as_bytes());
                is_mark || *has_passed
            }
            Some(Listening::Returning(returning)) => {
                returning.receive(message, parts, frame.len);
                true
            }
            // Its subscriptions have ended, or are to end.
            Some(Listening::Unsubscribing { .. } | Listening::Shared { .. }) => true,
            _ => false,
        }
    }

    /// Called before a request is examined, if the client may have changed its session.
    pub(super) fn check_listening(&mut self, session: &mut ClientSession) -> Consumed {
        match self.listening.as_deref() {
            None | Some(Listening::Waiting { .. } | Listening::Subscribing { .. }) => Ok(()),
            Some(Listening::Shared { .. }) => self.return_if_needed(session),
            Some(Listening::Returning(_)) => self.finish_return(session),
            // The request must not come between these steps.
            Some(
                Listening::Founding(_)
                | Listening::Founded { .. }
                | Listening::Joining(_)
                | Listening::Leaving { .. }
                | Listening::Unsubscribing { .. },
            ) => Err(NotConsumed::AwaitAnswer),
        }
    }
}

impl ClientSession {
    /// True while a statement of the client exists only on its server.
    fn has_private_statement(&self) -> bool {
        self.has_private || self.unnamed.as_ref().is_some_and(|text| text.body().is_none())
    }

    /// The client keeps its server, which is subscribed to its channels again.
    pub(super) fn keep_for_channels(&self) {
        let mut pins = self.info.pins();
        pins.add(listen_only());
        self.info.set_pins(pins, || Pin { since: worker::now(), statement: Box::default() });
        self.record_kept();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_read_from_quoted_names() {
        let read = |text: &str, encoding| {
            let channels = channels_of(Some(vec![Some(text.to_owned())]), Some(encoding))?;
            Some(channels.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect::<Vec<_>>())
        };
        assert_eq!(read(r#""a","b ""c"",","é""#, "UTF8").unwrap(), ["a", "b \"c\",", "é"]);
        assert_eq!(read(r#""a""#, "LATIN1").unwrap(), ["a"]);
        assert_eq!(read(r#""é""#, "LATIN1"), None, "its bytes are not known");
        assert_eq!(read(r#""a","b"#, "UTF8"), None, "cut off");
        let marks = r#""iambouncer_0123456789abcdef0123456789abcdef""#;
        assert_eq!(read(&format!(r#"{marks},"a""#), "UTF8").unwrap(), ["a"]);
        assert_eq!(read(marks, "UTF8"), None, "no channel of the client");
        assert_eq!(channels_of(Some(vec![None]), Some("UTF8")), None);
    }
}
