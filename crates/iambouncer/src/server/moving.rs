//! An idle server on its way to another worker. Owns the form in which it travels; who gets it is the pool's business.

use super::{Activity, Server, ServerInfo, connect};
use crate::limits::Permit;
use crate::net::{Endpoint, SocketInTransit};
use crate::parameters::{ParameterId, ParameterIds, Parameters};
use crate::prepared::statement::Text;
use crate::prepared::{Interner, ServerCache, ServerUnnamed};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// A server that belongs to no worker. Dropping it closes the connection and gives its places back.
pub struct DetachedServer {
    connection: SocketInTransit,
    parameters: Vec<(ParameterId, Box<str>)>,
    reported: ParameterIds,
    has_client_names: bool,
    prepared: Vec<(Arc<Text>, u32)>,
    has_doubts: bool,
    facts: Facts,
    retirements: u64,
    permits: Vec<Permit>,
}

/// What stays the same of a [`ServerInfo`].
struct Facts {
    id: u64,
    pid: u32,
    cancel_key: Box<[u8]>,
    route: connect::Route,
    retire_at: Option<Instant>,
    has_replacement: bool,
    logged_in_at: Instant,
    touched_at: Instant,
    remote: Option<Endpoint>,
    local: Option<Endpoint>,
    tls: String,
    connected_wall: SystemTime,
    application_name: String,
}

impl DetachedServer {
    /// Takes an idle server off this worker.
    ///
    /// # Errors
    /// The server has said something meanwhile, or has gone: it is closed.
    pub async fn pack(server: Server) -> io::Result<Self> {
        let Server {
            stream,
            parameters,
            reported,
            prepared,
            unnamed: _,
            has_client_names,
            info,
            retirements,
            permits,
        } = server;
        let connection = SocketInTransit::pack(stream).await?;
        if info.close_needed.get() {
            return Err(io::Error::other("it has to go"));
        }
        let facts = Facts {
            id: info.id,
            pid: info.pid,
            cancel_key: info.cancel_key.clone(),
            route: info.route.clone(),
            retire_at: info.retire_at,
            has_replacement: info.has_replacement.get(),
            logged_in_at: info.logged_in_at,
            touched_at: info.touched_at.get(),
            remote: info.remote.clone(),
            local: info.local.clone(),
            tls: info.tls.clone(),
            connected_wall: info.connected_wall,
            application_name: info.application_name.borrow().clone(),
        };
        let parameters = parameters.iter().map(|(id, value)| (id, value.into())).collect();
        let (prepared, has_doubts) = (prepared.texts(), prepared.has_doubts());
        Ok(Self {
            connection,
            parameters,
            reported,
            has_client_names,
            prepared,
            has_doubts,
            facts,
            retirements,
            permits,
        })
    }

    /// Makes it a server of this worker.
    ///
    /// # Errors
    /// The worker cannot take the connection.
    pub fn unpack(self, parameters: &Parameters, statements: &Interner) -> io::Result<Server> {
        let stream = self.connection.unpack()?;
        let mut prepared = ServerCache::default();
        for (text, version) in self.prepared {
            prepared.insert(statements.adopt(&text), version);
        }
        if self.has_doubts {
            prepared.doubt_others();
        }
        let facts = self.facts;
        let info = ServerInfo {
            id: facts.id,
            pid: facts.pid,
            cancel_key: facts.cancel_key,
            route: facts.route,
            retire_at: facts.retire_at,
            has_replacement: Cell::new(facts.has_replacement),
            overlaps: Cell::new(false),
            overlap: RefCell::default(),
            remote: facts.remote,
            local: facts.local,
            tls: facts.tls,
            connected_wall: facts.connected_wall,
            activity: Cell::new(Activity::Idle),
            client_id: Cell::new(0),
            logged_in_at: facts.logged_in_at,
            touched_at: Rc::new(Cell::new(facts.touched_at)),
            close_needed: Cell::new(false),
            cancels_in_flight: Cell::new(0),
            prepared_count: Cell::new(prepared.len()),
            application_name: RefCell::new(facts.application_name),
        };
        Ok(Server {
            stream,
            parameters: parameters.set_of(self.parameters),
            reported: self.reported,
            prepared,
            // Texts are known by their place in a worker's memory.
            unnamed: ServerUnnamed::Unknown,
            has_client_names: self.has_client_names,
            info: Rc::new(info),
            retirements: self.retirements,
            permits: self.permits,
        })
    }
}
