//! The resolver of `rds-iam` against a real name server: aliases, loops, failures.
#![allow(clippy::unwrap_used)] // tests: a failed unwrap is a failed test

use rds_iam::{ResolveError, Resolved, Resolver};
use rds_sim::{DnsEntry, DnsServer};
use std::net::IpAddr;

const RDS: &str = "db.c1.eu-west-1.rds.amazonaws.com";
const EC2: &str = "ec2-3-4-5-6.eu-west-1.compute.amazonaws.com";

fn alias(target: &str) -> DnsEntry {
    DnsEntry::Alias(target.to_owned())
}

fn at(address: &str) -> DnsEntry {
    DnsEntry::Addresses(vec![address.parse().unwrap()])
}

async fn started() -> (DnsServer, Resolver) {
    let server = DnsServer::start().await.unwrap();
    let resolver = Resolver::from_server(server.address()).unwrap();
    (server, resolver)
}

fn ip(text: &str) -> Vec<IpAddr> {
    vec![text.parse().unwrap()]
}

#[tokio::test]
async fn the_first_rds_name_on_the_chain_is_found_with_its_address() {
    let (server, resolver) = started().await;
    server.set("orders.internal", alias("Orders.example.com"));
    server.set("orders.example.com", alias(RDS));
    server.set(RDS, alias(EC2));
    server.set(EC2, at("10.0.0.7"));
    let Resolved { addresses, rds_name, chain, ttl } = resolver.resolve("Orders.Internal.").await.unwrap();
    assert_eq!(addresses, ip("10.0.0.7"));
    assert_eq!(rds_name.as_deref(), Some(RDS));
    assert_eq!(chain, ["orders.internal", "orders.example.com", RDS, EC2]);
    assert!(ttl.as_secs() <= 5);
    assert_eq!(resolver.resolve(RDS).await.unwrap().rds_name.as_deref(), Some(RDS));
}

#[tokio::test]
async fn an_alias_record_of_route_53_gives_no_name() {
    let (server, resolver) = started().await;
    server.set("orders.example.com", at("10.0.0.7"));
    let found = resolver.resolve("orders.example.com").await.unwrap();
    assert_eq!((found.addresses, found.rds_name), (ip("10.0.0.7"), None));
}

#[tokio::test]
async fn names_with_addresses_of_version_6_only_are_found() {
    let (server, resolver) = started().await;
    server.set("orders.example.com", alias(RDS));
    server.set(RDS, at("2001:db8::7"));
    let found = resolver.resolve("orders.example.com").await.unwrap();
    assert_eq!((found.addresses, found.rds_name.as_deref()), (ip("2001:db8::7"), Some(RDS)));
}

#[tokio::test]
async fn resolution_errors_give_the_reason() {
    let (server, resolver) = started().await;
    assert_eq!(resolver.resolve("nowhere.example.com").await, Err(ResolveError::NoSuchHost));
    server.set("empty.example.com", DnsEntry::Addresses(Vec::new()));
    assert_eq!(resolver.resolve("empty.example.com").await, Err(ResolveError::NoAddress));
    server.set("a.example.com", alias("b.example.com"));
    server.set("b.example.com", alias("a.example.com"));
    assert!(resolver.resolve("a.example.com").await.is_err());
    server.set_failing(true);
    let failed = resolver.resolve("other.example.com").await;
    assert!(matches!(failed, Err(ResolveError::Failed(_))), "{failed:?}");
}

#[tokio::test]
async fn addresses_and_names_of_the_hosts_file_need_no_server() {
    let (server, resolver) = started().await;
    assert_eq!(resolver.resolve("127.0.0.1").await.unwrap().addresses, ip("127.0.0.1"));
    assert_eq!(resolver.resolve("[::1]").await.unwrap().addresses, ip("::1"));
    let local = resolver.resolve("localhost").await.unwrap();
    assert!(local.addresses.iter().all(IpAddr::is_loopback), "{local:?}");
    assert_eq!(server.questions(), 0);
}

#[tokio::test]
async fn name_servers_can_be_read_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("resolv.conf");
    assert!(matches!(Resolver::from_file(&file), Err(ResolveError::Configuration(_))));
    std::fs::write(&file, "nameserver 127.0.0.1\nsearch example.com\noptions timeout:1\n").unwrap();
    assert!(Resolver::from_file(&file).is_ok());
}
