//! The PostgreSQL shared by most tests. Owns its users and databases.

use rds_sim::postgres::{Postgres, PostgresOptions};
use std::sync::OnceLock;

/// One server for all tests of this process; it ends with the process.
pub fn postgres() -> &'static Postgres {
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    SERVER.get_or_init(|| {
        let server = start(PostgresOptions { max_connections: 300, ..PostgresOptions::default() });
        server.sql("CREATE ROLE app LOGIN PASSWORD 'secret'").unwrap();
        server.sql("CREATE ROLE other LOGIN PASSWORD 'other'").unwrap();
        server.sql("CREATE DATABASE app OWNER app").unwrap();
        server
    })
}

/// Starts a server for one test.
pub fn start(options: PostgresOptions) -> Postgres {
    Postgres::start(&options).expect("PostgreSQL starts; `make setup` installs it")
}
