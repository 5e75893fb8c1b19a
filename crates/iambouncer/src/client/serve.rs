//! One client from accept to its session. Owns the order of the steps and what is logged of them.

use super::authenticate::{self, Denied};
use super::handshake::{self, NotOpened, Opened};
use super::interrupt::Interrupt;
use super::registered::{Registered, Seat};
use super::startup::{self, Wanted};
use super::{admission, cancel, greet};
use crate::admin;
use crate::clients::{ClientInfo, ClientTable};
use crate::config::{AuthType, Settings, TlsMode};
use crate::context::Context;
use crate::faults::{self, Fault};
use crate::files::PermittedUse;
use crate::introductions::Introduction;
use crate::log_limit::{Turn, warn_unauthenticated};
use crate::net::tls::TlsStream;
use crate::net::trust::words_of;
use crate::net::{Endpoint, Inbound, Socket, Stream};
use crate::pending_logins::PendingLogin;
use crate::pool::{Directory, Pool};
use crate::relay::{Ending, Session, Start};
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
    let Seat { worker, process, pending, permitted } = seat;
    pending.seated(info.slot);
    let registered = Registered::new(door.clone(), info.clone(), worker, process);
    let limit = door.context.config().settings.client_login_timeout;
    let interrupt = Interrupt::new(door.clone(), info.clone(), &pending);
    let opened = {
        // Pinned here: what takes a future by value has room for it twice.
        let opening = pin!(handshake::open(socket, door.context.loaded().client_tls.clone(), &interrupt));
        timers::timeout(limit, opening).await
    };
    let client = info.remote();
    let opened = match opened {
        Some(Ok(opened)) => opened,
        Some(Err(NotOpened::Gone)) => return,
        Some(Err(NotOpened::Tls(error))) => {
            let error = words_of(&error);
            warn_unauthenticated!(door.context, "tls", %client, %error, "TLS with client failed");
            return;
        }
        Some(Err(NotOpened::Malformed(error))) => {
            warn_unauthenticated!(door.context, "startup", %client, %error, "closing without an answer");
            return;
        }
        Some(Err(NotOpened::Fault(stream, fault))) => {
            return turn_away(&door, &info, *stream, &fault).await;
        }
        Some(Err(NotOpened::Interrupted(stream, fault))) => {
            return turn_away_at_once(&door, &info, *stream, &fault).await;
        }
        None => {
            warn_unauthenticated!(door.context, "silent", %client, "client_login_timeout before a startup packet");
            return;
        }
    };
    match opened {
        Opened::Cancel { stream, pid, key } => {
            cancel::route(&door, pid, key).await;
            drop(stream);
        }
        Opened::Session { stream, inbound, version, parameters } => {
            let pending = Some(pending);
            let entry = Entry { door: &door, info: &info, stream, inbound, pending, permitted };
            entry.admit(version, parameters, limit, registered, interrupt).await;
        }
    }
}

/// Tells a client that has not logged in why it may not, and waits a while until it has read that.
async fn turn_away(door: &Door, info: &ClientInfo, stream: Stream, fault: &Fault) {
    log_refusal(door, info, fault);
    send_farewell(stream, fault).await;
}

async fn send_farewell(mut stream: Stream, fault: &Fault) {
    let mut message = Vec::new();
    fault.encode_fatal(&mut message);
    let _ = timers::timeout(FAREWELL_LIMIT, stream.send_all(&message)).await;
}

/// True when the login of the client's pool to its server has failed with this.
fn is_of_failed_login(info: &ClientInfo, fault: &Fault) -> bool {
    info.pool.get().and_then(|pool| pool.last_failure()).is_some_and(|failure| failure == *fault)
}

/// The same for one whose place is wanted now.
async fn turn_away_at_once(door: &Door, info: &ClientInfo, mut stream: Stream, fault: &Fault) {
    log_refusal(door, info, fault);
    let mut message = Vec::new();
    fault.encode_fatal(&mut message);
    poll_fn(|cx| {
        let _ = stream.poll_send(cx, &message, &[]);
        Poll::Ready(())
    })
    .await;
}

fn log_refusal(door: &Door, info: &ClientInfo, fault: &Fault) {
    if !door.context.config().settings.log_pooler_errors {
        return;
    }
    let kind = fault.kind();
    let introduction = info.introduction();
    // Those who have proven who they are are not the ones that fill the log.
    let turn = match info.pool.get() {
        Some(_) => Some(Turn::default()),
        None => door.context.log_limit.turn(kind, worker::now()),
    };
    let Some(Turn { left_out }) = turn else { return };
    tracing::warn!(
        left_out,
        client = %info.remote(),
        user = %introduction.user,
        database = %introduction.database,
        code = %fault.code,
        blame = ?fault.blame,
        "closing because: {fault}"
    );
}

/// A client between its startup packet and its session.
struct Entry<'a> {
    door: &'a Rc<Door>,
    info: &'a Rc<ClientInfo>,
    stream: Stream,
    inbound: Inbound,
    /// Until it has logged in.
    pending: Option<PendingLogin>,
    /// What the connection may be used for.
    permitted: PermittedUse,
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
        interrupt: Interrupt,
    ) {
        let started = {
            let logging_in = pin!(self.log_in(version, parameters, &mut registered));
            interrupt.or(pin!(timers::timeout(limit, logging_in))).await
        };
        // Whether it is let in or turned away: its place among the others is free.
        self.pending = None;
        let admitted = match started {
            Ok(Some(Ok(admitted))) => admitted,
            Ok(Some(Err(Denied::Gone))) => return,
            Ok(Some(Err(Denied::Fault(fault)))) => {
                return turn_away(self.door, self.info, self.stream, &fault).await;
            }
            Ok(None) => return turn_away(self.door, self.info, self.stream, &faults::login_timeout()).await,
            Err(fault) => return turn_away_at_once(self.door, self.info, self.stream, &fault).await,
        };
        let introduction = (*self.info.introduction()).clone();
        self.info.introduce(self.door.context.introductions.share(introduction));
        match admitted {
            Admitted::Console { is_admin } => {
                self.log_login();
                self.console(is_admin, registered);
            }
            // Waiting for a server is not the client's doing: it has limits of its own.
            Admitted::Session { pool, tracked } => {
                let (stream, inbound) = (&mut self.stream, &mut self.inbound);
                let greeted = {
                    let context = &self.door.context;
                    let greeting = pin!(greet::greet(context, &pool, self.info, stream, inbound, &tracked));
                    interrupt.of_admitted().or(greeting).await
                };
                match greeted {
                    Ok(Ok(greeting)) => {
                        self.log_login();
                        self.session(pool, greeting, registered).await;
                    }
                    Ok(Err(Denied::Gone)) => {}
                    // The pool has logged it, with user and database.
                    Ok(Err(Denied::Fault(fault))) if is_of_failed_login(self.info, &fault) => {
                        send_farewell(self.stream, &fault).await;
                    }
                    Ok(Err(Denied::Fault(fault))) | Err(fault) => {
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
        self.introduce_unsorted(&parameters);
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
        admission::check_before_proof(self.door, settings, self.permitted)?;
        let keys = authenticate::run(
            &self.door.context,
            &mut self.stream,
            &mut self.inbound,
            &wanted.user,
            &wanted.database,
            settings.auth_type,
        )
        .await?;
        let database = admission::enter(self.door, settings, &wanted, registered, &mut self.pending)?;
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
        let introduction =
            Introduction { user: user.into(), database: database.into(), ..Introduction::default() };
        self.info.introduce(Rc::new(introduction));
    }

    fn introduce(&self, wanted: &Wanted) {
        let introduction = Introduction {
            user: wanted.user.as_str().into(),
            database: wanted.database.as_str().into(),
            application_name: wanted.application_name.as_deref().unwrap_or_default().into(),
            tls: self.stream.tls().map(TlsStream::description).unwrap_or_default().into(),
        };
        // Not shared yet: what anybody may claim is not kept beyond this connection.
        self.info.introduce(Rc::new(introduction));
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
        // Who may use the console is said to nobody who has proven nothing.
        if !is_admin && !settings.is_stats_user(&wanted.user) && !any {
            return Err(Denied::Fault(faults::console_not_allowed(&wanted.user)));
        }
        Ok(Admitted::Console { is_admin: is_admin || any })
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
        let start = Start {
            client: self.stream,
            up: self.inbound,
            parameters: greeting.parameters,
            parameters_proven: greeting.parameters_proven,
        };
        let session = Session::new(pool, self.info.clone(), start);
        registered.serve(session);
    }

    fn console(self, is_admin: bool, registered: Registered) {
        let (console, info) = (self.door.console.clone(), self.info.clone());
        let session = admin::Session::new(console, info, is_admin, self.stream, self.inbound);
        registered.go_on(move |registered| async move {
            if let Some(fault) = session.run().await {
                registered.log_ending(&Ending::Fault(fault));
            }
        });
    }
}
