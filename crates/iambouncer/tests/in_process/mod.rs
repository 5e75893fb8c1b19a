//! A pooler inside the test process, and a minimal client. Owns no process: the pooler ends with the test
//! binary.

use iambouncer::admin::Reloader;
use iambouncer::config::{MapEnvironment, load_file};
use iambouncer::context::ConfigFiles;
use iambouncer::net::listener::{self, PortUse};
use iambouncer::net::tcp_options::TcpOptions;
use iambouncer::pooler::{self, FirstLogin, StartPlan, signals};
use rds_iam::{AwsCredentials, TokenEngine};
use rds_sim::postgres::Postgres;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

/// Starts a pooler in front of `server` and returns its port. `settings` are lines of `[pgbouncer]`;
/// `on_thread` runs on the thread of the first worker before the worker starts.
pub fn start_pooler(server: &Postgres, settings: &str, on_thread: fn()) -> u16 {
    let dir = tempfile::tempdir().unwrap();
    let ini = dir.path().join("pooler.ini");
    let text = format!(
        "[databases]\napp = host=127.0.0.1 port={} dbname=postgres user=postgres\n[pgbouncer]\nauth_type = any\n\
         pool_mode = transaction\nserver_tls_sslmode = disable\nlog_stats = 0\nmax_client_conn = 300\n{settings}\n",
        server.port()
    );
    std::fs::write(&ini, text).unwrap();
    let config = load_file(&ini, &MapEnvironment::default(), &[]).unwrap().config;
    let bound =
        listener::bind_tcp(&["127.0.0.1".to_owned()], 0, 16, TcpOptions::default(), PortUse::Exclusive)
            .unwrap();
    let port = bound[0].endpoint.port();
    let loaded = ConfigFiles {
        config: Arc::new(config),
        users: Arc::default(),
        users_stamp: None,
        ident: Arc::default(),
        hba: Arc::default(),
        ldap_tls: None,
        server_tls: None,
        client_tls: None,
        secrets: Default::default(),
    };
    std::thread::spawn(move || {
        let control =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let inside = control.enter();
        let plan = StartPlan {
            loaded,
            bound,
            reloader: Reloader { read: Arc::new(|_| Err("not here".to_owned())), log: Arc::new(|_| Ok(())) },
            control: control.handle().clone(),
            tokens: TokenEngine::new(AwsCredentials::shared()),
            resolver: None,
            http: Vec::new(),
            signals: signals::catch().unwrap(),
            first_login: FirstLogin::NotNeeded,
            on_ready: Box::new(|| ()),
        };
        drop(inside);
        on_thread();
        pooler::run(plan).unwrap();
    });
    port
}

/// Reads up to a ReadyForQuery and returns its transaction status.
pub fn until_ready(stream: &mut TcpStream) -> u8 {
    let mut buffer = [0; 4096];
    let mut tail = Vec::new();
    loop {
        let n = stream.read(&mut buffer).unwrap();
        assert!(n > 0, "the pooler closed the connection");
        tail.extend_from_slice(&buffer[..n]);
        if let Some((state, rest)) = tail.split_last()
            && rest.ends_with(b"Z\0\0\0\x05")
        {
            return *state;
        }
    }
}

pub fn framed(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(body);
    out
}

/// Logs in a client; every connection uses the same application name.
pub fn log_in(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut startup = Vec::new();
    let parameters = [("user", "postgres"), ("database", "app"), ("application_name", "idle")];
    wire::encode::startup(&mut startup, wire::startup::Version::V3_0, &parameters);
    stream.write_all(&startup).unwrap();
    until_ready(&mut stream);
    stream
}
