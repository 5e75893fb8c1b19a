//! What a client may have changed on its server and the pooler has not read back yet. Owns this record; the queries are in
//! [`super::read_state`].

use crate::parameters::ParameterId;
use wire::backend::TxStatus;

/// Maximum number of settings of one client that are followed; with more, it keeps its server.
pub(super) const MAX_SETTINGS: usize = 256;

/// How often the server is asked again after an error, such as that of a cancel request.
const MAX_REFUSALS: u32 = 3;

/// What may have changed since the server was linked, or since it was last asked. It exists once a statement was sent that
/// changes the session.
#[derive(Debug, Default)]
pub(super) struct UnreadState {
    /// Settings that may have other values.
    pub(super) settings: Vec<ParameterId>,
    /// Whether the server still has what makes the client keep it.
    pub(super) probe: bool,
    /// What the current request resets, once it has reported so.
    pub(super) resets: Resets,
    /// The request that resets them has been sent to its end.
    pub(super) is_reset_executed: bool,
    /// It has reported a SET or RESET.
    pub(super) has_set: bool,
    /// It has reported a DISCARD ALL.
    pub(super) has_discarded: bool,
    /// How often the server has refused to be asked.
    pub(super) refusals: u32,
    /// The pooler's query that is under way.
    pub(super) query: StateQuery,
}

/// Settings that a request resets, which gives them the values of the server's login.
#[derive(Debug, Default)]
pub(super) enum Resets {
    /// None.
    #[default]
    None,
    /// These.
    These(Vec<ParameterId>),
    /// RESET ALL or DISCARD ALL.
    All {
        /// Those that were set behind it.
        except: Vec<ParameterId>,
        /// DISCARD ALL, which also resets the role and the session authorization.
        discards: bool,
    },
}

impl Resets {
    pub(super) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// A setting is set behind the resets.
    pub(super) fn remove(&mut self, id: ParameterId) {
        match self {
            Self::None => {}
            Self::These(ids) => ids.retain(|known| *known != id),
            Self::All { except, .. } if !except.contains(&id) => except.push(id),
            Self::All { .. } => {}
        }
    }

    /// True if this setting is one of them.
    pub(super) fn contains(&self, id: ParameterId) -> bool {
        match self {
            Self::None => false,
            Self::These(ids) => ids.contains(&id),
            Self::All { except, .. } => !except.contains(&id),
        }
    }
}

/// A query of the pooler about the state of the session.
#[derive(Debug, Default)]
pub(super) enum StateQuery {
    /// None.
    #[default]
    None,
    /// Sets the client's own startup values again. The client receives its ReadyForQuery behind it.
    Restore(TxStatus),
    /// Asks for state and for the values of settings.
    Read {
        /// The columns of the probes are present.
        probes: bool,
        /// The columns about the rights to change these settings are present.
        rights: bool,
        /// In the order of the columns.
        settings: Vec<ParameterId>,
        /// The answer.
        row: Option<Vec<Option<String>>>,
    },
    /// A step of the shared listener.
    Listening {
        /// The first row of the answer.
        row: Option<Vec<Option<String>>>,
    },
    /// Asks for the whole state, to compare it with what is recorded.
    Verify {
        /// In the order of the columns.
        settings: Vec<ParameterId>,
        /// The answer.
        row: Option<Vec<Option<String>>>,
    },
}

impl UnreadState {
    /// Adds a setting. False if there are too many.
    pub(super) fn add(&mut self, id: ParameterId) -> bool {
        if self.settings.contains(&id) {
            return true;
        }
        if self.settings.len() >= MAX_SETTINGS {
            return false;
        }
        self.settings.push(id);
        true
    }

    /// The server has refused to be asked about these. True if it is asked again.
    pub(super) fn asks_again(&mut self, probes: bool, settings: &[ParameterId]) -> bool {
        self.refusals += 1;
        self.probe |= probes;
        self.refusals <= MAX_REFUSALS && settings.iter().all(|id| self.add(*id))
    }

    /// The current request has failed, and what it has reset is rolled back. A DISCARD ALL that has succeeded before, in
    /// the same batch, is not.
    pub(super) fn request_failed(&mut self) {
        if !self.has_discarded {
            self.resets = Resets::None;
        }
    }

    /// True if the server has to be asked before another client gets it.
    pub(super) fn needs_query(&self) -> bool {
        self.probe || !self.settings.is_empty()
    }
}
