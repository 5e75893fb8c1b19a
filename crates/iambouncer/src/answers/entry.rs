//! One entry of the queue: an expected answer, and the change of state that depends on it.

use crate::prepared::{Statement, Unnamed};
use sql::Features;
use std::rc::Rc;
use wire::encode;
use wire::tag::backend;

/// What happens to the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The client requested it.
    Forward,
    /// The pooler requested it: it is discarded.
    Skip,
}

/// Messages of the pooler. Boxed, so that the rare entry with messages does not make all others larger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalMessages(Vec<u8>);

/// An answer that the pooler gives itself, in its place among those of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalAnswer {
    /// ParseComplete.
    ParseComplete,
    /// CloseComplete.
    CloseComplete,
    /// These messages, which belong to no batch of the server.
    Messages(Box<LocalMessages>),
}

impl LocalAnswer {
    /// The answer that consists of these messages.
    pub fn messages(bytes: Vec<u8>) -> Self {
        Self::Messages(Box::new(LocalMessages(bytes)))
    }

    /// Appends the messages.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::ParseComplete => encode::empty(out, backend::PARSE_COMPLETE),
            Self::CloseComplete => encode::empty(out, backend::CLOSE_COMPLETE),
            Self::Messages(messages) => out.extend_from_slice(&messages.0),
        }
    }
}

/// A name of the client and its previous meaning.
pub struct NameChange {
    /// The name.
    pub name: Box<[u8]>,
    /// The statement with that name before, if any.
    pub before: Option<Rc<Statement>>,
    /// The statement that is prepared on the server with it, or 0.
    pub prepared: u64,
}

/// Why the pooler refuses a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalReason {
    /// The client would keep its server for these features.
    Pins(Features),
    /// The statement does not have the result any more that was described to the client.
    ChangedResult,
}

/// A change of state that depends on an answer: the answer commits it, an error rolls it back. Most changes are recorded
/// when the message is sent and only have to be rolled back. Small, because every entry has room for it.
#[derive(Default)]
pub enum StateChange {
    /// Nothing.
    #[default]
    None,
    /// A name of the client has another meaning; the server may not have the statement.
    Name(Box<NameChange>),
    /// The server has the statement.
    Prepared(u64),
    /// The server no longer has the statement.
    Closed(Rc<Statement>),
    /// The client has another unnamed statement than this one; the server's is unknown after an error.
    Unnamed(Unnamed),
    /// The server's unnamed statement is the client's.
    ServerUnnamed,
    /// Nothing, but an error mentions this statement of the client.
    Duplicate(Box<NameChange>),
    /// The server has the client's parameters, once it has accepted them.
    Parameters,
    /// Nothing, but the message was replaced by one that fails.
    Refused(RefusalReason),
}

/// Why a [`StateChange`] is rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rollback {
    /// The error is the answer to the message that caused the change; otherwise that message was skipped.
    pub is_front: bool,
    /// No later message changes the same name.
    pub is_last_change: bool,
}

impl StateChange {
    /// For a name that changes together with a statement that is prepared on the server, or 0.
    pub fn name(name: Box<[u8]>, before: Option<Rc<Statement>>, prepared: u64) -> Self {
        Self::Name(Box::new(NameChange { name, before, prepared }))
    }

    /// For a name that does not change.
    pub fn duplicate(name: Box<[u8]>) -> Self {
        Self::Duplicate(Box::new(NameChange { name, before: None, prepared: 0 }))
    }

    /// True for no change.
    #[inline]
    pub(super) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// True for changes on which later messages may depend.
    #[inline]
    pub(super) fn is_tracked(&self) -> bool {
        !matches!(self, Self::None | Self::Duplicate(_) | Self::Parameters | Self::Refused(_))
    }

    /// The client's name that changes; empty for the unnamed statement.
    pub(super) fn changed_name(&self) -> Option<&[u8]> {
        match self {
            Self::Name(renamed) => Some(&renamed.name),
            Self::Unnamed(_) | Self::ServerUnnamed => Some(b""),
            Self::None
            | Self::Prepared(_)
            | Self::Closed(_)
            | Self::Duplicate(_)
            | Self::Parameters
            | Self::Refused(_) => None,
        }
    }

    /// The statement that is prepared or closed on the server.
    pub(super) fn statement_id(&self) -> Option<u64> {
        match self {
            Self::Name(renamed) if renamed.prepared > 0 => Some(renamed.prepared),
            Self::Prepared(id) => Some(*id),
            Self::Closed(statement) => Some(statement.id),
            _ => None,
        }
    }
}

/// An entry of the queue.
pub struct Expectation {
    pub(super) answer: ExpectedAnswer,
    pub(super) change: StateChange,
}

impl From<ExpectedAnswer> for Expectation {
    #[inline]
    fn from(answer: ExpectedAnswer) -> Self {
        Self { answer, change: StateChange::None }
    }
}

impl Expectation {
    /// True if dropping it does nothing, as for nearly all.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        self.change.is_none() && !matches!(self.answer, ExpectedAnswer::Local(_))
    }

    /// The name that an unanswered Parse assigns to a statement, if any.
    pub(super) fn assigned_name(&self) -> Option<&[u8]> {
        let is_parse = matches!(
            self.answer,
            ExpectedAnswer::Parse(_) | ExpectedAnswer::Local(LocalAnswer::ParseComplete)
        );
        self.change.changed_name().filter(|name| is_parse && !name.is_empty())
    }
}

/// An answer that the client or the pooler expects.
pub enum ExpectedAnswer {
    /// Simple query: everything up to ReadyForQuery. `deallocates`: it may drop prepared statements.
    Query {
        /// Its text begins with DISCARD or DEALLOCATE.
        deallocates: bool,
    },
    /// Function call: everything up to ReadyForQuery.
    FunctionCall,
    /// An internal query: everything up to ReadyForQuery is discarded.
    InternalQuery,
    /// ReadyForQuery. [`Answer::Skip`] for a Sync of the pooler.
    Sync(Answer),
    /// A client's Sync that is held until the preceding COPY has been answered.
    HeldSync {
        /// COPY data was sent before it.
        after_data: bool,
    },
    /// ParseComplete.
    Parse(Answer),
    /// ParseComplete, discarded, for a statement that the server turned out not to have.
    Reprepare(u64),
    /// BindComplete; the shared statement it names, or 0.
    Bind(u64),
    /// RowDescription or NoData, after a ParameterDescription for a statement; the shared statement it names, or 0.
    Describe(u64),
    /// The same, discarded, for a statement whose description the pooler compares.
    Inspect(u64),
    /// CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute {
        /// It may read COPY data.
        copies: bool,
        /// It may drop prepared statements.
        deallocates: bool,
    },
    /// CloseComplete.
    Close(Answer),
    /// Nothing: the pooler answers when the entry reaches the front.
    Local(LocalAnswer),
    /// No answer: marks where the client ended a COPY; only relevant if the server reads one.
    CopyEnd,
}

impl ExpectedAnswer {
    /// The same with a change that depends on it.
    #[inline]
    pub fn with(self, change: StateChange) -> Expectation {
        Expectation { answer: self, change }
    }

    /// A simple query that does not drop prepared statements.
    #[cfg(test)]
    pub const QUERY: Self = Self::Query { deallocates: false };
    /// A client's Sync.
    pub const SYNC: Self = Self::Sync(Answer::Forward);
    /// An Execute that neither copies nor drops prepared statements.
    #[cfg(test)]
    pub const EXECUTE: Self = Self::Execute { copies: false, deallocates: false };

    /// True for entries that end with ReadyForQuery.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self, Self::Query { .. } | Self::FunctionCall | Self::InternalQuery | Self::Sync(_))
    }

    #[inline]
    pub(super) fn deallocates(&self) -> bool {
        matches!(self, Self::Query { deallocates: true } | Self::Execute { deallocates: true, .. })
    }

    /// The message it answers, for the log.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::Query { .. } => "Query",
            Self::FunctionCall => "FunctionCall",
            Self::InternalQuery => "Query of the pooler",
            Self::Sync(_) => "Sync",
            Self::HeldSync { .. } => "Sync (held)",
            Self::Parse(_) | Self::Reprepare(_) | Self::Local(LocalAnswer::ParseComplete) => "Parse",
            Self::Bind(_) => "Bind",
            Self::Describe(_) => "Describe",
            Self::Inspect(_) => "Describe of the pooler",
            Self::Execute { .. } => "Execute",
            Self::Close(_) | Self::Local(LocalAnswer::CloseComplete) => "Close",
            Self::Local(LocalAnswer::Messages(_)) => "a refused request",
            Self::CopyEnd => "CopyDone",
        }
    }
}
