//! One client from accept to its session. Owns the order of the steps and what is logged of them.

use super::authenticate::{self, Denied};
use super::handshake::{self, NotOpened, Opened};
use super::registered::{Registered, Seat};
use super::startup::{self, Wanted};
use super::{cancel, greet};
use crate::admin;
use crate::clients::{ClientInfo, ClientTable};
use crate::config::{AuthType, PoolMode, Settings, TlsMode};
use crate::context::Context;
use crate::faults::{self, Fault};
use crate::introductions::Introduction;
use crate::net::tls::TlsStream;
use crate::net::{Endpoint, Inbound, Socket, Stream};
use crate::pool::shared::Counted;
use crate::pool::{DatabaseState, Directory, Pool};
use crate::relay::{Ending, Session, SessionRules, Start};
use crate::worker::{self, timers};
use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use wire::encode;
use wire::startup::Version;

/// How long a client may hold up the message that turns it away.
const FAREWELL_LIMIT: Duration = Duration::from_secs(5);

/// What a client needs to come in.
pub struct Door {
    /// Configuration and tools.
    pub context: Rc<Context>,
    /// Databases and pools.
    pub directory: Rc<Directory>,
    /// Who is connected.
    pub clients: Rc<ClientTable>,
    /// What the console can do.
    pub console: Rc<admin::Console>,
    /// No new client any more; the text says why.
    pub closing: Cell<bool>,
}

/// Serves one client of a listener.
pub async fn serve(door: Rc<Door>, socket: Socket, remote: Endpoint, listener: Endpoint, seat: Seat) {
    let local = match listener {
        // Where it listens says it all, unless that is every address.
        Endpoint::Tcp(at) if at.ip().is_unspecified() => socket.local(),
        at => Some(at),
    };
    let Some(info) = door.clients.add(remote, local, worker::now()) else { return };
    let registered = Registered::new(door.clone(), info.clone(), seat);
    let limit = door.context.config().settings.client_login_timeout;
    let opened = {
        // Pinned here: what takes a future by value has room for it twice.
        let opening = pin!(handshake::open(socket, door.context.loaded().client_tls.clone()));
        timers::timeout(limit, opening).await
    };
    let opened = match opened {
        Some(Ok(opened)) => opened,
        Some(Err(NotOpened::Gone)) => return,
        Some(Err(NotOpened::Tls(error))) => {
            tracing::warn!(client = %info.remote(), %error, "TLS with client failed");
            return;
        }
        Some(Err(NotOpened::Fault(stream, fault))) => {
            return turn_away(&door, &info, *stream, &fault).await;
        }
        None => {
            tracing::warn!(client = %info.remote(), "client_login_timeout before a startup packet");
            return;
        }
    };
    match opened {
        Opened::Cancel { pid, key } => cancel::route(&door, pid, key),
        Opened::Session { stream, inbound, version, parameters } => {
            let entry = Entry { door: &door, info: &info, stream, inbound };
            entry.admit(version, parameters, limit, registered).await;
        }
    }
}

async fn turn_away(door: &Door, info: &ClientInfo, mut stream: Stream, fault: &Fault) {
    if door.context.config().settings.log_pooler_errors {
        let introduction = info.introduction();
        tracing::warn!(
            client = %info.remote(),
            user = %introduction.user,
            database = %introduction.database,
            code = %fault.code,
            blame = ?fault.blame,
            "closing because: {fault}"
        );
    }
    let mut message = Vec::new();
    fault.encode_fatal(&mut message);
    let _ = timers::timeout(FAREWELL_LIMIT, stream.send_all(&message)).await;
}

/// A client between its startup packet and its session.
struct Entry<'a> {
    door: &'a Rc<Door>,
    info: &'a Rc<ClientInfo>,
    stream: Stream,
    inbound: Inbound,
}

/// Where a client that has proven who it is wants to go.
enum Admitted {
    Console { is_admin: bool },
    Session { pool: Rc<Pool>, tracked: Vec<(usize, String)> },
}

impl Entry<'_> {
    async fn admit(
        mut self,
        version: Version,
        parameters: Vec<(String, String)>,
        limit: Duration,
        mut registered: Registered,
    ) {
        let started = {
            let logging_in = pin!(self.log_in(version, parameters, &mut registered));
            timers::timeout(limit, logging_in).await
        };
        let admitted = match started {
            Some(Ok(admitted)) => admitted,
            Some(Err(Denied::Gone)) => return,
            Some(Err(Denied::Fault(fault))) => {
                return turn_away(self.door, self.info, self.stream, &fault).await;
            }
            None => return turn_away(self.door, self.info, self.stream, &faults::login_timeout()).await,
        };
        match admitted {
            Admitted::Console { is_admin } => {
                self.log_login();
                self.console(is_admin, registered);
            }
            // Waiting for a server is not the client's doing: it has limits of its own.
            Admitted::Session { pool, tracked } => {
                let (stream, inbound) = (&mut self.stream, &mut self.inbound);
                match greet::greet(&self.door.context, &pool, self.info, stream, inbound, &tracked).await {
                    Ok(greeting) => {
                        self.log_login();
                        self.session(pool, greeting, registered).await;
                    }
                    Err(Denied::Gone) => {}
                    Err(Denied::Fault(fault)) => {
                        turn_away(self.door, self.info, self.stream, &fault).await;
                    }
                }
            }
        }
    }

    fn log_login(&self) {
        if self.door.context.config().settings.log_connections {
            let introduction = self.info.introduction();
            tracing::info!(
                client = %self.info.remote(),
                user = %introduction.user,
                database = %introduction.database,
                tls = %introduction.tls,
                "client login"
            );
        }
    }

    async fn log_in(
        &mut self,
        version: Version,
        parameters: Vec<(String, String)>,
        registered: &mut Registered,
    ) -> Result<Admitted, Denied> {
        let config = self.door.context.config();
        let settings = &config.settings;
        let wanted = startup::sort(&self.door.context, settings, parameters).map_err(Denied::Fault)?;
        self.introduce(&wanted);
        if settings.client_tls_sslmode >= TlsMode::Require
            && self.stream.tls().is_none()
            && matches!(self.info.remote(), Endpoint::Tcp(_))
        {
            return Err(Denied::Fault(faults::tls_required()));
        }
        self.negotiate(version, &wanted.unknown_options).await?;
        if wanted.database == admin::DATABASE {
            return self.log_in_to_console(settings, &wanted).await;
        }
        self.may_enter(settings, &wanted)?;
        let keys = authenticate::run(
            &self.door.context,
            &mut self.stream,
            &mut self.inbound,
            &wanted.user,
            &wanted.database,
            settings.auth_type,
        )
        .await?;
        let database = self.enter(&wanted)?;
        self.take_place(settings, &database, &wanted.user, registered)?;
        let forced = database.line.borrow().user.clone();
        let pool = self.door.directory.pool(&database, forced.as_deref().unwrap_or(&wanted.user));
        // Another user's keys are of no use to a forced user.
        if let Some(keys) = keys.filter(|_| *pool.user == *wanted.user) {
            pool.learn_scram_keys(keys);
        }
        // A client logs in once.
        let _ = self.info.pool.set(pool.clone());
        let mut tracked = wanted.tracked;
        self.add_host_to_name(settings, &mut tracked);
        Ok(Admitted::Session { pool, tracked })
    }

    fn introduce(&self, wanted: &Wanted) {
        let introduction = Introduction {
            user: wanted.user.as_str().into(),
            database: wanted.database.as_str().into(),
            application_name: wanted.application_name.as_deref().unwrap_or_default().into(),
            tls: self.stream.tls().map(TlsStream::description).unwrap_or_default().into(),
        };
        self.info.introduce(self.door.context.introductions.share(introduction));
    }

    /// Offers an older protocol when a newer minor version, or an option we do not know, was asked for.
    async fn negotiate(&mut self, version: Version, unknown_options: &[String]) -> Result<(), Denied> {
        if version <= Version::V3_0 && unknown_options.is_empty() {
            return Ok(());
        }
        let mut message = Vec::new();
        let options: Vec<&str> = unknown_options.iter().map(String::as_str).collect();
        // 3.2 differs from 3.0 in the length of cancel keys only, and ours are short.
        encode::negotiate_protocol_version(&mut message, Version::V3_0, &options);
        self.stream.send_all(&message).await.map_err(|_| Denied::Gone)
    }

    async fn log_in_to_console(&mut self, settings: &Settings, wanted: &Wanted) -> Result<Admitted, Denied> {
        let is_admin = settings.is_admin(&wanted.user);
        let any = settings.auth_type == AuthType::Any;
        if !is_admin && !settings.is_stats_user(&wanted.user) && !any {
            return Err(Denied::Fault(faults::authentication_failed(&wanted.user)));
        }
        authenticate::run(
            &self.door.context,
            &mut self.stream,
            &mut self.inbound,
            &wanted.user,
            &wanted.database,
            // The console has no endpoint that a token could be for.
            if settings.auth_type == AuthType::Iam { AuthType::ScramSha256 } else { settings.auth_type },
        )
        .await?;
        Ok(Admitted::Console { is_admin: is_admin || any })
    }

    /// What can be said before the client has proven who it is.
    fn may_enter(&self, settings: &Settings, wanted: &Wanted) -> Result<(), Denied> {
        if self.door.closing.get() {
            return Err(Denied::Fault(faults::shutting_down()));
        }
        if self.door.context.registry.clients.taken() > settings.max_client_conn {
            return Err(Denied::Fault(faults::too_many_clients("max_client_conn", settings.max_client_conn)));
        }
        if !self.door.directory.covers(&wanted.database) {
            return Err(Denied::Fault(faults::unknown_database(&wanted.database)));
        }
        Ok(())
    }

    fn enter(&self, wanted: &Wanted) -> Result<Rc<DatabaseState>, Denied> {
        let unknown = || Denied::Fault(faults::unknown_database(&wanted.database));
        let database = self.door.directory.database(&wanted.database).ok_or_else(unknown)?;
        if database.disabled.get() {
            return Err(Denied::Fault(faults::database_disabled(&wanted.database)));
        }
        Ok(database)
    }

    fn take_place(
        &self,
        settings: &Settings,
        database: &Rc<DatabaseState>,
        user: &str,
        registered: &mut Registered,
    ) -> Result<(), Denied> {
        let places = |limit: u32| (limit > 0).then_some(limit);
        let limit =
            database.line.borrow().max_db_client_connections.unwrap_or(settings.max_db_client_connections);
        let of_database = database
            .clients
            .take(places(limit))
            .ok_or_else(|| Denied::Fault(faults::too_many_clients("max_db_client_connections", limit)))?;
        let config = self.door.context.config();
        let limit = config
            .users
            .get(user)
            .and_then(|user| user.max_user_client_connections)
            .unwrap_or(settings.max_user_client_connections);
        let of_user = self.door.context.registry.counter(Counted::UserClients, user);
        let of_user = of_user
            .take(places(limit))
            .ok_or_else(|| Denied::Fault(faults::too_many_clients("max_user_client_connections", limit)))?;
        registered.places.session = self.door.context.registry.sessions.take(None);
        registered.places.user = Some(of_user);
        registered.places.database = Some(of_database);
        Ok(())
    }

    /// `application_name_add_host`.
    fn add_host_to_name(&self, settings: &Settings, tracked: &mut Vec<(usize, String)>) {
        let Some(name) = self.door.context.parameters.position("application_name") else { return };
        if !settings.application_name_add_host {
            return;
        }
        let given = tracked.iter().position(|(position, _)| *position == name);
        let text = given.map_or_else(|| "app".to_owned(), |at| tracked.remove(at).1);
        tracked.push((name, format!("{text} - {}", self.info.remote())));
    }

    /// Greets the client and starts its session.
    async fn session(mut self, pool: Rc<Pool>, greeting: greet::Greeted, registered: Registered) {
        if self.stream.send_all(&greeting.message).await.is_err() {
            return;
        }
        let config = self.door.context.config();
        let settings = &config.settings;
        let mode = pool.rules().pool_mode;
        let rules = SessionRules {
            mode,
            // In session pooling a client has its server to itself: names cannot clash.
            max_prepared: if mode == PoolMode::Session { 0 } else { settings.max_prepared_statements },
            max_message_bytes: settings.max_packet_size.min(wire::limits::MAX_MESSAGE_BYTES),
            always_reset: settings.server_reset_query_always,
        };
        let start = Start {
            rules,
            client: self.stream,
            up: self.inbound,
            parameters: greeting.parameters,
            parameters_proven: greeting.parameters_proven,
        };
        let session = Session::new(pool, self.info.clone(), start);
        registered.serve(session);
    }

    fn console(self, is_admin: bool, registered: Registered) {
        let session = admin::Session::new(self.door.console.clone(), self.info.clone(), is_admin);
        let (stream, inbound) = (self.stream, self.inbound);
        registered.go_on(move |registered| async move {
            if let Some(fault) = session.run(stream, inbound).await {
                registered.log_ending(&Ending::Fault(fault));
            }
        });
    }
}
