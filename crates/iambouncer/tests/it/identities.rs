//! The pooler's AWS identity: in the startup log, in SHOW TOKENS and in hints, with a wrong clock and with
//! AWS endpoints that fail.

use crate::support::sim::{KEY_ID, RDS_HOST, REGION, SECRET, Sim};
use crate::support::{Bouncer, eventually, postgres};
use rds_sim::{CredentialServer, CredentialSettings};
use std::time::Duration;

const ARN: &str = "arn:aws:sts::123456789012:assumed-role/orders/rds-sim";

fn sts(sim: &Sim) -> CredentialServer {
    sim.credentials(CredentialSettings {
        account: "123456789012".to_owned(),
        role_name: "orders".to_owned(),
        ..CredentialSettings::default()
    })
}

/// A pooler that can call STS for its identity.
fn pooler_with(sim: &Sim, endpoint: &CredentialServer, settings: &[&str]) -> Bouncer {
    let line = sim.database();
    let mut start = settings.iter().fold(sim.start(&line), |start, setting| start.set(setting));
    for (key, value) in endpoint.sts_environment() {
        start = start.env(key, &value);
    }
    start.start()
}

#[test]
fn the_startup_log_names_the_endpoint_and_the_identity() {
    let sim = Sim::in_front_of(postgres());
    let endpoint = sts(&sim);
    let bouncer = pooler_with(&sim, &endpoint, &[]);
    eventually("both lines", || {
        let log = bouncer.log();
        let signed = format!("endpoint=\"{RDS_HOST}:{}\" region={REGION}", sim.port());
        let by = format!("arn={ARN} provider=\"environment\" access_key_id=\"{KEY_ID}\" until=\"no expiry\"");
        log.contains(&signed) && log.contains(&by)
    });
    assert_eq!(endpoint.calls().get_caller_identity, 1);
}

#[test]
fn show_tokens_shows_everything_but_the_token() {
    let sim = Sim::in_front_of(postgres());
    let endpoint = sts(&sim);
    let bouncer = pooler_with(&sim, &endpoint, &[]);
    assert_eq!(bouncer.show("TOKENS", "endpoint"), Vec::<String>::new());
    bouncer.client().value("SELECT 1");
    eventually("the ARN is known", || bouncer.show("TOKENS", "arn") == [ARN]);
    let column = |name: &str| bouncer.show("TOKENS", name).remove(0);
    assert_eq!(column("endpoint"), format!("{RDS_HOST}:{}", sim.port()));
    assert_eq!((column("user").as_str(), column("provider").as_str()), ("app", "environment"));
    assert_eq!(column("access_key_id"), KEY_ID);
    assert!(column("age").parse::<u32>().unwrap() < 60);
    assert!((840..=900).contains(&column("left").parse::<u32>().unwrap()));
    let all = format!(
        "{:?}",
        bouncer.console().query("SHOW TOKENS").iter().map(|m| m.bytes.clone()).collect::<Vec<_>>()
    );
    assert!(!all.contains(SECRET) && !all.contains("X-Amz"));
    sim.simulator.faults().set(|faults| faults.refuse_next = 1);
    bouncer.console().query("RECONNECT app");
    bouncer.client().value("SELECT 1");
    assert_eq!(column("refusals"), "1");
}

#[test]
fn a_clock_that_is_off_by_an_hour_is_diagnosed() {
    for offset_seconds in [3600, -3600] {
        let sim = Sim::in_front_of(postgres());
        sim.simulator.clock().advance(offset_seconds);
        let endpoint = sts(&sim);
        let bouncer = pooler_with(&sim, &endpoint, &[]);
        let direction = if offset_seconds > 0 { "behind" } else { "ahead of" };
        eventually("the clocks are compared", || bouncer.log().contains(&format!("s {direction} AWS's")));
        let (code, text, hint) = bouncer.refused_login("app", "app");
        assert_eq!(code, "28000", "{text}");
        assert!(hint.contains("This machine's clock is 3") && hint.ends_with("[IAM013]"), "{hint}");
    }
}

#[test]
fn the_hint_for_a_missing_policy_names_the_identity_and_the_arn_to_allow() {
    let sim = Sim::in_front_of(postgres());
    let endpoint = sts(&sim);
    let bouncer = pooler_with(&sim, &endpoint, &[]);
    eventually("the identity is known", || bouncer.log().contains(ARN));
    sim.simulator.faults().set(|faults| faults.refuse_next = 2);
    let (_, _, hint) = bouncer.refused_login("app", "app");
    let wanted = format!("arn:aws:rds-db:{REGION}:123456789012:dbuser:<resource id>/app");
    assert!(hint.contains(ARN) && hint.contains(&wanted), "{hint}");
    assert!(bouncer.wait_for_line("cause=\"IAM003\"").contains("clock is right"));
}

#[test]
fn logins_with_static_keys_work_while_sts_is_unreachable() {
    let sim = Sim::in_front_of(postgres());
    let endpoint = sts(&sim);
    endpoint.set(|settings| settings.fail_with = Some(500));
    let bouncer = pooler_with(&sim, &endpoint, &[]);
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
    eventually("it is logged", || bouncer.log().contains("cannot determine the AWS identity: STS"));
}

#[test]
fn a_policy_without_an_account_gets_it_from_sts() {
    let sim = Sim::in_front_of(postgres());
    let endpoint = sts(&sim);
    let mut environment = sim.environment();
    environment.extend(endpoint.sts_environment().into_iter().map(|(key, value)| (key.to_owned(), value)));
    let words = ["policy", RDS_HOST, "-U", "app", "-D", "orders", "--resource-id", "db-ABC1"];
    let printed = crate::support::program::run(&words, &environment);
    assert!(
        printed.stdout.contains("arn:aws:rds-db:eu-west-1:123456789012:dbuser:db-ABC1/app"),
        "{printed:?}"
    );
    assert!(printed.stdout.contains("GRANT CONNECT ON DATABASE \"orders\" TO \"app\";"), "{printed:?}");
}

#[test]
fn unreachable_sts_is_not_a_warning_at_startup() {
    let sim = Sim::in_front_of(postgres());
    let line = sim.database();
    let bouncer = sim.start(&line).env("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1").start();
    let line = bouncer.wait_for_line("AWS identity not available (not needed for logins)");
    assert!(line.contains(" LOG "), "{line}");
    assert!(!bouncer.log().contains(" WARNING "), "{}", bouncer.log());
}

#[test]
fn endpoints_that_answer_garbage_are_diagnosed() {
    let sim = Sim::in_front_of(postgres());
    let endpoint = sts(&sim);
    let answer = (200, "text/html", "<html>log in to the portal</html>".to_owned());
    endpoint.set(|settings| settings.answer_with = Some(answer.clone()));
    let authorization = sim.dir().join("authorization");
    std::fs::write(&authorization, "rds-sim-authorization").unwrap();
    let line = sim.database();
    let mut start = sim.keyless(&line).set("query_wait_timeout = 3");
    for (key, value) in endpoint.container_environment(&authorization) {
        start = start.env(key, &value);
    }
    let bouncer = start.start();
    let (code, text, hint) = bouncer.refused_login("app", "app");
    assert_eq!(code, "28000", "{text}");
    assert!(text.contains("could not be fetched") && hint.ends_with("[IAM015]"), "{text} / {hint}");
    assert!(!bouncer.log().contains("log in to the portal"), "{}", bouncer.log());
}

#[test]
fn a_role_that_may_not_be_assumed_is_named() {
    let sim = Sim::in_front_of(postgres());
    let endpoint = sts(&sim);
    endpoint.set(|settings| settings.external_id = Some("the-right-one".to_owned()));
    let role = "aws_role_arn=arn:aws:iam::123456789012:role/orders";
    let start = |more: &str| {
        let line = format!("{} {role} {more}", sim.database());
        let mut start = sim.start(&line);
        for (key, value) in endpoint.sts_environment() {
            start = start.env(key, &value);
        }
        start.start()
    };
    let bouncer = start("aws_external_id=another");
    let (code, text, hint) = bouncer.refused_login("app", "app");
    assert_eq!(code, "28000", "{text}");
    assert!(
        bouncer.log().contains("AccessDenied")
            && hint.contains("aws_external_id")
            && hint.ends_with("[IAM016]"),
        "{text} / {hint}"
    );
    let bouncer = start("aws_external_id=the-right-one aws_role_session_name=pool");
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
    assert_eq!(bouncer.show("TOKENS", "provider"), ["assumed role"]);
}

#[test]
fn credentials_that_expire_soon_but_have_not_expired_are_used() {
    let sim = Sim::in_front_of(postgres());
    let endpoint = sts(&sim);
    endpoint.set(|settings| settings.life = Duration::from_secs(30));
    let authorization = sim.dir().join("authorization");
    std::fs::write(&authorization, "rds-sim-authorization").unwrap();
    let line = sim.database();
    let mut start = sim.keyless(&line).set("query_wait_timeout = 3");
    for (key, value) in endpoint.container_environment(&authorization) {
        start = start.env(key, &value);
    }
    let bouncer = start.start();
    assert_eq!(bouncer.client().value("SELECT current_user"), "app");
    assert_eq!(sim.simulator.log().accepted_and_refused(), (1, 0));
}
