//! A move changes nothing about a server but its worker. Owns the list of what is compared, which names every field.

use super::moving::DetachedServer;
use super::sample::server;
use super::{Server, ServerFacts, ServerInfo};
use crate::limits::Counter;
use crate::parameters::Parameters;
use crate::prepared::Interner;
use crate::worker::{self, reactor::EngineKind};
use std::os::unix::net::UnixStream;
use std::time::Instant;

/// Everything that a move preserves. Every field is named, so that a new one has to be added here.
fn everything(server: &Server, permits: &Counter) -> Vec<String> {
    let ServerInfo {
        facts,
        touched_at,
        overlap,
        activity,
        client_id,
        // Recorded when the client is linked again.
        is_kept: _,
        close_needed,
        cancels_in_flight,
        prepared_count,
    } = &*server.info;
    let ServerFacts {
        id,
        generation,
        pid,
        cancel_key,
        route,
        required,
        remote,
        local,
        tls,
        logged_in_at,
        connected_wall,
        retire_at,
        has_replacement,
        replication,
        application_name,
    } = facts;
    let texts: Vec<_> =
        server.prepared.texts().iter().map(|(text, version, _)| (text.body.clone(), *version)).collect();
    let values: Vec<_> = server.parameters.iter().collect();
    vec![
        format!("{id} {generation} {pid} {cancel_key:?} {route:?} {remote:?} {local:?} {tls}"),
        format!("{logged_in_at:?} {connected_wall:?} {retire_at:?} {has_replacement:?} {application_name:?}"),
        format!("{replication:?} {required:?}"),
        format!("{touched_at:?} {activity:?} {client_id:?} {close_needed:?}"),
        format!("{cancels_in_flight:?} {prepared_count:?} {}", overlap.is_none()),
        format!("{values:?} {:?} {} {}", server.reported, server.has_client_names, server.last_client),
        format!("{texts:?} {}", server.prepared.has_uncertain()),
        format!("{} {}", server.permits.len(), permits.taken()),
    ]
}

#[test]
fn a_move_resets_no_fact_about_a_server() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let compared = worker::run(EngineKind::Epoll, async {
        let permits = Counter::default();
        let before = server(ours, vec![permits.take(None).unwrap()], Instant::now());
        let expected = everything(&before, &permits);
        let detached = DetachedServer::pack(before).await.unwrap();
        // Those of another worker.
        let (parameters, statements) = (Parameters::new([]), Interner::default());
        let (after, _) = detached.unpack(&parameters, &statements).unwrap();
        assert_eq!(everything(&after, &permits), expected);
        let name = parameters.id("application_name").unwrap();
        assert!(after.parameters.same(&parameters.set_of([(name, "22".into())])), "interned at its worker");
        drop(after);
        assert_eq!(permits.taken(), 0);
    });
    compared.unwrap();
}
