//! The answers a server still owes, in order, and what to do with each. Owns the queue and the rules by which an
//! answer ends an entry; it never sees the bytes.
//!
//! Rules: manual, "Extended Query" and "COPY Operations". After an error the server reads and discards messages
//! until a Sync, so the entries up to that Sync vanish and take back what they had written down.

use super::statement::Statement;
use std::collections::VecDeque;
use std::rc::Rc;
use wire::tag::backend;

/// What happens to the answer when it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The client asked for it.
    Forward,
    /// We asked for it: swallow.
    Skip,
    /// Nobody asked the server: make it up when its turn comes.
    Fake,
}

/// What was written down too early if this answer turns out to be an error.
#[derive(Default)]
pub enum Undo {
    /// Nothing.
    #[default]
    None,
    /// A client's name meant this before.
    Name(Box<[u8]>, Option<Rc<Statement>>),
    /// The server does not have it after all.
    Prepared(u64),
    /// Both of a client's Parse that went to the server: name, what it meant, and the statement's id.
    NameAndPrepared(Box<[u8]>, Option<Rc<Statement>>, u64),
    /// The server still has it after all.
    Closed(Rc<Statement>),
}

/// One answer owed.
pub enum Expected {
    /// Simple query: everything up to ReadyForQuery.
    Query,
    /// The same, and it may make the server forget prepared statements (DISCARD, DEALLOCATE).
    ForgetfulQuery,
    /// Function call: the same.
    FunctionCall,
    /// Our own simple query: everything up to ReadyForQuery is swallowed.
    OwnQuery,
    /// ReadyForQuery.
    Sync,
    /// ParseComplete.
    Parse(Answer, Undo),
    /// BindComplete.
    Bind,
    /// RowDescription or NoData, for a statement after a ParameterDescription.
    Describe,
    /// CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute,
    /// CloseComplete.
    Close(Answer, Undo),
    /// Not an answer: marks where the client ended a COPY, which matters only if the server was in one.
    CopyEnd,
}

impl Expected {
    /// True for entries that end with ReadyForQuery.
    fn is_ready(&self) -> bool {
        matches!(self, Self::Query | Self::ForgetfulQuery | Self::FunctionCall | Self::OwnQuery | Self::Sync)
    }

    fn has_undo(&self) -> bool {
        match self {
            Self::Parse(_, undo) | Self::Close(_, undo) => !matches!(undo, Undo::None),
            _ => false,
        }
    }
}

/// The queue of one link between a client and a server.
#[derive(Default)]
pub struct ExpectedAnswers {
    queue: VecDeque<Expected>,
    /// The server reads COPY data: it ignores Flush and Sync until the client ends the COPY.
    copy_in: bool,
    /// Messages of the extended protocol were sent that no Sync has ended yet.
    batch_open: bool,
    /// The server discards everything up to the next Sync, and so do we.
    skip_to_sync: bool,
    /// Entries with an undo that a Sync, or a query, already stands behind.
    sealed_undos: usize,
    /// Entries of [`Expected::ForgetfulQuery`].
    forgetful: usize,
}

impl ExpectedAnswers {
    /// Nothing is owed and nothing half done: the server can be let go once it says that it is idle.
    #[inline]
    pub fn is_settled(&self) -> bool {
        self.queue.is_empty() && !self.batch_open && !self.skip_to_sync
    }

    /// As a queue that has never been used: another link can go on with it.
    #[inline]
    pub fn is_fresh(&self) -> bool {
        self.is_settled() && !self.copy_in && self.sealed_undos == 0 && self.forgetful == 0
    }

    /// No answer is owed.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The server, and so we, discard everything up to the next Sync.
    #[inline]
    pub fn skips_to_sync(&self) -> bool {
        self.skip_to_sync
    }

    /// What clients and servers are written down to have may still be taken back by an answer that is owed to an
    /// earlier batch: a message that builds on it has to wait.
    #[inline]
    pub fn names_unsettled(&self) -> bool {
        self.sealed_undos > 0 || self.forgetful > 0
    }

    /// An answer that carries an undo is owed.
    pub fn has_undos(&self) -> bool {
        self.queue.iter().any(Expected::has_undo)
    }

    /// Number of answers owed.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Adds an answer. A Sync sent into a COPY gets none.
    #[inline]
    pub fn push(&mut self, expected: Expected) {
        match expected {
            Expected::Sync if self.copy_in => return,
            Expected::CopyEnd => {
                if self.copy_in {
                    self.copy_in = false;
                    return;
                }
                if self.queue.is_empty() {
                    return;
                }
            }
            Expected::Sync | Expected::Query | Expected::ForgetfulQuery | Expected::FunctionCall => {
                self.batch_open = false;
                self.skip_to_sync = false;
                self.sealed_undos = self.queue.iter().filter(|entry| entry.has_undo()).count();
                self.forgetful += usize::from(matches!(expected, Expected::ForgetfulQuery));
            }
            Expected::OwnQuery => {}
            _ => self.batch_open = true,
        }
        self.queue.push_back(expected);
    }

    fn pop(&mut self) -> Option<Expected> {
        let entry = self.queue.pop_front()?;
        if entry.has_undo() {
            self.sealed_undos = self.sealed_undos.saturating_sub(1);
        }
        self.forgetful -= usize::from(matches!(entry, Expected::ForgetfulQuery));
        Some(entry)
    }

    /// True when what comes now belongs to a query of ours.
    #[inline]
    pub fn is_own(&self) -> bool {
        matches!(self.queue.front(), Some(Expected::OwnQuery))
    }

    /// A message of the server that is no error and not ReadyForQuery: what to do with it, after the entry that it
    /// ends has left. Answers nobody expects are forwarded: the next ReadyForQuery puts all right.
    #[inline]
    pub fn answer(&mut self, tag: u8) -> Answer {
        let (ends, answer) = match (self.queue.front(), tag) {
            (Some(Expected::OwnQuery), _) => (false, Answer::Skip),
            (Some(&Expected::Parse(answer, _)), backend::PARSE_COMPLETE) => (true, answer),
            (Some(Expected::Bind), backend::BIND_COMPLETE) => (true, Answer::Forward),
            (Some(&Expected::Close(answer, _)), backend::CLOSE_COMPLETE) => (true, answer),
            (Some(Expected::Describe), backend::ROW_DESCRIPTION | backend::NO_DATA) => {
                (true, Answer::Forward)
            }
            (
                Some(Expected::Execute),
                backend::COMMAND_COMPLETE | backend::EMPTY_QUERY_RESPONSE | backend::PORTAL_SUSPENDED,
            ) => (true, Answer::Forward),
            (
                Some(Expected::Execute | Expected::Query | Expected::ForgetfulQuery),
                backend::COPY_IN_RESPONSE,
            ) => {
                self.enter_copy_in();
                (false, Answer::Forward)
            }
            _ => (false, Answer::Forward),
        };
        if ends {
            self.pop();
        }
        answer
    }

    /// The server ignores what was sent as Sync before the end of the COPY.
    fn enter_copy_in(&mut self) {
        let mut at = 1;
        let mut swallowed = false;
        self.copy_in = true;
        while let Some(entry) = self.queue.get(at) {
            match entry {
                Expected::Sync => {
                    self.queue.remove(at);
                    swallowed = true;
                }
                Expected::CopyEnd => {
                    self.queue.remove(at);
                    self.copy_in = false;
                    break;
                }
                _ => at += 1,
            }
        }
        // The Sync that was to end the batch has not: only one behind the COPY will.
        if swallowed && !self.queue.iter().any(|entry| matches!(entry, Expected::Sync)) {
            self.batch_open = true;
        }
    }

    /// ReadyForQuery came. True when it answers a query of ours.
    #[inline]
    pub fn ready(&mut self) -> bool {
        self.copy_in = false;
        self.skip_to_sync = false;
        while let Some(entry) = self.pop() {
            if entry.is_ready() {
                return matches!(entry, Expected::OwnQuery);
            }
        }
        false
    }

    /// An error came. Calls `undo` for every entry that vanishes, last one first. If no Sync has been sent yet,
    /// everything up to the next one is discarded from now on.
    pub fn error(&mut self, mut undo: impl FnMut(Undo)) {
        self.copy_in = false;
        match self.queue.front() {
            None => return,
            Some(entry) if entry.is_ready() => return,
            _ => {}
        }
        let sync = self.queue.iter().position(|entry| matches!(entry, Expected::Sync));
        let count = sync.unwrap_or(self.queue.len());
        let vanished: Vec<Expected> = (0..count).filter_map(|_| self.pop()).collect();
        for entry in vanished.into_iter().rev() {
            if let Expected::Parse(_, taken_back) | Expected::Close(_, taken_back) = entry {
                undo(taken_back);
            }
        }
        self.skip_to_sync = sync.is_none();
    }

    /// True when [`ExpectedAnswers::due_fake`] has something to take. Hardly ever, and asked at every message.
    #[inline]
    pub fn is_fake_due(&self) -> bool {
        matches!(
            self.queue.front(),
            Some(Expected::Parse(Answer::Fake, _) | Expected::Close(Answer::Fake, _) | Expected::CopyEnd)
        )
    }

    /// Takes the made-up answer that is due now, if any: the tag of the message to send.
    pub fn due_fake(&mut self) -> Option<u8> {
        loop {
            let tag = match self.queue.front()? {
                Expected::Parse(Answer::Fake, _) => Some(backend::PARSE_COMPLETE),
                Expected::Close(Answer::Fake, _) => Some(backend::CLOSE_COMPLETE),
                // At the front it marks the end of a COPY that was never begun.
                Expected::CopyEnd => None,
                _ => return None,
            };
            self.pop();
            if tag.is_some() {
                return tag;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn undone(queue: &mut ExpectedAnswers) -> (Vec<u64>, bool) {
        let mut ids = Vec::new();
        queue.error(|undo| {
            if let Undo::Prepared(id) = undo {
                ids.push(id);
            }
        });
        (ids, queue.skips_to_sync())
    }

    #[test]
    fn an_injected_parse_is_swallowed_and_a_known_one_made_up() {
        let mut queue = ExpectedAnswers::default();
        queue.push(Expected::Parse(Answer::Skip, Undo::None));
        queue.push(Expected::Bind);
        queue.push(Expected::Execute);
        queue.push(Expected::Parse(Answer::Fake, Undo::None));
        queue.push(Expected::Sync);
        assert_eq!(queue.due_fake(), None);
        assert_eq!(queue.answer(b'1'), Answer::Skip);
        assert_eq!(queue.answer(b'2'), Answer::Forward);
        assert_eq!(queue.answer(b'C'), Answer::Forward);
        assert_eq!(queue.due_fake(), Some(b'1'));
        assert!(!queue.ready());
        assert!(queue.is_empty());
    }

    #[test]
    fn an_error_takes_back_up_to_the_sync_last_first() {
        let mut queue = ExpectedAnswers::default();
        queue.push(Expected::Parse(Answer::Forward, Undo::Prepared(1)));
        queue.push(Expected::Parse(Answer::Forward, Undo::Prepared(2)));
        queue.push(Expected::Sync);
        queue.push(Expected::Parse(Answer::Forward, Undo::Prepared(3)));
        queue.push(Expected::Sync);
        assert_eq!(undone(&mut queue), (vec![2, 1], false));
        assert!(!queue.ready());
        assert_eq!(queue.answer(b'1'), Answer::Forward);
        assert!(!queue.ready());
        assert!(queue.is_empty());
    }

    #[test]
    fn an_error_before_the_sync_is_sent_leaves_nothing_owed() {
        let mut queue = ExpectedAnswers::default();
        queue.push(Expected::Bind);
        queue.push(Expected::Query);
        assert_eq!(undone(&mut queue), (vec![], true));
        assert!(queue.is_empty());
    }

    #[test]
    fn a_sync_sent_before_copy_in_is_never_answered() {
        let mut queue = ExpectedAnswers::default();
        queue.push(Expected::Bind);
        queue.push(Expected::Execute);
        queue.push(Expected::Sync);
        queue.answer(b'2');
        queue.answer(b'G');
        queue.push(Expected::CopyEnd);
        queue.push(Expected::Sync);
        assert_eq!(queue.len(), 2);
        queue.answer(b'C');
        queue.ready();
        assert!(queue.is_empty());
    }

    #[test]
    fn a_failed_extended_copy_leaves_the_server_skipping_until_the_next_sync() {
        let mut queue = ExpectedAnswers::default();
        for expected in [Expected::Bind, Expected::Execute, Expected::Sync] {
            queue.push(expected);
        }
        queue.answer(b'2');
        queue.answer(b'G');
        assert_eq!(undone(&mut queue), (vec![], true));
        assert!(queue.is_empty() && !queue.is_settled());
        queue.push(Expected::Sync);
        assert!(!queue.ready());
        assert!(queue.is_settled());
    }

    #[test]
    fn a_copy_whose_sync_was_swallowed_is_an_open_batch() {
        let mut queue = ExpectedAnswers::default();
        for expected in [Expected::Execute, Expected::Sync] {
            queue.push(expected);
        }
        queue.answer(b'G');
        queue.push(Expected::CopyEnd);
        queue.answer(b'C');
        assert!(queue.is_empty() && !queue.is_settled());
    }

    #[test]
    fn names_are_unsettled_while_an_earlier_batch_may_take_them_back() {
        let mut queue = ExpectedAnswers::default();
        queue.push(Expected::Parse(Answer::Forward, Undo::Prepared(1)));
        assert!(!queue.names_unsettled());
        queue.push(Expected::Sync);
        assert!(queue.names_unsettled());
        queue.answer(b'1');
        assert!(!queue.names_unsettled());
        queue.ready();
        queue.push(Expected::ForgetfulQuery);
        assert!(queue.names_unsettled());
        queue.ready();
        assert!(!queue.names_unsettled());
    }

    #[test]
    fn a_copy_sent_in_one_go_is_counted_right() {
        let mut queue = ExpectedAnswers::default();
        for expected in [Expected::Execute, Expected::Sync, Expected::CopyEnd, Expected::Sync] {
            queue.push(expected);
        }
        queue.answer(b'G');
        assert_eq!(queue.len(), 2);
    }

    #[test]
    fn a_failed_simple_query_owes_its_ready_for_query_only() {
        let mut queue = ExpectedAnswers::default();
        queue.push(Expected::Query);
        queue.push(Expected::Query);
        assert_eq!(undone(&mut queue), (vec![], false));
        assert!(!queue.ready());
        assert_eq!(queue.len(), 1);
    }
}
