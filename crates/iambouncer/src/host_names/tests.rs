//! Tests: which addresses are old, and when names are looked up again.

use super::host::{AddressChange, HostName};
use super::lookup::{MAX_ADDRESSES, NameAnswer};
use super::{CacheTimes, HostNames, NameSources};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

const TTL: Duration = Duration::from_secs(15);
const TIMES: CacheTimes = CacheTimes { max_ttl: TTL, failure_ttl: TTL };
const UNCACHED: CacheTimes = CacheTimes { max_ttl: Duration::ZERO, failure_ttl: Duration::ZERO };

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn answer(addresses: &[&str]) -> NameAnswer {
    let addresses = addresses.iter().map(|text| SocketAddr::new(ip(text), 0)).collect();
    NameAnswer { addresses, rds_name: None, is_complete: true }
}

struct LookupCase {
    host: HostName,
    began: Instant,
}

impl LookupCase {
    fn new() -> Self {
        Self { host: HostName::default(), began: Instant::now() }
    }

    fn at(&self, seconds: u64) -> Instant {
        self.began + Duration::from_secs(seconds)
    }
}

#[test]
fn an_address_missing_from_a_newer_answer_is_old_until_it_returns() {
    let case = LookupCase::new();
    let (a, b) =
        (case.host.connected(ip("10.0.0.1"), case.at(0)), case.host.connected(ip("10.0.0.2"), case.at(0)));
    let second = case.host.connected(ip("10.0.0.1"), case.at(1));
    assert_eq!(case.host.apply(&answer(&["10.0.0.2", "10.0.0.1"]), case.at(2)), None);
    let change = AddressChange { old: vec![ip("10.0.0.1")], new: vec![ip("10.0.0.2")], servers: 2 };
    assert_eq!(case.host.apply(&answer(&["10.0.0.2"]), case.at(3)), Some(change));
    assert!(a.is_old() && second.is_old() && !b.is_old());
    assert_eq!(case.host.apply(&answer(&["10.0.0.2"]), case.at(4)), None);
    assert_eq!(case.host.apply(&answer(&["10.0.0.1", "10.0.0.2"]), case.at(5)), None);
    assert!(!a.is_old());
}

#[test]
fn an_answer_without_a_family_does_not_affect_its_addresses() {
    let case = LookupCase::new();
    let v4 = case.host.connected(ip("10.0.0.1"), case.at(0));
    let mapped = case.host.connected(ip("::ffff:10.0.0.1"), case.at(0));
    assert_eq!(case.host.apply(&answer(&["fd00::1"]), case.at(1)), None);
    assert!(!v4.is_old() && !mapped.is_old());
    assert!(case.host.apply(&answer(&["fd00::1", "10.0.0.9"]), case.at(2)).is_some());
    assert!(v4.is_old() && mapped.is_old());
}

#[test]
fn an_incomplete_answer_makes_no_address_old() {
    let case = LookupCase::new();
    let used = case.host.connected(ip("10.0.1.1"), case.at(0));
    let partial = NameAnswer { is_complete: false, ..answer(&["10.0.0.2"]) };
    assert_eq!(case.host.apply(&partial, case.at(1)), None);
    let many: Vec<SocketAddr> =
        (0..MAX_ADDRESSES as u8).map(|n| SocketAddr::new(IpAddr::from([10, 0, 0, n]), 0)).collect();
    assert_eq!(case.host.apply(&NameAnswer::new("db.example", many, None), case.at(2)), None);
    let one = vec![SocketAddr::new(ip("10.0.0.2"), 0)];
    let reader = "app.cluster-ro-c9akciq32rgh.eu-west-1.rds.amazonaws.com";
    for (name, rds_name) in [(reader, None), ("db.example", Some(reader.to_owned()))] {
        assert_eq!(case.host.apply(&NameAnswer::new(name, one.clone(), rds_name), case.at(3)), None);
    }
    assert!(!used.is_old());
    assert!(case.host.apply(&NameAnswer::new("db.example", one, None), case.at(4)).is_some());
}

#[test]
fn only_logins_with_a_newer_answer_keep_their_address() {
    let case = LookupCase::new();
    let newer = case.host.connected(ip("10.0.0.2"), case.at(5));
    assert_eq!(case.host.apply(&answer(&["10.0.0.1"]), case.at(4)), None);
    assert!(!newer.is_old());
    assert!(case.host.connected(ip("10.0.0.3"), case.at(3)).is_old());
    assert!(!case.host.connected(ip("10.0.0.1"), case.at(3)).is_old());
    // The answer of an earlier lookup that took longer.
    assert_eq!(case.host.apply(&answer(&["10.0.0.9"]), case.at(2)), None);
    assert!(!newer.is_old());
    let (old, new) = (vec![ip("10.0.0.2")], vec![ip("10.0.0.9")]);
    assert_eq!(
        case.host.apply(&answer(&["10.0.0.9"]), case.at(6)),
        Some(AddressChange { old, new, servers: 1 })
    );
}

#[test]
fn a_name_is_looked_up_once_per_ttl_and_only_while_it_has_servers() {
    let case = LookupCase::new();
    assert!(case.host.begin(case.at(0), TTL) && !case.host.begin(case.at(14), TTL));
    assert_eq!(case.host.due_since(case.at(20), TTL), None);
    let server = case.host.connected(ip("10.0.0.1"), case.at(0));
    assert_eq!(case.host.due_since(case.at(14), TTL), None);
    assert_eq!(case.host.due_since(case.at(15), TTL), Some(case.at(0)));
    case.host.begin_background_lookup(case.at(15));
    assert_eq!(case.host.due_since(case.at(40), TTL), None, "one at a time");
    case.host.end_background_lookup();
    assert_eq!(case.host.due_since(case.at(29), TTL), None);
    assert_eq!(case.host.due_since(case.at(30), TTL), Some(case.at(15)));
    assert!(!case.host.is_unused(case.at(40), TIMES));
    drop(server);
    assert_eq!(case.host.due_since(case.at(40), TTL), None);
    assert!(case.host.is_unused(case.at(40), TIMES));
}

#[tokio::test]
async fn names_are_kept_while_used_and_resolved_addresses_are_returned() {
    let names = HostNames::default();
    let control = tokio::runtime::Handle::current();
    let sources = NameSources { resolver: None, is_dns_only: false };
    let found = names.look_up(&control, sources.clone(), ("localhost", false), TIMES).await.unwrap();
    let addresses = found.addresses(5432);
    assert!(addresses.iter().all(|address| address.ip().is_loopback() && address.port() == 5432));
    let server = found.connected(addresses[0].ip());
    drop(found);
    names.look_up_again(&control, &sources, UNCACHED);
    assert_eq!((names.counts(), server.is_old()), ((1, 0), false));
    drop(server);
    names.look_up_again(&control, &sources, UNCACHED);
    assert_eq!(names.counts(), (0, 0));
}

#[test]
fn a_failure_is_remembered_until_its_time_is_over_or_another_lookup_succeeds() {
    let case = LookupCase::new();
    case.host.begin(case.at(0), TTL);
    case.host.record_failure(case.at(1), "no such host");
    assert_eq!(case.host.failure_within(case.at(15), TTL).as_deref(), Some("no such host"));
    assert!(!case.host.is_unused(case.at(15), TIMES), "it would be forgotten");
    assert!(case.host.failure_within(case.at(16), TTL).is_none() && case.host.is_unused(case.at(16), TIMES));
    assert_eq!(case.host.failure_within(case.at(1), Duration::ZERO), None);
    case.host.apply(&answer(&["10.0.0.1"]), case.at(2));
    assert_eq!(case.host.failure_within(case.at(3), TTL), None);
}
