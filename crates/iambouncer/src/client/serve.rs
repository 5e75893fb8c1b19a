//! Serves one client from accept to its session. Owns the order of the steps and their log lines.

use super::authenticate::{self, ClientClaim, LoginRefusal};
use super::connection::{ClientPermits, Connection, ConnectionPermit};
use super::handshake::{self, HandshakeError, InitialPacket};
use super::interrupt::Interrupt;
use super::login_record::LoginRecord;
use super::login_wait::LoginWait;
use super::method::AuthMethod;
use super::replication::{self, ReplicationRequest};
use super::startup::{self, SessionRequest};
use super::{admission, auth_query, cancel, log_lines, startup_response};
use crate::admin;
use crate::auth::hba::HbaClient;
use crate::client_error::{self, ClientError};
use crate::client_identity::{ClientIdentity, Replication};
use crate::clients::ClientInfo;
use crate::config::{Config, Settings, TlsMode};
use crate::files::PermittedUse;
use crate::log_limit::{LinePermit, warn_unauthenticated};
use crate::net::tls::TlsStream;
use crate::net::trust::words_of;
use crate::net::{Endpoint, Inbound, Socket, Stream};
use crate::parameters::ParameterId;
use crate::pending_logins::PendingLogin;
use crate::pool::Pool;
use crate::relay::{CloseReason, Session, Start};
use crate::server::target::LearnedCredential;
use crate::stats::client_counters::ClientLoginResult;
use crate::worker::{self, timers};
use crate::worker_state::Worker;
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use wire::encode;
use wire::startup::Version;

/// Longest time to wait for a client to read the error that rejects it.
const FINAL_MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves one client of a listener.
pub async fn serve(
    worker: Rc<Worker>,
    accepted: OwnedFd,
    remote: Endpoint,
    listener: Endpoint,
    permit: ConnectionPermit,
) {
    let socket = match Socket::of_login(accepted) {
        Ok(socket) => socket,
        Err(error) => {
            let client = &remote;
            warn_unauthenticated!(worker.context, "attach", %client, %error, "connection dropped");
            return;
        }
    };
    let local = match listener {
        // The listener's address is enough, unless it is the unspecified address.
        Endpoint::Tcp(at) if at.ip().is_unspecified() => socket.local(),
        at => Some(at),
    };
    let pid = match remote {
        Endpoint::Tcp(_) => 0,
        Endpoint::Unix(_) => socket.unix_peer().map_or(0, |peer| peer.pid),
    };
    let Some(info) = worker.clients.add(remote, local, pid, worker::now()) else { return };
    let ConnectionPermit { of_worker, of_process, pending, permitted } = permit;
    pending.set_slot(info.slot);
    let places = ClientPermits {
        of_worker: Some(of_worker),
        _of_process: Some(of_process),
        ..ClientPermits::default()
    };
    let connection = Connection::new(worker.clone(), info.clone(), places);
    let limit = worker.context.config().settings.client_login_timeout;
    let interrupt = Interrupt::new(worker.clone(), info.clone(), &pending);
    let record = LoginRecord::new(worker.clone());
    let opened = {
        // Pinned here: passing the future by value would reserve its memory twice.
        let tls = worker.context.loaded().client_tls.as_ref().map(|tls| tls.config.clone());
        let opening = pin!(handshake::open(socket, tls, &interrupt));
        timers::timeout(limit, opening).await
    };
    let opened = match opened {
        Some(Ok(opened)) => opened,
        Some(Err(error)) => return end_handshake(&worker, &info, error, &interrupt, &record).await,
        None => {
            record.end(ClientLoginResult::Timeout);
            let client = info.remote();
            warn_unauthenticated!(worker.context, "silent", %client, "client_login_timeout before a startup packet");
            return;
        }
    };
    match opened {
        InitialPacket::Cancel { stream, pid, key } => {
            record.discard();
            // Evicted, it gives up its place; a request that has reached its worker goes on.
            let sender = cancel::Sender::of(info.remote(), &stream);
            let _ = interrupt.or(pin!(cancel::route(&worker, &sender, pid, &key))).await;
            drop(stream);
        }
        InitialPacket::Session { stream, inbound, version, parameters } => {
            let pending = Some(pending);
            let (worker, info) = (&worker, &info);
            let entry = LoginInProgress { worker, info, stream, inbound, pending, permitted, record };
            entry.admit(version, parameters, limit, connection, interrupt).await;
        }
    }
}

/// Ends a connection without a startup packet.
async fn end_handshake(
    worker: &Worker,
    info: &ClientInfo,
    error: HandshakeError,
    interrupt: &Interrupt,
    record: &LoginRecord,
) {
    match &error {
        HandshakeError::NothingSent => record.discard(),
        HandshakeError::Gone => record.end(interrupt.result_or(ClientLoginResult::Abandoned)),
        _ => record.end(interrupt.result_or(ClientLoginResult::Refused)),
    }
    let client = info.remote();
    match error {
        HandshakeError::NothingSent | HandshakeError::Gone => {}
        HandshakeError::Tls(error) => {
            let error = words_of(&error);
            warn_unauthenticated!(worker.context, "tls", %client, %error, "TLS handshake with client failed");
        }
        HandshakeError::Malformed(error) => {
            warn_unauthenticated!(worker.context, "startup", %client, %error, "closing without an answer");
        }
        HandshakeError::Error(stream, error) => reject(worker, info, *stream, &error).await,
        HandshakeError::ErrorBeforeV3(stream, error) => {
            log_refusal(worker, info, &error);
            let mut message = Vec::new();
            error.encode_fatal_before_v3(&mut message);
            send_last(*stream, &message).await;
        }
        HandshakeError::Interrupted(stream, error) => reject_at_once(worker, info, *stream, &error).await,
    }
}

/// Sends the error to a client that has not logged in, with a time limit.
async fn reject(worker: &Worker, info: &ClientInfo, stream: Stream, error: &ClientError) {
    log_refusal(worker, info, error);
    let mut message = Vec::new();
    error.encode_fatal(&mut message);
    send_last(stream, &message).await;
}

/// Sends a client its last message, with a time limit.
pub(super) async fn send_last(mut stream: Stream, message: &[u8]) {
    let _ = timers::timeout(FINAL_MESSAGE_TIMEOUT, stream.send_all(message)).await;
}

/// Like [`reject`], but does not wait: the client's place is needed now.
async fn reject_at_once(worker: &Worker, info: &ClientInfo, mut stream: Stream, error: &ClientError) {
    log_refusal(worker, info, error);
    let mut message = Vec::new();
    error.encode_fatal(&mut message);
    poll_fn(|cx| {
        let _ = stream.poll_send(cx, &message, &[]);
        Poll::Ready(())
    })
    .await;
}

fn log_refusal(worker: &Worker, info: &ClientInfo, error: &ClientError) {
    worker.context.process.client_counters.count_error(&error.code);
    let kind = error.kind();
    // The log limit is for unauthenticated clients only.
    let permit = match info.pool.get() {
        Some(_) => Some(LinePermit::default()),
        None => worker.context.process.log_limit.turn(kind, worker::now()),
    };
    if let Some(permit) = permit {
        log_lines::refusal(&worker.context.config().settings, info, error, permit);
    }
}

/// A client between its startup packet and its session.
struct LoginInProgress<'a> {
    worker: &'a Rc<Worker>,
    info: &'a Rc<ClientInfo>,
    stream: Stream,
    inbound: Inbound,
    /// Set until the client has logged in.
    pending: Option<PendingLogin>,
    /// What the connection may be used for.
    permitted: PermittedUse,
    record: LoginRecord,
}

/// What an authenticated client has requested.
enum Destination {
    Console { is_admin: bool },
    Session { pool: Rc<Pool>, tracked: Vec<(ParameterId, String)> },
    Replication { pool: Rc<Pool>, request: ReplicationRequest },
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
        let evicted_or_refused = interrupt.result_or(ClientLoginResult::Refused);
        // Admitted or rejected, it is no longer a pending login.
        self.pending = None;
        let admitted = match started {
            Ok(Some(Ok(admitted))) => admitted,
            Ok(Some(Err(LoginRefusal::Gone))) => return,
            Ok(Some(Err(LoginRefusal::Error(error)))) => {
                self.record.end(ClientLoginResult::Refused);
                return reject(self.worker, self.info, self.stream, &error).await;
            }
            Ok(None) => {
                self.record.end(ClientLoginResult::Timeout);
                return reject(self.worker, self.info, self.stream, &client_error::login_timeout()).await;
            }
            Err(error) => {
                self.record.end(evicted_or_refused);
                return reject_at_once(self.worker, self.info, self.stream, &error).await;
            }
        };
        log_lines::login_attempt(&self.worker.context.config().settings, self.info);
        let identity = (*self.info.identity()).clone();
        self.info.set_identity(self.worker.context.client_identities.share(identity));
        match admitted {
            Destination::Console { is_admin } => {
                self.console(is_admin, connection);
            }
            // Waiting for a server is outside the login timeout: it has its own limits.
            Destination::Replication { pool, request } => self.replication(&pool, request, connection).await,
            Destination::Session { pool, tracked } => {
                let (stream, inbound) = (&mut self.stream, &mut self.inbound);
                let client = self.info;
                let wait = LoginWait { pool: &pool, client, stream, inbound, has_notified: false };
                // A client that waits notices itself that it is killed.
                match startup_response::startup_response(self.worker, wait, &tracked).await {
                    Ok(ready) => self.session(pool, ready, connection).await,
                    Err(LoginRefusal::Gone) => {}
                    Err(LoginRefusal::Error(error)) => {
                        self.record.end(ClientLoginResult::Refused);
                        reject(self.worker, self.info, self.stream, &error).await;
                    }
                }
            }
        }
    }

    async fn log_in(
        &mut self,
        version: Version,
        parameters: Vec<(String, String)>,
        connection: &mut Connection,
    ) -> Result<Destination, LoginRefusal> {
        let config = self.worker.context.config();
        let settings = &config.settings;
        self.set_claimed_identity(&parameters);
        let request =
            startup::sort(&self.worker.context, settings, parameters).map_err(LoginRefusal::Error)?;
        self.set_identity(&request);
        if settings.client_tls_sslmode >= TlsMode::Require
            && self.stream.tls().is_none()
            && matches!(self.info.remote(), Endpoint::Tcp(_))
        {
            return Err(LoginRefusal::Error(client_error::tls_required()));
        }
        self.negotiate(version, &request.unknown_options).await?;
        if request.database == admin::DATABASE {
            return self.log_in_to_console(&config, &request, connection).await;
        }
        admission::check_before_proof(self.worker, settings, self.permitted, &self.info.remote())?;
        let method = self.method(&request).map_err(LoginRefusal::Error)?;
        let learned = self.authenticate(&config, &request, method).await?;
        let database = admission::enter(self.worker, settings, &request, connection, &mut self.pending)?;
        let forced = database.line.borrow().user.clone();
        let pool = self.worker.directory.pool(&database, forced.as_deref().unwrap_or(&request.user));
        // It is useless if the pool logs in as another, forced user.
        if let Some(credential) = learned.filter(|_| *pool.user == *request.user) {
            pool.learn(credential);
        }
        // Cannot fail: a client logs in once.
        let _ = self.info.pool.set(pool.clone());
        let mut tracked = request.tracked;
        for (name, value) in request.followed {
            let id = self.worker.context.parameters.followed(&name);
            let id = id.ok_or_else(|| LoginRefusal::Error(client_error::unknown_startup_parameter(&name)))?;
            tracked.push((id, value));
        }
        self.add_host_to_name(settings, &mut tracked);
        Ok(match request.replication {
            Replication::No => Destination::Session { pool, tracked },
            replication => {
                let request = ReplicationRequest { replication, options: request.options, tracked };
                Destination::Replication { pool, request }
            }
        })
    }

    /// Sets the identity before the packet is validated, so that it is logged even if the packet is rejected.
    fn set_claimed_identity(&self, parameters: &[(String, String)]) {
        let value = |key: &str| {
            let found = parameters.iter().find(|(name, _)| name == key);
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

    fn set_identity(&self, request: &SessionRequest) {
        let identity = ClientIdentity {
            user: request.user.as_str().into(),
            database: request.database.as_str().into(),
            application_name: request.application_name.as_deref().unwrap_or_default().into(),
            tls: self.stream.tls().map(TlsStream::description).unwrap_or_default().into(),
            replication: request.replication,
        };
        // Not shared yet: unauthenticated claims must not outlive the connection.
        self.info.set_identity(Rc::new(identity));
    }

    /// Offers the newest version that is known if the client requested a newer one or an unknown option. For the pooler,
    /// 3.0 and 3.2 are the same: 3.2 only permits longer cancel keys.
    async fn negotiate(&mut self, version: Version, unknown_options: &[String]) -> Result<(), LoginRefusal> {
        if version <= Version::V3_2 && unknown_options.is_empty() {
            return Ok(());
        }
        let mut message = Vec::new();
        let options: Vec<&str> = unknown_options.iter().map(String::as_str).collect();
        encode::negotiate_protocol_version(&mut message, version.min(Version::V3_2), &options);
        self.stream.send_all(&message).await.map_err(|_| LoginRefusal::Gone)
    }

    async fn log_in_to_console(
        &mut self,
        config: &Config,
        request: &SessionRequest,
        connection: &mut Connection,
    ) -> Result<Destination, LoginRefusal> {
        let settings = &config.settings;
        if request.user == admin::DATABASE && self.is_local_operator() {
            admission::enter_console(self.worker, &request.user, true, connection)?;
            return Ok(Destination::Console { is_admin: true });
        }
        let is_admin = settings.is_admin(&request.user);
        let method = self.method(request).map_err(LoginRefusal::Error)?.of_console();
        let any = method == AuthMethod::Any;
        self.authenticate(config, request, method).await?;
        // Only authenticated clients learn who may use the console.
        if !is_admin && !settings.is_stats_user(&request.user) && !any {
            return Err(LoginRefusal::Error(client_error::console_not_allowed(&request.user)));
        }
        let is_admin = is_admin || any;
        admission::enter_console(self.worker, &request.user, is_admin, connection)?;
        Ok(Destination::Console { is_admin })
    }

    /// Runs the authentication exchange.
    async fn authenticate(
        &mut self,
        config: &Config,
        request: &SessionRequest,
        method: AuthMethod,
    ) -> Result<Option<LearnedCredential>, LoginRefusal> {
        let Self { worker, stream, inbound, .. } = self;
        let is_disabled = |name: &str| worker.directory.known(name).is_some_and(|known| known.disabled.get());
        let lookup = &auth_query::target(&worker.context, config, &request.database, is_disabled);
        let claim = ClientClaim { user: &request.user, database: &request.database, lookup };
        authenticate::run(&worker.context, stream, inbound, &claim, method).await
    }

    /// How the client has to authenticate.
    fn method(&self, request: &SessionRequest) -> Result<AuthMethod, ClientError> {
        let address = match self.info.remote() {
            Endpoint::Tcp(at) => Some(at.ip()),
            Endpoint::Unix(_) => None,
        };
        let client = HbaClient {
            address,
            is_encrypted: self.stream.tls().is_some(),
            is_replication: request.replication == Replication::Physical,
            database: &request.database,
            user: &request.user,
        };
        AuthMethod::of(&self.worker.context.loaded(), &client)
    }

    /// True if the client is on a UNIX socket and runs under the pooler's own account, which could replace the
    /// pooler's configuration anyway. As in PgBouncer, such a client needs no password for the console.
    fn is_local_operator(&self) -> bool {
        matches!(self.info.remote(), Endpoint::Unix(_))
            && self.stream.unix_peer().is_some_and(|peer| peer.uid == rustix::process::geteuid())
    }

    /// Applies `application_name_add_host`.
    fn add_host_to_name(&self, settings: &Settings, tracked: &mut Vec<(ParameterId, String)>) {
        let Some(name) = self.worker.context.parameters.id("application_name") else { return };
        if !settings.application_name_add_host {
            return;
        }
        let given = tracked.iter().position(|(id, _)| *id == name);
        let text = given.map_or_else(|| "app".to_owned(), |at| tracked.remove(at).1);
        tracked.push((name, format!("{text} - {}", self.info.remote())));
    }

    /// Sends the startup response and starts the session.
    async fn session(
        mut self,
        pool: Rc<Pool>,
        ready: startup_response::StartupReady,
        connection: Connection,
    ) {
        if self.stream.send_all(&ready.message).await.is_err() {
            if let Some(lease) = ready.server {
                lease.release_dirty();
            }
            return;
        }
        self.stream.use_engine();
        // A login may have waited for its server.
        self.info.time(|timing| timing.quiet_since = worker::now());
        self.record.end(ClientLoginResult::Ok);
        pool.stats.count(|t| t.client_logins += 1);
        let start = Start {
            client: self.stream,
            up: self.inbound,
            parameters: ready.parameters,
            parameters_proven: ready.parameters_proven,
            server: ready.server,
        };
        let session = Session::new(pool, self.info.clone(), start);
        connection.serve(session);
    }

    /// Opens a server for replication, and passes everything on.
    async fn replication(mut self, pool: &Rc<Pool>, request: ReplicationRequest, connection: Connection) {
        let (context, stream, inbound) = (&self.worker.context, &mut self.stream, &mut self.inbound);
        // Boxed, since few clients need it.
        let opening = Box::pin(replication::open(context, pool, self.info, stream, inbound, request));
        match opening.await {
            Ok(server) => {
                let response = replication::startup_response(self.info, &server);
                if self.stream.send_all(&response).await.is_ok() {
                    self.stream.use_engine();
                    self.record.end(ClientLoginResult::Ok);
                    replication::serve(connection, self.info.clone(), self.stream, self.inbound, server);
                }
            }
            Err(LoginRefusal::Gone) => {}
            Err(LoginRefusal::Error(error)) => {
                self.record.end(ClientLoginResult::Refused);
                reject(self.worker, self.info, self.stream, &error).await;
            }
        }
    }

    fn console(self, is_admin: bool, connection: Connection) {
        self.record.end(ClientLoginResult::Ok);
        let (console, info) = (self.worker.console.clone(), self.info.clone());
        let session = admin::ConsoleSession::new(console, info, is_admin, self.stream, self.inbound);
        connection.continue_in(move |connection| async move {
            if let Some(error) = session.run().await {
                connection.log_close(&CloseReason::Error(error));
            }
        });
    }
}
