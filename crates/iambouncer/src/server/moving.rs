//! Moving a server to another worker: an idle one, or that of a client that moves. Owns the form in which it is passed
//! between threads; which worker gets it belongs to the pool and to [`crate::placement`].

use super::{Server, ServerFacts, ServerInfo};
use crate::limits::Permit;
use crate::net::{Inbound, SocketInTransit};
use crate::parameters::{ParameterId, ParameterIds, Parameters};
use crate::prepared::Description;
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
    last_client: u64,
    prepared: Vec<(Arc<Text>, u32, Description)>,
    private: Vec<u64>,
    has_uncertain: bool,
    is_unnamed_own: bool,
    permits: Vec<Permit>,
}

impl DetachedServer {
    /// Detaches an idle server from this worker.
    ///
    /// # Errors
    /// The server has sent something meanwhile or is closed; the connection is dropped.
    pub async fn pack(mut server: Server) -> io::Result<Self> {
        let connection = SocketInTransit::pack(&mut server.stream).await?;
        if server.info.close_needed.get() {
            return Err(io::Error::other("the server has to be closed"));
        }
        Ok(Self::of(server, connection))
    }

    /// Detaches the server of a client that is between two transactions. What the server has sent moves with it. Not
    /// cancel safe.
    ///
    /// # Errors
    /// Returns the server, which can be used here as before, unless its connection has failed.
    pub async fn pack_with_input(mut server: Box<Server>) -> Result<Self, (Box<Server>, io::Error)> {
        match SocketInTransit::pack_with_input(&mut server.stream).await {
            Ok(connection) => Ok(Self::of(*server, connection)),
            Err(error) => Err((server, error)),
        }
    }

    /// The server whose connection was detached.
    fn of(server: Server, connection: SocketInTransit) -> Self {
        // Every field is named, so that a new one is either passed on or dropped on purpose.
        let Server {
            stream: _,
            parameters,
            reported,
            prepared,
            unnamed,
            has_client_names,
            last_client,
            info,
            permits,
        } = server;
        Self {
            connection,
            facts: info.facts.clone(),
            touched_at: info.touched_at.get(),
            parameters: parameters.iter().map(|(id, value)| (id, value.into())).collect(),
            reported,
            has_client_names,
            last_client,
            has_uncertain: prepared.has_uncertain(),
            prepared: prepared.texts(),
            private: prepared.private().collect(),
            is_unnamed_own: matches!(unnamed, ServerUnnamed::Own),
            permits,
        }
    }

    /// Attaches it to this worker. Returns it with what it had sent before.
    ///
    /// # Errors
    /// The worker cannot register the connection.
    pub fn unpack(self, parameters: &Parameters, statements: &Interner) -> io::Result<(Server, Inbound)> {
        let (stream, received) = self.connection.unpack()?;
        let mut prepared = ServerCache::default();
        for (text, version, description) in self.prepared {
            let statement = statements.adopt(&text);
            let id = statement.id;
            prepared.insert(statement, version);
            prepared.describe(id, description);
        }
        prepared.insert_private(self.private);
        if self.has_uncertain {
            prepared.mark_others_uncertain();
        }
        let info = ServerInfo::new(self.facts, Rc::new(Cell::new(self.touched_at)));
        info.prepared_count.set(prepared.len());
        let server = Server {
            stream,
            parameters: parameters.set_of(self.parameters),
            reported: self.reported,
            prepared,
            // Otherwise it is one of the texts of unnamed statements, whose addresses are specific to a worker.
            unnamed: if self.is_unnamed_own { ServerUnnamed::Own } else { ServerUnnamed::Unknown },
            has_client_names: self.has_client_names,
            last_client: self.last_client,
            info: Rc::new(info),
            permits: self.permits,
        };
        Ok((server, received))
    }
}
