//! Moving an idle server to another worker. Owns the form in which it is passed between threads; which worker gets it
//! belongs to the pool.

use super::{Server, ServerFacts, ServerInfo};
use crate::limits::Permit;
use crate::net::SocketInTransit;
use crate::parameters::{ParameterId, ParameterIds, Parameters};
use crate::prepared::statement::Text;
use crate::prepared::{Interner, ServerCache, ServerUnnamed};
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// A server that is not attached to a worker. Dropping it closes the connection and releases its places.
pub struct DetachedServer {
    connection: SocketInTransit,
    facts: ServerFacts,
    touched_at: Instant,
    parameters: Vec<(ParameterId, Box<str>)>,
    reported: ParameterIds,
    has_client_names: bool,
    prepared: Vec<(Arc<Text>, u32)>,
    has_uncertain: bool,
    permits: Vec<Permit>,
}

impl DetachedServer {
    /// Detaches an idle server from this worker.
    ///
    /// # Errors
    /// The server has sent something meanwhile or is closed; the connection is dropped.
    pub async fn pack(server: Server) -> io::Result<Self> {
        // Every field is named, so that a new one is either passed on or dropped on purpose.
        let Server { stream, parameters, reported, prepared, unnamed: _, has_client_names, info, permits } =
            server;
        let connection = SocketInTransit::pack(stream).await?;
        if info.close_needed.get() {
            return Err(io::Error::other("the server has to be closed"));
        }
        Ok(Self {
            connection,
            facts: info.facts.clone(),
            touched_at: info.touched_at.get(),
            parameters: parameters.iter().map(|(id, value)| (id, value.into())).collect(),
            reported,
            has_client_names,
            has_uncertain: prepared.has_uncertain(),
            prepared: prepared.texts(),
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
        let info = ServerInfo::new(self.facts, Rc::new(Cell::new(self.touched_at)));
        info.prepared_count.set(prepared.len());
        Ok(Server {
            stream,
            parameters: parameters.set_of(self.parameters),
            reported: self.reported,
            prepared,
            // Statement texts are identified by their address, which is specific to a worker.
            unnamed: ServerUnnamed::Unknown,
            has_client_names: self.has_client_names,
            info: Rc::new(info),
            permits: self.permits,
        })
    }
}
