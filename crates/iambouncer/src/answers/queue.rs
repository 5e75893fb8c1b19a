//! The queue itself: what is pushed when a message is sent, and what an answer changes.

use super::entry::{Answer, Expectation, ExpectedAnswer, LocalAnswer, Rollback, StateChange};
use super::unsettled::PendingChanges;
use std::collections::VecDeque;
use std::fmt;
use wire::tag::backend;

/// Why a server message cannot be an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MismatchCause {
    /// No request expects a message of this type.
    Unexpected(u8),
    /// A COPY completed before its end was sent.
    CopyNotEnded,
}

/// The server sent a message that no request explains: it is out of step, and none of its answers can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mismatch {
    /// The cause.
    pub cause: MismatchCause,
    /// The message whose answer was expected next.
    pub expecting: &'static str,
    /// Answers owed.
    pub owed: usize,
    /// The server was reading COPY data.
    pub copying: bool,
    /// The server was skipping to the next Sync.
    pub skipping: bool,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause {
            MismatchCause::Unexpected(tag) => {
                write!(f, "message type \"{}\"", char::from(tag).escape_default())?
            }
            MismatchCause::CopyNotEnded => write!(f, "COPY completion before the end of its data was sent")?,
        }
        write!(f, " while expecting the answer to {} ({} owed", self.expecting, self.owed)?;
        if self.copying {
            f.write_str(", reading COPY data")?;
        }
        if self.skipping {
            f.write_str(", skipping to Sync")?;
        }
        f.write_str(")")
    }
}

/// The owner of a ReadyForQuery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// The client.
    Client,
    /// An internal query.
    InternalQuery,
    /// A Sync of the pooler.
    InternalSync,
}

/// What would precede a Sync sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Tail {
    /// Nothing that reads COPY data.
    #[default]
    Other,
    /// A simple query, which may contain several COPYs.
    Query,
    /// An Execute that may read COPY data.
    Copy,
}

/// Longer queues are not checked in debug builds, since that would be quadratic.
#[cfg(debug_assertions)]
const MAX_CHECKED: usize = 64;

/// The queue of one link between a client and a server.
#[derive(Default)]
pub struct ExpectedAnswers {
    pub(super) queue: VecDeque<Expectation>,
    /// The last entry that is neither a held Sync nor the end of a COPY.
    pub(super) tail: Tail,
    /// The front entry reads COPY data.
    pub(super) copying: bool,
    /// The server has completed a command, or failed, since this was last cleared.
    command_ended: bool,
    /// COPY data was sent after the last entry that may read it.
    pub(super) data_sent: bool,
    /// Number of [`ExpectedAnswer::HeldSync`] entries. None of them is ever at the front, where they are released.
    pub(super) held_syncs: usize,
    /// Held Syncs that have to be sent now.
    pub(super) due_syncs: usize,
    /// Messages of the extended protocol were sent without a Sync yet.
    pub(super) batch_open: bool,
    /// One of them went to the server; messages answered by the pooler do not count.
    pub(super) batch_sent: bool,
    /// The server discards everything up to the next Sync, and so does the pooler.
    pub(super) skip_to_sync: bool,
    /// Names and statements changed by unanswered messages.
    pub(super) unsettled: PendingChanges,
    /// Entries that may drop prepared statements.
    deallocating: usize,
}

impl ExpectedAnswers {
    /// True if no answer is owed and no batch is open: the server can be released once it reports that it is idle.
    #[inline]
    pub fn is_settled(&self) -> bool {
        self.queue.is_empty() && !self.batch_open && !self.skip_to_sync
    }

    /// True if the queue is in its initial state, so that another link can use it.
    #[inline]
    pub fn is_fresh(&self) -> bool {
        self.is_settled() && !self.copying && self.unsettled.is_empty()
    }

    /// True if no answer is owed.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// True if the server, and so the pooler, discards everything up to the next Sync.
    #[inline]
    pub fn skips_to_sync(&self) -> bool {
        self.skip_to_sync
    }

    /// True in a batch of the extended protocol without a Sync yet.
    #[inline]
    pub fn is_batch_open(&self) -> bool {
        self.batch_open
    }

    /// True if the next push is the first message of a batch that goes to the server, and no other answer is owed.
    #[inline]
    pub fn begins_batch(&self) -> bool {
        !self.batch_sent && (self.queue.is_empty() || (self.queue.len() == 1 && self.is_local_due()))
    }

    /// True if the server has completed a command, or failed, since [`ExpectedAnswers::await_command`].
    pub fn has_command_ended(&self) -> bool {
        self.command_ended
    }

    /// From now on, the end of a command is recorded.
    pub fn await_command(&mut self) {
        self.command_ended = false;
    }

    /// True if the command at the front is the last one before a ReadyForQuery.
    pub fn is_last_command(&self) -> bool {
        let ends_or_runs =
            |answer: &&ExpectedAnswer| answer.is_ready() || matches!(answer, ExpectedAnswer::Execute { .. });
        let mut later = self.queue.iter().skip(1).map(|entry| &entry.answer);
        self.front().is_some_and(ExpectedAnswer::is_ready)
            || matches!(later.find(ends_or_runs), Some(ExpectedAnswer::Sync(_)))
    }

    /// True if a ReadyForQuery is owed, which may change the transaction status.
    pub fn owes_ready(&self) -> bool {
        self.queue.iter().any(|entry| entry.answer.is_ready())
    }

    /// True if the server owes an answer. Requests that the pooler refuses are not timed.
    #[inline]
    pub fn owes_server_answer(&self) -> bool {
        !self.queue.is_empty() && self.has_server_answer()
    }

    #[inline(never)]
    fn has_server_answer(&self) -> bool {
        self.queue
            .iter()
            .any(|entry| !matches!(entry.answer, ExpectedAnswer::Local(LocalAnswer::Messages(_))))
    }

    /// Number of answers owed.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// True if an answer owed to an earlier batch may still change what this client name means. The unnamed statement
    /// has the empty name.
    #[inline]
    pub fn is_name_unsettled(&self, name: &[u8]) -> bool {
        self.deallocating > 0 || self.unsettled.has_name(name)
    }

    /// The same for whether the server has this shared statement.
    #[inline]
    pub fn is_statement_unsettled(&self, id: u64) -> bool {
        self.deallocating > 0 || self.unsettled.has_statement(id)
    }

    /// True if this applies to any name or statement.
    #[inline]
    pub fn is_anything_unsettled(&self) -> bool {
        self.deallocating > 0 || self.unsettled.any()
    }

    /// Names that later messages than the front one assign to statements.
    pub fn names_being_parsed(&self) -> impl Iterator<Item = &[u8]> {
        self.queue.iter().skip(1).filter_map(Expectation::assigned_name)
    }

    /// Statements that later messages than the front one prepare on the server.
    pub fn statements_being_prepared(&self) -> impl Iterator<Item = u64> {
        self.queue.iter().skip(1).filter_map(|entry| match entry.answer {
            ExpectedAnswer::Parse(_) => entry.change.statement_id(),
            ExpectedAnswer::Reprepare(id) => Some(id),
            _ => None,
        })
    }

    /// Adds an expected answer.
    #[inline]
    pub fn push(&mut self, expected: impl Into<Expectation>) {
        self.add(expected.into());
    }

    #[inline]
    pub(super) fn add(&mut self, expected: Expectation) {
        let Expectation { answer, change } = &expected;
        match answer {
            ExpectedAnswer::CopyEnd => {
                if self.queue.is_empty() {
                    // Outside a COPY the server ignores it.
                    return;
                }
                if self.tail == Tail::Copy {
                    self.tail = Tail::Other;
                }
            }
            ExpectedAnswer::HeldSync { .. } => self.held_syncs += 1,
            ExpectedAnswer::InternalQuery => self.tail = Tail::Other,
            ExpectedAnswer::Sync(_) | ExpectedAnswer::Query { .. } | ExpectedAnswer::FunctionCall => {
                self.batch_open = false;
                self.batch_sent = false;
                self.skip_to_sync = false;
                self.tail =
                    if matches!(answer, ExpectedAnswer::Query { .. }) { Tail::Query } else { Tail::Other };
                self.data_sent = false;
                self.unsettled.seal();
            }
            ExpectedAnswer::Local(LocalAnswer::Messages(_)) => {}
            ExpectedAnswer::Local(LocalAnswer::ParseComplete | LocalAnswer::CloseComplete) => {
                self.batch_open = true;
                self.tail = Tail::Other;
            }
            ExpectedAnswer::Execute { copies: true, .. } => {
                self.batch_open = true;
                self.batch_sent = true;
                self.tail = Tail::Copy;
                self.data_sent = false;
            }
            _ => {
                self.batch_open = true;
                self.batch_sent = true;
                self.tail = Tail::Other;
            }
        }
        if change.is_tracked() {
            self.unsettled.push(change);
        }
        self.deallocating += usize::from(answer.deallocates());
        self.queue.push_back(expected);
        self.check();
    }

    /// Checks invariants in debug builds: the counters match the entries, and no held Sync is at the front.
    #[inline]
    fn check(&self) {
        #[cfg(debug_assertions)]
        if self.queue.len() <= MAX_CHECKED {
            let held = |entry: &&Expectation| matches!(entry.answer, ExpectedAnswer::HeldSync { .. });
            assert_eq!(self.held_syncs, self.queue.iter().filter(held).count());
            assert!(!self.queue.front().as_ref().is_some_and(held), "a held Sync must not be at the front");
            assert_eq!(
                self.deallocating,
                self.queue.iter().filter(|entry| entry.answer.deallocates()).count()
            );
        }
    }

    #[inline]
    pub(super) fn answer_at(&self, at: usize) -> Option<&ExpectedAnswer> {
        self.queue.get(at).map(|entry| &entry.answer)
    }

    #[inline]
    pub(super) fn front(&self) -> Option<&ExpectedAnswer> {
        self.queue.front().map(|entry| &entry.answer)
    }

    /// Removes the front entry, which is answered, and marks after it that have become meaningless.
    #[inline]
    fn complete_front(&mut self, commit: impl FnOnce(StateChange)) {
        match self.queue.pop_front() {
            Some(entry) if entry.is_plain() => {
                self.deallocating -= usize::from(entry.answer.deallocates());
                std::mem::forget(entry);
            }
            Some(entry) => commit(self.take_change(entry)),
            None => return,
        }
        match self.front() {
            None => self.tail = Tail::Other,
            Some(ExpectedAnswer::CopyEnd | ExpectedAnswer::HeldSync { .. }) => self.skip_marks(),
            Some(_) => {}
        }
        self.check();
    }

    /// The change of a removed entry that is not plain, or has failed.
    #[inline(never)]
    fn take_change(&mut self, entry: Expectation) -> StateChange {
        self.deallocating -= usize::from(entry.answer.deallocates());
        match entry.answer {
            ExpectedAnswer::Reprepare(id) => StateChange::Prepared(id),
            _ => self.settled(entry.change),
        }
    }

    /// The oldest change, on which no message has to wait any longer.
    fn settled(&mut self, change: StateChange) -> StateChange {
        if change.is_tracked() {
            self.unsettled.pop(&change);
        }
        change
    }

    #[inline(never)]
    fn skip_marks(&mut self) {
        while matches!(self.front(), Some(ExpectedAnswer::CopyEnd)) {
            self.queue.pop_front();
        }
        match self.front() {
            None => self.tail = Tail::Other,
            Some(ExpectedAnswer::HeldSync { .. }) => self.release_due_syncs(),
            Some(_) => {}
        }
    }

    pub(super) fn mismatch(&self, cause: MismatchCause) -> Mismatch {
        Mismatch {
            cause,
            expecting: self.front().map_or("nothing", ExpectedAnswer::describe),
            owed: self.queue.len(),
            copying: self.copying,
            skipping: self.skip_to_sync,
        }
    }

    /// The mismatch for a message that no request explains.
    pub fn unexpected(&self, tag: u8) -> Mismatch {
        self.mismatch(MismatchCause::Unexpected(tag))
    }

    /// True when the next message belongs to an internal query.
    #[inline]
    pub fn is_internal(&self) -> bool {
        matches!(self.front(), Some(ExpectedAnswer::InternalQuery))
    }

    /// True if no answer is owed to the client.
    pub fn owes_only_internal(&self) -> bool {
        self.queue.iter().all(|entry| matches!(entry.answer, ExpectedAnswer::InternalQuery))
    }

    /// The shared statement that the front message names, if it is a Bind or Describe.
    pub fn front_statement(&self) -> Option<u64> {
        match self.front() {
            Some(
                &(ExpectedAnswer::Bind(id) | ExpectedAnswer::Describe(id) | ExpectedAnswer::Inspect(id)),
            ) if id > 0 => Some(id),
            _ => None,
        }
    }

    /// The client's name of the statement that the front message parses.
    pub fn front_name(&self) -> Option<&[u8]> {
        match self.queue.front() {
            Some(Expectation {
                answer: ExpectedAnswer::Parse(_),
                change: StateChange::Duplicate(renamed) | StateChange::Name(renamed),
            }) => Some(&renamed.name),
            _ => None,
        }
    }

    /// The client's name of a shared statement that an unanswered message closes.
    pub fn closed_name(&self, id: u64) -> Option<&[u8]> {
        self.queue.iter().find_map(|entry| match &entry.change {
            StateChange::Name(renamed)
                if renamed.before.as_ref().is_some_and(|statement| statement.id == id) =>
            {
                Some(&*renamed.name)
            }
            _ => None,
        })
    }

    /// True if rows, COPY data or a function result may come now.
    #[inline]
    pub fn allows_rows(&self) -> bool {
        matches!(
            self.front(),
            Some(
                ExpectedAnswer::Query { .. }
                    | ExpectedAnswer::Execute { .. }
                    | ExpectedAnswer::FunctionCall
                    | ExpectedAnswer::InternalQuery
            )
        )
    }

    /// Processes a server message other than an error or ReadyForQuery. Returns what to do with it and removes the
    /// entry that it completes; `commit` gets the change that depended on it.
    ///
    /// # Errors
    /// No request expects it.
    #[inline]
    pub fn answer(&mut self, tag: u8, commit: impl FnOnce(StateChange)) -> Result<Answer, Mismatch> {
        let (ends, answer) = match (self.front(), tag) {
            (
                Some(ExpectedAnswer::Query { .. } | ExpectedAnswer::Execute { .. }),
                backend::COMMAND_COMPLETE,
            ) => {
                if self.copying {
                    self.end_copy_in()?;
                }
                self.command_ended = true;
                (matches!(self.front(), Some(ExpectedAnswer::Execute { .. })), Answer::Forward)
            }
            (
                Some(ExpectedAnswer::Query { .. }),
                backend::ROW_DESCRIPTION | backend::EMPTY_QUERY_RESPONSE | backend::COPY_OUT_RESPONSE,
            ) => (false, Answer::Forward),
            (
                Some(ExpectedAnswer::Execute { .. }),
                backend::EMPTY_QUERY_RESPONSE | backend::PORTAL_SUSPENDED,
            ) => (true, Answer::Forward),
            (Some(ExpectedAnswer::Execute { .. }), backend::COPY_OUT_RESPONSE) => (false, Answer::Forward),
            (
                Some(ExpectedAnswer::Query { .. } | ExpectedAnswer::Execute { .. }),
                backend::COPY_IN_RESPONSE,
            ) => {
                self.copying = true;
                (false, Answer::Forward)
            }
            (Some(&ExpectedAnswer::Parse(answer)), backend::PARSE_COMPLETE) => (true, answer),
            (Some(ExpectedAnswer::Reprepare(_)), backend::PARSE_COMPLETE) => (true, Answer::Skip),
            (Some(ExpectedAnswer::Bind(_)), backend::BIND_COMPLETE) => (true, Answer::Forward),
            (Some(&ExpectedAnswer::Close(answer)), backend::CLOSE_COMPLETE) => (true, answer),
            (Some(ExpectedAnswer::Describe(_)), backend::PARAMETER_DESCRIPTION) => (false, Answer::Forward),
            (Some(ExpectedAnswer::Describe(_)), backend::ROW_DESCRIPTION | backend::NO_DATA) => {
                (true, Answer::Forward)
            }
            (Some(ExpectedAnswer::Inspect(_)), backend::PARAMETER_DESCRIPTION) => (false, Answer::Skip),
            (Some(ExpectedAnswer::Inspect(_)), backend::ROW_DESCRIPTION | backend::NO_DATA) => {
                (true, Answer::Skip)
            }
            (
                Some(ExpectedAnswer::InternalQuery),
                backend::COMMAND_COMPLETE | backend::ROW_DESCRIPTION | backend::EMPTY_QUERY_RESPONSE,
            ) => (false, Answer::Skip),
            _ => return Err(self.mismatch(MismatchCause::Unexpected(tag))),
        };
        if ends {
            self.complete_front(commit);
        }
        Ok(answer)
    }

    /// Processes a ReadyForQuery. As [`ExpectedAnswers::answer`].
    ///
    /// # Errors
    /// No request expects it.
    #[inline]
    pub fn ready(&mut self, commit: impl FnOnce(StateChange)) -> Result<Ready, Mismatch> {
        let ready = match self.front() {
            Some(
                ExpectedAnswer::Query { .. }
                | ExpectedAnswer::FunctionCall
                | ExpectedAnswer::Sync(Answer::Forward),
            ) => Ready::Client,
            Some(ExpectedAnswer::InternalQuery) => Ready::InternalQuery,
            Some(ExpectedAnswer::Sync(_)) => Ready::InternalSync,
            _ => return Err(self.mismatch(MismatchCause::Unexpected(backend::READY_FOR_QUERY))),
        };
        self.copying = false;
        self.complete_front(commit);
        Ok(ready)
    }

    /// Processes an error that does not end the connection. `roll_back` gets the changes that will not happen, last one
    /// first. If no Sync has been sent yet, everything up to the next one is discarded from now on.
    ///
    /// # Errors
    /// No request expects an answer.
    pub fn error(&mut self, mut roll_back: impl FnMut(StateChange, Rollback)) -> Result<(), Mismatch> {
        if std::mem::take(&mut self.copying) {
            self.drop_ignored_syncs();
        }
        self.command_ended = true;
        match self.queue.front_mut() {
            None => return Err(self.mismatch(MismatchCause::Unexpected(backend::ERROR_RESPONSE))),
            // It is removed by its ReadyForQuery.
            Some(entry) if entry.answer.is_ready() => {
                let change = std::mem::take(&mut entry.change);
                roll_back(self.settled(change), Rollback { is_front: true, is_last_change: true });
                return Ok(());
            }
            _ => {}
        }
        let mut failed: Vec<StateChange> = Vec::new();
        // A held Sync is released when it reaches the front.
        while self.front().is_some_and(|answer| !matches!(answer, ExpectedAnswer::Sync(_))) {
            let Some(entry) = self.queue.pop_front() else { break };
            failed.push(self.take_change(entry));
            self.skip_marks();
        }
        let first = failed.len().saturating_sub(1);
        for (at, change) in failed.into_iter().rev().enumerate() {
            let is_last_change = change.changed_name().is_none_or(|name| !self.unsettled.changes(name));
            roll_back(change, Rollback { is_front: at == first, is_last_change });
        }
        self.skip_to_sync = self.queue.is_empty();
        Ok(())
    }

    /// The Bind or Describe at the front failed because the server does not have its statement, and the server now
    /// skips to the Sync. Expects the answers of the retry instead: those of a Sync, a Close and a Parse, then the same
    /// as before.
    pub fn retry(&mut self, id: u64) {
        for answer in [
            ExpectedAnswer::Reprepare(id),
            ExpectedAnswer::Close(Answer::Skip),
            ExpectedAnswer::Sync(Answer::Skip),
        ] {
            self.queue.push_front(answer.into());
        }
    }

    /// True when [`ExpectedAnswers::due_local`] would return an answer. Rarely true, but checked for every message.
    #[inline]
    pub fn is_local_due(&self) -> bool {
        matches!(self.front(), Some(ExpectedAnswer::Local(_)))
    }

    /// Takes the answer that the pooler has to give now, if any. `commit` gets the change that depended on it.
    pub fn due_local(&mut self, commit: impl FnOnce(StateChange)) -> Option<LocalAnswer> {
        let answer = match &mut self.queue.front_mut()?.answer {
            ExpectedAnswer::Local(answer) => std::mem::replace(answer, LocalAnswer::ParseComplete),
            _ => return None,
        };
        self.complete_front(commit);
        Some(answer)
    }
}
