//! The dashboard in a real browser: every panel shows what a scripted pooler does.

use crate::support::bouncer::Start;
use crate::support::browser::Browser;
use crate::support::moto::Moto;
use crate::support::sim::{RDS_HOST, Sim};
use crate::support::{Bouncer, Client, eventually, postgres};
use serde_json::json;
use std::path::Path;

/// The picture in the documentation; `UPDATE_DOCS=1` writes it.
const PICTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/images/dashboard.png");

/// A pooler in front of the simulated RDS, with a database that works, and one whose user has no policy.
struct DashboardSetup {
    sim: Sim,
    bouncer: Bouncer,
}

impl DashboardSetup {
    fn start() -> Self {
        let sim = Sim::in_front_of(postgres());
        let port = sim.port();
        let lines = format!(
            "{}\nbroken = host=localhost port={port} dbname=app user=stranger server_auth=iam iam_host={RDS_HOST} \
             iam_port={port}",
            sim.database()
        );
        let settings =
            ["workers = 2", "default_pool_size = 2", "http_port = auto", "server_login_retry = 300"];
        let bouncer = settings.iter().fold(sim.start(&lines), |start, line| start.set(line)).start();
        Self { sim, bouncer }
    }

    fn open(&self, browser: &Browser) {
        browser.open(&format!("http://127.0.0.1:{}/", self.bouncer.http_port()));
        eventually("the page is live", || browser.text("#link") == "live");
    }
}

fn panel(name: &str) -> String {
    format!("[data-table=\"{name}\"]")
}

/// Waits until a panel has a row with all these parts.
#[track_caller]
fn expect_row(browser: &Browser, name: &str, parts: &[&str]) {
    let mut rows = Vec::new();
    let is_row = |row: &Vec<String>| parts.iter().all(|part| row.iter().any(|cell| cell.contains(part)));
    let deadline = std::time::Instant::now() + crate::support::TIMEOUT;
    while !rows.iter().any(is_row) {
        assert!(std::time::Instant::now() < deadline, "{name}: no row with {parts:?} in {rows:#?}");
        rows = browser.rows(&panel(name));
    }
}

/// Clients of `app` that hold both servers, and three that wait for one.
fn occupy(bouncer: &Bouncer) -> (Vec<Client>, Vec<Client>) {
    let mut holders: Vec<Client> = (0..2).map(|_| bouncer.client()).collect();
    for holder in &mut holders {
        holder.query("BEGIN");
    }
    let mut waiters: Vec<Client> = (0..3).map(|_| bouncer.client()).collect();
    for waiter in &mut waiters {
        waiter.send_query("SELECT 'served'");
    }
    (holders, waiters)
}

#[test]
#[ignore = "needs a browser: make test-deploy"]
fn every_panel_shows_what_the_pooler_does() {
    let setup = DashboardSetup::start();
    let bouncer = &setup.bouncer;
    let (_, text, _) = bouncer.refused_login("app", "broken");
    let (mut holders, mut waiters) = occupy(bouncer);
    let browser = Browser::start(1500, 1650);
    setup.open(&browser);

    // Database, user, mode, clients, in use, idle, logging in, size, bar, waiting.
    expect_row(&browser, "pools", &["app", "transaction"]);
    eventually("three clients wait", || {
        let rows = browser.rows(&panel("pools"));
        rows.iter().any(|row| row[0] == "app" && row[4] == "2" && row[7] == "2" && row[9] == "3")
    });
    expect_row(
        &browser,
        "waiting",
        &["app", "pool_full", "all servers of the pool are in use (pool_size = 2)"],
    );
    assert_eq!(browser.rows(&panel("waiting")).len(), 3);
    expect_row(&browser, "servers", &["app", "active", "iam", "default", "TLSv1.3"]);
    expect_row(&browser, "workers", &["0"]);
    expect_row(&browser, "workers", &["1"]);
    expect_row(&browser, "identities", &["app", RDS_HOST, "environment"]);
    // The last refusal of the token, and what to do about it.
    expect_row(&browser, "identities", &["stranger", RDS_HOST, &text, "IAM"]);
    expect_row(&browser, "failures", &["broken", "stranger", &text, "in a row"]);
    expect_row(&browser, "events", &["login_failed", "broken", &text]);
    expect_row(&browser, "events", &["started"]);
    expect_row(&browser, "settings", &["default_pool_size", "2", "pooler.ini:"]);
    expect_row(&browser, "databases", &["app", "localhost"]);
    let problems = browser.text("#problems");
    assert!(
        problems.contains("3 clients wait for a server of app/app")
            && problems.contains("logins of the user stranger to the database broken fail"),
        "{problems}"
    );
    assert_eq!(browser.text("#waiting-count"), "3");

    for holder in &mut holders {
        holder.query("COMMIT");
    }
    for waiter in &mut waiters {
        waiter.until_ready();
    }
    eventually("no client waits", || {
        browser.text("#waiting-count") == "0" && browser.rows(&panel("waiting")).is_empty()
    });
    bouncer.console().query("PAUSE app");
    eventually("the pause is shown", || browser.text("#problems").contains("the database app is paused"));
    expect_row(&browser, "events", &["command", "PAUSE 'app' command issued"]);
    bouncer.console().query("RESUME app");
    bouncer.console().query("SET query_timeout = 77");
    expect_row(&browser, "settings", &["query_timeout", "77", "SET"]);
    assert_eq!(browser.console(), [""; 0]);
}

#[test]
#[ignore = "needs a browser: make test-deploy"]
fn percentiles_and_history_are_of_the_work_done() {
    let setup = DashboardSetup::start();
    let mut client = setup.bouncer.client();
    let browser = Browser::start(1500, 1650);
    setup.open(&browser);
    let percentile = |place: usize| {
        let row = browser.rows(&panel("databases")).into_iter().find(|row| row[0] == "app")?;
        Some(row[place].clone())
    };
    eventually("a median of the queries", || {
        client.query("SELECT pg_sleep(0.01)");
        percentile(9).is_some_and(|median| median.ends_with(" ms"))
    });
    let p99 = percentile(10).unwrap();
    assert!(p99.ends_with("ms") && percentile(11).unwrap().ends_with("µs"), "{p99} {:?}", percentile(11));
    // A page that is opened later has the points from before.
    setup.open(&browser);
    let points = "Number(document.querySelector('[data-table=\"pools\"] .spark').dataset.points)";
    eventually("two points of the history", || browser.value(points).as_u64() >= Some(2));
    write_picture(&setup, &browser);
    assert_eq!(browser.console(), [""; 0]);
}

/// Writes the picture of the documentation, if requested.
fn write_picture(setup: &DashboardSetup, browser: &Browser) {
    if std::env::var("UPDATE_DOCS").as_deref() != Ok("1") {
        return;
    }
    let (_holders, _waiters) = occupy(&setup.bouncer);
    setup.bouncer.refused_login("app", "broken");
    eventually("three clients wait", || browser.text("#waiting-count") == "3");
    std::fs::create_dir_all(Path::new(PICTURE).parent().unwrap()).unwrap();
    std::fs::write(PICTURE, browser.screenshot()).unwrap();
}

#[test]
#[ignore = "needs a browser: make test-deploy"]
fn a_secret_is_shown_and_that_it_cannot_be_read_any_more() {
    let moto = Moto::start();
    moto.create_secret("app", &json!({ "username": "app", "password": "hush" }).to_string());
    let described = moto.call("DescribeSecret", &json!({ "SecretId": "app" })).unwrap();
    let arn = described["ARN"].as_str().unwrap();
    let line = format!("app = host=127.0.0.1 port={} dbname=app secret_arn={arn}", postgres().port());
    let start = Start::databases(&line).set("http_port = auto").set("server_tls_sslmode = disable");
    let start = start.set("secret_refresh = 1").set("server_lifetime = 0");
    let start = moto.environment().into_iter().fold(start, |start, (key, value)| start.env(key, &value));
    let bouncer = start.start();
    let mut client = bouncer.client();
    client.query("BEGIN");
    let browser = Browser::start(1500, 1650);
    browser.open(&format!("http://127.0.0.1:{}/", bouncer.http_port()));
    expect_row(&browser, "secrets", &[arn, "app"]);
    expect_row(&browser, "servers", &["secret", "active"]);
    client.query("COMMIT");
    moto.call("DeleteSecret", &json!({ "SecretId": "app", "ForceDeleteWithoutRecovery": true })).unwrap();
    eventually("the failure is shown", || {
        // Each query has a login of its own.
        client.query("SELECT 1");
        browser.text("#problems").contains(&format!("the secret {arn} cannot be read"))
    });
    assert!(!browser.text("body").contains("hush"));
    assert_eq!(browser.console(), [""; 0]);
}

#[test]
#[ignore = "needs a browser: make test-deploy"]
fn the_page_follows_the_colours_of_the_system_and_filters_settings() {
    let setup = DashboardSetup::start();
    let browser = Browser::start(1500, 1650);
    setup.open(&browser);
    let background = "getComputedStyle(document.body).backgroundColor";
    let light = browser.value(background);
    browser.prefer_colours("dark");
    assert_ne!(browser.value(background), light);

    let rows = || browser.rows(&panel("settings"));
    eventually("the settings of the file", || rows().iter().any(|row| row[0] == "workers"));
    assert!(rows().iter().all(|row| row[0] != "query_timeout"));
    browser.value(
        "(document.querySelector('#all-settings').click(), \
         Object.assign(document.querySelector('#filter'), { value: 'query_timeout' }).dispatchEvent(new Event('input')))",
    );
    assert_eq!(rows().len(), 1);
    assert_eq!((rows()[0][0].as_str(), rows()[0][2].as_str()), ("query_timeout", "default"));
    assert_eq!(browser.console(), [""; 0]);
}

#[test]
#[ignore = "needs a browser: make test-deploy"]
fn names_of_clients_are_shown_as_text() {
    let setup = DashboardSetup::start();
    let name = "<img src=x onerror=document.title='forged'>";
    let mut holders: Vec<Client> = (0..2).map(|_| setup.bouncer.client()).collect();
    holders.iter_mut().for_each(|holder| drop(holder.query("BEGIN")));
    let parameters = [("user", "app"), ("database", "app"), ("application_name", name)];
    let mut waiter = Client::log_in_with(setup.bouncer.port, &parameters);
    waiter.send_query("SELECT 1");
    let browser = Browser::start(1500, 1650);
    setup.open(&browser);
    expect_row(&browser, "waiting", &[name]);
    assert_eq!(browser.value("document.querySelectorAll('td img').length"), 0);
    assert!(browser.value("document.title").as_str().unwrap().contains("iambouncer"));
    assert_eq!(browser.console(), [""; 0]);
}

#[test]
#[ignore = "needs a browser: make test-deploy"]
fn a_page_connects_again_after_the_pooler_was_restarted() {
    let mut setup = DashboardSetup::start();
    let browser = Browser::start(1500, 1650);
    setup.open(&browser);
    let port = setup.bouncer.http_port();
    setup.bouncer.signal(rustix::process::Signal::QUIT);
    setup.bouncer.wait_for_end();
    eventually("the loss is shown", || browser.text("#link") == "no connection, trying again");
    let line = setup.sim.database();
    let _restarted = setup.sim.start(&line).set(&format!("http_port = {port}")).start();
    eventually("the page is live again", || browser.text("#link") == "live");
}
