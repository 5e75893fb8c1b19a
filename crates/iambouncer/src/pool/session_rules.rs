//! Per-session rules derived from a pool's settings. Owns their derivation; sessions adopt changed rules when they have
//! no server.

use crate::config::{Config, PinRule, PoolMode, PoolRules, SessionState};

/// Rules in force for a session until it next releases a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionRules {
    /// Pool mode.
    pub mode: PoolMode,
    /// `max_prepared_statements`; 0 when statements are not tracked.
    pub max_prepared: u32,
    /// `max_packet_size`, bytes.
    pub max_message_bytes: u32,
    /// What a client has set follows it (`session_state = follow`). In session pooling it keeps its server instead.
    pub follows: bool,
    /// A client gets its server in its login, as with a direct connection (`session_state = follow` in session pooling).
    pub links_in_login: bool,
    /// Statements are read: a RESET returns to the values of the client's own startup packet.
    pub reads_statements: bool,
    /// A statement for which the client would keep its server is refused (`pin = error`).
    pub refuses_pins: bool,
    /// Clients that LISTEN share one connection (`shared_listener`).
    pub shares_listener: bool,
    /// The state of the server is verified after one transaction in this many; 0 for never (`state_verify`).
    pub verify_every: u32,
    /// Run the reset query at every release.
    pub always_reset: bool,
    /// `disable_pqexec`.
    pub refuses_simple_queries: bool,
    /// Some requests of clients are refused: each is examined first.
    pub forbids_requests: bool,
}

impl SessionRules {
    pub(super) fn new(config: &Config, rules: &PoolRules) -> Self {
        let settings = &config.settings;
        let mode = rules.pool_mode;
        let is_followed = settings.session_state == SessionState::Follow;
        let follows = mode != PoolMode::Session && is_followed;
        Self {
            mode,
            // In session pooling a client has its server to itself, so names cannot conflict.
            max_prepared: if mode == PoolMode::Session { 0 } else { settings.max_prepared_statements },
            max_message_bytes: settings.max_packet_size.min(wire::limits::MAX_MESSAGE_BYTES),
            follows,
            links_in_login: mode == PoolMode::Session && is_followed,
            reads_statements: is_followed,
            refuses_pins: follows && rules.pin == PinRule::Error,
            shares_listener: follows && mode == PoolMode::Transaction && rules.shared_listener,
            verify_every: if follows { settings.state_verify } else { 0 },
            always_reset: settings.server_reset_query_always,
            refuses_simple_queries: settings.disable_pqexec,
            forbids_requests: settings.disable_pqexec || mode == PoolMode::Statement,
        }
    }
}
