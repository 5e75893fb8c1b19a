//! SHOW CLIENTS and SHOW SERVERS, whose columns are the same. Owns their tables; never shows a secret or a query.

use super::columns::{Column, Records, Table, int4, int8, shown, text};
use super::console::Console;
use crate::clients::{ClientInfo, ClientState};
use crate::identities::text_of_time;
use crate::net::Endpoint;
use crate::pool::Pool;
use crate::server::ServerInfo;
use crate::worker;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

/// One connection.
pub(super) enum PeerRecord {
    Client(Rc<ClientInfo>),
    Server(ServerPeer),
}

pub(super) struct ServerPeer {
    pool: Rc<Pool>,
    info: Rc<ServerInfo>,
}

impl PeerRecord {
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
fn wait(client: &ClientInfo) -> Duration {
    let is_waiting = client.state.get() == ClientState::Waiting;
    let since = client.timing.get().query_at.filter(|_| is_waiting);
    since.map(|at| worker::now() - at).unwrap_or_default()
}

fn requested_at(client: &ClientInfo) -> Instant {
    let timing = client.timing.get();
    timing.query_at.unwrap_or(timing.quiet_since)
}

/// Client and server ids are separate sequences, but appear in the same columns.
fn link(kind: char, id: u64) -> String {
    if id == 0 { String::new() } else { format!("{kind}{id:x}") }
}

const COLUMNS: &[Column<PeerRecord>] = &[
    text("type", |peer| peer.show(|_| "C", |_| "S")),
    text("user", |peer| peer.show(|c| c.identity().user.clone(), |s| s.pool.user.clone())),
    text("database", |peer| peer.show(|c| c.identity().database.clone(), |s| s.pool.database.name.clone())),
    text("replication", |_| shown("none")),
    text("state", |peer| peer.show(|c| c.state.get().as_str(), |s| s.info.activity.get().as_str())),
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
    int4("remote_pid", |peer| peer.show(|_| 0, |s| s.info.facts.pid)),
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
    int8("id", |peer| peer.show(|c| c.id, |s| s.info.facts.id)),
];

pub(super) static CLIENTS: Table<PeerRecord> =
    Table { columns: COLUMNS, records: Records::EachWorker(clients) };
pub(super) static SERVERS: Table<PeerRecord> =
    Table { columns: COLUMNS, records: Records::EachWorker(servers) };

fn clients(console: &Console) -> Vec<PeerRecord> {
    console.clients.list().into_iter().map(PeerRecord::Client).collect()
}

fn servers(console: &Console) -> Vec<PeerRecord> {
    let of_pool = |pool: Rc<Pool>| {
        let servers = pool.table.list().into_iter();
        servers.map(move |info| PeerRecord::Server(ServerPeer { pool: pool.clone(), info }))
    };
    console.directory.pools().into_iter().flat_map(of_pool).collect()
}
