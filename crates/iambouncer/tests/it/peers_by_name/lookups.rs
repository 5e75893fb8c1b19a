//! The name of the replicas: when it is looked up, what is shown, and what happens if it does not resolve.

use super::{cancel_across, made_up_key, start_silent_query};
use crate::peers::expect_canceled;
use crate::support::bouncer::Start;
use crate::support::fleet::peer_id_of;
use crate::support::replicas::{PEER_HOST, Replicas};
use crate::support::sim::REGION;
use crate::support::{Bouncer, eventually};
use rds_sim::DnsEntry;
use std::time::{Duration, Instant};

/// Longest time until an added address is used, with room for a busy host; lookups without a request have a longer
/// period.
const FRESHNESS_BOUND: Duration = Duration::from_secs(5);

#[test]
fn replicas_choose_numbers_and_show_the_addresses() {
    let replicas = Replicas::start(3, &[]);
    let chosen = [1, 2, 3].map(|number| peer_id_of(&replicas.client_at(number)));
    assert!(chosen.iter().all(|id| (1..=16383).contains(id)), "{chosen:?}");
    replicas.member(1).wait_for_line(&format!("peer_id = {} (random, since peer_host is set)", chosen[0]));
    let mut console = replicas.console_at(1);
    let values = console.column("SHOW CONFIG", "key").into_iter().zip(console.column("SHOW CONFIG", "value"));
    let own = chosen[0].to_string();
    assert!(values.into_iter().any(|pair| pair == ("peer_id".to_owned(), own.clone())));
    let (own, port) = (own.as_str(), replicas.port().to_string());
    eventually("the addresses are shown", || console.column("SHOW PEERS", "peer_id") == [own, "", ""]);
    assert_eq!(console.column("SHOW PEERS", "host"), ["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
    assert_eq!(console.column("SHOW PEERS", "port"), [port.as_str(); 3]);
    assert_eq!(console.column("SHOW PEERS", "pool_size"), ["20"; 3]);
    assert_eq!(console.column("SHOW PEER_POOLS", "peer_id"), ["", ""]);
    assert_eq!(console.column("SHOW PEER_POOLS", "sv_active_cancel"), ["0", "0"]);
    replicas.announce(&[1, 3]);
    eventually("an address that is gone is forgotten", || {
        replicas.cancel_at(1, made_up_key(77));
        console.column("SHOW PEERS", "host") == ["127.0.0.1", "127.0.0.3"]
    });
    assert_eq!(console.column("SHOW PEER_POOLS", "peer_id"), [""]);
}

#[test]
fn a_process_that_listens_on_all_addresses_knows_its_own() {
    let replicas = Replicas::reserve();
    replicas.announce(&[1, 2]);
    let bouncer = Start::databases("app = host=127.0.0.1")
        .set("so_reuseport = 1")
        .set("listen_addr = *")
        .set(&format!("listen_port = {}", replicas.port()))
        .set(&format!("dns_server = {}", replicas.dns.address()))
        .set(&format!("peer_host = {PEER_HOST}\npeer_id = 5"))
        .start();
    let mut console = bouncer.console();
    eventually("the addresses are shown", || console.column("SHOW PEERS", "peer_id") == ["5", "5"]);
    assert!(console.column("SHOW PEER_POOLS", "peer_id").is_empty());
    assert!(!bouncer.log().contains("peers cannot connect"));
    replicas.cancel_at(1, made_up_key(77));
}

#[test]
fn a_replica_that_starts_later_is_found() {
    let mut replicas = Replicas::start(2, &[]);
    cancel_across(&replicas, 2, 1);
    replicas.start_member(3, &[]);
    let mut client = replicas.client_at(3);
    start_silent_query(&mut client, "later replica");
    // Has the answer without it cached.
    replicas.cancel_at(1, made_up_key(77));
    replicas.announce(&[1, 2, 3]);
    let announced = Instant::now();
    eventually("the query is canceled", || {
        replicas.cancel_at(1, client.cancel_key());
        client.has_pending_input()
    });
    assert!(announced.elapsed() < FRESHNESS_BOUND, "{:?}", announced.elapsed());
    expect_canceled(&mut client);
}

#[test]
fn the_last_addresses_are_used_while_lookups_fail() {
    let replicas = Replicas::start(2, &[]);
    cancel_across(&replicas, 2, 1);
    let fail = |is_failing| replicas.dns.set_failing(is_failing);
    let be_silent = |is_silent| replicas.dns.set_silent(is_silent);
    let outages: [&dyn Fn(bool); 2] = [&fail, &be_silent];
    for (before, outage) in outages.into_iter().enumerate() {
        let is_logged = |part: &str| {
            replicas.cancel_at(1, made_up_key(77));
            replicas.member(1).log().matches(part).count() > before
        };
        outage(true);
        eventually("a lookup has failed", || is_logged("cannot look up peer_host"));
        for _ in 0..3 {
            cancel_across(&replicas, 2, 1);
        }
        outage(false);
        eventually("a lookup succeeds", || is_logged("peer_host is resolved again"));
        cancel_across(&replicas, 2, 1);
    }
}

#[test]
fn a_name_that_does_not_resolve_does_not_prevent_the_start() {
    let mut replicas = Replicas::reserve();
    (1..=2).for_each(|number| replicas.start_member(number, &[]));
    replicas.member(1).wait_for_line("cannot look up peer_host");
    let mut client = replicas.client_at(2);
    start_silent_query(&mut client, "no name");
    replicas.cancel_at(1, client.cancel_key());
    replicas.member(1).wait_for_line("cancel request not forwarded");
    assert!(!client.has_pending_input());
    replicas.announce(&[1, 2]);
    eventually("the query is canceled", || {
        replicas.cancel_at(1, client.cancel_key());
        client.has_pending_input()
    });
    expect_canceled(&mut client);
}

#[test]
fn variables_are_sufficient() {
    let replicas = Replicas::reserve();
    replicas.announce(&[1, 2]);
    replicas.dns.set("localhost", DnsEntry::Addresses(vec!["127.0.0.1".parse().unwrap()]));
    let start = |number: u8| {
        let pairs = [
            ("RDS_HOST", "localhost".to_owned()),
            ("AWS_REGION", REGION.to_owned()),
            ("DB_USERNAME", "app".to_owned()),
            ("DB_NAME", "app".to_owned()),
            ("DB_PORT", replicas.sim.port().to_string()),
            ("IAMBOUNCER_SERVER_TLS_CA_FILE", replicas.sim.ca_file().display().to_string()),
            ("IAMBOUNCER_HTTP_PORT", "0".to_owned()),
            ("IAMBOUNCER_UNIX_SOCKET_DIR", String::new()),
            ("IAMBOUNCER_LISTEN_ADDR", replicas.address(number).ip().to_string()),
            ("IAMBOUNCER_LISTEN_PORT", replicas.port().to_string()),
            ("IAMBOUNCER_SO_REUSEPORT", "1".to_owned()),
            ("IAMBOUNCER_DNS_SERVER", replicas.dns.address().to_string()),
            ("IAMBOUNCER_PEER_HOST", PEER_HOST.to_owned()),
        ];
        let mut environment = replicas.sim.environment();
        environment.extend(pairs.map(|(key, value)| (key.to_owned(), value)));
        Bouncer::spawn(&[], &environment, tempfile::tempdir().unwrap())
    };
    let _members = [start(1), start(2)];
    cancel_across(&replicas, 2, 1);
    cancel_across(&replicas, 1, 2);
}
