//! `state_verify`: the state of a server is compared with what is recorded of it.

use super::{pins, run};
use crate::support::http::scrape;
use crate::support::raw::{self, Client};
use crate::support::{Bouncer, eventually, postgres};

fn verifying(settings: &[&str]) -> Bouncer {
    let all = [&["session_state = follow", "state_verify = 1", "http_port = auto"], settings].concat();
    Bouncer::in_front_of(postgres(), &all)
}

/// The value of a result of the comparisons.
fn verified(bouncer: &Bouncer, result: &str) -> u64 {
    let text = scrape(bouncer.http_port()).text;
    let name = format!("iambouncer_session_verifications_total{{result=\"{result}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&name)).expect("the metric exists");
    value.parse().unwrap()
}

#[test]
fn what_is_recorded_agrees_with_the_server() {
    let bouncer = verifying(&["default_pool_size = 1"]);
    let startup = [("user", "app"), ("database", "app"), ("options", "-c work_mem=2048 -c app.a=b")];
    let (mut a, mut b) = (Client::log_in_with(bouncer.port, &startup), bouncer.client());
    for _ in 0..3 {
        run(
            &mut a,
            &["SET app.tenant = 'a'", "SET search_path = a, \"B c\"", "SET ROLE app", "SET jit = off"],
        );
        run(&mut b, &["BEGIN", "SET LOCAL work_mem = '9MB'", "SELECT 1", "COMMIT", "SET timezone = 'UTC'"]);
        run(&mut a, &["RESET app.tenant", "RESET ROLE", "SET datestyle = German"]);
        run(&mut b, &["CREATE TEMP TABLE t (a int)", "DROP TABLE t", "SET SESSION AUTHORIZATION app"]);
        run(&mut a, &["SELECT pg_advisory_lock(3)", "SELECT pg_advisory_unlock(3)", "DISCARD ALL"]);
        run(&mut b, &["RESET SESSION AUTHORIZATION", "SELECT set_config('app.b', 'x', false)"]);
    }
    assert_eq!(verified(&bouncer, "differs"), 0, "{}", bouncer.log());
    assert!(verified(&bouncer, "agrees") > 20);
}

#[test]
fn a_change_that_no_statement_shows_is_noticed() {
    let bouncer = verifying(&["default_pool_size = 2"]);
    let mut a = bouncer.client();
    run(
        &mut a,
        &[
            "CREATE TABLE IF NOT EXISTS hiding (a int)",
            "TRUNCATE hiding",
            "INSERT INTO hiding VALUES (1)",
            "CREATE OR REPLACE FUNCTION hidden(hiding) RETURNS text LANGUAGE sql AS $$ SELECT set_config('work_mem', '7MB', false) $$",
        ],
    );
    // A request that arrives during a comparison has the server at once, and is not compared.
    eventually("the server is free", || bouncer.show("SERVERS", "state").iter().all(|state| state == "idle"));
    let differed = verified(&bouncer, "differs");
    // A call that is written as a column.
    run(&mut a, &["SELECT h.hidden FROM hiding h"]);
    bouncer.wait_for_line("differences=\"work_mem\"");
    assert_eq!(pins(&bouncer), ["unknown_code"]);
    assert_eq!(verified(&bouncer, "differs"), differed + 1);
    assert_eq!(bouncer.client().value("SHOW work_mem"), "4MB");
    assert_eq!(a.value("SHOW work_mem"), "7MB");
    a.send(&raw::terminate());
    a.until_end();
    assert_eq!(bouncer.client().value("SHOW work_mem"), "4MB");
    run(&mut bouncer.client(), &["DROP FUNCTION hidden(hiding)", "DROP TABLE hiding"]);
}
