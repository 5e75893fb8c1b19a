//! A server for unit tests, on one end of a socket pair. Owns facts of which none has the value of a new server.

use super::connect::Route;
use super::{Server, ServerFacts, ServerInfo};
use crate::client_identity::Replication;
use crate::config::TargetSessionAttrs;
use crate::limits::Permit;
use crate::net::{Endpoint, Socket, Stream};
use crate::parameters::{ParameterIds, Parameters};
use crate::prepared::{Interner, ServerCache, ServerUnnamed};
use crate::server_roles::RequiredRole;
use std::cell::{Cell, RefCell};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

const BODY: &[u8] = b"SELECT 1\0\0\0";

/// Facts of which none has the value of a new server.
fn facts(now: Instant) -> ServerFacts {
    ServerFacts {
        id: 11,
        generation: 12,
        pid: 13,
        cancel_key: Box::from(*b"14"),
        route: Route { endpoint: Endpoint::Unix("15".into()), tls: None, address: None },
        required: Some(RequiredRole {
            host: "23".into(),
            address: "24".into(),
            wanted: TargetSessionAttrs::Standby,
        }),
        remote: Some(Endpoint::Unix("16".into())),
        local: Some(Endpoint::Unix("17".into())),
        tls: "18".to_owned(),
        logged_in_at: now - Duration::from_secs(19),
        connected_wall: SystemTime::UNIX_EPOCH + Duration::from_secs(20),
        retire_at: Some(now + Duration::from_secs(21)),
        has_replacement: Cell::new(true),
        replication: Replication::Logical,
        application_name: RefCell::new("22".to_owned()),
    }
}

/// An idle server. Its route leads nowhere.
pub(crate) fn server(stream: UnixStream, permits: Vec<Permit>, now: Instant) -> Server {
    let (parameters, statements) = (Parameters::new([]), Interner::default());
    let name = parameters.id("application_name").unwrap();
    stream.set_nonblocking(true).unwrap();
    let mut prepared = ServerCache::default();
    prepared.insert(statements.intern(BODY), 31);
    prepared.mark_others_uncertain();
    let mut reported = ParameterIds::default();
    reported.insert(name);
    let touched_at = Rc::new(Cell::new(now - Duration::from_secs(32)));
    let info = Rc::new(ServerInfo::new(facts(now), touched_at));
    info.prepared_count.set(prepared.len());
    Server {
        stream: Stream::Plain(Socket::new(stream.into()).unwrap()),
        parameters: parameters.set_of([(name, "22".into())]),
        reported,
        prepared,
        unnamed: ServerUnnamed::Unknown,
        has_client_names: true,
        last_client: 7,
        permits,
        info,
    }
}
