//! The rules of a pool that are in force. Owns what is derived from the settings, which RELOAD and SET replace as a
//! whole.

use super::session_rules::SessionRules;
use crate::config::{Config, Database, PoolRules};
use std::cell::{Cell, Ref, RefCell};
use std::rc::Rc;

/// The rules in force for one pool.
pub(super) struct RulesInForce {
    pool: RefCell<PoolRules>,
    /// A new allocation after every RELOAD and SET.
    session: RefCell<Rc<SessionRules>>,
    /// `server_round_robin`.
    round_robin: Cell<bool>,
    /// `server_lifetime = 0`.
    uses_once: Cell<bool>,
}

impl RulesInForce {
    pub(super) fn new(config: &Config, line: &Database, user: &str) -> Self {
        let pool = config.pool_rules(line, user);
        Self {
            session: RefCell::new(Rc::new(SessionRules::new(config, &pool))),
            round_robin: Cell::new(config.settings.server_round_robin),
            uses_once: Cell::new(pool.server_lifetime.is_zero()),
            pool: RefCell::new(pool),
        }
    }

    /// Applies changed settings.
    pub(super) fn replace(&self, config: &Config, line: &Database, user: &str) {
        let new = Self::new(config, line, user);
        self.pool.swap(&new.pool);
        self.session.swap(&new.session);
        self.round_robin.swap(&new.round_robin);
        self.uses_once.swap(&new.uses_once);
    }

    /// Those of the pool.
    pub(super) fn current(&self) -> Ref<'_, PoolRules> {
        self.pool.borrow()
    }

    /// Passes the current rules of sessions.
    #[inline(always)]
    pub(super) fn with_session<T>(&self, look: impl FnOnce(&Rc<SessionRules>) -> T) -> T {
        look(&self.session.borrow())
    }

    /// The current rules of sessions, if they may differ from `known`.
    #[inline]
    pub(super) fn changed_session(&self, known: &Rc<SessionRules>) -> Option<Rc<SessionRules>> {
        let rules = self.session.borrow();
        (!Rc::ptr_eq(&rules, known)).then(|| rules.clone())
    }

    /// True if the server that has been idle longest is used first.
    #[inline]
    pub(super) fn uses_oldest_first(&self) -> bool {
        self.round_robin.get()
    }

    /// True if a server is closed after its first use.
    #[inline]
    pub(super) fn uses_once(&self) -> bool {
        self.uses_once.get()
    }
}
