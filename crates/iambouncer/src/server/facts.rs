//! What is known about a server for as long as it is open, at whichever worker. Owns every fact that survives a move to
//! another worker; what depends on the worker and on the moment is in [`ServerInfo`](super::ServerInfo).

use super::connect::Route;
use crate::client_identity::Replication;
use crate::net::Endpoint;
use crate::server_roles::RequiredRole;
use std::cell::{Cell, RefCell};
use std::time::{Instant, SystemTime};

/// Facts about one server. A move passes them on as a whole, so that it cannot reset one.
#[derive(Clone)]
pub struct ServerFacts {
    /// Unique in this process.
    pub id: u64,
    /// The generation of its pool when its login began.
    pub generation: u64,
    /// Process ID on the server.
    pub pid: u32,
    /// Secret for cancel requests.
    pub cancel_key: Box<[u8]>,
    /// How it was reached: cancel requests go only there.
    pub route: Route,
    /// What it was required to be.
    pub required: Option<RequiredRole>,
    /// Remote address.
    pub remote: Option<Endpoint>,
    /// Local address.
    pub local: Option<Endpoint>,
    /// TLS version and cipher suite, or empty.
    pub tls: String,
    /// When the login finished.
    pub logged_in_at: Instant,
    /// When the login finished, for display.
    pub connected_wall: SystemTime,
    /// When it becomes too old to be assigned again.
    pub retire_at: Option<Instant>,
    /// A replacement has logged in, or is about to.
    pub has_replacement: Cell<bool>,
    /// The kind of replication connection that it is.
    pub replication: Replication,
    /// `application_name` as last reported.
    pub application_name: RefCell<String>,
}
