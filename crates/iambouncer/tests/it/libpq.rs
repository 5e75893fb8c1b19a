//! libpq 18, in psycopg: protocol versions, cancel requests and direct TLS as it requests them.

use crate::support::bouncer::Start;
use crate::support::drivers::python;
use crate::support::program::to_end;
use crate::support::tls_client::ClientSide;
use crate::support::{Bouncer, postgres};

/// Prints the protocol version, cancels a query with each of libpq's functions, and runs another.
const PROGRAM: &str = r#"
import os, psycopg, threading
assert psycopg.pq.version() >= 180000, "libpq 18 is required"
connection = psycopg.connect(autocommit=True)
print(connection.info.full_protocol_version)
slow = f"SELECT pg_sleep(60) /* {os.getpid()} */"

def cancel_when_running(cancel):
    with psycopg.connect(autocommit=True) as other:
        running = "SELECT 1 FROM pg_stat_activity WHERE query = %s AND state = 'active'"
        while not other.execute(running, (slow,)).fetchone():
            pass
    cancel()

for cancel in (connection.cancel, connection.cancel_safe):
    thread = threading.Thread(target=cancel_when_running, args=(cancel,))
    thread.start()
    try:
        connection.execute(slow)
    except psycopg.errors.QueryCanceled:
        print("canceled")
    thread.join()
    print(connection.execute("SELECT 'next'").fetchone()[0])
"#;

/// Runs the program with these variables of libpq; returns the protocol version.
fn protocol_version(bouncer: &Bouncer, variables: &[(&str, &str)]) -> String {
    let port = bouncer.port.to_string();
    let fixed = [("PGHOST", "127.0.0.1"), ("PGPORT", &*port), ("PGUSER", "app"), ("PGDATABASE", "app")];
    let mut program = python("python3");
    program.args(["-c", PROGRAM]).envs(fixed).envs(variables.iter().copied());
    let output = to_end(&mut program);
    let (version, rest) = output.stdout.split_once('\n').unwrap_or_default();
    assert_eq!(rest, "canceled\nnext\ncanceled\nnext\n", "{variables:?}: {output:?}");
    version.to_owned()
}

#[test]
fn libpq_logs_in_and_cancels_with_every_protocol_version() {
    let (min, max) = ("PGMINPROTOCOLVERSION", "PGMAXPROTOCOLVERSION");
    let plain = Bouncer::in_front_of(postgres(), &["default_pool_size = 4"]);
    let peered = Bouncer::in_front_of(postgres(), &["default_pool_size = 4", "peer_id = 7"]);
    for (bouncer, variables, version) in [
        (&plain, vec![], "30000"),
        (&plain, vec![(max, "3.2")], "30002"),
        (&plain, vec![(max, "latest")], "30002"),
        (&plain, vec![(min, "3.2"), (max, "latest")], "30002"),
        (&peered, vec![(min, "3.2"), (max, "latest")], "30002"),
    ] {
        assert_eq!(protocol_version(bouncer, &variables), version, "{variables:?}");
    }
}

#[test]
fn libpq_begins_tls_without_a_request() {
    let side = ClientSide::for_names(&["localhost", "127.0.0.1"]);
    let databases = format!("app = host=127.0.0.1 port={} dbname=app", postgres().port());
    let bouncer = side.set(Start::databases(&databases), "require").set("verbose = 1").start();
    let authority = side.authority_file().display().to_string();
    let tls = [("PGSSLMODE", "verify-full"), ("PGSSLROOTCERT", &*authority), ("PGSSLNEGOTIATION", "direct")];
    for version in ["3.0", "3.2"] {
        protocol_version(&bouncer, &[&tls[..], &[("PGMAXPROTOCOLVERSION", version)]].concat());
    }
}
