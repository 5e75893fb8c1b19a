//! Moving a client's session to another worker, between two of its transactions. Owns the form in which it is passed
//! between threads: everything that the session has besides its record in the table of clients.

use super::exchange::{Exchange, FlushState};
use super::link::{Link, Linked, SchemaChange, ServerCondition};
use super::listening::Listening;
use super::session::{ClientSession, Session};
use super::unread_state::UnreadState;
use crate::clients::ClientInfo;
use crate::net::{SocketInTransit, Stream};
use crate::parameters::{ParameterId, ValueSet};
use crate::pool::Pool;
use crate::pool::shared_listener::Membership;
use crate::prepared::statement::Text;
use crate::prepared::{ClientNames, Description, Effect, ServerUnnamed, Unnamed, UnnamedText};
use crate::server::moving::DetachedServer;
use sql::SessionChanges;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use wire::backend::TxStatus;

/// The unnamed statement of a client that belongs to no worker.
enum UnnamedInTransit {
    None,
    Text(Box<[u8]>),
    /// Its text was not kept.
    OnServer(Effect, Option<Box<SessionChanges>>),
}

impl UnnamedInTransit {
    fn of(unnamed: &Unnamed) -> Self {
        match unnamed {
            None => Self::None,
            Some(text) => match text.body() {
                Some(body) => Self::Text(body.into()),
                None => Self::OnServer(text.effect, text.changes.clone()),
            },
        }
    }
}

type ParameterValues = Vec<(ParameterId, Box<str>)>;

fn values_of(set: &ValueSet) -> ParameterValues {
    set.iter().map(|(id, value)| (id, value.into())).collect()
}

/// The server that a client keeps.
struct KeptServer {
    server: DetachedServer,
    unnamed_portal: Effect,
    named_portals: Effect,
    unread: Option<Box<UnreadState>>,
}

/// A session that belongs to no worker. Its connections are closed when it is dropped.
pub struct SessionInTransit {
    client: SocketInTransit,
    names: Vec<(Box<[u8]>, Arc<Text>, Description)>,
    unnamed: UnnamedInTransit,
    has_effects: bool,
    has_private: bool,
    parameters: ParameterValues,
    login_parameters: ParameterValues,
    parameters_proven: bool,
    kept: Option<KeptServer>,
    /// The shared listener delivers its notifications.
    listening: Option<Membership>,
}

impl Exchange {
    /// True if nothing is under way for a client to which the shared listener delivers.
    fn can_move_listening(&self, session: &ClientSession) -> bool {
        matches!(self.link, Link::Listening)
            && matches!(self.listening.as_deref(), Some(Listening::Shared { .. }))
            && self.down.is_finished()
            && self.is_between_transactions(session)
    }

    /// Takes the membership of such a client, whose exchange is free then.
    fn take_membership(&mut self) -> Option<Membership> {
        if !matches!(self.link, Link::Listening) {
            return None;
        }
        self.link = Link::None;
        match self.listening.take().map(|listening| *listening) {
            Some(Listening::Shared { member, .. }) => Some(member),
            _ => None,
        }
    }

    /// True if a client with this exchange can move: it keeps its server between two transactions, and nothing is under
    /// way. (A trace ends with its transaction.)
    fn can_move(&self, session: &ClientSession) -> bool {
        let Link::Server(linked) = &self.link else { return false };
        let info = &linked.server.info;
        linked.status == TxStatus::Idle
            && linked.condition == ServerCondition::InStep
            && linked.changed_schema == SchemaChange::None
            && info.cancels_in_flight.get() == 0
            && !info.close_needed.get()
            && info.overlap.is_none()
            && self.internal_query_error.is_none()
            && self.flush == FlushState::None
            && self.dropped_names.is_empty()
            && self.delivers_by_its_server()
            && self.down.is_finished()
            && self.is_between_transactions(session)
    }

    /// True if the client's server delivers its notifications, if it has any, and no step of the shared listener is under way.
    fn delivers_by_its_server(&self) -> bool {
        matches!(
            self.listening.as_deref(),
            None | Some(Listening::Waiting { .. } | Listening::Subscribing { .. })
        )
    }

    /// True if only the server knows the unnamed statement of the client that has it to itself.
    fn has_own_unnamed(&self) -> bool {
        matches!(&self.link, Link::Server(linked) if matches!(linked.server.unnamed, ServerUnnamed::Own))
    }
}

impl Session {
    /// True if the client is between two transactions and nothing of it is under way.
    pub fn can_move(&self) -> bool {
        // A long text that exists only on the server is not worth the trouble.
        let is_unnamed_kept = self.session.unnamed.as_ref().is_none_or(|text| text.body().is_some());
        match &self.exchange {
            None => true,
            Some(exchange) => {
                (is_unnamed_kept || exchange.has_own_unnamed())
                    && (exchange.can_move(&self.session) || exchange.can_move_listening(&self.session))
            }
        }
    }

    /// The connection, to wait until the kernel has all that was sent.
    pub fn client(&mut self) -> &mut Stream {
        &mut self.session.client
    }

    /// Detaches the session from this worker. [`Session::can_move`] is true, and the kernel has all that was sent to the
    /// client. Not cancel safe.
    ///
    /// # Errors
    /// Returns the session, which continues here, unless a connection has failed.
    pub async fn detach(mut self) -> Result<SessionInTransit, (Box<Self>, io::Error)> {
        let listening = self.exchange.as_mut().and_then(|exchange| exchange.take_membership());
        let (client, kept) = match self.detach_connections().await {
            Ok(detached) => detached,
            Err(error) => {
                self.share_again(listening);
                return Err((Box::new(self), error));
            }
        };
        // Every field is named, so that a new one is either passed on or dropped on purpose.
        let ClientSession {
            pool: _,
            info: _,
            client: _,
            names,
            unnamed,
            has_effects,
            has_private,
            parameters,
            login_parameters,
            parameters_proven,
        } = self.session;
        Ok(SessionInTransit {
            client,
            names: names.texts(),
            unnamed: UnnamedInTransit::of(&unnamed),
            has_effects,
            has_private,
            parameters: values_of(&parameters),
            login_parameters: values_of(&login_parameters),
            parameters_proven,
            kept,
            listening,
        })
    }

    /// The shared listener delivers to the client, which has no server.
    fn share_again(&mut self, membership: Option<Membership>) {
        let Some(member) = membership else { return };
        let free = || self.session.pool.with_session_rules(Exchange::allocate);
        let exchange = self.exchange.get_or_insert_with(free);
        exchange.link = Link::Listening;
        exchange.set_listening(&self.session, Some(Listening::Shared { member, cannot_return: false }));
    }

    async fn detach_connections(&mut self) -> io::Result<(SocketInTransit, Option<KeptServer>)> {
        let kept = self.detach_server().await?;
        match SocketInTransit::pack_with_input(&mut self.session.client).await {
            Ok(client) => Ok((client, kept)),
            Err(error) => {
                if let Some(kept) = kept {
                    self.adopt_server(kept)?;
                }
                Err(error)
            }
        }
    }

    /// Detaches the server that the client keeps, if it keeps one; its exchange is free then.
    async fn detach_server(&mut self) -> io::Result<Option<KeptServer>> {
        let Some(mut exchange) = self.exchange.take() else { return Ok(None) };
        let Link::Server(mut linked) = std::mem::replace(&mut exchange.link, Link::None) else {
            return Ok(None);
        };
        // It may share again at its new worker.
        exchange.set_listening(&self.session, None);
        linked.changed_parameters.commit(&mut self.session.parameters);
        let unread = linked.unread.take();
        let Some(server) = linked.server.into_server() else { return Ok(None) };
        match DetachedServer::pack_with_input(server).await {
            Ok(server) => {
                let (unnamed_portal, named_portals) = (exchange.unnamed_portal, exchange.named_portals);
                exchange.clear_link_state();
                exchange.recycle();
                self.session.record_unlinked();
                Ok(Some(KeptServer { server, unnamed_portal, named_portals, unread }))
            }
            Err((server, error)) => {
                let linked = Linked::new(self.session.pool.lend(server));
                exchange.link = Link::Server(Linked { unread, ..linked });
                self.exchange = Some(exchange);
                Err(error)
            }
        }
    }

    /// Links the client to its server at this worker.
    fn adopt_server(&mut self, kept: KeptServer) -> io::Result<()> {
        let (lease, received) = self.session.pool.adopt(kept.server)?;
        let mut exchange = match self.exchange.take() {
            Some(exchange) => exchange,
            None => self.session.pool.with_session_rules(Exchange::allocate),
        };
        self.session.record_linked(&lease);
        exchange.down.set_received(received);
        exchange.unnamed_portal = kept.unnamed_portal;
        exchange.named_portals = kept.named_portals;
        exchange.link = Link::Server(Linked { unread: kept.unread, ..Linked::new(lease) });
        self.exchange = Some(exchange);
        Ok(())
    }
}

impl SessionInTransit {
    /// True if it takes a server along.
    pub fn keeps_server(&self) -> bool {
        self.kept.is_some()
    }

    /// Attaches the session to this worker, where the client has this pool and this record.
    ///
    /// # Errors
    /// The worker cannot register a connection; the session has ended.
    pub fn attach(self, pool: Rc<Pool>, info: Rc<ClientInfo>) -> io::Result<Session> {
        let Self {
            client,
            names,
            unnamed,
            has_effects,
            has_private,
            parameters,
            login_parameters,
            parameters_proven,
            kept,
            listening,
        } = self;
        let (client, received) = client.unpack()?;
        let context = pool.context.clone();
        let mut own_names = ClientNames::default();
        for (name, text, description) in names {
            own_names.insert_described(&name, context.statements.adopt(&text), description);
        }
        let unnamed = match unnamed {
            UnnamedInTransit::None => None,
            UnnamedInTransit::Text(body) => Some(context.unnamed.intern(&body)),
            UnnamedInTransit::OnServer(effect, changes) => Some(UnnamedText::without_body(effect, changes)),
        };
        let session = ClientSession {
            pool,
            info,
            client,
            names: own_names,
            unnamed,
            has_effects,
            has_private,
            parameters: context.parameters.set_of(parameters),
            login_parameters: context.parameters.set_of(login_parameters),
            parameters_proven,
        };
        let mut session = Session::begin(session, received);
        if let Some(kept) = kept {
            session.adopt_server(kept)?;
        }
        session.share_again(listening);
        Ok(session)
    }
}
