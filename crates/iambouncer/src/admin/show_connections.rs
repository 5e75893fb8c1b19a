//! SHOW CLIENTS, SERVERS, SOCKETS and ACTIVE_SOCKETS, which have the same columns. Owns their tables; never shows a secret
//! or a query.

use super::columns::{Column, PendingRecords, Records, Table, int4, shown, text};
use super::console::Console;
use crate::clients::{ClientInfo, ClientState};
use crate::identities::text_of_time;
use crate::net::Endpoint;
use crate::pool::Pool;
use crate::server::{Activity, ServerInfo};
use crate::worker;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

/// Pools whose servers are listed before other tasks of the worker run.
const POOLS_PER_STEP: usize = 100;

/// One connection.
pub(super) enum ConnectionRecord {
    Client(Rc<ClientInfo>),
    Server(ServerPeer),
}

pub(super) struct ServerPeer {
    pool: Rc<Pool>,
    info: Rc<ServerInfo>,
}

impl ConnectionRecord {
    /// The value of a column for either kind of connection.
    fn show<C: ToString, S: ToString>(
        &self,
        client: impl FnOnce(&ClientInfo) -> C,
        server: impl FnOnce(&ServerPeer) -> S,
    ) -> Option<String> {
        match self {
            Self::Client(info) => shown(client(info)),
            Self::Server(peer) => shown(server(peer)),
        }
    }

    fn remote(&self) -> Option<Endpoint> {
        match self {
            Self::Client(info) => Some(info.remote()),
            Self::Server(ServerPeer { info, .. }) => {
                Some(info.facts.remote.as_ref().unwrap_or(&info.facts.route.endpoint).clone())
            }
        }
    }

    fn local(&self) -> Option<Endpoint> {
        match self {
            Self::Client(info) => info.local(),
            Self::Server(peer) => peer.info.facts.local.clone(),
        }
    }
}

fn host_text(end: Option<Endpoint>) -> Option<String> {
    shown(end.map_or_else(|| "unix".to_owned(), |end| end.host_text()))
}

fn port(end: Option<Endpoint>) -> Option<String> {
    shown(end.map_or(0, |end| end.port()))
}

/// The text of a time of the worker's clock.
fn wall_text(at: Instant) -> String {
    text_of_time(SystemTime::now() - worker::now().saturating_duration_since(at))
}

/// How long a client has been waiting for a server.
pub(super) fn wait(client: &ClientInfo) -> Duration {
    let is_waiting = client.state.get() == ClientState::Waiting;
    let since = client.timing.get().query_at.filter(|_| is_waiting);
    since.map(|at| worker::now() - at).unwrap_or_default()
}

fn requested_at(client: &ClientInfo) -> Instant {
    let timing = client.timing.get();
    timing.query_at.unwrap_or(timing.quiet_since)
}

/// What identifies a connection in `ptr` and `link`.
pub(super) fn link(kind: char, id: u64) -> String {
    if id == 0 { String::new() } else { format!("{kind}{id:x}") }
}

/// The state in SHOW SOCKETS, which names the kind of connection, too.
fn socket_state(client: &ClientInfo) -> &'static str {
    match client.state.get() {
        ClientState::Login => "cl_login",
        ClientState::Idle | ClientState::Active => "cl_active",
        ClientState::Waiting => "cl_waiting",
    }
}

fn server_socket_state(activity: Activity) -> &'static str {
    match activity {
        Activity::Active => "sv_active",
        Activity::Idle => "sv_idle",
        Activity::Tested => "sv_tested",
        Activity::Listening => "sv_listen",
        Activity::BeingCanceled | Activity::Closing => "sv_being_canceled",
    }
}

fn state(connection: &ConnectionRecord) -> Option<String> {
    connection.show(|client| client.state.get().as_str(), |server| server.info.activity.get().as_str())
}

/// The columns up to `id`, with another state in each table.
macro_rules! columns {
    ($state:expr $(, $more:expr)*) => {
        &[
            text("type", |peer| peer.show(|_| "C", |_| "S")),
            text("user", |peer| peer.show(|c| c.identity().user.clone(), |s| s.pool.user.clone())),
            text("database", |peer| peer.show(|c| c.identity().database.clone(), |s| s.pool.database.name.clone())),
            text("replication", |peer| {
                peer.show(|c| c.identity().replication.as_str(), |s| s.info.facts.replication.as_str())
            }),
            text("state", $state),
            text("addr", |peer| host_text(peer.remote())),
            int4("port", |peer| port(peer.remote())),
            text("local_addr", |peer| host_text(peer.local())),
            int4("local_port", |peer| port(peer.local())),
            text("connect_time", |peer| {
                peer.show(|c| text_of_time(c.connected_wall()), |s| text_of_time(s.info.facts.connected_wall))
            }),
            text("request_time", |peer| {
                peer.show(|c| wall_text(requested_at(c)), |s| wall_text(s.info.touched_at.get()))
            }),
            int4("wait", |peer| peer.show(|c| wait(c).as_secs(), |_| 0)),
            int4("wait_us", |peer| peer.show(|c| wait(c).subsec_micros(), |_| 0)),
            int4("close_needed", |peer| peer.show(|_| 0, |s| u8::from(s.info.close_needed.get()))),
            text("ptr", |peer| peer.show(|c| link('c', c.id), |s| link('s', s.info.facts.id))),
            text("link", |peer| {
                let of_client = |client: &ClientInfo| link('s', client.server().map_or(0, |server| server.facts.id));
                peer.show(of_client, |s| link('c', s.info.client_id.get()))
            }),
            int4("remote_pid", |peer| peer.show(ClientInfo::pid, |s| s.info.facts.pid)),
            text("tls", |peer| peer.show(|c| c.identity().tls.clone(), |s| s.info.facts.tls.clone())),
            text("application_name", |peer| {
                peer.show(
                    |c| c.identity().application_name.clone(),
                    |s| s.info.facts.application_name.borrow().clone(),
                )
            }),
            int4("prepared_statements", |peer| {
                peer.show(|c| c.prepared_count.get(), |s| s.info.prepared_count.get())
            }),
            int4("id", |peer| peer.show(|c| c.id, |s| s.info.facts.id)),
            $($more,)*
        ]
    };
}

/// A column with a position in PgBouncer's packet buffer. This program has none: what is received is sent on at once.
const fn position(name: &'static str) -> Column<ConnectionRecord> {
    int4(name, |_| shown(0))
}

const COLUMNS: &[Column<ConnectionRecord>] = columns!(state);
const SOCKET_COLUMNS: &[Column<ConnectionRecord>] = columns!(
    |peer| peer.show(socket_state, |s| server_socket_state(s.info.activity.get())),
    position("recv_pos"),
    position("pkt_pos"),
    position("pkt_remain"),
    position("send_pos"),
    position("send_remain"),
    position("pkt_avail"),
    position("send_avail")
);

/// Those of PgBouncer, and what the session of a client has.
const CLIENT_COLUMNS: &[Column<ConnectionRecord>] = columns!(
    state,
    text("pins", |peer| peer.show(ClientInfo::pin_reasons, |_| "")),
    text("settings", |peer| {
        peer.show(|c| format!("{:08x}", c.settings_fingerprint.get()), |_| String::new())
    })
);

pub(super) static CLIENTS: Table<ConnectionRecord> =
    Table { columns: CLIENT_COLUMNS, records: Records::EachWorkerInSteps(clients) };
pub(super) static SERVERS: Table<ConnectionRecord> =
    Table { columns: COLUMNS, records: Records::EachWorkerInSteps(servers) };

pub(super) static SOCKETS: Table<ConnectionRecord> =
    Table { columns: SOCKET_COLUMNS, records: Records::EachWorkerInSteps(sockets) };
pub(super) static ACTIVE_SOCKETS: Table<ConnectionRecord> =
    Table { columns: SOCKET_COLUMNS, records: Records::EachWorkerInSteps(active_sockets) };

/// Both kinds of connections.
fn sockets(console: Rc<Console>) -> PendingRecords<'static, ConnectionRecord> {
    Box::pin(async move {
        let mut records = clients_with(&console, |_| true).await;
        records.extend(servers_with(&console, |_| true).await);
        records
    })
}

/// Those with a query under way.
fn active_sockets(console: Rc<Console>) -> PendingRecords<'static, ConnectionRecord> {
    Box::pin(async move {
        let mut records = clients_with(&console, |client| client.timing.get().query_at.is_some()).await;
        records.extend(servers_with(&console, |server| server.activity.get() != Activity::Idle).await);
        records
    })
}

/// Clients that have logged in, or wait for a server to do so.
fn clients(console: Rc<Console>) -> PendingRecords<'static, ConnectionRecord> {
    let has_logged_in = |client: &ClientInfo| client.state.get() != ClientState::Login;
    Box::pin(async move { clients_with(&console, has_logged_in).await })
}

fn servers(console: Rc<Console>) -> PendingRecords<'static, ConnectionRecord> {
    Box::pin(async move { servers_with(&console, |_| true).await })
}

async fn clients_with(console: &Console, is_shown: impl Fn(&ClientInfo) -> bool) -> Vec<ConnectionRecord> {
    let mut records = Vec::new();
    let add = |client: &Rc<ClientInfo>| {
        if is_shown(client) {
            records.push(ConnectionRecord::Client(client.clone()));
        }
    };
    console.clients.visit_in_steps(add).await;
    records
}

async fn servers_with(console: &Console, is_shown: impl Fn(&ServerInfo) -> bool) -> Vec<ConnectionRecord> {
    let mut records = Vec::new();
    let add = |pool: Rc<Pool>| {
        let servers = pool.table.list().into_iter().filter(|info| is_shown(info));
        records.extend(servers.map(|info| ConnectionRecord::Server(ServerPeer { pool: pool.clone(), info })));
    };
    console.directory.visit_pools(POOLS_PER_STEP, add).await;
    records
}
