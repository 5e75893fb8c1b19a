//! ALTER ROLE … SET and ALTER DATABASE … SET: servers that have logged in before are replaced, one after another.

use super::{pins, run};
use crate::support::postgres::start;
use crate::support::{Bouncer, eventually};
use rds_sim::postgres::{Postgres, PostgresOptions};

/// A server whose roles are not those of other tests, and a pooler with two servers of it.
fn with_own_server() -> (Postgres, Bouncer) {
    let server = start(PostgresOptions::default());
    server.sql("CREATE ROLE app SUPERUSER LOGIN").unwrap();
    server.sql("CREATE DATABASE app OWNER app").unwrap();
    let bouncer = Bouncer::in_front_of(&server, &["session_state = follow", "default_pool_size = 2"]);
    (server, bouncer)
}

#[test]
fn servers_with_old_settings_of_their_role_or_database_are_replaced() {
    let (server, bouncer) = with_own_server();
    let (mut a, mut b) = (bouncer.client(), bouncer.client());
    let mut kept = bouncer.client();
    run(&mut kept, &["SET work_mem = '1MB'"]);
    for client in [&mut a, &mut b] {
        run(client, &["BEGIN", "SELECT 1"]);
    }
    for client in [&mut a, &mut b] {
        run(client, &["COMMIT"]);
    }
    let old = bouncer.show("SERVERS", "remote_pid");
    assert_eq!(old.len(), 2);
    run(&mut a, &["ALTER ROLE app SET work_mem = '7MB'", "SELECT 1"]);
    eventually("no server has the old settings", || {
        assert_eq!(kept.value("SHOW work_mem"), "1MB");
        b.value("SHOW work_mem") == "7MB"
            && bouncer.show("SERVERS", "remote_pid").iter().all(|pid| !old.contains(pid))
    });
    // Elsewhere: noticed with the next comparison, which a change of the catalog causes here.
    server.sql("ALTER ROLE app RESET work_mem; ALTER DATABASE app SET work_mem = '9MB'").unwrap();
    run(&mut a, &["CREATE SCHEMA compared", "SELECT 1"]);
    eventually("the settings of the database are used", || b.value("SHOW work_mem") == "9MB");
    assert_eq!(kept.value("SHOW work_mem"), "1MB");
    assert!(pins(&bouncer).is_empty());
}

#[test]
fn a_client_that_keeps_its_server_keeps_the_settings_of_its_login() {
    let (_server, bouncer) = with_own_server();
    let (mut kept, mut other) = (bouncer.client(), bouncer.client());
    run(&mut kept, &["CREATE TEMP TABLE t (a int)"]);
    let pid = kept.value("SELECT pg_backend_pid()");
    run(&mut other, &["ALTER ROLE app SET work_mem = '7MB'", "SELECT 1"]);
    eventually("the other server is a new one", || other.value("SHOW work_mem") == "7MB");
    assert_eq!(kept.value("SHOW work_mem"), "4MB");
    assert_eq!(kept.value("SELECT pg_backend_pid()"), pid);
    run(&mut kept, &["DROP TABLE t"]);
    eventually("its server is replaced when it is free", || kept.value("SHOW work_mem") == "7MB");
}
