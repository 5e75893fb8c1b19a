//! The console and the listener: RECONNECT, PAUSE, KILL, RELOAD, and what is shown.

use super::{code, direct, drained, payload, run, shared, sharing, with_servers};
use crate::support::eventually;
use crate::support::http::scrape;
use crate::support::raw::Client;

#[test]
fn the_listener_is_a_server_on_the_console_and_in_metrics() {
    let bouncer = with_servers(2, &["http_port = auto"]);
    let mut client = sharing(&bouncer, "shown");
    let log = bouncer.wait_for_line("a server is the shared listener of its pool");
    assert!(log.contains("app"), "{log}");
    let metrics = scrape(bouncer.http_port()).text;
    let part = "iambouncer_server_connections{database=\"app\",user=\"app\",state=\"listen\"} 1";
    assert!(metrics.contains(part), "{metrics}");
    assert_eq!(client.value("SELECT 1"), "1");
    let pids = bouncer.show("SERVERS", "remote_pid");
    let (states, at) = (bouncer.show("SERVERS", "state"), "listen".to_owned());
    let pid = &pids[states.iter().position(|state| *state == at).unwrap()];
    let query = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND state = 'idle'");
    assert_eq!(direct().value(&query), "1");
}

#[test]
fn reconnect_disconnects_the_clients_so_that_they_listen_on_a_new_server() {
    let bouncer = with_servers(2, &[]);
    let mut client = sharing(&bouncer, "reconnected");
    run(&mut bouncer.console(), &["RECONNECT", "WAIT_CLOSE"]);
    let messages = client.until_end();
    assert_eq!(code(&messages), "57P01");
    assert!(messages[0].detail().contains("its server is replaced"), "{}", messages[0].detail());
    let mut again = sharing(&bouncer, "reconnected");
    run(&mut direct(), &["NOTIFY reconnected, 'x'"]);
    assert_eq!(payload(&mut again), "x");
}

#[test]
fn pause_does_not_wait_for_the_listener_and_it_delivers_meanwhile() {
    let bouncer = with_servers(2, &[]);
    let mut client = sharing(&bouncer, "paused");
    run(&mut bouncer.console(), &["PAUSE"]);
    run(&mut direct(), &["NOTIFY paused, 'x'"]);
    assert_eq!(payload(&mut client), "x");
    client.send_query("SELECT 1");
    run(&mut direct(), &["NOTIFY paused, 'y'"]);
    // It waits for a server.
    assert_eq!(payload(&mut client), "y");
    run(&mut bouncer.console(), &["RESUME"]);
    client.until_ready();
    assert_eq!(drained(&mut client, &mut direct(), "paused"), [""; 0]);
}

#[test]
fn kill_ends_clients_and_listener() {
    let bouncer = with_servers(2, &[]);
    let mut client = sharing(&bouncer, "killed");
    run(&mut bouncer.console(), &["KILL app"]);
    assert_eq!(code(&client.until_end()), "57P01");
    run(&mut bouncer.console(), &["RESUME app"]);
    eventually("the listener is closed", || !bouncer.show("SERVERS", "state").contains(&"listen".to_owned()));
}

#[test]
fn a_reload_that_turns_it_off_or_changes_the_pool_mode_loses_nothing() {
    let bouncer = with_servers(3, &[]);
    let mut sender = direct();
    let (mut one, mut other) = (sharing(&bouncer, "reloaded"), sharing(&bouncer, "reloaded"));
    for change in ["SET shared_listener = off", "SET pool_mode = session"] {
        run(&mut bouncer.console(), &[change]);
        // A client shares until its next request.
        run(&mut sender, &[&format!("NOTIFY reloaded, '{change}'").replace("= ", "")]);
        for client in [&mut one, &mut other] {
            payload(client);
            assert_eq!(client.value("SELECT 1"), "1");
        }
        assert_eq!(drained(&mut one, &mut sender, "reloaded"), [""; 0]);
        assert_eq!(payload(&mut other), "end of test");
    }
    run(&mut one, &["UNLISTEN *"]);
    run(&mut sender, &["NOTIFY reloaded, 'x'"]);
    assert_eq!(payload(&mut other), "x");
}

#[test]
fn the_pool_mode_may_change_while_clients_begin_or_end_to_share() {
    let bouncer = with_servers(4, &[]);
    let mut sender = direct();
    for round in 0..12 {
        let mut clients: Vec<Client> = (0..3).map(|_| bouncer.client()).collect();
        for client in &mut clients {
            run(client, &["LISTEN modes"]);
        }
        if round % 3 == 0 {
            shared(&bouncer);
            // These are about to leave the listener.
            clients.iter_mut().for_each(|client| client.send_query("BEGIN; COMMIT"));
        } else if round % 3 == 1 {
            // Another client waits, so these begin to share.
            let mut wanted: Vec<Client> = (0..2).map(|_| bouncer.client()).collect();
            wanted.iter_mut().for_each(|client| client.send_query("SELECT 1"));
        }
        for (mode, number) in [("session", 0), ("transaction", 1)] {
            run(&mut bouncer.console(), &[&format!("SET pool_mode = {mode}")]);
            if round % 3 == 0 && number == 0 {
                clients.iter_mut().for_each(|client| assert_eq!(code(&client.until_ready()), "", "{round}"));
            }
            run(&mut sender, &[&format!("NOTIFY modes, '{round} {number}'")]);
            for client in &mut clients {
                assert_eq!(payload(client), format!("{round} {number}"), "{mode}");
                assert_eq!(client.value("SELECT 1"), "1", "{mode}");
            }
        }
    }
}

#[test]
fn a_shutdown_that_waits_for_clients_closes_the_listener() {
    let mut bouncer = with_servers(2, &[]);
    let mut client = sharing(&bouncer, "shutdown");
    bouncer.console().send_query("SHUTDOWN WAIT_FOR_SERVERS");
    assert_eq!(code(&client.until_end()), "57P01");
    assert!(bouncer.wait_for_end().success());
}

#[test]
fn clients_that_share_are_asked_to_leave_like_others() {
    let bouncer = with_servers(2, &[]);
    let mut clients: Vec<_> = (0..3).map(|_| sharing(&bouncer, "leaving_soon")).collect();
    bouncer.console().send_query("RECONNECT_CLIENTS app 1");
    for client in &mut clients {
        assert_eq!(code(&client.until_end()), "57P01");
    }
}
