//! Moving an idle server to another worker. Owns the form in which it is passed between threads; which worker gets it
//! belongs to the pool.

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

/// A server that is not attached to a worker. Dropping it closes the connection and releases its places.
pub struct DetachedServer {
    connection: SocketInTransit,
    parameters: Vec<(ParameterId, Box<str>)>,
    reported: ParameterIds,
    has_client_names: bool,
    prepared: Vec<(Arc<Text>, u32)>,
    has_uncertain: bool,
    facts: Facts,
    retirements: u64,
    permits: Vec<Permit>,
}

/// The part of a [`ServerInfo`] that does not change.
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
    /// Detaches an idle server from this worker.
    ///
    /// # Errors
    /// The server has sent something meanwhile or is closed; the connection is dropped.
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
            return Err(io::Error::other("the server has to be closed"));
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
        let (prepared, has_uncertain) = (prepared.texts(), prepared.has_uncertain());
        Ok(Self {
            connection,
            parameters,
            reported,
            has_client_names,
            prepared,
            has_uncertain,
            facts,
            retirements,
            permits,
        })
    }

    /// Attaches it to this worker.
    ///
    /// # Errors
    /// The worker cannot register the connection.
    pub fn unpack(self, parameters: &Parameters, statements: &Interner) -> io::Result<Server> {
        let stream = self.connection.unpack()?;
        let mut prepared = ServerCache::default();
        for (text, version) in self.prepared {
            prepared.insert(statements.adopt(&text), version);
        }
        if self.has_uncertain {
            prepared.mark_others_uncertain();
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
            // Statement texts are identified by their address, which is specific to a worker.
            unnamed: ServerUnnamed::Unknown,
            has_client_names: self.has_client_names,
            info: Rc::new(info),
            retirements: self.retirements,
            permits: self.permits,
        })
    }
}
