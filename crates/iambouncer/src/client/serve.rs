//! One client from accept to its session. Owns the order of the steps and what is logged of them.

use super::authenticate::{self, LoginRefusal};
use super::connection::{Connection, ConnectionPermit};
use super::handshake::{self, HandshakeError, InitialPacket};
use super::interrupt::Interrupt;
use super::startup::{self, SessionRequest};
use super::{admission, cancel, startup_response};
use crate::admin;
use crate::client_error::{self, ClientError};
use crate::client_identity::ClientIdentity;
use crate::clients::{ClientInfo, ClientTable};
use crate::config::{AuthType, Settings, TlsMode};
use crate::context::Context;
use crate::files::PermittedUse;
use crate::log_limit::{LinePermit, warn_unauthenticated};
use crate::net::tls::TlsStream;
use crate::net::trust::words_of;
use crate::net::{Endpoint, Inbound, Socket, Stream};
use crate::parameters::ParameterId;
use crate::pending_logins::PendingLogin;
use crate::pool::{Directory, Pool};
use crate::relay::{CloseReason, Session, Start};
use crate::worker::{self, timers};
use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use wire::encode;
use wire::startup::Version;

/// How long a client may hold up the message that turns it away.
const FINAL_MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a client needs to come in.
pub struct ClientServices {
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
pub async fn serve(
    services: Rc<ClientServices>,
    socket: Socket,
    remote: Endpoint,
    listener: Endpoint,
    permit: ConnectionPermit,
) {
    let local = match listener {
        // Where it listens says it all, unless that is every address.
        Endpoint::Tcp(at) if at.ip().is_unspecified() => socket.local(),
        at => Some(at),
    };
    let Some(info) = services.clients.add(remote, local, worker::now()) else { return };
    let ConnectionPermit { worker, process, pending, permitted } = permit;
    pending.set_slot(info.slot);
    let connection = Connection::new(services.clone(), info.clone(), worker, process);
    let limit = services.context.config().settings.client_login_timeout;
    let interrupt = Interrupt::new(services.clone(), info.clone(), &pending);
    let opened = {
        // Pinned here: what takes a future by value has room for it twice.
        let opening = pin!(handshake::open(socket, services.context.loaded().client_tls.clone(), &interrupt));
        timers::timeout(limit, opening).await
    };
    let client = info.remote();
    let opened = match opened {
        Some(Ok(opened)) => opened,
        Some(Err(HandshakeError::Gone)) => return,
        Some(Err(HandshakeError::Tls(error))) => {
            let error = words_of(&error);
            warn_unauthenticated!(services.context, "tls", %client, %error, "TLS with client failed");
            return;
        }
        Some(Err(HandshakeError::Malformed(error))) => {
            warn_unauthenticated!(services.context, "startup", %client, %error, "closing without an answer");
            return;
        }
        Some(Err(HandshakeError::Error(stream, error))) => {
            return turn_away(&services, &info, *stream, &error).await;
        }
        Some(Err(HandshakeError::FaultBeforeV3(stream, error))) => {
            log_refusal(&services, &info, &error);
            let mut message = Vec::new();
            error.encode_fatal_before_v3(&mut message);
            return send_last(*stream, &message).await;
        }
        Some(Err(HandshakeError::Interrupted(stream, error))) => {
            return turn_away_at_once(&services, &info, *stream, &error).await;
        }
        None => {
            warn_unauthenticated!(services.context, "silent", %client, "client_login_timeout before a startup packet");
            return;
        }
    };
    match opened {
        InitialPacket::Cancel { stream, pid, key } => {
            cancel::route(&services, pid, key).await;
            drop(stream);
        }
        InitialPacket::Session { stream, inbound, version, parameters } => {
            let pending = Some(pending);
            let entry =
                LoginInProgress { services: &services, info: &info, stream, inbound, pending, permitted };
            entry.admit(version, parameters, limit, connection, interrupt).await;
        }
    }
}

/// Tells a client that has not logged in why it may not, and waits a while until it has read that.
async fn turn_away(services: &ClientServices, info: &ClientInfo, stream: Stream, error: &ClientError) {
    log_refusal(services, info, error);
    send_final_message(stream, error).await;
}

async fn send_final_message(stream: Stream, error: &ClientError) {
    let mut message = Vec::new();
    error.encode_fatal(&mut message);
    send_last(stream, &message).await;
}

async fn send_last(mut stream: Stream, message: &[u8]) {
    let _ = timers::timeout(FINAL_MESSAGE_TIMEOUT, stream.send_all(message)).await;
}

/// True when the login of the client's pool to its server has failed with this.
fn is_of_failed_login(info: &ClientInfo, error: &ClientError) -> bool {
    info.pool.get().and_then(|pool| pool.last_failure()).is_some_and(|failure| failure == *error)
}

/// The same for one whose place is wanted now.
async fn turn_away_at_once(
    services: &ClientServices,
    info: &ClientInfo,
    mut stream: Stream,
    error: &ClientError,
) {
    log_refusal(services, info, error);
    let mut message = Vec::new();
    error.encode_fatal(&mut message);
    poll_fn(|cx| {
        let _ = stream.poll_send(cx, &message, &[]);
        Poll::Ready(())
    })
    .await;
}

fn log_refusal(services: &ClientServices, info: &ClientInfo, error: &ClientError) {
    if !services.context.config().settings.log_pooler_errors {
        return;
    }
    let kind = error.kind();
    let identity = info.identity();
    // Those who have proven who they are are not the ones that fill the log.
    let turn = match info.pool.get() {
        Some(_) => Some(LinePermit::default()),
        None => services.context.process.log_limit.turn(kind, worker::now()),
    };
    let Some(LinePermit { left_out }) = turn else { return };
    tracing::warn!(
        left_out,
        client = %info.remote(),
        user = %identity.user,
        database = %identity.database,
        code = %error.code,
        blame = ?error.blame,
        "closing because: {error}"
    );
}

/// A client between its startup packet and its session.
struct LoginInProgress<'a> {
    services: &'a Rc<ClientServices>,
    info: &'a Rc<ClientInfo>,
    stream: Stream,
    inbound: Inbound,
    /// Until it has logged in.
    pending: Option<PendingLogin>,
    /// What the connection may be used for.
    permitted: PermittedUse,
}

/// Where a client that has proven who it is wants to go.
enum Destination {
    Console { is_admin: bool },
    Session { pool: Rc<Pool>, tracked: Vec<(ParameterId, String)> },
}

impl LoginInProgress<'_> {
    async fn admit(
        mut self,
        version: Version,
        parameters: Vec<(String, String)>,
        limit: Duration,
        mut connection: Connection,
        interrupt: Interrupt,
    ) {
        let started = {
            let logging_in = pin!(self.log_in(version, parameters, &mut connection));
            interrupt.or(pin!(timers::timeout(limit, logging_in))).await
        };
        // Whether it is let in or turned away: its place among the others is free.
        self.pending = None;
        let admitted = match started {
            Ok(Some(Ok(admitted))) => admitted,
            Ok(Some(Err(LoginRefusal::Gone))) => return,
            Ok(Some(Err(LoginRefusal::Error(error)))) => {
                return turn_away(self.services, self.info, self.stream, &error).await;
            }
            Ok(None) => {
                return turn_away(self.services, self.info, self.stream, &client_error::login_timeout())
                    .await;
            }
            Err(error) => return turn_away_at_once(self.services, self.info, self.stream, &error).await,
        };
        let identity = (*self.info.identity()).clone();
        self.info.set_identity(self.services.context.client_identities.share(identity));
        match admitted {
            Destination::Console { is_admin } => {
                self.log_login();
                self.console(is_admin, connection);
            }
            // Waiting for a server is not the client's doing: it has limits of its own.
            Destination::Session { pool, tracked } => {
                let (stream, inbound) = (&mut self.stream, &mut self.inbound);
                let greeted = {
                    let context = &self.services.context;
                    let greeting = pin!(startup_response::startup_response(
                        context, &pool, self.info, stream, inbound, &tracked
                    ));
                    interrupt.of_admitted().or(greeting).await
                };
                match greeted {
                    Ok(Ok(greeting)) => {
                        self.log_login();
                        self.session(pool, greeting, connection).await;
                    }
                    Ok(Err(LoginRefusal::Gone)) => {}
                    // The pool has logged it, with user and database.
                    Ok(Err(LoginRefusal::Error(error))) if is_of_failed_login(self.info, &error) => {
                        send_final_message(self.stream, &error).await;
                    }
                    Ok(Err(LoginRefusal::Error(error))) | Err(error) => {
                        turn_away(self.services, self.info, self.stream, &error).await;
                    }
                }
            }
        }
    }

    fn log_login(&self) {
        if self.services.context.config().settings.log_connections {
            let identity = self.info.identity();
            tracing::info!(
                client = %self.info.remote(),
                user = %identity.user,
                database = %identity.database,
                tls = %identity.tls,
                "client login"
            );
        }
    }

    async fn log_in(
        &mut self,
        version: Version,
        parameters: Vec<(String, String)>,
        connection: &mut Connection,
    ) -> Result<Destination, LoginRefusal> {
        let config = self.services.context.config();
        let settings = &config.settings;
        self.introduce_unsorted(&parameters);
        let wanted =
            startup::sort(&self.services.context, settings, parameters).map_err(LoginRefusal::Error)?;
        self.set_identity(&wanted);
        if settings.client_tls_sslmode >= TlsMode::Require
            && self.stream.tls().is_none()
            && matches!(self.info.remote(), Endpoint::Tcp(_))
        {
            return Err(LoginRefusal::Error(client_error::tls_required()));
        }
        self.negotiate(version, &wanted.unknown_options).await?;
        if wanted.database == admin::DATABASE {
            return self.log_in_to_console(settings, &wanted).await;
        }
        admission::check_before_proof(self.services, settings, self.permitted)?;
        let keys = authenticate::run(
            &self.services.context,
            &mut self.stream,
            &mut self.inbound,
            &wanted.user,
            &wanted.database,
            settings.auth_type,
        )
        .await?;
        let database = admission::enter(self.services, settings, &wanted, connection, &mut self.pending)?;
        let forced = database.line.borrow().user.clone();
        let pool = self.services.directory.pool(&database, forced.as_deref().unwrap_or(&wanted.user));
        // Another user's keys are of no use to a forced user.
        if let Some(keys) = keys.filter(|_| *pool.user == *wanted.user) {
            pool.learn_scram_keys(keys);
        }
        // A client logs in once.
        let _ = self.info.pool.set(pool.clone());
        let mut tracked = wanted.tracked;
        self.add_host_to_name(settings, &mut tracked);
        Ok(Destination::Session { pool, tracked })
    }

    /// What the packet says stands in the log even if something else in it is refused.
    fn introduce_unsorted(&self, parameters: &[(String, String)]) {
        let value = |wanted: &str| {
            let found = parameters.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.as_str()).unwrap_or_default()
        };
        let user = value("user");
        let database = match value("database") {
            "" => user,
            database => database,
        };
        let identity =
            ClientIdentity { user: user.into(), database: database.into(), ..ClientIdentity::default() };
        self.info.set_identity(Rc::new(identity));
    }

    fn set_identity(&self, wanted: &SessionRequest) {
        let identity = ClientIdentity {
            user: wanted.user.as_str().into(),
            database: wanted.database.as_str().into(),
            application_name: wanted.application_name.as_deref().unwrap_or_default().into(),
            tls: self.stream.tls().map(TlsStream::description).unwrap_or_default().into(),
        };
        // Not shared yet: what anybody may claim is not kept beyond this connection.
        self.info.set_identity(Rc::new(identity));
    }

    /// Offers an older protocol when a newer minor version, or an option we do not know, was asked for.
    async fn negotiate(&mut self, version: Version, unknown_options: &[String]) -> Result<(), LoginRefusal> {
        if version <= Version::V3_0 && unknown_options.is_empty() {
            return Ok(());
        }
        let mut message = Vec::new();
        let options: Vec<&str> = unknown_options.iter().map(String::as_str).collect();
        // 3.2 differs from 3.0 in the length of cancel keys only, and ours are short.
        encode::negotiate_protocol_version(&mut message, Version::V3_0, &options);
        self.stream.send_all(&message).await.map_err(|_| LoginRefusal::Gone)
    }

    async fn log_in_to_console(
        &mut self,
        settings: &Settings,
        wanted: &SessionRequest,
    ) -> Result<Destination, LoginRefusal> {
        let is_admin = settings.is_admin(&wanted.user);
        let any = settings.auth_type == AuthType::Any;
        authenticate::run(
            &self.services.context,
            &mut self.stream,
            &mut self.inbound,
            &wanted.user,
            &wanted.database,
            // The console has no endpoint that a token could be for.
            if settings.auth_type == AuthType::Iam { AuthType::ScramSha256 } else { settings.auth_type },
        )
        .await?;
        // Who may use the console is said to nobody who has proven nothing.
        if !is_admin && !settings.is_stats_user(&wanted.user) && !any {
            return Err(LoginRefusal::Error(client_error::console_not_allowed(&wanted.user)));
        }
        Ok(Destination::Console { is_admin: is_admin || any })
    }

    /// `application_name_add_host`.
    fn add_host_to_name(&self, settings: &Settings, tracked: &mut Vec<(ParameterId, String)>) {
        let Some(name) = self.services.context.parameters.id("application_name") else { return };
        if !settings.application_name_add_host {
            return;
        }
        let given = tracked.iter().position(|(id, _)| *id == name);
        let text = given.map_or_else(|| "app".to_owned(), |at| tracked.remove(at).1);
        tracked.push((name, format!("{text} - {}", self.info.remote())));
    }

    /// Greets the client and starts its session.
    async fn session(
        mut self,
        pool: Rc<Pool>,
        greeting: startup_response::StartupReady,
        connection: Connection,
    ) {
        if self.stream.send_all(&greeting.message).await.is_err() {
            return;
        }
        let start = Start {
            client: self.stream,
            up: self.inbound,
            parameters: greeting.parameters,
            parameters_proven: greeting.parameters_proven,
        };
        let session = Session::new(pool, self.info.clone(), start);
        connection.serve(session);
    }

    fn console(self, is_admin: bool, connection: Connection) {
        let (console, info) = (self.services.console.clone(), self.info.clone());
        let session = admin::ConsoleSession::new(console, info, is_admin, self.stream, self.inbound);
        connection.go_on(move |connection| async move {
            if let Some(error) = session.run().await {
                connection.log_close(&CloseReason::Error(error));
            }
        });
    }
}
