//! One entry of the queue: an expected answer, and what has to be undone if it turns out to be an error.

use crate::prepared::{Statement, Unnamed};
use std::rc::Rc;

/// What happens to the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The client requested it.
    Forward,
    /// The pooler requested it: it is discarded.
    Skip,
    /// The server was not asked: it is synthesized when it is due.
    Fake,
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

/// What was recorded in advance and has to be undone if the answer is an error. Small, because every entry has room for
/// it.
#[derive(Default)]
pub enum Undo {
    /// Nothing.
    #[default]
    None,
    /// A name of the client had another meaning before, and the server may not have the statement.
    Name(Box<NameChange>),
    /// The server does not have the statement.
    Prepared(u64),
    /// The server still has the statement.
    Closed(Rc<Statement>),
    /// The client's previous unnamed statement; the server's is unknown.
    Unnamed(Unnamed),
    /// The server's unnamed statement is unknown.
    ServerUnnamed,
    /// Nothing, but the error mentions this statement of the client.
    Duplicate(Box<NameChange>),
}

impl Undo {
    /// For a name that changes together with a statement that is prepared on the server, or 0.
    pub fn name(name: Box<[u8]>, before: Option<Rc<Statement>>, prepared: u64) -> Self {
        Self::Name(Box::new(NameChange { name, before, prepared }))
    }

    /// For a name that does not change.
    pub fn duplicate(name: Box<[u8]>) -> Self {
        Self::Duplicate(Box::new(NameChange { name, before: None, prepared: 0 }))
    }

    /// The client's name that changes; empty for the unnamed statement.
    pub(super) fn changed_name(&self) -> Option<&[u8]> {
        match self {
            Self::Name(renamed) => Some(&renamed.name),
            Self::Unnamed(_) | Self::ServerUnnamed => Some(b""),
            Self::None | Self::Prepared(_) | Self::Closed(_) | Self::Duplicate(_) => None,
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

/// An answer that the server owes.
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
    Parse(Answer, Undo),
    /// ParseComplete, discarded, for a statement that the server turned out not to have.
    Reprepare(u64),
    /// BindComplete; the shared statement it names, or 0.
    Bind(u64),
    /// RowDescription or NoData, after a ParameterDescription for a statement; the shared statement it names, or 0.
    Describe(u64),
    /// CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute {
        /// It may read COPY data.
        copies: bool,
        /// It may drop prepared statements.
        deallocates: bool,
    },
    /// CloseComplete.
    Close(Answer, Undo),
    /// No answer: marks where the client ended a COPY; only relevant if the server reads one.
    CopyEnd,
}

impl ExpectedAnswer {
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

    /// True for entries that change neither a name nor a statement, which are nearly all.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        !matches!(self, Self::Parse(..) | Self::Close(..))
    }

    #[inline]
    pub(super) fn deallocates(&self) -> bool {
        matches!(self, Self::Query { deallocates: true } | Self::Execute { deallocates: true, .. })
    }

    pub(super) fn undo(&self) -> Option<&Undo> {
        match self {
            Self::Parse(_, undo) | Self::Close(_, undo)
                if !matches!(undo, Undo::None | Undo::Duplicate(_)) =>
            {
                Some(undo)
            }
            _ => None,
        }
    }

    /// The message it answers, for the log.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::Query { .. } => "Query",
            Self::FunctionCall => "FunctionCall",
            Self::InternalQuery => "Query of the pooler",
            Self::Sync(_) => "Sync",
            Self::HeldSync { .. } => "Sync (held)",
            Self::Parse(..) | Self::Reprepare(_) => "Parse",
            Self::Bind(_) => "Bind",
            Self::Describe(_) => "Describe",
            Self::Execute { .. } => "Execute",
            Self::Close(..) => "Close",
            Self::CopyEnd => "CopyDone",
        }
    }
}
