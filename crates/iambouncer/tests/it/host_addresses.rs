//! Host names whose addresses change: servers at the old address are closed, and no others.

use crate::support::bouncer::Start;
use crate::support::raw::{Client, tags};
use crate::support::sim::Sim;
use crate::support::{Bouncer, Workers, eventually};
use rds_sim::postgres::{Postgres, PostgresOptions};
use rds_sim::{DnsEntry, DnsServer};
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Instant;

const NAME: &str = "db.example";
const READERS: &str = "app.cluster-ro-c9akciq32rgh.eu-west-1.rds.amazonaws.com";
const OLD: &str = "127.0.0.2";
const NEW: &str = "127.0.0.3";
/// A TTL longer than any test: only `dns_max_ttl` makes the pooler look the name up again.
const LONG_TTL: u32 = 3600;
/// Lookups to wait for before a test concludes that nothing happened: the first may have begun before the
/// change.
const LOOKUPS: u64 = 3;
/// Each lookup queries IPv4 and IPv6 addresses.
const QUESTIONS_PER_LOOKUP: u64 = 2;
const CHANGE: &str = "the address of a host name has changed";

/// One server for these tests, listening on all the addresses.
fn postgres() -> &'static Postgres {
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    SERVER.get_or_init(|| {
        let server = crate::support::postgres::start(PostgresOptions {
            config_lines: vec![format!("listen_addresses = '127.0.0.1, {OLD}, {NEW}'")],
            ..PostgresOptions::default()
        });
        server.sql("CREATE ROLE app LOGIN PASSWORD 'secret'").unwrap();
        server.sql("CREATE DATABASE app OWNER app").unwrap();
        server
    })
}

/// A name server whose answers a test changes.
struct Names {
    dns: DnsServer,
    /// Owns the name server's runtime.
    _sim: Sim,
}

impl Names {
    fn new(name: &str, addresses: &[&str]) -> Self {
        let sim = Sim::in_front_of(postgres());
        let names = Self { dns: sim.dns(), _sim: sim };
        names.dns.set_ttl(LONG_TTL);
        names.set(name, addresses);
        names
    }

    fn set(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.dns.set(name, DnsEntry::Addresses(addresses));
    }

    fn setting(&self) -> String {
        format!("dns_server = {}", self.dns.address())
    }

    fn pooler(&self, name: &str, settings: &[&str]) -> Bouncer {
        let line = line_of(name);
        let start = Start::databases(&line).set(&self.setting());
        settings.iter().fold(start, |start, setting| start.set(setting)).start()
    }

    /// Waits until the name was looked up again, so that assertions after it cover a lookup.
    fn wait_for_lookups(&self, name: &str) {
        let before = self.dns.questions_for(name);
        eventually("the name is looked up again", || {
            self.dns.questions_for(name) >= before + LOOKUPS * QUESTIONS_PER_LOOKUP
        });
    }
}

fn line_of(name: &str) -> String {
    format!("app = host={name} port={} dbname=app", postgres().port())
}

fn address(client: &mut Client) -> String {
    client.value("SELECT host(inet_server_addr())")
}

fn pid(client: &mut Client) -> String {
    client.value("SELECT pg_backend_pid()")
}

fn changes(bouncer: &Bouncer) -> usize {
    bouncer.log().lines().filter(|line| line.contains(CHANGE)).count()
}

/// Waits until the pooler has `count` servers, all at this address.
fn wait_for_servers_at(bouncer: &Bouncer, count: usize, address: &str) {
    let mut console = bouncer.console();
    eventually(&format!("{count} servers at {address}"), || {
        let addresses = console.column("SHOW SERVERS", "addr");
        addresses.len() == count && addresses.iter().all(|at| at == address)
    });
}

#[test]
fn idle_servers_of_an_old_address_close_and_the_minimum_is_opened_at_the_new_one() {
    let names = Names::new(NAME, &[OLD]);
    let bouncer = names.pooler(NAME, &["dns_max_ttl = 1", "min_pool_size = 2"]);
    let mut client = bouncer.client();
    assert_eq!(address(&mut client), OLD);
    wait_for_servers_at(&bouncer, 2, OLD);
    names.set(NAME, &[NEW]);
    wait_for_servers_at(&bouncer, 2, NEW);
    let line = bouncer.wait_for_line(CHANGE);
    for part in [NAME, OLD, NEW, "servers=2", " LOG "] {
        assert!(line.contains(part), "{part}: {line}");
    }
    names.wait_for_lookups(NAME);
    assert_eq!(address(&mut client), NEW);
    assert_eq!(changes(&bouncer), 1);
    let lists = bouncer.show("LISTS", "list").into_iter().zip(bouncer.show("LISTS", "items"));
    assert_eq!(lists.collect::<BTreeMap<_, _>>()["dns_names"], "1");
}

#[test]
fn a_busy_server_closes_at_its_release_and_not_before() {
    for mode in ["transaction", "session"] {
        let names = Names::new(NAME, &[OLD]);
        let bouncer = names.pooler(NAME, &["dns_max_ttl = 1", &format!("pool_mode = {mode}")]);
        let mut client = bouncer.client();
        client.query("BEGIN");
        let old = pid(&mut client);
        names.set(NAME, &[NEW]);
        let mut console = bouncer.console();
        eventually("the server is marked", || console.column("SHOW SERVERS", "close_needed") == ["1"]);
        names.wait_for_lookups(NAME);
        assert_eq!((pid(&mut client), address(&mut client)), (old.clone(), OLD.to_owned()));
        assert_eq!(tags(&client.query("COMMIT")), "CZ");
        if mode == "session" {
            assert_eq!(pid(&mut client), old, "a session keeps its server");
            drop(client);
        }
        bouncer.wait_for_servers(0);
        assert_eq!(address(&mut bouncer.client()), NEW);
    }
}

#[test]
fn an_answer_in_another_order_or_with_an_added_address_closes_no_server() {
    let names = Names::new(NAME, &[OLD, NEW]);
    let bouncer = names.pooler(NAME, &["dns_max_ttl = 1"]);
    let mut client = bouncer.client();
    let (first, at) = (pid(&mut client), address(&mut client));
    for addresses in [[NEW, OLD, "127.0.0.1"], ["127.0.0.1", OLD, NEW]] {
        names.set(NAME, &addresses);
        names.wait_for_lookups(NAME);
        assert_eq!((pid(&mut client), address(&mut client)), (first.clone(), at.clone()));
    }
    assert_eq!(changes(&bouncer), 0);
    // First the answer loses an address that no server uses, then the server's address.
    let (mine, other) = if at == OLD { (OLD, NEW) } else { (NEW, OLD) };
    names.set(NAME, &[mine]);
    names.wait_for_lookups(NAME);
    assert_eq!(pid(&mut client), first);
    names.set(NAME, &[other]);
    bouncer.wait_for_servers(0);
    assert_eq!(address(&mut client), other);
}

#[test]
fn a_failed_lookup_closes_no_server() {
    let names = Names::new(NAME, &[OLD]);
    let bouncer = names.pooler(NAME, &["dns_max_ttl = 1"]);
    let mut client = bouncer.client();
    let first = pid(&mut client);
    names.dns.set_failing(true);
    bouncer.wait_for_line("cannot look up a host name: its servers are kept");
    names.wait_for_lookups(NAME);
    assert_eq!(pid(&mut client), first);
    // Nor does a name that no longer exists.
    names.dns.set_failing(false);
    names.dns.set(NAME, DnsEntry::Addresses(Vec::new()));
    names.wait_for_lookups(NAME);
    assert_eq!(pid(&mut client), first);
    assert_eq!(changes(&bouncer), 0);
    names.set(NAME, &[NEW]);
    bouncer.wait_for_servers(0);
    assert_eq!(address(&mut client), NEW);
}

#[test]
fn a_reader_endpoint_with_rotating_addresses_keeps_its_servers() {
    let names = Names::new(READERS, &[OLD]);
    let bouncer = names.pooler(READERS, &["dns_max_ttl = 1"]);
    let mut client = bouncer.client();
    let first = pid(&mut client);
    names.set(READERS, &[NEW]);
    names.wait_for_lookups(READERS);
    assert_eq!(pid(&mut client), first);
    assert_eq!(changes(&bouncer), 0);
}

#[test]
fn dns_max_ttl_can_be_set_while_servers_are_open() {
    let names = Names::new(NAME, &[OLD]);
    let bouncer = names.pooler(NAME, &["dns_max_ttl = 3600"]);
    let mut client = bouncer.client();
    assert_eq!(address(&mut client), OLD);
    names.set(NAME, &[NEW]);
    bouncer.console().query("SET dns_max_ttl = 1");
    bouncer.wait_for_servers(0);
    assert_eq!(address(&mut client), NEW);
}

#[test]
fn with_dns_max_ttl_0_the_lookup_of_a_login_marks_servers_of_old_addresses() {
    let names = Names::new(NAME, &[OLD]);
    let bouncer = names.pooler(NAME, &["dns_max_ttl = 0"]);
    let mut client = bouncer.client();
    client.query("BEGIN");
    let old = pid(&mut client);
    names.set(NAME, &[NEW]);
    let mut other = bouncer.client();
    other.query("BEGIN");
    assert_eq!(address(&mut other), NEW);
    bouncer.wait_for_line(CHANGE);
    assert_eq!(pid(&mut client), old);
    let mut console = bouncer.console();
    eventually("the server is marked", || {
        console.column("SHOW SERVERS", "close_needed").contains(&"1".to_owned())
    });
    assert_eq!(tags(&client.query("COMMIT")), "CZ");
    assert_eq!(tags(&other.query("COMMIT")), "CZ");
    wait_for_servers_at(&bouncer, 1, NEW);
}

#[test]
fn servers_of_an_old_address_and_a_paused_database_close_at_their_release() {
    let names = Names::new(NAME, &[OLD]);
    let bouncer = names.pooler(NAME, &["dns_max_ttl = 1"]);
    let mut client = bouncer.client();
    client.query("BEGIN");
    let mut paused = bouncer.console();
    paused.send_query("PAUSE");
    let mut console = bouncer.console();
    eventually("PAUSE waits", || console.sees_pause());
    names.set(NAME, &[NEW]);
    eventually("the server is marked", || console.column("SHOW SERVERS", "close_needed") == ["1"]);
    assert_eq!(tags(&client.query("COMMIT")), "CZ");
    assert_eq!(tags(&paused.until_ready()), "CZ");
    assert_eq!(tags(&console.query("RESUME")), "CZ");
    assert_eq!(address(&mut client), NEW);
}

#[test]
fn one_lookup_closes_the_servers_of_all_workers() {
    let began = Instant::now();
    let names = Names::new(NAME, &[OLD]);
    let settings = ["dns_max_ttl = 1", &names.setting()];
    let workers = Workers::with_databases(postgres(), "addresses_all", 2, &line_of(NAME), &settings);
    let mut clients = workers.clients_at(&[0, 1]);
    for client in &mut clients {
        client.query("BEGIN");
        assert_eq!(address(client), OLD);
    }
    for client in &mut clients {
        assert_eq!(tags(&client.query("COMMIT")), "CZ");
    }
    wait_for_servers_at(&workers.bouncer, 2, OLD);
    names.set(NAME, &[NEW]);
    workers.bouncer.wait_for_servers(0);
    assert!(workers.bouncer.wait_for_line(CHANGE).contains("servers=2"));
    assert_eq!(changes(&workers.bouncer), 1);
    for client in &mut clients {
        assert_eq!(address(client), NEW);
    }
    workers.servers_agree();
    names.wait_for_lookups(NAME);
    // At most one lookup per second and one per login.
    let log = workers.bouncer.log();
    let logins = log.lines().filter(|line| line.contains("new connection to server")).count() as u64;
    let questions = names.dns.questions_for(NAME);
    let most = QUESTIONS_PER_LOOKUP * (1 + began.elapsed().as_secs() + logins);
    assert!(questions <= most, "{questions} questions, not {most}");
}

#[test]
fn a_server_that_moved_between_workers_is_closed_after_an_address_change() {
    let names = Names::new(NAME, &[OLD]);
    let settings = ["dns_max_ttl = 1", "default_pool_size = 1", &names.setting()];
    let workers = Workers::with_databases(postgres(), "addresses_moving", 2, &line_of(NAME), &settings);
    let mut clients = workers.clients_at(&[0, 1]);
    let first = pid(&mut clients[0]);
    clients[1].query("BEGIN");
    assert_eq!(pid(&mut clients[1]), first, "the server has moved");
    names.set(NAME, &[NEW]);
    let mut console = workers.bouncer.console();
    eventually("the server is marked", || console.column("SHOW SERVERS", "close_needed") == ["1"]);
    // A client that waits at another worker does not get this server: a new one logs in for it.
    clients[0].send_query("SELECT host(inet_server_addr())");
    workers.wait_for_waiting(1);
    assert_eq!(pid(&mut clients[1]), first);
    assert_eq!(tags(&clients[1].query("COMMIT")), "CZ");
    assert_eq!(clients[0].until_ready()[1].row(), [Some(NEW.to_owned())]);
    assert_eq!(address(&mut clients[1]), NEW);
    workers.servers_agree();
}

#[test]
fn a_failed_lookup_is_remembered_until_reload() {
    let names = Names::new(NAME, &[OLD]);
    names.dns.set_failing(true);
    let bouncer = names.pooler(NAME, &["dns_nxdomain_ttl = 600", "query_wait_timeout = 4"]);
    let mut client = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
    bouncer.wait_for_line("blame=");
    let asked = names.dns.questions_for(NAME);
    // The login is tried again after server_login_retry, without a lookup.
    assert_eq!(client.until_end().last().unwrap().tag, b'E');
    assert!(bouncer.log().matches("blame=").count() > 1);
    assert_eq!(names.dns.questions_for(NAME), asked);
    names.dns.set_failing(false);
    assert_eq!(tags(&bouncer.console().query("RELOAD")), "CZ");
    assert_eq!(address(&mut bouncer.client()), OLD);
}
