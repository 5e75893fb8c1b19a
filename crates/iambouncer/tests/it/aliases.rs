//! Host names that are aliases of an RDS endpoint, and the login rate limit: which name is signed, which
//! address is used, and how many logins are made.

use crate::support::bouncer::Start;
use crate::support::sim::{RDS_HOST, REGION, Sim};
use crate::support::{Bouncer, postgres};
use rds_sim::{DnsEntry, DnsServer};
use std::time::{Duration, Instant};

const ALIAS: &str = "orders.internal.example";

pub(super) fn loopback() -> DnsEntry {
    DnsEntry::Addresses(vec!["127.0.0.1".parse().unwrap()])
}

/// A pooler whose configuration has only an alias of the endpoint.
fn behind_alias(sim: &Sim, dns: &DnsServer, more: &str) -> Bouncer {
    let line = format!("app = host={ALIAS} port={} dbname=app server_auth=iam {more}", sim.port());
    sim.start(&line).set(&format!("dns_server = {}", dns.address())).start()
}

#[test]
fn an_alias_is_followed_to_the_endpoint_and_the_same_answer_gives_its_address() {
    let sim = Sim::in_front_of(postgres());
    let dns = sim.dns();
    dns.set(ALIAS, DnsEntry::Alias("database.example".to_owned()));
    dns.set("database.example", DnsEntry::Alias(RDS_HOST.to_owned()));
    // A public instance: its endpoint is an alias itself, and its address is not in any other zone.
    dns.set(RDS_HOST, DnsEntry::Alias("ec2-127-0-0-1.example".to_owned()));
    dns.set("ec2-127-0-0-1.example", loopback());
    let bouncer = behind_alias(&sim, &dns, "");
    assert_eq!(bouncer.client().value("SELECT current_user"), "app");
    assert_eq!(sim.simulator.log().accepted_and_refused(), (1, 0));
    // The signed name is never looked up separately: it could have another address by then.
    assert!(dns.questions_for(ALIAS) > 0);
    assert_eq!((dns.questions_for(RDS_HOST), dns.questions_for("database.example")), (0, 0));
}

#[test]
fn an_alias_that_does_not_lead_to_an_endpoint_needs_iam_host() {
    let sim = Sim::in_front_of(postgres());
    let dns = sim.dns();
    dns.set(ALIAS, loopback());
    let bouncer = behind_alias(&sim, &dns, "");
    let (code, text, hint) = bouncer.refused_login("app", "app");
    assert_eq!(code, "28000");
    assert!(text.contains(&format!("{ALIAS} is not the name of an RDS endpoint")), "{text}");
    // The hint for a missing region, not for a wrong one.
    assert!(hint.starts_with("Set iam_host") && hint.ends_with("[IAM033]"), "{hint}");
    // The certificate is checked against the endpoint's name, whatever name was used to connect.
    let bouncer = behind_alias(&sim, &dns, &format!("iam_host={RDS_HOST}"));
    assert_eq!(bouncer.client().value("SELECT current_user"), "app");
}

#[test]
fn a_configured_name_server_is_queried_and_the_hosts_file_is_not_read() {
    let sim = Sim::in_front_of(postgres());
    let dns = sim.dns();
    // The hosts file and the system resolver have this name; this name server does not.
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
    let line = format!("app = host={host} port={} dbname=app user=app password=secret", postgres().port());
    let bouncer = Start::databases(&line)
        .set(&format!("dns_server = {}", dns.address()))
        .set("query_wait_timeout = 1")
        .start();
    let (code, text, hint) = bouncer.refused_login("app", "app");
    assert_eq!(code, "08001", "{text}");
    assert!(text.contains("cannot resolve") && hint.ends_with("[IAM031]"), "{text} / {hint}");
    assert!(dns.questions() > 0);
}

#[test]
fn a_host_name_with_an_underscore_resolves() {
    let sim = Sim::in_front_of(postgres());
    let dns = sim.dns();
    dns.set("my_db.example", loopback());
    let line = format!("app = host=my_db.example port={} dbname=app", postgres().port());
    let bouncer = Start::databases(&line).set(&format!("dns_server = {}", dns.address())).start();
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
}

#[test]
fn an_alias_that_does_not_resolve_is_named_in_the_error() {
    let sim = Sim::in_front_of(postgres());
    let dns = sim.dns();
    let line = format!("app = host={ALIAS} port=5432 dbname=app server_auth=iam iam_region={REGION}");
    let bouncer = sim
        .start(&line)
        .set(&format!("dns_server = {}", dns.address()))
        .set("query_wait_timeout = 1")
        .start();
    let (code, text, hint) = bouncer.refused_login("app", "app");
    assert_eq!(code, "08001", "{text}");
    assert!(text.contains(ALIAS) && hint.ends_with("[IAM031]"), "{text} / {hint}");
    assert!(dns.questions() > 0);
}

#[test]
fn the_login_rate_limit_covers_all_pools() {
    let sim = Sim::in_front_of(postgres());
    let one = sim.database();
    let two = one.replacen("app =", "two =", 1);
    let bouncer = sim.start(&format!("{one}\n{two}")).set("iam_login_rate = 1").start();
    let began = Instant::now();
    let mut first = bouncer.client();
    first.query("BEGIN");
    let mut second = bouncer.client();
    second.query("BEGIN");
    let mut third = crate::support::Client::log_in(bouncer.port, "app", "two");
    third.query("SELECT 1");
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(sim.simulator.log().accepted_and_refused(), (3, 0));
}
