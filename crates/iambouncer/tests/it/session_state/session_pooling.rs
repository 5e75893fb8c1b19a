//! Session pooling with `session_state = follow`: a client has its server from its login on, and the process ID in its cancel key
//! is that of its server, as with a direct connection.

use crate::cancel::cancel;
use crate::support::answering;
use crate::support::bouncer::Start;
use crate::support::raw::{self, Client, tags};
use crate::support::scripted::{self, First};
use crate::support::{Bouncer, TIMEOUT, Workers, eventually, postgres};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Instant;

const FOLLOW: [&str; 2] = ["pool_mode = session", "session_state = follow"];

fn start(settings: &[&str]) -> Bouncer {
    Bouncer::in_front_of(postgres(), &[&FOLLOW, settings].concat())
}

/// A connection that has sent its startup packet.
fn begin_login(bouncer: &Bouncer) -> Client {
    Client::start(bouncer.port, &[("user", "app"), ("database", "app")])
}

fn wait_for_waiting(bouncer: &Bouncer, count: &str) {
    let mut console = bouncer.console();
    eventually("the number of clients that wait", || console.pools("cl_waiting") == [count]);
}

/// Waits until this server runs a query.
fn wait_until_active(pid: u32) {
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND state = 'active'");
    eventually("the query runs", || postgres().sql(&sql).unwrap().trim() == "1");
}

/// Runs a query that another connection cancels with the client's key.
fn is_canceled(port: u16, client: &mut Client) {
    let (pid, key) = client.cancel_key();
    client.send_query("SELECT pg_sleep(60)");
    wait_until_active(pid);
    cancel(port, pid, &key);
    assert_eq!(super::code(&client.until_ready()), "57014");
}

#[test]
fn the_process_id_in_the_cancel_key_is_that_of_the_server() {
    let bouncer = start(&["workers = 2"]);
    let mut clients: Vec<Client> = (0..4).map(|_| bouncer.client()).collect();
    for client in &mut clients {
        let (pid, secret) = client.cancel_key();
        assert_eq!((client.value("SELECT pg_backend_pid()"), secret.len()), (pid.to_string(), 4));
    }
    let mut pids: Vec<u32> = clients.iter().map(|client| client.cancel_key().0).collect();
    pids.sort_unstable();
    let mut shown: Vec<u32> =
        bouncer.show("SERVERS", "remote_pid").iter().map(|p| p.parse().unwrap()).collect();
    shown.sort_unstable();
    assert_eq!(pids, shown);
}

#[test]
fn the_state_of_clients_and_servers_is_shown_from_the_login_on() {
    let bouncer = start(&[]);
    let _client = bouncer.client();
    assert_eq!(bouncer.show("SERVERS", "state"), ["active"]);
    let mut console = bouncer.console();
    assert_eq!(
        (console.pools("cl_active"), console.pools("sv_active")),
        (vec!["1".into()], vec!["1".into()])
    );
}

#[test]
fn a_notification_has_the_process_id_of_the_cancel_key() {
    let bouncer = start(&[]);
    let mut client = bouncer.client();
    super::run(&mut client, &["LISTEN direct"]);
    let own = client.query("NOTIFY direct");
    let pid_of = |message: &raw::Message| u32::from_be_bytes(message.bytes[5..9].try_into().unwrap());
    let notification = own.iter().find(|message| message.tag == b'A').unwrap();
    assert_eq!(pid_of(notification), client.cancel_key().0);
    // And of another client, while this one is idle.
    let mut other = bouncer.client();
    super::run(&mut other, &["NOTIFY direct"]);
    assert_eq!(pid_of(&client.expect(b'A')), other.cancel_key().0);
}

#[test]
fn a_client_whose_server_is_terminated_receives_the_error_of_the_server() {
    let bouncer = start(&[]);
    let mut other = bouncer.client();
    // One that has sent nothing since its login, one that is idle, and one in a transaction.
    for statements in [&[][..], &["SELECT 1"], &["BEGIN", "SELECT 1"]] {
        let mut client = bouncer.client();
        super::run(&mut client, statements);
        let (pid, _) = client.cancel_key();
        assert_eq!(other.value(&format!("SELECT pg_terminate_backend({pid})")), "t");
        let end = client.until_end();
        assert_eq!(tags(&end), "E");
        let (code, text) = end[0].error();
        assert_eq!(
            (code.as_str(), text.as_str()),
            ("57P01", "terminating connection due to administrator command")
        );
    }
    let mut own = bouncer.client();
    own.send_query("SELECT pg_terminate_backend(pg_backend_pid())");
    assert_eq!(super::code(&own.until_end()), "57P01");
}

#[test]
fn timeouts_of_the_server_reach_the_client() {
    let bouncer = start(&[]);
    let mut client = bouncer.client();
    super::run(&mut client, &["SET idle_session_timeout = '50ms'"]);
    assert_eq!(super::code(&client.until_end()), "57P05");
    let mut client = bouncer.client();
    super::run(&mut client, &["SET idle_in_transaction_session_timeout = '50ms'", "BEGIN"]);
    assert_eq!(super::code(&client.until_end()), "25P03");
}

#[test]
fn a_query_is_canceled_with_the_process_id_of_the_server() {
    for workers in ["workers = 1", "workers = 3"] {
        let bouncer = start(&[workers]);
        let mut clients: Vec<Client> = (0..4).map(|_| bouncer.client()).collect();
        for client in &mut clients {
            is_canceled(bouncer.port, client);
            assert_eq!(client.value("SELECT 1"), "1");
        }
    }
}

#[test]
fn a_query_of_a_client_that_has_moved_is_canceled() {
    let databases = format!("app = host=127.0.0.1 port={} dbname=app user=app", postgres().port());
    let start = Start::databases(&databases).set("workers = 1-3").env("TEST_MOVE_CLIENTS", "1");
    let bouncer = FOLLOW.iter().fold(start, |start, setting| start.set(setting)).start();
    let mut client = bouncer.client();
    let pid = client.cancel_key().0.to_string();
    for _ in 0..5 {
        assert_eq!(client.value("SELECT pg_backend_pid()"), pid);
        is_canceled(bouncer.port, &mut client);
    }
}

/// A server that admits every client as process 4711 and records the databases in whose servers a query was canceled.
fn namesake(name: &'static str, canceled: &Arc<Mutex<Vec<&'static str>>>) -> u16 {
    let canceled = canceled.clone();
    scripted::serve(move |mut connection| match connection.first()? {
        First::Cancel => {
            canceled.lock().unwrap().push(name);
            Ok(())
        }
        First::Startup => {
            connection.admit(4711)?;
            while connection.message().is_ok() {}
            Ok(())
        }
    })
}

#[test]
fn servers_of_several_hosts_may_have_the_same_process_id() {
    for workers in ["workers = 1", "workers = 2"] {
        let canceled = Arc::default();
        let (one, other) = (namesake("one", &canceled), namesake("other", &canceled));
        let databases = format!("one = host=127.0.0.1 port={one}\nother = host=127.0.0.1 port={other}");
        let start = Start::databases(&databases).set("server_tls_sslmode = disable").set(workers);
        let bouncer = FOLLOW.iter().fold(start, |start, setting| start.set(setting)).start();
        let mut clients = ["one", "other"].map(|name| Client::log_in(bouncer.port, "app", name));
        for client in &mut clients {
            client.send_query("SELECT 1");
        }
        eventually("both queries have reached their servers", || {
            let totals = bouncer.show("CLIENTS", "state");
            totals.iter().filter(|state| *state == "active").count() >= 2
        });
        for (client, name) in clients.iter().zip(["one", "other"]) {
            let (pid, key) = client.cancel_key();
            assert_eq!(pid, 4711);
            cancel(bouncer.port, pid, &key);
            assert_eq!(std::mem::take(&mut *canceled.lock().unwrap()), [name]);
        }
    }
}

#[test]
fn a_wrong_secret_cancels_nothing() {
    let bouncer = start(&[]);
    let mut client = bouncer.client();
    let (pid, mut key) = client.cancel_key();
    key[3] ^= 1;
    client.send_query("SELECT pg_sleep(0.3)");
    cancel(bouncer.port, pid, &key);
    assert_eq!(tags(&client.until_ready()), "TDCZ");
}

/// Sends a cancel request from an address of this host.
fn cancel_from(address: [u8; 4], port: u16, pid: u32, key: &[u8]) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((address, 0)).into()).unwrap();
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut connection = Client { stream, greeting: Vec::new() };
    let mut request = Vec::new();
    wire::encode::cancel_request(&mut request, pid, key);
    connection.send(&request);
    assert_eq!(connection.read(), None);
}

#[test]
fn wrong_keys_are_limited_by_address() {
    let bouncer = start(&[]);
    let mut client = bouncer.client();
    let (pid, key) = client.cancel_key();
    let wrong = key.iter().map(|byte| byte ^ 1).collect::<Vec<u8>>();
    let deadline = Instant::now() + TIMEOUT;
    loop {
        assert!(Instant::now() < deadline, "the address is never refused");
        for _ in 0..120 {
            cancel_from([127, 0, 0, 2], bouncer.port, pid, &wrong);
        }
        client.send_query("SELECT pg_sleep(0.2)");
        wait_until_active(pid);
        // Usually refused; on a slow host a tenth of a second may have passed.
        cancel_from([127, 0, 0, 2], bouncer.port, pid, &key);
        if tags(&client.until_ready()) == "TDCZ" {
            break;
        }
    }
    bouncer.wait_for_line("too many wrong keys from this address");
    // Others are not concerned.
    is_canceled(bouncer.port, &mut client);
}

#[test]
fn a_login_waits_for_a_server_of_a_busy_pool() {
    let bouncer = start(&["default_pool_size = 1"]);
    let mut holder = bouncer.client();
    let mut first = begin_login(&bouncer);
    wait_for_waiting(&bouncer, "1");
    let mut second = begin_login(&bouncer);
    wait_for_waiting(&bouncer, "2");
    assert!(!first.has_pending_input());
    let shown = bouncer.show("WAITING", "user");
    assert_eq!(shown, ["app", "app"]);
    holder.send(&raw::terminate());
    let greeting = first.until_ready();
    assert_eq!((greeting[0].tag, greeting.last().unwrap().tag), (b'R', b'Z'));
    assert_eq!(first.value("SELECT 1"), "1");
    // In the order of their arrival.
    assert!(!second.has_pending_input());
    drop(first);
    second.until_ready();
    assert_eq!(second.value("SELECT 2"), "2");
}

#[test]
fn a_login_that_waits_too_long_receives_the_error_of_a_request() {
    let bouncer = start(&["default_pool_size = 1", "query_wait_timeout = 0.3"]);
    let mut holder = bouncer.client();
    let mut client = begin_login(&bouncer);
    let end = client.until_end();
    assert_eq!(tags(&end), "E");
    assert_eq!(end[0].error(), ("53300".to_owned(), "query_wait_timeout".to_owned()));
    wait_for_waiting(&bouncer, "0");
    assert_eq!(holder.value("SELECT 1"), "1");
}

#[test]
fn a_client_that_disconnects_in_its_login_leaves_no_server_behind() {
    let bouncer = start(&["default_pool_size = 1"]);
    for round in 0..10 {
        let mut holder = bouncer.client();
        let gone = begin_login(&bouncer);
        wait_for_waiting(&bouncer, "1");
        if round % 2 == 0 {
            drop(gone);
            wait_for_waiting(&bouncer, "0");
            holder.send(&raw::terminate());
        } else {
            // At about the time at which it gets the server.
            holder.send(&raw::terminate());
            drop(gone);
        }
        assert_eq!(bouncer.client().value("SELECT 1"), "1", "round {round}");
        eventually("the server is free", || bouncer.show("SERVERS", "state") == ["idle"]);
    }
}

#[test]
fn a_login_that_waits_can_be_killed() {
    let bouncer = start(&["default_pool_size = 1"]);
    let _holder = bouncer.client();
    let mut client = begin_login(&bouncer);
    wait_for_waiting(&bouncer, "1");
    let mut console = bouncer.console();
    let states = console.column("SHOW CLIENTS", "state");
    let ids = console.column("SHOW CLIENTS", "id");
    let at = states.iter().position(|state| state == "waiting").unwrap();
    assert_eq!(tags(&console.query(&format!("KILL_CLIENT {}", ids[at]))), "CZ");
    assert_eq!(super::code(&client.until_end()), "57P01");
}

#[test]
fn a_login_waits_during_pause() {
    let bouncer = start(&[]);
    drop(bouncer.client());
    let mut console = bouncer.console();
    assert_eq!(tags(&console.query("PAUSE")), "CZ");
    let mut client = begin_login(&bouncer);
    wait_for_waiting(&bouncer, "1");
    assert_eq!(tags(&console.query("RESUME")), "CZ");
    client.until_ready();
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn a_client_that_waits_in_its_login_receives_the_notice_once() {
    let bouncer = start(&["default_pool_size = 1", "query_wait_notify = 0.1"]);
    let mut holder = bouncer.client();
    let mut client = begin_login(&bouncer);
    assert_eq!((client.read().unwrap().tag, client.read().unwrap().tag), (b'R', b'N'));
    holder.send(&raw::terminate());
    let rest = tags(&client.until_ready());
    assert!(rest.starts_with('S') && rest.ends_with("KZ") && !rest.contains(['R', 'N']), "{rest}");
}

#[test]
fn startup_values_are_set_in_the_login() {
    let bouncer = start(&["default_pool_size = 1"]);
    let with =
        |name: &'static str, value: &'static str| [("user", "app"), ("database", "app"), (name, value)];
    let mut client = Client::log_in_with(bouncer.port, &with("work_mem", "7MB"));
    assert_eq!(client.value("SHOW work_mem"), "7MB");
    client.send(&raw::terminate());
    let mut client = Client::log_in_with(bouncer.port, &with("TimeZone", "Europe/Vienna"));
    assert_eq!(client.reported("TimeZone").as_deref(), Some("Europe/Vienna"));
    assert_eq!(client.value("SHOW work_mem"), "4MB");
    client.send(&raw::terminate());
    // As on a direct connection, this is an error of the login.
    let mut refused = Client::start(bouncer.port, &with("work_mem", "very much"));
    let end = refused.until_end();
    assert_eq!((tags(&end).as_str(), super::code(&end).as_str()), ("E", "22023"));
    let time_zone = postgres().sql("SHOW TimeZone").unwrap();
    let mut client = bouncer.client();
    assert_eq!(
        (client.value("SHOW TimeZone"), client.value("SHOW work_mem")),
        (time_zone.trim().into(), "4MB".into())
    );
}

#[test]
fn requests_sent_before_the_startup_response_are_served() {
    let bouncer = start(&["default_pool_size = 1"]);
    let mut holder = bouncer.client();
    let mut client = begin_login(&bouncer);
    client.send(&raw::query("SELECT 42"));
    wait_for_waiting(&bouncer, "1");
    holder.send(&raw::terminate());
    client.until_ready();
    assert_eq!(client.until_ready()[1].row(), [Some("42".to_owned())]);
}

#[test]
fn clients_that_disconnect_while_they_get_their_values_leave_no_server_behind() {
    let settings = [&FOLLOW[..], &["default_pool_size = 2"]].concat();
    let workers = Workers::start("left_in_login", 2, &settings);
    for n in 0..150 {
        let work_mem = format!("{}MB", n % 7 + 1);
        let parameters = [("user", "left_in_login"), ("database", "app"), ("work_mem", &work_mem)];
        let mut client = Client::start(workers.bouncer.port, &parameters);
        // Some leave at once, others after a part of the startup response, or when they have all of it.
        match n % 4 {
            0 | 1 => {}
            2 => drop(client.read()),
            _ => drop(client.until_ready()),
        }
    }
    workers.wait_for_clients(0);
    let mut clients: Vec<Client> = (0..2).map(|_| workers.client()).collect();
    for client in &mut clients {
        assert_eq!(client.value("SHOW work_mem"), "4MB");
    }
    drop(clients);
    workers.wait_for_clients(0);
    workers.servers_agree();
    let mut console = workers.bouncer.console();
    eventually("all servers are free", || workers.in_pools(&mut console, "sv_active") == "0");
}

#[test]
fn clients_leave_no_server_behind_at_several_workers() {
    let workers = Workers::start("own_server", 2, &[&FOLLOW[..], &["default_pool_size = 2"]].concat());
    for _ in 0..10 {
        let mut clients: Vec<Client> = (0..2).map(|_| workers.client()).collect();
        for client in &mut clients {
            let pid = client.cancel_key().0.to_string();
            assert_eq!(client.value("SELECT pg_backend_pid()"), pid);
        }
    }
    workers.wait_for_clients(0);
    workers.servers_agree();
}

#[test]
fn with_pgbouncers_state_a_client_has_no_server_before_its_first_request() {
    let bouncer = Bouncer::in_front_of(
        postgres(),
        &["pool_mode = session", "session_state = pgbouncer", "default_pool_size = 1"],
    );
    let mut client = bouncer.client();
    let mut other = bouncer.client();
    let pid = client.value("SELECT pg_backend_pid()");
    for client in [&client, &other] {
        assert_ne!(client.cancel_key().0.to_string(), pid);
    }
    client.send(&raw::terminate());
    assert_eq!(other.value("SELECT 1"), "1");
}

#[test]
fn with_a_peer_id_the_cancel_key_names_the_peer() {
    let bouncer = start(&["peer_id = 7"]);
    let mut client = bouncer.client();
    let (pid, _) = client.cancel_key();
    assert_eq!(pid.to_be_bytes()[1..3], [7, 0]);
    let server: u32 = client.value("SELECT pg_backend_pid()").parse().unwrap();
    let (pid, key) = client.cancel_key();
    client.send_query("SELECT pg_sleep(60)");
    wait_until_active(server);
    cancel(bouncer.port, pid, &key);
    assert_eq!(super::code(&client.until_ready()), "57014");
}

#[test]
fn a_notification_within_the_answer_of_a_query_of_the_pooler_reaches_the_client() {
    let port = answering::server(|message| {
        let is_of_pooler =
            message.tag == b'Q' && String::from_utf8_lossy(&message.bytes).contains("TimeZone");
        is_of_pooler.then(|| {
            let row = scripted::message(b'D', &[0, 0]);
            let notified = scripted::message(b'A', b"\0\0\0\x01news\0first\0");
            let long = scripted::message(b'A', &[b"\0\0\0\x01news\0", &[b'x'; 40_000][..], b"\0"].concat());
            [&row, &notified, &row, &row, &long, &row]
                .into_iter()
                .flatten()
                .copied()
                .chain(set_answer())
                .collect()
        })
    });
    let line = format!("app = host=127.0.0.1 port={port}");
    for mode in ["transaction", "session"] {
        let start =
            Start::databases(&line).set("server_tls_sslmode = disable").set(&format!("pool_mode = {mode}"));
        let bouncer = start.start();
        let mut client = Client::start(
            bouncer.port,
            &[("user", "app"), ("database", "app"), ("TimeZone", "Europe/Berlin")],
        );
        client.until_ready();
        let messages = client.query("SELECT 1");
        assert_eq!(tags(&messages), "AACZ", "{mode}");
        assert!(messages[0].bytes.ends_with(b"news\0first\0"), "{mode}");
        assert_eq!(messages[1].bytes.len(), 40_000 + 15, "{mode}");
    }
}

/// The answer to SET.
fn set_answer() -> Vec<u8> {
    [scripted::message(b'C', b"SET\0"), scripted::ready(b'I')].concat()
}
